"""Write docs/frontier.md and its pictures: published scores against the predicted time of every method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from aimcost.inputs.run import Run, load_run
from aimcost.pricing.pricing import estimate_run, unreduced
from aimcost.pricing.result import Estimate
from aimcost.report.scores import held_out_text
from aimcost.report.table import table
from aimcost.report.tasks import parameters
from aimcost.search.plan.tasks import Scored, scored
from aimcost.search.scores.held_out import KINDS, leave_out
from aimcost.search.scores.surrogate import shipped_surrogate
from aimcost.units import KILO

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "frontier.md"
PICTURES = ROOT / "docs" / "pictures"
CARDS = {"A100": "nvidia_a100_sxm_80gb", "H100": "nvidia_h100_sxm", "L40S": "nvidia_l40s"}
# What the published tables were measured on: one image, or 32 frames.
MODELS: Mapping[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "llava-1.5-7b": ({"images": 1, "text_tokens": 60}, ("general", "ocr", "hallucination")),
    "llava-next-vicuna-7b": ({"images": 1, "text_tokens": 60}, ("general", "ocr", "hallucination")),
    "llava-onevision-qwen2-7b": ({"frames": 32, "text_tokens": 100}, ("video",)),
    "qwen2.5-vl-7b": ({"images": 1, "image_size": [1008, 1008], "text_tokens": 60}, ("general", "ocr", "chart")),
}
FLOOR = 0.95
# What papers print, and shares between.
SHARES = (0.9, 0.75, 0.6, 0.5, 0.4, 1 / 3, 0.25, 2 / 9, 0.15, 1 / 9, 1 / 18)
# The vertical scale of the pictures is the logarithm of what a score lacks of this.
TOP = 106.0
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")

HEAD = """# Accuracy against latency

`make docs` (`docs/frontier.py`) writes this page: the published scores of `configs/accuracy/`, pooled
([ADR 18](adr/0018-published-scores-are-pooled.md)), against the predicted time to first token of each method with its
selection as the code runs it. This project measured none of the scores and none of the times: both are expectations,
with 80 % intervals. Methods are priced on the default stack (`transformers`) with the parameters of their tables; those
whose tables state none are budget matched (`*`). In the pictures one point of each method has its interval and band.
The vertical scale widens towards 100 %; scores below 60 % are cut off, and so is what takes longer than the unreduced
model, the dotted line.

    aimcost plan --model llava-1.5-7b --hardware nvidia_a100_sxm_80gb --images 1 --text-tokens 60 \\
      --task ocr --min-accuracy 95%

## How well scores are predicted
"""


@dataclass(frozen=True, kw_only=True)
class Priced:
    """A schedule with its score and three prices of it."""

    each: Scored
    estimate: Estimate
    decoder_free: float
    decoder: float
    request: float


def is_shown(each: Scored) -> bool:
    """Published parameters, or a method's own default shape."""
    return each.basis != "budget matched" or (each.name in ("pyramiddrop", "sparsevlm") and "layers" not in each.method)


def priced(run: Run, each: Scored) -> Priced:
    """The language model's prefill with free and with executed selection, and the whole request to the first token."""
    estimate = estimate_run(run.with_method(each.method))
    chosen = sum(
        float(estimate.seconds[segment.start : segment.stop].sum())
        for segment in estimate.table.segments
        if segment.stage == "prefill" and segment.group == "selection"
    )
    prefill, merge = estimate.stages["prefill"].time_s, estimate.stages["merge"].time_s
    return Priced(
        each=each,
        estimate=estimate,
        decoder_free=prefill - chosen,
        decoder=prefill + merge,
        request=estimate.ttft_s,
    )


Cards = dict[str, dict[str, dict[str, list[Priced]]]]


def of_model(model: str) -> Cards:
    """By card, task and method. Scores are the same on every card."""
    workload, tasks = MODELS[model]
    given = {"model": model, "workload": workload, "method": {"name": "none"}}
    runs = {card: load_run({**given, "hardware": name}) for card, name in CARDS.items()}
    first = next(iter(runs.values()))
    scores = {task: scored(first, [task], shares=SHARES) for task in tasks}
    found: Cards = {}
    for card, run in runs.items():
        prices: dict[str, Priced] = {}
        found[card] = {task: {} for task in tasks}
        for task, by_method in scores.items():
            for name, some in by_method.items():
                shown = [each for each in some if is_shown(each)]
                for each in shown:
                    if str(each.method) not in prices:
                        prices[str(each.method)] = priced(run, each)
                if shown:
                    found[card][task][name] = [replace(prices[str(each.method)], each=each) for each in shown]
    return found


