"""The projector between tower and language model: linear layers with GELU between, and pooling."""

from __future__ import annotations

from collections.abc import Iterator

from ..ops import Cost, Widths, gemm, pointwise
from ..types import ModelSpec

__all__ = ["ops", "parameters"]


def ops(
    model: ModelSpec, widths: Widths, *, images: float, is_video: bool, patches: float | None = None
) -> Iterator[tuple[str, Cost]]:
    """Operations on all patches of `images` images or frames; pooling follows where it drops tokens.

    `patches` is how many of an image leave the tower, where a method merges inside it.
    """
    vision, projector = model.vision, model.projector
    if vision is None or projector is None:
        return
    rows = images * (vision.patches if patches is None else patches)
    for position, (in_features, out_features) in enumerate(projector.linears, start=1):
        if position > 1:
            yield f"proj_act_{position - 1}", pointwise.gelu(rows * in_features, widths)
        yield f"proj_{position}", gemm.linear(rows, in_features, out_features, widths, bias=True)
    tokens = projector.tokens_per_frame if is_video else projector.tokens_per_image
    if projector.linears and patches is None and tokens < vision.patches:
        width = projector.linears[-1][1]
        yield "pool", pointwise.pool(rows * width, images * tokens * width, widths)


def parameters(model: ModelSpec) -> float:
    """Stored parameters; a newline token is one more row."""
    if model.projector is None:
        return 0.0
    total = sum(i * o + o for i, o in model.projector.linears)
    return float(total + (model.decoder.hidden if model.projector.newline_token else 0))
