"""Several devices: what one rank holds and computes, and what ranks send each other.

Tensor parallel after Megatron-LM (Shoeybi et al. 2019, arXiv 1909.08053): q, k, v, gate and up are
split by column, o and down by row, attention by head, norms and residuals on every rank; embedding
and lm_head by vocabulary. Pipeline parallel splits the layers evenly; replicas share nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import InvalidValueError
from ..ops.cost import Cost
from ..types import DecoderSpec, ModelSpec, MoeSpec, Parallel, VisionSpec

__all__ = [
    "bubble",
    "check_parallel",
    "parallel_notes",
    "rank_decoder",
    "rank_vision",
    "rank_vision_cost",
    "stage_layers",
]

_COLUMN = {"q_proj", "k_proj", "v_proj", "qkv_proj", "gate_proj", "up_proj"}
_ROW = {"out_proj", "down_proj"}
_BY_HEAD = {"fused_attention", "qk_matmul", "softmax", "sv_matmul", "mlp_act", "rope"}


def check_parallel(model: ModelSpec, parallel: Parallel) -> None:
    """Raise unless the model can be split so.

    Raises
    ------
    InvalidValueError
        A number of ranks that does not divide heads, KV heads, MLP or vocabulary, or more stages
        than layers.
    """
    decoder, tp = model.decoder, parallel.tp
    if decoder.heads % tp:
        raise InvalidValueError("parallel.tp", f"a divisor of {model.name}'s {decoder.heads} attention heads", tp)
    if max(decoder.kv_heads, tp) % min(decoder.kv_heads, tp):
        raise InvalidValueError(
            "parallel.tp", f"a divisor or multiple of {model.name}'s {decoder.kv_heads} KV heads", tp
        )
    moe = decoder.moe
    wide = [decoder.intermediate] if moe is None else [moe.intermediate, moe.shared_intermediate]
    for what, count in (*(("MLP columns", n) for n in wide), ("vocabulary rows", decoder.vocab)):
        if count % tp:
            raise InvalidValueError("parallel.tp", f"a divisor of {model.name}'s {count} {what}", tp)
    if parallel.pp > decoder.layers:
        raise InvalidValueError("parallel.pp", f"at most {model.name}'s {decoder.layers} layers", parallel.pp)
    vision = model.vision
    if parallel.tower == "sharded" and vision is not None:
        for what, count in (("tower heads", vision.heads), ("tower MLP columns", vision.intermediate)):
            if count % tp:
                raise InvalidValueError(
                    "parallel.tower",
                    f"replicated or data: {tp} ranks do not divide {count} {what}",
                    "sharded",
                )


def rank_decoder(decoder: DecoderSpec, tp: int) -> DecoderSpec:
    """One rank's share. With more ranks than KV heads each head lies on several of them."""
    if tp == 1:
        return decoder
    return replace(
        decoder,
        heads=decoder.heads // tp,
        kv_heads=max(1, decoder.kv_heads // tp),
        intermediate=decoder.intermediate // tp,
        vocab=decoder.vocab // tp,
        extra_embeddings=decoder.extra_embeddings // tp,
        moe=_rank_moe(decoder.moe, tp),
    )


def _rank_moe(moe: MoeSpec | None, tp: int) -> MoeSpec | None:
    """A slice of every expert; the router, which all ranks need, stays whole."""
    if moe is None:
        return None
    return replace(moe, intermediate=moe.intermediate // tp, shared_intermediate=moe.shared_intermediate // tp)


def rank_vision_cost(name: str, cost: Cost, tp: int) -> Cost:
    """One rank's share of a tower operation, with the tower's weights split as the decoder's."""
    share = 1.0 / tp
    if name in _COLUMN:
        return _scaled(cost, share, {"n": share}, write_activations=share, read_weights=share)
    if name in _ROW:
        return _scaled(cost, share, {"k": share}, read_activations=share, read_weights=share)
    if name in _BY_HEAD:
        by_head = {"heads": share, "kv_heads": share, "groups": share, "rows": share, "elements": share}
        return _scaled(cost, share, by_head, read_activations=share, read_kv=share, write_activations=share)
    return cost


def _scaled(cost: Cost, flops: float, dims: dict[str, float], **parts: float) -> Cost:
    square = cost.flops_full_square
    changed: dict[str, Any] = {key: getattr(cost, key) * factor for key, factor in parts.items()}
    return replace(
        cost,
        flops=cost.flops * flops,
        flops_full_square=None if square is None else square * flops,
        dims={key: value * dims.get(key, 1.0) for key, value in cost.dims.items()},
        **changed,
    )


def rank_vision(vision: VisionSpec, parallel: Parallel) -> VisionSpec:
    """The tower whose activations one rank holds."""
    if parallel.tower != "sharded" or parallel.tp == 1:
        return vision
    return replace(vision, intermediate=vision.intermediate // parallel.tp)


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
        notes.append(f"tensor parallel: FLOPs, bytes and memory are one rank's of {tp}")
        if tp > kv:
            notes.append(f"{kv} KV heads on {tp} ranks: each is held by {tp // kv} of them")
        if model.vision is not None:
            what = {
                "replicated": "every rank runs the whole vision tower",
                "sharded": "the vision tower is split as the decoder is",
                "data": "each rank runs the vision tower on its share of the images",
            }
            notes.append(what[parallel.tower])
    if pp > 1:
        notes.append(
            f"pipeline of {pp} stages: times are one batch's way through all of them; each device idles "
            f"{bubble(pp, 1):.0%} of it, {bubble(pp, batch):.0%} with {batch} micro-batches"
            if batch > 1
            else f"pipeline of {pp} stages: times are one request's way through all of them; each device "
            f"idles {bubble(pp, 1):.0%} of it unless other requests fill the others"
        )
        notes.append(
            "pipeline: memory and KV cache are those of the fullest device, FLOPs and traffic those of all stages"
        )
    if parallel.dp > 1:
        notes.append(f"{parallel.dp} replicas: the workload's batch runs on each, latency is one's")
    return tuple(notes)
