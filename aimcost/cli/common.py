"""What the commands share: the app, common options, and a run from a file and flags."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

__all__ = ["JsonOption", "RunArgument", "SettingsOption", "app", "overrides_of", "progress_bar", "resolve"]

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
SettingsOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key of the run: method.l1=14.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _overrides(settings: list[str], **named: Any) -> dict[str, Any]:
    """Flags and ``--set key=value`` as overrides of a run; values are YAML.

    Counts are text until the run's own schema reads them, so that one message serves both ways.
    """
    import yaml

    from ..errors import InvalidValueError

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


def overrides_of(settings: list[str]) -> dict[str, Any]:
    """``--set`` options laid over each other, in order."""
    from ..run import merge_overrides

    overrides: dict[str, Any] = {}
    for setting in settings:
        overrides = merge_overrides(overrides, _overrides([setting]))
    return overrides


def resolve(run: str | None, settings: list[str], model: str | None, **flags: Any) -> Any:
    """A Run from a file and flags, or from flags alone."""
    from ..errors import InvalidValueError
    from ..run import load_run, merge_overrides

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


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """A bar on a terminal's stderr, nothing elsewhere; gives a function of (done, total, what is next)."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(transient=True, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("starting")
        yield lambda done, total, text: bar.update(task, description=text, completed=done, total=total)
