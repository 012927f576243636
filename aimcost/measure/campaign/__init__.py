"""`aimcost campaign`: everything a GPU is measured for, in one call that ends in time.

`plan` reads the list of runs in ``configs/campaigns``, `run` hands its steps to `aimcost.measure.profile` and
`aimcost.measure.validate`, `summary` reads the records. Only `kernels` needs torch to be imported.
"""
