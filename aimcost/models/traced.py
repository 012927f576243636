"""A traced decoder as ops: sizes from expressions, costs from the formulas of `aimcost.ops`.

What a trace counts in bytes was counted in 16-bit elements, so that other formats follow: activations,
weights and cache each take the width that the run gives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np

from ..errors import InvalidValueError, UnsupportedModelError
from ..ops import attention, collectives, gemm, pointwise
from ..ops.attention import ALL_KEYS, AttentionShape
from ..ops.cost import Array, Cost
from ..ops.op import ONE, Op, OpCost, Place, Ranks
from ..ops.reduction import gather
from ..types.expression import Expression
from ..types.formats import Widths
from ..types.traced import Share, TracedDecoder, TracedLayer, TracedOp, TracedTower

__all__ = [
    "cache_elements",
    "check_prefix",
    "check_ranks",
    "idle_parameters",
    "layer_ops",
    "one_rank",
    "outer_ops",
    "packed",
    "parameters",
    "peak_elements",
    "routed",
    "tower_layer_ops",
    "tower_outer_ops",
    "tower_packed",
    "tower_peak_elements",
    "undivided",
]


def layer_ops(
    layer: TracedLayer,
    widths: Widths,
    *,
    batch: float,
    q_len: Array,
    kv_len: Array,
    kernel: str,
    onchip_bytes: float,
    ranks: Ranks = ONE,
) -> Iterator[OpCost]:
    """Ops of a layer: a prefill, of which an earlier request may have left the first keys; or a decode step.

    With `ranks` of several the layer is one of `one_rank`, and what they send each other comes with its ops.
    """
    counts = {"batch": batch, "tokens": q_len, "kv": kv_len}
    ops = layer.decode if _is_step(q_len, kv_len) else layer.ops
    if ops is layer.ops and np.any(np.asarray(q_len) != np.asarray(kv_len)):
        ops = _after_prefix(layer, batch)
    for op in ops:
        yield from _op(op, counts, widths, kernel=kernel, onchip_bytes=onchip_bytes, place="layer", ranks=ranks)


def check_ranks(decoder: TracedDecoder, name: str, tp: int) -> None:
    """Raise unless `tp` ranks can share the model.

    Raises
    ------
    InvalidValueError
        The trace does not say how, or they do not divide its heads and widths.
    """
    ranks = decoder.ranks
    if tp == 1:
        return
    if ranks.refused:
        raise InvalidValueError("parallel.tp", f"1 for {name}: {ranks.refused}", tp)
    for size, count in ranks.sizes:
        if count % tp:
            raise InvalidValueError("parallel.tp", f"a divisor of {name}'s {size} of {count}", tp)
    for size, count in ranks.kv_sizes:
        if max(count, tp) % min(count, tp):
            raise InvalidValueError("parallel.tp", f"a divisor or multiple of {name}'s {size} of {count}", tp)


def undivided(decoder: TracedDecoder) -> float:
    """The share of the layers' parameters that every rank has whole."""
    found = [(kind.parameters, dict(kind.split).get("parameters", Share())) for kind in decoder.kinds]
    layers = [found[decoder.kind_of(layer)] for layer in decoder.order]
    return sum(size * (1.0 - share.all - share.kv) for size, share in layers) / sum(size for size, _ in layers)


@lru_cache(maxsize=64)
def routed(decoder: TracedDecoder) -> TracedDecoder:
    """A decoder whose trace runs all experts, as a stack runs it that computes each token's own alone.

    Activations alive together stay those of the trace.
    """
    experts, active = decoder.routed
    if not experts:
        return decoder
    share = active / experts

    def less(size: Expression | None) -> Expression | None:
        return None if size is None else Expression.of(f"({size.text})*{share!r}")

    def op(whole: TracedOp) -> TracedOp:
        if not whole.routed:
            return whole
        sizes = dict(whole.dims)
        if whole.kind == "bmm":
            dims = {"tokens": sizes["m"], "n": sizes["n"], "k": sizes["k"]}
            dims |= {"experts": Expression.of(float(experts)), "active": Expression.of(float(active))}
            return replace(whole, kind="experts", dims=tuple(dims.items()), read=None, write=None)
        dims = {name: Expression.of(f"({size.text})*{share!r}") for name, size in whole.dims}
        read, write, flops = less(whole.read), less(whole.write), less(whole.flops)
        return replace(whole, dims=tuple(dims.items()), read=read, write=write, flops=flops)

    def layer(whole: TracedLayer) -> TracedLayer:
        return replace(
            whole, ops=tuple(op(each) for each in whole.ops), decode=tuple(op(each) for each in whole.decode)
        )

    return replace(decoder, kinds=tuple(layer(kind) for kind in decoder.kinds), routed=(0, 0))


