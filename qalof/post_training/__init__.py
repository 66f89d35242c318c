"""Quantization after training: what a calibration set can repair without a gradient."""
