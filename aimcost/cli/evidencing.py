"""Commands on third-party timings: evidence, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from .common import (
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
    one_of,
)
from .options import Argument, Context, Option


@app.command()
def evidence(
    timings: Annotated[
        list[Path] | None,
        Argument(metavar="FILE...", help="Timing files (.jsonl). Default: all of configs/timings."),
    ] = None,
    leave_out: Annotated[
        str | None,
        Option("--leave-out", metavar="source", help="Refit the stacks without each source, then predict that source."),
    ] = None,
    refit: Annotated[
        bool, Option("--refit", help="Print stack coefficients refitted to all rows, beside the shipped ones.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare predictions with published GPU timings.

    Errors by source, stack, quantity and card; coverage of the 80 % band; speed-ups.
    """
    from ..evidence.evidence import gather
    from ..report.evidence import evidence_dict, evidence_text
    from ..report.export import to_json

    if refit:
        from ..evidence.held_out import refit as fitted
        from ..evidence.timings import load_timings
        from ..report.evidence import figures_text, refit_dict

        one_of(**{"refit": refit, "leave-out": leave_out is not None})
        refits = fitted(load_timings(timings or None).requests)
        print(to_json([refit_dict(each) for each in refits]) if as_json else figures_text(refits))
        return
    found = gather(timings or None, leave_out=leave_out)
    print(to_json(evidence_dict(found)) if as_json else evidence_text(found))


@app.command("import")
def import_(
    context: Context,
    file: Annotated[Path, Argument(metavar="FILE", help="Result file of another benchmark (JSON).")],
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
    output: Annotated[Path | None, Option("-o", "--output", metavar="FILE", help="Write the timings (.jsonl).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Import results of other benchmarks as timings.

    Reads vllm bench, guidellm, aiperf and optimum-benchmark, and compares each timing with its prediction.
    """
    from ..evidence.formats import import_file
    from ..evidence.joining import join
    from ..evidence.timings import timing_lines
    from ..inputs.files import write_atomically
    from ..inputs.run import SHORT_KEYS
    from ..report.evidence import imported_text, joined_dict
    from ..report.export import to_json

    named = {key: context.params[key] for key in _KEYS}
    given = keys_of(settings or [], **{SHORT_KEYS.get(key, key): value for key, value in named.items()})
    imported = import_file(file, given, quantity=quantity)
    rows = join(imported.timings)
    if output is not None:
        write_atomically(output, timing_lines(imported.timings))
    if as_json:
        print(to_json({"tool": imported.tool, "rows": [joined_dict(r) for r in rows], "notes": list(imported.notes)}))
    else:
        print(imported_text(imported, rows) + (f"\nwritten: {output}" if output is not None else ""))


_KEYS = (
    *("model", "hardware", "stack", "method", "attention", "implementation"),
    *("images", "frames", "visual_tokens", "text_tokens", "new_tokens", "batch", "tp", "pp"),
)
