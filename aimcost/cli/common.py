"""What the commands share: the app, common options, and a run from a file and flags."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO

from ..errors import printable
from ..inputs.discover import estimator_names
from ..report.format import Format, Report, format_by_suffix, format_names, format_of, suffixes
from ..report.table import fit_to, terminal_width
from .options import Argument, Commands, Context, Option

__all__ = [
    "AttentionFlag",
    "BatchFlag",
    "CsvOption",
    "EstimatorFlag",
    "FormatFlag",
    "FramesFlag",
    "ImagesFlag",
    "ImplementationFlag",
    "JsonOption",
    "MethodFlag",
    "ModelFlag",
    "NewTokensFlag",
    "PipelineFlag",
    "ReplicasFlag",
    "ReportOption",
    "RunArgument",
    "SettingsOption",
    "StackFlag",
    "TensorFlag",
    "TextTokensFlag",
    "VisualTokensFlag",
    "app",
    "at_terminal",
    "drop_output",
    "flag_of",
    "format_asked",
    "keys_of",
    "names_in",
    "number_in",
    "one_of",
    "overrides_of",
    "progress_bar",
    "reader_gone",
    "require_apart",
    "resolve",
    "resolve_flags",
    "say",
    "write_report",
]

app = Commands("aimcost.cli.commands")

RunArgument = Annotated[
    str | None, Argument(metavar="RUN", help="Run file, or the name of one in configs/runs.", complete=("run",))
]
SettingsOption = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="Set any key of the run file, e.g. 'method.l1=14'. Repeatable."),
]
JsonOption = Annotated[bool, Option("--json", help="Print JSON.")]
CsvOption = Annotated[bool, Option("--csv", help="Print CSV.")]
FormatFlag = Annotated[
    str | None,
    Option("--format", metavar="NAME", help=f"Report format: {', '.join(format_names())}.", complete=("format",)),
]
ReportOption = Annotated[
    Path | None, Option("-o", "--output", metavar="FILE", help="Write the report there; its suffix is the format.")
]

# Keys of a run that have a flag. Counts stay text here: the schema of run files parses them.
ModelFlag = Annotated[
    str | None, Option("--model", help="Model name, or path of an HF config.json or its folder.", complete=("model",))
]
EstimatorFlag = Annotated[
    str | None, Option("--estimator", help=", ".join(estimator_names()) + ".", complete=("estimator",))
]
MethodFlag = Annotated[
    str | None,
    Option(
        "--method", help="Reduction method: none, aim, fastv, … (see `aimcost list methods`).", complete=("method",)
    ),
]
AttentionFlag = Annotated[str | None, Option("--attention", help="flash or eager; default: the stack's.")]
FramesFlag = Annotated[str | None, Option("--frames", metavar="N", help="Video frames per request.")]
ImagesFlag = Annotated[str | None, Option("--images", metavar="N", help="Images per request.")]
VisualTokensFlag = Annotated[
    str | None, Option("--visual-tokens", metavar="N", help="Visual tokens per request, before reduction.")
]
TextTokensFlag = Annotated[str | None, Option("--text-tokens", metavar="N", help="Text tokens per request.")]
NewTokensFlag = Annotated[str | None, Option("--new-tokens", metavar="N", help="Tokens to generate.")]
BatchFlag = Annotated[str | None, Option("--batch", metavar="N", help="Batch size.")]
StackFlag = Annotated[
    str | None, Option("--stack", help="Software stack: name or file (see `aimcost list stacks`).", complete=("stack",))
]
ImplementationFlag = Annotated[
    str | None, Option("--implementation", help="How the reduction runs: fused, eager or masked.")
]
TensorFlag = Annotated[str | None, Option("--tp", metavar="N", help="Tensor-parallel degree.")]
PipelineFlag = Annotated[str | None, Option("--pp", metavar="N", help="Pipeline-parallel degree.")]
ReplicasFlag = Annotated[str | None, Option("--dp", metavar="N", help="Data-parallel replicas.")]
# Parameters of a command that map to a key of the run.
RUN_FLAGS = (
    *("model", "estimator", "method", "attention", "implementation", "stack"),
    *("frames", "images", "visual_tokens", "text_tokens", "new_tokens", "batch", "tp", "pp", "dp"),
)


# Python arguments whose flag is spelled differently.
_FLAGS = {
    "budgets": "budget",
    "max_ttft_ms": "--ttft-ms",
    "max_tpot_ms": "--tpot-ms",
    "max_kv_gb": "--kv-gb",
    "max_memory_gb": "--memory-gb",
    "max_tflops": "--flops",
    "methods": "--method",
    "shapes": "--shape",
    "batches": "--batch",
    "engine_name": "--engine",
    "overrides": "--set",
    "runs": "RUNS",
    "prices": "--price",
    "tolerances": "--tolerance",
    "path": "--plot",
}


def flag_of(name: str) -> str:
    """The flag of an argument that an error names (`aimcost.errors.argument`)."""
    return _FLAGS.get(name, "--" + name.replace("_", "-"))


def one_of(**given: bool) -> None:
    """Raise InvalidValueError when more than one of these mutually exclusive flags is given."""
    from ..errors import InvalidValueError

    names = [f"--{name}" for name, value in given.items() if value]
    if len(names) > 1:
        raise InvalidValueError(names[0], f"given without {' and '.join(names[1:])}: choose one", None)


def names_in(flag: str, given: str | None) -> list[str]:
    """Comma-separated names, each once; none where the flag is not given.

    Raises
    ------
    InvalidValueError
        The flag is given, and names nothing: its default is not what was asked for.
    """
    names = list(dict.fromkeys(name.strip() for name in (given or "").split(",") if name.strip()))
    if given is not None and not names:
        from ..errors import InvalidValueError

        raise InvalidValueError(flag, "given a value, or several, comma-separated", given)
    return names


def require_apart(files: Iterable[tuple[str, Path | str | None]], **written: Path | str | None) -> None:
    """Raise InvalidValueError where a flag, by its name, writes what another one writes, or one of `files`.

    Those are what the command reads, each with the word for it; one file would replace the other.
    """
    found = {_place(path): word for word, path in files if path is not None}
    for name, path in written.items():
        if path is None:
            continue
        flag = flag_of(name)
        first = found.setdefault(_place(path), flag)
        if first != flag:
            from ..errors import InvalidValueError

            raise InvalidValueError(flag, f"another file than that of {first}", str(path))


def _place(path: Path | str) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # a name that no file can have: whoever opens it says so
        return str(path)


def format_asked(
    name: str | None, *, as_json: bool = False, as_csv: bool = False, output: Path | None = None
) -> Format:
    """The format that flags ask for, else that of the file that is written, else text.

    Raises
    ------
    UnknownNameError, InvalidValueError
        No such format, two of them, or a file name that ends as another format's.
    """
    one_of(format=name is not None, csv=as_csv, json=as_json)
    if output is not None and name is None and not (as_json or as_csv):
        return format_by_suffix(output)
    asked = format_of(name or ("json" if as_json else "csv" if as_csv else "text"))
    if output is not None and output.suffix.lower() in suffixes() - {asked.suffix}:
        from ..errors import InvalidValueError

        flag = f"--format {name}" if name is not None else f"--{asked.name}"
        raise InvalidValueError("--output", f"a file name ending in {asked.suffix}, as {flag} asks", output.name)
    return asked


def write_report(report: Report, written: Format, output: Path | None = None) -> None:
    """Print a report, or write it to a file and say so."""
    if output is None:
        text = printable(written.render(report))
        say(text if text.endswith("\n") else text + "\n", end="", prose=written.name == "text")
        return
    from ..inputs.files import write_atomically

    fit_to(None)
    text = printable(written.render(report))
    text += "" if text.endswith("\n") else "\n"

    write_atomically(output, text)
    say(f"written: {output}")


def say(text: str, *, end: str = "\n", error: bool = False, prose: bool = False) -> None:
    """Print: the one way to a terminal or a log, which does not act on what stands in names and files.

    Parameters
    ----------
    prose
        Text for people, which a terminal wraps and colours; files and JSON stay as they are.
    """
    text = printable(text)
    width = terminal_width()
    if prose and width is not None:
        from ..report.terminal import show

        show(text, width, end=end)
        return
    if os.environ.get("GITHUB_ACTIONS"):
        text = _COMMAND.sub(lambda found: found[0].replace(":", "\\x3a").replace("#", "\\x23"), text)
    try:
        print(text, end=end, file=sys.stderr if error else sys.stdout, flush=error)
    except BrokenPipeError:
        drop_output()  # what the command has to say by its status it still says
    except OSError:
        if not error:
            raise
        drop_output(sys.stderr)  # full or closed: there is nowhere to say that, and the status says the rest


# What the runner of GitHub Actions takes for a command: `::` first in a line, `##[` anywhere in it.
_COMMAND = re.compile(r"^[^\S\n]*::|##\[", re.MULTILINE)


def drop_output(stream: TextIO | None = None) -> None:
    """Send what is still printed nowhere, and keep Python from complaining at exit about what it could not write."""
    with contextlib.suppress(io.UnsupportedOperation):  # a stream that somebody else collects has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())


def reader_gone(stream: TextIO) -> bool:
    """Whether nobody reads the pipe that a stream writes to any more; also where a system cannot tell."""
    import select

    try:
        watched = select.poll()
        watched.register(stream.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # no poll on Windows; a stream without a descriptor, or closed
        return True
    return any(event & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for _, event in watched.poll(0))


def _overrides(settings: list[str], **named: Any) -> dict[str, Any]:
    """Flags and ``--set key=value`` as overrides of a run; values are YAML.

    Counts stay text until the schema of run files parses them, so that both routes fail with the same message.
    """
    from ..errors import InvalidValueError

    overrides: dict[str, Any] = {}
    for key, text in named.items():
        if text is None:
            continue
        overrides[key] = _parsed(key, text) if "." in key else text
        if overrides[key] is None:
            raise InvalidValueError(key, "given a value", text)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise InvalidValueError("--set", "key=value", setting)
        overrides[key] = _parsed(f"--set {key}", text)
    return overrides


def _parsed(key: str, text: str) -> Any:
    from ..errors import FileFormatError, InvalidValueError
    from ..inputs.files import parse_value

    try:
        return parse_value(text)
    except FileFormatError as error:
        raise InvalidValueError(key, f"a YAML value ({error})", text) from None


def number_in(key: str, text: str) -> Any:
    """The value of a flag as YAML reads it: counts that are given several to a flag."""
    return _parsed(key, text)


def overrides_of(settings: list[str]) -> dict[str, Any]:
    """``--set`` options merged in order."""
    from ..inputs.run import merge_overrides

    overrides: dict[str, Any] = {}
    for setting in settings:
        overrides = merge_overrides(overrides, _overrides([setting]))
    return overrides


def resolve_flags(context: Context, **more: Any) -> Any:
    """A Run from the parameters of a command that takes every flag of `RUN_FLAGS`; keys in `more` take precedence."""
    from ..inputs.run import SHORT_KEYS

    given = context.params
    flags = {SHORT_KEYS.get(name, name): given[name] for name in RUN_FLAGS}
    flags, more = {**flags, **more}, {}
    return resolve(given["run"], given["settings"] or [], **flags, **more)


def resolve(run: str | None, settings: list[str], **flags: Any) -> Any:
    """A Run from a file and flags, or from flags alone; a dotted key reaches inside."""
    from ..errors import InvalidValueError
    from ..inputs.run import load_run

    overrides = keys_of(settings, **flags)
    if run is None and "model" not in overrides:
        raise InvalidValueError("RUN", "given, or --model", None)
    return load_run(run if run is not None else {}, overrides)


def keys_of(settings: list[str], **flags: Any) -> dict[str, Any]:
    """The keys of a run that flags and ``--set`` give; a dotted key reaches inside."""
    from ..inputs.run import merge_overrides

    overrides: dict[str, Any] = {}
    for key, value in _overrides(settings, **flags).items():
        overrides = merge_overrides(overrides, {key: value})
    return overrides


def at_terminal() -> int | None:
    """Columns of the terminal that output goes to; None for a pipe, a file, or NO_COLOR."""
    encoding = (getattr(sys.stdout, "encoding", None) or "").lower()
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not encoding.startswith("utf")
    if plain or not sys.stdout.isatty():
        return None
    import shutil

    return max(40, shutil.get_terminal_size().columns)


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """Show a progress bar where stderr is a terminal; yields a function of (done, total, description)."""
    if not sys.stderr.isatty():  # a disabled bar of rich 13 still ends in an empty line
        yield lambda done, total, text: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    with Progress(*columns, transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting")
        yield lambda done, total, text: bar.update(task, description=text, completed=done, total=total)
