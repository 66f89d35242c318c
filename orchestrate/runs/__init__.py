"""What one run has: a folder, an environment, progress and a record."""
