"""Write docs/evidence.md and its pictures from the published timings and the predictions of this tree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from aimcost.evidence.evidence import Evidence, gather
from aimcost.evidence.held_out import SOURCES_TO_LEAVE_OUT
from aimcost.evidence.joining import Joined, Speedup
from aimcost.evidence.scores import Score
from aimcost.report.evidence import bars_text, figures_text, kernels_text, pairs_text, scores_text

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

This page is written by `make docs` (`docs/evidence.py`) from `configs/timings/`: {rows} GPU timings that others
published, from {sources} sources, each priced as its run says. No figure in its tables is typed; the reasons are. None
of the timings is this project's: **no AIM prefill has been timed on a GPU by this project**. What it has timed (random
weights, on a CPU) is in [validation.md](validation.md).

    aimcost evidence                       # stacks as shipped: what a user gets
    aimcost evidence --leave-out source    # what this page shows
    aimcost evidence --refit               # the stacks' figures, fitted again

## The account

Every row below is judged with stack figures that were fitted **without its source**. *In band* is the share of
published times inside the 80 % band of their prediction. Intervals are 80 % bootstrap intervals over sources (over rows
or pairs where the figure is a mean over those). *Before* is the model of this project before there were stacks.
"""

HELD_OUT = f"""### What "held out" covers, and what it does not

- **Figures are held out, the structure is not.** Which terms a stack has (a cost of the image path, an eager tower, a
  cost of attention maps, a step that grows with the batch, the slower all-reduces of 2023) was chosen with every row
  in view, over about ten variants of the whole. Timings that nobody here has looked at will be predicted worse than
  this table says.
- A stack that {SOURCES_TO_LEAVE_OUT} or more sources show (`llava`, `transformers`) has each source left out whole. One
  with fewer (`tensorrt_llm`, `vllm_v0`, `vllm_2023`) is fitted on half of its batch and prompt sizes and judged on
  the other half, both ways: 4 % for LLM-Inference-Bench's vLLM says nothing of another source that runs vLLM.
  `torch_compile` has no fitted figure; which fusions it has was decided with its one source in view.
- Where fewer than {SOURCES_TO_LEAVE_OUT} sources show a figure it is held near a reported value: attention maps
  (19 ± 3 ms), a video frame (5 ± 3 ms), the host's pace in eager code (13 ± 3 µs a launch). The first of these was
  reported from a collection that includes sources of this page.
- The width of the band is one rule for all stacks, chosen on these residuals. With the width chosen on the other
  sources, each in turn, it holds {{nested}} of the timings.
- Kernel efficiencies come from operation tables and kernel timings, not from any request on this page. The timings of
  memory-bound kernels below were all used in their fit: leaving a source out there gives 12 to 21 % by kind.
- `vllm` (of today) and `aimcost_graph` have no rows here. Their figures are assumed, and their files say so.
"""

KNOWN = {
    "infomerge": """one V100, LLaVA-OneVision-7B. Its dense run needs products at 65 TFLOP/s, its reduced ones at
  38–40 on the same card, so the reduced runs must have held about twice the tokens that are stated (the method prunes
  inside the language model too). No product rate explains both.""",
    "fastv": """LLaVA-1.5, one image, A100. Every run of this source exposes all attention maps, dense ones too: 77 to
  94 ms beside the kernels, where other sources show 10 to 61. The figure for attention maps stays at what was
  reported (19 ms); 40 would fit this source and make FastV and SparseVLM of FlowCut's table slower than dense.""",
    "msdg": """LLaVA-NeXT-7B, A800. The rows price the padded 2,880 visual tokens; a 640 × 480 picture leaves about
  2,340 after unpadding, and with those the speed-up of the language model would be predicted at 7.8x (published
  7.84x) instead of 10.2x, both times too short. Not checked against the paper; the rows stay as given.""",
    "apet3090": """LLaVA-1.5-7B on an RTX 3090: whole requests 20 % too slow, their prefills 6 %. The source shows 10
  to 26 ms beside the kernels, where FlowCut's and FastV's show 38 to 94.""",
    "gptfast": """decode on A100s at 330 W. Errors are small (5 %), and so is the band: its width is one rule for all
  stacks, and decode is known better elsewhere than here.""",
    "splitwise": """vLLM of 2023, Llama-2-70B on 2 to 8 ranks. Prompts of several requests take 1.2 times as long as
  one of as many tokens, from 4,096 tokens on four and more ranks 1.4–1.6 times; short prompts on 8 ranks are 30–45 %
  too fast.""",
    "flowcut": """LLaVA-1.5-7B and LLaVA-NeXT-7B, A800. Its times show 38 to 61 ms beside the kernels for one image and
  23 to 29 for five crops: no cost an image explains that.""",
}

