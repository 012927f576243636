"""`make test-lmms`: lmms-eval runs the local task through the plug-in; its result files become the fixtures of CI.

    python tests/golden/easy_vqa/run_lmms_eval.py [--write]

Run by the environment that holds lmms-eval and aimcost. Each score must lie within the binomial error of what
`measure.py` finds for the same questions; without --write the files stay as they are.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from measure import ASKED, Examiner
from scenes import Scenes, make_scenes

from aimcost.inputs.method_arguments import method_arguments

FIXTURES = HERE.parent / "lmms_eval"
TASK = "easy_vqa_scenes"
SCENES, SEED = 25, 3
METHODS: dict[str, dict[str, Any]] = {
    "none": {"name": "none"},
    "fastv": {"name": "fastv", "k": 2, "ratio": 0.75},
}
# What a results file says of the machine and of the moment; not evidence, and left out of the fixtures.
MACHINE = ("pretty_env_info", "git_hash", "date", "start_time", "end_time", "total_evaluation_time_seconds")


def write_questions(folder: Path, scenes: Scenes) -> None:
    """Pictures and questions as the task reads them."""
    with (folder / "scenes.jsonl").open("w") as file:
        for index, pixels in enumerate(scenes.pixels):
            name = f"{index}.png"
            Image.fromarray(pixels).save(folder / name)
            for question, answer in list(zip(scenes.questions[index], scenes.answers[index], strict=True))[:ASKED]:
                file.write(json.dumps({"picture": name, "question": question, "answer": answer}) + "\n")


def evaluate(folder: Path, method: dict[str, Any]) -> dict[str, Any]:
    """The results file of one method."""
    for name in ("model", "task"):  # beside the questions: a results file states these paths
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(HERE / name)
    arguments = f"pretrained=model,dtype=float32,{method_arguments(method)}"
    command = ("-m", "lmms_eval", "--model", "aimcost", "--model_args", arguments, "--tasks", TASK, "--batch_size", "1")
    places = ("--include_path", "task", "--output_path", f"out_{method['name']}", "--device", "cpu")
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "home")}
    # the simple model: the template is the checkpoint's in both
    command = (*command, *places, "--force_simple")
    subprocess.run([sys.executable, *command], cwd=folder, env={**os.environ, **offline}, check=True)
    (found,) = (folder / f"out_{method['name']}").rglob("*_results.json")
    results: dict[str, Any] = json.loads(found.read_text())
    results["config"].get("resolved_cli_args", {}).pop("timezone", None)
    for config in results["configs"].values():
        config["doc_to_visual"] = config["doc_to_visual"].partition(" at 0x")[0]
    return {key: value for key, value in results.items() if key not in MACHINE}


def main() -> int:
    """Evaluate every method, compare, and with --write renew the fixtures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    scenes = make_scenes("test", SCENES, SEED)
    examiner = Examiner(scenes)
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_questions(folder, scenes)
        for label, method in METHODS.items():
            results = evaluate(folder, method)
            score = results["results"][TASK]["exact_match,none"]
            expected = examiner.right(method).mean()
            apart = abs(score - expected)
            allowed = 2 * math.sqrt(max(expected * (1 - expected), 1e-4) / (SCENES * ASKED))
            failures += apart > allowed
            print(f"{label}: lmms-eval {score:.3f}, measured directly {expected:.3f} (at most {allowed:.3f} apart)")
            if write:
                FIXTURES.mkdir(exist_ok=True)
                (FIXTURES / f"{label}.json").write_text(json.dumps(results, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
