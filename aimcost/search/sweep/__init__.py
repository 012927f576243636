"""Sweeps: grids of runs and of schedules, in chunks that can be computed anywhere and resumed."""
