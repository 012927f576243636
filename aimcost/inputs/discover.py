"""Discovery by name: a file is known by its name without the extension, a method or estimator by its module's.

Search order for files: the user's folder, ``$AIMCOST_PATH``, the user's config folder, then the
project's own files (the repository root in a checkout, package data when installed). The first
hit wins. Folders are not searched recursively.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, UnknownNameError

__all__ = [
    "KINDS",
    "at_home",
    "estimator",
    "estimator_names",
    "find",
    "is_file",
    "method_names",
    "modules",
    "names",
    "not_shipped",
]

PACKAGE = Path(__file__).resolve().parent.parent
_METHODS, _ESTIMATORS = str(PACKAGE / "methods"), str(PACKAGE / "pricing" / "estimators")

KINDS: dict[str, str] = {
    "hardware": "hardware_profiles",
    "model": "configs/models",
    "run": "configs/runs",
    "paper": "configs/papers",
    "accuracy": "configs/accuracy",
    "timings": "configs/timings",
    "stack": "configs/stacks",
    "campaign": "configs/campaigns",
    "preprocess": "configs/preprocess",
}
# Every other kind is YAML; `aimcost trace` writes models as JSON.
_SUFFIXES = {"timings": (".jsonl",), "accuracy": (".csv",), "model": (".yaml", ".json")}
_YAML = (".yaml",)


@lru_cache(maxsize=1)
def own_root() -> Path:
    """The folder that holds the project's own ``configs`` and ``hardware_profiles``."""
    checkout = PACKAGE.parent
    # An editable install copies packaged data, so a checkout must win over it.
    if (checkout / "pyproject.toml").is_file() and (checkout / "hardware_profiles").is_dir():
        return checkout
    return PACKAGE / "data"


def at_home(given: str | Path) -> Path:
    """A path with ``~`` written out; as it is where there is no such home."""
    path = Path(given)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def is_file(path: Path) -> bool:
    """Whether `path` is a file; False for names that no file system accepts."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def search_path() -> list[Path]:
    """Folders that may hold ``configs`` and ``hardware_profiles``, first match first."""
    return list(_folders())


def _folders() -> tuple[Path, ...]:
    variable = os.environ.get
    try:
        here = os.getcwd()
    except FileNotFoundError:
        raise FileFormatError("the current folder is gone: it was removed") from None
    return _search_path(here, variable("AIMCOST_PATH", ""), variable("XDG_CONFIG_HOME", ""), variable("HOME", ""))


@lru_cache(maxsize=16)
def _search_path(folder: str, given: str, config_home: str, _home: str) -> tuple[Path, ...]:
    roots = [Path(folder)]
    roots += [at_home(entry) for entry in given.split(os.pathsep) if entry]
    config = Path(config_home) if config_home else at_home("~/.config")
    if config.is_absolute():  # a user without a home has no such folder
        roots.append(config / "aimcost")
    roots.append(own_root())
    return tuple(roots)


def names(kind: str) -> dict[str, Path]:
    """Every name of `kind` and its file; of several files with one name, the first on the path."""
    found: dict[str, Path] = {}
    for root in search_path():
        folder = root / KINDS[kind]
        if folder.is_dir():
            for suffix in _SUFFIXES.get(kind, _YAML):
                for path in sorted(folder.glob(f"*{suffix}")):
                    found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def _answers(kind: str, name: str) -> Iterator[str]:
    """Every file of that name, first on the path first."""
    for root in _folders():
        for suffix in _SUFFIXES.get(kind, _YAML):
            path = f"{root}/{KINDS[kind]}/{name}{suffix}"
            if os.path.isfile(path):
                yield path


@lru_cache(maxsize=256)
def _as_path(path: str) -> Path:
    return Path(path)


def find(kind: str, name: str, *, where: str = "") -> Path:
    """The file of `name`, looked up exactly.

    Raises
    ------
    UnknownNameError
        Nothing has that name; the nearest are offered.
    """
    if "/" not in name and "\\" not in name and name not in {"", ".", ".."}:
        for path in _answers(kind, name):
            return _as_path(path)
    elif name:
        raise FileFormatError(f"{where + ': ' if where else ''}no such file: {name}")
    known = names(kind)
    visible = [one for one in known if not one.startswith("llm_viewer_") or name.startswith("llm")]
    if kind == "hardware":
        # cards that were measured before those that inherit
        visible.sort(key=lambda one: "\ncalibration:" not in known[one].read_text(encoding="utf-8"))
    raise UnknownNameError(kind, name, visible, where=where)


def not_shipped(kind: str, given: object) -> tuple[Path, bool] | None:
    """The file that a name stands for where the project did not ship it, and whether it hides one that it did.

    None for what is no name (a path, a mapping), for an unknown name, and for the project's own files.
    """
    if not isinstance(given, str) or "/" in given or given.endswith((".yaml", ".yml", ".json")):
        return None
    answers = _answers(kind, given)
    first = next(answers, None)
    if first is None or _is_shipped(kind, first):
        return None
    return Path(first), any(_is_shipped(kind, path) for path in answers)


def _is_shipped(kind: str, path: str) -> bool:
    folder, own = os.path.dirname(path), f"{own_root()}/{KINDS[kind]}"
    return folder == own or os.path.samefile(folder, own)


def estimator_names() -> list[str]:
    """Estimators: the public modules of ``aimcost.pricing.estimators``, without importing them."""
    return modules(_ESTIMATORS)


def modules(folder: str) -> list[str]:
    """The public modules in a folder of the package, without importing them."""
    return list(_modules(folder, os.stat(folder).st_mtime_ns))


def estimator(name: str) -> Any:
    """The ``ESTIMATOR`` of that file, an `aimcost.pricing.estimator.Estimator`.

    Estimators stand above this room and register by their file alone, so they are loaded by name.
    """
    return importlib.import_module(f"aimcost.pricing.estimators.{name}").ESTIMATOR


@lru_cache(maxsize=8)
def _modules(folder: str, _modified: int) -> tuple[str, ...]:
    return tuple(sorted(info.name for info in pkgutil.iter_modules([folder]) if not info.name.startswith("_")))


def method_names() -> list[str]:
    """Reduction methods: the packages in ``aimcost.methods`` that hold a ``plan`` module."""
    return list(_plans(_METHODS, os.stat(_METHODS).st_mtime_ns))


@lru_cache(maxsize=8)
def _plans(folder: str, _modified: int) -> tuple[str, ...]:
    return tuple(sorted(path.parent.name for path in Path(folder).glob("*/plan.py")))
