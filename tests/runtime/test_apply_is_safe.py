"""The model is left as found; nesting, threads and two models do not mix; bad input is refused early."""

from __future__ import annotations

import copy
import dataclasses
import threading

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from aimcost.errors import AimcostError, InvalidValueError, ScheduleError, UnknownNameError, UnsupportedModelError
from aimcost.runtime import apply, apply_masked, build_model, kept_overlap
from aimcost.runtime.compat import attention_name
from aimcost.types import ReductionEvent

pytestmark = [pytest.mark.torch, pytest.mark.versions("safety")]

HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


def _fingerprint(model):
    hooks = [[dict(getattr(module, name)) for name in HOOKS] for module in model.modules()]
    names = [attention_name(m) for m in model.modules() if hasattr(m, "config")]
    forwards = [module.__dict__.get("forward") for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    return hooks, names, forwards, copy.deepcopy(model.config.to_dict()), weights


def _same(left, right):
    weights = all(torch.equal(left[-1][name], right[-1][name]) for name in left[-1])
    return weights and left[:-1] == right[:-1] and left[-1].keys() == right[-1].keys()


def _logits(case):
    with torch.no_grad():
        return case.model(**case.inputs).logits


@pytest.mark.parametrize("name", ["qwen2", "llava_onevision-video", "qwen3_vl-image", "llava-image"])
def test_the_model_is_left_as_found(name, toolbox):
    case = toolbox.build_case(name, 2, True)
    # A first run lets transformers install the hooks of its own with which it captures tower outputs.
    expected, before = _logits(case), _fingerprint(case.model)
    with apply(case.model, case.schedule([(1, 10), (2, 4)])):
        assert not _same(before, _fingerprint(case.model))
        case.generate()
    assert _same(before, _fingerprint(case.model))
    with apply_masked(case.model, case.schedule([(1, 10)])):
        _logits(case)
    assert _same(before, _fingerprint(case.model))
    assert torch.equal(_logits(case), expected)


class _BoomError(Exception):
    pass


@pytest.mark.parametrize("place", ["block", "layer", "attention", "tower"])
def test_the_model_is_left_as_found_after_an_exception(place, toolbox):
    case = toolbox.build_case("llava-image", 1)
    expected, before = _logits(case), _fingerprint(case.model)
    events = [ReductionEvent(action="prune", scorer="cls_attention", after_layer=None, tokens_in=16, tokens_out=12)]
    schedule = case.schedule([(1, 10), (2, 4)], pre_llm=events)
    part = {
        "layer": case.decoder.layers[3],
        "attention": case.decoder.layers[2].self_attn,
        "tower": case.model.model.vision_tower,
    }.get(place)

    def fail(*_):
        raise _BoomError

    def run():
        with apply(case.model, schedule) as applied:
            runs.append(applied)
            if part is None:
                fail()
            _logits(case)

    runs = []
    handle = part.register_forward_pre_hook(fail) if part is not None else None
    with pytest.raises(_BoomError):
        run()
    if handle is not None:
        handle.remove()
    assert runs[0].record is None
    assert _same(before, _fingerprint(case.model))
    assert torch.equal(_logits(case), expected)


def test_a_failed_pass_does_not_disturb_the_next(toolbox):
    case = toolbox.build_case("qwen2", 1)
    schedule = case.schedule([(1, 10)])
    with apply(case.model, schedule):
        expected = _logits(case)
    with apply(case.model, schedule):
        handle = case.decoder.layers[3].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            _logits(case)
        handle.remove()
        assert torch.equal(_logits(case), expected)


def test_another_schedule_inside_is_refused_and_an_equal_one_shared(toolbox):
    case = toolbox.build_case("qwen2", 1)
    before = _fingerprint(case.model)
    outer = case.schedule([(1, 10)])
    with apply(case.model, outer) as first:
        expected = _logits(case)
        with (
            pytest.raises(ScheduleError, match="already applied"),
            apply(case.model, case.schedule([(1, 4)])),
        ):
            pass
        with pytest.raises(ScheduleError, match="already applied"), apply_masked(case.model, outer):
            pass
        assert torch.equal(_logits(case), expected)
        with apply(case.model, copy.deepcopy(outer)) as second:
            assert torch.equal(_logits(case), expected)
            assert second.record.tokens == first.record.tokens == outer.tokens
        assert torch.equal(_logits(case), expected)
    assert _same(before, _fingerprint(case.model))


def test_blocks_of_two_models_may_overlap_in_any_order(toolbox):
    """Also where the models share one configuration object."""
    one = toolbox.build_case("qwen2", 1)
    two = toolbox.build_case("qwen2", 1)
    two.model = type(one.model)(one.model.config).eval()
    assert two.model.config is one.model.config
    dense = _logits(one), _logits(two)
    a, b = apply(one.model, one.schedule([(1, 10)])), apply(two.model, two.schedule([(2, 4)]))
    a.__enter__()
    reduced = _logits(one)
    b.__enter__()
    assert torch.equal(_logits(one), reduced)
    assert _logits(two).shape[1] == 18
    a.__exit__(None, None, None)
    assert torch.equal(_logits(one), dense[0])
    assert b.record.tokens == (38, 38, 38, 18, 18)
    assert _logits(two).shape[1] == 18
    b.__exit__(None, None, None)
    assert torch.equal(_logits(two), dense[1])
    assert attention_name(one.model) == "sdpa"


def _in_threads(*functions):
    results, barrier = [None] * len(functions), threading.Barrier(len(functions))

    def run(index, function):
        barrier.wait()
        try:
            results[index] = function()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_models_in_two_threads(toolbox):
    cases = [toolbox.build_case("qwen2", 2), toolbox.build_case("llava_onevision-video", 2)]
    schedules = [cases[0].schedule([(1, 10)]), cases[1].schedule([(0, 20), (2, 4)])]

    def run(case, schedule):
        found = []
        for _ in range(5):
            with apply(case.model, schedule) as applied:
                found.append((_logits(case), applied.record.tokens))
        return found

    expected = [run(case, schedule)[0] for case, schedule in zip(cases, schedules, strict=True)]
    jobs = [lambda pair=pair: run(*pair) for pair in zip(cases, schedules, strict=True)]
    for found, (logits, tokens) in zip(_in_threads(*jobs), expected, strict=True):
        assert all(torch.equal(mine, logits) and seen == tokens for mine, seen in found)


def _swaps_forwards(case):
    """Whether the stock model replaces the forward of its modules while it runs, so that threads cannot share it."""
    found, handles = [], []
    for module in case.model.modules():
        hook = module.register_forward_pre_hook(lambda module, _: found.append("forward" in vars(module)))
        handles.append(hook)
    _logits(case)
    for handle in handles:
        handle.remove()
    return any(found)


@pytest.mark.parametrize("name", ["qwen2", "llava_onevision-video"])
def test_two_threads_share_a_model(name, toolbox):
    """Different prompts run at once through one block, and each thread sees its own record."""
    cases = [toolbox.build_case(name, 1, seed=seed) for seed in (1, 2)]
    if _swaps_forwards(cases[0]):
        pytest.skip("this transformers captures a tower's outputs by patching shared modules (4.57 and 5.0 do)")
    schedule = cases[0].schedule([(1, 10), (2, 4)])
    with apply(cases[0].model, schedule) as applied:

        def run(case):
            return [(_logits(case), applied.record.kept[2]) for _ in range(8)]

        expected = [run(case)[0] for case in cases]
        assert not torch.equal(expected[0][1], expected[1][1])
        found = _in_threads(*[lambda case=case: run(case) for case in cases])
    for mine, (logits, kept) in zip(found, expected, strict=True):
        assert all(torch.equal(a, logits) and torch.equal(b, kept) for a, b in mine)


def test_interleaved_generations_keep_their_own_caches(toolbox):
    cases = [toolbox.build_case("qwen2", 2, True, seed=seed) for seed in (1, 2)]
    step = torch.tensor([[5], [6]])

    def decode(case, cache):
        mask = torch.cat([case.inputs["attention_mask"], torch.ones(2, 1, dtype=torch.long)], dim=1)
        positions = mask.sum(1, keepdim=True) - 1
        with torch.no_grad():
            return case.follow(cache, input_ids=step, attention_mask=mask, position_ids=positions).logits

    with torch.no_grad(), apply(cases[0].model, cases[0].schedule([(1, 10), (2, 4)])):
        alone = [decode(c, c.cache()) for c in cases]
        caches = [c.cache() for c in cases]
        assert [layer.get_seq_length() for layer in caches[0].layers] == [38, 38, 24, 18, 18]
        together = [decode(c, copy.deepcopy(cache)) for c, cache in zip(cases, caches, strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(("name", "padded"), [("qwen2", False), ("qwen2", True), ("llava_onevision-video", True)])
@pytest.mark.parametrize("merged", [False, True])
def test_text_may_follow_in_chunks(name, padded, merged, toolbox):
    """More text in one chunk gives what the same tokens give one by one."""
    case = toolbox.build_case(name, 3, padded)
    groups, newline, size = (4, 1, 9) if "video" in name else (4, 0, 6)
    merge = ReductionEvent(
        action="merge",
        scorer="bipartite_cosine",
        after_layer=None,
        groups=groups,
        tokens_in=size,
        tokens_out=size - 2,
    )
    schedule = case.schedule([(1, 10), (2, 4)], pre_llm=[merge] if merged else (), newline=newline if merged else 0)
    more = torch.randint(3, 99, (3, 4), generator=torch.Generator().manual_seed(5))
    mask = case.inputs["attention_mask"]

    def follow(parts):
        cache = case.cache()
        seen = mask
        for part in parts:
            seen = torch.cat([seen, torch.ones_like(part)], dim=1)
            positions = (seen.cumsum(1) - 1)[:, -part.shape[1] :]
            output = case.follow(cache, input_ids=part, attention_mask=seen, position_ids=positions)
        return output.logits[:, -1]

    with torch.no_grad(), apply(case.model, schedule):
        chunk, single = follow([more]), follow(more.split(1, dim=1))
    assert torch.allclose(chunk, single, rtol=0, atol=1e-5 * float(single.abs().max()))


def test_beam_search_and_sampling_run(toolbox):
    case = toolbox.build_case("qwen2_vl-image", 3, True)
    with apply(case.model, case.schedule([(1, 10), (2, 4)])) as applied:
        beams = case.generate(num_beams=3)
        assert applied.record.tokens == (30, 30, 24, 18, 18)
    assert beams.shape == (3, 16)


def test_boundaries_may_be_given_in_three_ways(toolbox):
    case = toolbox.build_case("llama", 3, True)
    schedule = case.schedule([(1, 10), (2, 4)])
    with apply(case.model, schedule) as applied:
        expected = _logits(case)
    kept = applied.record.kept[2]
    rows = [(5, 24, 9), (5, 24, 7), (5, 24, 6)]
    for given in (case.visual, rows, (5, 24, 9)):
        with apply(case.model, schedule, boundaries=given) as applied:
            assert torch.equal(_logits(case), expected)
        assert torch.equal(applied.record.kept[2], kept)
    with apply(case.model, schedule, boundaries=(8, 24, 6)) as applied, torch.no_grad():
        case.model(input_ids=case.inputs["input_ids"])
    assert (applied.record.visual == (torch.arange(38) >= 8) & (torch.arange(38) < 32)).all()


def test_counts_that_only_boundaries_can_explain(toolbox):
    """A schedule without visual tokens runs once the caller says what may be dropped."""
    case = toolbox.build_case("llama", 1)
    schedule = dataclasses.replace(case.schedule([(1, 10)]), visual_tokens=0, text_before=0, text_after=38)
    with pytest.raises(ScheduleError, match="boundaries"):
        apply(case.model, schedule)
    with apply(case.model, schedule, boundaries=(2, 30, 6)) as applied:
        _logits(case)
    assert applied.record.tokens == schedule.tokens


def _event(after, before, left, **more):
    return ReductionEvent(
        **{
            "action": "prune",
            "scorer": "pagerank",
            "after_layer": after,
            "tokens_in": before,
            "tokens_out": left,
        }
        | more
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tokens": (38,) * 6, "events": ()}, ScheduleError, "6 layers, the model has 5"),
        ({"tokens": (38, 38, 30, 30, 30), "events": ()}, ScheduleError, "layer 2 is to compute on 30"),
        ({"tokens": (38, 38, 0, 0, 0), "events": (_event(1, 38, 0),)}, ScheduleError, "keeping 0 of 38"),
        ({"tokens": (38, 38, 40, 40, 40), "events": (_event(1, 38, 40),)}, ScheduleError, "keeping 40 of 38"),
        ({"tokens": (38, 38, 9, 9, 9), "events": (_event(1, 38, 9),)}, ScheduleError, "14 are text"),
        ({"events": (_event(4, 38, 20),)}, ScheduleError, "after layer 4 cuts nothing"),
        ({"events": (_event(-1, 38, 20),)}, ScheduleError, "after layer -1 cuts nothing"),
        ({"events": (_event(1, 38, 24, action="merge"),)}, ScheduleError, "only pruning"),
        ({"events": (_event(1, 38, 24, scorer="pagerang"),)}, UnknownNameError, "'pagerank'"),
        ({"events": (_event(1, 38, 24, scorer="none"),)}, ScheduleError, "withdraws every visual"),
        ({"events": (_event(None, 20, 10), _event(1, 38, 24))}, ScheduleError, "leave 10 . 0 visual"),
    ],
)
def test_bad_schedules_are_refused_at_once(change, error, message, toolbox):
    case = toolbox.build_case("qwen2", 1)
    schedule = dataclasses.replace(case.schedule([(1, 10)]), **change)
    before = _fingerprint(case.model)
    with pytest.raises(error, match=message):
        apply(case.model, schedule)
    assert _same(before, _fingerprint(case.model))


@pytest.mark.parametrize(
    ("boundaries", "error", "message"),
    [
        ((5, 24, 8), ScheduleError, "cover 37 tokens"),
        ((5, 30, 9), ScheduleError, "cover 44 tokens"),
        ((5, -1, 9), InvalidValueError, "boundaries"),
        ((5, 24), InvalidValueError, "boundaries"),
        ([(5, 24, 9), (5, 23, 9)], ScheduleError, "same number"),
        ((20, 9, 9), ScheduleError, "29 are text"),
        ((14, 24, 0), ScheduleError, "end in text"),
        (torch.ones(1, 30, dtype=torch.bool), ScheduleError, "cover 30 tokens"),
        (torch.ones(1, 38), InvalidValueError, "boolean mask"),
    ],
)
def test_bad_boundaries_are_refused_at_once(boundaries, error, message, toolbox):
    case = toolbox.build_case("qwen2", 1)
    with pytest.raises(error, match=message):
        apply(case.model, case.schedule([(1, 10)]), boundaries=boundaries)


def test_prompts_that_do_not_fit_are_refused(toolbox):
    case = toolbox.build_case("llava-image", 2)
    schedule = case.schedule([(1, 10)])
    short = {**case.inputs, "input_ids": case.inputs["input_ids"][:, :-1], "attention_mask": None}
    ids = case.inputs["input_ids"].clone()
    ids[:, 5], ids[:, 0] = ids[:, 0], ids[:, 5].clone()
    fewer = ids.clone()
    fewer[0, 0] = 7
    endless = torch.roll(case.inputs["input_ids"], 9, dims=1)
    expected, before = _logits(case), _fingerprint(case.model)
    with torch.no_grad(), apply(case.model, schedule):
        with pytest.raises(ScheduleError, match="prompt has 29 tokens"):
            case.model(**short)
        with pytest.raises(ScheduleError, match="same number of visual tokens"):
            case.model(input_ids=fewer)
        with pytest.raises(ScheduleError, match="end in text"):
            case.model(input_ids=endless)
        with pytest.raises(ScheduleError, match="0 visual tokens a row"):
            case.model(input_ids=torch.full((1, 30), 7))
        with pytest.raises(InvalidValueError, match="finite"):
            case.model(**{**case.inputs, "pixel_values": case.inputs["pixel_values"] * float("nan")})
        with pytest.raises(InvalidValueError, match="finite"):
            case.model(inputs_embeds=torch.full((1, 30, 64), float("inf")))
    assert _same(before, _fingerprint(case.model))
    assert torch.equal(_logits(case), expected)


def test_unsupported_models_caches_and_attention_are_refused(toolbox):
    case = toolbox.build_case("qwen2", 1)
    schedule = case.schedule([(1, 10)])
    for name in ("eager", "flex_attention"):
        case.model.set_attn_implementation(name)
        try:
            with pytest.raises(UnsupportedModelError, match=name):
                apply_masked(case.model, schedule)
        finally:
            case.model.set_attn_implementation("sdpa")
    gpt = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=9))
    with pytest.raises(UnsupportedModelError, match="found 0 supported decoders"):
        apply(gpt, schedule)
    with pytest.raises(UnsupportedModelError, match="torch module"):
        apply("model", schedule)
    windowed = build_model({**toolbox.configs["mistral"], "sliding_window": 38})
    with pytest.raises(UnsupportedModelError, match="sliding window of 38"):
        apply(windowed, schedule)
    with apply(case.model, schedule), pytest.raises(UnsupportedModelError, match="StaticCache"):
        case.generate(cache_implementation="static")


