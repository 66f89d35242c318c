"""Measuring a model at a bitmap."""
