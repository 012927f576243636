"""Write docs/evidence.md and its pictures from the published timings and the predictions of this tree."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from aimcost.evidence.evidence import Evidence, gather
from aimcost.evidence.held_out import SOURCES_TO_LEAVE_OUT
from aimcost.evidence.joining import Joined, Speedup
from aimcost.evidence.scores import Score
from aimcost.inputs import discover
from aimcost.inputs.run import load_run
from aimcost.inputs.stack import load_stack
from aimcost.machine.fitting.stacks import FITTED
from aimcost.pricing.pricing import estimate_run
from aimcost.report.evidence import bars_text, figures_text, kernels_text, pairs_text, scores_text
from aimcost.units import KILO, TERA

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "evidence.md"
PICTURES = ROOT / "docs" / "pictures"
# Colour and shape tell a quantity; both are told apart in grey and by the colour-blind.
QUANTITIES = {
    "prefill": ("#0072b2", "o"),
    "ttft": ("#d55e00", "s"),
    "tpot": ("#009e73", "^"),
    "e2e": ("#cc79a7", "D"),
    "vision": ("#e69f00", "v"),
}
# A source is discussed where its error or its coverage is beyond these.
NOTABLE_MAPE, NOTABLE_COVERAGE = 0.15, 0.60

HEAD = """# Predicted against published

`make docs` (`docs/evidence.py`) writes this page from `configs/timings/`: {rows} GPU timings published by others, from
{sources} sources, each priced as its run says. Every figure is computed from those rows and today's predictions, unless
its source is named beside it. None of the timings is this project's; what it has timed (random weights) is in
[validation.md](validation.md) (a CPU), [gpu-h200.md](gpu-h200.md) and [gpu-h100.md](gpu-h100.md).

    aimcost evidence                       # stacks as shipped
    aimcost evidence --leave-out source    # what this page shows
    aimcost evidence --refit               # stack coefficients, refitted to all rows

## Summary

Every row is predicted with stack coefficients fitted **without its source**. *In band* is the share of published times
inside the 80 % band of their prediction. Intervals are 80 % bootstrap intervals over sources (over rows or pairs where
the figure is a mean over those). *Before* is this project's model before it had software stacks.
"""

HELD_OUT = """### What "held out" covers

- **Coefficients are held out, the structure is not.** The terms of a stack (a cost of the image path, an eager tower, a
  cost of attention maps, a step that grows with the batch, the slower all-reduces of 2023) were chosen with every row
  in view. Expect larger errors on sources that are not on this page.
- A stack shown by {least} or more sources ({many}) has each source left out in full. One shown by fewer ({few}) is
  fitted on half of its batch and prompt sizes and tested on the other half, both ways: the {lib:.0%} on
  LLM-Inference-Bench's vLLM says nothing about another source that runs vLLM. {unfitted} no fitted coefficient.
- Some coefficients have a prior (value ± standard deviation, in the units of the stack file): {priors}. The one on
  attention maps was reported from a collection of published timings that includes sources of this page.
- The width of the band is one rule for all stacks, chosen on these residuals. With the width chosen on the other
  sources instead, it covers {nested:.0%} of the timings.
- Kernel efficiencies come from operation tables and kernel timings, not from requests on this page. The memory-bound
  kernels below are in-sample: all of their timings were used in the fit.
- {absent} have no rows here. Their figures are assumed, and their files say so.
"""


class Facts:
    """Figures of the page's prose, computed from the rows."""

    def __init__(self, evidence: Evidence) -> None:
        self.rows = {row.timing.id: row for row in evidence.rows}
        self.speedups = {pair.timing.id: pair for pair in evidence.speedups}

    def of(self, group: str, *, quantity: str | None = None, **workload: int) -> list[Joined]:
        """Rows of a source, of one quantity and with these keys in their workload."""
        return [
            row
            for row in self.rows.values()
            if row.timing.group == group
            and quantity in (None, row.timing.quantity)
            and workload.items() <= row.timing.run["workload"].items()
        ]

    def seconds(self, name: str) -> float:
        """Published seconds of a row."""
        return self.rows[name].published

    def rate(self, name: str) -> float:
        """TFLOP/s that a published prefill needs for the FLOPs of its run."""
        row = self.rows[name]
        return row.estimate.stages["prefill"].flops / row.published / TERA

    def step_ms(self, name: str) -> float:
        """Milliseconds per step of an end-to-end row, prompt included."""
        return self.rows[name].published / self.rows[name].timing.run["workload"]["new_tokens"] * KILO

    def priced(self, name: str, **workload: int) -> float:
        """Predicted prefill seconds of a row's run with another workload."""
        run = self.rows[name].timing.run
        return estimate_run(load_run({**run, "workload": {**run["workload"], **workload}})).stages["prefill"].time_s


