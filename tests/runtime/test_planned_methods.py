"""What the methods plan is what the runtime executes: every method, through its own plan."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import aimcost
from aimcost.inputs.discover import method_names
from aimcost.runtime import apply, build_model

pytestmark = [pytest.mark.torch, pytest.mark.versions("methods")]

# Parameters that a method cannot do without, or that suit five layers better than its defaults.
PARAMS = {
    "aim": [{"merge_r": [4, 2], "l1": 1, "l2": 4}, {}],
    "explicit": [
        {"tokens_per_layer": [[None, 2], [20, 3]]},
        {"tokens_per_layer": [[24, 2], [20, 3]], "select": "random"},
        {"tokens_per_layer": [[None, 2], [20, 3]], "select": "aim"},
    ],
    "pre_llm": [
        {"ratio": 0.5},
        {"ratio": 0.5, "scorer": "random"},
        {"ratio": 0.5, "scorer": "cls_attention"},
    ],
    "pyramiddrop": [{"layers": [1, 2, 3]}],
    "holov": [{"num_patches": 4}],
    "tome": [{"r": 3}],
}
CASES = ("llava_onevision-video", "llava-image")
# ToMe needs a tower whose patches are not pooled; CDPruner needs a text tower (test_question.py)
RUNS = [
    (case, name, params)
    for case in CASES
    for name in method_names()
    if name != "cdpruner" and (case, name) != ("llava_onevision-video", "tome")
    for params in PARAMS.get(name, [{}])
]


def _schedule(case, method, toolbox):
    family, _, medium = case.name.partition("-")
    visual = {"frames": 4} if medium == "video" else {"images": 1}
    if "tokens_per_layer" in method:
        runs = [[case.prompt if n is None else n, layers] for n, layers in method["tokens_per_layer"]]
        method = {**method, "tokens_per_layer": runs}
    run = {
        "model": toolbox.configs[family],
        "workload": {**visual, "text_tokens": {"system": 5, "question": 9}},
        "method": method,
        "hardware": "nvidia_a100_sxm_80gb",
    }
    return aimcost.schedule(run)


@pytest.mark.parametrize(("name", "method", "params"), RUNS)
def test_every_method_runs_as_planned(name, method, params, toolbox):
    case = toolbox.build_case(name, 1)
    schedule = _schedule(case, {"name": method, **params}, toolbox)
    with apply(case.model, schedule) as applied:
        with torch.no_grad():
            cache = case.cache()
        assert case.generate().shape == (1, 16)
    assert applied.record.tokens == schedule.tokens
    assert tuple(layer.get_seq_length() for layer in cache.layers) == schedule.tokens


@pytest.mark.parametrize("name", CASES)
def test_what_the_planner_finds_runs(name, toolbox):
    case = toolbox.build_case(name, 1)
    family, _, medium = case.name.partition("-")
    run = {
        "model": toolbox.configs[family],
        "workload": {**({"frames": 4} if medium == "video" else {"images": 1}), "text_tokens": 14},
        "hardware": "nvidia_a100_sxm_80gb",
        "include": ["prefill"],
    }
    whole, seen = aimcost.estimate(run).totals.flops / 1e12, set()
    for share in (0.6, 0.7, 0.8, 0.9):
        plan = aimcost.plan(run, {"max_tflops": whole * share}, shapes=["free"], earliest_cut=1, objective="tokens")
        schedule = aimcost.schedule(plan.best.run)
        seen |= {event.action for event in schedule.events}
        with apply(case.model, schedule) as applied, torch.no_grad():
            case.model(**case.inputs)
        assert applied.record.tokens == schedule.tokens
    assert seen == {"merge", "prune"}


def test_two_kinds_of_mask(toolbox):
    """Layers with and without a sliding window, as long as the window is not reached."""
    case = toolbox.build_case("qwen2", 3, True)
    windowed = {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 2}
    case.model = build_model({**toolbox.configs["qwen2"], **windowed})
    assert set(case.model.config.layer_types) == {"full_attention", "sliding_attention"}
    with apply(case.model, case.schedule([(0, 20), (2, 12), (3, 5)])) as applied:
        with torch.no_grad():
            logits = case.model(**case.inputs).logits
        tokens = case.generate()
    kept = applied.record.kept
    with toolbox.hide_dead(case.decoder, kept, case.real):
        with torch.no_grad():
            expected = case.model(**case.inputs).logits
        expected_tokens = case.generate()
    live = expected.gather(1, kept[3][..., None].expand(-1, -1, expected.shape[-1]))
    assert toolbox.relative_error(logits, live, case.real.gather(1, kept[3])) < 1e-5
    assert torch.equal(tokens, expected_tokens)


def test_hidden_states_may_be_asked_for(toolbox):
    """A layer's output, without the tokens dropped after it; with them in transformers 4.57 and 5.0."""
    case = toolbox.build_case("llama", 1)
    schedule = case.schedule([(0, 20), (3, 5)])
    with torch.no_grad(), apply(case.model, schedule):
        hidden = case.model(**case.inputs, output_hidden_states=True).hidden_states
    tokens = schedule.tokens
    counts = [state.shape[1] for state in hidden]
    assert counts in ([38, *tokens[1:], tokens[-1]], [38, *tokens[:-1], tokens[-1]])


@pytest.mark.parametrize("method", ["visionzip", "prumerge", "prumerge_plus", "vispruner", "fastervlm", "holov"])
def test_methods_of_the_tower_are_planned_for_each_prompt(method, toolbox):
    """As with a schedule, for one image and for two; a copy of the model made inside runs unreduced."""
    for batch in (1, 3):
        case = toolbox.build_case("llava-image", batch)
        schedule = _schedule(case, {"name": method}, toolbox)
        with torch.no_grad():
            with apply(case.model, schedule):
                expected = case.model(**case.inputs).logits
            with apply(case.model, method={"name": method}) as applied:
                assert torch.equal(case.model(**case.inputs).logits, expected)
                copied = copy.deepcopy(case.model)
            assert applied.record.schedule.notes == schedule.notes
            assert copied(**case.inputs).logits.shape[1] == case.inputs["input_ids"].shape[1]


def test_visionzip_runs_the_split_that_it_plans(toolbox):
    case = toolbox.build_case("llava-image", 1)
    logits = []
    for dominant, contextual in ((7, 1), (5, 3)):
        schedule = _schedule(case, {"name": "visionzip", "dominant": dominant, "contextual": contextual}, toolbox)
        with torch.no_grad(), apply(case.model, schedule) as applied:
            logits.append(case.model(**case.inputs).logits)
        assert applied.record.tokens == schedule.tokens
    assert logits[0].shape == logits[1].shape
    assert not torch.allclose(logits[0], logits[1])
