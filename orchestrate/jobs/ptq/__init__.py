"""The command ``ptq``."""
