"""The tables of the references, filled from the steps of a pipeline."""
