"""What choosing tokens costs: scoring, selecting, gathering, merging, by scorer name.

`reduction_ops` turns a `Cut` into named operations (score, select, gather, merge). A scorer is one
entry of `SCORERS`; the runtime's policies carry the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from . import llm_scorers, visual_scorers
from .llm_scorers import pagerank_eager_flops, pagerank_fused
from .reduction import Cut, NamedCosts, ScoreContext, gather, select
from .visual_scorers import bipartite_similarity_flops

__all__ = [
    "EXPOSES_ATTENTION",
    "REDUCTION_OPS",
    "SCORERS",
    "TOWER_SCORERS",
    "Cut",
    "ScoreContext",
    "bipartite_similarity_flops",
    "gather",
    "pagerank_eager_flops",
    "pagerank_fused",
    "reduction_ops",
    "select",
]

REDUCTION_OPS = ("score", "select", "gather", "merge")

SCORERS: Mapping[str, Callable[[Cut, ScoreContext], NamedCosts]] = {
    "pagerank": llm_scorers.pagerank,
    "last_row": llm_scorers.attention_row,
    "last_query": llm_scorers.next_layer_row,
    "text_raters": llm_scorers.text_raters,
    "pivot_cosine": llm_scorers.pivot_cosine,
    "bipartite_cosine": visual_scorers.bipartite,
    "cls_attention": visual_scorers.class_attention,
    "cls_attention_contextual": visual_scorers.class_attention_contextual,
    "max_min_cosine": visual_scorers.max_min_cosine,
    "evs": visual_scorers.temporal_cosine,
    "mean_key_bipartite": visual_scorers.mean_key_bipartite,
    "none": llm_scorers.positional,
    "uniform": llm_scorers.positional,
    "random": llm_scorers.positional,
}

# Where a scorer that reads a materialised matrix makes attention run eager: in the layer that is
# cut, in every decoder layer, or in every tower layer. Scorers left out look at no attention matrix.
EXPOSES_ATTENTION: Mapping[str, Literal["layer", "decoder", "tower"]] = {
    "pagerank": "layer",
    "last_row": "layer",
    "text_raters": "decoder",
    "cls_attention_contextual": "tower",
}

# Scorers that merge inside the vision tower, which the runtime does not do.
TOWER_SCORERS = frozenset({"mean_key_bipartite"})


def reduction_ops(scorer: str, cut: Cut, context: ScoreContext) -> NamedCosts:
    """The operations of a cut, in execution order. Masking ranks, but moves nothing."""
    named = SCORERS[scorer](cut, context)
    if context.implementation == "masked":
        return tuple((name, cost) for name, cost in named if name != "gather")
    return named
