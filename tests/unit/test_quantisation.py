"""``quantization_config`` of a config.json: what is quantised, in which format, and what the run says against it."""

from __future__ import annotations

from typing import Any

import pytest

import aimcost
from aimcost.errors import AimcostError, InvalidValueError
from aimcost.inputs.run import Run, load_run
from aimcost.search.bulk import layer_table
from aimcost.units import format_bytes

TEXT = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}
LINEAR = 4 * (4 * 1024**2 + 3 * 1024 * 4096)
REST = 2 * 32000 * 1024 + (4 * 2 + 1) * 1024
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64, "symmetric": True},
            "input_activations": None,
        }
    },
    "ignore": ["lm_head", "re:.*visual.*"],
    "kv_cache_scheme": {"num_bits": 8, "type": "float"},
}


def resolved(quantised: dict[str, Any] | None, *, model: dict[str, Any] | None = None, **more: Any) -> Run:
    config = {**(model or TEXT), **({"quantization_config": quantised} if quantised else {})}
    return load_run({"model": config, "workload": {"text_tokens": 100}, "hardware": "nvidia_h100_sxm", **more})


def weights_bytes(quantised: dict[str, Any]) -> float:
    run = resolved(quantised)
    return aimcost.estimate(run.document()).memory.weights_bytes


@pytest.mark.parametrize(
    ("quantised", "each"),
    [
        # 4 bits, a 16-bit scale and a 4-bit zero point in 128
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, 0.5 + 2.5 / 128),
        ({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": False}, 0.5 + 2 / 64),
        # zero points are stored where they are all alike
        ({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}, 0.5 + 2.5 / 32),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 1.0),
        # a 32-bit constant a block of 64
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 0.5 + 4 / 64),
        # 8 bits a block of 64, and 32 bits a block of 256 of those: 0.127 bits a weight (arXiv 2305.14314)
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True},
            0.5 + 1 / 64 + 4 / (64 * 256),
        ),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 1.0),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 64, "sym": True}, 0.5 + 2.5 / 64),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["lm_head"]}, 1.0),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 1.0),
        (COMPRESSED, 0.5 + 2 / 64),
    ],
)
def test_decoder_layers_take_the_bytes_that_the_method_stores(quantised: dict[str, Any], each: float) -> None:
    assert weights_bytes(quantised) == LINEAR * each + 2 * REST


def test_formats_of_activations_and_cache_are_read() -> None:
    assert resolved(COMPRESSED).precision.kv == "fp8"
    assert resolved(COMPRESSED).precision.activations == "bf16"
    precision = resolved({"quant_method": "fp8"}).precision
    assert (precision.inputs, precision.activations) == ("fp8", "bf16")
    # the run's own word on activations is that on the inputs of products
    assert resolved({"quant_method": "fp8"}, precision={"activations": 16}).precision.inputs is None
    # LLM.int8 multiplies in int8, NF4 in 16 bit
    assert resolved({"load_in_8bit": True}).precision.inputs == "int8"
    assert resolved({"quant_method": "bitsandbytes", "load_in_4bit": True}).precision.inputs is None


def test_products_take_the_rate_of_their_inputs_and_all_else_stays_in_sixteen_bits() -> None:
    listed = {"quant_method": "fp8", "modules_to_not_convert": ["lm_head"]}
    more: dict[str, Any] = {"estimator": "roofline", "workload": {"text_tokens": 4000}}
    fp8, plain = (aimcost.estimate(resolved(given, **more).document()) for given in (listed, None))
    assert fp8.memory.activation_bytes == plain.memory.activation_bytes
    matrices = {"q_proj": 1024**2, "up_proj": 1024 * 4096, "down_proj": 1024 * 4096}
    for mine, other in zip(fp8.ops(), plain.ops(), strict=True):
        assert mine["name"] == other["name"]
        if (name := mine["name"]) in matrices:
            # a byte a weight less
            assert other["bytes"] - mine["bytes"] == matrices[name]
        elif not name.endswith("_proj"):
            assert (mine["bytes"], mine["time_s"]) == (other["bytes"], other["time_s"])
    # bound by compute: 1979 against 989.4 TFLOP/s
    times = [next(op["time_s"] for op in each.ops() if op["name"] == "up_proj") for each in (plain, fp8)]
    assert times[0] / times[1] == pytest.approx(2.0, rel=1e-3)


def test_a_cache_is_quantised_without_the_weights() -> None:
    run = resolved({**COMPRESSED, "config_groups": {}})
    assert (run.precision.weights, run.precision.kv) == ("bf16", "fp8")
    assert "quantization_config (compressed-tensors): kv fp8" in run.notes