@lru_cache(maxsize=64)
def one_rank(decoder: TracedDecoder, vocab: int, ranks: Ranks) -> TracedDecoder:
    """What one of several tensor-parallel ranks has of a decoder, whose tables have `vocab` rows."""
    if ranks.count == 1:
        return decoder

    def part(share: Share) -> float:
        if share.vocabulary:
            return ranks.vocabulary(vocab) / vocab
        return 1.0 - share.all - share.kv + share.all / ranks.count + share.kv / ranks.kv

    def of(size: Expression, share: Share | None) -> Expression:
        return size if share is None else Expression.of(f"({size.text})*{part(share)!r}")

    def op(whole: TracedOp) -> TracedOp:
        split = dict(whole.split)

        def optional(size: Expression | None, name: str) -> Expression | None:
            return None if size is None else of(size, split.get(name))

        return replace(
            whole,
            dims=tuple((name, of(size, split.get(name))) for name, size in whole.dims),
            weight=whole.weight * part(split.get("weight_bytes", Share())),
            read=optional(whole.read, "read_bytes"),
            write=optional(whole.write, "write_bytes"),
            read_cached=optional(whole.read_cached, "read_cached_bytes"),
            cached=optional(whole.cached, "cached_bytes"),
            flops=optional(whole.flops, "flops"),
        )

    def layer(whole: TracedLayer) -> TracedLayer:
        split = dict(whole.split)
        return replace(
            whole,
            parameters=whole.parameters * part(split.get("parameters", Share())),
            ops=tuple(op(each) for each in whole.ops),
            decode=tuple(op(each) for each in whole.decode),
            cache=of(whole.cache, split.get("cache_bytes")),
            alive=tuple(of(size, split.get("alive")) for size in whole.alive),
            decode_alive=tuple(of(size, split.get("decode_alive")) for size in whole.decode_alive),
        )

    before, after = (tuple(op(each) for each in ops) for ops in (decoder.before, decoder.after))
    tables, head = (
        sum(one.weight - other.weight for one, other in zip(ops, shares, strict=True))
        for ops, shares in ((decoder.before, before), (decoder.after, after))
    )
    saved = tables if _tied(decoder) else tables + head
    return replace(
        decoder,
        kinds=tuple(layer(kind) for kind in decoder.kinds),
        before=before,
        after=after,
        outer_parameters=decoder.outer_parameters - saved,
    )


def _tied(decoder: TracedDecoder) -> bool:
    """Whether lm_head is the embedding table."""
    return _packed(decoder.before) + _packed(decoder.after) > decoder.outer_parameters


def _exchanged(op: TracedOp, cost: Cost, sizes: Mapping[str, Array], ranks: Ranks, place: Place) -> Iterator[OpCost]:
    """The collective behind an op of one of several ranks."""
    if not op.exchange or ranks.count == 1:
        return
    count, message = float(ranks.count), cost.write_activations + cost.write_kv
    if op.exchange == "statistics":
        # of each row one sum, or two, in fp32
        message = sizes["rows"] * STATISTIC_BYTES * (2.0 if op.kind == "layer_norm" else 1.0)
    gathers = op.exchange == "all_gather"
    collective = collectives.all_gather(message * count, count) if gathers else collectives.all_reduce(message, count)
    what = op.name if op.exchange == "statistics" else _EXCHANGED.get(op.group, op.name)
    name = f"{'all_gather' if gathers else 'all_reduce'}_{what}"
    yield Op(name, "exchange", "replicated", place=place), collective


def check_prefix(decoder: TracedDecoder, batch: float) -> None:
    """Raise unless it is known what every op does on `batch` requests after a cached prefix.

    Raises
    ------
    UnsupportedModelError
        With the op's name.
    """
    for kind in decoder.kinds:
        _after_prefix(kind, batch)


@lru_cache(maxsize=256)
def _after_prefix(layer: TracedLayer, batch: float) -> tuple[TracedOp, ...]:
    """Ops of a prefill of `tokens` new tokens at the end of `kv`."""
    steps = {(op.name, op.kind): op for op in layer.decode}
    return tuple(_prefixed(op, steps.get((op.name, op.kind)), batch) for op in layer.ops)


