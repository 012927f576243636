"""``aimcost plan``: find the best token schedule within a budget."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from ...report.format import Format
from ..common import (
    FormatFlag,
    ImagesFlag,
    JsonOption,
    ModelFlag,
    NewTokensFlag,
    RunArgument,
    SettingsOption,
    StackFlag,
    TextTokensFlag,
    VisualTokensFlag,
    app,
    flag_of,
    format_asked,
    names_in,
    progress_bar,
    require_apart,
    resolve,
    write_report,
)
from ..options import Option


@app.command()
def plan(
    run: RunArgument = None,
    task: Annotated[
        str | None,
        Option(
            metavar="TASK,TASK",
            help="Choose the method for a task (ocr, chart, general, hallucination, knowledge, video) or benchmarks.",
        ),
    ] = None,
    min_accuracy: Annotated[
        str | None,
        Option(
            metavar="PERCENT", help="With --task: lowest expected score, relative to the unreduced model's, e.g. 97%."
        ),
    ] = None,
    mean_visual_tokens: Annotated[
        float | None, Option(metavar="N", help="With --task: budget of visual tokens, as a mean over the layers.")
    ] = None,
    measured_only: Annotated[
        bool | None, Option("--measured-only", help="With --task: only parameters that published scores state.")
    ] = None,
    ttft_ms: Annotated[float | None, Option(help="Budget: time to first token.")] = None,
    tpot_ms: Annotated[float | None, Option(help="Budget: mean time per output token.")] = None,
    kv_gb: Annotated[float | None, Option(help="Budget: KV cache, in 10^9 bytes.")] = None,
    flops: Annotated[float | None, Option(metavar="TFLOP", help="Budget: FLOPs over all included stages.")] = None,
    memory_gb: Annotated[
        float | None, Option(help="Budget: peak memory, in 10^9 bytes; at most the card's usable memory.")
    ] = None,
    hardware: Annotated[
        str | None, Option(help="Hardware profiles to search, comma-separated.", complete=("hardware",))
    ] = None,
    method: Annotated[
        str | None,
        Option(help="Methods to search, comma-separated. Default: aim; with --task, all that have scores."),
    ] = None,
    shape: Annotated[
        str | None, Option(help="Shape of AIM's pruning schedule: linear, step, free or all. Default: all.")
    ] = None,
    frames: Annotated[str | None, Option(metavar="N,N", help="Frame counts to search.")] = None,
    batch: Annotated[str | None, Option(metavar="N,N", help="Batch sizes to search.")] = None,
    confidence: Annotated[
        float | None,
        Option(
            help="Probability of meeting the TTFT budget, and the score with --task; 0.9 is the edge of the 80 % band."
        ),
    ] = None,
    objective: Annotated[
        str | None, Option(help="Maximise accuracy or tokens. Default: accuracy where scores are known.")
    ] = None,
    accuracy: Annotated[
        Path | None,
        Option(metavar="CSV", help="Your own scores: schedule, score; with --task also benchmark and vanilla."),
    ] = None,
    extrapolate: Annotated[
        bool | None, Option("--extrapolate", help="Extrapolate accuracy beyond the measured points.")
    ] = None,
    earliest_cut: Annotated[
        int | None, Option(metavar="LAYERS", help="Layers before the first cut. Default: a quarter of them.")
    ] = None,
    question: Annotated[
        str | None, Option(help="Question to answer instead of a search: frames, batch or break-even.")
    ] = None,
    plot: Annotated[Path | None, Option(metavar="FILE", help="Plot the Pareto fronts (.png, .svg, .pdf).")] = None,
    output: Annotated[
        Path | None, Option("-o", "--output", metavar="FILE", help="Write the best schedule as a run file.")
    ] = None,
    model: ModelFlag = None,
    images: ImagesFlag = None,
    visual_tokens: VisualTokensFlag = None,
    text_tokens: TextTokensFlag = None,
    new_tokens: NewTokensFlag = None,
    stack: StackFlag = None,
    settings: SettingsOption = None,
    as_csv: Annotated[bool, Option("--csv", help="Print the Pareto front (or the answers) as CSV.")] = False,
    as_json: JsonOption = False,
    form: FormatFlag = None,
) -> None:
    """Find the best token schedule within a budget.

    Maximises expected accuracy, or the tokens kept. Exit status 1 if no schedule meets the budget.
    """
    written = format_asked(form, as_json=as_json, as_csv=as_csv)
    flags = {
        "model": model,
        "workload.images": images,
        "workload.visual_tokens": visual_tokens,
        "workload.text_tokens": text_tokens,
        "workload.new_tokens": new_tokens,
    }
    if task is not None:
        _one_each({"--frames": frames, "--batch": batch})
    if run is None or task is not None:  # what is searched gives the run its first values
        flags |= {
            "hardware": next(iter(names_in("--hardware", hardware)), None),
            "workload.frames": next(iter(names_in("--frames", frames)), None),
            "workload.batch": next(iter(names_in("--batch", batch)), None),
        }
    resolved = resolve(run, settings or [], stack=stack, **flags)
    require_apart([("RUN", run)], output=output, plot=plot)
    if plot is not None:
        from ...report.pictures import check_plot

        check_plot(plot)
    limits = {
        "max_ttft_ms": ttft_ms,
        "max_tpot_ms": tpot_ms,
        "max_kv_gb": kv_gb,
        "max_tflops": flops,
        "max_memory_gb": memory_gb,
    }
    budgets = {key: _positive(flag_of(key), value) for key, value in limits.items()}
    wanted = {
        "--min-accuracy": min_accuracy,
        "--mean-visual-tokens": mean_visual_tokens,
        "--measured-only": measured_only,
    }
    if task is not None:
        others = {"--shape": shape, "--objective": objective, "--extrapolate": extrapolate}
        _absent({**others, "--question": question}, "--task")
        options = {
            "min_accuracy": _share("--min-accuracy", min_accuracy),
            "mean_visual_tokens": _positive("--mean-visual-tokens", mean_visual_tokens),
            "measured_only": bool(measured_only),
            "methods": names_in("--method", method),
            "accuracy": accuracy,
            "earliest_cut": earliest_cut,
            "confidence": confidence,
        }
        _plan_task(
            resolved,
            names_in("--task", task),
            names_in("--hardware", hardware),
            {"budgets": budgets, **options},
            written,
            output,
            plot,
        )
        return
    _needs_task(wanted)
    if question is not None:
        searched = {"--hardware": hardware, "--method": method, "--shape": shape, "--frames": frames, "--batch": batch}
        scored = {"--objective": objective, "--accuracy": accuracy, "--extrapolate": extrapolate}
        beside = {"--earliest-cut": earliest_cut, "--plot": plot, "--output": output}
        _absent({**searched, **scored, **beside}, "--question")
        if question == "break-even":
            given = {flag_of(key): value for key, value in limits.items()}
            _absent({**given, "--confidence": confidence}, "--question break-even, which takes no budget")
        _answer(resolved, question, budgets, confidence, written)
        return
    from ...errors import CheckFailedError
    from ...report.format import Report
    from ...report.planning import front_rows, plan_text, run_yaml, save_plot
    from ...search.plan import SHAPES, plan_run

    with progress_bar() as step:
        found = plan_run(
            resolved,
            budgets=budgets,
            hardware=names_in("--hardware", hardware),
            methods=["aim"] if method is None else names_in("--method", method),
            shapes=SHAPES if shape in (None, "all") else names_in("--shape", shape),
            batches=_numbers("--batch", batch),
            frames=_numbers("--frames", frames),
            confidence=confidence,
            objective=objective,
            accuracy=accuracy,
            extrapolate=bool(extrapolate),
            earliest_cut=earliest_cut,
            progress=step,
        )
    report = Report(text=lambda: plan_text(found), data=found.to_dict, rows=lambda: front_rows(found))
    write_report(report, written)
    if plot is not None:
        save_plot(found, plot)
    if output is not None and found.best is not None:
        from ...inputs.files import write_atomically

        write_atomically(output, run_yaml(found, found.best))
    if found.best is None:
        raise CheckFailedError("no schedule meets the budget: " + "; ".join(m["text"] for m in found.shortfalls))


def _plan_task(
    resolved: Any,
    tasks: list[str],
    hardware: list[str],
    options: dict[str, Any],
    written: Format,
    output: Path | None,
    plot: Path | None,
) -> None:
    from ...errors import CheckFailedError
    from ...report.format import Report
    from ...report.tasks import front_rows, save_task_plot, task_text, task_yaml, tasks_text
    from ...search.plan.tasks import plan_task_on

    with progress_bar() as step:
        found = plan_task_on(resolved, tasks, hardware, progress=step, **options)
    first, best = found.plans[0], found.best
    if len(found.plans) > 1:
        report = Report(text=lambda: tasks_text(found), data=found.to_dict, rows=lambda: front_rows(found))
    else:
        report = Report(text=lambda: task_text(first), data=first.to_dict, rows=lambda: front_rows(found))
    write_report(report, written)
    if output is not None and best is not None:
        from ...inputs.files import write_atomically

        write_atomically(output, task_yaml(best))
    if plot is not None:
        save_task_plot(found, plot)
    if best is None:
        raise CheckFailedError("nothing qualifies")


def _needs_task(flags: Mapping[str, object]) -> None:
    from ...errors import InvalidValueError

    for flag, value in flags.items():
        if value is not None:
            raise InvalidValueError(flag, "given with --task", str(value))


def _one_each(flags: Mapping[str, str | None]) -> None:
    from ...errors import InvalidValueError

    for flag, given in flags.items():
        if len(names_in(flag, given)) > 1:
            raise InvalidValueError(flag, "one value with --task", given)


def _share(flag: str, given: str | None) -> float | None:
    """A share from "97%" or 0.97."""
    from ...errors import InvalidValueError

    if given is None:
        return None
    text = given.strip()
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise InvalidValueError(flag, "above 0 and at most 100%, such as 97% or 0.97", given)
    return value


def _answer(
    resolved: Any,
    question: str,
    budgets: dict[str, float | None],
    confidence: float | None,
    written: Format,
) -> None:
    from ...errors import CheckFailedError
    from ...report.format import Report
    from ...report.planning import answer_text
    from ...search.plan.questions import ask

    with progress_bar() as step:
        answer = ask(resolved, question, budgets=budgets, confidence=confidence, progress=step)
    report = Report(text=lambda: answer_text(answer), data=answer.to_dict, rows=lambda: answer.rows)
    write_report(report, written)
    if not answer.answered:
        raise CheckFailedError(f"--question {question}: no method has an answer above zero")


def _absent(flags: Mapping[str, object], beside: str) -> None:
    from ...errors import InvalidValueError

    for flag, value in flags.items():
        if value is not None:
            raise InvalidValueError(flag, f"omitted with {beside}", str(value))


def _positive(flag: str, value: float | None) -> float | None:
    from ...errors import InvalidValueError

    if value is not None and not 1e-12 <= value <= 1e30:
        raise InvalidValueError(flag, "a positive number", value)
    return value


def _numbers(flag: str, given: str | None) -> list[int]:
    from ...errors import InvalidValueError

    numbers = []
    for text in names_in(flag, given):
        if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 1_000_000:
            raise InvalidValueError(flag, "comma-separated positive integers", given)
        numbers.append(int(text))
    return numbers
