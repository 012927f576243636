"""A method planned for each prompt that arrives, against the schedule that its run file would give."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import aimcost
from aimcost.errors import AimcostError, InvalidValueError, ScheduleError, UnknownNameError
from aimcost.kernels.merge import merge_tokens
from aimcost.runtime import planning

pytestmark = [pytest.mark.torch, pytest.mark.versions("methods")]

AIM = {"name": "aim", "merge_ratio": 0.25, "l1": 1, "l2": 4}
GRIDS = [(4, 4), (4, 8), (8, 6), (8, 8), (6, 10), (10, 12), (16, 8)]


def scheduled(toolbox, family, workload, method):
    run = {"model": toolbox.configs[family], "workload": workload, "method": method}
    return aimcost.schedule({**run, "hardware": "nvidia_a100_sxm_80gb"})


def prompt(generator, grid, before, after, image=101, marker=103):
    """A prompt of Qwen-VL with one image of a grid of patches."""
    high, wide = grid
    visual = high * wide // 4
    text = torch.randint(3, 99, (before + after,), generator=generator).tolist()
    ids = [*text[: before - 1], marker, *[image] * visual, *text[before:]]
    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "pixel_values": torch.randn(high * wide, 3 * 2 * 8 * 8, generator=generator),
        "image_grid_thw": torch.tensor([[1, high, wide]]),
    }


@pytest.mark.parametrize(
    "method", [AIM, pytest.param({"name": "fastv", "k": 2}, marks=pytest.mark.check)], ids=["aim", "fastv"]
)
def test_two_hundred_prompts_through_one_block(method, toolbox):
    """Each is planned as its own run file would be, and runs as with that schedule; equal shapes share a plan."""
    case = toolbox.build_case("qwen2_vl-image", 1)
    generator = torch.Generator().manual_seed(0)
    typed = "mm_token_type_ids" in case.inputs
    prompts = []
    for index in range(100):
        before, after = (int(torch.randint(2, 12, (1,), generator=generator)) for _ in range(2))
        inputs = prompt(generator, GRIDS[index % len(GRIDS)], before, after)
        if typed:
            inputs["mm_token_type_ids"] = (inputs["input_ids"] == 101).int()
        prompts.append((inputs, before, after))
    found = []
    with torch.no_grad(), aimcost.apply(case.model, method=method) as reduction:
        planner = reduction._session.planner
        for inputs, *_ in (*prompts, *prompts):
            logits = case.model(**inputs).logits
            found.append((logits, reduction.record))
        shapes = {(inputs["input_ids"].shape[1], before, inputs["image_grid_thw"].tolist()[0][1:].__str__())
                  for inputs, before, _ in prompts}  # fmt: skip
        assert planner._planned.cache_info().misses <= len(shapes)
    for (inputs, before, after), (_, record) in zip((*prompts, *prompts), found, strict=True):
        visual = int((inputs["input_ids"] == 101).sum())
        text = {"system": before, "question": after}
        schedule = scheduled(toolbox, "qwen2_vl", {"visual_tokens": visual, "text_tokens": text}, method)
        assert record.schedule.tokens == record.tokens == schedule.tokens
        assert record.schedule.events == schedule.events
        assert (record.schedule.text_before, record.schedule.text_after) == (before, after)
    for at in range(0, 200, 9):
        (inputs, *_), (logits, record) = (*prompts, *prompts)[at], found[at]
        with torch.no_grad(), aimcost.apply(case.model, record.schedule):
            again = case.model(**inputs).logits
        assert torch.allclose(again, logits, rtol=0, atol=1e-6 * float(logits.abs().max()))


@pytest.mark.parametrize(
    ("name", "workload"),
    [
        ("llava-image", {"images": 1}),
        ("llava_onevision-video", {"frames": 4}),
        ("internvl-image", {"visual_tokens": 16}),
        ("llava_onevision-image", {"visual_tokens": 78}),
        ("qwen2_5_vl-video", {"visual_tokens": 32}),
        ("qwen3_vl-image", {"visual_tokens": 16}),
    ],
)
@pytest.mark.parametrize(("batch", "padded"), [pytest.param(1, False, marks=pytest.mark.check), (3, True)])
@pytest.mark.parametrize("method", [{**AIM, "merge_ratio": 0.5}, {"name": "fastv"}, {"name": "divprune", "ratio": 0.5}])
def test_every_family_is_planned_as_its_run_file(name, workload, batch, padded, method, toolbox):
    case = toolbox.build_case(name, batch, padded)
    family = name.partition("-")[0]
    first = min(int(row.nonzero()[0]) for row in case.visual)
    text = {"system": first, "question": case.text - first}
    schedule = scheduled(toolbox, family, {**workload, "text_tokens": text}, method)
    if name == "qwen2_5_vl-video" and schedule.pre_llm_events and method["name"] == "aim":
        schedule = None  # two times of 16 tokens, which no flat count says
    with torch.no_grad():
        with aimcost.apply(case.model, method=method) as reduction:
            logits = case.model(**case.inputs).logits
            assert case.generate().shape == (batch, 16)
        record = reduction.record
        if schedule is None:
            assert [(event.groups, event.tokens_in) for event in record.schedule.pre_llm_events] == [(2, 16)]
            schedule = record.schedule
        assert record.schedule.events == schedule.events
        with aimcost.apply(case.model, schedule):
            assert torch.equal(case.model(**case.inputs).logits, logits)


@pytest.mark.parametrize("method", ["visionzip", "prumerge", "fastervlm", "vispruner"])
def test_methods_that_read_the_tower(method, toolbox):
    case = toolbox.build_case("llava-image", 3, True)
    text = {"system": 5, "question": 9}
    schedule = scheduled(toolbox, "llava", {"images": 1, "text_tokens": text}, {"name": method})
    with torch.no_grad():
        with aimcost.apply(case.model, method={"name": method}) as reduction:
            logits = case.model(**case.inputs).logits
        assert reduction.record.schedule.events == schedule.events
        with aimcost.apply(case.model, schedule):
            assert torch.equal(case.model(**case.inputs).logits, logits)


def test_a_prompt_without_visual_tokens_passes_dense_and_the_record_says_so(toolbox):
    case = toolbox.build_case("llava-image", 1)
    ids = torch.randint(3, 99, (2, 11), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = case.model(input_ids=ids).logits
        with aimcost.apply(case.model, method=AIM) as reduction:
            assert torch.equal(case.model(input_ids=ids).logits, expected)
            record = reduction.record
            assert planning.DENSE_NOTE in record.schedule.notes
            assert (record.schedule.method, record.tokens) == ("none", (11,) * 5)
            case.model(**case.inputs)
            assert reduction.record.schedule.method == "aim"


def test_boundaries_say_what_is_visual_where_nothing_else_does(toolbox):
    case = toolbox.build_case("qwen2", 1)
    method = {"name": "vtw", "k": 2}
    with torch.no_grad(), aimcost.apply(case.model, method=method) as reduction:
        with pytest.raises(ScheduleError, match="pass boundaries"):
            case.model(**case.inputs)
        assert reduction.record is None
    with torch.no_grad(), aimcost.apply(case.model, method=method, boundaries=(5, 24, 9)) as reduction:
        case.model(**case.inputs)
    assert reduction.record.tokens == (38, 38, 14, 14, 14)


def test_what_cannot_be_reduced_is_refused_with_the_reason(toolbox):
    case = toolbox.build_case("llava-image", 2)
    ids = case.inputs["input_ids"].clone()
    ids[0, 5] = 7
    with (
        torch.no_grad(),
        aimcost.apply(case.model, method=AIM),
        pytest.raises(ScheduleError, match=r"same number of visual tokens \(got \[15, 16\]\): split the batch"),
    ):
        case.model(input_ids=ids)
    pair = toolbox.build_case("qwen2_vl-image", 1)
    generator = torch.Generator().manual_seed(0)
    one, two = prompt(generator, (4, 4), 3, 2), prompt(generator, (8, 8), 3, 5)
    both = {key: torch.cat([one[key], two[key]], dim=1 if key in ("input_ids", "attention_mask") else 0) for key in one}
    if "mm_token_type_ids" in pair.inputs:
        both["mm_token_type_ids"] = (both["input_ids"] == 101).int()
    with torch.no_grad(), aimcost.apply(pair.model, method=AIM), pytest.raises(ScheduleError, match="several sizes"):
        pair.model(**both)
    with torch.no_grad(), aimcost.apply(pair.model, method={"name": "fastv"}) as reduction:
        pair.model(**both)
    assert reduction.record.tokens[0] == 4 + 16 + 13


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        ({"name": "aimm"}, UnknownNameError, "'aim'"),
        ({"name": "fastv", "ratio": 2}, AimcostError, "ratio"),
        ({"k": 2}, InvalidValueError, "method.name"),
    ],
)
def test_bad_methods_are_refused_at_once(method, error, message, toolbox):
    case = toolbox.build_case("llava-image", 1)
    with pytest.raises(error, match=message):
        aimcost.apply(case.model, method=method)


def test_a_schedule_or_a_method(toolbox):
    case = toolbox.build_case("llava-image", 1)
    for given in ({}, {"schedule": case.schedule([(1, 4)]), "method": AIM}):
        with pytest.raises(InvalidValueError, match="schedule"):
            aimcost.apply(case.model, **given)
    with aimcost.apply(case.model, method=AIM):
        with aimcost.apply(case.model, method=dict(AIM)):
            pass
        with (
            pytest.raises(ScheduleError, match="planned for each prompt"),
            aimcost.apply(case.model, method={"name": "fastv"}),
        ):
            pass


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "method",
    [
        "sparsevlm", "aim", "fastv", "pyramiddrop", "dart", "vtw", "divprune", "visionzip", "prumerge",
        "prumerge_plus", "fastervlm", "holov", "vispruner", "tome",
    ],
)  # fmt: skip
def test_every_scorer_takes_half_precision(method, dtype, toolbox):
    case = toolbox.build_case("llava-image", 1)
    half = copy.deepcopy(case.model).to(dtype)
    inputs = {**case.inputs, "pixel_values": case.inputs["pixel_values"].to(dtype)}
    with torch.no_grad(), aimcost.apply(half, method={"name": method}) as reduction:
        logits = half(**inputs).logits
    assert reduction.record.schedule.events
    assert logits.dtype == dtype
    assert torch.isfinite(logits).all()
    with torch.no_grad(), aimcost.apply(case.model, method={"name": method}) as whole:
        case.model(**case.inputs)
    assert reduction.record.tokens == whole.record.tokens


def test_a_method_that_reduces_nothing_says_so_in_its_record(toolbox):
    case = toolbox.build_case("llava-image", 1)
    for method in ({"name": "fastv", "k": 5}, {"name": "visionzip", "dominant": 54, "contextual": 10}):
        with torch.no_grad():
            expected = case.model(**case.inputs).logits
            with aimcost.apply(case.model, method=method) as reduction:
                assert torch.equal(case.model(**case.inputs).logits, expected)
        (note,) = reduction.record.schedule.notes
        assert note == f"method {method['name']!r} leaves all tokens: with these parameters it drops and merges none"


def pair(case, between=0):
    """Two images of the case's size in one prompt, `between` text tokens apart."""
    ids, visual = case.inputs["input_ids"][0].tolist(), int(case.visual.sum())
    image = [101] * visual
    joined = [*ids[:5], *image, *[7] * between, *image, *ids[5 + visual :]]
    more = {name: torch.cat([case.inputs[name]] * 2) for name in ("pixel_values", "image_sizes") if name in case.inputs}
    return {"input_ids": torch.tensor([joined]), "attention_mask": torch.ones(1, len(joined), dtype=torch.long), **more}


