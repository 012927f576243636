"""The typer application of the declared commands: help, error lines, and every command line that is not plain."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, get_args

import typer

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
        add_completion=False,
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
    return Annotated[kind, make(*given.names, **given.words)]


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        say(f"aimcost {__version__}")
        raise typer.Exit
