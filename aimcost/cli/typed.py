"""The typer application of the declared commands: help, error lines, and every command line that is not plain."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from ..inputs import discover
from ..report.format import format_names
from .common import say
from .options import Commands, Context, Declared, hints_of

__all__ = ["application"]

ABOUT = (
    "Predict the FLOPs, DRAM traffic, memory and latency of multi-modal LLM requests, "
    "and what dropping visual tokens buys."
)


def application(commands: Commands, prepare: Callable[[str], None]) -> typer.Typer:
    """The application; `prepare` is told of the command before it runs."""
    app = typer.Typer(
        name="aimcost",
        help=ABOUT,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def options(
        context: typer.Context,
        version: Annotated[
            bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
        ] = False,
    ) -> None:
        prepare(context.invoked_subcommand or "")

    for name, function in commands.all().items():
        app.command(name)(_typed(function))
    return app


def _typed(function: Callable[..., None]) -> Callable[..., None]:
    """The function with typer's own declarations in place of ours."""
    hints = {name: _annotation(hint) for name, hint in hints_of(function).items()}
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> None:
        function(*args, **kwargs)

    call.__annotations__ = hints
    call.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[each.replace(annotation=hints[name]) for name, each in signature.parameters.items()]
    )
    return call


def _annotation(hint: Any) -> Any:
    if hint is Context:
        return typer.Context
    kind, *declared = get_args(hint) or (hint,)
    if not declared or not isinstance(declared[0], Declared):
        return hint
    (given,) = declared
    make: Any = typer.Option if given.what == "option" else typer.Argument
    words = dict(given.words)
    if "complete" in words:
        words["autocompletion"] = _completing(words.pop("complete"))
    return Annotated[kind, make(*given.names, **words)]


def _completing(kinds: Sequence[str]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return _completions(kinds, incomplete)

    return complete


def _completions(kinds: Sequence[str], incomplete: str) -> list[str]:
    """Names of these kinds that go on from what is typed after its last comma, and files."""
    before, comma, last = incomplete.rpartition(",")
    known = {"method": discover.method_names, "estimator": discover.estimator_names, "format": format_names}
    found = [name for kind in kinds for name in known.get(kind, partial(discover.names, kind))()]
    if not comma:
        folder = Path(last).parent if "/" in last else Path()
        found += [
            str(path) + ("/" if path.is_dir() else "")
            for path in sorted(folder.glob("*"))
            if path.is_dir() or path.suffix in (".yaml", ".yml", ".json")
        ]
    return [before + comma + name for name in dict.fromkeys(found) if name.startswith(last)]


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        say(f"aimcost {__version__}")
        raise typer.Exit
