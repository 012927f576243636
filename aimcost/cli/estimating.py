"""Commands that compute: estimate, compare, reproduce."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from .common import JsonOption, RunArgument, app, resolve


@app.command()
def estimate(
    run: RunArgument = None,
    model: Annotated[str | None, typer.Option(help="A model's name, config.json or folder.")] = None,
    hardware: Annotated[str | None, typer.Option(help="A profile's name or path.")] = None,
    estimator: Annotated[str | None, typer.Option(help="roofline, llm_viewer, …")] = None,
    method: Annotated[str | None, typer.Option(help="none, aim, fastv, … (`aimcost list methods`)")] = None,
    attention: Annotated[str | None, typer.Option(help="flash or eager")] = None,
    frames: Annotated[str | None, typer.Option(metavar="N", help="Video frames a request.")] = None,
    images: Annotated[str | None, typer.Option(metavar="N", help="Images a request.")] = None,
    visual_tokens: Annotated[str | None, typer.Option(metavar="N", help="Visual tokens before any method.")] = None,
    text_tokens: Annotated[str | None, typer.Option(metavar="N", help="Text tokens a request.")] = None,
    new_tokens: Annotated[str | None, typer.Option(metavar="N", help="Tokens to generate.")] = None,
    batch: Annotated[str | None, typer.Option(metavar="N", help="Requests computed together.")] = None,
    implementation: Annotated[str | None, typer.Option(help="fused, eager or masked")] = None,
    tp: Annotated[str | None, typer.Option(metavar="N", help="Tensor-parallel ranks.")] = None,
    pp: Annotated[str | None, typer.Option(metavar="N", help="Pipeline stages.")] = None,
    dp: Annotated[str | None, typer.Option(metavar="N", help="Replicas.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key of the run: method.l1=14.")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Show the prefill layer by layer.")] = False,
    ops: Annotated[bool, typer.Option("--ops", help="Show every operation.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: operations, or layers with --layers.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Estimate a run: FLOPs, bytes, time and memory, by stage, layer and operation."""
    from ..api import estimate_run

    resolved = resolve(
        run,
        settings or [],
        model,
        hardware=hardware,
        estimator=estimator,
        method=method,
        attention=attention,
        workload_frames=frames,
        workload_images=images,
        workload_visual_tokens=visual_tokens,
        workload_text_tokens=text_tokens,
        workload_new_tokens=new_tokens,
        workload_batch=batch,
        implementation=implementation,
        parallel_tp=tp,
        parallel_pp=pp,
        parallel_dp=dp,
    )
    result = estimate_run(resolved)
    if as_json or as_csv:
        from ..report.export import to_csv, to_json

        print(
            to_json(result.to_dict()) if as_json else to_csv(result.layers() if layers else result.ops()),
            end="",
        )
        if as_json:
            print()
        return
    from ..api import unreduced
    from ..report.text import estimate_text, layers_text, ops_text

    baseline = estimate_run(unreduced(resolved)) if resolved.schedule.events else None
    fused = None
    if baseline is not None and resolved.implementation != "fused":
        fused = estimate_run(replace(resolved, implementation="fused"))
    print(estimate_text(result, baseline, fused))
    if layers:
        print("\n" + layers_text(result))
    if ops:
        print("\n" + ops_text(result))


@app.command()
def compare(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run file, or the name of one in configs/runs.")],
    hardware: Annotated[str, typer.Option(help="Profiles, separated by commas.")],
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare machines on one run: time to first token, bound, memory, gain, cost."""
    from ..comparison import compare_run
    from ..errors import InvalidValueError
    from ..report.compare import compare_text
    from ..report.export import to_csv, to_json

    names = [name.strip() for name in hardware.split(",") if name.strip()]
    if not names:
        raise InvalidValueError("--hardware", "given: profiles separated by commas", None)
    resolved = resolve(run, settings or [], None)
    rows = compare_run(resolved, names)
    if as_json:
        print(to_json(rows))
    elif as_csv:
        print(to_csv(rows), end="")
    else:
        print(compare_text(resolved, rows))


@app.command()
def reproduce(as_json: JsonOption = False) -> None:
    """Recompute every row of AIM's published tables, and name the slips with corrected figures."""
    from ..report.export import to_json
    from ..report.reproduce import reproduce_text
    from ..reproduce import reproduce as recompute

    result = recompute()
    print(to_json(result) if as_json else reproduce_text(result))
