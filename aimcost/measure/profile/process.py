"""A process whose timings are not disturbed by the C library giving memory back."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence

from ...inputs import discover

__all__ = ["is_quiet", "quiet_process"]

# glibc returns large freed blocks to the kernel; every tensor then meets fresh pages, and the page
# faults cost 7 to 11 % of a layer. These keep freed memory in the process (mallopt(3), M_MMAP_MAX,
# M_TRIM_THRESHOLD, M_TOP_PAD); they are read once, before main.
QUIET_ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
_GUARD = "AIMCOST_QUIET_PROCESS"
# `python -m` would look for every import in the current folder first, where a downloaded torch.py or yaml.py
# would then run. Only -c works on every version: -P came with 3.11, and -I would drop the user's PYTHONPATH.
# The package's own folder goes last: in site-packages it is there already, from a checkout nothing else leads to it.
_START = """import runpy, sys
if sys.path[0] == "":
    del sys.path[0]
if {root!r} not in sys.path:
    sys.path.append({root!r})
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""


def is_quiet() -> bool:
    """Whether this process was started with `QUIET_ENVIRONMENT` (or with a C library other than glibc)."""
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return True
    return all(os.environ.get(name) == value for name, value in QUIET_ENVIRONMENT.items())


def quiet_process(arguments: Sequence[str] | None = None, *, module: str = "aimcost") -> None:
    """Run `module` anew in place of this process, with `QUIET_ENVIRONMENT` set.

    Nothing is imported from the current folder. Does nothing where the settings are in force already, where the
    C library does not read them, and in a process that this function started (so never twice). Call it before
    anything is written.

    Parameters
    ----------
    arguments
        Of the command; this process's own when None.
    """
    if is_quiet() or os.environ.get(_GUARD):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    environment = {**os.environ, **QUIET_ENVIRONMENT, _GUARD: "1"}
    given = list(sys.argv[1:] if arguments is None else arguments)
    interpreter = [sys.executable, *_interpreter_flags()]
    start = _START.format(root=str(discover.PACKAGE.parent), module=module)
    os.execve(sys.executable, [*interpreter, "-c", start, *given], environment)


def _interpreter_flags() -> list[str]:
    """Options of this interpreter (-W, -X, -I …), so that the new one behaves alike."""
    import subprocess

    return subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined, no-any-return]
