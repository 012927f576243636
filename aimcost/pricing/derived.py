"""Rows that follow from other rows: conversions between number formats, what ranks exchange, reduction.

They are read off the ops they serve, so a model family has nothing to declare for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..machine.peaks import compute_dtypes
from ..ops import Cost, collectives, quantised
from ..ops.cost import Array
from ..ops.op import Op, OpCost, Ranks
from ..types import Parallel, Precision
from ..types.formats import Widths, bytes_per_element
from .table import OpRows

__all__ = ["SEND", "reduction", "stage_send", "with_conversions", "with_gathered_images", "with_wide_layers"]

# The op that enters a pipeline stage.
SEND = "send_stage"


def with_wide_layers(entries: list[OpRows], precision: Precision) -> list[OpRows]:
    """The decoder's products that a checkpoint leaves in 16 bit read and multiply their weights in that.

    Layers of which the same ops are left stay together: all products of such a run of layers have one row each.
    """
    if not precision.wide:
        return entries
    widths = Widths.of(precision)
    left: dict[int, frozenset[str]] = {}
    for layer, op, _ in precision.wide:
        left[layer] = left.get(layer, frozenset()) | {op}
    result: list[OpRows] = []
    for entry in entries:
        if entry.stage not in ("prefill", "decode") or entry.cost.kind != "gemm" or not entry.cost.packed:
            result.append(entry)
            continue
        ops = [left.get(layer, frozenset()) for layer in entry.layers.tolist()]
        for some in dict.fromkeys(ops):
            here = _rows_of(entry, np.array([each == some for each in ops]))
            result.append(replace(here, cost=_widened(here.cost, widths)) if entry.op.name in some else here)
    return result


def _rows_of(entry: OpRows, chosen: NDArray[np.bool_]) -> OpRows:
    """Some of the rows of an entry."""
    if chosen.all():
        return entry

    def taken(value: Any) -> Any:
        return value[chosen] if isinstance(value, np.ndarray) and value.shape == chosen.shape else value

    own = {each.name: taken(getattr(entry.cost, each.name)) for each in fields(entry.cost) if each.name != "dims"}
    dims = {name: taken(value) for name, value in entry.cost.dims.items()}
    return replace(entry, layers=entry.layers[chosen], cost=Cost(**own, dims=dims))


def _widened(cost: Cost, widths: Widths) -> Cost:
    """A product whose matrix is in the format that no quantisation touches."""
    plain = (cost.parameters - cost.packed) * widths.unpacked
    read = plain + _packed_read(cost, widths) * widths.unpacked
    return replace(cost, read_weights=read, weights_format=widths.plain_format)


def with_conversions(entries: list[OpRows], precision: Precision, head_dim: float) -> list[OpRows]:
    """Weights and cache that are stored narrower than computed: one row for each layer's products,
    one for each attention. They are filed with the op they serve, weights with the largest."""
    widths = Widths.of(precision)
    stored = {entry.cost.weights_format for entry in entries if entry.cost.kind == "gemm"}
    converted = {name for name in stored if name and quantised.narrower(name, compute_dtypes(precision, name)[0])}
    of_kv = converts_kv(precision)
    if not (converted or of_kv):
        return entries
    products: dict[tuple[str, tuple[str, bytes, float]], list[OpRows]] = {}
    for entry in entries:
        if entry.cost.kind == "gemm" and entry.cost.weights_format in converted:
            products.setdefault((entry.cost.weights_format, entry.key), []).append(entry)
    result: list[OpRows] = []
    for entry in entries:
        cost = entry.cost
        together = products.pop((cost.weights_format, entry.key), None) if cost.kind == "gemm" else None
        if together is not None:
            name = cost.weights_format
            size: Array = sum(_packed_read(product.cost, widths) for product in together)
            each = precision.scale_bytes if name == precision.weights else None
            weights = quantised.dequantise(size, scales=quantised.scale_bytes(name, size, each))
            largest = max(together, key=lambda product: float(np.max(product.cost.read_weights)))
            result.append(_beside(entry, "dequantize_weights", weights, largest.op))
        if of_kv and cost.kind in ("attention", "bmm") and np.any(np.asarray(cost.read_kv)):
            cached = cost.read_kv / widths.kv
            scales = quantised.kv_scale_bytes(precision.kv, cached, head_dim)
            cache = quantised.dequantise(cached, scales=scales, kv=True)
            result.append(_beside(entry, "dequantize_kv", cache, entry.op))
        result.append(entry)
    return result


def converts_kv(precision: Precision) -> bool:
    """Whether the cache is stored narrower than attention computes: each op that reads it gets a row beside it."""
    return quantised.narrower(precision.kv, compute_dtypes(precision)[1])


def _packed_read(cost: Cost, widths: Widths) -> Array:
    """Elements of its matrix that a product reads: of experts, those of the ones loaded."""
    plain = (cost.parameters - cost.packed) * widths.unpacked
    return (cost.read_weights - plain) / bytes_per_element(cost.weights_format)


def _beside(entry: OpRows, name: str, cost: Cost, served: Op) -> OpRows:
    op = Op(name, served.group, "replicated", place=served.place)
    return OpRows(entry.stage, op, cost, entry.layers, entry.count)


def reduction(named: Iterable[tuple[str, Cost]], ranks: Ranks) -> Iterator[OpCost]:
    """The ops of a scorer. Each rank scores with its own heads: scores are summed before they are ranked."""
    for name, cost in named:
        if ranks.count > 1 and cost.kind == "select":
            summed = collectives.all_reduce(cost.read_activations, float(ranks.count))
            yield Op("all_reduce_score", "selection", "replicated"), summed
        yield Op(name, "selection", "replicated"), cost


def stage_send(
    stage: str, cost: Cost, layers: NDArray[np.int64], count: float, starts: NDArray[np.int64]
) -> OpRows | None:
    """What enters the pipeline stages that begin at the layers `starts`: the residual stream that each reads.

    Parameters
    ----------
    cost
        Of the first op of `layers`.
    """
    first = np.isin(layers, starts)
    if not first.any():
        return None
    message = np.broadcast_to(np.asarray(cost.read_activations, dtype=float), len(layers))[first]
    return OpRows(stage, Op(SEND, "exchange", "replicated"), collectives.send(message), layers[first], count)


def with_gathered_images(entries: list[OpRows], parallel: Parallel) -> list[OpRows]:
    """With the images split over ranks, every rank needs all their embeddings before the decoder."""
    last = max((i for i, entry in enumerate(entries) if entry.stage == "projector"), default=None)
    if parallel.tower != "data" or parallel.tp == 1 or last is None:
        return entries
    before = entries[last]
    gathered = collectives.all_gather(before.cost.write_activations * parallel.tp, float(parallel.tp))
    op = Op("all_gather_visual", "exchange", "replicated")
    exchange = OpRows(before.stage, op, gathered, before.layers, before.count)
    return [*entries[: last + 1], exchange, *entries[last + 1 :]]
