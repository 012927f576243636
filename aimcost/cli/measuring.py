"""Commands that measure, or fit to what was measured: calibrate, profile, validate, campaign, demo."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

from .common import JsonOption, app, progress_bar
from .options import Argument, Option

TIMED = frozenset({"calibrate", "profile", "validate", "campaign", "demo"})  # those that may start torch


@app.command()
def calibrate(
    source: Annotated[
        str | None, Option("--from", metavar="aiconfigurator", help="Fit coefficients to these operation tables.")
    ] = None,
    system: Annotated[str | None, Option(help="System in the tables: a100_sxm, h100_sxm, …")] = None,
    timing: Annotated[
        Path | None, Option("--from-timing", metavar="FILE", help="Scale a profile to your own measurements.")
    ] = None,
    check: Annotated[
        Path | None, Option("--check", metavar="CSV", help="Compare predictions with third-party GEMM timings.")
    ] = None,
    inherited: Annotated[
        bool, Option("--inherited", help="Fit the bands of cards that inherit another's coefficients.")
    ] = False,
    hardware: Annotated[str | None, Option(help="Profile to scale, with --from-timing.")] = None,
    output: Annotated[
        Path | None, Option("-o", "--output", help="Profile (or bands) to write. Default: print only.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit or scale a hardware profile.

    Fits coefficients to public operation tables, or scales a profile to your own measurements.
    """
    from ..errors import InvalidValueError
    from ..report.export import to_json

    given = [inherited, *(value is not None for value in (source, timing, check))]
    if sum(given) != 1:
        raise InvalidValueError("calibrate", "given one of --from, --from-timing, --check, --inherited", None)
    if check is not None:
        from ..machine.fitting.external import compare_external, read_external
        from ..report.calibration import external_text

        rows = compare_external(read_external(check))
        print(to_json(rows) if as_json else external_text(rows))
    elif timing is not None:
        from .calibrating import scale_command

        print(scale_command(timing, hardware, output, as_json=as_json))
    elif inherited:
        from .calibrating import inherited_command

        print(inherited_command(output, as_json=as_json))
    else:
        from .calibrating import derive_command

        print(derive_command(str(source), system, output, as_json=as_json))


@app.command("calibrate-stack")
def calibrate_stack(
    timings: Annotated[
        list[Path], Argument(metavar="TIMING...", help="Timings (.jsonl), in the format of configs/timings.")
    ],
    output: Annotated[
        Path | None, Option("-o", "--output", metavar="FILE", help="Stack file to write. Default: print only.")
    ] = None,
    stack: Annotated[
        str | None, Option("--stack", help="Stack to start from. Default: the one the timings name.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a software stack to a few timings.

    One timing fits an offset, two or more fit a scale as well.
    """
    from .calibrating import stack_command

    print(stack_command(timings, stack, output, as_json=as_json))


@app.command()
def profile(
    device: Annotated[str, Option(help="cpu or cuda.")] = "cpu",
    quick: Annotated[bool, Option("--quick", help="Smaller grid: about 20 s on a CPU.")] = False,
    output: Annotated[Path | None, Option("-o", "--output", help="Profile to write. Default: print only.")] = None,
    record: Annotated[Path | None, Option(help="Record of raw samples to write. Default: beside the profile.")] = None,
) -> None:
    """Measure this machine into a hardware profile.

    Writes a profile for the calibrated estimator and the record of raw samples behind it.
    """
    profiling = import_module("aimcost.measure.profile")
    profiling.quiet_process()
    from ..inputs.files import write_atomically
    from ..measure.profile.to_calibration import profile_yaml
    from ..report.measured import profile_text

    samples = record if record is not None else None if output is None else output.with_suffix(".record.json")
    with progress_bar() as step:
        measured = profiling.profile(device, quick, progress=step, path=samples)
    name = output.stem if output is not None else f"my_{device}"
    text = profile_yaml(measured, name)
    if output is None:
        print(text, end="")
        return
    write_atomically(output, text)
    print(profile_text(measured, output, samples))


@app.command()
def validate(
    runs: Annotated[
        list[str] | None, Argument(metavar="RUN...", help="Run files, or names of some in configs/runs.")
    ] = None,
    device: Annotated[str, Option(help="cpu or cuda.")] = "cpu",
    profile: Annotated[
        str | None, Option("--profile", help="Profile of this machine. Default: measured along with the runs.")
    ] = None,
    output: Annotated[Path | None, Option("-o", "--output", metavar="FILE", help="Record to write.")] = None,
    from_record: Annotated[
        Path | None, Option("--from-record", metavar="FILE", help="Redo the comparison from a record, offline.")
    ] = None,
    plot: Annotated[
        Path | None, Option("--plot", metavar="FILE", help="Plot predicted against measured (.png, .svg, .pdf).")
    ] = None,
    repeats: Annotated[int, Option(min=1, max=100, help="Passes per variant and round (two rounds).")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Execute runs and compare with their predictions.

    Each run is timed with and without reduction, prefill by prefill and layer by layer.
    """
    from ..errors import InvalidValueError

    if bool(runs) == (from_record is not None):
        raise InvalidValueError("RUN", "given, or else --from-record (not both)", None)
    if from_record is None:
        import_module("aimcost.measure.profile").quiet_process()
    from ..measure.validate import compare_record
    from ..report.export import to_json
    from ..report.validation import validation_text
    from ..report.validation_plot import check_plot, draw_validation

    if plot is not None:
        check_plot(plot)
    if from_record is not None:
        from ..measure.records import load_record

        record, where = load_record(from_record), str(from_record)
    else:
        from ..measure.validate.measuring import load_runs, measure_validation

        where = str(output or "record")
        given = load_runs(runs or [])
        with progress_bar() as step:
            record = measure_validation(
                given, device=device, profile=profile, repeats=repeats, path=output, progress=step
            )
    comparison = compare_record(record, where=where)
    print(to_json(comparison.to_dict()) if as_json else validation_text(comparison))
    if plot is not None:
        draw_validation(comparison, plot)


@app.command()
def campaign(
    output: Annotated[Path | None, Option("-o", "--output", metavar="DIR", help="Folder for the records.")] = None,
    device: Annotated[str, Option(help="cpu or cuda.")] = "cuda",
    minutes: Annotated[float, Option(help="Time limit; steps that do not fit are skipped.")] = 8.0,
    tiny: Annotated[bool, Option("--tiny", help="Dry run: the same steps on a tiny model.")] = False,
    resume: Annotated[bool, Option("--resume", help="Skip the steps that DIR already holds complete.")] = False,
    source: Annotated[
        Path | None, Option("--from", metavar="DIR", help="Summarise an existing campaign; needs no GPU.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a GPU in one call.

    Profile, kernels, the paper's schedules executed, vision tower, decode, memory.
    """
    from .campaigning import campaign_command

    text = campaign_command(output, source, device=device, minutes=minutes, tiny=tiny, resume=resume, as_json=as_json)
    print(text)


@app.command()
def demo(
    device: Annotated[str, Option(help="cpu or cuda.")] = "cpu",
    frames: Annotated[int, Option(min=1, max=64, help="Video frames.")] = 6,
    layers: Annotated[int, Option(min=2, max=64, help="Decoder layers.")] = 8,
) -> None:
    """Time a small model on this machine, dense and reduced.

    Random weights; prints the measured gain beside the predicted one.
    """
    from ..measure.demo import demonstrate
    from ..report.demo import demo_text

    with progress_bar() as step:
        result = demonstrate(device, frames=frames, layers=layers, progress=step)
    print(demo_text(result))
