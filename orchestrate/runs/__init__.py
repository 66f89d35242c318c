"""One run's folder, environment, progress and record."""
