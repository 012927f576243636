"""Calls that a block must understand or refuse: odd masks, endings, heads, and attention that changes inside."""

from __future__ import annotations

import copy
import threading

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import DynamicCache

from aimcost.errors import AimcostError, InvalidValueError, ScheduleError, UnsupportedModelError
from aimcost.runtime import apply, apply_masked, attention, build_model, capture_decode, capture_prefill

pytestmark = [pytest.mark.torch, pytest.mark.versions("safety")]

FASTV = {"name": "fastv", "k": 2}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("method", ["visionzip", "fastervlm"])
def test_a_refused_prompt_leaves_nothing_of_its_tower(method, toolbox):
    """Embeddings that follow it are not reduced by the attention of another image."""
    first, second = (toolbox.build_case("llava-image", 1, seed=seed) for seed in (0, 7))
    embeds = first.model.get_input_embeddings()(second.inputs["input_ids"])
    with apply(first.model, method={"name": method}, boundaries=(5, 16, 9)):
        with pytest.raises(ScheduleError, match="attention_mask covers"):
            first.model(**{**first.inputs, "attention_mask": torch.ones(1, 7)})
        with pytest.raises(ScheduleError, match="the vision tower did not run"):
            first.model(inputs_embeds=embeds)


@pytest.mark.parametrize("padding", [0, 3])
def test_a_prompt_that_ends_in_visual_tokens_is_refused_behind_padding_too(padding, toolbox):
    case = toolbox.build_case("llava-image", 1)
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7] + [101] * 16 + [0] * padding]),
        "attention_mask": torch.tensor([[1] * 19 + [0] * padding]),
        "pixel_values": case.inputs["pixel_values"],
    }
    with apply(case.model, method=FASTV), pytest.raises(ScheduleError, match="must end in text"):
        case.model(**inputs)


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("method", [FASTV, {"name": "aim", "merge_ratio": 1.0, "l1": 1, "l2": 4}], ids=["fastv", "aim"])
def test_padding_is_read_from_a_4d_mask(method, additive, toolbox):
    case = toolbox.build_case("llava-image", 3, True)
    real = case.inputs["attention_mask"].bool()
    causal = torch.ones(case.prompt, case.prompt, dtype=torch.bool).tril()
    mask = (causal & real[:, None, None]) | torch.eye(case.prompt, dtype=torch.bool)
    if additive:
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    kept, logits = [], []
    with apply(case.model, method=method) as applied:
        for given in (case.inputs["attention_mask"], mask):
            logits.append(
                case.model(**{**case.inputs, "attention_mask": given, "position_ids": positions}).logits[:, -1]
            )
            kept.append(applied.record.kept)
    assert kept[0].keys() == kept[1].keys()
    assert all(torch.equal(kept[0][layer], kept[1][layer]) for layer in kept[0])
    assert torch.allclose(logits[0], logits[1], rtol=0, atol=1e-5 * float(logits[0].abs().max()))