def test_a_sliding_window_is_not_outgrown(toolbox):
    case = toolbox.build_case("mistral", 1)
    case.model = build_model({**toolbox.configs["mistral"], "sliding_window": 45})
    with (
        apply(case.model, case.schedule([(1, 10)])),
        pytest.raises(UnsupportedModelError, match="window of 45"),
    ):
        case.generate()


def test_masking_needs_kept_sets_that_fit(toolbox):
    case = toolbox.build_case("qwen2", 1)
    with pytest.raises(ScheduleError, match="'uniform' needs the positions to keep"):
        apply_masked(case.model, case.schedule([(1, 10)], scorer="uniform"))
    with pytest.raises(ScheduleError, match="24 positions after layer 1"):
        apply_masked(case.model, case.schedule([(1, 10)]), kept={1: torch.zeros(1, 3, dtype=torch.long)})
    with apply(case.model, case.schedule([(1, 0)], scorer="none")) as applied:
        _logits(case)
    assert kept_overlap(applied.record, applied.record) == {}


def test_every_error_is_one_line(toolbox):
    case = toolbox.build_case("qwen2", 1)
    for schedule in (
        dataclasses.replace(case.schedule([]), tokens=(38,) * 4),
        case.schedule([(1, 10)], scorer="nothing-like-it"),
    ):
        with pytest.raises(AimcostError) as caught:
            apply(case.model, schedule)
        assert "\n" not in str(caught.value)


