"""`aimcost campaign`: everything that a visit to a GPU needs, in one call that ends in time.

Steps and their records, the rows of a paper's tables as runs, and the summary need no torch; what
measures is in `aimcost.measure.campaign.torch` and loaded on use.
"""
