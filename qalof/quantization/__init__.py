"""Quantizers as pure functions; modules that apply them live in :mod:`qalof.model`."""