def beside(rows: Sequence[Joined]) -> str:
    """Range of what published times exceed the predicted kernels by, in ms."""
    return spread([(row.published - row.predicted + overhead_of(row)) * KILO for row in rows])


def overhead_of(row: Joined) -> float:
    """Seconds that the stack adds beside the kernels within a row's stages."""
    estimate = row.estimate
    return sum(
        float(estimate.seconds[segment.start : segment.stop].sum())
        for segment in estimate.table.segments
        if segment.stage == "overhead" and segment.beside in row.timing.stages
    )


def spread(values: Sequence[float], form: str = ".0f") -> str:
    """Smallest and largest value: ``23–29``."""
    low, high = (f"{value:{form}}".replace("-", "−") for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}" if "−" in low else f"{low}–{high}"


def infomerge(facts: Facts) -> str:
    reduced = [facts.rate(f"infomerge/{share}%") for share in (15, 10, 5)]
    return (
        f"one V100, LLaVA-OneVision-7B. The dense run implies {facts.rate('infomerge/dense'):.0f} TFLOP/s, the reduced "
        f"ones {spread(reduced)} on the same card. No GEMM rate explains both; the reduced runs may hold more tokens "
        "than stated, since the method also prunes inside the language model."
    )


def fastv(facts: Facts) -> str:
    others = [*facts.of("flowcut", images=1), *facts.of("apet3090", quantity="e2e")]
    return (
        f"LLaVA-1.5, one image, A100. All runs of this source, dense ones too, return attention maps: "
        f"{beside(facts.of('fastv'))} ms beside the kernels, where FlowCut and ApET show {beside(others)}. The cost of "
        "attention maps stays near its prior; fitted to this source it doubles (`configs/stacks/llava.yaml`), which "
        "would make FastV and SparseVLM in FlowCut's table slower than dense."
    )


def msdg(facts: Facts) -> str:
    run = {"model": "llava-next-vicuna-7b", "hardware": "nvidia_a100_sxm_80gb", "method": {"name": "none"}}
    tokens = load_run({**run, "workload": {"images": 1, "image_size": [640, 480], "text_tokens": 60}}).workload
    pair = facts.speedups["msdg/prefill-MSDG"]
    reduced = facts.rows["msdg/prefill-MSDG"].predicted
    unpadded = facts.priced("msdg/prefill-dense", visual_tokens=tokens.visual_tokens) / reduced
    return (
        f"LLaVA-NeXT-7B, A800. Rows are priced with the padded 2,880 visual tokens; a 640 × 480 image has "
        f"{tokens.visual_tokens:,} after unpadding. The prefill speed-up would then be predicted at {unpadded:.1f}x "
        f"instead of {pair.predicted:.1f}x (published {pair.published:.1f}x). Not checked against the paper; the rows "
        "stay as given."
    )


def apet3090(facts: Facts) -> str:
    whole, prefill = (mean_error(facts.of("apet3090", quantity=quantity)) for quantity in ("e2e", "prefill"))
    return (
        f"LLaVA-1.5-7B on an RTX 3090. Bias {whole:+.0%} on whole requests, {prefill:+.0%} on their prefills: the "
        f"source shows {beside(facts.of('apet3090', quantity='e2e'))} ms beside the kernels, FlowCut and FastV "
        f"{beside([*facts.of('flowcut', images=1), *facts.of('fastv')])}."
    )


