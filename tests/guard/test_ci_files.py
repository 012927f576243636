"""The GitHub Action, the pre-commit hook and the example workflow do what `aimcost check` offers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from aimcost.guard.check import check

ROOT = Path(__file__).resolve().parent.parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
RUN = {
    "model": "qwen2-0.5b",
    "workload": {"visual_tokens": 500, "text_tokens": 50},
    "method": {"name": "fastv"},
    "hardware": "nvidia_l4",
}
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two run files, a baseline, and `aimcost` on the path."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(RUN), encoding="utf-8")
    check(["a.yaml", "b.yaml"], baseline="aimcost_baseline.json", update=True)
    shim = tmp_path / "bin" / "aimcost"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m aimcost "$@"\n', encoding="utf-8")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def step(name: str) -> dict[str, Any]:
    return next(step for step in ACTION["runs"]["steps"] if step.get("id") == name)


def run_check(folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """The action's own script, with its inputs as the runner hands them over."""
    script, values = step("check"), {key: str(value["default"]) for key, value in ACTION["inputs"].items()}
    values.update(inputs)
    environment = dict(os.environ)
    environment["BIN"] = str(folder / "bin")
    for variable, expression in script["env"].items():
        if variable == "BIN":
            continue
        (name,) = re.fullmatch(r"\$\{\{ inputs\.([a-z-]+) \}\}", expression).groups()  # type: ignore[union-attr]
        environment[variable] = values[name]
    environment.update(GITHUB_OUTPUT=str(folder / "output"), GITHUB_STEP_SUMMARY=str(folder / "summary.md"))
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script["run"]]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@needs_bash
def test_the_action_passes_and_fails_as_the_check_does(project: Path) -> None:
    done = run_check(project)
    assert done.returncode == 0, done.stderr
    assert "2 runs checked" in done.stdout
    assert "✅ `a.yaml`" in (project / "summary.md").read_text(encoding="utf-8")
    assert (project / "output").read_text(encoding="utf-8") == "junit=aimcost-junit.xml\n"
    (project / "b.yaml").write_text(yaml.safe_dump({**RUN, "implementation": "eager"}), encoding="utf-8")
    done = run_check(project, tolerance="flops=1% ttft=0", junit="out.xml")
    assert done.returncode == 1
    assert "implementation fused → eager" in done.stdout
    suite = ElementTree.parse(project / "out.xml").getroot()
    assert {case.attrib["classname"] for case in suite if len(case)} == {"b.yaml"}
    assert run_check(project, runs="[ab].yaml").returncode == 1
    assert run_check(project, runs="--update a.yaml").returncode == 2
    assert run_check(project, runs="b.yaml\na.yaml", tolerance="100%", **{"working-directory": "sub"}).returncode == 0
    # a later step, which uploads it, starts in the folder of the job
    assert (project / "output").read_text(encoding="utf-8").splitlines()[-1] == "junit=sub/aimcost-junit.xml"
    assert run_check(project, baseline="none.json").returncode == 2


@pytest.mark.check
@needs_bash
def test_the_action_installs_beside_the_jobs_python(tmp_path: Path) -> None:
    """Into an environment of its own, importing nothing that the checked-out folder holds."""
    checkout, temporary = tmp_path / "checkout", tmp_path / "temporary"
    for folder in (checkout, temporary):
        folder.mkdir()
    for name in ("pip", "venv", "ensurepip", "yaml", "runpy"):
        (checkout / f"{name}.py").write_text("open('ran', 'a').write(__name__)", encoding="utf-8")
    step = next(step for step in ACTION["runs"]["steps"] if step.get("id") == "install")
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "AIMCOST_INSTALL": "--help",  # what is installed is no matter here, and building it needs an index,
        "RUNNER_TEMP": str(temporary),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
    }
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
    assert not (checkout / "ran").exists()
    assert (tmp_path / "output").read_text(encoding="utf-8") == f"bin={temporary}/aimcost/bin\n"
    python = next(step for step in ACTION["runs"]["steps"] if step.get("id") == "python")
    assert python["with"]["update-environment"] is False


def test_actions_are_pinned_and_workflows_may_only_read() -> None:
    """A tag can be moved; a commit cannot."""
    files = [ROOT / "action.yml", *sorted((ROOT / ".github" / "workflows").glob("*.yml"))]
    for file in files:
        text = file.read_text(encoding="utf-8")
        for used in re.findall(r"uses: (.*)", text):
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}  # v[\d.]+", used), f"{file.name}: {used}"
        if file.name != "action.yml":
            assert yaml.safe_load(text)["permissions"] == {"contents": "read"}, file.name


@needs_bash
def test_inputs_are_no_code(project: Path) -> None:
    """What a pull request may put into an input stays one word of one argument."""
    done = run_check(project, runs="$(touch${IFS}owned) `touch owned`; touch owned", tolerance="$(touch owned)")
    assert done.returncode == 2
    assert not (project / "owned").exists()
    for other in ACTION["runs"]["steps"]:
        assert "${{" not in other.get("run", "")


def test_every_input_is_used_and_every_step_names_its_shell() -> None:
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    for name, value in ACTION["inputs"].items():
        assert f"inputs.{name}" in text
        assert isinstance(value["default"], str)
        assert value["description"]
    assert ACTION["runs"]["using"] == "composite"
    for one in ACTION["runs"]["steps"]:
        assert ("uses" in one) != ("run" in one)
        assert "uses" in one or one["shell"] == "bash"


def test_the_pre_commit_hook_is_a_command_that_works(project: Path) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert hook["language"] == "python"
    assert hook["pass_filenames"] is False
    assert all(re.search(hook["files"], name) for name in ("runs/a.yaml", "config.json", "b.yml"))
    done = subprocess.run([*hook["entry"].split(), *hook["args"]], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 runs checked against aimcost_baseline.json: all pass" in done.stdout


def test_the_example_workflow_uses_inputs_that_there_are() -> None:
    workflow = yaml.safe_load((ROOT / "docs" / "examples" / "aimcost-guard.yml").read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    (ours,) = [step for step in steps if step.get("uses") == "./.aimcost"]
    (fetched,) = [step for step in steps if step.get("with", {}).get("path") == ".aimcost"]
    assert fetched["with"]["repository"] == "${{ vars.AIMCOST_REPOSITORY }}"  # no owner that a copy has to replace
    assert set(ours["with"]) <= set(ACTION["inputs"])
