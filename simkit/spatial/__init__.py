"""The engine of machines made of tiles: layers as phases of local work and messages, on the fastest mapping."""
