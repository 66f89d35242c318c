"""The command ``generate-data``."""
