"""The command ``baselines``."""
