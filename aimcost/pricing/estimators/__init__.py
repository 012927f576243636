"""One module an estimator: ``estimate(run) -> Estimate``. A module's name is its key."""
