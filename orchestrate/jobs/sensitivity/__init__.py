"""The command ``sensitivity``."""
