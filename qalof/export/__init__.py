"""Models as files for other programs: packed integers of one bitmap, and the block formats of GGUF."""
