"""Eager, flex and flash-like attention give what SDPA gives; and how often a host waits."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import AttentionInterface, AttentionMaskInterface

from aimcost.errors import UnsupportedModelError
from aimcost.kernels import _dispatch
from aimcost.runtime import apply, compat
from aimcost.runtime.compat import attention_name, cache_of
from aimcost.runtime.host_syncs import HostSyncs
from aimcost.types import ReductionEvent

pytestmark = [pytest.mark.torch, pytest.mark.versions("safety")]

STAND_IN = "two_dimensional_mask"


def flash_like(module, query, key, value, attention_mask, scaling=None, **_):
    """What flash attention takes: no mask, or a 2D one of all keys; causal, aligned at the last token."""
    queries, keys = query.shape[2], key.shape[2]
    visible = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)[None, None]
    if attention_mask is not None:
        assert attention_mask.shape == (query.shape[0], keys)
        visible = visible & attention_mask[:, None, None].bool()
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=scaling)
    return out.nan_to_num().transpose(1, 2).contiguous(), None


AttentionInterface.register(STAND_IN, flash_like)
AttentionMaskInterface.register(STAND_IN, AttentionMaskInterface()["flash_attention_2"])


@pytest.fixture
def attending(request):
    """The name of an attention implementation, flex uncompiled."""
    with torch.compiler.set_stance("force_eager"):
        yield request.param


def attentions():
    """Name and padding of a case, scorer, attention: uncompiled, flex takes ten times as long."""
    for name, batch, padded in (("qwen2", 1, False), ("llava-image", 3, True)):
        for scorer in ("uniform", "pagerank", "last_query"):
            for attending in ("eager", STAND_IN, "flex_attention"):
                repeats = attending == "flex_attention" and (name, scorer) != ("qwen2", "last_query")
                marks = [pytest.mark.check] if repeats else []
                yield pytest.param(name, batch, padded, scorer, attending, marks=marks)


@pytest.mark.parametrize(("name", "batch", "padded", "scorer", "attending"), list(attentions()), indirect=["attending"])
def test_any_attention_drops_as_sdpa_does(name, batch, padded, scorer, attending, toolbox):
    case = toolbox.build_case(name, batch, padded)
    merges = ()
    if name == "llava-image":
        merges = (ReductionEvent(action="merge", scorer="bipartite_cosine", after_layer=None, tokens_in=16,
                                 tokens_out=12),)  # fmt: skip
    schedule = case.schedule([(1, 8), (3, 2)], scorer=scorer, pre_llm=merges)

    def run():
        with torch.no_grad(), apply(case.model, schedule) as applied:
            logits = case.model(**case.inputs).logits
            return logits, applied.record, case.generate()

    expected, record, tokens = run()
    before = AttentionInterface().get(attending)
    case.decoder.set_attn_implementation(attending)
    try:
        logits, found, generated = run()
        assert attention_name(case.decoder) == attending
    finally:
        case.decoder.set_attn_implementation("sdpa")
    assert AttentionInterface().get(attending) is before
    assert found.tokens == record.tokens
    assert all(torch.equal(found.kept[layer], kept) for layer, kept in record.kept.items())
    real = case.real.gather(1, record.origin.gather(1, record.kept[3]))
    assert toolbox.relative_error(logits, expected, real) < 1e-5
    assert torch.equal(generated, tokens)


def test_attention_that_nobody_registered_is_refused(toolbox, monkeypatch):
    case = toolbox.build_case("qwen2", 1)
    monkeypatch.setattr(compat, "attention_name", lambda module: "paged|sdpa")
    with pytest.raises(UnsupportedModelError, match="not one that transformers has registered"):
        apply(case.model, case.schedule([(1, 8)]))


@pytest.mark.parametrize(("batch", "padded"), [(1, False), (3, True)])
@pytest.mark.parametrize("name", ["qwen2", "llava-image", "llava_onevision-video", "internvl-image"])
def test_how_often_the_host_waits(name, batch, padded, toolbox, monkeypatch):
    """With ids, placeholders and a mask: at most twice a prefill beside the model's own waits, never in decoding."""
    monkeypatch.setattr(_dispatch, "should_check", lambda check, tensor: bool(check))
    case = toolbox.build_case(name, batch, padded)
    schedule = case.schedule([(1, 10), (2, 4)])
    step = {"input_ids": torch.full((batch, 1), 5)}
    step["attention_mask"] = torch.nn.functional.pad(case.inputs["attention_mask"], (0, 1), value=1)

    def waits():
        with HostSyncs("cpu") as prefill:
            output = case.model(**case.inputs, use_cache=True)
        with HostSyncs("cpu") as decode:
            case.follow(cache_of(output), **step)
        return sum(prefill.waits.values()), sum(decode.waits.values())

    with torch.no_grad():
        case.model(**case.inputs)
        dense = waits()
        with apply(case.model, schedule):
            reduced = waits()
    assert 0 < reduced[0] - dense[0] < 3
    assert reduced[1] <= dense[1]
