"""A checkpoint that answers requests: one row in, one row out, at any bitmap or under random precision."""