def test_what_the_run_says_wins_and_is_noted() -> None:
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128}
    run = resolved(awq, precision={"weights": 16})
    assert run.precision.weights == "bf16"
    assert "precision.weights replaces the quantization_config of inline (awq)" in run.notes
    # a format of the cache leaves the weights to the file
    assert resolved(awq, precision={"kv": "fp8"}).precision.weights == "int4"
    assert any("quantization_config (awq): weights int4" in note for note in resolved(awq).notes)


VISION = {
    "model_type": "qwen2_5_vl",
    "text_config": {**TEXT, "model_type": "qwen2_5_vl_text"},
    "vision_config": {
        "model_type": "qwen2_5_vl",
        "depth": 2,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_heads": 4,
        "out_hidden_size": 1024,
        "fullatt_block_indexes": [1],
    },
}


@pytest.mark.parametrize(
    ("quantised", "tower", "projector"),
    [
        ({"quant_method": "awq", "bits": 4, "modules_to_not_convert": ["visual"]}, None, None),
        ({"quant_method": "awq", "bits": 4}, None, None),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4", "int4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "llm_int8_skip_modules": ["visual"]}, None, None),
        ({"quant_method": "fp8", "modules_to_not_convert": ["lm_head", "model.visual.blocks"]}, None, "fp8"),
        (COMPRESSED, None, None),
        ({**COMPRESSED, "ignore": ["lm_head"]}, "int4", "int4"),
        ({**COMPRESSED, "ignore": ["lm_head", "re:model.visual.*"]}, None, None),
        ({**COMPRESSED, "config_groups": list(COMPRESSED["config_groups"].values())}, None, None),
        # text is a list of one
        ({"quant_method": "fp8", "modules_to_not_convert": "visual"}, None, None),
    ],
)
def test_towers_are_quantised_where_the_loader_quantises_them(
    quantised: dict[str, Any], tower: str | None, projector: str | None
) -> None:
    precision = resolved(quantised, model=VISION).precision
    assert (precision.tower, precision.projector, precision.lm_head) == (tower, projector, None)


LLAVA = {
    "model_type": "llava",
    "text_config": TEXT,
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 224,
        "patch_size": 14,
    },
}


@pytest.mark.parametrize(
    ("ignore", "tower", "projector"),
    [
        (["re:model.vision_tower.*"], None, "int4"),
        (["re:model.multi_modal_projector.*"], "int4", None),
        (["model.vision_tower", "model.multi_modal_projector"], None, None),
        (["model.vision_model", "model.connector"], None, None),
        (["vision_model.encoder.layers.0.attn.qkv", "mlp1"], None, None),
        (["vision_tower.transformer.layers.0.attention.q_proj"], None, "int4"),
        (["re:.*vision.*", "re:.*projector.*"], None, None),
        ([], "int4", "int4"),
    ],
)
def test_modules_are_named_as_any_layout_names_them(
    ignore: list[str], tower: str | None, projector: str | None
) -> None:
    run = resolved({**COMPRESSED, "ignore": [*ignore, "language_model.lm_head"]}, model=LLAVA)
    precision = run.precision
    assert (precision.tower, precision.projector, precision.lm_head) == (tower, projector, None)
    assert not any("leaves" in note for note in run.notes)


@pytest.mark.parametrize(
    ("targets", "formats"),
    [
        (["Linear"], ("int4", "int4", "int4")),
        (["re:.*layers.*self_attn.*", "re:.*layers.*mlp.*"], ("int4", "int4", None)),
        (["re:.*language_model.*layers.*"], ("int4", None, None)),
        (["re:model.vision_tower.*"], ("bf16", "int4", None)),
        (["re:.*self_attn.*"], ("int4", None, None)),
    ],
)
def test_targets_are_taken_by_part_or_told(targets: list[str], formats: tuple[str | None, ...]) -> None:
    group = {"targets": targets, "weights": {"num_bits": 4, "type": "int", "group_size": 64}}
    run = resolved({**COMPRESSED, "config_groups": [group], "ignore": ["lm_head"]}, model=LLAVA)
    assert (run.precision.weights, run.precision.tower, run.precision.projector) == formats
    told = [note for note in run.notes if "quantises re:.*self_attn.* alone" in note]
    assert bool(told) == (targets == ["re:.*self_attn.*"])
    # of hidden size 1024 and an MLP 4096 wide, attention is a quarter of the weights
    assert all("75.0% of the decoder's linear weights" in note for note in told)


