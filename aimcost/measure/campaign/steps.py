"""The steps of a campaign in order of priority, each with its share of the time."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import AimcostError
from ...inputs.files import write_atomically
from ...inputs.run import load_run
from ..records import Record, RecordWriter, now
from .book import Book
from .floors import measured_profile
from .rows import Row, precision, run_document, scaled_method, seed_rows
from .visit import Visit, profile_name, visit_module

__all__ = ["STEPS", "Step"]

# Longer prompts are bound by the device: what launching costs the host is told by the shorter ones.
EAGER_UP_TO = 7000
MASKED_ROWS = ("video_aim_32f", "retention_12.5", "exp_2", "exp_10")
VALIDATED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("aim_25", {"name": "aim", "merge_ratio": 0.25, "l1": 14, "l2": 22}),
    ("aim_50_merge", {"name": "aim", "merge_ratio": 0.5, "l1": 28, "l2": 29}),
    ("fastv_half", {"name": "fastv", "k": 2, "ratio": 0.5}),
    ("vtw_16", {"name": "vtw", "k": 16}),
)
NEW_TOKENS = 9
DECODE_ROWS = ("llava_ov_7b", "video_aim_32f")
# On a GPU with less time than this, the profile's smaller grid.
QUICK_BELOW_S = 240.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step.

    Attributes
    ----------
    weight
        Its share of the time, relative to the steps after it.
    run
        What it does, adding to the book of the step.
    alone
        What it does in place of `run`, where it keeps a record of its own kind; returns remarks.
    """

    name: str
    weight: float
    run: Callable[[Visit, Book], None] | None = None
    alone: Callable[[Visit, Path], list[str]] | None = None


def environment(visit: Visit, book: Book) -> None:
    """The machine is in every record's head; here only whether it is fit to be measured."""
    book.result(device=visit.environment.device_name, driver=visit.environment.driver)


def profile(visit: Visit, path: Path) -> list[str]:
    """The device's own profile: record and YAML. Returns notes."""
    module, plans = (
        importlib.import_module("aimcost.measure.profile.run"),
        importlib.import_module("aimcost.measure.profile.plan"),
    )
    plan = replace(
        plans.plan_for(visit.device, quick=visit.seconds < QUICK_BELOW_S),
        **{**visit.sizes.profile, "dtypes": (visit.dtype,)},
    )

    def progress(done: int, total: int, text: str) -> None:
        visit.tick()
        if done % 50 == 0:
            visit.say(f"profile: {done} of {total}, {text}")

    record = module.profile(visit.device, path=path, plan=plan, progress=progress)
    name = profile_name(visit.environment)
    text = importlib.import_module("aimcost.measure.profile.to_calibration").profile_yaml(record, name)
    write_atomically(path.parent / f"{name}.yaml", text)
    return []


def correctness(visit: Visit, book: Book) -> None:
    """Every kernel against its reference in higher precision, at full size."""
    sizes = visit.sizes
    check = visit_module("kernels").check_kernels
    for result in check(
        cuts=sizes.cuts,
        heads=sizes.kernel_heads,
        merges=sizes.merges,
        device=visit.device,
        dtype=visit.dtype,
        tick=visit.tick,
    ):
        book.result(**result)
    wrong = [entry for entry in book.record.settings["results"] if not entry["ok"]]
    if wrong:
        book.note(*(f"{e['check']} {e['dtype']} {e['size']}: {e['value']:.2e} exceeds {e['bar']:.0e}" for e in wrong))


def kernels(visit: Visit, book: Book) -> None:
    """Every kernel of the drop events, and attention by backend, alone on the device."""
    sizes, module = visit.sizes, visit_module("kernels")
    given = {"heads": sizes.kernel_heads, "dtype": visit.dtype, "tick": visit.tick}
    for sample in module.time_kernels(visit.bench(), cuts=sizes.cuts, merges=sizes.merges, **given):
        book.add(sample)
    if visit.device != "cuda":
        return
    for tokens in (sizes.cuts[0][0], sizes.backends_at):
        for name, sample, why in module.time_attention(visit.bench(), tokens=tokens, **given):
            if sample is None:
                book.note(f"attention {name}, {tokens} tokens: {why}")
            else:
                book.add(sample)


