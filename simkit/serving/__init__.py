"""Serving: request streams through replicas with continuous batching, paged caches, admission and preemption."""
