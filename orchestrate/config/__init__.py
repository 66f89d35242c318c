"""Configs: their base class, the sections they share, how they are read, and what is built from them."""
