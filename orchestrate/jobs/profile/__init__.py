"""The command ``footprint``."""
