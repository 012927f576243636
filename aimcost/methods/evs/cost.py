"""What EVS's comparison of neighbouring frames costs."""

from __future__ import annotations

from ...ops.cost import Cost
from ...ops.reduction import SCORE_BYTES, Cut, NamedCosts, ScoreContext, cut_ops
from ...types import Workload
from ..registry import Launches, Scorer, register

__all__ = ["TEMPORAL_COSINE"]


def temporal_cosine(cut: Cut, context: ScoreContext) -> NamedCosts:
    """EVS: cosine of each token with the one at its place in the frame before (vLLM multimodal/evs.py).

    Norms (2 an element) and the product (2); frames are read once. The first frame always stays.
    """
    elements = context.batch * cut.groups * cut.tokens_in * context.model.decoder.hidden
    score = Cost(
        kind="score",
        dims={"tokens": cut.tokens_in},
        flops=4.0 * elements,
        read_activations=elements * context.widths.activations,
        write_activations=context.batch * cut.groups * cut.tokens_in * SCORE_BYTES,
    )
    return (("score", score), *cut_ops(cut, context, ranked=True))


def _counts(workload: Workload, kept: int) -> dict[str, int]:
    return {"frames": workload.groups}


TEMPORAL_COSINE = register(
    Scorer(
        name="evs",
        cost=temporal_cosine,
        reads="embeddings",
        launches=Launches(score=2.0),
        # compute_retention_mask 18, and the boolean index of the caller
        eager_launches=Launches(total=20.0, syncs=1.0, counted="vllm-project/vllm at 094f117"),
        counts=_counts,
        across_groups=True,
    )
)
