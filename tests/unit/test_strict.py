"""What a record accepts by itself is what pydantic makes of it, value and type; the rest goes to pydantic."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Annotated, Any

import pytest
from pydantic import Field, ValidationError

from aimcost.inputs import discover
from aimcost.inputs.files import read_mapping
from aimcost.inputs.model import ModelFile
from aimcost.inputs.schema import HardwareFile, RunFile, StackFile
from aimcost.methods.registry import plan_module
from aimcost.types.strict import Strict, _accepted, _Doubt, _record, made, pydantic_model

FILES = {"run": RunFile, "stack": StackFile, "hardware": HardwareFile, "model": ModelFile}
ODD = (None, True, 0, 1, -1, 2, 1.0, 0.5, 1e31, float("nan"), float("inf"), 10**20, "", "1", "flash", "fp8", "row", [],
       [1], [1, 2], ["a"], {}, {"a": 1}, {"value": 1.0}, {"fixed": 1}, (1, 2))  # fmt: skip
SMALL = {
    "run": {
        "model": "m",
        "workload": {"frames": 4, "text_tokens": {"system": 1, "question": 2}, "image_size": [3, 4], "newline": "row"},
        "method": {"name": "aim", "l1": 3},
        "precision": {"weights": 8, "kv": "fp8"},
        "include": ["vision", "prefill"],
        "parallel": {"tp": 2},
        "budgets": {"max_ttft_ms": 80},
        "confidence": 0.9,
    },
    "stack": {
        "name": "s",
        "sources": {"all": "here"},
        "host_us_per_launch": {"value": 8, "low": 5.0, "high": 12},
        "attention": {"default": "eager"},
        "kernels": {"gemm": 1},
        "graph": "decode",
        "request_ms": {"fixed": 3, "at": "prefill"},
        "collectives": {"kind": "one_shot", "large_mb": 1.5},
        "selection": {"attention_map_ms": {"value": 1}},
        "spread": [0.9, 1.1],
        "architectures": {"ada": {"scale": {"all": 1.1}}},
    },
}


def by_pydantic(cls: type[Strict], data: Any) -> Strict | None:
    try:
        found: Strict = _record(pydantic_model(cls).model_validate(data))
    except ValidationError:
        return None
    return found


def by_itself(cls: type[Strict], data: Any) -> Strict | None:
    try:
        return _accepted(cls, data)
    except _Doubt:
        return None


def same(one: Strict, other: Strict) -> bool:
    """Value, type (1 is not 1.0 nor True), and which keys were given, all the way down."""
    return repr(one) == repr(other) and one.dump(given=True) == other.dump(given=True)


@pytest.mark.parametrize("kind", FILES)
def test_shipped_files_are_accepted_without_pydantic(kind: str) -> None:
    for name, path in discover.names(kind).items():
        data = {"name": name, **read_mapping(path)} if kind != "run" else read_mapping(path)
        ours, theirs = by_itself(FILES[kind], data), by_pydantic(FILES[kind], data)
        assert ours is not None, path
        assert theirs is not None, path
        assert same(ours, theirs), path
        model = pydantic_model(FILES[kind]).model_validate(data)
        assert ours.dump(given=True, exclude_none=True) == model.model_dump(exclude_unset=True, exclude_none=True)
        assert ours.dump() == model.model_dump()


def variants(data: Any) -> Iterator[Any]:
    """Copies with one value changed, one key missing, or one key too many, at every place."""
    yield from ODD
    if isinstance(data, dict):
        yield {**data, "unknown": 1}
        yield {**data, 1: 1}
        for key in data:
            yield {name: value for name, value in data.items() if name != key}
            for other in variants(data[key]):
                yield {**data, key: other}
    if isinstance(data, list):
        for index in range(len(data)):
            for other in variants(data[index]):
                yield [*data[:index], other, *data[index + 1 :]]


def check_variants(cls: type[Strict], data: dict[str, Any]) -> tuple[int, int]:
    accepted = refused = 0
    for each in variants(data):
        if not isinstance(each, dict):
            continue
        theirs, ours = by_pydantic(cls, deepcopy(each)), by_itself(cls, deepcopy(each))
        refused += theirs is None
        if ours is not None:
            accepted += 1
            assert theirs is not None, each
            assert same(ours, theirs), each
    return accepted, refused


@pytest.mark.parametrize("kind", SMALL)
def test_nothing_is_accepted_that_pydantic_refuses_or_reads_otherwise(kind: str) -> None:
    accepted, refused = check_variants(FILES[kind], SMALL[kind])
    assert accepted > 30
    assert refused > 100


@pytest.mark.parametrize("name", discover.method_names())
def test_parameters_of_methods_too(name: str) -> None:
    params = plan_module(name).Params
    data = {"name": name, **{key: 1 for key in params.names() if key not in ("name", "convention")}}
    check_variants(params, data)


class Declared(Strict):
    """What someone may write who thinks of pydantic."""

    least: Annotated[int, Field(ge=3)] = 3
    most: int = Field(default=5, le=9)
    listed: list[int] = []  # noqa: RUF012 (pydantic copies it)
    fresh: list[int] = made(list)


def test_pydantics_own_declarations_hold() -> None:
    assert Declared() == Declared(least=3, most=5, listed=[], fresh=[])
    for wrong in ({"least": 2}, {"most": 10}, {"most": "5"}, {"listed": 1}):
        with pytest.raises(ValidationError):
            Declared(**wrong)
    first = Declared()
    first.fresh.append(1)
    first.listed.append(1)
    assert (Declared().fresh, Declared().listed) == ([], [])


def test_records_are_frozen_and_compared_by_value() -> None:
    one = RunFile(model="m")
    with pytest.raises(AttributeError, match="frozen"):
        one.model = "other"
    assert one == RunFile(model="m", confidence=0.8)
    assert one != RunFile(model="n")
    assert (one.given, RunFile(model="m", confidence=0.8).given) == ({"model"}, {"model", "confidence"})