def dense(visit: Visit, book: Book) -> None:
    """The unreduced prefill over prompt lengths, graph and eager, and at one of them by attention backend."""
    rig = visit.rig(visit.sizes.model)
    for tokens in visit.sizes.dense:
        case = visit.case(f"dense_{tokens}", _text(visit, tokens))
        _guarded(visit, book, case, partial(rig.prefill, case, _paths(case)))
    if visit.device != "cuda":
        return
    for backend in visit_module("rig").ATTENTION_BACKENDS:
        tokens = visit.sizes.backends_at
        case = visit.case(f"dense_{tokens}", _text(visit, tokens), sdpa=backend)
        _guarded(visit, book, case, partial(rig.prefill, case, ("graph",)))


def seeds(visit: Visit, book: Book) -> None:
    """The paper's rows for real."""
    for row in seed_rows(visit.sizes):
        if row.schedule is None:
            book.note(f"{', '.join(row.ids)}: {row.problem}")
            continue
        case = visit.row_case(row)
        _guarded(visit, book, case, partial(_built, visit, row.model, case))


def masked(visit: Visit, book: Book) -> None:
    """The released semantics: tokens hidden, none removed, eager fp32 attention everywhere."""
    rig = visit.rig(visit.sizes.model)
    for row in _rows(visit, MASKED_ROWS):
        case = visit.row_case(row, "masked")
        _guarded(visit, book, case, partial(rig.prefill, case, ("eager",)))


def tower(visit: Visit, book: Book) -> None:
    """The vision tower with its projector."""
    case = visit.case("tower", _video(visit, {"name": "none"}, ["vision", "projector"]))
    book.add(*visit_module("stages").tower(visit.rig(visit.sizes.model), case, visit.sizes.frames))


def decode(visit: Visit, book: Book) -> None:
    """One decode step after the dense and the reduced prompt."""
    rig, module = visit.rig(visit.sizes.model), visit_module("stages")
    for row in _rows(visit, DECODE_ROWS):
        document = {**row.document, "include": ["decode"]}
        document["workload"] = {**document["workload"], "new_tokens": 2}
        case = visit.case(row.ids[0], document, rows=",".join(row.ids))
        _guarded(visit, book, case, partial(module.decode, rig, case))


def ttft(visit: Visit, book: Book) -> None:
    """Pixels in, first logits out: dense and reduced."""
    rig, module, frames = visit.rig(visit.sizes.model), visit_module("stages"), visit.sizes.frames
    for method in ({"name": "none"}, {"name": "aim", "merge_ratio": 0.25}):
        case = visit.case(f"ttft_{method['name']}", _video(visit, method, None))
        _guarded(visit, book, case, partial(module.time_to_first_token, rig, case, frames))


def validation(visit: Visit, path: Path) -> list[str]:
    """Whole requests and each of their layers, eager, as `aimcost validate` times them and reads them back."""
    measuring = importlib.import_module("aimcost.measure.validate.measuring")
    subject = importlib.import_module("aimcost.measure.subject")
    measure = importlib.import_module("aimcost.measure.measure")
    runs = {}
    for name, method in VALIDATED:
        # the model appends its newline token: the rows of the paper leave it out
        document = _video(visit, scaled_method(method, visit.sizes), None)
        document["workload"] = {**document["workload"], "new_tokens": NEW_TOKENS if name == "aim_25" else 0}
        runs[name] = load_run({**document, "precision": precision(visit.dtype)})
    settings = {
        "repeats": visit.sizes.repeats,
        "rounds": 1,
        "runs": {name: measuring.run_document(run) for name, run in runs.items()},
        "profile": measured_profile(path.parent),
        "profile_from": "measured in the same campaign",
    }
    record = Record(
        kind="validation",
        environment=visit.environment,
        seed=0,
        started=now(),
        settings=settings,
        notes=visit.environment.notes,
    )
    writer = RecordWriter(path, record)
    model = visit.rig(visit.sizes.model).model
    for name, run in runs.items():
        subject.check_run(run, "cpu" if visit.device == "cpu" else "cuda")
        visit.say(f"validation: {name}")
        measure.measure_run(
            run,
            device=visit.device,
            repeats=visit.sizes.repeats,
            budget_s=min(visit.sizes.budget_s, visit.deadline.left / len(runs)),
            progress=lambda *_: visit.tick(),
            writer=writer,
            label=name,
            model=model,
        )
    writer.finish()
    return list(writer.record.notes)


