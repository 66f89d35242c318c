"""The command ``sweep``."""
