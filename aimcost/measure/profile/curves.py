"""What memory and launches bound, from samples to the ``bandwidth`` section: one entry a kind. No torch.

Bytes and FLOPs of a sample are those that the operation table gives the same operation, so that both
sides mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...machine.timemodels.measured import FORM, CurveSet
from ...machine.timemodels.tables import Floats
from ...methods.aim.cost import BIPARTITE, pagerank_fused
from ...ops import Cost, attention, pointwise
from ...ops.attention import AttentionShape
from ...ops.reduction import Cut, ScoreContext, gather, select
from ...types import DecoderSpec, ModelSpec
from ...types.formats import Widths, bytes_per_element
from ..records import Record, Sample

__all__ = ["bandwidth_sections", "cost_of"]

# Kinds whose time follows their arithmetic; all others follow their bytes.
BY_FLOPS = ("score", "bmm")
NOT_OPERATIONS = ("ceiling", "host", "launch")
UNTESTED_BAND = [0.7, 1.4]
SMALLEST_BAND = (0.95, 1.05)
# Of a merge's time, the least that is left to it once its scores and their ranking are taken off.
LEAST_MERGE_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class _Point:
    kind: str
    group: tuple[str, str]
    amount: float
    intensity: float
    seconds: float


def bandwidth_sections(record: Record, source: Mapping[str, str]) -> dict[str, Any]:
    """Entries by kind of operation, each with the error it makes on sizes left out."""
    points = list(_points(record))
    sections = {
        kind: _section(kind, [p for p in points if p.kind == kind], source)
        for kind in dict.fromkeys(p.kind for p in points)
    }
    sections = {kind: entry for kind, entry in sections.items() if entry}
    merges = list(_merge_points(record, sections))
    entry = _section("merge", merges, source)
    return {**sections, "merge": entry} if entry else sections


def _points(record: Record) -> Iterator[_Point]:
    for sample in record.samples:
        if sample.name in _COSTS and sample.op not in NOT_OPERATIONS:
            yield _point(sample, cost_of(sample), sample.median_s)


def cost_of(sample: Sample) -> Cost:
    """FLOPs and bytes of an operation that is timed alone, by its name; raises KeyError for any other."""
    width = bytes_per_element(sample.dtype)
    return _COSTS[sample.name](sample, Widths(weights=width, activations=width, kv=width))


def _point(sample: Sample, cost: Cost, seconds: float) -> _Point:
    flops, moved = float(cost.flops), float(cost.bytes)
    if cost.kind == "bmm" and cost.flops_full_square is not None:
        flops = float(cost.flops_full_square)
    return _Point(
        # a machine that times itself tells a gated activation from an addition by its FLOPs a byte
        kind="pointwise" if cost.kind == "gated_act" else cost.kind,
        # without arithmetic nothing tells number formats apart but the bytes; scores are fp32 in all
        group=("", "") if flops == 0 or cost.kind == "score" else (sample.name, sample.dtype),
        amount=flops if cost.kind in BY_FLOPS else moved,
        intensity=flops / moved,
        seconds=seconds,
    )


def _section(kind: str, points: Sequence[_Point], source: Mapping[str, str]) -> dict[str, Any]:
    """Curves of one kind, one for each operation and format."""
    along = "flops" if kind in BY_FLOPS else "bytes"
    curves, ratios = [], []
    for group in dict.fromkeys(p.group for p in points):
        chosen = [p for p in points if p.group == group]
        nodes, times = _curve(chosen)
        if len(nodes) < 2:
            continue
        curves.append(
            {
                "flops_per_byte": _rounded(float(np.median([p.intensity for p in chosen]))),
                along: [_rounded(x, 7) for x in nodes],
                "us": [_rounded(t * 1e6) for t in times],
            }
        )
        ratios += _left_out(nodes, times)
    if not curves:
        return {}
    entry = {"form": FORM, "along": along, "curves": curves, **source, **_evidence(ratios)}
    CurveSet.of(entry, where=kind)
    return entry


def _curve(points: Sequence[_Point]) -> tuple[Floats, Floats]:
    """Nodes and times, rising: sizes within 2 % are one, and more of the same never takes less."""
    nodes: list[list[_Point]] = []
    for point in sorted(points, key=lambda p: p.amount):
        if nodes and point.amount <= 1.02 * nodes[-1][0].amount:
            nodes[-1].append(point)
        else:
            nodes.append([point])
    amounts = np.array([np.mean([p.amount for p in node]) for node in nodes])
    times = np.array([np.median([p.seconds for p in node]) for node in nodes])
    return amounts, _rising(times)


def _rising(times: Floats) -> Floats:
    """The nearest sequence that never falls: neighbours out of order take their mean."""
    blocks: list[list[float]] = []
    for value in times:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (first, count), (second, more) = blocks[-2], blocks.pop()
            blocks[-1] = [(first * count + second * more) / (count + more), count + more]
    return np.array([mean for mean, count in blocks for _ in range(int(count))])


def _left_out(nodes: Floats, times: Floats) -> list[float]:
    """Measured over predicted at each inner node, from its neighbours."""
    return [
        float(times[i] / np.interp(nodes[i], np.delete(nodes, i), np.delete(times, i)))
        for i in range(1, len(nodes) - 1)
    ]


def _evidence(ratios: Sequence[float]) -> dict[str, Any]:
    if len(ratios) < 3:
        return {"band": UNTESTED_BAND}
    measured = np.array(ratios)
    low, high = np.quantile(measured, [0.1, 0.9])
    return {
        "held_out_mape": round(float(np.mean(np.abs(1.0 / measured - 1.0))), 4),
        "band": [
            round(max(0.05, min(float(low), SMALLEST_BAND[0])), 4),
            round(min(20.0, max(float(high), SMALLEST_BAND[1])), 4),
        ],
    }


def _merge_points(record: Record, sections: Mapping[str, Any]) -> Iterator[_Point]:
    """What a merging step takes beyond its similarity and its ranking, priced as their own kinds."""
    models = {kind: CurveSet.of(sections[kind], where=kind) for kind in ("score", "select") if kind in sections}
    for sample in record.select("merge", name="bipartite_cosine"):
        seconds = sample.median_s
        costs = dict(_merge_costs(sample))
        for kind, model in models.items():
            cost = costs.get(kind)
            if cost is not None:
                seconds -= float(model.seconds(np.array([cost.bytes]), np.array([cost.flops]))[0])
        yield _point(sample, costs["merge"], max(seconds, LEAST_MERGE_SHARE * sample.median_s))


def _merge_costs(sample: Sample) -> Sequence[tuple[str, Cost]]:
    dims, width = sample.dims, bytes_per_element(sample.dtype)
    widths = Widths(weights=width, activations=width, kv=width)
    cut = Cut(tokens_in=dims["tokens"], tokens_out=dims["kept"], groups=dims["groups"])
    decoder = DecoderSpec(hidden=int(dims["width"]), intermediate=1, layers=1, heads=1, kv_heads=1, head_dim=1, vocab=1)
    model = ModelSpec(name="merged", family="", decoder=decoder)
    context = ScoreContext(model=model, batch=1, widths=widths)
    return BIPARTITE.cost(cut, context)


def _rounded(value: float, digits: int = 5) -> float:
    return float(f"{value:.{digits}g}")


def _rope_cost(sample: Sample, widths: Widths) -> Cost:
    heads, kv_heads, head_dim = (float(sample.labels[key]) for key in ("heads", "kv_heads", "head_dim"))
    q_len = sample.dims["elements"] / ((heads + kv_heads) * head_dim)
    return pointwise.rope(batch=1.0, q_len=q_len, heads=heads, kv_heads=kv_heads, head_dim=head_dim, widths=widths)


def _product_cost(sample: Sample, widths: Widths) -> Cost:
    """One of eager attention's two products: both halves of `eager_products`, by name."""
    dims = sample.dims
    head_dim = dims["k"] if sample.name == "qk" else dims["n"]
    qk, sv = attention.eager_products(_square(dims["groups"], head_dim, dims["m"]), widths=widths)
    return sv if sample.name == "sv" else qk


