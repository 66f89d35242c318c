"""Several steps from one config, and the reference's table that they fill."""