@pytest.mark.parametrize(
    ("name", "visual", "between"),
    [
        ("llava_next-image", 36, 0),
        ("llava_next-image", 36, 2),
        ("llava_onevision-image", 78, 0),
        ("llava_onevision-image", 78, 2),
        ("internvl-image", 16, 2),
    ],
)
def test_images_side_by_side_are_merged_one_by_one(name, visual, between, toolbox):
    case = toolbox.build_case(name, 1)
    with torch.no_grad(), aimcost.apply(case.model, method={**AIM, "merge_ratio": 0.5}) as reduction:
        case.model(**pair(case, between))
    (event,) = reduction.record.schedule.pre_llm_events
    assert (event.groups, event.tokens_in) == (2, visual)


def tiled(rows):
    """Prompts of InternVL: runs of 16 tokens a tile with text around each, and the tiles."""
    ids = [[*range(3, 8), *(t for n in row for t in (*[101] * 16 * n, 7, 7)), *range(8, 15)] for row in rows]
    tiles = torch.randn(sum(map(sum, rows)), 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(len(ids), len(ids[0])), "pixel_values": tiles}


@pytest.mark.parametrize("rows", [[[2, 2]], [[1, 1, 1], [1, 1, 1]]])
def test_an_image_of_internvl_is_a_run_of_tiles(rows, toolbox):
    """Each run is merged alone, and what the cuts leave is as if the rest were masked."""
    case, inputs = toolbox.build_case("internvl-image", 1), tiled(rows)
    arrived = []
    handle = case.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: arrived.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        case.model(**inputs)
        handle.remove()
        with aimcost.apply(case.model, method={**AIM, "merge_ratio": 0.5}) as reduction:
            logits = case.model(**inputs).logits
    record, parts = reduction.record, list(arrived[0].split(5, dim=1)[:1])
    at = 5
    for tiles in rows[0]:
        run, after = arrived[0][:, at : at + 16 * tiles], at + 16 * tiles
        parts += [merge_tokens(run, 8 * tiles), arrived[0][:, after : after + 2]]
        at = after + 2
    short = torch.cat([*parts, arrived[0][:, at:]], dim=1)
    real = torch.ones(short.shape[:2], dtype=torch.bool)
    assert record.tokens[0] == short.shape[1]
    with torch.no_grad(), toolbox.hide_dead(case.decoder, record.kept, real):
        expected = case.model(inputs_embeds=short, attention_mask=real.long()).logits
    last = record.kept[max(record.kept)]
    expected = expected.gather(1, last[..., None].expand(-1, -1, expected.shape[-1]))
    assert toolbox.relative_error(logits, expected, real[:, : last.shape[1]]) < 1e-5


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1, 2]], "groups of several sizes are priced, not executed"),
        ([[1, 2], [2, 1]], "rows of a batch that show images of different sizes: method 'aim'"),
    ],
)
def test_images_of_internvl_of_several_sizes_are_not_merged(rows, message, toolbox):
    case = toolbox.build_case("internvl-image", 1)
    with torch.no_grad():
        with aimcost.apply(case.model, method=AIM), pytest.raises(ScheduleError, match=message):
            case.model(**tiled(rows))
        with aimcost.apply(case.model, method="fastv") as reduction:
            case.model(**tiled(rows))
    assert len(set(reduction.record.tokens)) == 2


