"""Measuring this machine, and real decode attention on it beside the prediction."""
