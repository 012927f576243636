"""The projector between tower and language model: merging, linear layers with GELU between, pooling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ..ops import gemm, pointwise
from ..ops.op import Op, OpCost, packed_parameters, stored_parameters
from ..types import ModelSpec, ProjectorSpec, TowerLoad, VisionSpec
from ..types.formats import Widths
from . import resampler

__all__ = ["deepstack_ops", "input_width", "ops", "packed", "parameters"]


def ops(
    model: ModelSpec, widths: Widths, *, inputs: float, load: TowerLoad, patches: float | None = None
) -> Iterator[OpCost]:
    """Ops on all patches that leave the tower; pooling follows where it drops tokens, or comes first.

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
        each = float(load.patches) if patches is None else patches
        yield from resampler.ops(projector.resampler, widths, inputs=inputs, patches=each)
        return
    rows = _rows(vision, projector, inputs, load) if patches is None else inputs * patches
    pools = bool(projector.linears and patches is None and load.pooled_in)
    if pools and projector.pools_first:
        width, share = projector.linears[0][0], inputs / load.inputs
        pooled_in, pooled_out = share * load.pooled_in, share * load.pooled_out
        yield _op("pool", "x"), pointwise.pool(pooled_in * width, pooled_out * width, widths)
        rows = rows if load.projected else rows - pooled_in + pooled_out
        yield from _mlp(projector, widths, rows, "proj", merged=False, before="pool")
        return
    yield from _mlp(projector, widths, rows, "proj", merged=projector.norm_merged)
    if pools:
        width, share = projector.linears[-1][1], inputs / load.inputs
        last = _linear_name("proj", len(projector.linears))
        elements = (share * load.pooled_in * width, share * load.pooled_out * width)
        planes = share * load.pooled_grids * width if projector.bilinear else None
        yield _op("pool", last), pointwise.pool(*elements, widths, planes=planes)


def deepstack_ops(model: ModelSpec, widths: Widths, *, inputs: float, load: TowerLoad) -> Iterator[OpCost]:
    """One of the mergers on features of an earlier layer."""
    vision, projector = model.vision, model.projector
    if vision is not None and projector is not None and projector.deepstack + projector.idle_deepstack:
        rows = _rows(vision, projector, inputs, load)
        yield from _mlp(projector, widths, rows, "deepstack", merged=True)


def _rows(vision: VisionSpec, projector: ProjectorSpec, inputs: float, load: TowerLoad) -> float:
    if load.projected:
        return inputs * load.projected / load.inputs
    each = load.patches + (1 if projector.keeps_class_token else 0)
    return inputs * vision.tiles * each / projector.merge**2


def _mlp(
    projector: ProjectorSpec, widths: Widths, rows: float, prefix: str, *, merged: bool, before: str = "x"
) -> Iterator[OpCost]:
    if projector.norm:
        area = projector.merge**2
        width = projector.linears[0][0]
        norm = pointwise.layer_norm if projector.norm == "layer" else pointwise.rms_norm
        cost = norm(rows, width, widths) if merged else norm(rows * area, width // area, widths)
        yield _op(f"{prefix}_norm", before), cost
        before = f"{prefix}_norm"
    for position, (in_features, out_features) in enumerate(projector.linears, start=1):
        if position > 1:
            activation = f"{prefix}_act_{position - 1}"
            yield _op(activation, before), pointwise.gelu(rows * in_features, widths)
            before = activation
        product = _linear_name(prefix, position)
        yield _op(product, before), gemm.linear(rows, in_features, out_features, widths, bias=True)
        before = product


def input_width(projector: ProjectorSpec) -> int:
    """Features of one of its input rows: of `merge`² patches together."""
    if projector.resampler is not None:
        return projector.resampler.tower_width
    return projector.linears[0][0] if projector.linears else 0


def _op(name: str, *reads: str) -> Op:
    """Every rank runs the whole projector, or its share of the images."""
    return Op(name, "projector", "replicated", reads=reads)


def _linear_name(prefix: str, position: int) -> str:
    return f"{prefix}_{position}"


def parameters(model: ModelSpec) -> float:
    """Stored parameters; a newline token is one more row, separators are two."""
    projector = model.projector
    if projector is None:
        return 0.0
    total = _counted(model, projector, stored_parameters) + 2 * projector.separators
    return total + (model.decoder.hidden if projector.newline_token and projector.resampler is None else 0)


def packed(model: ModelSpec) -> float:
    """Those of `parameters` that quantisation packs."""
    return _counted(model, model.projector, packed_parameters) if model.projector is not None else 0.0


def _counted(model: ModelSpec, projector: ProjectorSpec, count: Callable[[Iterable[OpCost]], float]) -> float:
    widths, load = Widths(weights=1.0, activations=1.0, kv=1.0), TowerLoad(sequences=1, rows=1, columns=1)
    total = count(ops(model, widths, inputs=1.0, load=load))
    if projector.resampler is not None:
        return total
    mergers = projector.deepstack + projector.idle_deepstack
    return total + mergers * count(deepstack_ops(model, widths, inputs=1.0, load=load))