def gptfast(facts: Facts) -> str:
    del facts
    return (
        "decode on A100s at 330 W. The errors are small and so is the band: its width is one rule for all stacks, and "
        "single-sequence decode under graphs is narrower than the rule."
    )


def splitwise(facts: Facts) -> str:
    prompts = {
        (size(row), row.timing.run["workload"]["batch"]): row for row in facts.of("splitwise", quantity="prefill")
    }
    ratios: dict[str, list[float]] = {}
    for (key, batch), row in prompts.items():
        if batch > 1 and (key, 1) in prompts:
            ratios.setdefault(key[0], []).append(row.published / prompts[key, 1].published)
    shown = " and ".join(
        f"{spread(each, '.2f')} times on {card.removeprefix('nvidia_').split('_')[0].upper()}s"
        for card, each in sorted(ratios.items())
    )
    short = [row.error for (key, batch), row in prompts.items() if key[1] == 8 and key[2] == 128 and batch == 1]
    return (
        f"vLLM of 2023, Llama-2-70B on 2 to 8 ranks. A batch of prompts takes {shown} as long as one prompt of as many "
        f"tokens; prompts of 128 tokens on 8 ranks have errors of {spread(short, '.0%')}."
    )


def size(row: Joined) -> tuple[str, int, int]:
    """Card, ranks and prompt tokens of a batch."""
    run = row.timing.run
    return run["hardware"], run["parallel"]["tp"], run["workload"]["batch"] * run["workload"]["text_tokens"]


def flowcut(facts: Facts) -> str:
    one, five = facts.of("flowcut", images=1), facts.of("flowcut", images=5)
    return (
        f"LLaVA-1.5-7B and LLaVA-NeXT-7B, A800. Its times exceed the kernels by {beside(one)} ms for one image, by "
        f"{beside(five[:1])} for five crops dense and {beside(five[1:])} reduced: no cost per image explains that."
    )


def mean_error(rows: Sequence[Joined]) -> float:
    return sum(row.error for row in rows) / len(rows)


KNOWN: dict[str, Callable[[Facts], str]] = {
    each.__name__: each for each in (infomerge, fastv, msdg, apet3090, gptfast, splitwise, flowcut)
}

CONTRADICTIONS = """## Where sources contradict each other

No fit can do better than this; nothing is fitted per paper.

- LLaVA-1.5-7B, one image, dense, A100 class: {flowcut:.0f} ms (FlowCut) and {fastv:.0f} ms (FastV, attention maps
  returned).
- LLaVA-NeXT-7B dense on an A800: {next_whole:.0f} ms for tower *and* language model (FlowCut), {next_llm:.0f} ms for
  the language model *alone* (MSDG).
- Time beside the kernels in the same code, by source: FastV {beside_fastv} ms; FlowCut {beside_one} (one image),
  {beside_five} (five crops); ApET on an RTX 3090 {beside_apet}; MSDG {beside_dense} (dense) and {beside_reduced}
  (reduced); SimpleCluster {beside_frames} (32 frames).
  Stack `llava` has {request:.0f} ms, band {request_low:.0f} to {request_high:.0f}.
- Long prompts, Llama-3-8B on one A100: {minference:.1f} s at 100,000 tokens (MInference, Hugging Face) and
  {trianglemix:.1f} s at 98,304 (TriangleMix): {apart:.0%} apart per token. The prediction lies between them and is
  worse for each than a model fitted to it alone, so both miss *not worse than before*.
- TensorRT-LLM on an H100 is slower than vLLM on the same card at long contexts: Llama-3.1-8B, batch 64, 2,048 in and
  2,048 out, {trt_h100:.1f} and {vllm_h100:.1f} ms per step; TensorRT-LLM on a GH200 takes {trt_gh200:.1f}. Possibly an
  engine without grouped-query kernels; not modelled.
- Qwen2.5-VL's tower: 1.39 s reported for one image with one launch per window (source in
  `configs/stacks/transformers.yaml`); PACE's encoder takes {encoder:.0f} ms for 8,192 patches, too little for such a
  loop.
"""


