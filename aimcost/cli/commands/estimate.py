"""``aimcost estimate``: estimate the FLOPs, bytes, time and memory of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from ..common import (
    AttentionFlag,
    BatchFlag,
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
    StackFlag,
    TensorFlag,
    TextTokensFlag,
    VisualTokensFlag,
    app,
    format_asked,
    one_of,
    require_apart,
    resolve_flags,
    write_report,
)
from ..options import Context, Option

if TYPE_CHECKING:
    from ...pricing.formulas import Formula


@app.command()
def estimate(
    context: Context,
    run: RunArgument = None,
    model: ModelFlag = None,
    hardware: Annotated[str | None, Option(help="Hardware profile: name or path.", complete=("hardware",))] = None,
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
    stack: StackFlag = None,
    tp: TensorFlag = None,
    pp: PipelineFlag = None,
    dp: ReplicasFlag = None,
    settings: SettingsOption = None,
    layers: Annotated[bool, Option("--layers", help="Show the prefill layer by layer.")] = False,
    ops: Annotated[bool, Option("--ops", help="Show every op.")] = False,
    macs: Annotated[bool, Option("--macs", help="Show multiply-adds in place of FLOPs; one is 2 FLOPs.")] = False,
    flops_formula: Annotated[
        str | None,
        Option(metavar="NAME,NAME", help="Papers' FLOPs beside the executed: fastv, divprune, sparsevlm, holitom."),
    ] = None,
    as_csv: Annotated[bool, Option("--csv", help="Print CSV: one row per op, or per layer with --layers.")] = False,
    as_json: JsonOption = False,
    form: FormatFlag = None,
    output: ReportOption = None,
) -> None:
    """Estimate the FLOPs, bytes, time and memory of a run.

    By stage, by layer (--layers) and by op (--ops), beside the gain over the same run without reduction.
    """
    from ...pricing.pricing import estimate_run
    from ...report.format import Report

    written = format_asked(form, as_json=as_json, as_csv=as_csv, output=output)
    require_apart([("RUN", run)], output=output)
    if as_csv:
        one_of(layers=layers, ops=ops)
    if written.name == "csv":  # rows of operations hold neither
        one_of(macs=macs, csv=True)
        one_of(**{"flops-formula": flops_formula is not None, "csv": True})
    formulas: list[Formula] = []
    if flops_formula is not None:
        from ...pricing.formulas import formulas_of

        formulas = formulas_of(name.strip() for name in flops_formula.split(","))
    result = estimate_run(resolve_flags(context, hardware=hardware))

    def text() -> str:
        from ...report.text import estimate_text, layers_text, ops_text

        reduced = bool(result.run.schedule.events)
        fused = None
        if reduced and result.run.implementation != "fused":
            fused = estimate_run(result.run.with_(implementation="fused"))
        parts = [estimate_text(result, result.dense if reduced else None, fused, macs=macs, formulas=formulas)]
        parts += [layers_text(result, macs=macs)] if layers else []
        parts += [ops_text(result, macs=macs)] if ops else []
        return "\n\n".join(parts)

    def data() -> dict[str, Any]:
        found = result.to_dict()
        if macs:
            found["totals"]["macs"] = found["totals"]["flops"] / 2
        if formulas:
            from ...pricing.formulas import flops_by_formula

            found["summary"]["flops_by_formula"] = flops_by_formula(result.run, [each.name for each in formulas])
        return found

    report = Report(text=text, data=data, rows=result.layers if layers else result.ops)
    write_report(report, written, output)