def _prefixed(op: TracedOp, step: TracedOp | None, batch: float) -> TracedOp:
    """An op of a prefill with its sizes after a prefix, from those of the whole prompt and of the same op of a step."""
    dims = dict(op.dims)
    if op.kind == "attention":
        if op.mask == "full" or (dims["q_len"].text, dims["kv_len"].text) != ("tokens", "tokens"):
            raise UnsupportedModelError(f"{op.name} does not attend to the tokens of the prompt alone")
        return op
    step_dims = {} if step is None else dict(step.dims)

    def size(whole: Expression | None, last: Expression | None) -> Expression | None:
        found = _prefixed_size(whole, last, batch)
        if found is None and whole is not None:
            raise UnsupportedModelError(
                f"how {op.name} grows with the prefix does not follow from a prefill and a step"
            )
        return found

    last = step or replace(op, read=None, write=None, flops=None, count=None, read_cached=None, cached=None)
    return replace(
        op,
        dims=tuple((name, size(whole, step_dims.get(name)) or whole) for name, whole in op.dims),
        read=size(op.read, last.read),
        write=size(op.write, last.write),
        flops=size(op.flops, last.flops),
        count=size(op.count, last.count),
        read_cached=size(op.read_cached, last.read_cached),
        cached=size(op.cached, last.cached),
    )


# Lengths at which a size shows whether it is a polynomial: n, 2n and 4n give it, the others check.
_PROBES = (2048.0, 4096.0, 8192.0, 37.0, 5.0)


def _prefixed_size(whole: Expression | None, step: Expression | None, batch: float) -> Expression | None:
    """e0 + e1·q + e2·kv + e3·q·kv: equal to `whole` where q = kv, and to `step` where q = 1; None where there is none.

    What neither grows with the square of the prompt nor, in a step, with the cache depends on new tokens alone.
    """
    if whole is None:
        return None
    prompt = _polynomial([float(whole({"batch": batch, "tokens": n, "kv": n})) for n in _PROBES])
    if step is None:
        return whole if prompt is None or not prompt[2] else None
    last = _polynomial([float(step({"batch": batch, "tokens": 1.0, "kv": n})) for n in _PROBES])
    if last is not None and not last[1] and not last[2] and (prompt is None or not prompt[2]):
        return whole
    if prompt is None or last is None or last[2]:
        return None
    (constant, slope, square), (start, growth, _) = prompt, last
    by_keys = growth - square
    by_tokens = slope - by_keys
    if start != constant + by_tokens:
        return None
    return Expression.of(f"{constant!r} + {by_tokens!r}*tokens + {by_keys!r}*kv + {square!r}*tokens*kv")


def _polynomial(values: list[float]) -> tuple[float, float, float] | None:
    """Coefficients of c0 + c1·n + c2·n² from its values at `_PROBES`; None where one of those that check is off."""
    n, (a, b, c) = _PROBES[0], values[:3]
    square = ((c - b) / (2.0 * n) - (b - a) / n) / (3.0 * n)
    slope = (b - a) / n - square * 3.0 * n
    constant = a - slope * n - square * n * n
    checks = zip(_PROBES[3:], values[3:], strict=True)
    exact = all(constant + slope * at + square * at * at == value for at, value in checks)
    return (constant, slope, square) if exact else None


def outer_ops(
    ops: tuple[TracedOp, ...],
    widths: Widths,
    *,
    batch: float,
    tokens: Array,
    looked_up: Array,
    place: Place,
    ranks: Ranks = ONE,
) -> Iterator[OpCost]:
    """Ops outside the layers; `looked_up` of the `tokens` come from an embedding table."""
    before = ("x",)
    for op in ops:
        rows = looked_up if op.kind == "embed" else tokens
        counts = {"batch": batch, "tokens": rows, "kv": rows}
        for each, cost in _op(op, counts, widths, kernel="flash", onchip_bytes=0.0, place=place, ranks=ranks):
            yield replace(each, reads=before), cost
            before = (each.name,)


def tower_layer_ops(
    layer: TracedLayer, widths: Widths, *, images: float, rows: int, columns: int, kernel: str, onchip_bytes: float
) -> Iterator[OpCost]:
    """Ops of a tower's layer on `images` inputs of `rows` by `columns` patches each."""
    patches = float(rows * columns)
    counts = {"images": images, "patches": patches, "kv": patches}
    for op in layer.ops:
        if op.mask == "square":
            yield from _in_squares(op, images, rows, columns, widths, kernel=kernel, onchip_bytes=onchip_bytes)
            continue
        yield from _op(op, counts, widths, kernel=kernel, onchip_bytes=onchip_bytes, place="layer")


