"""Reductions before the language model equal a run on explicitly shortened embeddings."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from aimcost.errors import ScheduleError, UnsupportedModelError
from aimcost.kernels.merge import merge_tokens
from aimcost.runtime import apply
from aimcost.runtime.compat import attention_name
from aimcost.types import ReductionEvent

pytestmark = [pytest.mark.torch, pytest.mark.versions("before the model")]

BAR = 1e-5


def _event(groups, before, after, scorer, action="prune"):
    return ReductionEvent(
        action=action, scorer=scorer, after_layer=None, groups=groups, tokens_in=before, tokens_out=after
    )


def _merge(groups, *counts):
    return [_event(groups, a, b, "bipartite_cosine", "merge") for a, b in itertools.pairwise(counts)]


def _embeddings(case):
    """What reaches the decoder of the untouched model: embeddings and position ids."""
    seen = {}

    def hook(module, args, kwargs):
        seen.update(kwargs)

    handle = case.decoder.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad():
            case.model(**case.inputs)
    finally:
        handle.remove()
    if seen.get("inputs_embeds") is None:
        return case.decoder.embed_tokens(case.inputs["input_ids"]).detach(), seen.get("position_ids")
    return seen["inputs_embeds"].detach(), seen.get("position_ids")


def _shorten(case, embeds, merged, groups, newline):
    """Row by row in plain Python: text, then each group's result, then newline, then text."""
    rows = []
    for row in range(len(embeds)):
        where = case.visual[row].nonzero()[:, 0].tolist()
        grouped = where[: len(where) - newline]
        results = [token for group in range(groups) for token in merged[row * groups + group]]
        loose = [embeds[row, place] for place in where[len(grouped) :]]
        text_before = list(embeds[row, : where[0]])
        text_after = list(embeds[row, where[-1] + 1 :])
        rows.append(torch.stack([*text_before, *results, *loose, *text_after]))
    return torch.stack(rows)


def _lm_generate(case, embeds, real):
    with torch.no_grad():
        return case.model.generate(
            inputs_embeds=embeds,
            attention_mask=real.long(),
            max_new_tokens=16,
            min_new_tokens=16,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )[:, -16:]


