"""Weights, cache, activations alive together, and the largest batch."""

from __future__ import annotations

from dataclasses import replace

import pytest

import aimcost
from aimcost.errors import AimcostError
from aimcost.inputs.run import load_run
from aimcost.models import decoder as decoder_ops
from aimcost.models import projector, vit
from aimcost.models.decoder import layer_ops
from aimcost.models.liveness import Step, layer_peak, peak_live
from aimcost.models.parallel import stage_layers
from aimcost.pricing.pricing import estimate_run
from aimcost.report.text import estimate_text
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
    """Qwen3-30B-A3B, 8 experts a token: x, its sum and norm, and four copies of 8 tokens each: what goes into the
    experts, what comes out, that weighted, and that in order again.

    2048 wide, bf16; beside them the router's 128 logits, and of each of 8 choices the expert as chosen and sorted, the
    permutation and its inverse (8 bytes each), the histogram's input (4) and the weight in either order (2). 2,048
    tokens take 294.8 MB, of which the copies are 268.4 and the streams 25.2; `grouped_mm` of transformers 5.24 on the
    meta device has them alive together (tests/runtime/test_liveness.py).
    """
    run = {**RUN, "model": "qwen3-30b-a3b", "workload": {"text_tokens": 1000}, "method": {"name": "none"}}
    prefill = aimcost.estimate(run).memory.stages[0]
    a_token = 2.0 * (3 * 2048 + 4 * 8 * 2048 + 128) + 8 * (4 * 8 + 4 + 2 * 2)
    assert prefill.activation_bytes == 1000 * a_token + 2 * 4 * 128
    assert 2048 * a_token == pytest.approx(294.8e6, rel=1e-4)


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


SERVED = {
    "model": "qwen2.5-vl-7b",
    "workload": {"text_tokens": 128_000},
    "hardware": "nvidia_h100_sxm",
}


def test_requests_whose_caches_fit_beside_the_weights() -> None:
    """Qwen2.5-VL-7B on an H100: 0.9 · 80 GB less 16.584 GB of weights, and the widest moment of 8,192 tokens.

    That is in the MLP: gate, up and their product are 18,944 wide, the layer's input, the normed input and the residual
    stream 3,584, each of 2 bytes: 1.107 GB. A cache of 128,000 tokens takes 28 · 2 · 4 · 128 · 2 bytes each, 7.340 GB;
    54.31 / 7.340 = 7.4. A serving log of this case says 7.08 (its activations include a largest image's).
    """
    memory = aimcost.estimate(SERVED).memory
    in_flight = 8192 * (3 * 18944 + 3 * 3584) * 2
    free = 0.9 * 80e9 - memory.weights_bytes - in_flight
    assert memory.concurrent_requests == int(free / (128_000 * 28 * 2 * 4 * 128 * 2)) == 7
    assert memory.to_dict()["concurrent_requests"] == 7
    assert aimcost.estimate(SERVED).to_dict()["summary"]["concurrent_requests"] == 7


def test_serving_keys_act_on_concurrent_requests() -> None:
    def served(**serving: object) -> int | None:
        return aimcost.estimate({**SERVED, "serving": serving}).memory.concurrent_requests

    # 0.5 · 80 less weights and activations: 22.3 GB, three caches
    assert served(memory_fraction=0.5) == 3
    # 54.31 GB over 1.879 GB
    assert served(max_model_len=32_768) == 28
    # sixteen times as many tokens in flight: 17.7 GB
    assert served(prefill_chunk=131_072) == 5
    notes = aimcost.estimate({**SERVED, "serving": {"max_model_len": 32_768}}).notes
    assert "warning: 128,000 tokens exceed serving.max_model_len, 32,768" in notes
    # batch is what is computed together, and does not change what fits
    wide = aimcost.estimate({**SERVED, "workload": {**SERVED["workload"], "batch": 4}}).memory
    assert wide.concurrent_requests == 7


def test_no_request_is_served_from_memory_that_is_not_usable() -> None:
    """Of 40 GB usable on a card of 80: 40 less 16.584 and 1.107 GB hold three caches of 7.340 GB, not seven."""
    card = {
        "name": "card",
        "memory_gb": 80,
        "usable_memory_gb": 40,
        "memory_gb_per_s": 3350,
        "dense_tflops": {"bf16": 989.4},
    }
    estimate = aimcost.estimate({**SERVED, "hardware": card, "estimator": "roofline"})
    assert estimate.memory.concurrent_requests == 3
    assert "3 requests at once in the usable memory" in estimate_text(estimate)
    less = {**SERVED, "hardware": card, "estimator": "roofline", "serving": {"memory_fraction": 0.4}}
    assert aimcost.estimate(less).memory.concurrent_requests == 1


