"""Attacks on classifiers and language models, and what random precision does against them."""