def tower_outer_ops(
    ops: tuple[TracedOp, ...], widths: Widths, *, images: float, patches: float, kernel: str, place: Place
) -> Iterator[OpCost]:
    """Ops ahead of a tower's layers, or behind them: the projector's are of group ``projector``."""
    counts = {"images": images, "patches": patches, "kv": patches}
    for op in ops:
        yield from _op(op, counts, widths, kernel=kernel, onchip_bytes=0.0, place=place)


def tower_peak_elements(tower: TracedTower, *, images: float, patches: float) -> float:
    """Elements of activations alive together in a tower's layers, under fused attention."""
    counts = {"images": images, "patches": patches, "kv": patches}
    return max(float(expression(counts)) for kind in tower.kinds for expression in kind.alive)


def cache_elements(layer: TracedLayer, *, batch: float, tokens: Array) -> Array:
    """Elements of a layer's cache after `tokens` tokens a request."""
    return layer.cache({"batch": batch, "tokens": tokens, "kv": tokens})


def peak_elements(layer: TracedLayer, *, batch: float, q_len: Array, kv_len: Array) -> Array:
    """Elements of activations alive together, under fused attention."""
    counts = {"batch": batch, "tokens": q_len, "kv": kv_len}
    alive = layer.decode_alive if _is_step(q_len, kv_len) else layer.alive
    peak: Array = 0.0
    for expression in alive:
        peak = np.maximum(peak, expression(counts))
    return peak


def parameters(decoder: TracedDecoder, layers: range, *, first: bool, last: bool) -> float:
    """Stored parameters of layers, and what lies with the first and the last of all; a tied table once."""
    inside = sum(decoder.kinds[decoder.kind_of(index)].parameters for index in layers)
    if first and last:
        return inside + decoder.outer_parameters
    return inside + sum(op.weight for op in (decoder.before if first else decoder.after if last else ()))


def packed(decoder: TracedDecoder, layers: range) -> tuple[float, tuple[float, float]]:
    """Parameters that quantisation packs: inside the layers; tables, and what follows the layers (zero if tied)."""
    by_kind = [_packed(kind.ops) for kind in decoder.kinds]
    table, head = _packed(decoder.before), _packed(decoder.after)
    return sum(by_kind[decoder.kind_of(index)] for index in layers), (table, 0.0 if _tied(decoder) else head)


def tower_packed(tower: TracedTower) -> tuple[float, float]:
    """Parameters of a tower's and of its projector's linear layers, which quantisation packs."""
    inside = sum(_packed(tower.kinds[kind].ops) for kind in tower.order)
    behind = {joins: tuple(op for op in tower.after if (op.group == "projector") == joins) for joins in (False, True)}
    return inside + _packed(behind[False]), _packed(behind[True])


def packed_experts(decoder: TracedDecoder, layers: range) -> float:
    """Those of the layers' packed parameters that are experts'."""
    by_kind = [sum(op.weight for op in kind.ops if op.kind == "experts") for kind in decoder.kinds]
    return sum(by_kind[decoder.kind_of(index)] for index in layers)


def _packed(ops: tuple[TracedOp, ...]) -> float:
    return sum(op.weight for op in ops if op.kind in _PACKED)


def idle_parameters(decoder: TracedDecoder) -> float:
    """Parameters of the experts that a token does not pass through."""
    idle = 0.0
    for kind in decoder.order:
        for op in decoder.kinds[kind].ops:
            if op.kind == "experts":
                sizes = {name: float(size({})) for name, size in op.dims if name in ("experts", "active")}
                idle += op.weight * (1.0 - sizes["active"] / sizes["experts"])
            elif op.kind == "bmm" and op.routed:
                idle += op.weight * (1.0 - decoder.routed[1] / decoder.routed[0])
    return idle


def _is_step(q_len: Array, kv_len: Array) -> bool:
    """Whether one token a request follows what the cache holds."""
    return bool(np.all(np.asarray(q_len) == 1) and np.any(np.asarray(kv_len) != 1))


