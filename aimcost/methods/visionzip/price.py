"""What VisionZip's scoring and its contextual tokens cost."""

from __future__ import annotations

from ...ops.cost import Cost
from ...ops.reduction import SCORE_BYTES, Cut, NamedCosts, ScoreContext, gather, select
from ..registry import Launches, Scorer, register

__all__ = ["CLASS_ATTENTION_CONTEXTUAL"]

# VisionZip (dvlab-research/VisionZip): of 221 kept tokens 30 are means of what the others hold.
VISIONZIP_CONTEXTUAL = 30.0 / 221.0


def class_attention_contextual(cut: Cut, context: ScoreContext) -> NamedCosts:
    """VisionZip: the most attended tokens stay, the others are averaged into a few of their own.

    With a class token the fused price is one attention row; without one (SigLIP) a token's score is
    the attention it receives from all, so the square is computed. Eager towers leave the matrix in
    memory. Of the kept, 30 in 221 are contextual: cosine of the rest with them, then means.
    """
    vision = context.model.vision
    width = float(vision.hidden if vision else context.model.decoder.hidden)
    heads = float(vision.heads if vision else context.model.decoder.heads)
    rows, n, kept = context.batch * cut.groups, cut.tokens_in, cut.tokens_out
    size = context.widths.activations
    queries = 1.0 if vision is not None and vision.class_token else n
    entries = rows * heads * queries * n
    flops = entries if context.materialised else rows * queries * n * (2.0 * width + 6.0 * heads)
    score = Cost(
        kind="score",
        dims={"tokens": n},
        flops=flops,
        read_activations=entries * size if context.materialised else rows * (queries + n) * width * size,
        write_activations=rows * n * SCORE_BYTES,
    )
    contextual = kept * VISIONZIP_CONTEXTUAL
    rest = n - (kept - contextual)
    merge = Cost(
        kind="merge",
        dims={"rows": rows * rest, "width": width},
        flops=rows * rest * width * (2.0 * contextual + 3.0 + 1.0),
        read_activations=rows * 2.0 * rest * width * size,
        write_activations=rows * contextual * width * size,
    )
    keep = gather(rows * (kept - contextual), width, context.widths)
    return (("score", score), ("select", select(rows, n, kept)), ("merge", merge), ("gather", keep))


CLASS_ATTENTION_CONTEXTUAL = register(
    Scorer(
        name="cls_attention_contextual",
        price=class_attention_contextual,
        reads="tower",
        launches=Launches(score=2.0),
        exposes="tower",
        merges=True,
    )
)
