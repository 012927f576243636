"""From measured timings to the ``calibration`` block of a hardware profile."""