def test_images_of_several_sizes_side_by_side_are_not_merged(toolbox):
    case = toolbox.build_case("llava_next-image", 1)
    inputs = pair(case)
    inputs["image_sizes"] = torch.tensor([[32, 32], [31, 32]])
    with torch.no_grad():
        with (
            aimcost.apply(case.model, method=AIM),
            pytest.raises(ScheduleError, match="several images whose sizes cannot be told: method 'aim' needs"),
        ):
            case.model(**inputs)
        with aimcost.apply(case.model, method="fastv") as reduction:
            case.model(**inputs)
    assert len(set(reduction.record.tokens)) == 2


@pytest.mark.parametrize("method", [{**AIM, "merge_ratio": 0.5}, {"name": "vidcom2"}, {"name": "evs"}])
@pytest.mark.parametrize("name", ["llava_onevision-video", "qwen2_5_vl-video"])
@pytest.mark.parametrize("form", ["mask", "triple"])
def test_boundaries_leave_frames_as_they_arrived(method, name, form, toolbox):
    case = toolbox.build_case(name, 1)
    visual = int(case.visual.sum())
    boundaries = case.visual if form == "mask" else (5, visual, case.text - 5)
    with torch.no_grad():
        with aimcost.apply(case.model, method=method) as free:
            expected = case.model(**case.inputs).logits
        with aimcost.apply(case.model, method=method, boundaries=boundaries) as bounded:
            assert torch.equal(case.model(**case.inputs).logits, expected)
    assert free.record.schedule.events
    assert bounded.record.schedule.events == free.record.schedule.events


