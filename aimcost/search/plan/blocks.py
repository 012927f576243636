"""What a decoder layer costs by the tokens it sees and the tokens it leaves, read off the estimator.

One estimate of a run with a layer for every pair (tokens, tokens after) prices all candidates of a
grid: no formula is written twice, and whatever the estimator knows is in the table. Launches are
issued by a host that runs ahead of the device (`aimcost.pricing.host_queue`), so a layer is no number but a
step from one state to the next: ``end' = max(end + work, issued + wait)``, ``issued' = issued + issue``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InvalidValueError, ScheduleError
from ...inputs.run import Run
from ...methods.implementation import decode_kernel
from ...pricing.memory import Memory, StageMemory, memory_of
from ...pricing.result import Estimate
from ...types.stages import STAGES
from ..layers import Pair, PricedLayers, price_layers
from .band import Rows, both_rows, device_and_host

__all__ = ["Blocks", "Tables", "tables"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Steps from one (issued, end) state to the next; arrays have one entry a block.

    Attributes
    ----------
    work, issue
        Seconds of the device, and of the host issuing the block's launches.
    wait
        Latest end of the block where the device idles at its start, counted from then.
    sync
        Whether the host waits for the device at the block's end.
    """

    work: Floats
    issue: Floats
    wait: Floats
    sync: NDArray[np.bool_]

    def sent(self, block: Any, issued: Floats, end: Floats) -> Floats:
        """When the host has issued a block that it begins at `issued` and the device finishes at `end`."""
        later: Floats = issued + self.issue[block]
        return np.where(self.sync[block], end, later) if self.sync.any() else later


@dataclass(frozen=True, slots=True)
class Tables:
    """Prices of all pairs of one base: a run whose prompt reaches the language model at one length.

    Attributes
    ----------
    pairs
        (tokens, tokens after) of each block; equal where no cut follows.
    start, tail
        State (issued, end) before layer 0; work, issue, wait of what follows the last layer.
    left_out_s
        Seconds before layer 0 that belong to stages the run does not include, less what its stack adds.
    flops, kv, prompt_kv, alive
        By block: FLOPs, cache bytes at the end and those that the prompt adds, activation bytes.
    cached_bytes
        Of all layers, what an earlier request left in the cache.
    fixed_flops, weights_bytes, elsewhere_bytes, head_bytes, decode_bytes
        What lies outside the layers; bytes are activations of other stages.
    decode, decode_start, decode_tail, decode_added_s
        The same for all decode steps together, and what the stack adds to them; None where there are none.
    rows, tail_rows
        For the band, in the layers and after the last one; None where it was not asked for.
    """

    pairs: tuple[Pair, ...]
    prefill: Blocks
    start: tuple[float, float]
    tail: Blocks
    left_out_s: float
    flops: Floats
    fixed_flops: float
    kv: Floats
    prompt_kv: Floats
    alive: Floats
    weights_bytes: float
    cached_bytes: float
    elsewhere_bytes: float
    head_bytes: float
    decode_bytes: float | None
    steps: int
    decode: Blocks | None
    decode_start: tuple[float, float]
    decode_tail: Blocks | None
    decode_added_s: float
    rows: Rows | None
    tail_rows: Rows | None

    @property
    def index(self) -> dict[Pair, int]:
        """Position of each pair."""
        return {pair: position for position, pair in enumerate(self.pairs)}


def tables(run: Run, pairs: set[Pair], scorer: str, *, band: bool = False) -> Tables:
    """Price `pairs` under the run's model, workload, hardware and estimator.

    Parameters
    ----------
    run
        Its schedule says what happens before the language model.
    scorer
        What ranks tokens where a pair's counts differ.
    band
        Whether `rows` are wanted, which the upper end of the band needs.

    Raises
    ------
    InvalidValueError, ScheduleError
        Masked tokens, pipeline stages or cross attention: layers are then not alike.
    """
    if run.implementation == "masked":
        raise InvalidValueError("implementation", "fused or eager to plan: masking saves nothing", run.implementation)
    if run.include is not None and "prefill" not in run.include:
        raise InvalidValueError("include", "one that includes prefill, to plan", list(run.include))
    ordered = tuple(sorted(pairs, key=lambda pair: (-pair[0], -pair[1])))
    prompt = replace(run, workload=replace(run.workload, new_tokens=0))
    priced_layers = price_layers(prompt, ordered, scorer, purpose="the planner")
    every = priced_layers.estimate
    head, layers, tail = priced_layers.in_order
    if not len(tail):  # pragma: no cover - every decoder has a head
        raise ScheduleError("the estimator prices nothing after the last layer")
    blocks = _blocks(every, layers, len(ordered))
    own = _memory(run)
    stages, prompt_kv, alive = _stage_memory(every, own)
    cached = own.cached_bytes / run.model.decoder.layers
    fields: dict[str, Any] = {}
    if run.workload.new_tokens:
        kernel = decode_kernel(every.run.schedule, run.implementation, run.attention)
        fields = _decode(replace(run, attention=kernel), ordered, scorer)
    flops = every.priced.total_flops
    included = every.rows(every.included)
    return Tables(
        pairs=ordered,
        prefill=blocks,
        start=_state(every, head),
        tail=_one_block(every, tail),
        left_out_s=float(every.seconds[head][~included[head]].sum()) - _added(every, every.first_token_rows),
        flops=priced_layers.by_pair(flops) + fields.pop("flops", 0.0),
        fixed_flops=float(flops[np.concatenate([head, tail])] @ included[np.concatenate([head, tail])])
        + fields.pop("fixed_flops", 0.0),
        kv=fields.pop("kv", prompt_kv + cached),
        prompt_kv=prompt_kv,
        alive=alive,
        weights_bytes=own.weights_bytes,
        cached_bytes=own.cached_bytes,
        elsewhere_bytes=max((s.activation_bytes for s in stages if s.stage in ("vision", "projector")), default=0.0),
        head_bytes=next((s.activation_bytes for s in stages if s.stage == "lm_head"), 0.0),
        decode_bytes=next((s.activation_bytes for s in own.stages if s.stage == "decode"), None),
        **both_rows(every, head, layers, tail, len(ordered), band=band),
        **{
            "steps": 0,
            "decode": None,
            "decode_start": (0.0, 0.0),
            "decode_tail": None,
            "decode_added_s": 0.0,
            **fields,
        },
    )


