"""Weights, cache, activations alive together, and the largest batch."""

from __future__ import annotations

from dataclasses import replace

import pytest

import aimcost
from aimcost.inputs.run import load_run
from aimcost.models import decoder as decoder_ops
from aimcost.models import projector, vit
from aimcost.models.decoder import layer_ops
from aimcost.models.liveness import Step, layer_peak, peak_live
from aimcost.models.parallel import stage_layers
from aimcost.pricing.pricing import estimate_run
from aimcost.types.formats import Widths

RUN = {
    "model": "llava-onevision-qwen2-7b",
    "workload": {"frames": 32, "text_tokens": 100, "new_tokens": 65, "batch": 2},
    "method": {"name": "aim", "merge_ratio": 0.25, "l1": 14, "l2": 22},
    "hardware": "nvidia_a100_sxm_80gb",
    "estimator": "roofline",
}


def test_a_tensor_dies_with_its_last_reader() -> None:
    steps = [
        Step("a", ("x",), {"y": 10.0}),
        Step("b", ("y",), {"z": 4.0}),
        Step("c", ("z",), {"w": 5.0}),
    ]
    assert peak_live({"x": 1.0}, steps) == 14.0  # y with z; x has died
    assert peak_live({"x": 1.0}, steps, held=("x", "y")) == 1.0 + 10.0 + 4.0 + 5.0
    assert peak_live({"x": 100.0}, steps) == 110.0


def test_a_gated_mlp_peaks_at_its_product() -> None:
    """Gate, up and their product, beside the stream, the layer's input and the MLP's: 3·h + 3·i a token."""
    decoder = load_run(RUN).model.decoder
    widths = Widths(weights=2.0, activations=2.0, kv=2.0)
    ops = list(layer_ops(decoder, widths, batch=1.0, q_len=10.0, kv_len=10.0, kernel="flash", onchip_bytes=0.0))
    peak = layer_peak(10 * 3584 * 2.0, ops)
    assert peak == 10 * 2.0 * (3 * 3584 + 3 * 18944)
    assert sum(cost.write_activations for _, cost in ops) > peak


def test_what_is_dispatched_to_experts_is_alive() -> None:
    """Qwen3-30B-A3B, 8 experts a token: x, its sum and norm, 8 copies of the norm for gate and up, and their choice.

    2048 wide, experts 768 wide, bf16; the route lists 8 experts of 8 bytes each.
    """
    run = {**RUN, "model": "qwen3-30b-a3b", "workload": {"text_tokens": 1000}, "method": {"name": "none"}}
    prefill = aimcost.estimate(run).memory.stages[0]
    assert prefill.activation_bytes == 1000 * (2.0 * (3 * 2048 + 8 * 2048 + 2 * 8 * 768) + 8 * 8)


def test_the_square_is_counted_where_attention_is_eager() -> None:
    dense = {**RUN, "method": {"name": "none"}}
    flash, eager = (aimcost.estimate({**dense, "attention": kind}).memory for kind in ("flash", "eager"))
    n = 6373
    stream, queries = 2 * n * 3584 * 2.0, 2 * n * 28 * 128 * 2.0
    # bf16 logits, cast to fp32, and the fp32 softmax; the layer's input and its norm, rotated
    # queries, and keys and values repeated for every query head
    assert eager.stages[2].activation_bytes == 2 * 28 * n * n * (2 + 4 + 4.0) + 2 * stream + 3 * queries
    assert flash.stages[2].activation_bytes < eager.stages[2].activation_bytes / 5


def test_cache_of_each_layers_own_tokens() -> None:
    memory = aimcost.estimate(RUN).memory
    tokens = aimcost.schedule(RUN).tokens
    assert memory.kv_by_layer == tuple(2.0 * 2 * (n + 64) * 4 * 128 * 2 for n in tokens)
    assert memory.kv_bytes == sum(memory.kv_by_layer)


def test_the_peak_is_the_fullest_stage() -> None:
    memory = aimcost.estimate(RUN).memory
    assert memory.peak_bytes == memory.weights_bytes + max(s.bytes for s in memory.stages)
    assert memory.peak_bytes >= memory.weights_bytes + memory.kv_bytes
    assert [stage.stage for stage in memory.stages][:3] == ["vision", "projector", "prefill layer 0"]
    assert memory.stages[-1].stage == "decode"
    held = [s.kv_bytes for s in memory.stages if s.stage.startswith("prefill")]
    assert held == sorted(held)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention": "eager"},
        {"parallel": {"tp": 4, "pp": 2}},
        # the first stage holds the tower, the last one the most cache of a long text
        {
            "parallel": {"pp": 7},
            "workload": {"text_tokens": 40_000, "new_tokens": 9},
            "method": {"name": "none"},
        },
    ],
)
def test_the_largest_batch_fits_and_one_more_does_not(changes: dict) -> None:
    run = load_run({**RUN, **changes})
    largest = estimate_run(run).memory.largest_batch
    assert largest > 1

    def fits(batch: int) -> bool:
        return bool(estimate_run(replace(run, workload=replace(run.workload, batch=batch))).memory.fits)

    assert fits(largest)
    assert not fits(largest + 1)
    assert estimate_run(replace(run, workload=replace(run.workload, batch=7))).memory.largest_batch == largest


