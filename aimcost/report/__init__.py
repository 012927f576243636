"""How results are shown: text, exports, plots. Nothing here computes a figure of its own."""
