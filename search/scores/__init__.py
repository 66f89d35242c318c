"""Scores of a site at a width, computed from the model itself rather than from a task's metric."""
