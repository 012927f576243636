"""What differs between releases of transformers is found by looking, or refused in one line."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from aimcost.errors import UnsupportedModelError
from aimcost.runtime import apply, apply_masked, build_model, compat

pytestmark = [pytest.mark.torch, pytest.mark.versions("compat")]

ROOT = Path(__file__).resolve().parents[2]


class Box:
    """Holds a cache, and is none that anything could recognise."""

    def __init__(self, cache):
        self.cache = cache


def _renamed(case, annotation=None):
    """A copy of the decoder that calls its cache ``memory``, declared as a cache only where `annotation` says so."""
    native = compat.cache_argument(case.decoder)

    class Renamed(type(case.decoder)):
        def forward(self, input_ids=None, attention_mask=None, position_ids=None, memory=None, use_cache=None):
            cache = memory.cache if isinstance(memory, Box) else memory
            arguments = {"attention_mask": attention_mask, "position_ids": position_ids, "use_cache": use_cache}
            return super().forward(input_ids=input_ids, **arguments, **{native: cache})

    if annotation is not None:
        Renamed.forward.__annotations__["memory"] = annotation
    decoder = copy.deepcopy(case.decoder)
    decoder.__class__ = Renamed
    return decoder


def _two_passes(decoder, name, case, cache):
    """Hidden states of the prompt and of one token after it."""
    inputs = {"input_ids": case.inputs["input_ids"], "attention_mask": case.inputs["attention_mask"]}
    mask = torch.cat([inputs["attention_mask"], torch.ones(len(case.visual), 1, dtype=torch.long)], dim=1)
    positions = mask.sum(1, keepdim=True) - 1
    step = {"input_ids": torch.full((len(case.visual), 1), 7), "attention_mask": mask, "position_ids": positions}
    with torch.no_grad():
        prompt = decoder(**inputs, use_cache=True, **{name: cache}).last_hidden_state
        return prompt, decoder(**step, use_cache=True, **{name: cache}).last_hidden_state


@pytest.mark.parametrize("execute", [apply, apply_masked])
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_a_cache_under_an_unknown_name_is_found(name, execute, toolbox):
    case = toolbox.build_case(name, 3, True)
    schedule = case.schedule([(1, 10), (2, 4)])
    with execute(case.decoder, schedule):
        native = compat.cache_argument(case.decoder)
        expected = _two_passes(case.decoder, native, case, transformers.DynamicCache())
    decoder, cache = _renamed(case), transformers.DynamicCache()
    with execute(decoder, schedule) as applied:
        found = _two_passes(decoder, "memory", case, cache)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    computed = schedule.tokens if execute is apply else (case.prompt,) * 5
    assert applied.record.tokens == computed
    assert [layer.get_seq_length() for layer in cache.layers] == [tokens + 1 for tokens in computed]


@pytest.mark.parametrize("wrap", [lambda cache: None, Box])
def test_a_cache_that_cannot_be_found_is_refused(wrap, toolbox):
    """Neither a `Cache` nor a known name: one line says so, and no layer runs."""
    case = toolbox.build_case("qwen2", 1)
    decoder, ran = _renamed(case), []
    decoder.layers[0].register_forward_hook(lambda *_: ran.append(True))
    memory = wrap(transformers.DynamicCache())
    with apply(decoder, case.schedule([(1, 10)])), pytest.raises(UnsupportedModelError) as caught:
        decoder(input_ids=case.inputs["input_ids"], memory=memory)
    said = str(caught.value)
    assert said == (
        "no KV cache can be found among the arguments of Renamed "
        f"(transformers {transformers.__version__}; tested: {', '.join(compat.TESTED)})"
    )
    assert not ran
    assert decoder(input_ids=case.inputs["input_ids"], memory=memory).last_hidden_state.shape[1] == case.prompt


@pytest.mark.parametrize(
    "annotation", [transformers.Cache | None, transformers.DynamicCache, "Cache | None", "Optional[Cache]"]
)
def test_an_annotation_declares_the_cache(annotation, toolbox):
    """So that a call without one is known to be a call without one."""
    case = toolbox.build_case("qwen2", 1)
    decoder = _renamed(case, annotation)
    assert compat.cache_argument(decoder) == "memory"
    schedule = case.schedule([(1, 10)])
    with torch.no_grad(), apply(decoder, schedule) as applied:
        output = decoder(input_ids=case.inputs["input_ids"])
    assert applied.record.tokens == schedule.tokens
    assert compat.cache_of(output).get_seq_length(4) == schedule.tokens[4]


def test_what_is_not_one_cache_is_refused(toolbox):
    case = toolbox.build_case("qwen2", 1)
    two = {"memory": transformers.DynamicCache(), "other": transformers.DynamicCache()}
    with pytest.raises(UnsupportedModelError, match="called with 2 KV caches"):
        compat.find_cache(case.decoder, two)
    assert compat.find_cache(case.decoder, {**two, "other": two["memory"]}) is two["memory"]
    with torch.no_grad(), pytest.raises(UnsupportedModelError, match="0 KV caches in a"):
        compat.cache_of(case.model(**case.inputs, use_cache=False))
    with pytest.raises(UnsupportedModelError, match="no KV cache can be found among the arguments of Linear"):
        compat.cache_argument(torch.nn.Linear(1, 1))


def test_a_legacy_tuple_is_refused(toolbox):
    """Under a name that is known, though not as a `Cache`."""
    case = toolbox.build_case("qwen2", 1)
    name = compat.cache_argument(case.model)
    with apply(case.model, case.schedule([(1, 10)])), pytest.raises(UnsupportedModelError, match="use DynamicCache"):
        case.model(**case.inputs, **{name: ((torch.zeros(1, 2, 3, 16),) * 2,) * 5})


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize(
    "spelled",
    [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_theta": 5e5},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    ],
)
def test_both_spellings_of_rope_are_read(kind, spelled, toolbox):
    """inv_freq_i = theta^(-2i/d), over the factor where positions are scaled linearly; d = 64 / 4 heads."""
    model = build_model({**toolbox.configs[kind], **spelled})
    factor = 4.0 if "linear" in str(spelled) else 1.0
    expected = 5e5 ** (-torch.arange(0, 16, 2) / 16) / factor
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, expected)


def test_a_range_that_was_tested():
    """pyproject.toml admits the oldest release that `make test-versions` runs, to the minor after the newest."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    major, minor = map(int, compat.TESTED[-1].split("."))
    ranges = re.findall(r'"transformers([<>=][^"]*)"', text)
    assert len(ranges) == 2
    assert set(ranges) == {f">={compat.TESTED[0]},<{major}.{minor + 1}"}


# In the package no module of transformers below its top; in tests the files of models, whose code they check.
PRIVATE = r"past_key_value|cache_position|\._attn_implementation|transformers\.__version__|no_init_weights"
INNER = {"aimcost": r"(from|import) transformers\.", "tests": r"(from|import) transformers\.(?!models\.)"}
# The tracer registers itself where transformers looks attention, masks and experts up (ADR 17), and its tests call
# models as it does; what writes golden counts records the release, and released code has names of older ones.
KNOWS = {"compat.py", "test_compat.py", "generate.py", "record.py", "real_model.py"} | {
    "model.py",
    "recorder.py",
    "trace.py",
}


def test_no_other_file_knows_a_release():
    offenders = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for folder, inner in INNER.items()
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.name not in KNOWS or path.parent.name in ("inputs", "types")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(f"{PRIVATE}|{inner}", line)
    ]
    assert not offenders, "\n".join(offenders)
