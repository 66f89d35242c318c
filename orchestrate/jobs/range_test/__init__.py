"""The command ``range-test``."""