def test_a_reduced_schedule_leaves_room_for_more_requests() -> None:
    """Each request's cache is that of each layer's own tokens."""
    run = {"model": "qwen2.5-vl-7b", "workload": {"images": 8, "text_tokens": 100}, "hardware": "nvidia_l4"}
    dense = aimcost.estimate(run)
    cut = aimcost.estimate(run, method={"name": "fastv", "k": 2, "ratio": 0.75})
    assert dense.memory.concurrent_requests is not None
    assert cut.memory.concurrent_requests is not None
    gained = cut.memory.concurrent_requests / dense.memory.concurrent_requests
    assert gained == pytest.approx(dense.memory.kv_bytes / cut.memory.kv_bytes, rel=0.25)
    assert gained > 2


@pytest.mark.parametrize(
    ("serving", "key"),
    [
        ({"memory_fraction": 0}, "serving.memory_fraction"),
        ({"memory_fraction": 1.5}, "serving.memory_fraction"),
        ({"prefill_chunk": 0}, "serving.prefill_chunk"),
        ({"max_model_len": 1.5}, "serving.max_model_len"),
        ({"chunk": 1}, "serving.chunk"),
    ],
)
def test_serving_keys_are_checked(serving: dict, key: str) -> None:
    with pytest.raises(AimcostError, match=key):
        load_run({**SERVED, "serving": serving})


def test_deepstack_features_are_held_to_the_last_layer_that_uses_them() -> None:
    """Qwen3-VL-8B, one image of 4096 x 4096: 16,384 visual tokens, 4,096 wide, bf16, for three layers: 403 MB."""
    run = {"model": "qwen3-vl-8b", "workload": {"images": 1, "image_size": [4096, 4096]}, "hardware": "nvidia_h100_sxm"}
    estimate = aimcost.estimate(run)
    assert estimate.run.workload.visual_tokens == 16_384
    by_name = {stage.stage: stage.activation_bytes for stage in estimate.memory.stages}
    features = 3 * 16_384 * 4096 * 2.0
    assert features == pytest.approx(403e6, rel=1e-3)
    assert [by_name[f"prefill layer {layer}"] - by_name["prefill layer 3"] for layer in (1, 2)] == [features] * 2
    assert by_name["prefill layer 3"] == by_name["prefill layer 35"]
    text = aimcost.estimate({**run, "workload": {"text_tokens": 16_384}}).memory.stages
    assert len({stage.activation_bytes for stage in text[1:36]}) == 1


@pytest.mark.parametrize(
    ("method", "streams"),
    # 4,096 wide, bf16: 656 tokens go into the first layer, or what is left of them before it; a cut inside frees none
    [({"name": "none"}, 656), ({"name": "fastv", "k": 2}, 656), ({"name": "divprune", "keep_tokens": 60}, 140)],
)
def test_embeddings_are_held_while_the_layers_run(method: dict, streams: int) -> None:
    """The model's forward holds what it gave its first layer: from the second on that is a tensor of its own."""
    run = {"model": "llava-1.5-7b", "hardware": "nvidia_h100_sxm", "method": method}
    workload = {"images": 1, "text_tokens": 80}
    memory = aimcost.estimate({**run, "workload": workload}).memory
    first, second = (next(s for s in memory.stages if s.stage == f"prefill layer {i}") for i in (0, 1))
    assert second.activation_bytes - first.activation_bytes == memory.embedded_bytes == streams * 4096 * 2
    last = [stage for stage in memory.stages if stage.stage.startswith("prefill")][-1]
    cut = aimcost.estimate({**run, "workload": {"text_tokens": 80}, "method": {"name": "none"}}).memory
    tokens = aimcost.schedule({**run, "workload": workload}).tokens[-1]
    # a layer's own peak goes by its tokens
    own = (cut.stages[0].activation_bytes) * tokens / 80
    assert last.activation_bytes == pytest.approx(own + streams * 4096 * 2, rel=1e-12)


def test_cross_attention_states_are_held_to_the_last_layer_that_reads_them() -> None:
    """Llama 3.2 11B, two images: 2 x 6,404 tower tokens, 4,096 wide, bf16, read by layers 3, 8 ... 38 of 40."""
    run = {"model": "llama-3.2-11b-vision", "workload": {"images": 2, "text_tokens": 50}, "hardware": "nvidia_l40s"}
    by_name = {stage.stage: stage.activation_bytes for stage in aimcost.estimate(run).memory.stages}
    states = 2 * 6404 * 4096 * 2.0
    assert by_name["prefill layer 36"] - by_name["prefill layer 39"] == states
    assert by_name["prefill layer 38"] > states
    assert by_name["prefill layer 1"] == by_name["prefill layer 36"]
