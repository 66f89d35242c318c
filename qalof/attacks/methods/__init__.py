"""The attacks, one module per method."""
