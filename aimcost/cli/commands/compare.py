"""``aimcost compare``: compare GPUs and software stacks on one run."""

from __future__ import annotations

from typing import Annotated

from ..common import (
    AttentionFlag,
    BatchFlag,
    CsvOption,
    EstimatorFlag,
    FormatFlag,
    FramesFlag,
    ImagesFlag,
    ImplementationFlag,
    JsonOption,
    MethodFlag,
    ModelFlag,
    NewTokensFlag,
    PipelineFlag,
    ReplicasFlag,
    ReportOption,
    RunArgument,
    SettingsOption,
    TensorFlag,
    TextTokensFlag,
    VisualTokensFlag,
    app,
    format_asked,
    names_in,
    resolve_flags,
    write_report,
)
from ..options import Context, Option


@app.command()
def compare(
    context: Context,
    run: RunArgument = None,
    hardware: Annotated[
        str | None, Option(help="Hardware profiles, comma-separated. Default: the run's.", complete=("hardware",))
    ] = None,
    stack: Annotated[
        str | None, Option(help="Software stacks, comma-separated. Default: the run's.", complete=("stack",))
    ] = None,
    model: ModelFlag = None,
    estimator: EstimatorFlag = None,
    method: MethodFlag = None,
    attention: AttentionFlag = None,
    frames: FramesFlag = None,
    images: ImagesFlag = None,
    visual_tokens: VisualTokensFlag = None,
    text_tokens: TextTokensFlag = None,
    new_tokens: NewTokensFlag = None,
    batch: BatchFlag = None,
    implementation: ImplementationFlag = None,
    tp: TensorFlag = None,
    pp: PipelineFlag = None,
    dp: ReplicasFlag = None,
    settings: SettingsOption = None,
    as_csv: CsvOption = False,
    as_json: JsonOption = False,
    form: FormatFlag = None,
    output: ReportOption = None,
) -> None:
    """Compare GPUs and software stacks on one run.

    Time to first token with its band, bound, MFU, gain over no reduction, memory and cost.
    """
    from ...errors import InvalidValueError
    from ...pricing.comparison import compare_run
    from ...report.compare import compare_text
    from ...report.format import Report

    written = format_asked(form, as_json=as_json, as_csv=as_csv, output=output)
    names, stacks = names_in(hardware), names_in(stack)
    if not names and not stacks:
        raise InvalidValueError("--hardware", "given: comma-separated profiles (or --stack)", None)
    resolved = resolve_flags(context, stack=stacks[0] if len(stacks) == 1 else None)
    rows = compare_run(resolved, names, stacks)
    report = Report(text=lambda: compare_text(resolved, rows), data=lambda: rows, rows=lambda: rows)
    write_report(report, written, output)
