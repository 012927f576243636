"""``aimcost estimate``: estimate the FLOPs, bytes, time and memory of a run."""

from __future__ import annotations

from typing import Annotated

from ..common import (
    AttentionFlag,
    BatchFlag,
    EstimatorFlag,
    FramesFlag,
    ImagesFlag,
    ImplementationFlag,
    JsonOption,
    MethodFlag,
    ModelFlag,
    NewTokensFlag,
    PipelineFlag,
    ReplicasFlag,
    RunArgument,
    SettingsOption,
    StackFlag,
    TensorFlag,
    TextTokensFlag,
    VisualTokensFlag,
    app,
    one_of,
    resolve_flags,
)
from ..options import Context, Option


@app.command()
def estimate(
    context: Context,
    run: RunArgument = None,
    model: ModelFlag = None,
    hardware: Annotated[str | None, Option(help="Hardware profile: name or path.")] = None,
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
    as_csv: Annotated[bool, Option("--csv", help="Print CSV: one row per op, or per layer with --layers.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Estimate the FLOPs, bytes, time and memory of a run.

    By stage, by layer (--layers) and by op (--ops), beside the gain over the same run without reduction.
    """
    from ...pricing.pricing import estimate_run

    one_of(csv=as_csv, json=as_json)
    if as_csv:
        one_of(layers=layers, ops=ops)
    resolved = resolve_flags(context, hardware=hardware)
    result = estimate_run(resolved)
    if as_json or as_csv:
        from ...report.export import to_csv, to_json

        rows = result.layers() if layers else result.ops()
        print(to_csv(rows) if as_csv else to_json(result.to_dict()) + "\n", end="")
        return
    from ...pricing.pricing import unreduced
    from ...report.text import estimate_text, layers_text, ops_text

    baseline = estimate_run(unreduced(resolved)) if resolved.schedule.events else None
    fused = None
    if baseline is not None and resolved.implementation != "fused":
        fused = estimate_run(resolved.with_(implementation="fused"))
    print(estimate_text(result, baseline, fused))
    if layers:
        print("\n" + layers_text(result))
    if ops:
        print("\n" + ops_text(result))
