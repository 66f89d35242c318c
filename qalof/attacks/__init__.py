"""Attacks on classifiers and language models, and random precision as a defense against them."""