def _op(
    op: TracedOp,
    counts: Mapping[str, Array],
    widths: Widths,
    *,
    kernel: str,
    onchip_bytes: float,
    place: Place,
    ranks: Ranks = ONE,
) -> Iterator[OpCost]:
    if op.count is not None and not np.any(op.count(counts)):
        return  # a copy that these counts do not need
    sizes = {name: size(counts) for name, size in op.dims}
    if op.kind == "attention":
        for kernel_op, cost in _attention(op, sizes, counts, widths, kernel=kernel, onchip_bytes=onchip_bytes):
            yield kernel_op, _repeated(cost, op, counts)
        return
    cost = _FORMULAS.get(op.kind, _moved)(op, sizes, counts, widths)
    cost = replace(cost, parameters=op.weight, packed=op.weight if op.kind in _PACKED else 0.0)
    cost = _repeated(_into_cache(cost, op, counts, widths), op, counts)
    yield Op(op.name, op.group, "replicated", place=place), cost
    yield from _exchanged(op, cost, sizes, ranks, place)


def _into_cache(cost: Cost, op: TracedOp, counts: Mapping[str, Array], widths: Widths) -> Cost:
    """What a formula writes, divided between activations and cache as the trace found it."""
    written = cost.write_activations / widths.activations + cost.write_kv / widths.kv
    cached = 0.0 if op.cached is None else op.cached(counts)
    return replace(cost, write_activations=(written - cached) * widths.activations, write_kv=cached * widths.kv)


def _repeated(cost: Cost, op: TracedOp, counts: Mapping[str, Array]) -> Cost:
    """An op that runs several times in a pass, launched each time. Bytes and FLOPs of elementwise kinds are totals."""
    if op.count is None:
        return cost
    times = op.count(counts)
    if op.kind not in ("gemm", "bmm", "attention", "experts"):
        return replace(cost, launches=np.maximum(1.0, times))
    grows = "m" if cost.kind == "gemm" else "groups" if cost.kind == "bmm" else "batch"
    dims = {**cost.dims, grows: cost.dims[grows] * times}
    full = None if cost.flops_full_square is None else cost.flops_full_square * times
    scaled = {
        name: getattr(cost, name) * times
        for name in ("flops", "read_weights", "read_activations", "read_kv", "write_activations", "write_kv")
    }
    return replace(cost, dims=dims, flops_full_square=full, launches=times, **scaled)


def _attention(
    op: TracedOp,
    sizes: Mapping[str, Array],
    counts: Mapping[str, Array],
    widths: Widths,
    *,
    kernel: str,
    onchip_bytes: float,
) -> Iterator[OpCost]:
    """Of all tokens so far a cache of a window or a block may hold fewer."""
    q_len, kv_len, end = sizes["q_len"], sizes["kv_len"], counts["kv"]
    if "tokens" in counts and not _is_step(counts["tokens"], end):
        # new keys, and those of a prefix that the cache still holds
        held = end - counts["tokens"]
        kv_len = kv_len + (np.minimum(held, op.window - 1.0) if op.mask in ("window", "chunk") else held)
    shape = AttentionShape(
        batch=sizes["batch"],
        heads=sizes["heads"],
        kv_heads=sizes["kv_heads"],
        head_dim=sizes["head_dim"],
        q_len=q_len,
        kv_len=kv_len,
        causal=op.mask != "full",
        window=float(op.window) if op.mask == "window" else ALL_KEYS,
        visible=attention.chunked_pairs(q_len, end, float(op.window)) if op.mask == "chunk" else None,
    )
    cached, weight = op.read_cached is not None, op.weight
    core = attention.core(kernel, shape, widths=widths, onchip_bytes=onchip_bytes, reads=(), kv_cached=cached)
    for kernel_op, cost in core:
        # learned sinks are read by the first kernel
        yield kernel_op, replace(cost, read_weights=cost.read_weights + weight * widths.unpacked, parameters=weight)
        weight = 0.0


def _in_squares(
    op: TracedOp, images: float, rows: int, columns: int, widths: Widths, *, kernel: str, onchip_bytes: float
) -> Iterator[OpCost]:
    """Attention inside each square of a grid of patches, and what is left of one at its edges."""
    sizes = {name: size({}) for name, size in op.dims if name in ("heads", "kv_heads", "head_dim")}
    shapes = [
        AttentionShape(batch=images * count, q_len=patches, kv_len=patches, causal=False, **sizes)
        for count, patches in attention.windows(rows, columns, op.window)
    ]
    yield from attention.core_of_several(kernel, shapes, widths=widths, onchip_bytes=onchip_bytes, reads=())


def _gemm(op: TracedOp, sizes: Mapping[str, Array], _: Mapping[str, Array], widths: Widths) -> Cost:
    cost = gemm.linear(sizes["m"], sizes["k"], sizes["n"], widths)
    return replace(cost, read_weights=op.weight * widths.weights) if op.weight else cost


