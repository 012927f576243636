"""The projector between tower and language model: merging, linear layers with GELU between, pooling."""

from __future__ import annotations

from collections.abc import Iterator

from ..ops import Cost, gemm, pointwise
from ..types import ModelSpec, ProjectorSpec, TowerLoad, VisionSpec
from ..types.formats import Widths
from . import resampler

__all__ = ["deepstack_ops", "ops", "parameters"]


def ops(
    model: ModelSpec, widths: Widths, *, inputs: float, load: TowerLoad, patches: float | None = None
) -> Iterator[tuple[str, Cost]]:
    """Operations on all patches that leave the tower; pooling follows where it drops tokens.

    Parameters
    ----------
    inputs
        Inputs of the tower, of all requests together.
    patches
        How many of an input leave the tower, where a method merges inside it.
    """
    vision, projector = model.vision, model.projector
    if vision is None or projector is None:
        return
    if projector.resampler is not None:
        each = float(load.rows * load.columns) if patches is None else patches
        yield from resampler.ops(projector.resampler, widths, inputs=inputs, patches=each)
        return
    rows = _rows(vision, projector, inputs, load) if patches is None else inputs * patches
    yield from _mlp(projector, widths, rows, "proj", merged=projector.norm_merged)
    if projector.linears and patches is None and load.pooled_in:
        width, share = projector.linears[-1][1], inputs / load.sequences
        yield "pool", pointwise.pool(share * load.pooled_in * width, share * load.pooled_out * width, widths)


def deepstack_ops(model: ModelSpec, widths: Widths, *, inputs: float, load: TowerLoad) -> Iterator[tuple[str, Cost]]:
    """One of the mergers on features of an earlier layer."""
    vision, projector = model.vision, model.projector
    if vision is not None and projector is not None and projector.deepstack:
        rows = _rows(vision, projector, inputs, load)
        yield from _mlp(projector, widths, rows, "deepstack", merged=True)


def _rows(vision: VisionSpec, projector: ProjectorSpec, inputs: float, load: TowerLoad) -> float:
    each = load.rows * load.columns + (1 if projector.keeps_class_token else 0)
    return inputs * vision.tiles * each / projector.merge**2


def _mlp(
    projector: ProjectorSpec, widths: Widths, rows: float, prefix: str, *, merged: bool
) -> Iterator[tuple[str, Cost]]:
    if projector.norm:
        area = projector.merge**2
        width = projector.linears[0][0]
        norm = pointwise.layer_norm if projector.norm == "layer" else pointwise.rms_norm
        cost = norm(rows, width, widths) if merged else norm(rows * area, width // area, widths)
        yield f"{prefix}_norm", cost
    for position, (in_features, out_features) in enumerate(projector.linears, start=1):
        if position > 1:
            yield f"{prefix}_act_{position - 1}", pointwise.gelu(rows * in_features, widths)
        yield f"{prefix}_{position}", gemm.linear(rows, in_features, out_features, widths, bias=True)


def parameters(model: ModelSpec) -> float:
    """Stored parameters; a newline token is one more row."""
    projector = model.projector
    if projector is None:
        return 0.0
    if projector.resampler is not None:
        return resampler.parameters(projector.resampler)
    total = (1 + projector.deepstack) * sum(i * o + o for i, o in projector.linears)
    if projector.norm:
        vectors = 2 if projector.norm == "layer" else 1
        merged = projector.linears[0][0]
        single = merged if projector.norm_merged else merged // projector.merge**2
        total += vectors * (single + projector.deepstack * merged)
    return float(total + (model.decoder.hidden if projector.newline_token else 0))
