"""The ``aimcost`` command: parses, calls `aimcost.api`, prints.

Exit status: 0, 1 for a failed check, 2 for bad input or an output that cannot be written, 70 for an error inside
aimcost. Errors are one line on stderr.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from typing import NoReturn

from ..errors import AimcostError, one_line
from ..report.table import fit_to
from .common import app, at_terminal, drop_output, flag_of, reader_gone, say
from .options import Exit, parse

__all__ = ["app", "main"]

# EX_SOFTWARE of sysexits.h: 1 would be read as a failed check
INTERNAL_ERROR = 70
# Set to see the traceback of an internal error.
TRACEBACK = "AIMCOST_TRACEBACK"


def main() -> None:
    """Run the command; a user's mistake never raises a traceback."""
    _open_streams()
    fit_to(at_terminal())
    # a short command makes little that is not in use until its end, and looking for it takes a twentieth of the time
    gc.set_threshold(100_000)
    code = _status(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()  # the reader (head, true) has closed the pipe: the status is that of the command
    except OSError as error:
        drop_output()
        _fail(f"output: {error.strerror or error}", 2)
    if "torch" not in sys.modules:
        # what is left is for the system to take back: a collection at exit is a tenth of a short command. Triton's
        # bindings report what is not collected
        gc.freeze()
    sys.exit(code)


def _open_streams() -> None:
    """Standard streams that can be written to: one that is closed goes nowhere, and no file that is opened later
    takes its place; a terminal or pipe that cannot write × or → shows ? there, rather than failing the command."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _status(arguments: list[str]) -> int:
    """Run the command; what it ends with."""
    try:
        code = _run(arguments)
        return code if isinstance(code, int) else 0
    except Exit as end:
        return end.code
    except AimcostError as error:
        _fail(error.text(flag_of), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError as error:
        if not (reader_gone(sys.stdout) or reader_gone(sys.stderr)):
            _fail(f"a pipe that was written to: {error.strerror or error}", 2)
        drop_output()
        return 0
    except MemoryError:
        _fail("out of memory", 2)
    except OSError as error:
        drop_output()
        _fail(f"{error.filename or 'output'}: {error.strerror or error}", 2)
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error):
            _fail(f"out of memory: {one_line(error, 120)}", 2)  # torch's, of a GPU and of a CPU
        # typer ships its own copy of click, whose exceptions have no public name
        if not hasattr(error, "format_message"):
            _internal(error)
        if type(error).__name__ == "NoArgsIsHelpError":
            say(error.format_message())
            return 2
        _fail(error.format_message(), 2)


def _internal(error: Exception) -> NoReturn:
    """An error that nobody foresaw, as one line.

    Raises
    ------
    Exception
        The error itself, where `TRACEBACK` is set.
    """
    if os.environ.get(TRACEBACK):
        raise error
    found = error.__traceback__
    while found is not None and found.tb_next is not None:
        found = found.tb_next
    place = "" if found is None else f" at {os.path.basename(found.tb_frame.f_code.co_filename)}:{found.tb_lineno}"
    _fail(
        f"internal error: {type(error).__name__}: {one_line(error, 120)}{place}; this is a bug: please report it with "
        f"the command and its files ({TRACEBACK}=1 shows where it came from)",
        INTERNAL_ERROR,
    )


def _fail(message: str, code: int) -> NoReturn:
    say("aimcost: " + " ".join(message.split()), error=True)
    sys.exit(code)


def _run(arguments: list[str]) -> object:
    """Run the command, and return what typer takes for its status; a plain command line needs no typer."""
    call = parse(app, arguments)
    if call is not None:
        _prepare(call.name)
        return call()
    from .typed import application

    try:
        return application(app, _prepare)(standalone_mode=False)
    except SystemExit as end:
        # click ends with 1 where the reader of the help has closed the pipe
        if isinstance(end.__context__, BrokenPipeError):
            raise end.__context__ from None
        raise


def _prepare(command: str) -> None:
    if command not in app.timed:
        # before NumPy is imported: starting a thread for each core costs a quarter of a short command
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
