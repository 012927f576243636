"""The ``aimcost`` command: parses, calls `aimcost.api`, prints.

Exit status: 0, 1 for a failed check, 2 for bad input. Errors are one line on stderr.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import AimcostError

__all__ = ["app", "main"]

app = typer.Typer(
    name="aimcost",
    help="What dropping visual tokens really buys: FLOPs, bytes, memory and latency, per layer.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

RunArgument = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="A run file, or the name of one in configs/runs.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Run the command; a user's mistake never ends in a traceback."""
    try:
        code = app(standalone_mode=False)
    except AimcostError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:
        # the reader (head, less) has seen enough; keep Python from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        # typer ships its own copy of click, whose exceptions have no public name
        if not hasattr(error, "format_message"):
            raise
        _fail(error.format_message(), 2)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    print("aimcost: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        print(f"aimcost {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def _overrides(settings: list[str], **named: Any) -> dict[str, Any]:
    """Flags and ``--set key=value`` as overrides of a run; values are YAML.

    Counts are text until the run's own schema reads them, so that one message serves both ways.
    """
    import yaml

    from .errors import InvalidValueError

    overrides = {
        key: yaml.safe_load(value) if "." in key else value for key, value in named.items() if value is not None
    }
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise InvalidValueError("--set", "key=value", setting)
        try:
            overrides[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InvalidValueError(f"--set {key}", "a YAML value", text) from None
    return overrides


def _resolve(run: str | None, settings: list[str], model: str | None, **flags: Any) -> Any:
    """A Run from a file and flags, or from flags alone."""
    from .errors import InvalidValueError
    from .run import load_run, merge_overrides

    # workload_batch is the key batch inside the mapping workload
    named = {
        key.replace("_", ".", 1) if key.startswith(("workload_", "parallel_")) else key: value
        for key, value in flags.items()
    }
    overrides: dict[str, Any] = {}
    for key, value in _overrides(settings, model=model, **named).items():
        overrides = merge_overrides(overrides, {key: value})
    if run is None and "model" not in overrides:
        raise InvalidValueError("RUN", "given, or --model", None)
    return load_run(run if run is not None else {}, overrides)


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
    from .api import estimate_run

    resolved = _resolve(
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
        from .report.export import to_csv, to_json

        print(
            to_json(result.to_dict()) if as_json else to_csv(result.layers() if layers else result.ops()),
            end="",
        )
        if as_json:
            print()
        return
    from .api import unreduced
    from .report.text import estimate_text, layers_text, ops_text

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
    from .comparison import compare_run
    from .report.compare import compare_text
    from .report.export import to_csv, to_json

    names = [name.strip() for name in hardware.split(",") if name.strip()]
    resolved = _resolve(run, settings or [], None)
    rows = compare_run(resolved, names)
    if as_json:
        print(to_json(rows))
    elif as_csv:
        print(to_csv(rows), end="")
    else:
        print(compare_text(resolved, rows))


@app.command()
def calibrate(
    source: Annotated[
        str | None, typer.Option("--from", metavar="aiconfigurator", help="Derive coefficients from tables.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system of the tables: a100_sxm, h100_sxm, …")] = None,
    timing: Annotated[
        Path | None, typer.Option("--from-timing", metavar="FILE", help="Scale a profile to measured points.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option("--check", metavar="CSV", help="Compare with GEMM timings of others.")
    ] = None,
    hardware: Annotated[str | None, typer.Option(help="The profile to scale, with --from-timing.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The profile to write; printed only without it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Derive a profile's coefficients from measured tables, or scale it to your own clock."""
    from .errors import InvalidValueError
    from .report.export import to_json

    given = [value is not None for value in (source, timing, check)]
    if sum(given) != 1:
        raise InvalidValueError("calibrate", "given one of --from, --from-timing, --check", None)
    if check is not None:
        from .external import compare_external, read_external
        from .report.calibration import external_text

        rows = compare_external(read_external(check))
        print(to_json(rows) if as_json else external_text(rows))
    elif timing is not None:
        from .fitting.commands import scale_command

        print(scale_command(timing, hardware, output, as_json=as_json))
    else:
        from .fitting.commands import derive_command

        print(derive_command(str(source), system, output, as_json=as_json))


@app.command()
def reproduce(as_json: JsonOption = False) -> None:
    """Recompute every row of AIM's published tables, and name the slips with corrected figures."""
    from .report.export import to_json
    from .report.reproduce import reproduce_text
    from .reproduce import reproduce as recompute

    result = recompute()
    print(to_json(result) if as_json else reproduce_text(result))


@app.command()
def demo(
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    frames: Annotated[int, typer.Option(min=1, max=64, help="Video frames.")] = 6,
    layers: Annotated[int, typer.Option(min=2, max=64, help="Decoder layers.")] = 8,
) -> None:
    """Run a small model dense and reduced on this machine, and print what dropping tokens bought."""
    from rich.progress import Progress

    from .api import runtime
    from .errors import UnknownNameError
    from .report.demo import demo_text

    if device not in ("cpu", "cuda"):
        raise UnknownNameError("device", device, ["cpu", "cuda"])
    run_demo = runtime("demo").demo
    with Progress(transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("starting")
        result = run_demo(
            device,
            frames=frames,
            layers=layers,
            progress=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )
    print(demo_text(result))


@app.command("list")
def list_(
    what: Annotated[
        str | None, typer.Argument(metavar="[models|hardware|methods|estimators|runs]", show_default=False)
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="Hidden profiles too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List what there is by name."""
    from .listing import LISTINGS, listing
    from .report.export import to_json
    from .report.text import table

    chosen = LISTINGS if what is None else (what,)
    result = {name: listing(name, hidden=show_all) for name in chosen}
    if as_json:
        print(to_json(result))
        return
    for name, rows in result.items():
        headers = list(rows[0]) if rows else ["name"]
        left = sum(1 for key in headers if not isinstance(rows[0][key], int | float)) if rows else 1
        cells = [["" if value is None else str(value) for value in row.values()] for row in rows]
        print(f"{name} ({len(rows)})\n{table(cells, headers, left=left)}\n")


@app.command()
def show(name: Annotated[str, typer.Argument(help="A model, profile, method, estimator or run.")]) -> None:
    """Show one model, profile, method, estimator or run, with its sources."""
    from .listing import describe

    print(describe(name), end="")


@app.command()
def schema() -> None:
    """Print the JSON Schema of run files and hardware profiles."""
    from .listing import json_schema
    from .report.export import to_json

    print(to_json(json_schema()))


if __name__ == "__main__":
    main()
