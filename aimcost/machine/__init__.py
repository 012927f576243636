"""Hardware and what it attains: peaks, calibration, inheritance, bands, time models."""
