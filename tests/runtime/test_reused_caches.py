"""What may happen to a reduced KV cache between two calls: a second turn, a crop, rows that move."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from aimcost.errors import ScheduleError, UnsupportedModelError
from aimcost.runtime import apply
from aimcost.runtime.compat import cache_argument, cache_of

pytestmark = [pytest.mark.torch, pytest.mark.versions("safety")]

METHODS = {
    "fastv": {"name": "fastv", "k": 2},
    "pyramiddrop": {"name": "pyramiddrop", "layers": [1, 2, 3]},
    "aim": {"name": "aim", "merge_ratio": 0.25, "l1": 1, "l2": 4},
    "divprune": {"name": "divprune", "ratio": 0.5},
}
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


# A second turn


def long_question(case, count=40):
    """The prompt with so long a question that a sequence cut wrongly holds text alone."""
    more = torch.randint(3, 99, (1, count), generator=torch.Generator().manual_seed(0))
    ids = torch.cat([case.inputs["input_ids"], more], dim=1)
    case.inputs = {**case.inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "mm_token_type_ids" in case.inputs:
        case.inputs["mm_token_type_ids"] = torch.nn.functional.pad(case.inputs["mm_token_type_ids"], (0, count))
    return case


@methods
@pytest.mark.parametrize("name", ["llava-image", "qwen2_vl-image", "internvl-image"])
@pytest.mark.parametrize("question", [0, 40])
def test_a_second_turn_feeds_what_the_cache_does_not_hold(name, method, question, toolbox):
    """`generate` on the whole conversation gives the logits of the new tokens behind the same cache."""
    case = long_question(toolbox.build_case(name, 1), question)
    greedy = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None, "return_dict_in_generate": True}
    fed = []
    with apply(case.model, method=method):
        first = case.model.generate(**case.inputs, max_new_tokens=4, min_new_tokens=4, **greedy)
        cache = cache_of(first)
        delta = getattr(case.model.model, "rope_deltas", None)
        sequence = torch.cat([first.sequences, torch.tensor([[11, 12, 13]])], dim=1)
        mask = torch.ones_like(sequence)
        by_hand = copy.deepcopy(cache)
        handle = case.decoder.layers[0].register_forward_pre_hook(
            lambda module, args, kwargs: fed.append((args[0] if args else kwargs["hidden_states"]).shape[1]),
            with_kwargs=True,
        )
        types = {"mm_token_type_ids": torch.zeros_like(sequence)} if "mm_token_type_ids" in case.inputs else {}
        given = {cache_argument(case.model): cache, "attention_mask": mask, **types}
        second = case.model.generate(
            sequence, max_new_tokens=3, min_new_tokens=3, output_logits=True, **given, **greedy
        )
        handle.remove()
        expected = []
        new = sequence[:, -4:]
        for index in range(3):
            end = sequence.shape[1] + index
            # called by hand, Qwen2-VL of transformers 4 counts from 0 unless it is told where the tokens stand
            places = torch.arange(end - new.shape[1], end) + delta if delta is not None else None
            places = {"position_ids": places.expand(3, 1, -1)} if places is not None else {}
            expected.append(case.follow(by_hand, input_ids=new, **places).logits[:, -1])
            new = second.sequences[:, sequence.shape[1] + index][:, None]
    assert fed == [4, 1, 1]
    for found, wanted in zip(second.logits, expected, strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def test_a_mask_that_counts_other_tokens_than_the_cache_stands_for_is_refused(toolbox):
    case = toolbox.build_case("llava-image", 1)
    with apply(case.model, method=METHODS["divprune"]):
        cache = case.cache()
        held = cache.get_seq_length()
        with pytest.raises(
            ScheduleError, match=f"covers {held + 2} tokens, 2 of them new, but the cache stands for 30"
        ):
            case.follow(cache, input_ids=torch.tensor([[7, 8]]), attention_mask=torch.ones(1, held + 2))
        assert cache.get_seq_length() == held


# Cropping


@methods
def test_a_cache_is_not_cropped_into_its_prompt(method, toolbox):
    case = toolbox.build_case("llava-image", 1)
    step = {"input_ids": torch.tensor([[5]])}
    with apply(case.model, method=method):
        cache = case.cache()
        held = [cache.get_seq_length(layer) for layer in range(5)]
        expected = case.follow(copy.deepcopy(cache), **step).logits
        case.follow(cache, input_ids=torch.tensor([[7, 8]]))
        with pytest.raises(UnsupportedModelError, match="cropped by the 2 tokens that follow its prompt, not by 3"):
            cache.crop(-3)
        cache.crop(-2)
        assert [cache.get_seq_length(layer) for layer in range(5)] == held
        assert torch.equal(case.follow(copy.deepcopy(cache), **step).logits, expected)
    with pytest.raises(UnsupportedModelError, match="cropped by the 0 tokens"):
        cache.crop(-1)
    with pytest.raises(UnsupportedModelError, match="reduced"):
        case.follow(cache, **step)
    for layer in cache.layers:  # past the cache's own method
        layer.crop(-1)
    for _ in range(2):
        with pytest.raises(UnsupportedModelError, match="fill a new cache"):
            case.follow(cache, **step)
    with apply(case.model, method=method) as applied:
        case.model(**case.inputs)
        with pytest.raises(UnsupportedModelError, match="fill a new cache"):
            case.follow(cache, **step)
        assert applied.record is None
    cache.crop(-cache.get_seq_length())
    assert case.follow(cache, **case.inputs).logits.shape[1] == case.prompt


# Rows that move


@methods
@pytest.mark.parametrize("name", ["llava-image", "qwen2_vl-image"])
@pytest.mark.parametrize("rows", [[0, 0, 1, 1, 2, 2], [2, 1], [2, 0, 1]])
def test_rows_take_along_what_is_noted_of_them(name, method, rows, toolbox):
    case = toolbox.build_case(name, 3, True)
    step = torch.tensor([[7, 8], [9, 10], [3, 4]])
    mask = torch.nn.functional.pad(case.inputs["attention_mask"], (0, 2), value=1)
    places = (mask.cumsum(1) - 1)[:, -2:]
    places = places[None].expand(3, -1, -1) if "qwen" in name else places
    with apply(case.model, method=method):
        cache = case.cache()
        given = {"input_ids": step, "attention_mask": mask, "position_ids": places}
        expected = case.follow(copy.deepcopy(cache), **given).logits[rows]
        if len(rows) == 6:
            cache.batch_repeat_interleave(2)
        elif len(rows) == 2:
            cache.batch_select_indices(torch.tensor(rows))
        else:
            cache.reorder_cache(torch.tensor(rows))
        given = {"input_ids": step[rows], "attention_mask": mask[rows], "position_ids": places[..., rows, :]}
        found = case.follow(cache, **given).logits
    assert torch.allclose(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


# A record of an earlier prompt


def test_a_cache_that_is_refused_leaves_no_record(toolbox):
    case = toolbox.build_case("llava-image", 1)
    with apply(case.model, method=METHODS["fastv"]) as applied:
        case.model(**case.inputs)
        assert applied.record is not None
        with pytest.raises(UnsupportedModelError, match="StaticCache"):
            case.generate(cache_implementation="static")
        assert applied.record is None