def _added(every: Estimate, rows: NDArray[np.bool_]) -> float:
    """Of these rows, seconds that the stack adds beside the operations: in no queue."""
    return float(every.seconds[rows & every.priced.overhead(STAGES)].sum())


def _decode(run: Run, pairs: tuple[Pair, ...], scorer: str) -> dict[str, Any]:
    """All decode steps, by the count that a layer's cache holds."""
    counts = tuple(sorted({before for before, _ in pairs}, reverse=True))
    every = price_layers(run, [(n, n) for n in counts], scorer, purpose="the planner").estimate
    steps = PricedLayers(tuple((n, n) for n in counts), every, "decode")
    where = np.array([counts.index(before) for before, _ in pairs])
    kv = np.array(_memory(every.run).kv_by_layer)[where]
    head, layers, tail = steps.in_order
    if not len(layers):
        return {"kv": kv}
    blocks = _blocks(every, layers, len(counts))
    counted = "decode" in every.included
    flops = every.priced.total_flops * counted
    outside = np.concatenate([head, tail])
    return {
        "kv": kv,
        "steps": every.table.steps,
        "decode": Blocks(blocks.work[where], blocks.issue[where], blocks.wait[where], blocks.sync[where]),
        "decode_start": _state(every, head),
        "decode_tail": _one_block(every, tail),
        "decode_added_s": _added(every, every.step_rows),
        "flops": steps.by_pair(flops)[where],
        "fixed_flops": float(flops[outside].sum()),
    }


def _blocks(every: Estimate, rows: NDArray[np.int64], count: int) -> Blocks:
    """Steps of `count` layers from their rows in execution order."""
    device, host, last = device_and_host(every)
    layer = every.table.layer[rows]
    starts = np.searchsorted(layer, np.arange(count))
    done, issued = np.cumsum(device[rows]), np.cumsum(host[rows])
    before_done = np.concatenate([[0.0], done])[starts]
    before_issued = np.concatenate([[0.0], issued])[starts]
    work, issue = np.diff(before_done, append=done[-1]), np.diff(before_issued, append=issued[-1])
    # end of the block if the device idles first: latest over rows of its issue + the work from it on
    latest = np.maximum.reduceat(issued - (done - last[rows]), starts)
    wait = latest - before_issued + before_done + work
    return Blocks(work, issue, np.asarray(wait), _syncs(every, rows)[np.append(starts[1:], len(rows)) - 1])


def _syncs(every: Estimate, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Rows after which the host waits: the last of a cut, and so of its layer."""
    return np.zeros(len(rows), dtype=bool) if every.priced.waits is None else every.priced.waits[rows]


def _one_block(every: Estimate, rows: NDArray[np.int64]) -> Blocks:
    device, host, last = device_and_host(every)
    done, issued = np.cumsum(device[rows]), np.cumsum(host[rows])
    wait = np.max(issued - (done - last[rows])) + done[-1]
    sync = _syncs(every, rows)[-1:]
    return Blocks(np.array([done[-1]]), np.array([issued[-1]]), np.array([wait]), sync)


def _state(every: Estimate, rows: NDArray[np.int64]) -> tuple[float, float]:
    """(issued, end) after `rows`."""
    issued = end = 0.0
    for part in np.split(rows, np.flatnonzero(_syncs(every, rows)) + 1):
        if len(part):
            block = _one_block(every, part)
            end = float(max(end + block.work[0], issued + block.wait[0]))
            issued = end if block.sync[0] else issued + float(block.issue[0])
    return issued, end


def _memory(run: Run) -> Memory:
    """Without the number of requests that the card can serve, which no plan asks for."""
    return memory_of(replace(run, hardware=None))


def _stage_memory(every: Estimate, own: Memory) -> tuple[tuple[StageMemory, ...], Floats, Floats]:
    """All stages, and by block what the prompt adds to the cache and the activations.

    A block may be of any layer but the first, which alone is given the run's `own` embeddings.
    """
    memory = _memory(every.run)
    layers = [stage for stage in memory.stages if stage.stage.startswith("prefill layer ")]
    held = np.array([stage.kv_bytes for stage in layers])
    alive = np.array([stage.activation_bytes for stage in layers]) + own.embedded_bytes
    alive[1:] -= memory.embedded_bytes
    return memory.stages, np.diff(held, prepend=memory.cached_bytes), alive
