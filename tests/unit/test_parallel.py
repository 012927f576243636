"""Several devices: ranks add up to one device, and what they send is the textbook's count."""

from __future__ import annotations

import numpy as np
import pytest

import aimcost
from aimcost.errors import InvalidValueError
from aimcost.inputs.model import load_model
from aimcost.inputs.run import load_run
from aimcost.models import decoder as decoder_ops
from aimcost.models.parallel import bubble, stage_layers
from aimcost.ops.op import Ranks
from aimcost.pricing.host_queue import execution_order
from aimcost.search.bulk import layer_table
from aimcost.types import Precision
from aimcost.types.formats import Widths

VIDEO = {
    "model": "llava-onevision-qwen2-7b",
    "workload": {"frames": 8, "text_tokens": 100, "new_tokens": 5, "batch": 2},
    "method": {"name": "aim", "merge_ratio": 0.25, "l1": 14, "l2": 22},
    "hardware": "nvidia_a100_sxm_80gb",
    "estimator": "roofline",
}
# 32 heads over 8 KV heads
LLAMA = {
    "model": "llama-3.1-8b",
    "workload": {"text_tokens": 2000, "new_tokens": 4, "batch": 3},
    "hardware": "nvidia_h100_sxm",
    "estimator": "roofline",
}
PRODUCTS = ("prefill", "decode")


def split(run: dict, **parallel: object) -> aimcost.Estimate:
    return aimcost.estimate({**run, "parallel": parallel})


def wire(estimate: aimcost.Estimate, name: str, stage: str = "prefill") -> list[dict]:
    return [op for op in estimate.ops() if op["name"] == name and op["stage"] == stage]


@pytest.mark.parametrize("tp", [2, 4, 8])
@pytest.mark.parametrize("full_square", [False, True])
def test_ranks_add_up_to_one_device(tp: int, full_square: bool) -> None:
    one = split(LLAMA).matrix_flops(PRODUCTS, full_square=full_square)
    rank = split(LLAMA, tp=tp).matrix_flops(PRODUCTS, full_square=full_square)
    assert tp * rank == one


def test_ranks_beyond_the_kv_heads_hold_copies() -> None:
    """8 KV heads on 16 ranks: only k_proj and v_proj are computed more than once."""
    run = {**LLAMA, "model": "mistral-7b-v0.3"}  # 32 heads, 8 KV heads
    one, rank = split(run), split(run, tp=16)

    def flops(estimate: aimcost.Estimate, *names: str) -> float:
        return sum(op["flops"] for op in estimate.ops() if op["name"] in names)

    assert 16 * flops(rank, "k_proj", "v_proj") == 2 * flops(one, "k_proj", "v_proj")
    others = ("q_proj", "out_proj", "gate_proj", "up_proj", "down_proj", "fused_attention", "lm_head")
    assert 16 * flops(rank, *others) == flops(one, *others)
    assert 16 * rank.memory.kv_bytes == 2 * one.memory.kv_bytes
    assert any("each is replicated on 2 of them" in note for note in rank.notes)


@pytest.mark.parametrize("tp", [2, 4])
def test_all_reduce_bytes_are_the_textbooks(tp: int) -> None:
    """Two a layer of b·n·h·a bytes; a ring sends 2(t − 1)/t of them."""
    estimate = split(VIDEO, tp=tp)
    for name in ("all_reduce_attn", "all_reduce_mlp"):
        ops = wire(estimate, name)
        messages = [2.0 * n * 3584 * 2 for n in estimate.run.schedule.tokens]
        assert [op["bytes"] for op in ops] == messages
        assert [op["wire_bytes"] for op in ops] == pytest.approx([m * 2 * (tp - 1) / tp for m in messages])
        assert {op["ranks"] for op in ops} == {tp}
        # 600 GB/s is both directions of NVLink 3
        assert [op["time_s"] for op in ops] == pytest.approx([op["wire_bytes"] / 300e9 for op in ops])
        assert {op["bound"] for op in ops} == {"network"}
        steps = wire(estimate, name, "decode")
        assert [op["bytes"] for op in steps] == [4 * 2.0 * 3584 * 2] * 28


def test_logits_are_gathered_after_the_last_layer() -> None:
    """In the order in which the host issues them, not before the first layer."""
    table = split(VIDEO, tp=4).table
    order, decode = execution_order(table)
    names = np.array([segment.name for segment in table.segments])[table.spread(range(len(table.segments)))][order]
    for mask in (decode[order], ~decode[order]):
        assert list(names[mask][-3:]) == ["final_norm", "lm_head", "all_gather_logits"]


def test_norms_are_on_every_rank_and_activations_split() -> None:
    one, rank = split(VIDEO), split(VIDEO, tp=4)
    for name, share in (("attn_norm", 1), ("mlp_add", 1), ("mlp_act", 4)):
        assert sum(op["flops"] for op in wire(one, name)) == share * sum(op["flops"] for op in wire(rank, name))


def test_towers() -> None:
    one = split(VIDEO).stages["vision"]
    assert split(VIDEO, tp=4).stages["vision"] == one
    sharded, data = (split(VIDEO, tp=4, tower=tower) for tower in ("sharded", "data"))
    products = one_flops = split(VIDEO).matrix_flops(["vision"])
    patch = next(op["flops"] for op in sharded.ops() if op["name"] == "patch_embed")
    assert 4 * (sharded.matrix_flops(["vision"]) - patch) == pytest.approx(products - patch, rel=1e-12)
    assert len(wire(sharded, "all_reduce_attn", "vision")) == sharded.run.model.vision.layers
    assert 4 * data.matrix_flops(["vision"]) == one_flops
    (gathered,) = wire(data, "all_gather_visual", "projector")
    assert gathered["bytes"] == 2.0 * 8 * 196 * 3584 * 2