def picture(model: str, cards: Cards) -> Figure:
    """A row a card, a column a task: expected score and interval against predicted TTFT and band."""
    tasks = MODELS[model][1]
    width = max(7.6, 3.9 * len(tasks))
    figure = Figure(figsize=(width, 8.4), layout="constrained")
    panels = figure.subplots(len(cards), len(tasks), sharey="col", squeeze=False)
    shown = {name: some for found in cards.values() for by in found.values() for name, some in by.items()}
    style = {
        name: (COLOURS[i % len(COLOURS)], "-o" if i < len(COLOURS) else "--^") for i, name in enumerate(sorted(shown))
    }
    matched = {name for name, some in shown.items() if any(one.each.basis == "budget matched" for one in some)}
    means = [one.each.mean for found in cards.values() for by in found.values() for some in by.values() for one in some]
    floor = max(60.0, 100 * min(means) - 4)
    for row, (card, found) in zip(panels, cards.items(), strict=True):
        for axes, task in zip(row, tasks, strict=True):
            for number, (name, some) in enumerate(found[task].items()):
                points = sorted(some, key=lambda one: one.each.share)
                x, y = [one.request * KILO for one in points], [100 * one.each.mean for one in points]
                colour, line = style[name]
                label = name + "*" * (name in matched)
                axes.plot(x, y, line, color=colour, linewidth=0.9, markersize=2.5, label=label)
                # one point of a method has its interval and band, another one than its neighbours'
                visible = [one for one in points if one.each.mean >= floor / 100] or points
                middle = visible[number % len(visible)]
                low, high = middle.estimate.ttft_band_s
                axes.errorbar(
                    [middle.request * KILO],
                    [100 * middle.each.mean],
                    xerr=[[(middle.request - low) * KILO], [((high or middle.request) - middle.request) * KILO]],
                    yerr=[[100 * (middle.each.mean - middle.each.low)], [100 * (middle.each.high - middle.each.mean)]],
                    fmt="none",
                    ecolor=colour,
                    elinewidth=0.7,
                    alpha=0.45,
                )
            drawn = [one.request for some in found[task].values() for one in some if one.each.mean >= floor / 100]
            dense = next(
                estimate_run(unreduced(one.estimate.run)).ttft_s for some in found[task].values() for one in some
            )
            axes.axvline(dense * KILO, color="#777777", linewidth=0.8, linestyle=":")
            axes.set_xlim((1.1 * min(drawn) - 0.1 * dense) * KILO, (1.1 * dense - 0.1 * min(drawn)) * KILO)
            axes.set_title(f"{task}, {card}", fontsize=9)
            axes.set_yscale(
                "function", functions=(lambda y: -np.log(np.maximum(TOP - y, 1e-3)), lambda z: TOP - np.exp(-z))
            )
            axes.set_ylim(floor, 102)
            axes.set_yticks([y for y in (60, 70, 80, 90, 95, 98, 100) if y >= floor])
            axes.minorticks_off()
            axes.grid(color="#dddddd", linewidth=0.5)
    figure.supxlabel("predicted TTFT, ms", fontsize=10)
    figure.supylabel("expected score, % of the unreduced one", fontsize=10)
    handles = {
        label: handle for axes in panels.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    labels, columns = sorted(handles), int(width / 1.25)
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        fontsize=7,
    )
    return figure


def save(figure: Figure, name: str) -> str:
    """Write a picture that is the same file for the same figures; its Markdown link."""
    with rc_context({"svg.hashsalt": "aimcost", "svg.fonttype": "none"}):
        figure.savefig(PICTURES / name, metadata={"Date": None})
    return f"pictures/{name}"


