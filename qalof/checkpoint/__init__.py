"""Checkpoints on disk: of a model, and of a training that goes on from them."""
