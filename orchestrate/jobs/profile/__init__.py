"""The command ``profile``."""
