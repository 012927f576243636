"""Dropped tokens cost nothing: counted exactly, layer by layer; and what measures it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch.utils.flop_counter import FlopCounterMode

from aimcost.errors import InvalidValueError, UnknownNameError, UnsupportedModelError
from aimcost.runtime import apply, build_model, time_alternately, time_call
from aimcost.runtime.compat import cache_of
from aimcost.types import ReductionEvent, Schedule

pytestmark = pytest.mark.torch

HIDDEN, MLP, HEADS, KV, WIDTH, VOCAB = 64, 96, 4, 2, 16, 128


def _layer_flops(tokens, batch):
    """2·n·parameters of the seven matrices, and 4·n²·H·d for both products of full-square attention."""
    weights = HIDDEN * (2 * HEADS + 2 * KV) * WIDTH + 3 * HIDDEN * MLP
    return batch * (2 * tokens * weights + 4 * tokens * tokens * HEADS * WIDTH)


def _counted(model, ids, schedule=None, **inputs):
    """FLOPs of the decoder's layers and of the head, which yields one position."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if schedule is None:
            model(input_ids=ids, logits_to_keep=1, **inputs)
        else:
            with apply(model, schedule):
                model(input_ids=ids, logits_to_keep=1, **inputs)
    by_module = counter.get_flop_counts()
    rotary = sum(sum(ops.values()) for name, ops in by_module.items() if name.endswith(".rotary_emb"))
    return counter.get_total_flops() - rotary


def _on_meta(config):
    """A model without storage; in transformers 4.57 and 5.0 its rotary embedding does not run there."""
    model = build_model(config, device="meta")
    try:
        model(input_ids=torch.zeros(1, 2, dtype=torch.long, device="meta"))
    except RuntimeError as error:
        pytest.skip(f"the stock model does not run on meta tensors: {error}")
    return model


def _schedule(scorer, prompt, cuts, before=10, after=90):
    tokens, live, events = [], prompt, []
    for layer in range(5):
        tokens.append(live)
        if layer in cuts:
            events.append(
                ReductionEvent(action="prune", scorer=scorer, after_layer=layer, tokens_in=live, tokens_out=cuts[layer])
            )
            live = cuts[layer]
    return Schedule(
        method="test",
        tokens=tuple(tokens),
        visual_tokens=prompt - before - after,
        text_before=before,
        text_after=after,
        events=tuple(events),
    )


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_layers_compute_on_live_tokens_alone(family, batch, toolbox):
    model = _on_meta(toolbox.configs[family])
    ids = torch.zeros(batch, 1700, dtype=torch.long, device="meta")
    head = batch * 2 * HIDDEN * VOCAB
    assert _counted(model, ids) == 5 * _layer_flops(1700, batch) + head
    schedule = _schedule("uniform", 1700, {1: 900, 3: 100})
    assert schedule.tokens == (1700, 1700, 900, 900, 100)
    assert _counted(model, ids, schedule) == sum(_layer_flops(n, batch) for n in schedule.tokens) + head


def test_a_last_query_costs_the_next_layers_projections(toolbox):
    """q, k and v of all live tokens, and one row of logits over them; nothing after that."""
    model = _on_meta(toolbox.configs["llama"])
    ids = torch.zeros(1, 1700, dtype=torch.long, device="meta")
    plain, ranked = (_schedule(name, 1700, {1: 900}) for name in ("uniform", "last_query"))
    extra = _counted(model, ids, ranked) - _counted(model, ids, plain)
    assert extra == 2 * 1700 * HIDDEN * (HEADS + 2 * KV) * WIDTH + 2 * 1700 * HEADS * WIDTH


def test_merged_tokens_cost_nothing_in_any_layer(toolbox):
    model = _on_meta(toolbox.configs["llama"])
    ids = torch.zeros(1, 1700, dtype=torch.long, device="meta")
    merge = ReductionEvent(action="prune", scorer="uniform", after_layer=None, groups=8, tokens_in=200, tokens_out=50)
    schedule = Schedule(
        method="test", tokens=(500,) * 5, visual_tokens=400, text_before=10, text_after=90, events=(merge,)
    )
    assert _counted(model, ids, schedule) == 5 * _layer_flops(500, 1) + 2 * HIDDEN * VOCAB


def test_caches_hold_what_each_layer_computed_on(toolbox):
    model = build_model(toolbox.configs["qwen2"])
    ids = torch.randint(3, 99, (2, 120))
    schedule = _schedule("pagerank", 120, {1: 110, 3: 102}, before=10, after=90)
    with torch.no_grad(), apply(model, schedule):
        cache = cache_of(model(input_ids=ids, use_cache=True))
    assert tuple(layer.get_seq_length() for layer in cache.layers) == schedule.tokens


def test_built_models_repeat_and_differ_by_seed(toolbox):
    config = toolbox.configs["llava_onevision"]
    one, again, other = (build_model(config, seed=seed) for seed in (4, 4, 5))
    weights = [model.state_dict() for model in (one, again, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(weights[0][name], weights[2][name])
    assert float(weights[0][name].std()) == pytest.approx(1.6 / HIDDEN**0.5, rel=0.05)
    short = build_model(config, layers=2, dtype="bf16")
    assert len(short.model.language_model.layers) == 2
    assert short.dtype == torch.bfloat16
    assert config["text_config"]["num_hidden_layers"] == 5
    assert not short.training


@pytest.mark.parametrize(
    ("config", "more", "error"),
    [
        ({"hidden_size": 8}, {}, InvalidValueError),
        ({"model_type": "no-such-model"}, {}, UnsupportedModelError),
        ({"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1}, {}, UnsupportedModelError),
        ({"model_type": "llama"}, {"layers": 0}, InvalidValueError),
        (None, {"dtype": "fp31"}, UnknownNameError),
    ],
)
def test_configurations_that_make_no_model(config, more, error, toolbox):
    with pytest.raises(error):
        build_model(config or toolbox.configs["llama"], **more)


def test_timings_are_counted_and_ordered():
    calls = []
    slow, fast = torch.randn(400, 400), torch.randn(40, 40)
    seen = []
    timings = time_alternately(
        [lambda: calls.append("slow") or slow @ slow @ slow, lambda: calls.append("fast") or fast @ fast],
        warmup=2,
        repeats=5,
        on_repeat=seen.append,
    )
    assert calls == ["slow", "fast"] * 7
    assert seen == [1, 2, 3, 4, 5]
    assert timings[0].median > timings[1].median > 0
    assert all(len(timing.samples) == 5 and timing.clock == "thread_cpu" for timing in timings)
    assert timings[0].spread >= 0
    with pytest.raises(InvalidValueError, match="repeats"):
        time_call(lambda: None, repeats=0)
