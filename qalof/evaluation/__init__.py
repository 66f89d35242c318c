"""Evaluation measures a model at a bitmap."""
