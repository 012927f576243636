"""Decimal prefixes and how figures are printed. The only place where prefixes live."""

from __future__ import annotations

import math

__all__ = [
    "GIGA",
    "KILO",
    "MEGA",
    "TERA",
    "format_bytes",
    "format_count",
    "format_flops",
    "format_macs",
    "format_percent",
    "format_seconds",
]

KILO, MEGA, GIGA, TERA = 1e3, 1e6, 1e9, 1e12


def _scaled(value: float, unit: str, steps: tuple[tuple[float, str], ...]) -> str:
    for factor, prefix in steps:
        # 999.96 of a smaller prefix would print as 1000.0
        if abs(value) >= factor * 0.99995:
            return f"{_three_digits(value / factor)} {prefix}{unit}"
    factor, prefix = steps[-1]
    return f"{_three_digits(value / factor)} {prefix}{unit}" if value else f"0 {unit}"


def _three_digits(value: float) -> str:
    """Four significant digits from 1 to 9999: 14.76, 1.669, 439.6, 6372."""
    size = abs(value)
    digits = 3 if size < 9.9995 else 2 if size < 99.995 else 1 if size < 999.95 else 0
    return f"{value:.{digits}f}"


_DECIMAL = ((TERA, "T"), (GIGA, "G"), (MEGA, "M"), (KILO, "k"), (1.0, ""))


def format_flops(value: float) -> str:
    """FLOPs with a decimal prefix: ``14.76 TFLOP``."""
    return _scaled(value, "FLOP", _DECIMAL)


def format_macs(flops: float) -> str:
    """FLOPs as multiply-adds, each 2 FLOPs: ``7.380 TMAC`` of 14.76 TFLOP."""
    return _scaled(flops / 2, "MAC", _DECIMAL)


def format_bytes(value: float) -> str:
    """Bytes with a decimal prefix: ``15.23 GB`` is 15.23e9 bytes."""
    return _scaled(value, "B", _DECIMAL)


def format_seconds(value: float) -> str:
    """Seconds as s, ms or µs: ``55.03 ms``."""
    return _scaled(value, "s", ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")))


def format_percent(share: float) -> str:
    """A share that was asked for: ``95.0%``, and ``97.25%`` with every digit that it was given."""
    return f"{share:.1%}" if math.isclose(share, round(share, 3), rel_tol=1e-9) else f"{100 * share:.6g}%"


def format_count(value: float) -> str:
    """A count with thousands separators: ``6,372``."""
    return f"{value:,.0f}"
