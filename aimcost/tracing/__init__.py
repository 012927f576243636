"""transformers models → model files: traced on the ``meta`` device, priced without torch (`aimcost.models.traced`)."""
