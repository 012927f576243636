"""A run given from Python: whatever means the same as the YAML prices the same."""

from __future__ import annotations

import types
from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aimcost
from aimcost.errors import AimcostError, UnknownNameError

ROOT = Path(__file__).resolve().parent.parent.parent
COUNTS = [100] * 12 + [60] * 12
RUN: dict[str, Any] = {
    "model": "qwen2-0.5b",
    "workload": {"visual_tokens": 80, "text_tokens": 20},
    "method": {"name": "explicit", "tokens_per_layer": COUNTS},
    "hardware": "nvidia_l4",
    "include": ["prefill"],
}


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return aimcost.estimate(RUN).to_dict()


def of_defaults(given: dict[str, Any]) -> Any:
    return defaultdict(dict, given)


@pytest.mark.parametrize("kind", [OrderedDict, UserDict, types.MappingProxyType, of_defaults])
@pytest.mark.parametrize("key", [None, "workload", "method"])
def test_any_mapping(kind: Callable[[dict[str, Any]], Any], key: str | None, expected: dict[str, Any]) -> None:
    run = kind(RUN) if key is None else {**RUN, key: kind(RUN[key])}
    assert aimcost.estimate(run).to_dict() == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("include", ("prefill",)),
        ("method", {"name": "explicit", "tokens_per_layer": tuple(COUNTS)}),
        ("method", {"name": "explicit", "tokens_per_layer": [(100, 12), (60, 12)]}),
        ("method", {"name": "explicit", "tokens_per_layer": np.array(COUNTS)}),
        ("method", {"name": "explicit", "tokens_per_layer": list(np.array(COUNTS, dtype=np.uint16))}),
        ("workload", {"visual_tokens": np.int64(80), "text_tokens": np.int32(20)}),
        ("model", ROOT / "configs" / "models" / "qwen2-0.5b.yaml"),
        ("hardware", ROOT / "hardware_profiles" / "nvidia_l4.yaml"),
    ],
    ids=["include", "tuple", "tuple runs", "array", "uint16", "int64", "model path", "hardware path"],
)
def test_what_python_users_pass(key: str, value: Any, expected: dict[str, Any]) -> None:
    found = aimcost.estimate({**RUN, key: value}).to_dict()
    for part in ("totals", "stages", "layers", "ops", "memory"):
        assert found[part] == expected[part]


def test_overrides_leave_the_given_run_alone(expected: dict[str, Any]) -> None:
    aimcost.estimate(RUN, workload={"batch": 4}, **{"precision.weights": 8})
    assert aimcost.estimate(RUN).to_dict() == expected


def test_a_path_or_its_text_name_the_same_run() -> None:
    path = ROOT / "configs" / "runs" / "llava_onevision_aim_a100.yaml"
    documents = [aimcost.estimate(given).to_dict() for given in (path, str(path), path.stem)]
    assert documents[0] == documents[1] == documents[2]


def test_a_hint_is_about_its_own_key() -> None:
    """Two keys wrong at once: text_tokens may be a mapping, visual_tokens may not."""
    with pytest.raises(aimcost.errors.InvalidValueError, match="visual_tokens") as caught:
        aimcost.estimate({**RUN, "workload": {"visual_tokens": "80", "text_tokens": "x"}})
    assert "mapping" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: aimcost.estimate(frame=32), "run: unknown key 'frame'; did you mean 'frames'"),
        (lambda: aimcost.estimate("llava_onevision_aim_a100", imges=2), "unknown key 'imges'; did you mean 'images'"),
        (
            lambda: aimcost.compare(model="qwen2-7b", stak=["vllm"]),
            "unknown key 'stak'; did you mean 'stack' or 'stacks'",
        ),
        (lambda: aimcost.schedule(method_="aim"), "unknown key 'method_'; did you mean 'method'"),
    ],
)
def test_a_keyword_that_is_no_key_is_told_its_nearest(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(UnknownNameError) as raised:
        call()
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "'run' must be given: a mapping, such as {'model': …"),
        ({"model": "qwen2-7b", "hardware": "nvidia_l4"}, "; model and hardware are keys of it"),
        ({"model": "qwen2-7b", "hardwre": "nvidia_l4"}, "unknown argument 'hardwre'; did you mean 'hardware'?"),
    ],
)
def test_a_plan_without_a_run_says_what_one_is(options: dict[str, Any], says: str) -> None:
    """A TypeError as before, and an error of aimcost's on one line."""
    with pytest.raises(AimcostError) as raised:
        aimcost.plan(**options)
    assert isinstance(raised.value, TypeError)
    assert says in str(raised.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: aimcost.estimate("llava15_aim_a100", batch=10**5000),
        lambda: aimcost.estimate("llava15_aim_a100", batch=[10**5000]),
        lambda: aimcost.estimate("llava15_aim_a100", method=_circle()),
        lambda: aimcost.estimate("llava15_aim_a100", **{".".join("a" * 20_000): 1}),
        lambda: aimcost.compare("llava15_aim_a100", hardware=["nvidia_l4"], prices=[1]),
        lambda: aimcost.estimate("llava15_aim_a100").plot(5),
    ],
)
def test_what_python_cannot_write_or_follow(call: Callable[[], Any]) -> None:
    with pytest.raises(AimcostError) as raised:
        call()
    assert len(str(raised.value)) < 400


def _circle() -> dict[str, Any]:
    method: dict[str, Any] = {"name": "fastv"}
    method["inside"] = method
    return method
