"""Files are read once per process, and a changed file is noticed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import aimcost
from aimcost.inputs import discover, files
from aimcost.inputs.run import load_run
from aimcost.machine.inheritance import INHERITED_FILE

HARDWARE = "nvidia_a100_sxm_80gb"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with copies of a run, its model and its profile, tables included."""
    own = discover.own_root()
    for name in (f"hardware_profiles/{HARDWARE}.yaml", "configs/models/llava-1.5-7b.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(own / name, tmp_path / name)
    (tmp_path / "hardware_profiles/tables").symlink_to(own / "hardware_profiles/tables")
    run = {"model": "llava-1.5-7b", "workload": {"images": 1, "text_tokens": 50}, "hardware": HARDWARE}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change(path: Path, old: str, new: str) -> None:
    """Same size and, on a coarse clock, perhaps the same second: the stamp is set apart by 1 ns at least."""
    before = path.stat().st_mtime_ns
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    os.utime(path, ns=(before + 1, before + 1))


def test_a_run_file_is_parsed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[Path]()
    whole = files.read_text

    def counting(path: Path, **options: Any) -> str:
        read.append(path)
        return whole(path, **options)

    monkeypatch.setattr(files, "read_text", counting)
    first = aimcost.estimate("run.yaml").to_dict()
    assert read
    read.clear()
    assert aimcost.estimate("run.yaml").to_dict() == first
    assert read == []


def test_a_changed_run_is_noticed(folder: Path) -> None:
    assert load_run("run.yaml").workload.text_tokens == 50
    change(folder / "run.yaml", "50", "60")
    assert load_run("run.yaml").workload.text_tokens == 60


def test_a_changed_profile_and_model_are_noticed(folder: Path) -> None:
    before = aimcost.estimate("run.yaml", estimator="roofline")
    change(folder / f"hardware_profiles/{HARDWARE}.yaml", "memory_gb_per_s: 2", "memory_gb_per_s: 3")
    faster = aimcost.estimate("run.yaml", estimator="roofline")
    assert faster.ttft_s < before.ttft_s
    change(folder / "configs/models/llava-1.5-7b.yaml", "num_hidden_layers: 32", "num_hidden_layers: 30")
    assert len(aimcost.estimate("run.yaml").layers()) == len(before.layers()) - 2


def test_changed_tables_beside_a_profile_are_noticed(folder: Path) -> None:
    """Halving the factor of every correction of products moves the prediction, without a word in the YAML."""
    profile = yaml.safe_load((folder / f"hardware_profiles/{HARDWARE}.yaml").read_text(encoding="utf-8"))
    (folder / "hardware_profiles/tables").unlink()
    shutil.copytree(discover.own_root() / "hardware_profiles/tables", folder / "hardware_profiles/tables")
    path = folder / "hardware_profiles" / profile["calibration"]["tables"]
    before = aimcost.estimate("run.yaml").ttft_s
    tables = json.loads(path.read_text(encoding="utf-8"))
    for key, corrections in tables.items():
        if key.startswith("gemm/"):
            tables[key] = {name: [[cell - 100 for cell in row] for row in rows] for name, rows in corrections.items()}
    path.write_text(json.dumps(tables), encoding="utf-8")
    assert aimcost.estimate("run.yaml").ttft_s < before


def test_a_changed_band_of_relatives_is_noticed(folder: Path) -> None:
    (folder / "hardware_profiles/tables").unlink()
    shutil.copytree(discover.own_root() / "hardware_profiles/tables", folder / "hardware_profiles/tables")
    relative = {"hardware": "nvidia_a100_sxm_40gb"}
    before = aimcost.estimate("run.yaml", **relative).ttft_band_s
    path = folder / "hardware_profiles" / INHERITED_FILE
    bands: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for kinship in bands.values():
        if isinstance(kinship, dict) and "band" in kinship:
            kinship["band"] = [kinship["band"][0] / 2, kinship["band"][1] * 2]
    path.write_text(json.dumps(bands), encoding="utf-8")
    after = aimcost.estimate("run.yaml", **relative).ttft_band_s
    assert after[0] < before[0]
    assert after[1] > before[1]


def test_what_a_caller_does_with_a_run_stays_with_it(folder: Path) -> None:
    load_run("run.yaml", {"method": "none"}).method["name"] = "fastv"  # type: ignore[index]
    run = load_run("run.yaml")
    run.document()["workload"]["text_tokens"] = 1
    assert (load_run("run.yaml").method, load_run("run.yaml").workload.text_tokens) == ({"name": "none"}, 50)