def test_visual_tokens_behind_a_cache_are_refused(toolbox):
    """They would pass unreduced without a word; text behind a cache is welcome."""
    case = toolbox.build_case("llava-image", 1)
    with torch.no_grad(), apply(case.model, case.schedule([(1, 10)])):
        cache = case.cache()
        with pytest.raises(ScheduleError, match="follow 30 cached ones"):
            case.follow(cache, **{**case.inputs, "attention_mask": None})
        assert case.follow(cache, input_ids=torch.tensor([[7, 8]])).logits.shape[1] == 2


def test_a_cache_that_was_refilled_is_as_good_as_new(toolbox):
    """What a reduced prompt left in a cache is forgotten with it."""
    case = toolbox.build_case("qwen2", 2, True)
    step = torch.tensor([[5], [6]])
    mask = torch.cat([case.inputs["attention_mask"], torch.ones(2, 1, dtype=torch.long)], dim=1)
    with torch.no_grad():
        plain = case.cache()
        expected = case.follow(plain, input_ids=step, attention_mask=mask).logits
        with apply(case.model, case.schedule([(1, 10)])):
            cache = case.cache()
        for layer in cache.layers:
            layer.crop(-layer.get_seq_length())
        case.follow(cache, **case.inputs)
        with apply(case.model, case.schedule([(1, 10)])):
            found = case.follow(cache, input_ids=step, attention_mask=mask).logits
    assert torch.equal(found, expected)