def _softmax_cost(sample: Sample, widths: Widths) -> Cost:
    rows, width = sample.dims["rows"], sample.dims["width"]
    return attention.eager_softmax(_square(rows / width, 1.0, width), widths=widths)


def _square(heads: float, head_dim: float, tokens: float) -> AttentionShape:
    return AttentionShape(
        batch=1.0, heads=heads, kv_heads=heads, head_dim=head_dim, q_len=tokens, kv_len=tokens, causal=True
    )


def _on_rows(function: Callable[[Any, float, Widths], Cost]) -> Callable[[Sample, Widths], Cost]:
    return lambda sample, widths: function(sample.dims["rows"], sample.dims["width"], widths)


def _on_elements(function: Callable[[Any, Widths], Cost]) -> Callable[[Sample, Widths], Cost]:
    return lambda sample, widths: function(sample.dims["elements"], widths)


_COSTS: Mapping[str, Callable[[Sample, Widths], Cost]] = {
    "rms_norm": _on_rows(pointwise.rms_norm),
    "layer_norm": _on_rows(pointwise.layer_norm),
    "embed": _on_rows(pointwise.embed),
    "gather_tokens": _on_rows(gather),
    "add": _on_elements(pointwise.add),
    "gated_silu": _on_elements(pointwise.gated_silu),
    "gelu": _on_elements(pointwise.gelu),
    "rope": _rope_cost,
    "qk": _product_cost,
    "sv": _product_cost,
    "softmax": _softmax_cost,
    "select_tokens": lambda sample, _: select(**sample.dims),
    "pagerank": lambda sample, widths: pagerank_fused(**sample.dims, widths=widths),
    "pagerank_steps": lambda sample, widths: pagerank_fused(**sample.dims, widths=widths),
    "pagerank_wavefront": lambda sample, widths: pagerank_fused(**sample.dims, widths=widths, passes=2),
}
