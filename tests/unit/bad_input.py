"""What a spoilt run must come to: one clean line."""

from __future__ import annotations

import re
from typing import Any

import pytest

import aimcost
from aimcost.errors import AimcostError

NAN, INFINITY = float("nan"), float("inf")
# A pydantic or Python internal that must not reach a user.
INTERNALS = re.compile(r"Traceback|pydantic|constrained|function-|input_value|<class|\[type=|NoneType")


def message(given: Any, kind: type[AimcostError] = AimcostError, **overrides: Any) -> str:
    """The error that `given` raises, checked to be one clean line of exit status 2."""
    with pytest.raises(kind) as caught:
        aimcost.estimate(given, **overrides).to_dict()
    assert caught.value.exit_code == 2
    text = str(caught.value)
    assert text
    assert "\n" not in text
    assert len(text) < 400
    assert not INTERNALS.search(text), text
    return text


def put(run: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split("/")
    inner = run
    for key in parents:
        inner = inner.setdefault(key, {})
    inner[last] = value
    return run


def estimate_or_error(run: dict[str, Any]) -> dict[str, Any] | AimcostError:
    try:
        return aimcost.estimate(run).to_dict()
    except AimcostError as error:
        return error