def test_one_rank_holds_its_share() -> None:
    one, rank = split(LLAMA).memory, split(LLAMA, tp=8).memory
    assert 8 * rank.kv_bytes == one.kv_bytes
    assert one.weights_bytes / 8 < rank.weights_bytes < 1.001 * one.weights_bytes / 8  # norms are copied
    assert rank.peak_bytes < one.peak_bytes


def test_pipeline_sends_the_stream_between_stages() -> None:
    one, staged = split(VIDEO), split(VIDEO, pp=4)
    sends = wire(staged, "send_stage")
    assert [op["layer"] for op in sends] == [7, 14, 21]
    tokens = staged.run.schedule.tokens
    assert [op["bytes"] for op in sends] == [2.0 * tokens[layer] * 3584 * 2 for layer in (7, 14, 21)]
    assert staged.matrix_flops(PRODUCTS) == one.matrix_flops(PRODUCTS)
    assert staged.ttft_s == pytest.approx(one.ttft_s + sum(op["time_s"] for op in sends))
    assert staged.memory.weights_bytes < one.memory.weights_bytes / 2
    assert staged.to_dict()["parallel"]["bubble"] == bubble(4, 2) == 3 / 5


def test_stages_cover_every_layer_once() -> None:
    assert [list(stage) for stage in stage_layers(7, 3)] == [[0, 1, 2], [3, 4], [5, 6]]


def test_replicas_change_no_latency() -> None:
    one, replicas = split(LLAMA), split(LLAMA, dp=8)
    assert replicas.totals == one.totals
    assert replicas.to_dict()["parallel"]["devices"] == 8


def test_one_device_is_what_no_split_is() -> None:
    plain = aimcost.estimate(VIDEO).to_dict()
    assert split(VIDEO, tp=1, pp=1).to_dict() == plain
    assert plain["parallel"]["wire_bytes"] == 0


@pytest.mark.parametrize(
    ("parallel", "found"),
    [
        ({"tp": 3}, "28 attention heads"),
        ({"tp": 56}, "28 attention heads"),
        ({"tp": 14}, "4 KV heads"),
        ({"pp": 29}, "28 layers"),
        ({"tp": 7}, "4 KV heads"),
        ({"tp": 0}, "at least 1"),
    ],
)
def test_splits_that_cannot_be(parallel: dict, found: str) -> None:
    with pytest.raises(InvalidValueError, match=found):
        split(VIDEO, **parallel)


def test_a_tower_that_cannot_be_split() -> None:
    with pytest.raises(InvalidValueError, match="16 tower heads"):
        split(
            {**LLAMA, "model": "llava-1.5-7b"},
            tp=32,
            tower="sharded",
        )


def test_bulk_tables_price_ranks_but_not_stages() -> None:
    run = load_run({**VIDEO, "parallel": {"tp": 4}, "workload": {"frames": 2, "text_tokens": 30}})
    table = layer_table(run)
    tokens = np.array([run.schedule.tokens])
    wanted = aimcost.estimate({**VIDEO, "parallel": {"tp": 4}, "workload": {"frames": 2, "text_tokens": 30}})
    assert table.prefill_seconds(tokens)[0] == pytest.approx(wanted.stages["prefill"].time_s, rel=1e-9)
    with pytest.raises(InvalidValueError, match="pp"):
        layer_table(load_run({**VIDEO, "parallel": {"pp": 2}}))


def test_a_machine_without_a_link_and_an_estimator_of_one_device() -> None:
    bare = {"name": "bare", "memory_gb_per_s": 1000, "dense_tflops": {"fp16": 100}}
    with pytest.raises(InvalidValueError, match="interconnect_gb_per_s"):
        split({**LLAMA, "hardware": bare}, tp=2)
    with pytest.raises(InvalidValueError, match="one device"):
        split({**LLAMA, "estimator": "llm_viewer"}, tp=2)


def test_a_vocabulary_that_ranks_do_not_divide_is_padded() -> None:
    """InternVL3-8B: 151,674 rows on 4 ranks are padded to 2,370 blocks of 64 = 151,680, of which one holds 37,920."""
    run = {"model": "internvl3-8b", "workload": {"images": 1, "text_tokens": 10}, "hardware": "nvidia_a100_sxm_80gb"}
    estimate = aimcost.estimate(run, parallel={"tp": 4})
    (head,) = (op for op in estimate.to_dict()["ops"] if op["name"] == "lm_head")
    assert head["flops"] == 2 * 3584 * 37_920
    assert "4 ranks do not divide the vocabulary of 151,674: padded to 151,680 rows" in estimate.notes
    # the embedding's rows are padded alike
    whole = aimcost.estimate(run).memory.weights_bytes
    tower_and_projector = whole - 2 * decoder_ops.parameters(load_model("internvl3-8b").decoder)
    ranks = Ranks(4, 4)
    shares = 2 * decoder_ops.parameters(load_model("internvl3-8b").decoder, ranks=ranks)
    assert estimate.memory.weights_bytes == tower_and_projector + shares
    embedding = decoder_ops.embed_op(load_model("internvl3-8b").decoder, Widths.of(Precision()), 1.0, ranks)[1]
    assert embedding.parameters == 37_920 * 3584
