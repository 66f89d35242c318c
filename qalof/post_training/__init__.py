"""Post-training quantization: a calibration set repairs rounding errors without a gradient."""
