"""`aimcost.frozen.dataclass` against the standard decorator: what a class does is the same."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import typing
from collections.abc import Callable
from dataclasses import FrozenInstanceError, InitVar, field
from typing import Any

import pytest

from aimcost import frozen
from aimcost.inputs.run import Run
from aimcost.types import Workload


class Plain:
    """Fields of every kind."""

    a: int
    b: str = "x"
    c: list[int] = field(default_factory=list)
    d: float = field(default=2.0, compare=False, repr=False)
    e: int = field(init=False)
    f: int = field(default=7, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "e", 2 * self.a)


class Given:
    """A parameter that is no field."""

    a: int = 1
    scale: InitVar[int] = 3

    def __post_init__(self, scale: int) -> None:
        object.__setattr__(self, "a", self.a * scale)


class One:
    a: int


KINDS = [
    {"frozen": True},
    {"frozen": True, "slots": True},
    {"frozen": True, "slots": True, "kw_only": True},
    {"frozen": True, "slots": True, "eq": False, "repr": False},
]


def outcome(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except (TypeError, AttributeError, FrozenInstanceError) as error:
        return type(error), str(error)


def behaviour(cls: Any) -> dict[str, Any]:
    """All that an instance is asked for."""
    one = cls(a=4)
    other = cls(a=4)
    return {
        "signature": str(inspect.signature(cls)).replace("<factory>", "..."),
        "by place": outcome(lambda: cls(4).a),
        "missing": outcome(cls) if cls.__name__ != "Given" else None,
        "unknown": outcome(lambda: cls(a=4, z=1)),
        "set": outcome(lambda: setattr(one, "a", 5)),
        "delete": outcome(lambda: delattr(one, "a")),
        "repr": repr(one) if "__repr__" in vars(cls) else None,
        "equal": (one == other, one == 4, one != cls(a=5)),
        "hash": outcome(lambda: hash(one) == hash(other)) if cls.__name__ != "Plain" else None,
        "fields": [(each.name, each.type, each.init) for each in dataclasses.fields(cls)],
        "asdict": dataclasses.asdict(one),
        "replaced": outcome(lambda: dataclasses.asdict(dataclasses.replace(one, a=9))),
        "copied": dataclasses.asdict(copy.deepcopy(one)),
        "slots": getattr(cls, "__slots__", None),
        "matches": cls.__match_args__,
    }


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("body", [Plain, Given, One])
def test_a_class_does_what_a_standard_one_does(body: type, options: dict[str, bool]) -> None:
    def made(decorate: Any) -> Any:
        names = {name: value for name, value in vars(body).items() if name not in ("__dict__", "__weakref__")}
        return decorate(**options)(type(body.__name__, (), names))

    assert behaviour(made(frozen.dataclass)) == behaviour(made(dataclasses.dataclass))


@frozen.dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """At module level, as pickle needs it."""

    a: int
    b: tuple[int, ...] = ()


def test_instances_are_pickled_and_hash_by_value() -> None:
    one = Stored(a=1, b=(2, 3))
    assert pickle.loads(pickle.dumps(one)) == one
    assert {one: "found"}[Stored(a=1, b=(2, 3))] == "found"
    with pytest.raises(FrozenInstanceError, match="'new'"):
        one.new = 1  # type: ignore[attr-defined]


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(TypeError, match="standard dataclass"):
        frozen.dataclass(frozen=False)
    for body in (
        {"__annotations__": {"a": "int"}, "__eq__": lambda self, other: True},
        {"__annotations__": {"a": "ClassVar[int]"}},
    ):
        with pytest.raises(TypeError, match="Odd needs the standard dataclass"):
            frozen.dataclass(frozen=True)(type("Odd", (), dict(body)))
    with pytest.raises(TypeError, match="Below needs the standard dataclass"):
        frozen.dataclass(frozen=True)(type("Below", (Stored,), {}))


def test_annotations_are_looked_up_in_the_module_of_the_class() -> None:
    assert typing.get_type_hints(Stored.__init__) == {"a": int, "b": tuple[int, ...], "return": type(None)}
    assert inspect.signature(Run, eval_str=True).parameters["workload"].annotation is Workload
    assert typing.get_type_hints(Run.__init__)["workload"] is Workload
