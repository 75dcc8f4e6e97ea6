"""Figures from records, and the page that holds them."""

from simkit.foundation.library_caches import prepare_matplotlib

prepare_matplotlib()
