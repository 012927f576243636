"""One file per report format: its ``FORMAT`` is an `aimcost.report.format.Format` of the file's name."""