def picture_of_requests(evidence: Evidence) -> Figure:
    """Predicted against published on log axes, one panel a stack, with bands."""
    figure = Figure(figsize=(9.6, 6.6), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True, sharey=True).flat
    drawn = set()
    for axes, score in zip(panels, evidence.stacks, strict=False):
        rows = [row for row in evidence.rows if row.timing.stack == score.name]
        for quantity, (colour, marker) in QUANTITIES.items():
            own = [row for row in rows if row.timing.quantity == quantity]
            if own:
                _points(axes, own, colour, marker, quantity if quantity not in drawn else None)
                drawn.add(quantity)
        axes.plot([0.004, 60], [0.004, 60], color="#888888", linewidth=0.8, zorder=0)
        axes.set(xscale="log", yscale="log", xlim=(0.004, 60), ylim=(0.004, 60))
        axes.set_title(f"{score.name}: MAPE {score.mape:.0%}, {score.coverage:.0%} in band", fontsize=10)
        axes.grid(color="#dddddd", linewidth=0.5)
    for axes in panels:
        axes.set_visible(False)
    figure.supxlabel("published, s")
    figure.supylabel("predicted, s, with its 80 % band")
    figure.legend(loc="outside upper center", ncols=len(QUANTITIES), frameon=False)
    return figure


def _points(axes: Any, rows: Sequence[Joined], colour: str, marker: str, label: str | None) -> None:
    x, y = [row.published for row in rows], [row.predicted for row in rows]
    bars = [[row.predicted - row.low for row in rows], [row.high - row.predicted for row in rows]]
    style = {"fmt": marker, "color": colour, "markersize": 3.5, "elinewidth": 0.6, "alpha": 0.7}
    axes.errorbar(x, y, yerr=bars, label=label, **style)


def picture_of_speedups(pairs: Sequence[Speedup]) -> Figure:
    """Every published speed-up beside its prediction with the ratio's band."""
    figure = Figure(figsize=(7.6, 8.2), layout="constrained")
    axes = figure.subplots()
    places = list(range(len(pairs), 0, -1))
    for place, pair in zip(places, pairs, strict=True):
        colour = "#0072b2" if pair.inside else "#d55e00"
        axes.plot([pair.low, pair.high], [place, place], color=colour, linewidth=3, alpha=0.35, solid_capstyle="butt")
        axes.plot(pair.predicted, place, "|", color=colour, markersize=9, markeredgewidth=2)
    axes.plot([pair.published for pair in pairs], places, "D", color="black", markersize=4, label="published")
    axes.plot([], [], color="#0072b2", linewidth=3, alpha=0.5, label="predicted, 80 % band")
    axes.plot([], [], color="#d55e00", linewidth=3, alpha=0.5, label="same, published outside it")
    axes.set(xscale="log", xlabel="speed-up over the unreduced run", xlim=(0.6, 30), ylim=(0, len(pairs) + 1))
    axes.set_xticks([1, 2, 4, 8, 16], ["1x", "2x", "4x", "8x", "16x"])
    axes.minorticks_off()
    axes.set_yticks(places, [pair.timing.id for pair in pairs], fontsize=8)
    axes.grid(axis="x", color="#dddddd", linewidth=0.5)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def save(figure: Figure, name: str) -> str:
    """Write a picture that is the same file for the same figures; its Markdown link."""
    with rc_context({"svg.hashsalt": "aimcost"}):
        figure.savefig(PICTURES / name, metadata={"Date": None})
    return f"pictures/{name}"


def fenced(text: str) -> str:
    return f"```text\n{text}\n```"


