"""Models as files for elsewhere: packed integers of one bitmap, and the block formats of GGUF."""
