"""The explorer: one self-contained page, its data written by Python and computed on by the modules beside this file."""