def page(evidence: Evidence) -> Iterator[str]:
    """The page, part by part."""
    rows, sources = evidence.rows, evidence.sources
    yield HEAD.format(rows=len(rows), sources=len(sources))
    yield fenced(bars_text(evidence.bars))
    missed = [bar for bar in evidence.bars if not bar.met]
    if missed:
        yield "Missed: " + "; ".join(f"{bar.name}, {bar.figure.value:.1%} (bar {bar.most:.0%})" for bar in missed) + "."
    yield held_out(evidence)
    yield "## What is predicted well"
    yield "\n".join(map(bullet, right(evidence)))
    yield "## What is predicted badly, and why"
    yield "\n".join(map(bullet, wrong(evidence)))
    picture = save(picture_of_requests(evidence), "evidence_requests.svg")
    yield f"## Requests\n\n![Predicted against published, by stack]({picture})"
    yield fenced(scores_text("by source", sources, mean=True))
    yield fenced(scores_text("by stack", evidence.stacks))
    balanced = dict(evidence.balanced("quantities"))
    yield fenced(scores_text("by quantity", evidence.quantities, balanced=balanced))
    yield fenced(scores_text("by card", evidence.cards, balanced=dict(evidence.balanced("cards"))))
    picture = save(picture_of_speedups(evidence.speedups), "evidence_speedups.svg")
    yield (
        "## Speed-ups\n\nThe band is that of the ratio: errors common to both runs cancel. Milliseconds saved are the "
        f"difference of the two runs.\n\n![Speed-ups with their bands]({picture})"
    )
    yield fenced(pairs_text(evidence.speedups))
    yield "## Memory-bound kernels\n\nMAPE by kind and card, as shipped (bias in parentheses)."
    yield fenced(kernels_text(evidence))
    yield contradictions(evidence)
    yield "## Stack coefficients, by what was left out"
    yield fenced(figures_text(evidence.refits))
    yield "## Sources"
    yield "\n".join(f"- **{name}**: {text}" for name, text in origins(rows))


def right(evidence: Evidence) -> Iterator[str]:
    """Sources, quantities and stacks with small errors."""
    good = sorted((s for s in evidence.sources if s.mape <= 0.10), key=lambda score: score.mape)
    yield f"{len(good)} of {len(evidence.sources)} sources have a MAPE of at most 10 %: {_listed(good)}."
    tpot = next(score for score in evidence.quantities if score.name == "tpot")
    yield f"Decode steps, {tpot.rows} timings of eager code, graphs and engines: MAPE {tpot.mape:.1%}."
    errors = sorted(abs(pair.error) for pair in evidence.speedups)
    within = sum(error <= 0.10 for error in errors)
    yield f"{within} of {len(errors)} speed-ups are within 10 %; the median error is {errors[len(errors) // 2]:.0%}."
    inherited = next(score for score in evidence.cards if score.name == "inherited")
    measured = next(score for score in evidence.cards if score.name == "measured")
    yield f"Cards with inherited efficiencies: MAPE {inherited.mape:.1%}; with measured ones {measured.mape:.1%}."


def _listed(scores: Sequence[Score]) -> str:
    return ", ".join(f"{score.name} {score.mape:.0%}" for score in scores)


def wrong(evidence: Evidence) -> Iterator[str]:
    """Every source beyond the notable limits, with what is known of the cause; every speed-up outside its band."""
    facts = Facts(evidence)
    for score in sorted(evidence.sources, key=lambda score: -score.mape):
        if score.mape < NOTABLE_MAPE and score.coverage >= NOTABLE_COVERAGE:
            continue
        why = KNOWN[score.name](facts) if score.name in KNOWN else "not explained."
        figures = f"MAPE {score.mape:.0%}, bias {score.bias:+.0%}, {score.coverage:.0%} in band"
        yield f"**{score.name}** ({score.rows} rows, {figures}): {why}"
    outside = [pair for pair in evidence.speedups if not pair.inside]
    if outside:
        shown = ", ".join(f"{p.timing.id} {p.published:.2f}x, predicted {p.predicted:.2f}x" for p in outside)
        yield f"{len(outside)} of {len(evidence.speedups)} speed-ups lie outside their band: {shown}."
    prefill = next(score for score in evidence.quantities if score.name == "prefill")
    yield f"Prefills have a bias of {prefill.bias:+.0%} over {prefill.rows} timings."


def bullet(text: str) -> str:
    """One item of a list, wrapped."""
    return textwrap.fill(text, 120, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)