@pytest.mark.parametrize("inside", [False, True])
def test_the_original_layouts_state_it_too(inside: bool) -> None:
    awq = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 64}}
    vision = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    internvl = {
        "model_type": "internvl_chat",
        "llm_config": {**TEXT, **(awq if inside else {})},
        "vision_config": vision,
        **({} if inside else awq),
    }
    llava = {
        **TEXT,
        "model_type": "llava_llama",
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "mm_projector_type": "mlp2x_gelu",
        **awq,
    }
    for config in (internvl, llava):
        precision = resolved(None, model=config).precision
        assert (precision.weights, precision.scale_bytes) == ("int4", 2.5 / 64)


def test_scales_lie_beside_every_part_that_is_quantised() -> None:
    """NF4: a 32-bit constant a block of 64 weights, in the tower as in the decoder."""
    nf4 = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    all_parts, decoder = (
        aimcost.estimate(resolved(each, model=LLAVA, workload={"images": 1}).document()).memory.weights_bytes
        for each in (nf4, {**nf4, "llm_int8_skip_modules": ["vision_tower", "multi_modal_projector"]})
    )
    tower, projector = 2 * (4 * 128**2 + 2 * 128 * 256), 128 * 1024 + 1024**2
    assert decoder - all_parts == (tower + projector) * (2.0 - 0.5 - 4 / 64)


def test_mxfp4_stores_experts_alone() -> None:
    """Each of 8 experts has three matrices; attention, router and tables stay in 16 bit."""
    moe = {
        **TEXT,
        "model_type": "mixtral",
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    }
    mxfp4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    wide, narrow = (
        aimcost.estimate(resolved(each, model=moe, estimator="roofline").document()) for each in (None, mxfp4)
    )
    experts = 4 * 8 * 3 * 1024 * 4096
    assert wide.memory.weights_bytes - narrow.memory.weights_bytes == experts * (2.0 - 0.5 - 1 / 32)
    read = {each["name"]: each["bytes"] for each in narrow.ops()}
    before = {each["name"]: each["bytes"] for each in wide.ops()}
    assert {name for name in before if read[name] != before[name]} == {"gate_proj", "up_proj", "down_proj"}
    assert not any("leaves" in note for note in narrow.notes)


def test_scales_are_those_of_the_decoder_where_it_has_a_format() -> None:
    group = {"targets": ["re:.*vision_tower.*"], "weights": {"num_bits": 4, "type": "int", "group_size": 64}}
    run = resolved({**COMPRESSED, "config_groups": [group], "ignore": ["lm_head"]}, model=LLAVA)
    assert (run.precision.weights, run.precision.tower, run.precision.scale_bytes) == ("bf16", "int4", 0.0)


def test_notes_name_the_parts_that_a_model_has() -> None:
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128}
    for model, rest in ((TEXT, "embedding, lm_head"), (VISION, "embedding, lm_head, tower, projector")):
        run = resolved(awq, model=model, estimator="roofline")
        assert f"weights by part: int4: decoder; bf16: {rest}" in aimcost.estimate(run.document()).notes


def test_llm_viewer_reads_lm_head_in_its_own_format_or_says_that_it_does_not() -> None:
    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    note = "llm_viewer reads lm_head in int4, as all weights; it is stored in bf16"

    def read(given: dict[str, Any] | None, **more: Any) -> tuple[float, bool]:
        run = resolved(given, estimator="llm_viewer", **more)
        estimate = aimcost.estimate(run.document())
        head = next(op for op in estimate.ops() if op["name"] == "lm_head")
        return head["bytes"], note in estimate.notes

    plain, _ = read(None)
    assert read(gptq) == (plain - 1.5 * 1024 * 32000, True)
    assert read(None, precision={"weights": {"decoder": 4, "lm_head": 8}}) == (plain - 1024 * 32000, False)


# In a layer of TEXT, attention has 4 · 1024² weights and the MLP 12 · 1024².
SQUARE = 1024**2
AWQ_EACH = 2.0 - 0.5 - 2.5 / 64  # bytes that a 16-bit weight takes beyond AWQ's: 4 bits, a scale and a zero point in 64


