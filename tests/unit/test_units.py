"""Figures in four significant digits, also where rounding carries into the next digit or prefix."""

from __future__ import annotations

import pytest

from aimcost.units import format_bytes, format_flops, format_seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (55.034e-3, "55.03 ms"),
        (999.94e-6, "999.9 µs"),
        (999.96e-6, "1.000 ms"),
        (-999.96e-6, "-1.000 ms"),
        (9.9996e-3, "10.00 ms"),
        (99.996e-3, "100.0 ms"),
        (0.99996, "1.000 s"),
        (9999.4, "9999 s"),
        (0.0, "0 s"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_a_carry_moves_bytes_and_flops_to_the_next_prefix() -> None:
    assert format_bytes(999.99e6) == "1.000 GB"
    assert format_flops(999.97e9) == "1.000 TFLOP"
