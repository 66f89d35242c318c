"""What reports are made of, and how a run's folder is read for one."""