@pytest.mark.parametrize(
    ("left", "wide"),
    [
        (["lm_head", "model.layers.0.self_attn", "model.layers.1.mlp.gate"], {0: 4}),  # a gate is never quantised
        (["model.layers.0.", "model.layers.3.mlp.down_proj"], {0: 16, 3: 4}),
        (["model.layers.2"], {2: 16}),
        (["layers.1.mlp.gate_proj", "language_model.model.layers.1.mlp.up_proj"], {1: 8}),
        (["self_attn.o_proj"], {0: 1, 1: 1, 2: 1, 3: 1}),
        (["model.layers.40.mlp"], {}),  # past the last layer
    ],
)
def test_layers_that_stay_in_sixteen_bits_are_counted(left: list[str], wide: dict[int, int]) -> None:
    awq = {"quant_method": "awq", "bits": 4, "group_size": 64, "modules_to_not_convert": left}
    run = resolved(awq)
    found: dict[int, float] = {}
    for layer, _, elements in run.precision.wide:
        found[layer] = found.get(layer, 0.0) + elements
    assert found == {layer: squares * SQUARE for layer, squares in wide.items()}
    plain = weights_bytes({**awq, "modules_to_not_convert": []})
    extra = sum(wide.values()) * SQUARE * AWQ_EACH
    assert weights_bytes(awq) == pytest.approx(plain + extra, rel=1e-12)
    share = f"{sum(wide.values()) / 64:.1%} of the decoder's linear weights, {format_bytes(extra)} more than quantised"
    assert any(share in note for note in run.notes) == bool(wide)


@pytest.mark.parametrize(
    ("ignore", "targets", "squares"),
    [
        ([r"re:.*layers\.[01]\.mlp.*"], ["Linear"], 24),
        (["re:.*layers.3.self_attn.*", "lm_head"], ["Linear"], 4),
        (["lm_head"], ["re:.*mlp.*"], 16),  # attention has no format
        (["lm_head"], [r"re:.*layers\.[1-3]\..*"], 16),  # the first layer has none
        (["model.layers.2.mlp"], [r"re:.*layers\.[1-3]\..*"], 28),
    ],
)
def test_compressed_tensors_are_counted_by_layer(ignore: list[str], targets: list[str], squares: int) -> None:
    """Groups of 64 with a 16-bit scale: what stays in 16 bit takes 2 − 0.5 − 2/64 bytes a weight more."""
    group = {"targets": targets, "weights": {"num_bits": 4, "type": "int", "group_size": 64}}
    given = {**COMPRESSED, "config_groups": {"group_0": group}, "ignore": ["lm_head", *ignore]}
    every = {**given, "config_groups": {"group_0": {**group, "targets": ["Linear"]}}, "ignore": ["lm_head"]}
    beside = squares * SQUARE * (2.0 - 0.5 - 2.0 / 64)
    assert weights_bytes(given) == pytest.approx(weights_bytes(every) + beside, rel=1e-12)


def test_where_all_of_the_decoder_stays_in_sixteen_bits_nothing_is_quantised() -> None:
    run = resolved({"quant_method": "fp8", "modules_to_not_convert": ["model.layers"]})
    assert (run.precision.weights, run.precision.wide, run.precision.inputs) == ("bf16", (), None)
    assert any("all of the decoder is priced in 16 bit" in note for note in run.notes)


FP8 = {"quant_method": "fp8", "modules_to_not_convert": []}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "modules_to_not_convert": []}


@pytest.mark.parametrize("quantised", [FP8, AWQ], ids=lambda given: given["quant_method"])
@pytest.mark.parametrize("estimator", ["roofline", "calibrated"])
def test_layers_cost_what_they_are_stored_in(quantised: dict[str, Any], estimator: str) -> None:
    """Layers 0, 1 and 3 of four, and the output projection of layer 2: bytes, FLOPs and time of these products are
    those of the model in 16 bit, of the others those of all quantised."""
    left = ["model.layers.0", "model.layers.1.", "model.layers.3", "model.layers.2.self_attn.o_proj"]

    def ops(given: dict[str, Any] | None) -> dict[tuple[str, int, str], tuple[float, float, float]]:
        run = resolved(given, estimator=estimator, workload={"text_tokens": 4000, "new_tokens": 3})
        rows = aimcost.estimate(run.document()).ops()
        # where the host is waited for, the time of an op depends on those before it
        return {
            (o["stage"], o["layer"], o["name"]): (o["bytes"], o["flops"], o["bound"] != "launch" and o["time_s"])
            for o in rows
        }

    mixed, wide, narrow = (ops(g) for g in ({**quantised, "modules_to_not_convert": left}, None, quantised))
    for (stage, layer, name), figures in mixed.items():
        if name == "dequantize_weights":
            assert layer == 2  # in the others nothing is packed
        elif name.endswith("_proj"):
            stays = layer != 2 or name == "out_proj"
            assert figures == pytest.approx((wide if stays else narrow)[stage, layer, name], rel=1e-9), (layer, name)
    assert sum(key[2].endswith("_proj") for key in mixed) == 2 * 4 * 7