def test_what_does_not_fit_still_prints_with_the_shortfall() -> None:
    memory = aimcost.estimate({**RUN, "hardware": "nvidia_t4"}).memory
    assert memory.fits is False
    assert memory.largest_batch == 0
    assert memory.shortfall_bytes == memory.peak_bytes - memory.usable_bytes > 0
    assert aimcost.estimate(RUN).memory.shortfall_bytes == 0


def test_without_a_size_nothing_is_claimed() -> None:
    bare = {"name": "bare", "memory_gb_per_s": 1000, "dense_tflops": {"fp16": 100}}
    memory = aimcost.estimate({**RUN, "hardware": bare}).memory
    assert (memory.fits, memory.largest_batch, memory.usable_bytes) == (None, None, None)


def test_a_sharded_tower_divides_its_products_alone() -> None:
    """SigLIP-so400m, 1152 wide, MLP 4304: of a layer's 15.24 M parameters the ranks share all but two layer norms
    and the biases of out_proj and down_proj; patches, positions and the last norm are on every rank."""
    model = load_run(RUN).model
    whole, vision = aimcost.estimate({**RUN, "parallel": {"tp": 4}}).memory.weights_bytes, model.vision
    sharded = aimcost.estimate({**RUN, "parallel": {"tp": 4, "tower": "sharded"}}).memory.weights_bytes
    products = vision.stored_layers * (4 * 1152 * 1152 + 3 * 1152 + 2 * 1152 * 4304 + 4304)
    assert whole - sharded == 2 * products * 3 / 4


@pytest.mark.parametrize("pp", [2, 5])
def test_pipeline_stages_hold_every_weight(pp: int) -> None:
    """Llama-3.2-11B-Vision: eight of 40 layers attend across, each with two 128-wide head norms and two gates; the
    embedding holds eight rows more than lm_head."""
    split = {"model": "llama-3.2-11b-vision", "method": {"name": "none"}, "parallel": {"pp": pp}}
    run = load_run({**RUN, **split, "workload": {"text_tokens": 50}})
    decoder = run.model.decoder
    stages = [decoder_ops.parameters(decoder, layers) for layers in stage_layers(40, pp)]
    table, own, crossing = 128256 * 4096, decoder_ops.layer_parameters(decoder), len(decoder.cross_layers)
    assert decoder_ops.layer_parameters(decoder, cross=True) - own == 2 * 128 + 2
    assert sum(stages) == 40 * own + crossing * (2 * 128 + 2) + 2 * table + 8 * 4096 + 4096
    layers_of_first = 40 // pp
    first = layers_of_first * own + sum(layer < layers_of_first for layer in decoder.cross_layers) * (2 * 128 + 2)
    assert stages[0] == first + table + 8 * 4096
    beside = vit.parameters(run.model.vision) + projector.parameters(run.model)
    assert estimate_run(run).memory.weights_bytes == 2 * (stages[0] + beside)


def test_eager_decode_repeats_the_whole_cache_of_a_layer() -> None:
    """`repeat_kv` copies keys and values of all n + g tokens for every query head, whatever the number of queries."""
    run = {**RUN, "method": {"name": "none"}, "attention": "eager"}
    step = aimcost.estimate(run).memory.stages[-1]
    n, batch, width = 6373 + 65, 2, 2.0
    repeated = 2 * batch * n * 28 * 128 * width
    # logits of one query in bf16 and fp32 and their fp32 softmax; the stream, its norm and the rotated query
    logits = batch * 28 * n * (2 + 4 + 4)
    assert step.stage == "decode"
    assert step.activation_bytes == repeated + logits + 2 * batch * 3584 * width + batch * 28 * 128 * width
    # and where the scorer has every layer expose its attention (SparseVLM), as the time of decode says
    sparse = {**RUN, "method": {"name": "sparsevlm"}, "implementation": "eager"}
    exposed, asked = (aimcost.estimate({**sparse, "attention": kind}).memory.stages[-1] for kind in ("flash", "eager"))
    assert exposed == asked
