"""The engine of machines made of tiles: a layer as phases of local work and messages, on the mapping that is fastest."""
