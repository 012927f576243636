"""What it costs to choose or merge visual tokens in the tower, or between it and the language model."""

from __future__ import annotations

import numpy as np

from .cost import Array, Cost
from .reduction import INDEX_BYTES, SCORE_BYTES, Cut, NamedCosts, ScoreContext, cut_ops, gather, select

__all__ = [
    "bipartite",
    "bipartite_similarity_flops",
    "class_attention",
    "class_attention_contextual",
    "max_min_cosine",
    "mean_key_bipartite",
    "temporal_cosine",
]

# VisionZip (dvlab-research/VisionZip): of 221 kept tokens 30 are means of what the others hold.
VISIONZIP_CONTEXTUAL = 30.0 / 221.0


def bipartite_similarity_flops(tokens: Array, width: float) -> Array:
    """FLOPs of one merge step over `tokens` tokens: the A x B products, and 4 an element for the
    norms, the scaling and the means. Source: the overhead table of arXiv 2412.03248."""
    return 2.0 * np.ceil(tokens / 2) * np.floor(tokens / 2) * width + 4.0 * tokens * width


def bipartite(cut: Cut, context: ScoreContext) -> NamedCosts:
    """AIM's merging step: cosine of every even token with every odd one, in each group."""
    width, n = context.model.decoder.hidden, cut.tokens_in
    groups = context.batch * cut.groups
    evens = np.ceil(n / 2)
    elements = groups * n * width
    size = context.widths.activations
    score = Cost(
        kind="score",
        dims={"launches": 2.0, "tokens": n},
        flops=groups * bipartite_similarity_flops(n, width) - elements,
        read_activations=elements * size,
        write_activations=groups * evens * (SCORE_BYTES + INDEX_BYTES),
    )
    merge = Cost(
        kind="merge",
        dims={"rows": groups * n, "width": width},
        flops=elements,
        read_activations=elements * size,
        write_activations=groups * cut.tokens_out * width * size,
    )
    return (
        ("score", score),
        ("select", select(groups, float(evens), n - cut.tokens_out)),
        ("merge", merge),
    )


def class_attention(cut: Cut, context: ScoreContext) -> NamedCosts:
    """PruMerge: one extra q·kᵀ in the tower's last layer, then each kept token takes in others.

    Kept keys against all keys (2·d an entry) and a weighted mean of 32 neighbours, after
    LLaVA-PruMerge (42Shawn/LLaVA-PruMerge).
    """
    vision = context.model.vision
    width = float(vision.hidden if vision else context.model.decoder.hidden)
    rows, n, kept = context.batch * cut.groups, cut.tokens_in, cut.tokens_out
    size = context.widths.activations
    score = Cost(
        kind="score",
        dims={"launches": 4.0, "tokens": n},
        flops=rows * (2.0 * n * n * width + 5.0 * n * n),
        read_activations=rows * 2.0 * n * width * size,
        write_activations=rows * n * SCORE_BYTES,
    )
    merge = Cost(
        kind="merge",
        dims={"rows": rows * n, "width": width},
        flops=rows * kept * width * (2.0 * n + 2.0 * 32),
        read_activations=rows * 2.0 * n * width * size,
        write_activations=rows * kept * width * size,
    )
    return (("score", score), ("select", select(rows, n, kept)), ("merge", merge))


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
        dims={"launches": 2.0, "tokens": n},
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


def max_min_cosine(cut: Cut, context: ScoreContext) -> NamedCosts:
    """DivPrune: one token after another, always the one farthest from those chosen.

    Cosine of every pair once (2·n²·h). The fused selection keeps a running minimum: a row of the
    matrix a step, T·n. The released one takes the minimum over all chosen rows at each step,
    T²·n / 2. Steps depend on each other, so each is a launch.
    """
    width, n, kept = float(context.model.decoder.hidden), cut.tokens_in, cut.tokens_out
    rows, size = context.batch * cut.groups, context.widths.activations
    score = Cost(
        kind="score",
        dims={"launches": 2.0, "tokens": n},
        flops=rows * (2.0 * n * n * width + 3.0 * n * width),
        read_activations=rows * 2.0 * n * width * size,
        write_activations=rows * n * n * SCORE_BYTES,
    )
    looked_at = rows * n * (kept * (kept + 1.0) / 2.0 if context.materialised else 3.0 * kept)
    minima = 0.0 if context.materialised else kept * n
    choose = Cost(
        kind="select",
        dims={"rows": rows, "candidates": n, "kept": kept, "launches": kept},
        flops=looked_at,
        read_activations=looked_at * SCORE_BYTES,
        write_activations=rows * (kept * INDEX_BYTES + minima * SCORE_BYTES),
    )
    keep = gather(rows * kept, width, context.widths)
    return (("score", score), ("select", choose), ("gather", keep))


def temporal_cosine(cut: Cut, context: ScoreContext) -> NamedCosts:
    """EVS: cosine of each token with the one at its place in the frame before (vLLM multimodal/evs.py).

    Norms (2 an element) and the product (2); frames are read once. The first frame always stays.
    """
    elements = context.batch * cut.groups * cut.tokens_in * context.model.decoder.hidden
    score = Cost(
        kind="score",
        dims={"launches": 2.0, "tokens": cut.tokens_in},
        flops=4.0 * elements,
        read_activations=elements * context.widths.activations,
        write_activations=context.batch * cut.groups * cut.tokens_in * SCORE_BYTES,
    )
    return (("score", score), *cut_ops(cut, context, ranked=True))


def mean_key_bipartite(cut: Cut, context: ScoreContext) -> NamedCosts:
    """ToMe in one tower layer: even tokens against odd ones by their keys' mean over heads.

    The mean (1 an element of the keys), cosine (2 a pair and key element, 3 for the norms), and
    size-weighted means of the hidden states that merge.
    """
    vision = context.model.vision
    width = float(vision.hidden if vision else context.model.decoder.hidden)
    heads = float(vision.heads if vision else context.model.decoder.heads)
    rows, n, removed = context.batch * cut.groups, cut.tokens_in, cut.tokens_in - cut.tokens_out
    size = context.widths.activations
    evens, odds = np.ceil(n / 2), np.floor(n / 2)
    score = Cost(
        kind="score",
        dims={"launches": 3.0, "tokens": n},
        flops=rows * (n * width + (2.0 * evens * odds + 3.0 * n) * width / heads),
        read_activations=rows * n * width * size,
        write_activations=rows * evens * (SCORE_BYTES + INDEX_BYTES),
    )
    merge = Cost(
        kind="merge",
        dims={"rows": rows * n, "width": width},
        flops=rows * width * (2.0 * removed + n),
        read_activations=rows * n * width * size,
        write_activations=rows * cut.tokens_out * width * size,
    )
    return (("score", score), ("select", select(rows, evens, removed)), ("merge", merge))
