"""``aimcost import``: import results of other benchmarks: timings or scores."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from ..common import (
    AttentionFlag,
    BatchFlag,
    FramesFlag,
    ImagesFlag,
    ImplementationFlag,
    JsonOption,
    MethodFlag,
    ModelFlag,
    NewTokensFlag,
    PipelineFlag,
    SettingsOption,
    TensorFlag,
    TextTokensFlag,
    VisualTokensFlag,
    app,
    keys_of,
    progress_bar,
    require_apart,
    say,
)
from ..options import Argument, Context, Option

_KEYS = (
    *("model", "hardware", "stack", "method", "attention", "implementation"),
    *("images", "frames", "visual_tokens", "text_tokens", "new_tokens", "batch", "tp", "pp"),
)


def _check_distinct(files: list[Path]) -> None:
    """Raise where one file is given twice, under one name or several: its figures would count twice."""
    from ...errors import InvalidValueError
    from ...inputs.files import require_nameable

    seen: dict[Path, Path] = {}
    for path in files:
        require_nameable(path)
        first = seen.setdefault(path.resolve(), path)
        if first is not path:
            raise InvalidValueError("FILE", "another file: it is given twice", str(path))


@app.command()
def import_(
    context: Context,
    files: Annotated[list[Path], Argument(metavar="FILE...", help="Result files of another benchmark (JSON).")],
    model: ModelFlag = None,
    hardware: Annotated[str | None, Option(help="Hardware profile of the machine that was timed.")] = None,
    stack: Annotated[str | None, Option(help="Software stack that was timed (see `aimcost list stacks`).")] = None,
    images: ImagesFlag = None,
    frames: FramesFlag = None,
    visual_tokens: VisualTokensFlag = None,
    text_tokens: TextTokensFlag = None,
    new_tokens: NewTokensFlag = None,
    batch: BatchFlag = None,
    method: MethodFlag = None,
    attention: AttentionFlag = None,
    implementation: ImplementationFlag = None,
    tp: TensorFlag = None,
    pp: PipelineFlag = None,
    settings: SettingsOption = None,
    quantity: Annotated[str | None, Option(metavar="NAME", help="Import one quantity only: ttft, tpot or e2e.")] = None,
    metric: Annotated[
        str | None, Option(metavar="NAME", help="Import this metric of each accuracy benchmark only.")
    ] = None,
    output: Annotated[
        Path | None, Option("-o", "--output", metavar="FILE", help="Write the timings (.jsonl) or the scores (.csv).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Import results of other benchmarks: timings or scores.

    Timings of vllm bench, guidellm, aiperf and optimum-benchmark are compared with their predictions. Scores of
    lmms-eval and VLMEvalKit become the table that `aimcost plan --accuracy` takes.
    """
    from ...evidence.formats import import_file
    from ...evidence.formats.accuracy import import_scores, score_lines
    from ...evidence.joining import join
    from ...evidence.timings import timing_lines
    from ...inputs.files import write_atomically
    from ...inputs.run import SHORT_KEYS
    from ...report.evidence import imported_scores_text, imported_text, joined_dict
    from ...report.export import to_json

    _check_distinct(files)
    require_apart([("FILE", file) for file in files], output=output)
    named = {key: context.params[key] for key in _KEYS}
    given = keys_of(settings or [], **{SHORT_KEYS.get(key, key): value for key, value in named.items()})
    scores = import_scores(files, given, metric=metric)
    if scores is not None:
        lines, text = score_lines(scores.scores), imported_scores_text(scores)
        tools, notes = list(scores.tools), list(scores.notes)
        rows: list[Any] = [asdict(row) for row in scores.scores]
    else:
        imports, joined = [], []
        with progress_bar() as step:
            for number, file in enumerate(files):
                step(number, len(files), f"pricing {file.name}")
                imports.append(import_file(file, given, quantity=quantity))
                joined.append(join(imports[-1].timings))
        lines = timing_lines(timing for each in imports for timing in each.timings)
        tools, notes = [each.tool for each in imports], [note for each in imports for note in each.notes]
        rows = [joined_dict(row) for each in joined for row in each]
        text = "\n\n".join(imported_text(*each) for each in zip(imports, joined, strict=True))
    if output is not None:
        write_atomically(output, lines)
    if as_json:
        say(to_json({"tool": ", ".join(dict.fromkeys(tools)), "rows": rows, "notes": notes}))
    else:
        say(text + (f"\nwritten: {output}" if output is not None else ""), prose=True)