def test_boundaries_leave_images_as_they_arrived(toolbox):
    case = toolbox.build_case("llava-image", 1)
    inputs = pair(case)
    with torch.no_grad():
        for boundaries in (None, (5, 32, 9), inputs["input_ids"] == 101):
            with aimcost.apply(case.model, method={**AIM, "merge_ratio": 0.5}, boundaries=boundaries) as reduction:
                case.model(**inputs)
            (event,) = reduction.record.schedule.pre_llm_events
            assert (event.groups, event.tokens_in) == (2, 16)


def test_triples_count_from_the_first_token_of_rows_padded_on_the_right(toolbox):
    """One triple, one a row and a mask keep the same tokens, which are those of the same rows padded on the left."""
    case = toolbox.build_case("qwen2", 3, True)
    mask = case.inputs["attention_mask"]
    order = mask.argsort(dim=1, descending=True, stable=True)
    ids, real, visual = (x.gather(1, order) for x in (case.inputs["input_ids"], mask, case.visual))
    triples = [(5, 24, int(row.sum()) - 29) for row in real]
    schedule = case.schedule([(0, 12), (2, 6)])

    def kept(boundaries, ids, real):
        positions = (real.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad(), aimcost.apply(case.model, schedule, boundaries=boundaries) as reduction:
            case.model(input_ids=ids, attention_mask=real, position_ids=positions)
        return reduction.record.kept

    left = kept(case.visual, case.inputs["input_ids"], mask)
    for boundaries in (visual, triples, triples[0]):
        for layer, right in kept(boundaries, ids, real).items():
            assert torch.equal(order.gather(1, right).sort(dim=1).values, left[layer])


@pytest.mark.parametrize("boundaries", [5, "abc", (), [1, 2], (5, -16, 9), (5, 16.0, 9), [(5, 16), (5, 16)], {5: 16}])
def test_malformed_boundaries_are_refused_at_once(boundaries, toolbox):
    case = toolbox.build_case("llava-image", 1)
    with pytest.raises(InvalidValueError, match="boundaries"):
        aimcost.apply(case.model, method="fastv", boundaries=boundaries)
    with pytest.raises(InvalidValueError, match="boundaries"):
        aimcost.apply(case.model, method="fastv", boundaries=case.visual.float())
    with (
        torch.no_grad(),
        aimcost.apply(case.model, method="fastv", boundaries=(5, 40, 9)),
        pytest.raises(ScheduleError, match="do not fit a prompt of 30"),
    ):
        case.model(**case.inputs)


@pytest.mark.parametrize("method", [{"name": "visionzip"}, {"name": "prumerge"}, {"name": "fastervlm"}])
def test_beams_share_what_the_tower_showed_of_their_prompt(method, toolbox):
    """As many beams a prompt as if it were alone, two images a prompt among them."""
    case = toolbox.build_case("llava-image", 2)
    twice = [pair(toolbox.build_case("llava-image", 1, seed=seed)) for seed in (0, 1)]
    both = {name: torch.cat([each[name] for each in twice]) for name in twice[0]}
    beams = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "num_beams": 3, "eos_token_id": None}
    with torch.no_grad(), aimcost.apply(case.model, method=method) as reduction:
        together = case.model.generate(**both, **beams, pad_token_id=0)
        assert reduction.record.schedule.pre_llm_events[0].groups == 2
        alone = [case.model.generate(**each, **beams, pad_token_id=0) for each in twice]
        assert torch.equal(together, torch.cat(alone))
        sampled = {"do_sample": True, "num_return_sequences": 2, "max_new_tokens": 2}
        assert len(case.model.generate(**case.inputs, **sampled, pad_token_id=0)) == 4