def memory(visit: Visit, book: Book) -> None:
    """Weights, KV cache and peak of the dense, the reduced and the masked prefill."""
    rig, module = visit.rig(visit.sizes.model), visit_module("stages")
    for row in _rows(visit, DECODE_ROWS):
        for implementation in ("fused", "masked") if row.schedule and row.schedule.layer_events else ("fused",):
            visit.tick()
            case = visit.row_case(row, implementation)
            book.result(**module.peak_memory(rig, case), implementation=implementation)


def _text(visit: Visit, tokens: int) -> dict[str, Any]:
    workload = {"text_tokens": tokens}
    return run_document(visit.sizes, workload=workload, method={"name": "none"}, include=["prefill"])


def _built(visit: Visit, model: str | Mapping[str, Any], case: Any) -> tuple[list[Any], list[str]]:
    """A prefill of whichever model, whose building may fail too."""
    found: tuple[list[Any], list[str]] = visit.rig(model).prefill(case, _paths(case))
    return found


def _paths(case: Any) -> tuple[str, ...]:
    return ("graph", "eager") if case.prompt <= EAGER_UP_TO else ("graph",)


def _rows(visit: Visit, names: tuple[str, ...]) -> list[Row]:
    """The campaign model's rows of these names, in the order of the names."""
    found = [row for row in seed_rows(visit.sizes) if row.schedule is not None and not row.counts_only]
    chosen = [next((row for row in found if name in row.ids), None) for name in names]
    return list({row.ids: row for row in chosen if row is not None}.values())


def _video(visit: Visit, method: Mapping[str, Any], include: list[str] | None) -> dict[str, Any]:
    workload = {"frames": visit.sizes.frames, "text_tokens": visit.sizes.text_tokens}
    document = run_document(visit.sizes, workload=workload, method=method)
    return document if include is None else {**document, "include": include}


def _guarded(visit: Visit, book: Book, case: Any, measure: Callable[[], tuple[list[Any], list[str]]]) -> None:
    """Measure one case; what it fails with is noted, and the next one goes on."""
    visit.tick()
    visit.say(f"{case.name} ({case.implementation}), {case.prompt} tokens")
    try:
        samples, notes = measure()
    except (AimcostError, RuntimeError, ValueError, TypeError) as error:
        book.note(f"{case.name} ({case.implementation}): {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        return
    book.add(*samples)
    book.note(*notes)


STEPS: tuple[Step, ...] = (
    Step(name="environment", weight=1, run=environment),
    Step(name="profile", weight=110, alone=profile),
    Step(name="correctness", weight=30, run=correctness),
    Step(name="kernels", weight=30, run=kernels),
    Step(name="dense", weight=80, run=dense),
    Step(name="seeds", weight=130, run=seeds),
    Step(name="masked", weight=25, run=masked),
    Step(name="tower", weight=15, run=tower),
    Step(name="decode", weight=15, run=decode),
    Step(name="ttft", weight=20, run=ttft),
    Step(name="validation", weight=40, alone=validation),
    Step(name="memory", weight=10, run=memory),
)
