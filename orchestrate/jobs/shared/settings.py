"""What a report shows of the configs of several commands."""

CHECKPOINT_SETTINGS = (("Checkpoint", "checkpoint"), ("Validation examples", "limit"))
