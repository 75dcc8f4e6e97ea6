"""Measured GPU kernels beside predictions, and fitting the parameters of a chip to them."""