def _bmm(op: TracedOp, sizes: Mapping[str, Array], counts: Mapping[str, Array], widths: Widths) -> Cost:
    moved = _moved(op, sizes, counts, widths)
    flops = sizes["groups"] * gemm.product_flops(sizes["m"], sizes["n"], sizes["k"])
    times = 1.0 if op.count is None else op.count(counts)
    # bytes are a pass's totals, and multiplied with the rest
    return replace(
        moved,
        kind="bmm",
        flops=flops,
        read_activations=moved.read_activations / times,
        read_kv=moved.read_kv / times,
        write_activations=moved.write_activations / times,
    )


def _experts(_: TracedOp, sizes: Mapping[str, Array], __: Mapping[str, Array], widths: Widths) -> Cost:
    return gemm.grouped_linear(
        sizes["tokens"],
        float(sizes["k"]),
        float(sizes["n"]),
        widths,
        experts=float(sizes["experts"]),
        active=float(sizes["active"]),
    )


def _rms_norm(_: TracedOp, sizes: Mapping[str, Array], __: Mapping[str, Array], widths: Widths) -> Cost:
    return pointwise.rms_norm(sizes["rows"], float(sizes["width"]), widths)


def _layer_norm(_: TracedOp, sizes: Mapping[str, Array], __: Mapping[str, Array], widths: Widths) -> Cost:
    return pointwise.layer_norm(sizes["rows"], float(sizes["width"]), widths)


def _rope(_: TracedOp, sizes: Mapping[str, Array], __: Mapping[str, Array], widths: Widths) -> Cost:
    return pointwise.rope(
        batch=float(sizes["batch"]),
        q_len=sizes["q_len"],
        heads=float(sizes["heads"]),
        kv_heads=float(sizes["kv_heads"]),
        head_dim=float(sizes["head_dim"]),
        widths=widths,
    )


def _embed(_: TracedOp, sizes: Mapping[str, Array], __: Mapping[str, Array], widths: Widths) -> Cost:
    return pointwise.embed(sizes["rows"], float(sizes["width"]), widths)


def _weighted_sum(_: TracedOp, sizes: Mapping[str, Array], __: Mapping[str, Array], widths: Widths) -> Cost:
    return pointwise.weighted_sum(sizes["rows"], float(sizes["active"]), float(sizes["width"]), widths)


def _gather(op: TracedOp, sizes: Mapping[str, Array], counts: Mapping[str, Array], widths: Widths) -> Cost:
    if "rows" in sizes:
        return gather(sizes["rows"], float(sizes["width"]), widths)
    return _moved(op, sizes, counts, widths)


def _softmax(op: TracedOp, sizes: Mapping[str, Array], counts: Mapping[str, Array], widths: Widths) -> Cost:
    flops = attention.SOFTMAX_FLOPS_PER_PAIR * sizes["rows"] * sizes["width"]
    return replace(_moved(op, sizes, counts, widths), kind="softmax", flops=flops, flops_full_square=0.0)


def _moved(op: TracedOp, sizes: Mapping[str, Array], counts: Mapping[str, Array], widths: Widths) -> Cost:
    """Memory moved, and arithmetic by element."""
    cached: Array = 0.0 if op.read_cached is None else op.read_cached(counts)
    read: Array = 0.0 if op.read is None else op.read(counts)
    written: Array = 0.0 if op.write is None else op.write(counts)
    return Cost(
        kind=op.kind if op.kind in ("gated_act", "gather") else "pointwise",
        dims=dict(sizes),
        flops=0.0 if op.flops is None else op.flops(counts),
        read_weights=op.weight * widths.unpacked,
        read_activations=(read - cached) * widths.activations,
        read_kv=cached * widths.kv,
        write_activations=written * widths.activations,
    )


# What a collective is called after, by the group of the op before it.
_EXCHANGED = {"projections": "attn", "attention": "attn", "mlp": "mlp", "embedding": "embed", "head": "logits"}
# A sum that a norm takes of a row.
STATISTIC_BYTES = 4.0
# Kinds whose weights quantisation packs.
_PACKED = ("gemm", "experts", "embed")

_FORMULAS = {
    "gemm": _gemm,
    "bmm": _bmm,
    "experts": _experts,
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "rope": _rope,
    "embed": _embed,
    "weighted_sum": _weighted_sum,
    "gather": _gather,
    "softmax": _softmax,
}
