"""Cards and models to go through: all of them, of which `make test` takes one of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import yaml

from aimcost.inputs import discover
from aimcost.inputs.hardware import load_hardware


def one_of_each(names: Iterable[str], kind: Callable[[str], str]) -> list[Any]:
    """All names, of which `make test` takes the first of each kind."""
    tried: set[str] = set()
    found = []
    for name in names:
        known = kind(name) in tried
        tried.add(kind(name))
        found.append(pytest.param(name, marks=[pytest.mark.check] if known else []))
    return found


def cards() -> list[Any]:
    """All profiles; `make test` takes one of each architecture, measured and not."""

    def kind(name: str) -> str:
        spec = load_hardware(name)
        return f"{spec.vendor} {spec.architecture} {spec.calibration is not None}"

    return one_of_each(discover.names("hardware"), kind)


def models() -> list[Any]:
    """All shipped models; `make test` takes one of each type."""

    def kind(name: str) -> str:
        return str(yaml.safe_load(discover.find("model", name).read_text(encoding="utf-8"))["config"]["model_type"])

    return one_of_each(discover.names("model"), kind)
