"""Figures from records, and the page that holds them."""

from simkit.library_caches import prepare_matplotlib

prepare_matplotlib()