@pytest.mark.parametrize(("batch", "padded"), [(1, False), (3, False), (3, True)])
@pytest.mark.parametrize(
    ("name", "groups", "newline", "counts"),
    [
        ("llama", 3, 0, (8, 4, 2)),
        ("mistral", 2, 0, (12, 7)),
        ("qwen3", 1, 0, (24, 12, 6)),
        ("llava-image", 1, 0, (16, 8, 4)),
        ("llava_onevision-video", 4, 1, (9, 5, 3)),
        ("internvl-image", 1, 0, (16, 8)),
    ],
)
def test_merging_equals_shortened_embeddings(name, groups, newline, counts, batch, padded, toolbox):
    """Positions close up: the short run numbers its tokens itself, and so must the reduced one."""
    case = toolbox.build_case(name, batch, padded)
    embeds, _ = _embeddings(case)
    places = [case.visual[row].nonzero()[:, 0][: groups * counts[0]] for row in range(batch)]
    merged = torch.cat([embeds[row, place].view(groups, counts[0], -1) for row, place in enumerate(places)])
    for before, after in itertools.pairwise(counts):
        merged = merge_tokens(merged, before - after)
    short = _shorten(case, embeds, merged, groups, newline)
    pads = (~case.real).sum(1)
    real = torch.arange(short.shape[1]) >= pads[:, None]
    schedule = case.schedule([], pre_llm=_merge(groups, *counts), newline=newline)
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = case.model(inputs_embeds=short, attention_mask=real.long(), position_ids=positions).logits
        full_positions = (case.inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        with apply(case.model, schedule) as applied:
            logits = case.model(**case.inputs, position_ids=full_positions).logits
            tokens = case.generate()
    assert applied.record.tokens == (short.shape[1],) * 5
    assert toolbox.relative_error(logits, expected, real) < BAR
    assert torch.equal(tokens, _lm_generate(case, short, real))


@pytest.mark.parametrize(("batch", "padded"), [(1, False), (3, True)])
@pytest.mark.parametrize("name", ["llava_onevision-video", "qwen2"])
def test_merging_and_pruning_together(name, batch, padded, toolbox):
    """The whole of AIM: the cuts inside the model see the merged prompt."""
    case = toolbox.build_case(name, batch, padded)
    groups, newline, counts = (4, 1, (9, 5)) if "video" in name else (4, 0, (6, 3))
    schedule = case.schedule([(1, 10), (2, 4)], pre_llm=_merge(groups, *counts), newline=newline)
    with torch.no_grad(), apply(case.model, schedule) as applied:
        logits = case.model(**case.inputs).logits
        tokens = case.generate()
    record = applied.record
    real = case.real.gather(1, record.origin)
    merged_only = case.schedule([], pre_llm=_merge(groups, *counts), newline=newline)
    hidden = toolbox.hide_dead(case.decoder, record.kept, real)
    with torch.no_grad(), apply(case.model, merged_only), hidden:
        expected = case.model(**case.inputs).logits
        expected_tokens = case.generate()
    kept = record.kept[2]
    live = expected.gather(1, kept[..., None].expand(-1, -1, expected.shape[-1]))
    assert record.tokens == schedule.tokens
    assert toolbox.relative_error(logits, live, real.gather(1, kept)) < BAR
    assert torch.equal(tokens, expected_tokens)


@pytest.mark.parametrize("scorer", ["uniform", "random"])
@pytest.mark.parametrize("name", ["qwen2_vl-image", "qwen2_5_vl-video", "qwen3_vl-image", "qwen3_vl-video"])
def test_mrope_survivors_keep_their_positions(name, scorer, toolbox):
    """Pruned before layer 0 equals masked from layer 0 on, since positions do not move."""
    case = toolbox.build_case(name, 3, True)
    visual = int(case.visual[0].sum())
    schedule = case.schedule([], pre_llm=[_event(1, visual, visual // 2, scorer)], seed=1)
    with torch.no_grad(), apply(case.model, schedule) as applied:
        logits, tokens = case.model(**case.inputs).logits, case.generate()
    origin = applied.record.origin
    with torch.no_grad(), toolbox.hide_dead(case.decoder, {-1: origin}, case.real):
        expected, expected_tokens = case.model(**case.inputs).logits, case.generate()
    live = expected.gather(1, origin[..., None].expand(-1, -1, expected.shape[-1]))
    assert toolbox.relative_error(logits, live, case.real.gather(1, origin)) < BAR
    assert torch.equal(tokens, expected_tokens)


def test_mrope_decoding_without_position_ids(toolbox):
    """Positions go on from the whole prompt although the cache holds less.

    The prompt is 5 + 16 + 9 tokens. Its image of 4 x 4 takes positions 5 to 8 in height and width, the text
    after it 9 to 17: the next token stands at 18.
    """
    case = toolbox.build_case("qwen2_vl-image", 1)
    schedule = case.schedule([], pre_llm=[_event(1, 16, 8, "uniform")])
    following, position = torch.tensor([[7]]), torch.full((3, 1, 1), 18)
    with torch.no_grad(), apply(case.model, schedule) as applied:
        cache = case.cache()
        step = case.follow(cache, input_ids=following).logits
    origin = applied.record.origin
    with torch.no_grad(), toolbox.hide_dead(case.decoder, {-1: origin}, case.real):
        cache = case.cache()
        expected = case.follow(cache, input_ids=following, position_ids=position).logits
    assert toolbox.relative_error(step, expected, torch.ones(1, 1, dtype=torch.bool)) < BAR


def test_features_added_between_layers_are_merged_alike(toolbox):
    """DeepStack: identical tokens merge into themselves, their features into the mean of each pair."""
    case = toolbox.build_case("qwen3_vl-image", 1)
    embeds, positions = _embeddings(case)
    visual = case.visual[0].nonzero()[:, 0]
    seen = {}
    handle = case.decoder.register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True)
    with torch.no_grad():
        case.model(**case.inputs)
    handle.remove()
    features = [feature.detach().clone() for feature in seen["deepstack_visual_embeds"]]
    embeds[0, visual[1::2]] = embeds[0, visual[::2]]
    arguments = {
        "inputs_embeds": embeds,
        "position_ids": positions,
        "visual_pos_masks": case.visual,
        "deepstack_visual_embeds": features,
    }
    schedule = case.schedule([], pre_llm=_merge(1, 16, 8))
    with torch.no_grad(), apply(case.model, schedule, boundaries=case.visual):
        ours = case.decoder(**arguments).last_hidden_state
    kept = torch.cat([torch.arange(5), visual[1::2], torch.arange(21, 30)])
    arguments["inputs_embeds"] = torch.cat([embeds[:, :5], embeds[:, visual[1::2]], embeds[:, 21:]], dim=1)
    arguments["position_ids"] = positions[..., kept]
    arguments["visual_pos_masks"] = case.visual[:, kept]
    arguments["deepstack_visual_embeds"] = [(feature[::2] + feature[1::2]) / 2 for feature in features]
    with torch.no_grad():
        theirs = case.decoder(**arguments).last_hidden_state
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


def _class_attention(case, position):
    """Attention of the class token in the layer that feeds the model, from eager attention weights."""
    tower = case.model.model.vision_tower
    tower.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            weights = tower(case.inputs["pixel_values"], output_attentions=True).attentions[position]
    finally:
        tower.set_attn_implementation("sdpa")
    return weights[:, :, 0, 1:].mean(1)


def test_class_attention_ranks_patches(toolbox):
    case = toolbox.build_case("llava-image", 3)
    expected = _class_attention(case, case.model.config.vision_feature_layer)
    schedule = case.schedule([], pre_llm=[_event(1, 16, 6, "cls_attention")])
    with torch.no_grad(), apply(case.model, schedule) as applied:
        case.model(**case.inputs)
    kept = applied.record.origin[:, 5:11] - 5
    assert torch.equal(kept, expected.topk(6, dim=1).indices.sort(1).values)
    assert attention_name(case.model.model.vision_tower) == "sdpa"


def _prumerge(tokens, attention, keys, keep):
    """PruMerge's merging as described: plain loops over one image's (n, D) tokens."""
    order = sorted(range(len(tokens)), key=lambda i: -float(attention[i]))
    results = []
    for one in order[: keep - 1]:
        others = [i for i in range(len(tokens)) if i != one]
        cosines = {i: float(torch.nn.functional.cosine_similarity(keys[one], keys[i], dim=0)) for i in others}
        nearest = sorted(others, key=lambda i: -cosines[i])[:32]
        results.append(tokens[one] + sum(attention[i] * tokens[i] for i in nearest))
    return torch.stack([*results, sum(attention[i] * tokens[i] for i in order[keep - 1 :])])


def _last_tower_layer(case, frames):
    """Attention with all heads as one, and keys, of the tower's last layer: (G, n) and (G, n, E)."""
    tower, shown = case.model.model.vision_tower, {}
    last = [module for module in tower.modules() if hasattr(module, "q_proj")][-1]
    handles = [
        projection.register_forward_hook(lambda m, a, out, name=name: shown.update({name: out}))
        for name, projection in (("query", last.q_proj), ("key", last.k_proj))
    ]
    with torch.no_grad():
        states = tower(frames, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    query, key = shown["query"], shown["key"]
    return (query @ key.transpose(1, 2) * query.shape[-1] ** -0.5).softmax(-1), key, states


def _at_layer_0(case, events, newline=0):
    seen = {}
    with torch.no_grad(), apply(case.model, case.schedule([(2, 3)], pre_llm=events, newline=newline)):
        handle = case.decoder.layers[0].register_forward_pre_hook(lambda m, a, k: seen.update(h=a[0]), with_kwargs=True)
        case.model(**case.inputs)
        handle.remove()
        case.generate()
    return seen["h"]


def test_prumerge_merges_what_the_tower_yields(toolbox):
    """The class token of the last layer ranks, the layer that feeds the model is merged, and then projected."""
    case = toolbox.build_case("llava-image", 3, True)
    attention, keys, states = _last_tower_layer(case, case.inputs["pixel_values"])
    hidden = _at_layer_0(case, [_event(1, 16, 5, "cls_attention", "merge")])
    features = states[case.model.config.vision_feature_layer][:, 1:]
    for row, visual in enumerate(case.visual):
        first = int(visual.nonzero()[0])
        merged = _prumerge(features[row], attention[row, 0, 1:], keys[row, 1:], 5)
        with torch.no_grad():
            expected = case.model.model.multi_modal_projector(merged[None])[0]
        assert torch.allclose(hidden[row, first : first + 5], expected, atol=1e-5)


def test_prumerge_merges_pooled_tokens_after_the_projector(toolbox):
    """A frame is pooled after the projector, and has no class token: what a token receives on average ranks."""
    case = toolbox.build_case("llava_onevision-video", 3, True)
    embeds, _ = _embeddings(case)
    newline = int(case.visual[0].sum()) - 4 * 9
    hidden = _at_layer_0(case, [_event(4, 9, 4, "cls_attention", "merge")], newline)
    frames = case.inputs["pixel_values_videos"].flatten(0, 1)
    attention, keys, _ = _last_tower_layer(case, frames)
    pool = case.model.model.apply_pooling
    attention, keys = pool(attention.mean(1)[..., None])[..., 0], pool(keys)
    for row, visual in enumerate(case.visual):
        first = int(visual.nonzero()[0])
        for group in range(4):
            members = embeds[row, first + group * 9 : first + (group + 1) * 9]
            expected = _prumerge(members, attention[4 * row + group], keys[4 * row + group], 4)
            results = hidden[row, first + group * 4 : first + (group + 1) * 4]
            assert torch.allclose(results, expected, atol=1e-4)


def test_evs_keeps_the_first_frame_and_what_moves(toolbox):
    case = toolbox.build_case("qwen2", 1)
    ids = case.inputs["input_ids"]
    frame = torch.arange(10, 16)
    ids[0, 5:29] = frame.repeat(4)
    ids[0, [5 + 6 + 2, 5 + 12 + 4]] = torch.tensor([50, 51])
    # Patch 2 changes into and out of frame 1, patch 4 into and out of frame 2; nothing else moves.
    schedule = case.schedule([], pre_llm=[dataclasses.replace(_event(1, 24, 10, "evs"), counts=(("frames", 4),))])
    with torch.no_grad(), apply(case.model, schedule) as applied:
        case.model(**case.inputs)
    kept = (applied.record.origin[0][applied.record.visual[0]] - 5).tolist()
    assert kept == [0, 1, 2, 3, 4, 5, 6 + 2, 12 + 2, 12 + 4, 18 + 4]
    with (
        pytest.raises(ScheduleError, match="'frames'"),
        apply(case.model, case.schedule([], pre_llm=[_event(1, 24, 10, "evs")])),
    ):
        case.model(**case.inputs)


def test_class_attention_needs_a_traceable_tower(toolbox):
    case = toolbox.build_case("qwen2_vl-image", 1)
    schedule = case.schedule([], pre_llm=[_event(1, 16, 8, "cls_attention")])
    with pytest.raises(UnsupportedModelError, match="cls_attention"):
        apply(case.model, schedule)
