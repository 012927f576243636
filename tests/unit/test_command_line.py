"""A plain command line means to `aimcost.cli.options.parse` what it means to typer; any other is left to typer."""

from __future__ import annotations

import inspect
import io
import subprocess
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.main import get_command

from aimcost.cli import app, main
from aimcost.cli.options import Commands, Context, Declared, hints_of, parse
from aimcost.cli.typed import application

COMMANDS = app.all()
VALUES = {"str": "word", "Path": "a/file.yaml", "int": "7", "float": "2.5"}


def parameters(function: Any) -> list[tuple[str, str, bool, Declared]]:
    """Name, type as text, whether it must be given, and declaration of each parameter."""
    hints = hints_of(function)
    return [
        (name, str(get_args(hints[name])[0]), each.default is each.empty, get_args(hints[name])[1])
        for name, each in inspect.signature(function).parameters.items()
        if hints[name] is not Context
    ]


def value_of(kind: str) -> list[str]:
    """What follows a flag of this type."""
    return [] if "bool" in kind else [next(text for name, text in VALUES.items() if name in kind)]


def lines(name: str) -> list[list[str]]:
    """The command with what it needs, with each of its flags in each form, with all of them, and out of order."""
    needed: list[str] = []
    flags: list[list[str]] = []
    for parameter, kind, must, declared in parameters(COMMANDS[name]):
        value = value_of(kind)
        if declared.what == "argument":
            needed += value * (1 + ("list" in kind)) if must else []
            flags += [] if must else [value]
            continue
        names = declared.names or ("--" + parameter.replace("_", "-"),)
        if must:
            needed += [names[0], *value]
        flags += [[each, *value] for each in names]
        flags += [[f"{each}={value[0]}"] for each in names if value and each.startswith("--")]
    every = [word for flag in flags for word in flag]
    return [
        [name, *needed],
        *([name, *needed, *flag] for flag in flags),
        [name, *needed, *every],
        [name, *every, *needed],
    ]


def plain(value: Any) -> Any:
    """A parameter; of a context all of them, where typer has a path as text, [] for None and tuples for lists."""
    if not hasattr(value, "params"):
        return value
    listed = {
        name: [str(one) for one in each] if isinstance(each, tuple | list) else each
        for name, each in value.params.items()
    }
    return {name: str(each) if each else None for name, each in listed.items()}


@pytest.fixture(scope="module")
def by_typer() -> Callable[[list[str]], dict[str, Any]]:
    """The values that typer calls a command's function with; its parser is made once for all lines."""
    received: list[dict[str, Any]] = []

    def recording(function: Any) -> Any:
        @wraps(function)
        def record(**values: Any) -> None:
            received.append({key: plain(value) for key, value in values.items()})

        return record

    commands = Commands(declared={name: recording(function) for name, function in COMMANDS.items()})
    command = get_command(application(commands, lambda command: None))

    def call(arguments: list[str]) -> dict[str, Any]:
        received.clear()
        command(args=arguments, prog_name="aimcost", standalone_mode=False)
        return received[0]

    return call


@pytest.mark.parametrize("name", COMMANDS)
def test_a_plain_line_means_what_typer_makes_of_it(name: str, by_typer: Callable[[list[str]], dict[str, Any]]) -> None:
    read = 0
    for line in lines(name):
        call = parse(app, line)
        if call is None:
            continue
        read += 1
        values = {key: plain(value) for key, value in call.values.items()}
        assert values == by_typer(line), line
    assert read or any({"min", "max"} & set(d.words) for *_, d in parameters(COMMANDS[name]))


@pytest.mark.parametrize("name", ["estimate", "compare", "plan", "list", "show", "sweep", "check"])
def test_every_plain_form_is_read(name: str) -> None:
    for line in lines(name):
        several = any(line[1:].count(word) > 1 for word in ("word", "a/file.yaml")) and line[-1] != line[-2]
        assert parse(app, line) is not None or several, line


