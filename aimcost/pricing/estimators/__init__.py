"""One file per estimator: its ``ESTIMATOR`` is an `aimcost.pricing.estimator.Estimator` of the file's name."""
