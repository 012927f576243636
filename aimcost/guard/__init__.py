"""Guarding figures in continuous integration: predictions against a baseline, budgets, measured times."""