@pytest.mark.parametrize(
    "line",
    [
        "",
        "--version",
        "--help",
        "estimat",
        "estimate --help",
        "estimate --jso",
        "estimate --json=1",
        "estimate one two",
        "estimate -- one",
        "estimate --set",
        "estimate --set --json",
        "estimate one --model -1",
        "plan one --ttft-ms soon",
        "sweep grid.yaml",
        "show",
        "-o out.csv sweep grid.yaml",
    ],
)
def test_anything_else_is_left_to_typer(line: str) -> None:
    assert parse(app, line.split()) is None


def test_paths_and_numbers_are_converted() -> None:
    call = parse(
        app, ["plan", "run", "--ttft-ms", "80", "--earliest-cut=7", "-o", "best.yaml", "--set", "a=1", "--json"]
    )
    assert call is not None
    wanted = {"run": "run", "ttft_ms": 80.0, "earliest_cut": 7, "output": Path("best.yaml"), "settings": ["a=1"]}
    assert {key: call.values[key] for key in wanted} == wanted
    assert call.values["as_json"] is True
    assert call.values["kv_gb"] is None


def test_a_command_imports_no_other_and_no_numpy() -> None:
    """NumPy comes after `_prepare`: the threads that it starts otherwise cost a sixth of an estimate."""
    code = (
        "import sys; from aimcost.cli import app; from aimcost.cli.options import parse; parse(app, ['estimate', 'x']);"
        "print(sorted(m for m in sys.modules if m.startswith('aimcost.cli.commands.') or m == 'numpy'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['aimcost.cli.commands.estimate']"


def test_what_a_cold_estimate_does_not_load() -> None:
    """Each is a few per cent of the command: what writes files, digests, aligns tables or guesses a name loads them."""
    code = (
        "import sys, numpy; before = set(sys.modules)  # old releases of NumPy load hashlib themselves\n"
        "sys.argv[1:] = ['estimate', 'llava15_aim_a100']; from aimcost.cli import main\n"
        "try: main()\n"
        "finally:\n"
        " slow = {'tempfile', 'hashlib', 'email', 'csv', 'tabulate', 'difflib', 'decimal'}\n"
        " print(sorted(slow & (set(sys.modules) - before)), file=sys.stderr)\n"
        " from aimcost import frozen\n"
        " ours = {v for n, m in sys.modules.items() if n.startswith('aimcost') for v in vars(m).values()\n"
        "         if isinstance(v, type) and '__dataclass_fields__' in vars(v)}\n"
        " print(len(ours) > 70, [v for v in ours if v.__setattr__ is not frozen._setattr], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines() == ["[]", "True []"], "classes of an estimate are made by aimcost.frozen"


@pytest.mark.parametrize(
    ("name", "flags", "says"),
    [
        ("x.csv", ["--format", "json"], "ending in .json, as --format json asks (got 'x.csv')"),
        ("x.json", ["--csv"], "ending in .csv, as --csv asks (got 'x.json')"),
        ("x.txt", ["--json"], "ending in .json, as --json asks (got 'x.txt')"),
        ("x.CSV", ["--format", "text"], "ending in .txt, as --format text asks (got 'x.CSV')"),
        ("x.json", ["--format", "json"], ""),
        ("x.out", ["--format", "json"], ""),
    ],
)
def test_a_file_name_that_ends_as_another_format_is_refused(
    name: str, flags: list[str], says: str, cli: Any, tmp_path: Path
) -> None:
    run = ["--model", "qwen2-0.5b", "--text-tokens", "9", "--hardware", "nvidia_h100_sxm"]
    done = cli("estimate", *run, "-o", name, *flags)
    assert done.returncode == (2 if says else 0)
    assert says in done.stderr
    assert (tmp_path / name).exists() == (not says)


def test_an_output_without_a_descriptor_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is too long, where somebody else collects what is printed."""
    collected = io.StringIO()
    monkeypatch.setattr(sys, "stdout", collected)
    monkeypatch.setattr(sys, "argv", ["aimcost", "check", "--baseline", 5000 * "a"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
