"""Time models of single operations: a readable formula times a tabulated correction, numpy only.

Coefficients come from a profile's ``calibration`` block; `aimcost.machine.fitting` derives them.
"""
