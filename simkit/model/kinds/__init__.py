"""Attention kinds: one file a kind, each with every answer that the rest of simkit asks of a layer."""
