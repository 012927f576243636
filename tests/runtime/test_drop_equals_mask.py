"""Dropping tokens equals hiding the same tokens: hidden states, logits and 16 greedy tokens."""

from __future__ import annotations

import contextlib

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from aimcost.runtime import apply, apply_masked, build_model, kept_overlap

pytestmark = pytest.mark.torch

FP32_BAR = 1e-5
FAMILIES = ["llama", "qwen2", "qwen3", "mistral"]
CASES = [
    *FAMILIES,
    "llava-image",
    "llava_next-image",
    "llava_onevision-image",
    "llava_onevision-video",
    "qwen2_vl-image",
    "qwen2_vl-video",
    "qwen2_5_vl-image",
    "qwen2_5_vl-video",
    "qwen3_vl-image",
    "qwen3_vl-video",
    "internvl-image",
]
BATCHES = [*(pytest.param(rows, False, marks=pytest.mark.check) for rows in (1, 3)), (3, True)]


def _forward(case):
    with torch.no_grad():
        return case.model(**case.inputs).logits


def _live_before(record, layer):
    earlier = [cut for cut in record.kept if cut < layer]
    if not earlier:
        return torch.arange(record.origin.shape[1]).expand(record.origin.shape[0], -1)
    return record.kept[max(earlier)]


def _rows(tensor, index):
    return tensor.gather(1, index[..., None].expand(-1, -1, tensor.shape[-1]))