@pytest.mark.parametrize(
    ("method", "images"), [({"name": "visionzip", "keep_tokens": 65}, 5), ({"name": "fastv", "keep_tokens": 64}, 5)]
)
def test_what_a_method_reads_does_not_depend_on_one_prompt(method, images, toolbox):
    case = toolbox.build_case("llava-image", 1)
    ids = case.inputs["input_ids"][0].tolist()
    inputs = {
        "input_ids": torch.tensor([[*ids[:5], *[101] * 16 * images, *ids[21:]]]),
        "pixel_values": torch.cat([case.inputs["pixel_values"]] * images),
    }
    with torch.no_grad(), aimcost.apply(case.model, method=method) as reduction:
        case.model(**inputs)
    assert reduction.record.schedule.events
    assert reduction.record.tokens[-1] == 14 + method["keep_tokens"]


def test_planned_scorers_hold_every_event(toolbox):
    from aimcost.inputs import discover
    from aimcost.inputs.run import method_params
    from aimcost.methods.registry import planned_scorers

    for name in discover.method_names():
        given = {"name": name}
        if name == "pre_llm":
            given |= {"ratio": 0.5, "scorer": "cls_attention"}
        if name == "explicit":
            given |= {"tokens_per_layer": [[616, 2], [100, 30]]}
        run = {"model": "llava-1.5-7b", "workload": {"images": 1, "text_tokens": 40}, "method": given}
        if name in ("evs", "vidcom2"):
            run |= {"model": "llava-onevision-qwen2-7b", "workload": {"frames": 8}}
        events = aimcost.schedule(run).events
        assert events or name == "none"
        names = {scorer.name for scorer in planned_scorers(*method_params(given, where="test"))}
        assert {event.scorer for event in events} <= names