def test_a_plan_needs_layers_that_are_alike() -> None:
    """The output projections of all layers are one format; those of one layer are not."""
    for left, alike in (("self_attn.o_proj", True), ("model.layers.1.self_attn.o_proj", False)):
        run = resolved({**AWQ, "modules_to_not_convert": [left]})
        if alike:
            table = layer_table(run)
            whole = aimcost.estimate(run.document()).stages["prefill"].flops
            assert table.flops[100] * 4 + table.fixed_flops == pytest.approx(whole, rel=1e-9)
        else:
            with pytest.raises(AimcostError, match="linear layers in 16 bit beside quantized ones"):
                layer_table(run)


def test_ranks_and_stages_share_what_stays_wide() -> None:
    """Two layers of four: half of them lies on each of two ranks, and one on each of two stages."""
    awq = {"quant_method": "awq", "bits": 4, "group_size": 64, "modules_to_not_convert": ["layers.0", "layers.3"]}
    for parallel in ({"tp": 2}, {"pp": 2}):
        plain, left = (
            aimcost.estimate(resolved(each, parallel=parallel).document()).memory.weights_bytes
            for each in ({**awq, "modules_to_not_convert": []}, awq)
        )
        assert left - plain == pytest.approx(16 * SQUARE * AWQ_EACH, rel=1e-9)


@pytest.mark.parametrize(
    ("quantised", "key"),
    [
        ({"quant_method": "gptq", "bits": "four"}, "quantization_config.bits"),
        ({"quant_method": "awq", "bits": 4, "group_size": 0}, "quantization_config.group_size"),
        ({"quant_method": "bitsandbytes"}, "quantization_config.load_in_4bit"),
    ],
)
def test_what_has_no_format_here_is_refused(quantised: dict[str, Any], key: str) -> None:
    with pytest.raises(InvalidValueError, match=key):
        resolved(quantised)


@pytest.mark.parametrize("bits", [2, 3, 6])
def test_bits_without_a_format_are_priced_in_sixteen_unless_the_run_says(bits: int) -> None:
    gptq = {"quant_method": "gptq", "bits": bits}
    note = f"quantization_config (gptq, bits {bits}) is not read: priced in 16 bit; set precision.weights"
    assert resolved(gptq).precision.weights == "bf16"
    assert note in resolved(gptq).notes
    assert resolved(gptq, precision={"weights": 4}).precision.weights == "int4"


def test_sixteen_bits_quantise_nothing() -> None:
    group = {"targets": ["Linear"], "weights": {"num_bits": 16, "type": "float"}}
    run = resolved({"quant_method": "compressed-tensors", "config_groups": {"group_0": group}})
    assert run.precision.weights == "bf16"
    assert any("quantises nothing" in note for note in run.notes)
    assert not any("quanti" in note for note in resolved(None, model={**TEXT, "quantization_config": None}).notes)


def test_modelopt_states_groups_as_compressed_tensors_do_or_an_algorithm() -> None:
    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "float", "group_size": 16}}
    given = {"quant_method": "modelopt", "quant_algo": "NVFP4", "config_groups": {"group_0": group}}
    assert weights_bytes({**given, "ignore": ["lm_head"]}) == LINEAR * (0.5 + 1 / 16) + 2 * REST
    fp8 = resolved({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"})
    assert (fp8.precision.weights, fp8.precision.inputs, fp8.precision.kv) == ("fp8", "fp8", "fp8")
    other = resolved({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"})
    assert any("quant_algo W4A8_AWQ without config_groups" in note for note in other.notes)


def test_an_unknown_method_is_noted() -> None:
    run = resolved({"quant_method": "higgs"})
    assert "quantization_config (higgs) is not read: set precision.weights" in run.notes
    assert run.precision.weights == "bf16"


def test_float32_of_a_config_is_noted_unless_the_run_says_a_format() -> None:
    wide = {**TEXT, "torch_dtype": "float32"}
    assert any("stored in float32" in note for note in resolved(None, model=wide).notes)
    assert not any("float32" in note for note in resolved(None, model=wide, precision={"weights": 32}).notes)
    assert not any("float32" in note for note in resolved(None, model={**TEXT, "dtype": "bfloat16"}).notes)
