"""A method is its folder: plan.py, cost.py and apply.py, and everything knows it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

PLAN = '''"""Toy: after layer k, the tokens with the longest keys."""

from __future__ import annotations

from ..base import DroppedParams, cuts_by_ratio, drop_after
from .cost import LONGEST_KEY

SUMMARY = "Toy: layers 0 … k−1 full, then the tokens with the longest keys: k, ratio | keep_tokens"
candidates = cuts_by_ratio


class Params(DroppedParams):
    """`k` full layers, then `ratio` dropped."""


def plan(model, workload, params):
    return drop_after(model, workload, params, method="toy", scorer=LONGEST_KEY, default_ratio=0.5)
'''
COST = '''"""The squared norm of every key: 2 FLOPs an element."""

from __future__ import annotations

from ...ops.cost import Cost
from ...ops.reduction import SCORE_BYTES, cut_ops
from ..registry import Launches, Scorer, register


def longest_key(cut, context):
    decoder, n = context.model.decoder, cut.tokens_in
    elements = context.batch * n * decoder.kv_heads * decoder.head_dim
    score = Cost(
        kind="score",
        dims={"tokens": n},
        flops=2.0 * elements,
        read_kv=elements * context.widths.kv,
        write_activations=context.batch * n * SCORE_BYTES,
    )
    return (("score", score), *cut_ops(cut, context, ranked=True))


LONGEST_KEY = register(Scorer(name="longest_key", cost=longest_key, reads="layer", launches=Launches(score=2.0)))
'''
APPLY = '''"""The squared norm of every key."""

from __future__ import annotations

from .cost import LONGEST_KEY


def longest_key(*, key, **_):
    return key.float().square().sum((1, 3))


LAYER_SCORERS = {LONGEST_KEY.name: longest_key}
'''
RUN = {
    "model": "llava-1.5-7b",
    "workload": {"images": 1, "text_tokens": 40},
    "method": {"name": "toy", "k": 3, "keep_tokens": 100},
    "hardware": "nvidia_a100_sxm_80gb",
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with one new folder in it."""
    root = tmp_path_factory.mktemp("house")
    for part in ("aimcost", "configs", "hardware_profiles"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__", "data", "measurements"))
    shutil.copy(ROOT / "pyproject.toml", root)
    folder = root / "aimcost" / "methods" / "toy"
    folder.mkdir()
    for name, text in (("plan", PLAN), ("cost", COST), ("apply", APPLY)):
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    (root / "run.json").write_text(json.dumps(RUN), encoding="utf-8")
    return root


def python(house: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(house), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=house, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(house: Path, *arguments: str) -> str:
    return python(house, "-m", "aimcost", *arguments)


def test_the_listing_knows_it(house: Path) -> None:
    assert "Toy: layers 0" in command(house, "list", "methods")
    assert "keep_tokens" in command(house, "show", "toy")
    assert "toy" in json.loads(command(house, "schema"))["methods"]


def test_the_estimate_its_json_and_the_report_know_it(house: Path) -> None:
    result = json.loads(command(house, "estimate", "run.json", "--json"))
    assert [layer["tokens"] for layer in result["layers"]] == [616] * 3 + [140] * 29
    ops = {op["name"]: op for op in result["ops"] if (op["stage"], op["layer"]) == ("prefill", 2)}
    assert {"score", "select", "gather"} <= ops.keys()
    # 616 tokens, 32 heads of 128, 2 FLOPs an element
    assert ops["score"]["flops"] == 2 * 616 * 32 * 128
    assert result["reduction"]["time_by_op_s"].keys() == {"score", "select", "gather"}
    text = command(house, "estimate", "run.json")
    assert "method toy" in text
    assert "tokens by layer  616 × 3, 140 × 29" in text
    assert any(line.startswith("reduction ") and "score" in line and "gather" in line for line in text.splitlines())


def test_the_planner_and_the_sweep_know_it(house: Path) -> None:
    plan = json.loads(command(house, "plan", "run.json", "--method", "toy", "--ttft-ms", "40", "--json"))
    assert plan["best"]["run"]["method"]["name"] == "toy"
    grid = {"base": {**RUN, "method": None}, "axes": {"method": ["none", "toy", {"name": "toy", "ratio": 0.9}]}}
    del grid["base"]["method"]
    (house / "grid.yaml").write_text(json.dumps(grid), encoding="utf-8")
    command(house, "sweep", "grid.yaml", "-o", "sweep.csv")
    rows = (house / "sweep.csv").read_text(encoding="utf-8").splitlines()
    assert sum("toy" in row for row in rows[1:]) == 2


@pytest.mark.check
def test_the_runtime_runs_it(house: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    out = python(
        house,
        "-c",
        """
import torch, aimcost
from aimcost.runtime import build_model
config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 5,
          "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128}
workload = {"visual_tokens": 24, "text_tokens": {"system": 4, "question": 6}}
method = {"name": "toy", "k": 2, "keep_tokens": 7}
schedule = aimcost.schedule({"model": config, "workload": workload, "method": method})
model = build_model(config)
with torch.no_grad(), aimcost.apply(model, schedule) as applied:
    model(input_ids=torch.arange(34)[None])
print(list(applied.record.tokens), list(schedule.tokens))
""",
    )
    assert out.strip() == "[34, 34, 17, 17, 17] [34, 34, 17, 17, 17]"