def fastest(by_method: Mapping[str, Sequence[Priced]], price: str) -> list[tuple[str, Priced]]:
    """Each method's fastest schedule above the floor, the fastest first."""
    best = []
    for name, some in by_method.items():
        above = [one for one in some if one.each.mean >= FLOOR]
        if above:
            best.append((name, min(above, key=lambda one: getattr(one, price))))
    return sorted(best, key=lambda pair: getattr(pair[1], price))


def swapped(first: Sequence[str], second: Sequence[str]) -> tuple[int, int]:
    """Pairs of methods whose order differs, and pairs in all."""
    place = {name: position for position, name in enumerate(second)}
    pairs = [(a, b) for i, a in enumerate(first) for b in first[i + 1 :]]
    return sum(place[a] > place[b] for a, b in pairs), len(pairs)


def rankings(found: Mapping[str, Cards]) -> Iterator[list[str]]:
    """A line for each model, card and task: the fastest method by each price, and how many pairs of methods swap."""
    for model, cards in found.items():
        for card, tasks in cards.items():
            for task, by_method in tasks.items():
                orders = {price: fastest(by_method, price) for price in ("decoder_free", "decoder", "request")}
                if len(orders["request"]) < 2:
                    continue
                names = {price: [name for name, _ in some] for price, some in orders.items()}
                cells = [order[0] for order in names.values()]
                executed, pairs = swapped(names["decoder_free"], names["decoder"])
                whole, _ = swapped(names["decoder_free"], names["request"])
                yield [model, card, task, *cells, f"{executed} / {pairs}", f"{whole} / {pairs}"]


def answers(found: Mapping[str, Cards]) -> Iterator[list[str]]:
    """The fastest method above the floor of each model, card and task, the whole request counted."""
    for model, cards in found.items():
        for card, tasks in cards.items():
            for task, by_method in tasks.items():
                order = fastest(by_method, "request")
                dense = estimate_run(unreduced(order[0][1].estimate.run)).ttft_s if order else 0.0
                if not order or order[0][1].request >= dense:
                    yield [model, card, task, "none saves time", "", "", ""]
                    continue
                one = order[0][1]
                mark = "*" if one.each.basis == "budget matched" else ""
                yield [
                    *(model, card, task, parameters(one.each.method) + mark),
                    f"{one.request * KILO:.1f}",
                    f"{(dense - one.request) * KILO:.1f}",
                    f"{one.each.mean:.1%} ({one.each.low:.0%} to {one.each.high:.0%})",
                ]


def page() -> Iterator[str]:
    """The page, part by part."""
    yield HEAD
    surrogate = shipped_surrogate()
    yield f"```text\n{held_out_text([leave_out(surrogate, kind) for kind in KINDS])}\n```"
    found = {model: of_model(model) for model in MODELS}
    yield f"## The fastest method expected to keep {FLOOR:.0%}"
    headers = ["model", "card", "task", "method", "TTFT, ms", "saved, ms", "expected (80 % interval)"]
    yield f"```text\n{table(list(answers(found)), headers, left=4)}\n```"
    yield "## Which rankings survive"
    rows = list(rankings(found))
    free, whole = (sum(row[3] != row[at] for row in rows) for at in (4, 5))
    pairs = sum(int(row[6].split(" / ")[1]) for row in rows)
    moved = sum(int(row[7].split(" / ")[0]) for row in rows)
    priced_in = sum(int(row[6].split(" / ")[0]) for row in rows)
    yield (
        f"Each method's fastest schedule above {FLOOR:.0%}, ranked three ways: the language model alone with free "
        "selection, as FLOPs tables count it; the language model with the selection that the code runs; the whole "
        f"request to the first token. With executed selection {free} of {len(rows)} winners change and {priced_in} of "
        f"{pairs} pairs of methods swap places; with the whole request {whole} winners and {moved} pairs."
    )
    headers = ["model", "card", "task", "selection free", "executed", "whole request", "swapped", "swapped, request"]
    yield f"```text\n{table(rows, headers, left=6)}\n```"
    for model, cards in found.items():
        link = save(picture(model, cards), f"frontier_{model.replace('.', '_')}.svg")
        yield f"## {model}\n\n![Expected score against predicted TTFT, by task and card]({link})"


def main() -> None:
    """Write the page."""
    PAGE.write_text("\n\n".join(part.strip("\n") for part in page()) + "\n", encoding="utf-8")
    print(f"written: {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
