"""Clocks on real machines: profile, validate, campaign, records, the measured gate."""
