"""Presentation of results: text, exports, plots. No figure is computed here."""
