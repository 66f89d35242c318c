"""Quantizers as pure functions on tensors; modules that apply them live in :mod:`qalof.model`."""

from qalof.quantization import methods as methods  # registers them all