def test_logits_of_a_slice(toolbox):
    case = toolbox.build_case("llava-image", 1)
    with apply(case.model, method=FASTV):
        expected = case.model(**case.inputs, logits_to_keep=torch.arange(10, case.prompt)).logits
        found = case.model(**case.inputs, logits_to_keep=slice(10, None)).logits
    assert torch.isnan(found).any()
    assert torch.equal(torch.isnan(found), torch.isnan(expected))
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize(("before", "inside"), [("flex_attention", "sdpa"), ("sdpa", "eager"), ("eager", "sdpa")])
def test_attention_that_changes_inside_a_block_leaves_no_wrapper(before, inside, toolbox):
    case = toolbox.build_case("llava-image", 1)
    try:
        case.model.set_attn_implementation(before)
        with apply(case.model, method=FASTV):
            case.model.set_attn_implementation(inside)
        assert not attention._wrappers
        assert not attention._switched
    finally:
        case.model.set_attn_implementation("sdpa")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"schedule": "fastv"}, "'schedule' must be what aimcost.schedule"),
        ({"schedule": {"name": "fastv"}}, "'schedule' must be what aimcost.schedule"),
        ({"schedule": "fastv", "method": "fastv"}, "method in its place .got 'both'"),
        ({}, "method in its place .got 'neither'"),
        ({"method": "fastv", "question": "What is it?"}, "'question' must be a ClipQuestion"),
        ({"method": "cdpruner", "question": "What is it?"}, "'question' must be a ClipQuestion"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused_at_once(given, message, toolbox):
    with pytest.raises(InvalidValueError, match=message):
        apply(toolbox.build_case("llava-image", 1).model, **given)


def test_entry_points_refuse_arguments_of_the_wrong_kind(toolbox):
    case = toolbox.build_case("qwen2", 1)
    schedule = case.schedule([(1, 10)])
    with apply(case.model, schedule):
        cache = case.cache()
    for call, message in (
        (lambda: capture_decode(case.model, cache, tokens=2.5), "'tokens' must be an integer"),
        (lambda: capture_decode(case.model, DynamicCache(), tokens=2), "KV cache is empty"),
        (lambda: capture_prefill(case.model, case.inputs, "fastv"), "'schedule' must be"),
        (lambda: capture_prefill(case.model, [case.inputs]), "'inputs' must be"),
        (lambda: build_model("qwen2"), "'config' must be"),
        (lambda: apply_masked(case.model, schedule, kept=[1]), "'kept' must be"),
        (lambda: apply_masked(case.model, schedule, kept={1: [1, 2]}), "kept needs 24 positions"),
        (lambda: apply_masked(case.model, schedule, kept={1: torch.zeros(1, 24, dtype=torch.long)}), "ascending"),
        (lambda: apply_masked(case.model, schedule, kept={1: torch.arange(20, 44)[None]}), "below 38"),
        (lambda: copy.deepcopy(apply(case.model, schedule)), "has no copies"),
        (lambda: apply(case.model, schedule).__exit__(None, None, None), "is not applied"),
    ):
        with pytest.raises(AimcostError, match=message):
            call()


def test_blocks_that_differ_in_what_is_kept_or_asked_are_not_shared(toolbox):
    case = toolbox.build_case("qwen2", 2)
    schedule = case.schedule([(1, 10)])
    with apply(case.model, schedule) as applied:
        case.model(**case.inputs)
    kept = applied.record.kept
    others = (None, {1: torch.arange(24).expand(2, -1)})
    with apply_masked(case.model, schedule, kept=kept), apply_masked(case.model, schedule, kept=copy.deepcopy(kept)):
        for other in others:
            with pytest.raises(ScheduleError, match="already applied"), apply_masked(case.model, schedule, kept=other):
                pass
    with (
        apply_masked(case.model, schedule, kept={1: kept[1][:1]}),
        pytest.raises(ScheduleError, match="kept is given for 1 rows, the batch has 2"),
    ):
        case.model(**case.inputs)


def test_beams_share_the_boundaries_of_their_prompt(toolbox):
    case = toolbox.build_case("llava-image", 2, True)
    found = []
    for given in (None, case.visual, [(5, 16, 9), (5, 16, 7)]):
        with apply(case.model, method=FASTV, boundaries=given):
            found.append(case.generate(num_beams=3))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    with (
        apply(case.model, method=FASTV, boundaries=case.visual[:1].expand(3, -1)),
        pytest.raises(ScheduleError, match="boundaries are given for 3 rows, the batch has 2"),
    ):
        case.model(**case.inputs)


def test_a_cache_that_cannot_be_marked_is_refused(toolbox):
    """Else tokens could follow it outside of the block, as if the whole prompt were there."""
    case = toolbox.build_case("qwen2", 1)
    cache = type("Own", (DynamicCache,), {})()
    with apply(case.model, case.schedule([(1, 10)])) as applied:
        with pytest.raises(UnsupportedModelError, match="KV cache Own cannot be marked"):
            case.follow(cache, **case.inputs, use_cache=True)
        assert applied.record is None


def test_a_thread_whose_prompt_was_refused_has_no_record(toolbox):
    case = toolbox.build_case("qwen2", 1)
    with apply(case.model, case.schedule([(1, 10)])) as applied:
        with pytest.raises(ScheduleError):
            case.model(input_ids=case.inputs["input_ids"][:, 1:])
        thread = threading.Thread(target=lambda: case.model(**case.inputs))
        thread.start()
        thread.join()
        assert applied.record is None


def test_an_undecided_use_cache_is_refused_by_its_name(toolbox):
    case = toolbox.build_case("qwen2_vl-image", 1)
    with apply(case.model, method=FASTV), pytest.raises(UnsupportedModelError, match="use_cache"):
        case.generate(use_cache=None)
