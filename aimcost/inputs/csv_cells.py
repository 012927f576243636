"""Cells of CSV that are names and text of users."""

from __future__ import annotations

__all__ = ["guarded"]

# https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def guarded(text: str) -> str:
    """Text that no spreadsheet takes for a formula: what begins like one begins with an apostrophe."""
    return "'" + text if text.startswith(_FORMULA) else text
