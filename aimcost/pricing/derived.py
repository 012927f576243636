"""Rows that follow from other rows: conversions between number formats, and what ranks exchange.

Both are read off the operations they serve, so a model family has nothing to declare for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..machine.peaks import compute_dtypes
from ..models.parallel import rank_vision_cost, stage_layers
from ..ops import Cost, collectives, quantised
from ..ops.cost import Array
from ..types import Parallel, Precision
from ..types.formats import Widths

__all__ = ["Part", "with_conversions", "with_exchanges"]

# stage, name, cost, layer index an entry, runs, entries
Part = tuple[str, str, Cost, NDArray[np.int64], float, int]


def with_conversions(parts: list[Part], precision: Precision, head_dim: float) -> list[Part]:
    """Weights and cache that are stored narrower than computed: one row for each layer's products,
    one for each attention."""
    gemm, attention = compute_dtypes(precision)
    widths = Widths.of(precision)
    of_weights = quantised.narrower(precision.weights, gemm)
    of_kv = quantised.narrower(precision.kv, attention)
    if not (of_weights or of_kv):
        return parts
    elements: dict[tuple[str, bytes, float], Array] = {}
    if of_weights:
        for stage, _, cost, index, count, _ in parts:
            if cost.kind == "gemm":
                key = (stage, index.tobytes(), count)
                elements[key] = elements.get(key, 0.0) + cost.read_weights / widths.weights
    result: list[Part] = []
    for part in parts:
        stage, _, cost, index, count, length = part
        key = (stage, index.tobytes(), count)
        if cost.kind == "gemm" and key in elements:
            size = elements.pop(key)
            weights = quantised.dequantise(size, scales=quantised.scale_bytes(precision.weights, size))
            result.append((stage, "dequantize_weights", weights, index, count, length))
        if of_kv and cost.kind in ("attention", "bmm") and np.any(np.asarray(cost.read_kv)):
            cached = cost.read_kv / widths.kv
            scales = quantised.kv_scale_bytes(cached, head_dim)
            cache = quantised.dequantise(cached, scales=scales, kv=True)
            result.append((stage, "dequantize_kv", cache, index, count, length))
        result.append(part)
    return result


def with_exchanges(parts: list[Part], parallel: Parallel, layers: int) -> list[Part]:
    """One rank's rows, with what it sends at their places. The decoder's own rows are a rank's already."""
    if parallel.tp == parallel.pp == 1:
        return parts
    starts = np.array([stage.start for stage in stage_layers(layers, parallel.pp)][1:], dtype=np.int64)
    result: list[Part] = []
    sharded_tower = parallel.tp > 1 and parallel.tower == "sharded"
    for part in parts:
        stage, name, cost, index, count, length = part
        if sharded_tower and stage == "vision":
            part = (stage, name, rank_vision_cost(name, cost, parallel.tp), index, count, length)
        before: list[tuple[str, Cost]] = []
        after: list[tuple[str, Cost]] = []
        if parallel.tp > 1 and (stage != "vision" or sharded_tower):
            before, after = _exchanges(stage, name, cost, parallel)
        if name == "attn_norm" and stage != "vision":
            result.extend(_sends(part, starts))
        result.extend((stage, key, extra, index, count, length) for key, extra in before)
        result.append(part)
        result.extend((stage, key, extra, index, count, length) for key, extra in after)
    return _gathered_images(result, parallel)


def _exchanges(
    stage: str, name: str, cost: Cost, parallel: Parallel
) -> tuple[list[tuple[str, Cost]], list[tuple[str, Cost]]]:
    """What tensor-parallel ranks exchange before and after an operation.

    Row-split products leave partial sums: they are reduced before each residual. Embedding and
    lm_head are split by vocabulary, scores by head.
    """
    tp = float(parallel.tp)
    if name in ("attn_add", "mlp_add"):
        message = collectives.all_reduce(cost.write_activations, tp)
        return [(f"all_reduce_{name.removesuffix('_add')}", message)], []
    if stage == "prefill" and name == "select":
        return [("all_reduce_score", collectives.all_reduce(cost.read_activations, tp))], []
    if name == "embed":
        return [], [("all_reduce_embed", collectives.all_reduce(cost.write_activations, tp))]
    if name == "lm_head":
        return [], [("all_gather_logits", collectives.all_gather(cost.write_activations * tp, tp))]
    return [], []


def _sends(part: Part, starts: NDArray[np.int64]) -> Iterator[Part]:
    """What enters a pipeline stage: the residual stream that its first layer's norm reads."""
    stage, _, cost, index, count, length = part
    first = np.isin(index, starts)
    if first.any():
        message = np.broadcast_to(np.asarray(cost.read_activations, dtype=float), length)[first]
        yield (stage, "send_stage", collectives.send(message), index[first], count, int(first.sum()))


def _gathered_images(parts: Iterable[Part], parallel: Parallel) -> list[Part]:
    """With the images split over ranks, every rank needs all their embeddings before the decoder."""
    result = list(parts)
    last = max((i for i, part in enumerate(result) if part[0] == "projector"), default=None)
    if parallel.tower == "data" and parallel.tp > 1 and last is not None:
        stage, _, cost, index, count, length = result[last]
        gathered = collectives.all_gather(cost.write_activations * parallel.tp, float(parallel.tp))
        result.insert(last + 1, (stage, "all_gather_visual", gathered, index, count, length))
    return result
