"""Decoding from fixed buffers: the tokens of an ordinary cache, without a wait, and recorded once for many prompts."""

from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from aimcost.errors import InvalidValueError, ScheduleError, UnsupportedModelError
from aimcost.runtime import apply, build_model, capture_decode, decode, graph
from aimcost.runtime.compat import cache_of
from aimcost.runtime.host_reads import HostReads
from aimcost.runtime.host_syncs import HostSyncs
from aimcost.types import ReductionEvent

pytestmark = [pytest.mark.torch, pytest.mark.versions("graphs")]

CUTS = [(0, 12), (2, 7), (3, 0)]
STEPS = 5
MERGE = ReductionEvent(action="merge", scorer="bipartite_cosine", after_layer=None, groups=4, tokens_in=9, tokens_out=5)


def _prefilled(case):
    """The prompt's cache, its positions counted as ``generate`` counts them, and the token that follows."""
    mask = case.inputs["attention_mask"]
    given = {} if "vl" in case.name else {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    with torch.no_grad():
        out = case.model(**case.inputs, **given, use_cache=True)
    return cache_of(out), out.logits[:, -1:].argmax(-1)


def _generated(case, steps=STEPS):
    """What ``generate`` goes on with, a token a step: its tokens and their logits."""
    with torch.no_grad():
        out = case.model.generate(
            **case.inputs, max_new_tokens=steps + 1, min_new_tokens=steps + 1, do_sample=False, pad_token_id=0,
            eos_token_id=None, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    return out.sequences[:, -steps - 1 :], torch.stack(out.logits[1:], dim=1)


@pytest.mark.parametrize(
    ("name", "scorer", "more"),
    [
        ("qwen2", "pagerank", {}),
        ("llama", "last_query", {"positions": "renumbered"}),
        ("llava_onevision-video", "pagerank", {"pre_llm": [MERGE], "newline": 1}),
        ("qwen2_vl-image", "last_row", {}),
    ],
)
def test_steps_are_those_of_an_ordinary_cache(name, scorer, more, toolbox):
    case = toolbox.build_case(name, 3, True)
    schedule = case.schedule(CUTS, scorer=scorer, **more)
    with apply(case.model, schedule):
        tokens, logits = _generated(case)
        cache, first = _prefilled(case)
        held = [cache.get_seq_length(layer) for layer in range(5)]
        mask = case.inputs["attention_mask"]
        step = capture_decode(case.model, cache, tokens=STEPS, attention_mask=mask)
        inside = step(first).clone()
        assert torch.equal(inside, capture_decode(case.model, cache, tokens=STEPS)(first))  # padding is noted
    assert (step.captured, step.reason) == (False, "not captured: the inputs are on cpu, not on CUDA")
    assert torch.equal(first, tokens[:, :1])
    assert held == list(schedule.tokens)
    assert [layer.keys.shape[2] for layer in step.cache.layers] == [n + STEPS for n in held]
    ours = [inside]
    for index in range(1, STEPS):
        with HostSyncs("cpu") as syncs:
            ours.append(step(tokens[:, index : index + 1]))
        assert not syncs.found, syncs.found
    assert toolbox.relative_error(torch.cat(ours, dim=1), logits, slice(None)) < 1e-5
    with pytest.raises(ScheduleError, match="take 5 tokens"):
        step(first)


def test_one_recording_serves_the_next_prompt(toolbox, fake_cuda, monkeypatch):
    """A graph is recorded once; a prompt of the same counts is copied into its buffers."""
    monkeypatch.setattr(graph, "HostReads", lambda _, *inputs, **more: HostReads("cpu", *inputs, **more))
    capture = graph.capture
    monkeypatch.setattr(decode, "capture", lambda call, inputs, **more: capture(call, fake_cuda(inputs), **more))
    case = toolbox.build_case("qwen2", 3)
    schedule = case.schedule(CUTS)
    with apply(case.model, schedule):
        cache, _ = _prefilled(case)
        step = capture_decode(case.model, cache, tokens=STEPS)
        assert (step.captured, step.reason) == (True, "")
        for seed in (1, 2):
            case.inputs = toolbox.build_case("qwen2", 3, seed=seed).inputs
            tokens, logits = _generated(case)
            cache, first = _prefilled(case)
            step.fill(cache)
            assert torch.equal(first, tokens[:, :1])
            ours = torch.cat([step(tokens[:, i : i + 1]).clone() for i in range(STEPS)], dim=1)
            assert toolbox.relative_error(ours, logits, slice(None)) < 1e-5
    assert step._call._graph.replays == 2 * STEPS
    with torch.no_grad():
        dense = cache_of(case.model(**case.inputs, use_cache=True))
    with pytest.raises(ScheduleError, match="the buffers hold"):
        step.fill(dense)


@pytest.mark.check
def test_a_compiled_step_is_one_graph_for_every_step_and_prompt(toolbox):
    """``fullgraph=True`` on a backend that counts: compiled once, for closed-up positions and a padded batch too."""
    from torch._dynamo.testing import CompileCounter

    case = toolbox.build_case("llava_onevision-video", 3, True)
    schedule = case.schedule([(1, 12), (3, 2)], pre_llm=(MERGE,), newline=1)
    counter, mask = CompileCounter(), case.inputs["attention_mask"]
    with apply(case.model, schedule):
        tokens, logits = _generated(case)
        cache, _ = _prefilled(case)
    step = capture_decode(case.model, cache, tokens=STEPS, attention_mask=mask)
    step.compile(backend=counter)
    for _ in range(2):
        ours = torch.cat([step(tokens[:, i : i + 1]).clone() for i in range(STEPS)], dim=1)
        assert toolbox.relative_error(ours, logits, slice(None)) < 1e-5
        step.fill(cache, mask)
    assert counter.frame_count == 1


@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps])
def test_a_step_has_no_copies(copied, toolbox):
    """A copy would write to the buffers of the original, or to none."""
    case = toolbox.build_case("qwen2")
    with apply(case.model, case.schedule(CUTS)):
        step = capture_decode(case.model, _prefilled(case)[0], tokens=1)
    with pytest.raises(UnsupportedModelError, match="has no copies"):
        copied(step)


