"""Commands that compute: estimate, compare, reproduce."""

from __future__ import annotations

from typing import Annotated

from .common import (
    AttentionFlag,
    BatchFlag,
    CsvOption,
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
from .options import Context, Option


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
    from ..pricing.pricing import estimate_run

    one_of(csv=as_csv, json=as_json)
    if as_csv:
        one_of(layers=layers, ops=ops)
    resolved = resolve_flags(context, hardware=hardware)
    result = estimate_run(resolved)
    if as_json or as_csv:
        from ..report.export import to_csv, to_json

        rows = result.layers() if layers else result.ops()
        print(to_csv(rows) if as_csv else to_json(result.to_dict()) + "\n", end="")
        return
    from ..report.text import estimate_text, layers_text, ops_text

    baseline = result.dense if resolved.schedule.events else None
    fused = None
    if baseline is not None and resolved.implementation != "fused":
        fused = estimate_run(resolved.with_(implementation="fused"))
    print(estimate_text(result, baseline, fused))
    if layers:
        print("\n" + layers_text(result))
    if ops:
        print("\n" + ops_text(result))


@app.command()
def compare(
    context: Context,
    run: RunArgument = None,
    hardware: Annotated[str | None, Option(help="Hardware profiles, comma-separated. Default: the run's.")] = None,
    stack: Annotated[str | None, Option(help="Software stacks, comma-separated. Default: the run's.")] = None,
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
) -> None:
    """Compare GPUs and software stacks on one run.

    Time to first token with its band, bound, MFU, gain over no reduction, memory and cost.
    """
    from ..errors import InvalidValueError
    from ..pricing.comparison import compare_run
    from ..report.compare import compare_text
    from ..report.export import to_csv, to_json

    one_of(csv=as_csv, json=as_json)
    names, stacks = ([name.strip() for name in (given or "").split(",") if name.strip()] for given in (hardware, stack))
    if not names and not stacks:
        raise InvalidValueError("--hardware", "given: comma-separated profiles (or --stack)", None)
    resolved = resolve_flags(context, stack=stacks[0] if len(stacks) == 1 else None)
    rows = compare_run(resolved, names, stacks)
    if as_json:
        print(to_json(rows))
    elif as_csv:
        print(to_csv(rows), end="")
    else:
        print(compare_text(resolved, rows))


@app.command()
def reproduce(as_json: JsonOption = False) -> None:
    """Recompute AIM's published tables.

    Slips in the paper are listed with the corrected figures.
    """
    from ..pricing.reproduce import reproduce as recompute
    from ..report.export import to_json
    from ..report.reproduce import reproduce_text

    result = recompute()
    print(to_json(result) if as_json else reproduce_text(result))