@pytest.mark.parametrize("method", ["visionzip", "prumerge"])
def test_nothing_visual_may_stay(method, toolbox):
    case = toolbox.build_case("llava-image", 1)
    with torch.no_grad(), aimcost.apply(case.model, method={"name": method, "keep_tokens": 0}) as reduction:
        assert torch.isfinite(case.model(**case.inputs).logits).all()
    assert reduction.record.tokens == (14,) * 5


def test_a_method_by_its_name_alone_or_with_its_defaults_stated(toolbox):
    case = toolbox.build_case("llava-image", 1)
    with aimcost.apply(case.model, method="fastv"), aimcost.apply(case.model, method={"name": "fastv", "k": 2}):
        pass
    with pytest.raises(InvalidValueError, match="'method' must be a mapping, or the name of a method"):
        aimcost.apply(case.model, method=3)


def test_seeds_draw_other_tokens(toolbox):
    case = toolbox.build_case("llava-image", 1)
    found = []
    for seed in (0, 0, 1):
        method = {"name": "pre_llm", "ratio": 0.5, "scorer": "random", "seed": seed}
        with torch.no_grad(), aimcost.apply(case.model, method=method):
            found.append(case.model(**case.inputs).logits)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    with pytest.raises(InvalidValueError, match="omitted unless scorer is random"):
        aimcost.schedule(
            {
                "model": "llava-1.5-7b",
                "workload": {"images": 1},
                "method": {"name": "pre_llm", "ratio": 0.5, "seed": 1},
            }
        )
