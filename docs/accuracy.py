"""Write docs/measured-accuracy.md, its picture and the scores from the measured figures in tests/golden/easy_vqa."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from aimcost.evidence.formats.accuracy import BenchmarkScore, score_lines
from aimcost.inputs.method_arguments import method_arguments
from aimcost.report.table import table

ROOT = Path(__file__).resolve().parent.parent
MEASURED = ROOT / "tests" / "golden" / "easy_vqa"
PAGE = ROOT / "docs" / "measured-accuracy.md"
PICTURE = ROOT / "docs" / "pictures" / "easy_vqa_accuracy.svg"
SCORES = ROOT / "docs" / "examples" / "easy_vqa_scores.csv"
BENCHMARK = "easy_vqa_scenes"
VISUAL = 64
# Colour and shape tell a method; both are told apart in grey and by the colour-blind.
LOOKS = {
    "fastv": ("FastV", "#0072b2", "o"),
    "aim": ("AIM", "#d55e00", "s"),
    "vtw": ("VTW", "#009e73", "^"),
    "divprune": ("DivPrune", "#cc79a7", "D"),
    "random": ("random", "#666666", "v"),
    "uniform": ("uniform", "#b08d00", "P"),
    "contrast": ("contrast", "#999999", "x"),
}

HEAD = """# Accuracy and latency, both measured

`make docs` (`docs/accuracy.py`) writes this page from `accuracy.csv` and `latency.csv` in `tests/golden/easy_vqa`. The
accuracy is that of trained weights on {asked} open questions about held-out pictures, run through `aimcost.apply`; the
latency is that of the same methods' prefills on one CPU thread, beside its prediction.

**It shows the mechanism, not what a 7B model does.** The model has 2.1 M parameters and a vocabulary of 22 words; its
pictures hold four objects. How far a method can go on it says nothing of LLaVA on GQA. What carries over is the way: a
checkpoint's scores under each method become a table, and the planner finds the fastest schedule above a floor.

## Model and task

LLaVA's classes in transformers: CLIP (128 wide, 4 layers, patch 8: 64 visual tokens) and Qwen2 (128 wide, 8 layers),
trained on pictures of the PyPI package easy-vqa (MIT) in minutes on a CPU (`train.py`). A scene is four of them, each
on a texture with specks of every answer's colour. Questions ask for the colour of
a shape or the shape of a colour, never for a position, nor for yes or no. The text alone answers {text:.0%}, the
unreduced model {dense:.0%}. The tower learned the colour and the shape of each patch first, and was frozen.

"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting of a method: mean visual tokens of a layer, share right, and where it was timed its prefill."""

    method: Mapping[str, Any]
    tokens: float
    right: int
    asked: int
    timing: Mapping[str, float]

    @property
    def kind(self) -> str:
        """Its key in `LOOKS`."""
        return str(self.method.get("scorer", self.method["name"]))

    @property
    def runs(self) -> bool:
        """Whether it is a method, and not a rule or the text alone."""
        return self.method["name"] not in ("contrast", "text alone")

    @property
    def share(self) -> float:
        """Share of the questions answered right."""
        return self.right / self.asked

    @property
    def error(self) -> float:
        """Standard error of `share`."""
        return math.sqrt(self.share * (1 - self.share) / self.asked)


def rows() -> list[Row]:
    """Everything that was measured, in the order of the files."""
    with (MEASURED / "latency.csv").open() as file:
        timings = {row.pop("method"): {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)}
    with (MEASURED / "accuracy.csv").open() as file:
        return [
            Row(
                method=json.loads(row["method"]) if row["method"].startswith("{") else {"name": row["method"]},
                tokens=float(row["mean_visual_tokens"]),
                right=int(row["right"]),
                asked=int(row["asked"]),
                timing=timings.get(row["method"], {}),
            )
            for row in csv.DictReader(file)
        ]


def page(found: list[Row]) -> Iterator[str]:
    """The page's parts."""
    dense, text = (next(row for row in found if row.method["name"] == name) for name in ("none", "text alone"))
    yield HEAD.format(asked=dense.asked, text=text.share, dense=dense.share)
    yield f"![Accuracy against visual tokens and against prefill](pictures/{PICTURE.name})\n\n"
    cells = []
    for row in found:
        timed = row.timing
        name = method_arguments(row.method).removeprefix("method=").replace("method.", "")
        cells.append(
            [
                f"`{name}`" if row.runs else row.method["name"],
                f"{row.tokens:.1f}",
                f"{row.share:.1%} ± {row.error:.1%}",
                f"{timed['measured_ms']:.1f} ms" if timed else "",
                f"{timed['predicted_ms']:.1f} ms ({timed['low_ms']:.1f} to {timed['high_ms']:.1f})" if timed else "",
                f"{dense.timing['measured_ms'] / timed['measured_ms']:.2f}x" if timed else "",
            ]
        )
    headers = ["method", "visual tokens a layer", "right", "prefill, measured", "predicted (80 % band)", "speed-up"]
    yield table(cells, headers, style="github") + "\n\n"
    yield READING.format(**reading(found))


