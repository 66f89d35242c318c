"""Checkpoints as models of MLflow: their format, and their registration."""