CONTRADICTIONS = """## Where sources contradict each other

No fit can be better than this; nothing was fitted per paper.

- LLaVA-1.5-7B, one image, dense, A100 class: {flowcut:.0f} ms (FlowCut) and {fastv:.0f} ms (FastV, attention maps
  exposed). The LLaVA repository's runs differ by 35 % among themselves.
- LLaVA-NeXT-7B dense on an A800: {next_whole:.0f} ms for tower *and* language model (FlowCut), {next_llm:.0f} ms for
  the language model *alone* (MSDG).
- Beside the kernels the same code costs, by source: FastV 77–94 ms, FlowCut 38–61 (one image) and 23–29 (five crops),
  ApET on an RTX 3090 10–26, MSDG −7 (dense) and 25–37 (reduced), SimpleCluster 269 (32 frames). `llava` has 40, with a
  band of 12 to 75.
- Long prompts, Llama-3-8B on one A100: {minference:.1f} s at 100,000 tokens (MInference, Hugging Face) and
  {trianglemix:.1f} s at 98,304 (TriangleMix). One is {apart:.0%} slower a token than the other; the model lies between
  them, so that neither is met as well as by a model fitted to it. *Not worse than before* is missed by both.
- TensorRT-LLM on an H100 at long contexts is slower than vLLM on the same card (Llama-3.1-8B, batch 64, 3,072 tokens:
  24.4 and 23.5 ms a step; a GH200 takes 15.7): perhaps an engine without grouped-query kernels. Not modelled.
- Qwen2.5-VL's tower: 1.39 s reported for one image with a launch a window; PACE's encoder takes {encoder:.0f} ms for
  8,192 patches, which leaves no room for such a loop.
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
    ends = [[row.predicted - row.low for row in rows], [row.high - row.predicted for row in rows]]
    style = {"fmt": marker, "color": colour, "markersize": 3.5, "elinewidth": 0.6, "alpha": 0.7}
    axes.errorbar(x, y, yerr=ends, label=label, **style)


def picture_of_speedups(pairs: Sequence[Speedup]) -> Figure:
    """Every published speed-up beside its prediction with the ratio's own band."""
    figure = Figure(figsize=(7.6, 8.2), layout="constrained")
    axes = figure.subplots()
    places = list(range(len(pairs), 0, -1))
    for place, pair in zip(places, pairs, strict=True):
        colour = "#0072b2" if pair.inside else "#d55e00"
        axes.plot([pair.low, pair.high], [place, place], color=colour, linewidth=3, alpha=0.35, solid_capstyle="butt")
        axes.plot(pair.predicted, place, "|", color=colour, markersize=9, markeredgewidth=2)
    axes.plot([pair.published for pair in pairs], places, "D", color="black", markersize=4, label="published")
    axes.plot([], [], color="#0072b2", linewidth=3, alpha=0.5, label="predicted, 80 % band")
    axes.plot([], [], color="#d55e00", linewidth=3, alpha=0.5, label="the same, published outside")
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
    yield HELD_OUT.format(nested=f"{evidence.nested_coverage.value:.0%}")
    yield "## What is right"
    yield "\n".join(f"- {line}" for line in right(evidence))
    yield "## What is wrong, and by how much"
    yield "\n".join(wrong(evidence))
    picture = save(picture_of_requests(evidence), "evidence_requests.svg")
    yield f"## Requests\n\n![Predicted against published, by stack]({picture})"
    yield fenced(scores_text("by source", sources, mean=True))
    yield fenced(scores_text("by stack", evidence.stacks))
    balanced = dict(evidence.balanced("quantities"))
    yield fenced(scores_text("by quantity", evidence.quantities, balanced=balanced))
    yield fenced(scores_text("by card", evidence.cards, balanced=dict(evidence.balanced("cards"))))
    picture = save(picture_of_speedups(evidence.speedups), "evidence_speedups.svg")
    yield (
        "## Speed-ups\n\nThe band is the ratio's own: what both runs share in proportion drops out of it. Milliseconds "
        f"saved are the difference of the two runs.\n\n![Speed-ups with their bands]({picture})"
    )
    yield fenced(pairs_text(evidence.speedups))
    yield "## Memory-bound kernels\n\nMAPE by kind and card, as shipped (bias in brackets)."
    yield fenced(kernels_text(evidence))
    yield contradictions(rows)
    yield "## Figures of the stacks, by what was left out"
    yield fenced(figures_text(evidence.refits))
    yield "## Sources"
    yield "\n".join(f"- **{name}**: {text}" for name, text in origins(rows))


