"""What CDPruner's relevance, its kernel, and the greedy inference of its DPP cost."""

from __future__ import annotations

import numpy as np

from ...ops.cost import Array, Cost
from ...ops.reduction import INDEX_BYTES, SCORE_BYTES, Cut, NamedCosts, ScoreContext, gather
from ..registry import Launches, Scorer, register

__all__ = ["CONDITIONAL_DPP"]

# The text tower of openai/clip-vit-large-patch14-336 (its config.json): what the released code asks of every tower
TEXT_LAYERS, TEXT_WIDTH, TEXT_INNER, TEXT_POSITIONS, PROJECTION = 12, 768, 3072, 77, 768
TEXT_WEIGHTS = TEXT_LAYERS * (4 * TEXT_WIDTH**2 + 2 * TEXT_WIDTH * TEXT_INNER) + TEXT_WIDTH * PROJECTION


def conditional_dpp(cut: Cut, context: ScoreContext) -> NamedCosts:
    """CDPruner: relevance to the question, similarity of all pairs, then one token after another.

    The question runs through CLIP's text tower in segments of 77 positions (its products: 2 a weight and position;
    attention and norms are left out); the crop's tokens through its visual projection, and each is compared with
    each segment. Cosine of every pair of projected tokens (2·n²·h, 3·n·h for the norms), scaled by both relevances
    (2·n²). Step i of the T steps subtracts the i rows before it (2·i·n) from a row of the kernel, divides, squares
    and subtracts (4·n): n·(T·(T − 1) + 4·T) in all.
    """
    decoder, vision, n, kept = context.model.decoder, context.model.vision, cut.tokens_in, cut.tokens_out
    width, tower = float(decoder.hidden), float(vision.hidden if vision else decoder.hidden)
    rows, size = context.batch * cut.groups, context.widths.activations
    # released code casts the normalised tokens to fp32
    compared = SCORE_BYTES if context.materialised else size
    segments = float(np.ceil(max(1, context.text_tokens) / TEXT_POSITIONS))
    question = 2.0 * context.batch * segments * TEXT_POSITIONS * TEXT_WEIGHTS
    relevance = question + rows * n * PROJECTION * (2.0 * tower + 2.0 * segments)
    score = Cost(
        kind="score",
        dims={"tokens": n},
        flops=relevance + rows * (2.0 * n * n * width + 3.0 * n * width + 2.0 * n * n),
        read_weights=(TEXT_WEIGHTS + tower * PROJECTION) * context.widths.unpacked,
        read_activations=rows * n * (2.0 * width * compared + tower * size),
        write_activations=rows * n * n * SCORE_BYTES,
    )
    earlier = kept * (kept - 1.0) / 2
    choose = Cost(
        kind="select",
        dims={"rows": rows, "candidates": n, "kept": kept},
        flops=rows * n * (2.0 * earlier + 4.0 * kept),
        read_activations=rows * n * SCORE_BYTES * (earlier + 2.0 * kept),
        write_activations=rows * (kept * INDEX_BYTES + 2.0 * kept * n * SCORE_BYTES),
    )
    keep = gather(rows * kept, width, context.widths)
    return (("score", score), ("select", choose), ("gather", keep))


def _one_by_one(cut: Cut, context: ScoreContext) -> Array:
    """Steps of the greedy loop: one for each token that a crop keeps, all crops at once."""
    return cut.tokens_out


CONDITIONAL_DPP = register(
    Scorer(
        name="conditional_dpp",
        cost=conditional_dpp,
        reads="text_tower",
        # the text tower's layers fused (norm, qkv, attention, out, norm, two products), then cosine, relevance, kernel;
        # a step takes the largest, reads its row, subtracts those before, scales, lowers the rest, hides the chosen
        launches=Launches(score=7.0 * TEXT_LAYERS + 10.0, steps=_one_by_one, per_step=6.0),
        # CLIP's text model 255 (eager attention, run once under transformers 5.24), post norm, cast and projection 3,
        # encode_images and the boolean index 27; cuda.synchronize, the tokens' ids and the index wait. A step issues
        # 13 operators and copies four indices made on the host, each of which waits
        eager_launches=Launches(
            total=285.0,
            syncs=4.0,
            steps=_one_by_one,
            per_step=17.0,
            syncs_per_step=4.0,
            counted="Theia-4869/CDPruner at 9541616",
        ),
    )
)
