"""What VisionZip's scoring and its contextual tokens cost."""

from __future__ import annotations

from collections.abc import Mapping

from ...ops.cost import Cost
from ...ops.reduction import SCORE_BYTES, Cut, NamedCosts, ScoreContext, gather, required_count, select
from ...types import Workload
from ..registry import Launches, Scorer, register

__all__ = ["CLASS_ATTENTION_CONTEXTUAL", "CONTEXTUAL", "DOMINANT", "OF", "contextual_tokens", "received_attention"]

NAME = "cls_attention_contextual"
# dvlab-research/VisionZip: 191 dominant tokens (the class token counted) and 30 contextual ones of 576
DOMINANT, CONTEXTUAL, OF = 191, 30, 576


def published_split(kept: int) -> tuple[int, int]:
    """Dominant and contextual tokens among `kept`: five in 32 are contextual.

    Published budgets: 54 + 10 of 64 (README), 108 + 20 of 128, 162 + 30 of 192 (arXiv 2412.04467). The
    released code's default, 191 + 30, is none of them.
    """
    contextual = round(kept * 30 / (162 + 30))
    return kept - contextual, contextual


def _counts(workload: Workload, kept: int) -> dict[str, int]:
    dominant, contextual = published_split(kept)
    return {"dominant": dominant, "contextual": contextual}


def contextual_tokens(counts: Mapping[str, int], kept: int) -> int:
    """Of the `kept` tokens of a group, those that are means of what the others hold."""
    return min(kept, required_count(counts, "contextual", scorer=NAME))


def received_attention(cut: Cut, context: ScoreContext) -> Cost:
    """Ranking tokens by the attention that they receive in one layer of the tower, averaged over heads.

    With a class token the fused form is one attention row; without one (SigLIP) a token's score is
    the attention it receives from all, so the square is computed. Eager towers leave the matrix in
    memory.
    """
    vision = context.model.vision
    width = float(vision.hidden if vision else context.model.decoder.hidden)
    heads = float(vision.heads if vision else context.model.decoder.heads)
    rows, n, size = context.batch * cut.groups, cut.tokens_in, context.widths.activations
    queries = 1.0 if vision is not None and vision.class_token else n
    entries = rows * heads * queries * n
    return Cost(
        kind="score",
        dims={"tokens": n},
        flops=entries if context.materialised else rows * queries * n * (2.0 * width + 6.0 * heads),
        read_activations=entries * size if context.materialised else rows * (queries + n) * width * size,
        write_activations=rows * n * SCORE_BYTES,
    )


def class_attention_contextual(cut: Cut, context: ScoreContext) -> NamedCosts:
    """VisionZip: the most attended tokens stay, the others are averaged into a few contextual ones.

    Contextual tokens: cosine of the rest with them, then means.
    """
    vision = context.model.vision
    width = float(vision.hidden if vision else context.model.decoder.hidden)
    rows, n, kept = context.batch * cut.groups, cut.tokens_in, cut.tokens_out
    size, score = context.widths.activations, received_attention(cut, context)
    contextual = float(contextual_tokens(cut.counts, int(kept)))
    keep = gather(rows * (kept - contextual), width, context.widths)
    ranked = (("score", score), ("select", select(rows, n, kept)))
    if not contextual:
        return (*ranked, ("gather", keep))
    rest = n - (kept - contextual)
    merge = Cost(
        kind="merge",
        dims={"rows": rows * rest, "width": width},
        flops=rows * rest * width * (2.0 * contextual + 3.0 + 1.0),
        read_activations=rows * 2.0 * rest * width * size,
        write_activations=rows * contextual * width * size,
    )
    return (*ranked, ("merge", merge), ("gather", keep))


CLASS_ATTENTION_CONTEXTUAL = register(
    Scorer(
        name=NAME,
        cost=class_attention_contextual,
        reads="tower",
        launches=Launches(score=2.0),
        # top-k, masks, contextual matching; two masked_select and three boolean indices wait
        eager_launches=Launches(total=37.0, syncs=5.0, counted="dvlab-research/VisionZip at 3151f6d"),
        exposes="tower",
        counts=_counts,
        merges=True,
    )
)