def right(evidence: Evidence) -> Iterator[str]:
    """Sources, quantities and stacks that are met well."""
    good = sorted((s for s in evidence.sources if s.mape <= 0.10), key=lambda score: score.mape)
    yield f"{len(good)} of {len(evidence.sources)} sources are met within 10 %: {_listed(good)}."
    tpot = next(score for score in evidence.quantities if score.name == "tpot")
    yield f"A decode step, over {tpot.rows} timings of eager code, graphs and engines: MAPE {tpot.mape:.1%}."
    errors = sorted(abs(pair.error) for pair in evidence.speedups)
    within = sum(error <= 0.10 for error in errors)
    yield f"{within} of {len(errors)} speed-ups are within 10 %; the median error is {errors[len(errors) // 2]:.0%}."
    inherited = next(score for score in evidence.cards if score.name == "inherited")
    yield f"Cards that nobody timed for this project are no worse than those with tables: MAPE {inherited.mape:.1%}."


def _listed(scores: Sequence[Score]) -> str:
    return ", ".join(f"{score.name} {score.mape:.0%}" for score in scores)


def wrong(evidence: Evidence) -> Iterator[str]:
    """Every source beyond the notable limits, with what is known of why; and every speed-up outside its band."""
    for score in sorted(evidence.sources, key=lambda score: -score.mape):
        if score.mape < NOTABLE_MAPE and score.coverage >= NOTABLE_COVERAGE:
            continue
        why = KNOWN.get(score.name, "not explained.")
        figures = f"MAPE {score.mape:.0%}, bias {score.bias:+.0%}, {score.coverage:.0%} in band"
        yield f"- **{score.name}** ({score.rows} rows, {figures}): {why}"
    outside = [pair for pair in evidence.speedups if not pair.inside]
    if outside:
        shown = ", ".join(f"{p.timing.id} {p.published:.2f}x, predicted {p.predicted:.2f}x" for p in outside)
        yield f"- {len(outside)} of {len(evidence.speedups)} speed-ups lie outside their band: {shown}."
    prefill = next(score for score in evidence.quantities if score.name == "prefill")
    yield f"- Prefills are predicted too fast on the whole: bias {prefill.bias:+.0%} over {prefill.rows} timings."


def contradictions(rows: Sequence[Joined]) -> str:
    published = {row.timing.id: row.published for row in rows}
    long, other = published["minference/hf-100k"], published["trianglemix/96k"]
    return CONTRADICTIONS.format(
        flowcut=1e3 * published["flowcut/l15-dense"],
        fastv=1e3 * published["fastv/7b"],
        next_whole=1e3 * published["flowcut/next-dense"],
        next_llm=1e3 * published["msdg/prefill-dense"],
        minference=long,
        trianglemix=other,
        apart=long / other - 1.0,
        encoder=1e3 * published["pace4090/encoder-dense"],
    )


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
