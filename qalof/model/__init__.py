"""The switchable model and what it is made of."""
