"""Checkpoints on disk: those of a model, and those from which a training is resumed."""
