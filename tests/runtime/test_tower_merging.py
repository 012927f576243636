"""ToMe inside a tower, beside a restatement of its rule in loops over one image's tokens."""

from __future__ import annotations

import copy
import dataclasses
import io

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import aimcost
from aimcost.errors import ScheduleError, UnsupportedModelError
from aimcost.runtime import apply, build_model

pytestmark = [pytest.mark.torch, pytest.mark.versions("methods")]

TOME = {"name": "tome", "r": 3}


def _heads(x, count):
    return x.unflatten(-1, (count, -1)).transpose(0, 1)


def _attend(layer, x, sizes):
    """Attention in which every token is there as often as it stands for patches; its keys' mean over heads."""
    part = layer.self_attn
    query, key, value = (_heads(f(x), part.num_heads) for f in (part.q_proj, part.k_proj, part.v_proj))
    again = torch.tensor(sizes)
    many = [each.repeat_interleave(again, dim=1) for each in (key, value)]
    weights = (query @ many[0].transpose(1, 2) * part.scale).softmax(-1)
    return part.out_proj((weights @ many[1]).transpose(0, 1).flatten(1)), key.mean(0)


def _join(x, sizes, keys, r):
    """The `r` even tokens (the class token aside) nearest to an odd one join it, as means over patches."""
    nearest = {}
    for even in range(2, len(x), 2):
        cosines = [float(torch.cosine_similarity(keys[even], keys[odd], dim=0)) for odd in range(1, len(x), 2)]
        nearest[even] = (max(cosines), 1 + 2 * cosines.index(max(cosines)))
    gone = sorted(nearest, key=lambda even: -nearest[even][0])[:r]
    members = {i: [i] for i in range(len(x)) if i not in gone}
    for even in gone:
        members[nearest[even][1]].append(even)
    order = [i for i in members if i % 2 == 0] + [i for i in members if i % 2]
    counts = [sum(sizes[i] for i in members[one]) for one in order]
    means = [sum(sizes[i] * x[i] for i in members[one]) / count for one, count in zip(order, counts, strict=True)]
    return torch.stack(means), counts


def _tower(case, pixels, r):
    """What reaches the decoder of one image: the tower's tokens behind its class token, merged, projected."""
    tower = case.model.model.vision_tower
    layers = [module for module in tower.modules() if hasattr(module, "self_attn")]
    embed, norm = (
        next(module for name, module in tower.named_modules() if name.endswith(end))
        for end in ("embeddings", "pre_layrnorm")
    )
    x = norm(embed(pixels[None]))[0]
    sizes = [1] * len(x)
    for layer in layers[:-1]:  # vision_feature_layer -2: the last one's output is not used
        mixed, keys = _attend(layer, layer.layer_norm1(x), sizes)
        x, sizes = _join(x + mixed, sizes, keys, r)
        x = x + layer.mlp(layer.layer_norm2(x))
    return case.model.model.multi_modal_projector(x[None, 1:])[0], sizes


def _run(case, **given):
    seen = {}
    with torch.no_grad(), apply(case.model, **given) as applied:
        first = case.decoder.layers[0]
        handle = first.register_forward_pre_hook(lambda m, a, k: seen.update(h=a[0]), with_kwargs=True)
        logits = case.model(**case.inputs).logits
        handle.remove()
    return applied.record, seen["h"], logits


def _schedule(toolbox, method=TOME):
    run = {
        "model": toolbox.configs["llava"],
        "workload": {"images": 1, "text_tokens": {"system": 5, "question": 9}},
        "method": method,
    }
    return aimcost.schedule(run)


def test_the_tower_merges_as_described(toolbox):
    case = toolbox.build_case("llava-image", 3, True)
    record, hidden, logits = _run(case, method=TOME)
    assert record.schedule.visual_tokens == 10  # 16 patches, less three in each of two layers
    for row, visual in enumerate(case.visual):
        first = int(visual.nonzero()[0])
        with torch.no_grad():
            expected, sizes = _tower(case, case.inputs["pixel_values"][row], 3)
        assert sum(sizes) == 17
        assert max(sizes) > 1
        assert toolbox.relative_error(hidden[row, first : first + 10], expected, slice(None)) < 1e-5
    fixed, again, same = _run(case, schedule=_schedule(toolbox))
    assert fixed.tokens == record.tokens == (24,) * 5
    assert torch.equal(again, hidden)
    assert torch.equal(same, logits)


def test_copies_made_inside_are_of_the_model_as_it_was(toolbox):
    case = toolbox.build_case("llava-image", 1)
    with torch.no_grad():
        dense = case.model(**case.inputs).logits
        with apply(case.model, method=TOME):
            copied = copy.deepcopy(case.model)
        fresh = build_model(toolbox.configs["llava"])  # what has run holds hooks of transformers that no pickle takes
        with apply(fresh, method=TOME):
            file = io.BytesIO()
            torch.save(fresh, file)
        file.seek(0)
        for model in (copied, torch.load(file, weights_only=False), case.model):
            assert torch.equal(model(**case.inputs).logits, dense)
    kinds = {type(module) for module in case.model.modules() if hasattr(module, "layer_norm2")}
    assert len(kinds) == 1
    assert kinds.pop().__mro__[1].__name__ != "CLIPEncoderLayer"


def test_a_prompt_whose_images_the_tower_did_not_merge_is_refused(toolbox):
    case = toolbox.build_case("llava-image", 1)
    embeds = torch.randn(1, case.prompt, 64)
    schedule = _schedule(toolbox)
    with (
        torch.no_grad(),
        apply(case.model, schedule, boundaries=(5, 16, 9)),
        pytest.raises(ScheduleError, match="merged the tokens of 0 images, the prompt has 1"),
    ):
        case.model(inputs_embeds=embeds)
    other = toolbox.build_case("llava_onevision-video", 1)
    with pytest.raises(UnsupportedModelError, match="LlavaModel"):
        apply(other.model, schedule)
    late = dataclasses.replace(schedule.events[0], tower_layer=2)
    deeper = dataclasses.replace(schedule, events=(late,))
    with pytest.raises(ScheduleError, match="of which 2 are used"):
        apply(case.model, deeper)


def test_generation_goes_on_from_merged_tokens(toolbox):
    case = toolbox.build_case("llava-image", 3, True)
    with apply(case.model, method=TOME) as applied:
        tokens = case.generate()
        beams = case.generate(num_beams=2)
        with torch.no_grad():
            out = case.model(**case.inputs).logits
    assert applied.record.tokens == (24,) * 5
    assert torch.equal(tokens[:, 0], out[:, -1].argmax(-1))
    assert beams.shape == tokens.shape
