"""Layers that run at several widths: linear layers, embeddings, KV caches and their quantizers."""