@contextlib.contextmanager
def _renumbered(decoder, kept, prompt):
    """The oracle's positions: tokens live at a layer have those of the prompt's first ones, what follows goes on."""

    def hook_of(some):
        def hook(module, args, kwargs):
            hidden = args[0] if args else kwargs["hidden_states"]
            positions = kwargs["position_ids"].expand(hidden.shape[0], -1)
            if hidden.shape[1] == prompt:
                positions = positions.scatter(1, some, positions[:, : some.shape[1]])
            else:
                positions = positions - (prompt - some.shape[1])
            kwargs["position_embeddings"] = decoder.rotary_emb(hidden, position_ids=positions)
            return args, kwargs

        return hook

    handles = []
    try:
        for index, layer in enumerate(decoder.layers):
            earlier = [cut for cut in kept if cut < index]
            if earlier:
                handles.append(layer.register_forward_pre_hook(hook_of(kept[max(earlier)]), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _compare(case, schedule, toolbox, bar=FP32_BAR):
    with apply(case.model, schedule) as applied:
        with toolbox.hidden_states(case.decoder) as ours:
            logits = _forward(case)
        record = applied.record
        tokens = case.generate()
    renumbered = schedule.params.get("positions") == "renumbered"
    moved = _renumbered(case.decoder, record.kept, case.real.shape[1]) if renumbered else contextlib.nullcontext()
    with toolbox.hide_dead(case.decoder, record.kept, case.real), moved:
        with toolbox.hidden_states(case.decoder) as theirs:
            expected = _forward(case)
        expected_tokens = case.generate()
    assert record.tokens == schedule.tokens
    for layer in range(5):
        index = _live_before(record, layer)
        assert ours[layer].shape[1] == schedule.tokens[layer]
        where = case.real.gather(1, index)
        assert toolbox.relative_error(ours[layer], _rows(theirs[layer], index), where) < bar
    index = _live_before(record, 5)
    assert toolbox.relative_error(logits, _rows(expected, index), case.real.gather(1, index)) < bar
    assert torch.equal(tokens, expected_tokens)
    return record


@pytest.mark.versions("drop = mask", "generate")
@pytest.mark.parametrize(("batch", "padded"), BATCHES)
@pytest.mark.parametrize("name", CASES)
def test_live_tokens_are_as_if_the_others_were_masked(name, batch, padded, toolbox):
    case = toolbox.build_case(name, batch, padded)
    visual = int(case.visual[0].sum())
    record = _compare(case, case.schedule([(0, visual * 3 // 4), (2, visual // 3), (3, 0)]), toolbox)
    for kept in record.kept.values():
        assert (kept.diff(dim=1) > 0).all()
        stays = torch.zeros_like(case.visual).scatter(1, kept, True)
        assert (stays | case.visual).all()


@pytest.mark.versions("drop = mask", "generate")
@pytest.mark.parametrize("scorer", ["last_row", "last_query", "uniform", "random"])
@pytest.mark.parametrize("name", ["qwen2", "qwen3_vl-video", "qwen2_5_vl-image", "llava_onevision-video"])
def test_every_policy_drops_soundly(name, scorer, toolbox):
    case = toolbox.build_case(name, 3, True)
    _compare(case, case.schedule([(1, 10), (2, 4)], scorer=scorer, seed=3), toolbox)


@pytest.mark.versions("drop = mask", "generate")
@pytest.mark.parametrize("name", ["llama", "qwen3", "llava_onevision-video"])
def test_renumbered_positions(name, toolbox):
    """Prefill and decoding with positions counted from 0 after every cut (PyramidDrop, SparseVLM)."""
    case = toolbox.build_case(name, 3, True)
    schedule = case.schedule([(1, 10), (2, 4)], scorer="last_query", positions="renumbered")
    record = _compare(case, schedule, toolbox)
    expected = _forward(case)
    with apply_masked(case.model, schedule, kept=record.kept):
        masked, tokens = _forward(case), case.generate()
    with apply(case.model, schedule):
        logits = _forward(case)
        assert torch.equal(case.generate(), tokens)
    index = record.kept[2]
    assert toolbox.relative_error(logits, _rows(masked, index), case.real.gather(1, index)) < FP32_BAR
    assert not torch.allclose(logits, _rows(expected, index), atol=1e-3)


@pytest.mark.versions("drop = mask", "generate")
@pytest.mark.parametrize("name", ["llama", "qwen3_vl-image"])
def test_withdrawing_every_visual_token(name, toolbox):
    case = toolbox.build_case(name, 3, True)
    record = _compare(case, case.schedule([(1, 0)], scorer="none"), toolbox)
    assert not record.visual.gather(1, record.kept[1]).any()


@pytest.mark.versions("generate")
@pytest.mark.parametrize("name", CASES)
def test_keeping_all_is_the_model_itself(name, toolbox):
    """Also shows that visual features added between layers (DeepStack) arrive where they should."""
    case = toolbox.build_case(name, 3, True)
    visual = int(case.visual[0].sum())
    expected, expected_tokens = _forward(case), case.generate()
    for scorer in ("pagerank", "last_query"):
        with apply(case.model, case.schedule([(1, visual), (3, visual)], scorer=scorer)):
            assert toolbox.relative_error(_forward(case), expected, case.real) < 1e-6
            assert torch.equal(case.generate(), expected_tokens)


@pytest.mark.versions("kept sets")
@pytest.mark.parametrize("name", ["qwen2", "llava_onevision-video"])
def test_padding_changes_no_row(name, toolbox):
    """A padded row keeps the tokens, and gives the logits, that it has when it is alone."""
    case = toolbox.build_case(name, 3, True)
    with apply(case.model, case.schedule([(1, 12), (2, 5)])) as applied:
        logits, record = _forward(case), applied.record
    for row, pad in enumerate((0, 2, 3)):
        inputs = {key: value[row : row + 1] for key, value in case.inputs.items()}
        inputs["input_ids"] = inputs["input_ids"][:, pad:]
        inputs["attention_mask"] = None
        alone = toolbox.build_case(name, 1)
        alone.inputs, alone.visual = inputs, case.visual[row : row + 1, pad:]
        with apply(case.model, alone.schedule([(1, 12), (2, 5)])) as applied, torch.no_grad():
            single = case.model(**inputs).logits
        for layer, kept in applied.record.kept.items():
            assert torch.equal(record.kept[layer][row, pad:] - pad, kept[0])
        assert torch.allclose(logits[row, -1], single[0, -1], rtol=0, atol=1e-5 * float(single.abs().max()))


@pytest.mark.versions("drop = mask")
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision(family, dtype, toolbox):
    """Bars of some five roundings of the largest value: 2 % for bf16 (2^-8), 0.25 % for fp16 (2^-11)."""
    case = toolbox.build_case(family, 3, True)
    case.model = build_model(toolbox.configs[family], dtype=dtype)
    schedule = case.schedule([(1, 12), (2, 5)])
    with apply(case.model, schedule) as applied:
        logits = _forward(case).float()
    record = applied.record
    with toolbox.hide_dead(case.decoder, record.kept, case.real):
        expected = _forward(case).float()
    index = record.kept[2]
    bar = {"bf16": 2e-2, "fp16": 2.5e-3}[dtype]
    assert toolbox.relative_error(logits, _rows(expected, index), case.real.gather(1, index)) < bar


@pytest.mark.versions("drop = mask", "generate")
@pytest.mark.parametrize("name", ["qwen2", "llava_onevision-video", "qwen3_vl-image"])
def test_masked_baseline_equals_the_oracle(name, toolbox):
    """fp32 eager attention under `apply_masked` against stock SDPA under the oracle."""
    case = toolbox.build_case(name, 3, True)
    schedule = case.schedule([(1, 12), (2, 5)])
    with apply(case.model, schedule) as applied:
        _forward(case)
    kept = applied.record.kept
    with apply_masked(case.model, schedule, kept=kept):
        logits, tokens = _forward(case), case.generate()
    with toolbox.hide_dead(case.decoder, kept, case.real):
        expected, expected_tokens = _forward(case), case.generate()
    assert toolbox.relative_error(logits, expected, case.real) < FP32_BAR
    assert torch.equal(tokens, expected_tokens)


@pytest.mark.versions("kept sets")
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_kept_sets_overlap_with_the_released_semantics(name, padded, toolbox):
    """The first cut sees the same live rows, hence the same ranking; later ones may differ."""
    case = toolbox.build_case(name, 3, padded)
    schedule = case.schedule([(1, 16), (2, 12), (3, 8)])
    with apply(case.model, schedule) as applied:
        _forward(case)
    ours = applied.record
    with apply_masked(case.model, schedule) as applied:
        _forward(case)
    shares = kept_overlap(ours, applied.record)
    assert shares[1] == 1.0
    assert all(share >= 0.7 for share in shares.values())
    assert kept_overlap(ours, ours) == {1: 1.0, 2: 1.0, 3: 1.0}
