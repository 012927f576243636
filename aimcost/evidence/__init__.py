"""Timings that others published, joined to predictions: what is right, what is wrong, and by how much."""
