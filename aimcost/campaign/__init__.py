"""`aimcost campaign`: everything that a visit to a GPU needs, in one call that ends in time.

Steps and their records, the rows of a paper's tables as runs, and the summary need no torch; what
measures is in `aimcost.profiling.visit` and loaded on use.
"""
