"""The ``aimcost`` command: parses, calls `aimcost.api`, prints.

Exit status: 0, 1 for a failed check, 2 for bad input. Errors are one line on stderr.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from typing import Annotated

import typer

from ..errors import AimcostError
from . import estimating, evidencing, guarding, looking, measuring, planning  # noqa: F401 (each adds its commands)
from .common import app, flag_of

__all__ = ["app", "main"]


def main() -> None:
    """Run the command; a user's mistake never raises a traceback."""
    for stream in (sys.stdout, sys.stderr):
        # a terminal or pipe that cannot write × or → shows ? there, rather than failing the command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except AimcostError as error:
        _fail(error.text(flag_of), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:
        _drop_output()  # the reader (head, less) has closed the pipe
        sys.exit(0)
    except OSError as error:
        _drop_output()
        _fail(f"{error.filename or 'output'}: {error.strerror or error}", 1)
    except Exception as error:
        # typer ships its own copy of click, whose exceptions have no public name
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            sys.exit(2)
        _fail(error.format_message(), 2)
    gc.freeze()  # what is left is for the system to take back: a collection at exit is a tenth of a short command
    sys.exit(code if isinstance(code, int) else 0)


def _drop_output() -> None:
    """Keep Python from complaining at exit about what it could not write."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> None:
    print("aimcost: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        print(f"aimcost {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand not in measuring.TIMED:
        # before NumPy is imported: starting a thread for each core costs a quarter of a short command
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
