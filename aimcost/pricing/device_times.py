"""Device seconds of products and of attention: of one table on one card they are worked out once.

A stack changes neither, where it fuses no products and adds no traffic: runs that differ in the stack, in host time or
in what they include share them. What is held is compared by content of the figures and by identity of table and
model, neither of which is ever modified; tables of many rows are priced anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..machine.timemodels.attention import AttentionModel
from ..machine.timemodels.gemm import GemmModel
from ..machine.timemodels.measured import AttentionGrid, GemmGrid
from .operations import MOST_ROWS
from .table import OpTable, Products, fixed

__all__ = ["Card", "Times", "attention_times", "product_times", "times_of"]

Floats = NDArray[np.float64]
_HELD = 64


@dataclass(frozen=True, slots=True)
class Card:
    """What time models ask of a machine: peak FLOP/s of the format, DRAM bytes/s, multiprocessors."""

    peak: float
    bandwidth: float
    sm_count: int


@dataclass(frozen=True, slots=True)
class Times:
    """Device seconds, and where a dimension leaves the measured range."""

    seconds: Floats
    outside: NDArray[np.bool_]


def times_of(model: GemmModel | GemmGrid, products: Products, moved: Floats, card: Card) -> Times:
    """Of each distinct shape of `products`; `moved` holds the bytes of each of its rows."""
    m, n, k = products.distinct
    seconds = model.seconds(
        m,
        n,
        k,
        bytes_moved=moved[products.first],
        peak=card.peak,
        bandwidth=card.bandwidth,
        sm_count=card.sm_count,
    )
    return Times(fixed(seconds), fixed(model.outside(m, n, k)))


def product_times(table: OpTable, model: GemmModel | GemmGrid, card: Card) -> Times:
    """Of each distinct shape of the table's products, launched one by one."""
    return (_products if len(table) <= MOST_ROWS else _products.__wrapped__)(table, model, card)


@lru_cache(maxsize=_HELD)
def _products(table: OpTable, model: GemmModel | GemmGrid, card: Card) -> Times:
    return times_of(model, table.products, table.bytes[table.is_product], card)


def attention_times(
    table: OpTable, index: int, model: AttentionModel | AttentionGrid, traffic: float, card: Card
) -> Times:
    """Of the rows of segment `index`, which move `traffic` times their bytes."""
    return (_attention if len(table) <= MOST_ROWS else _attention.__wrapped__)(table, index, model, traffic, card)


@lru_cache(maxsize=2 * _HELD)
def _attention(table: OpTable, index: int, model: AttentionModel | AttentionGrid, traffic: float, card: Card) -> Times:
    rows, dims = table.rows_of(index), table.columns(index)
    seconds = model.seconds(
        dims,
        bytes_moved=np.add.reduce(table.traffic[:, rows] * traffic, axis=0),
        flops=table.flops[rows],
        peak=card.peak,
        bandwidth=card.bandwidth,
        sm_count=card.sm_count,
    )
    return Times(fixed(seconds), fixed(model.outside(dims)))
