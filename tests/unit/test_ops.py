"""Each formula once, by hand, on numbers small enough to follow. Bytes an element: w 1, a 2, kv 4."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from aimcost.errors import InvalidValueError
from aimcost.methods.aim.cost import bipartite_merge_flops, pagerank_eager_flops, pagerank_fused
from aimcost.methods.registry import all_scorers, find_scorer, reduction_ops
from aimcost.models import decoder as decoder_ops
from aimcost.models import projector as projector_ops
from aimcost.models import vit
from aimcost.ops import Cost, attention, gemm, pointwise
from aimcost.ops.attention import AttentionShape
from aimcost.ops.op import OpCost
from aimcost.ops.reduction import Cut, ScoreContext
from aimcost.types import DecoderSpec, ModelSpec, Precision, ProjectorSpec, TowerLoad, VisionSpec, Workload
from aimcost.types.formats import Widths, bytes_per_element

W = Widths(weights=1.0, activations=2.0, kv=4.0)
DECODER = DecoderSpec(hidden=8, intermediate=20, layers=3, heads=4, kv_heads=2, head_dim=3, vocab=50)
TOWER = VisionSpec(
    hidden=6, intermediate=10, layers=2, stored_layers=3, heads=2, image_size=28, patch_size=14, class_token=True
)
MODEL = ModelSpec(
    name="hand",
    family="llava",
    decoder=DECODER,
    vision=TOWER,
    projector=ProjectorSpec(linears=((6, 8), (8, 8)), tokens_per_image=4, tokens_per_frame=1, newline_token=True),
)
LOAD = TowerLoad(sequences=3, rows=2, columns=2)
CONTEXT = ScoreContext(model=MODEL, batch=2, widths=W)


def by_name(ops: Iterable[OpCost]) -> dict[str, Cost]:
    return {op.name: cost for op, cost in ops}


def moved(cost: Cost) -> tuple[float, ...]:
    """Weights, activations and cache read; activations and cache written."""
    return (
        cost.read_weights,
        cost.read_activations,
        cost.read_kv,
        cost.write_activations,
        cost.write_kv,
    )


def test_widths() -> None:
    assert [bytes_per_element(name) for name in ("fp32", "bf16", "fp16", "fp8", "int8", "int4")] == [
        4,
        2,
        2,
        1,
        1,
        0.5,
    ]
    packed = Precision(weights="int4", activations="bf16", kv="fp8", tower="int8")
    decoder, tower, head = (Widths.of(packed, part) for part in ("decoder", "tower", "lm_head"))
    assert (decoder.weights, decoder.unpacked, decoder.activations, decoder.kv) == (0.5, 2, 2, 1)
    assert (tower.weights, tower.unpacked, head.weights) == (1, 2, 2)
    with pytest.raises(InvalidValueError, match="fp7"):
        bytes_per_element("fp7")


def test_linear() -> None:
    cost = gemm.linear(5.0, 3, 7, W, bias=True)
    assert cost.flops == 2 * 5 * 3 * 7
    # weights 3·7 + 7 bias, input 5·3·2, output 5·7·2
    assert moved(cost) == (28, 30, 0, 70, 0)
    assert cost.bytes == 128
    assert cost.dims == {"m": 5, "n": 7, "k": 3}


def test_linear_to_the_cache() -> None:
    cost = gemm.linear(5.0, 3, 7, W, to_kv=True)
    assert moved(cost) == (21, 30, 0, 0, 5 * 7 * 4)


def test_norms() -> None:
    rms, layer = pointwise.rms_norm(5.0, 3, W), pointwise.layer_norm(5.0, 3, W)
    # square, sum, scale, multiply; and mean, subtract, shift more
    assert (rms.flops, layer.flops) == (4 * 15, 7 * 15)
    # one vector of weights, or two; 15 elements of 2 bytes in and out
    assert moved(rms) == (3, 30, 0, 30, 0)
    assert moved(layer) == (6, 30, 0, 30, 0)


def test_rope() -> None:
    cost = pointwise.rope(batch=2, q_len=5.0, heads=4, kv_heads=2, head_dim=3, widths=W)
    queries, keys = 2 * 5 * 4 * 3, 2 * 5 * 2 * 3
    assert cost.flops == 3 * (queries + keys)
    # cos and sin, 5·3 each, are read once for batch and heads; k goes to the cache
    assert moved(cost) == (0, (queries + keys + 30) * 2, 0, queries * 2, keys * 4)


def test_elementwise() -> None:
    assert (pointwise.add(10.0, W).flops, moved(pointwise.add(10.0, W))) == (10, (0, 40, 0, 20, 0))
    # silu(gate)·up: negate, exp, add, divide, multiply
    assert (pointwise.gated_silu(10.0, W).flops, moved(pointwise.gated_silu(10.0, W))) == (50, (0, 40, 0, 20, 0))
    assert (pointwise.gelu(10.0, W).flops, moved(pointwise.gelu(10.0, W))) == (80, (0, 20, 0, 20, 0))
    # four weighted inputs an output
    pooled = pointwise.pool(9.0, 4.0, W, planes=1.0)
    assert (pooled.flops, moved(pooled)) == (32, (0, 18, 0, 8, 0))


def test_embedding() -> None:
    cost = pointwise.embed(5.0, 8, W)
    assert (cost.flops, moved(cost)) == (0, (40, 0, 0, 80, 0))


@pytest.mark.parametrize(
    ("q", "kv", "pairs"),
    [
        (4, 4, 10),  # 1 + 2 + 3 + 4
        (1, 9, 9),  # a decode step sees everything
        (2, 5, 9),  # 4 + 5
        (1, 1, 1),
    ],
)
def test_causal_pairs(q: int, kv: int, pairs: int) -> None:
    assert attention.causal_pairs(float(q), float(kv)) == pairs


SHAPE = AttentionShape(batch=2.0, heads=4.0, kv_heads=2.0, head_dim=3.0, q_len=4.0, kv_len=4.0, causal=True)
FULL = replace(SHAPE, causal=False)


def test_fused_attention() -> None:
    cost = attention.fused(SHAPE, widths=W, onchip_bytes=0.0)
    # two products, 2·d each a pair: 4·3 FLOPs, 2·4 heads, 10 of 16 pairs
    assert cost.flops == 12 * 8 * 10
    assert cost.flops_full_square == 12 * 8 * 16
    # q and o: 2·4·4·3 elements of 2 bytes; k and v: 2·4·2·3 each, of 4 bytes
    assert moved(cost) == (0, 192, 2 * 48 * 4, 192, 0)


def test_fused_attention_rereads_keys_when_queries_do_not_fit() -> None:
    # the queries of one group: 4 rows · 2 heads · 3 · 2 bytes = 48; 20 on chip make three passes
    cost = attention.fused(SHAPE, widths=W, onchip_bytes=20.0)
    assert cost.read_kv == 3 * 2 * 48 * 4


def test_fused_attention_of_a_tower_caches_nothing() -> None:
    cost = attention.fused(FULL, widths=W, onchip_bytes=0.0, kv_cached=False)
    assert cost.flops == cost.flops_full_square == 12 * 8 * 16
    assert moved(cost) == (0, 192 + 2 * 48 * 2, 0, 192, 0)


def test_eager_attention() -> None:
    qk, sv = attention.eager_products(SHAPE, widths=W)
    assert qk.flops == sv.flops == 6 * 8 * 10
    assert qk.flops_full_square == sv.flops_full_square == 6 * 8 * 16
    # scores: 8 heads · 16 · 2 bytes, written by one and read by the other
    assert moved(qk) == (0, 192, 192, 256, 0)
    assert moved(sv) == (0, 256, 192, 192, 0)
    softmax = attention.eager_softmax(SHAPE, widths=W)
    assert (softmax.flops, softmax.flops_full_square) == (5 * 8 * 10, 0)
    assert moved(softmax) == (0, 256, 0, 256, 0)


def test_products_beyond_int64() -> None:
    """4·64·128·(1e8)² is 3.3e20, more than 2^63: columns are float64."""
    tokens = np.array([1e8])
    shape = AttentionShape(
        batch=1.0, heads=64.0, kv_heads=8.0, head_dim=128.0, q_len=tokens, kv_len=tokens, causal=False
    )
    big = attention.fused(shape, widths=W, onchip_bytes=0.0)
    assert big.flops == pytest.approx([4 * 64 * 128 * 1e16], rel=1e-12)


def test_decoder_layer() -> None:
    costs = by_name(decoder_ops.layer_ops(DECODER, W, batch=2, q_len=5.0, kv_len=5.0, kernel="flash", onchip_bytes=0.0))
    assert list(costs) == [
        "attn_norm",
        "q_proj",
        "k_proj",
        "v_proj",
        "rope",
        "fused_attention",
        "out_proj",
        "attn_add",
        "mlp_norm",
        "gate_proj",
        "up_proj",
        "mlp_act",
        "down_proj",
        "mlp_add",
    ]
    # 10 rows; head_dim 3 makes q 12 wide and k, v 6, whatever hidden // heads is
    shapes = {name: (c.dims["m"], c.dims["n"], c.dims["k"]) for name, c in costs.items() if c.kind == "gemm"}
    assert shapes == {
        "q_proj": (10, 12, 8),
        "k_proj": (10, 6, 8),
        "v_proj": (10, 6, 8),
        "out_proj": (10, 8, 12),
        "gate_proj": (10, 20, 8),
        "up_proj": (10, 20, 8),
        "down_proj": (10, 8, 20),
    }
    # the activation is intermediate wide
    assert costs["mlp_act"].flops == 5 * 10 * 20
    assert costs["attn_add"].flops == 10 * 8


def test_head_and_parameters() -> None:
    costs = by_name(decoder_ops.head_ops(DECODER, W, batch=2))
    assert list(costs) == ["final_norm", "lm_head"]
    assert costs["lm_head"].flops == 2 * 2 * 8 * 50
    # a layer: 8·(12 + 2·6) + 12·8 + 3·8·20 and two norms of 8; embedding and lm_head; the last norm
    layer = 192 + 96 + 480 + 16
    assert decoder_ops.parameters(DECODER) == 3 * layer + 2 * 50 * 8 + 8


def test_biases_norms_and_ties_in_parameters() -> None:
    spec = DecoderSpec(
        hidden=8,
        intermediate=20,
        layers=1,
        heads=4,
        kv_heads=2,
        head_dim=3,
        vocab=50,
        gated_mlp=False,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        qk_norm=True,
        tied_embeddings=True,
    )
    weights = 192 + 96 + 2 * 8 * 20
    biases = (12 + 6 + 6) + 8 + (20 + 8)
    norms = 16 + 2 * 3
    assert decoder_ops.parameters(spec) == weights + biases + norms + 50 * 8 + 8


def test_tower() -> None:
    assert (TOWER.patches, TOWER.tokens) == (4, 5)  # (28 / 14)², and a class token
    patch = by_name(vit.patch_ops(TOWER, W, inputs=3, load=LOAD))
    # 12 patches of 3·14·14 = 588 pixels
    assert patch["patch_embed"].flops == 2 * 12 * 588 * 6
    layer = by_name(vit.layer_ops(TOWER, W, inputs=3, load=LOAD, kernel="flash", onchip_bytes=0.0))
    assert layer["q_proj"].flops == 2 * 15 * 6 * 6
    assert layer["up_proj"].flops == 2 * 15 * 6 * 10
    assert layer["fused_attention"].flops == 4 * 3 * 5 * 5 * 6  # images apart, nothing masked
    # three stored layers: 4·(36 + 6) + 2·60 + 10 + 6 + 24 = 328 each; then patches with a bias, 5 positions,
    # class token, last norm
    assert vit.parameters(TOWER) == 3 * 328 + 588 * 6 + 6 + 30 + 6 + 12


def test_projector() -> None:
    costs = by_name(projector_ops.ops(MODEL, W, inputs=3, load=replace(LOAD, pooled_in=12, pooled_out=3)))
    assert costs["proj_1"].flops == 2 * 12 * 6 * 8
    assert costs["proj_2"].flops == 2 * 12 * 8 * 8
    assert costs["pool"].flops == 8 * 3 * 8  # one token a frame
    assert "pool" not in by_name(projector_ops.ops(MODEL, W, inputs=3, load=LOAD))
    assert projector_ops.parameters(MODEL) == 6 * 8 + 8 + 8 * 8 + 8 + 8  # and the newline token


def scored(scorer: str, tokens_in: int, tokens_out: int, groups: int = 1) -> dict[str, Cost]:
    cut = Cut(tokens_in=float(tokens_in), tokens_out=float(tokens_out), groups=float(groups))
    return dict(reduction_ops(scorer, cut, CONTEXT))


@pytest.mark.parametrize("scorer", ["none", "uniform", "random"])
def test_positions_only_need_a_copy(scorer: str) -> None:
    costs = scored(scorer, 6, 2)
    assert list(costs) == ["gather"]
    # 2 requests · 2 rows of 8 elements, and an index of 8 bytes a row
    assert (costs["gather"].flops, moved(costs["gather"])) == (0, (0, 64 + 32, 0, 64, 0))


def test_selecting() -> None:
    cost = scored("pagerank", 6, 2)["select"]
    # 2 requests: 6 fp32 scores in, 2 indices of 8 bytes out
    assert (cost.flops, moved(cost)) == (0, (0, 48, 0, 32, 0))


def test_pagerank_fused() -> None:
    cost = pagerank_fused(batch=2, heads=4, kv_heads=2, head_dim=3, tokens=6.0, widths=W)
    pairs = 2 * 4 * 21
    # six passes over q·k (2·3 a pair, scaling, exponential), five of them times a vector (2 more)
    assert cost.flops == pairs * (6 * (6 + 2) + 5 * 2)
    vectors = 2 * 4 * 6 * 4
    assert cost.read_activations == 6 * 2 * 6 * (4 + 2) * 3 * 2 + 2 * 5 * vectors
    assert cost.write_activations == 6 * vectors + 2 * 6 * 4
    assert scored("pagerank", 6, 2)["score"].flops == cost.flops


def test_pagerank_as_released() -> None:
    # 4 heads · 36 entries: temperature, softmax, five vector products; square and mean; root
    assert pagerank_eager_flops(4.0, 6.0) == 144 * 6 + 2 * 144 * 5 + 2 * 4 * 6 + 6


def test_last_row() -> None:
    cost = scored("last_row", 6, 2)["score"]
    # 2·4 heads · 6 entries: 2·3 for q·k, 5 for the softmax, 1 for the mean
    assert cost.flops == 48 * (6 + 5 + 1)
    assert cost.read_kv == 2 * 6 * 2 * 3 * 4
    assert cost.write_activations == 2 * 6 * 4


def test_last_query_recomputes_the_next_layers_projections() -> None:
    row, cost = scored("last_row", 6, 2)["score"], scored("last_query", 6, 2)["score"]
    # 12 rows: norm at 4 an element, and 8 → 12 + 2·6 = 24
    assert cost.flops - row.flops == 2 * 12 * 8 * 24 + 4 * 12 * 8
    assert cost.read_weights == 8 * 24


def test_bipartite_merging() -> None:
    # 7 tokens of width 8: 4 even ones against 3 odd ones, and 4 an element
    assert bipartite_merge_flops(7.0, 8.0) == 2 * 4 * 3 * 8 + 4 * 7 * 8
    costs = scored("bipartite_cosine", 7, 4, groups=3)
    assert list(costs) == ["score", "select", "merge"]
    total = sum(cost.flops for cost in costs.values())
    assert total == 2 * 3 * bipartite_merge_flops(7.0, 8.0)
    # 6 groups: 4 candidates, of which 3 merge
    assert costs["select"].read_activations == 6 * 4 * 4
    assert costs["select"].write_activations == 6 * 3 * 8
    assert costs["merge"].write_activations == 6 * 4 * 8 * 2


def test_published_merging_figure() -> None:
    """One similarity over all 32·196 tokens, as the overhead table has it: 88.25 and 4.18 GFLOP.

    The cuts of the second are those of the AIM row: 1568 visual tokens, an eighth less a layer.
    """
    wrong = 2 * 3136 * 3136 * 3584 + 4 * 6272 * 3584 + 2 * 1568 * 1568 * 3584 + 4 * 3136 * 3584
    found = bipartite_merge_flops(6272.0, 3584.0) + bipartite_merge_flops(3136.0, 3584.0)
    assert found == wrong
    assert wrong / 1e9 == pytest.approx(88.25, abs=5e-3)
    pruning = sum(pagerank_eager_flops(28.0, 1568 * (1 - k / 8) + 100.0) for k in range(8))
    assert pruning / 1e9 == pytest.approx(4.18, abs=5e-3)


def test_class_attention() -> None:
    costs = scored("cls_attention", 4, 1, groups=3)
    # 6 images: 4² entries of q·k over 6, and their softmax; one kept token against 4 and 32 neighbours
    assert costs["score"].flops == 6 * (2 * 16 * 6 + 5 * 16)
    assert costs["merge"].flops == 6 * 1 * 6 * (2 * 4 + 64)


@pytest.mark.parametrize("implementation", ["fused", "eager", "masked"])
@pytest.mark.parametrize("scorer", all_scorers())
def test_every_scorer(scorer: str, implementation: str) -> None:
    """Finite, linear in the batch, and no fewer operations where more tokens are scored."""

    def total(batch: int, tokens: float) -> float:
        context = ScoreContext(model=MODEL, batch=batch, widths=W, text_tokens=5, implementation=implementation)
        counts = find_scorer(scorer).counts(Workload(), int(tokens / 2))
        cut = Cut(tokens_in=tokens, tokens_out=tokens / 2, groups=3.0, counts=counts)
        costs = [cost for _, cost in reduction_ops(scorer, cut, context)]
        for cost in costs:
            assert min(moved(cost)) >= 0
            assert np.isfinite(cost.bytes)
            assert cost.bytes > 0
        return float(sum(cost.flops for cost in costs))

    assert total(4, 64.0) == pytest.approx(4 * total(1, 64.0), rel=1e-12)
    assert 0 <= total(1, 64.0) <= total(1, 128.0)


def test_sizes_of_a_measurement_are_priced_as_one_pass() -> None:
    # 2 sequences, 4 heads of width 3 over 2 key heads, 2 queries at the end of 5 keys: 4 + 5 of 10 pairs are seen
    dims = {"batch": 2.0, "heads": 4.0, "kv_heads": 2.0, "head_dim": 3.0, "q_len": 2.0, "kv_len": 5.0, "causal": 1.0}
    causal, full = (attention.single_pass(dims, causal=causal, widths=W) for causal in (True, False))
    assert causal.flops == 2 * 4 * 9 * 4 * 3
    assert full.flops == 2 * 4 * 10 * 4 * 3
    # queries and outputs 2·2·4·3 elements of 2 bytes; keys and values 2·5·2·3 elements of 4 bytes, twice
    assert moved(causal) == moved(full) == (0, 96, 480, 96, 0)


def test_a_product_is_two_flops_an_element_of_its_cuboid() -> None:
    assert gemm.product_flops(3, 5, 7) == 210 == gemm.linear(3, 7, 5, W).flops
