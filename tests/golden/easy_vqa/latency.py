"""Prefills of the methods that `measure.py` scores, timed and predicted on this CPU, as `aimcost validate` does.

    python tests/golden/easy_vqa/latency.py -o tests/golden/easy_vqa/latency.csv

Latency does not depend on the weights: the runs have the model's shape. Batches of 16 prompts, since
at one prompt of 70 tokens a layer of this size is all overhead.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from measure import METHODS, mean_visual_tokens, run_of

from aimcost.inputs.run import load_run
from aimcost.measure.validate import compare_record
from aimcost.measure.validate.measuring import measure_validation

BATCH, TEXT = 16, 6
# Each method at a few of its settings: what is between them lies between them.
TIMED = [
    method
    for method in METHODS
    if method["name"] in ("none", "aim")
    or method.get("keep_tokens") in (32, 8)
    or (method["name"], method.get("ratio"))
    in (("divprune", 0.5), ("divprune", 0.125), ("fastv", 0.5), ("fastv", 0.875))
    or method.get("k") in (4, 6)
]
COLUMNS = ("method", "mean_visual_tokens", "measured_ms", "predicted_ms", "low_ms", "high_ms")


def main() -> None:
    """Time every method's prefill of the language model, beside its prediction by a profile measured along."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", help="of this machine; default: measured along with the runs")
    arguments = parser.parse_args()
    runs = {
        json.dumps(method): load_run(run_of(method, TEXT, batch=BATCH), {"include": ["merge", "prefill"]})
        for method in TIMED
    }
    record = measure_validation(
        runs,
        repeats=arguments.repeats,
        profile=arguments.profile,
        progress=lambda done, of, what: print(done, of, what),
    )
    points = [point for point in compare_record(record).points if point.part == "prefill"]
    with arguments.output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for label, method in zip(runs, TIMED, strict=True):
            variant = "dense" if method["name"] == "none" else "reduced"
            (point,) = [each for each in points if each.run == label and each.variant == variant]
            seconds = (point.measured_s, point.predicted_s, point.low_s, point.high_s or point.predicted_s)
            writer.writerow((label, f"{mean_visual_tokens(method):.4g}", *(f"{1e3 * s:.4g}" for s in seconds)))


if __name__ == "__main__":
    main()
