"""Measured decode on accelerators beside predictions: whole models, kernels, products, exchanges between chips."""
