"""Attacks on classifiers, and what random precision does against them."""