def reading(found: list[Row]) -> dict[str, Any]:
    """What the text below the table says of its rows."""
    share = {(row.kind, row.tokens): row.share for row in found}
    dense = next(row for row in found if row.method["name"] == "none")
    timed = [row.timing for row in found if row.timing]
    best = [row for row in found if row.kind == "divprune" and row.share >= dense.share - dense.error]
    return {
        "contrast_16": share["contrast", 16],
        "contrast_8": share["contrast", 8],
        "random_16": share["random", 16],
        "random_8": share["random", 8],
        "uniform_16": share["uniform", 16],
        "fewest": min(row.tokens for row in best),
        "inside": sum(each["low_ms"] <= each["measured_ms"] <= each["high_ms"] for each in timed),
        "above": sum(each["measured_ms"] > each["high_ms"] for each in timed),
        "timed": len(timed),
        "worst": max(each["measured_ms"] / each["predicted_ms"] for each in timed),
    }


READING = """± is one standard error, as if all questions were independent; four are about one scene. *Visual tokens a
layer* is the mean over the eight layers, of 64 at most.

*Contrast* keeps the patches whose pixels vary most: not a method, but a rule that looks at no feature. It loses to the
unreduced model and beats random tokens: {contrast_16:.0%} against {random_16:.0%} at 16 tokens, {contrast_8:.0%}
against {random_8:.0%} at 8. Edges tell much of where the objects are: compare a method with this row too. DivPrune
answers as many questions from {fewest:.0f} tokens as the unreduced model: objects fill few patches that differ from all
others, which is this task's doing. Tokens at even distances miss objects ({uniform_16:.0%} at 16). So the task tells
amounts of reduction apart, and does not rank methods.

A prefill is the language model's on a batch of 16 prompts, one thread's CPU time, fp32, on an AMD EPYC that other work
kept busy (2026-11-26), predicted with that machine's profile of 2026-11-21: what neighbours take from the caches is in
the measured times alone. {inside} of {timed} measured prefills lie inside the 80 % band and {above} above it, by up to
{worst:.2f}x the prediction. At one prompt of 70 tokens everything is overhead, and no method pays.

The same rows as scores, made for `aimcost plan --accuracy`: [easy_vqa_scores.csv](examples/easy_vqa_scores.csv).
"""


def picture(found: list[Row]) -> Figure:
    """Two panels with one accuracy axis: against visual tokens, and against the prefill."""
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    dense, text = (next(row for row in found if row.method["name"] == name) for name in ("none", "text alone"))
    for kind, (label, color, marker) in LOOKS.items():
        mine = sorted((row for row in found if row.kind == kind), key=lambda row: row.tokens)
        style = {"color": color, "marker": marker, "markersize": 5.5, "linewidth": 1.3, "label": label}
        bars = [100 * row.error for row in mine]
        shares = [100 * row.share for row in mine]
        left.errorbar([row.tokens for row in mine], shares, yerr=bars, elinewidth=0.7, capsize=0, **style)
        timed = sorted((row for row in mine if row.timing), key=lambda row: row.timing["measured_ms"])
        if timed:
            shares = [100 * row.share for row in timed]
            right.plot([row.timing["measured_ms"] for row in timed], shares, **style)
            predicted = [row.timing["predicted_ms"] for row in timed]
            right.plot(predicted, shares, linestyle="none", marker=marker, markersize=5.5, mfc="none", mec=color)
    for axes, x in ((left, float(VISUAL)), (right, dense.timing["measured_ms"])):
        axes.plot([x], [100 * dense.share], "*", color="black", markersize=11, zorder=5)
        axes.annotate("unreduced", (x, 100 * dense.share), (6, 16), textcoords="offset points", ha="right")
        axes.axhline(100 * text.share, color="#888888", linewidth=0.9, linestyle=":")
        axes.grid(color="#e5e5e5", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    left.annotate("the question alone", (VISUAL, 100 * text.share), (0, 4), textcoords="offset points", ha="right")
    left.set(xlabel="visual tokens a layer (mean)", ylabel="questions answered right (%)", ylim=(0, 105))
    left.set_xscale("log", base=2)
    left.set_xticks([2, 4, 8, 16, 32, 64], ["2", "4", "8", "16", "32", "64"])
    right.set(xlabel="prefill of 16 prompts (ms): filled measured, hollow predicted")
    right.set_xlim(left=0)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def scores(found: list[Row]) -> str:
    """The methods' scores, as ``aimcost plan --accuracy`` takes them."""
    dense = next(row for row in found if row.method["name"] == "none")
    return score_lines(
        [
            BenchmarkScore(method=row.method, benchmark=BENCHMARK, score=100 * row.share, vanilla=100 * dense.share)
            for row in found
            if row.runs
        ]
    )


def main() -> None:
    """Page, picture and table."""
    found = rows()
    PAGE.write_text("".join(page(found)), encoding="utf-8")
    SCORES.write_text(scores(found), encoding="utf-8")
    with rc_context({"svg.hashsalt": "aimcost", "font.size": 9, "font.family": "sans-serif"}):
        picture(found).savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