def held_out(evidence: Evidence) -> str:
    """What leaving sources out covers."""
    stacks = {
        score.name: {r.timing.group for r in evidence.rows if r.timing.stack == score.name} for score in evidence.stacks
    }
    many = [name for name, groups in stacks.items() if len(groups) >= SOURCES_TO_LEAVE_OUT]
    few = [name for name in stacks if name not in many and FITTED.get(name)]
    unfitted = [name for name in stacks if not FITTED.get(name)]
    priors = [
        f"`{name}: {each.path}` {each.prior[0]:g} ± {each.prior[1]:g}"
        for name, figures in FITTED.items()
        for each in figures
        if each.prior is not None
    ]
    absent = [name for name in discover.names("stack") if name not in stacks]
    library = next(score for score in evidence.sources if score.name == "lib-vLLM")
    text = HELD_OUT.format(
        least=SOURCES_TO_LEAVE_OUT,
        many=_quoted(many),
        few=_quoted(few),
        unfitted=f"{_quoted(unfitted, ' and ')} {'has' if len(unfitted) == 1 else 'have'}",
        lib=library.mape,
        priors="; ".join(priors),
        nested=evidence.nested_coverage.value,
        absent=_quoted(absent, " and "),
    )
    head, _, items = text.partition("\n\n")
    return (
        head
        + "\n\n"
        + "\n".join(bullet(" ".join(each.split())) for each in items.strip().removeprefix("- ").split("\n- "))
    )


def _quoted(names: Sequence[str], joint: str = ", ") -> str:
    return joint.join(f"`{name}`" for name in names)


def contradictions(evidence: Evidence) -> str:
    facts = Facts(evidence)
    long, other = facts.seconds("minference/hf-100k"), facts.seconds("trianglemix/96k")
    five = facts.of("flowcut", images=5)
    request = load_stack("llava").request_s
    text = CONTRADICTIONS.format(
        flowcut=KILO * facts.seconds("flowcut/l15-dense"),
        fastv=KILO * facts.seconds("fastv/7b"),
        next_whole=KILO * facts.seconds("flowcut/next-dense"),
        next_llm=KILO * facts.seconds("msdg/prefill-dense"),
        beside_fastv=beside(facts.of("fastv")),
        beside_one=beside(facts.of("flowcut", images=1)),
        beside_five=beside(five),
        beside_apet=beside(facts.of("apet3090", quantity="e2e")),
        beside_dense=beside([facts.rows["msdg/total-dense"]]),
        beside_reduced=beside(facts.of("msdg", quantity="e2e")[1:]),
        beside_frames=beside(facts.of("simplecluster")),
        request=KILO * request.value,
        request_low=KILO * request.low,
        request_high=KILO * request.high,
        minference=long,
        trianglemix=other,
        apart=(long / 100_000) / (other / 98_304) - 1.0,
        trt_h100=facts.step_ms("lib/h100_sxm-TensorRT-LLM-llama-3.1-8b-2048x64"),
        vllm_h100=facts.step_ms("lib/h100_sxm-vLLM-llama-3.1-8b-2048x64"),
        trt_gh200=facts.step_ms("lib/gh200_96gb-TensorRT-LLM-llama-3.1-8b-2048x64"),
        encoder=KILO * facts.seconds("pace4090/encoder-dense"),
    )
    head, _, items = text.partition("\n\n- ")
    return head + "\n\n" + "\n".join(bullet(" ".join(each.split())) for each in items.split("\n- "))


def origins(rows: Sequence[Joined]) -> Iterator[tuple[str, str]]:
    """(group, where it was published), rows counted."""
    for name in sorted({row.timing.group for row in rows}):
        own = [row for row in rows if row.timing.group == name]
        sources = {row.timing.source.split(" row ")[0] for row in own}
        cards = sorted({str(row.timing.run["hardware"]).removeprefix("nvidia_") for row in own})
        yield name, f"{'; '.join(sorted(sources))}. {len(own)} rows, {', '.join(cards)}, stack `{own[0].timing.stack}`."


def main() -> None:
    """Write the page."""
    evidence = gather(leave_out="source")
    PAGE.write_text("\n\n".join(part.strip("\n") for part in page(evidence)) + "\n", encoding="utf-8")
    print(f"written: {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
