"""Several devices: what one rank holds and computes, and what ranks send each other.

Tensor parallel after Megatron-LM (Shoeybi et al. 2019, arXiv 1909.08053): q, k, v, gate and up are
split by column, o and down by row, attention by head, norms and residuals on every rank; embedding
and lm_head by vocabulary. Pipeline parallel splits the layers evenly; replicas share nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from ..errors import InvalidValueError
from ..ops import collectives
from ..ops.cost import Array
from ..ops.op import ONE, Op, OpCost, Ranks
from ..types import DecoderSpec, ModelSpec, Parallel, TowerLoad
from . import traced

__all__ = [
    "bubble",
    "check_parallel",
    "decoder_ranks",
    "exchanged",
    "parallel_notes",
    "rank_heads",
    "stage_layers",
    "tower_inputs",
    "tower_ranks",
]


# Weights that every rank has whole and that a note names: norms and routers are less.
_NAMED_SHARE = 0.05


def check_parallel(model: ModelSpec, parallel: Parallel) -> None:
    """Raise unless the model can be split so.

    Raises
    ------
    InvalidValueError
        A number of ranks that does not divide heads, KV heads or MLP, or more stages
        than layers.
    """
    decoder, tp = model.decoder, parallel.tp
    if decoder.traced is not None:
        traced.check_ranks(decoder.traced, model.name, tp)
    elif decoder.heads % tp:
        raise InvalidValueError("parallel.tp", f"a divisor of {model.name}'s {decoder.heads} attention heads", tp)
    elif max(decoder.kv_heads, tp) % min(decoder.kv_heads, tp):
        raise InvalidValueError(
            "parallel.tp", f"a divisor or multiple of {model.name}'s {decoder.kv_heads} KV heads", tp
        )
    moe = decoder.moe
    wide = (
        [] if decoder.traced else [decoder.intermediate] if moe is None else [moe.intermediate, moe.shared_intermediate]
    )
    for count in wide:
        if count % tp:
            raise InvalidValueError("parallel.tp", f"a divisor of {model.name}'s {count} MLP columns", tp)
    if parallel.pp > decoder.layers:
        raise InvalidValueError("parallel.pp", f"at most {model.name}'s {decoder.layers} layers", parallel.pp)
    vision = model.vision
    if parallel.tower == "sharded" and vision is not None and vision.traced is not None:
        allowed = f"replicated or data: a trace does not say how {model.name}'s tower is split"
        raise InvalidValueError("parallel.tower", allowed, "sharded")
    if parallel.tower == "sharded" and vision is not None:
        for what, count in (("tower heads", vision.heads), ("tower MLP columns", vision.intermediate)):
            if count % tp:
                raise InvalidValueError(
                    "parallel.tower",
                    f"replicated or data: {tp} ranks do not divide {count} {what}",
                    "sharded",
                )


def decoder_ranks(decoder: DecoderSpec, parallel: Parallel) -> Ranks:
    """The ranks that share the language model. With more of them than KV heads, several hold the same one."""
    tp = parallel.tp
    return ONE if tp == 1 else Ranks(tp, min(tp, decoder.kv_heads))


def tower_ranks(parallel: Parallel) -> Ranks:
    """The ranks that share the weights of the vision tower."""
    return Ranks(parallel.tp, parallel.tp) if parallel.tower == "sharded" and parallel.tp > 1 else ONE


def tower_inputs(load: TowerLoad, batch: int, parallel: Parallel) -> int:
    """Images, tiles or frames of all requests that the tower of one rank computes on."""
    inputs = batch * load.inputs
    return math.ceil(inputs / parallel.tp) if parallel.tower == "data" else inputs


def rank_heads(decoder: DecoderSpec, ranks: Ranks) -> DecoderSpec:
    """The decoder as its scorers see it: each rank scores with its own heads."""
    if ranks.count == 1:
        return decoder
    return replace(decoder, heads=ranks.share(decoder.heads), kv_heads=ranks.kv_share(decoder.kv_heads))


def exchanged(ops: Iterable[OpCost], ranks: Ranks) -> Iterable[OpCost]:
    """One rank's ops with the collectives that their splits imply.

    Partial sums are reduced before the first op that reads them whole, or after the last one; what
    is split by vocabulary is gathered at once.
    """
    return ops if ranks.count == 1 else _with_collectives(ops, ranks)


def _with_collectives(ops: Iterable[OpCost], ranks: Ranks) -> Iterator[OpCost]:
    sums: dict[str, tuple[Op, Array]] = {}  # tensors of partial sums: the op named in the collective, and bytes
    count = float(ranks.count)
    for op, cost in ops:
        partial = [sums.pop(name) for name in op.reads if name in sums]
        if partial:
            source, message = partial[0]
            if op.split == "linear":
                sums[op.name] = (source, cost.write_activations)
            else:
                yield _reduced(source), collectives.all_reduce(message, count)
        yield op, cost
        if op.split == "row":
            sums[op.name] = (op, cost.write_activations)
        elif op.split == "vocabulary":
            gathered = Op(f"all_gather_{op.exchange or op.name}", "exchange", "replicated", place=op.place)
            yield gathered, collectives.all_gather(cost.write_activations * count, count)
    for source, message in sums.values():
        yield _reduced(source), collectives.all_reduce(message, count)


def _reduced(source: Op) -> Op:
    return Op(f"all_reduce_{source.exchange or source.name}", "exchange", "replicated", place=source.place)


def stage_layers(layers: int, pp: int) -> list[range]:
    """Layers of each pipeline stage: as even as they come, the earlier ones larger."""
    size, extra = divmod(layers, pp)
    starts = [stage * size + min(stage, extra) for stage in range(pp + 1)]
    return [range(starts[stage], starts[stage + 1]) for stage in range(pp)]


def bubble(pp: int, microbatches: int) -> float:
    """Share of a device's time that a pipeline idles: (p − 1) / (m + p − 1) for m micro-batches.

    Source: Huang et al. 2019 (GPipe), arXiv 1811.06965.
    """
    return (pp - 1) / (microbatches + pp - 1)


def parallel_notes(model: ModelSpec, parallel: Parallel, batch: int) -> tuple[str, ...]:
    """What the figures of a split run mean."""
    notes = []
    tp, pp, kv = parallel.tp, parallel.pp, model.decoder.kv_heads
    if tp > 1:
        if model.decoder.traced is not None:
            whole = traced.undivided(model.decoder.traced)
            if whole > _NAMED_SHARE:
                notes.append(f"{whole:.0%} of the layers' weights are whole on every rank")
        notes.append(f"tensor parallel: FLOPs, bytes and memory are those of one of {tp} ranks")
        rows, padded = model.decoder.vocab, decoder_ranks(model.decoder, parallel).padded(model.decoder.vocab)
        if padded != rows:
            notes.append(f"{tp} ranks do not divide the vocabulary of {rows:,}: padded to {padded:,} rows")
        if tp > kv:
            notes.append(f"{kv} KV heads on {tp} ranks: each is replicated on {tp // kv} of them")
        if model.vision is not None:
            what = {
                "replicated": "every rank runs the whole vision tower",
                "sharded": "the vision tower is split as the decoder is",
                "data": "each rank runs the vision tower on its share of the images",
            }
            notes.append(what[parallel.tower])
    if pp > 1:
        notes.append(
            f"pipeline of {pp} stages: times are one batch's latency through all stages; each device idles "
            f"{bubble(pp, 1):.0%} of it, {bubble(pp, batch):.0%} with {batch} micro-batches"
            if batch > 1
            else f"pipeline of {pp} stages: times are one request's latency through all stages; each device "
            f"idles {bubble(pp, 1):.0%} of it unless other requests fill the others"
        )
        notes.append(
            "pipeline: memory and KV cache are those of the fullest device, FLOPs and traffic those of all stages"
        )
    if parallel.dp > 1:
        notes.append(f"{parallel.dp} replicas: each runs the workload's batch, latency is that of one")
    return tuple(notes)
