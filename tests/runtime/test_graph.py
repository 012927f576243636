"""Prefills as CUDA graphs: the fallback, what forbids recording, and recording on a stand-in for CUDA."""

from __future__ import annotations

import inspect

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from aimcost.errors import InvalidValueError, ScheduleError
from aimcost.runtime import apply, capture_prefill, graph
from aimcost.runtime.compat import cache_of
from aimcost.runtime.host_reads import HostReads
from aimcost.runtime.host_syncs import HostSyncs
from aimcost.types import ReductionEvent

pytestmark = [pytest.mark.torch, pytest.mark.versions("graphs")]

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "llava_onevision-video", "llava-image", "internvl-image"]


def reduced(toolbox, name="llava_onevision-video", batch=1, merged=True):
    """A case, a schedule that merges and drops, and embeddings of its prompt."""
    case = toolbox.build_case(name, batch)
    visual = int(case.visual[0].sum())
    merges = ()
    if merged and visual == 37:
        merges = (ReductionEvent(action="merge", scorer="bipartite_cosine", after_layer=None, groups=4, tokens_in=9,
                                 tokens_out=5),)  # fmt: skip
    left = 21 if merges else visual
    schedule = case.schedule([(0, left * 3 // 4), (2, left // 3), (3, 0)], pre_llm=merges, newline=1 if merges else 0)
    return case, schedule, embeds(case, batch)


def places_value_by_value(model):
    """Whether this release computes a Qwen-VL's positions in a loop on the host that reads each value it compares."""
    index = getattr(model.model, "get_rope_index", None)
    return index is not None and "argwhere" in inspect.getsource(index)


def embeds(case, batch, seed=7):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, case.prompt, 64, generator=generator)
    return {"inputs_embeds": x, "use_cache": True, "logits_to_keep": 1}


def same(left, right):
    ours, theirs = ([layer.keys for layer in cache_of(out).layers] for out in (left, right))
    return torch.equal(left.logits, right.logits) and all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("batch", [1, 3])
def test_without_cuda_the_call_is_the_plain_one(batch, toolbox):
    case, schedule, inputs = reduced(toolbox, batch=batch)
    call = capture_prefill(case.model, inputs, schedule)
    assert not call.captured
    assert call.reason == "not captured: the inputs are on cpu, not on CUDA"
    with torch.no_grad(), apply(case.model, schedule) as applied:
        assert same(call(), case.model(**inputs))
    assert call.record.tokens == applied.record.tokens == schedule.tokens
    other = embeds(case, batch, seed=8)
    dense = capture_prefill(case.model, inputs)
    with torch.no_grad():
        assert same(dense(other), case.model(**other))
        assert not same(dense(other), case.model(**inputs))


def test_inputs_must_be_like_those_captured(toolbox):
    case, schedule, inputs = reduced(toolbox)
    call = capture_prefill(case.model, inputs, schedule)
    with pytest.raises(InvalidValueError, match="inputs_embeds"):
        call({**inputs, "inputs_embeds": inputs["inputs_embeds"][:, 1:]})
    with pytest.raises(InvalidValueError, match="inputs_embeds"):
        call({**inputs, "inputs_embeds": inputs["inputs_embeds"].double()})
    with pytest.raises(InvalidValueError, match="'inputs'"):
        call({"inputs_embeds": inputs["inputs_embeds"]})
    with pytest.raises(InvalidValueError, match="use_cache"):
        call({**inputs, "use_cache": False})
    with pytest.raises(InvalidValueError, match="warmup"):
        capture_prefill(case.model, inputs, schedule, warmup=0)
    with pytest.raises(ScheduleError, match="layers"):
        capture_prefill(case.model, inputs, case.schedule([]).__class__(method="x", tokens=(3,), visual_tokens=1))()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_reduced_prefill_never_waits_for_the_device(name, batch, toolbox, as_on_a_gpu):
    case, schedule, inputs = reduced(toolbox, name, batch)
    with torch.no_grad(), apply(case.model, schedule) as applied, HostSyncs("cpu") as syncs:
        case.model(**inputs)
    assert applied.record.tokens == schedule.tokens
    assert syncs.found == []


@pytest.mark.parametrize("scorer", ["pagerank", "last_row", "last_query", "uniform", "pivot_cosine"])
def test_neither_do_other_methods(scorer, toolbox, as_on_a_gpu):
    case = toolbox.build_case("qwen2")
    schedule = case.schedule([(1, 12), (3, 4)], scorer=scorer)
    with torch.no_grad(), apply(case.model, schedule), HostSyncs("cpu") as syncs:
        case.model(**embeds(case, 1))
    assert syncs.found == []


def test_what_depends_on_values_is_noticed(toolbox, as_on_a_gpu):
    case, schedule, _ = reduced(toolbox)
    with torch.no_grad(), apply(case.model, schedule), HostSyncs("cpu") as syncs:
        case.model(**case.inputs)
    assert "tolist" in syncs.found
    assert "_local_scalar_dense" in syncs.found
    x = torch.arange(6.0)
    for wait in (
        lambda: x[x > 2],
        lambda: x.sum().item(),
        lambda: torch.tensor([1.0, 2.0]),
        lambda: x.unique(),
        x.tolist,
    ):
        with HostSyncs("cpu") as syncs:
            wait()
        assert syncs.found
    with HostSyncs("cpu") as syncs:
        x[1:].add_(1.0)
        x[torch.arange(3)] = 0.0
        torch.tensor([])
    assert syncs.found == []


@pytest.mark.parametrize("batch", [1, 3])
def test_attention_gets_no_mask_and_keeps_its_fast_kernels(batch, toolbox, monkeypatch):
    case, schedule, inputs = reduced(toolbox, batch=batch)
    seen, real = [], torch.nn.functional.scaled_dot_product_attention

    def spy(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **more):
        seen.append((query.shape[2], attn_mask, is_causal, dropout_p))
        return real(query, key, value, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    with torch.no_grad(), apply(case.model, schedule):
        case.model(**inputs)
    assert [entry[0] for entry in seen] == list(schedule.tokens)
    assert all(mask is None and causal and not dropout for _, mask, causal, dropout in seen)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_replay_computes_on_new_inputs(batch, toolbox, fake_cuda, monkeypatch):
    monkeypatch.setattr(graph, "HostReads", lambda _, *inputs, **more: HostReads("cpu", *inputs, **more))
    case, schedule, inputs = reduced(toolbox, batch=batch)
    call = capture_prefill(case.model, fake_cuda(inputs), schedule)
    assert (call.captured, call.reason) == (True, "")
    for seed in (1, 2):
        other = embeds(case, batch, seed=seed)
        out = call(other)
        with torch.no_grad(), apply(case.model, schedule) as applied:
            assert same(out, case.model(**other))
        assert all(torch.equal(call.record.kept[layer], kept) for layer, kept in applied.record.kept.items())
    assert call._graph.replays == 2
    grown = cache_of(call())
    with torch.no_grad(), apply(case.model, schedule):
        case.follow(grown, input_ids=torch.full((batch, 1), 5))
    assert cache_of(call()).get_seq_length() == grown.get_seq_length() - 1
    call.free()
    assert not call.captured


@pytest.mark.parametrize(
    ("name", "batch", "padded"),
    [
        ("llava-image", 3, True),
        ("qwen2_vl-image", 1, False),
        *(
            pytest.param(name, *rows, marks=pytest.mark.check)
            for name in ("qwen2", "llava_onevision-video", "internvl-image", "qwen3_vl-image")
            for rows in ((1, False), (3, True))
        ),
    ],
)
def test_what_a_processor_returns_is_captured(name, batch, padded, toolbox, fake_cuda, monkeypatch):
    """Ids, mask and pixels: one wait a prefill, which compares what was fixed; text and pixels are free."""
    monkeypatch.setattr(graph, "HostReads", lambda _, *inputs, **more: HostReads("cpu", *inputs, **more))
    case = toolbox.build_case(name, batch, padded)
    schedule = case.schedule([(1, 10), (2, 4)])
    call = capture_prefill(case.model, fake_cuda(case.inputs), schedule)
    if places_value_by_value(case.model):
        assert not call.captured
        assert call.reason.endswith(("_local_scalar_dense)", "lift_fresh)"))
        return
    assert (call.captured, call.reason) == (True, "")
    other = {
        key: value + torch.randn(value.shape) if value.is_floating_point() else value.clone()
        for key, value in case.inputs.items()
    }
    other["input_ids"][:, -3:] = torch.randint(3, 99, (batch, 3))
    with HostSyncs("cpu") as syncs:
        out = call(other)
    assert syncs.waits == {"tolist": 1}
    with torch.no_grad(), apply(case.model, schedule) as applied:
        assert not same(out, case.model(**case.inputs))
        assert same(out, case.model(**other))
    assert all(torch.equal(call.record.kept[layer], kept) for layer, kept in applied.record.kept.items())
    hidden = {**other, "attention_mask": other["attention_mask"].clone()}
    hidden["attention_mask"][0, :2] = 0
    with pytest.raises(InvalidValueError, match=r"attention_mask.*that were captured"):
        call(hidden)
    if name != "qwen2":
        moved = {**other, "input_ids": other["input_ids"].roll(1, dims=1)}
        with pytest.raises(InvalidValueError, match=r"input_ids.*with token 10[12] in the places that were captured"):
            call(moved)
    assert same(call(other), out)


def test_what_cannot_be_recorded_runs_eagerly_and_says_so(toolbox, fake_cuda, monkeypatch):
    monkeypatch.setattr(graph, "HostReads", lambda _, *inputs, **more: HostReads("cpu", *inputs, **more))
    case, schedule, inputs = reduced(toolbox)
    padded = {**inputs, "attention_mask": torch.ones(1, case.prompt, dtype=torch.long)}
    call = graph.capture(case.model, fake_cuda(padded), around=lambda: apply(case.model, schedule))
    assert not call.captured
    assert call.reason.startswith("not captured: data-dependent (")
    with torch.no_grad(), apply(case.model, schedule):
        assert same(call(padded), case.model(**padded))
    experts = graph.capture(lambda x: x[x > 0], fake_cuda({"x": torch.arange(-2.0, 3.0)}), fix=True)
    assert experts.reason == "not captured: data-dependent (index)"
    assert experts({"x": torch.ones(5)}).tolist() == [1.0] * 5
    text = graph.capture(
        lambda input_ids: input_ids[input_ids > 7], fake_cuda({"input_ids": torch.arange(9)}), fix=True
    )
    assert not text.captured
    # a release makes each layer's cache of an empty list: nothing is copied
    empty = graph.capture(lambda x: torch.cat((torch.tensor([]), x)), fake_cuda({"x": torch.arange(3.0)}))
    assert (empty.captured, empty.reason) == (True, "")

    class Full:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(torch.cuda, "graph", Full)
    call = capture_prefill(case.model, fake_cuda(inputs), schedule)
    assert call.reason == "not captured: CUDA out of memory. Tried to allocate"
    with torch.no_grad(), apply(case.model, schedule):
        assert same(call(inputs), case.model(**inputs))
