"""QaLoF's core: one model, one process."""
