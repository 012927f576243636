"""The ``aimcost`` command: parses, calls `aimcost.api`, prints.

Exit status: 0, 1 for a failed check, 2 for bad input. Errors are one line on stderr.
"""

from __future__ import annotations

import gc
import io
import os
import sys

from ..errors import AimcostError
from .common import app, flag_of
from .options import Exit, parse

__all__ = ["app", "main"]


def main() -> None:
    """Run the command; a user's mistake never raises a traceback."""
    for stream in (sys.stdout, sys.stderr):
        # a terminal or pipe that cannot write × or → shows ? there, rather than failing the command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # a short command makes little that is not in use until its end, and looking for it takes a twentieth of the time
    gc.set_threshold(100_000)
    try:
        code = _run(sys.argv[1:])
        sys.stdout.flush()
    except Exit as end:
        code = end.code
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
    if "torch" not in sys.modules:
        # what is left is for the system to take back: a collection at exit is a tenth of a short command. Triton's
        # bindings report what is not collected
        gc.freeze()
    sys.exit(code if isinstance(code, int) else 0)


def _drop_output() -> None:
    """Keep Python from complaining at exit about what it could not write."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> None:
    print("aimcost: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


def _run(arguments: list[str]) -> object:
    """Run the command, and return what typer takes for its status; a plain command line needs no typer."""
    call = parse(app, arguments)
    if call is not None:
        _prepare(call.name)
        return call()
    from .typed import application

    return application(app, _prepare)(standalone_mode=False)


def _prepare(command: str) -> None:
    if command not in app.timed:
        # before NumPy is imported: starting a thread for each core costs a quarter of a short command
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
