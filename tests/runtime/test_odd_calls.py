"""Calls that a block must understand or refuse: odd masks, endings, heads, and attention that changes inside."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from aimcost.errors import ScheduleError
from aimcost.runtime import apply, attention

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