def test_a_cache_that_was_never_reduced_and_what_is_refused(toolbox):
    case = toolbox.build_case("qwen2", 3, True)
    tokens, logits = _generated(case)
    cache, _ = _prefilled(case)
    step = capture_decode(case.model, cache, tokens=STEPS, attention_mask=case.inputs["attention_mask"])
    positions = case.inputs["attention_mask"].sum(1)
    assert torch.equal(step._step._first, positions)
    ours = torch.cat([step(tokens[:, i : i + 1]) for i in range(STEPS)], dim=1)
    assert toolbox.relative_error(ours, logits, slice(None)) < 1e-5
    with pytest.raises(InvalidValueError, match="tokens"):
        capture_decode(case.model, cache, tokens=0)
    with pytest.raises(ScheduleError, match="attention_mask covers"):
        capture_decode(case.model, cache, tokens=2, attention_mask=torch.ones(3, 4))
    seeing = toolbox.build_case("qwen2_vl-image", 1)
    with pytest.raises(UnsupportedModelError, match="mRoPE"):
        capture_decode(seeing.model, _prefilled(seeing)[0], tokens=2)
    static = transformers.StaticCache(config=case.model.config, max_cache_len=64)
    with pytest.raises(UnsupportedModelError, match="KV cache StaticCache cannot be handed to fixed buffers"):
        capture_decode(case.model, static, tokens=2)
    with pytest.raises(UnsupportedModelError, match="KV cache StaticCache"):
        step.fill(static)


def test_decoding_does_not_outgrow_a_sliding_window(toolbox):
    case = toolbox.build_case("mistral", 1)
    case.model = build_model({**toolbox.configs["mistral"], "sliding_window": 45})
    with torch.no_grad(), apply(case.model, case.schedule([(1, 10)])):
        cache = case.cache()
    assert capture_decode(case.model, cache, tokens=44 - case.prompt).cache is not None
    with pytest.raises(UnsupportedModelError, match=r"38 prompt tokens and 7 to come exceed .* window of 45"):
        capture_decode(case.model, cache, tokens=7)
