"""The switchable model and its parts."""
