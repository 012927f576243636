"""Write docs/gpu-*.md, a page a card, from campaigns measured on it and from estimates that never saw them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from gpu_cards import CARDS, ROOT, Card

from aimcost.evidence.own_card import OwnCard, first_and_last, judge_own_card
from aimcost.inputs.files import read_mapping
from aimcost.inputs.run import load_run
from aimcost.measure.campaign.summary import floor_s, summarise
from aimcost.measure.profile.to_calibration import ceilings_of, probe_ratios
from aimcost.measure.records import Record, load_record
from aimcost.measure.validate import Errors, Speedup, compare_record, stages_timed
from aimcost.pricing.pricing import estimate_run
from aimcost.pricing.result import Estimate
from aimcost.report.table import table

EAGER, GRAPH = "transformers", "aimcost_graph"
RUN_STEPS = ("dense", "rows", "requests", "selections", "long", "batches", "images", "image_selections")
AIM, PROMPT = "video_aim_32f", 6372
KERNEL = "fused_attention"

SIZES = ("tokens", "candidates", "kept", "rows", "q_len")
REDUCTION = ("merge", "score", "select", "gather")
# a space that no line ends at
HELD = "\u00a0"
BEGIN, END = "<!-- written by docs/gpu.py -->\n", "<!-- end -->\n"
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

HEAD = """# Measured on {name}s: the AIM schedules as real prefills

`make docs` (`docs/gpu.py`) writes this page from two campaigns of `aimcost campaign --device cuda`
([gpu-campaign.md](gpu-campaign.md)), committed with every repeat in `hardware_profiles/measurements/{hardware}/`;
{others}. The paper's "prefill time" is computed; we know of no published GPU timing of its schedules.

LLaVA-OneVision-7B's shape with random weights, bf16, batch 1; {versions}. {campaigns} Tables are of the second; what it
lacks is of the first and marked ¹.

Before quoting a figure:

- **Speed-ups are between the faster of eager and graph, for dense and reduced alike.** torch.compile and serving
  engines were not run. Attention takes cuDNN's kernel.
- Dense and reduced passes alternate, so the card is as warm for one as for the other. *Passes* counts them: medians of
  {fewest} to {most} dense passes. Dense passes of {prompt} tokens differ by {spread:.0%} between rows.
- Random weights select other tokens than trained ones, but as many: only the shapes matter for time.
"""

ROWS = """## The paper's rows

*Printed* is what the paper (A100, LLM-Viewer's formulas) says; *dense* is the faster of eager and graph, *eager* and
*graph* are the reduced prefill, all measured; *predicted* is `aimcost estimate --hardware {hardware} --stack
aimcost_graph`. Rows whose tokens the tower's attention chooses (PruMerge) ran as prompts of the reduced length and are
not in this table. AIM at 25 % reaches {measured:.2f}x of the {printed:.2f}x printed: its causal FLOPs fall {flops:.1f}
times, and fewer tokens run at a lower rate.

"""

REQUESTS = """## Whole requests from pixels

32 frames, called eagerly by transformers, ms; medians of two to five passes. The tower and what pools its tokens take
{low:.0f} to {high:.0f} ms, whatever is dropped after them: a prefill that is five times faster makes the request less
than twice as fast. Of these, about {pool:.0f} ms (the projector less its products) are one kernel: transformers halves
each frame's grid by bilinear interpolation, to which PyTorch gives one thread for each output position, frames and
channels in turn. {pooling}

"""

ONE_IMAGE = """## One image: nothing is gained when the host is the limit

LLaVA-1.5-7B's shape, one image, called eagerly, ms, of the first campaign (a busy host disturbed the second). At 616
tokens transformers queues kernels about as slowly as an {name} runs them, so fewer tokens leave the time as it is, and
the selection is added to it. Captured, the {count} schedules of the paper's image table are {low:.1f} to {high:.1f}
times faster than the dense graph.

"""

MASKED = """## As released: masked, none removed

The released code hides tokens by a mask and runs attention in eager fp32, ms.

"""

KERNELS = """## Kernels

Each alone, in graphs of many runs, µs. The floor is the larger of FLOPs and bytes over the ceilings measured {ceilings}
({flops:.0f} TFLOP/s, {memory:.2f} TB/s); *of floor* is floor / time. PageRank's exponentials are not in its floor. All
kernels agreed with fp64 references (`correctness.json`).

Scoring, merging, selecting and gathering take {share:.1%} of the reduced prefill; the design's goal of 3 % was
{reached}. Its goal of 60 % of their floors is met by {sixty}. {kernels}

"""

DECODE = """## Decode

ms a token, of the first tokens after the prefill; eager ones are medians of one or two passes of eight steps. {decode}

"""

PREDICTED = """## Predicted by what others measured

`{hardware}` and the two stacks as they are shipped, fitted to published timings; of these records {seen}. One entry for
each distinct prediction; *80 %* is the share inside the band.

What misses, and why:

"""

OWN = """## Predicted by the card's own profile

As `aimcost profile` and `aimcost calibrate-stack` serve a user: the profile that the first campaign measured
(`2026-11-26_first/{profile}`; {nodes}), and for each stack two timings of the second campaign, by a rule set
beforehand: the shortest and the longest prefill of its dense step ({fitted} tokens). All other prefills of the second
campaign are judged, and nothing was tuned to them. The bars were set before the campaigns.

{stacks}

"""

OPS = """Where an eager prefill of the second campaign loses it: ms by group of ops, between events of one pass, and the
error of the profile under `transformers` as it is shipped. Groups also hold the gaps between kernels. Products of
shapes between the profile's nodes took {probes_low:.2f} to {probes_high:.2f} times what its grid says in the profile's
own probes: its sizes are multiples of 576, which fill the card's tiles, and 3584 is not one. Attention's kernel alone
is predicted at {kernel_said:.0f} µs at 6372 tokens and takes {kernel:.0f}; what its group misses lies around it:
rotation, cache and copies.

"""


class Page:
    """One card's page."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.found, self.first = summarise(card.second), summarise(card.first)
        self.runs = {run["run"]: run for run in self.found["runs"]}

    def text(self) -> str:
        """The page's Markdown."""
        parts = [self.head(), self.rows(), self.requests(), self.one_image(), self.masked(), self.kernels()]
        text = "\n".join([*parts, self.decode(), self.predicted(), self.own()])
        return re.sub(r"\n{3,}", "\n\n", text)

    def record(self, step: str) -> Record:
        """A step of the second campaign."""
        return loaded(self.card.second / f"{step}.json")

    def head(self) -> str:
        """What was run, and what to know before quoting it."""
        packages = self.record("rows").environment.packages
        long = [run for run in self.found["runs"] if run["prompt"] == PROMPT]
        dense = [run["seconds"][EAGER]["dense"] for run in long if "dense" in run["seconds"].get(EAGER, {})]
        counts = [n for (label, variant), n in self.passes.items() if variant == "dense" and self.is_long(label)]
        return wrapped(
            HEAD,
            name=self.card.name,
            hardware=self.card.hardware,
            others=" and ".join(f"[{c.page.name}]({c.page.name}) is of {c.name}s" for c in CARDS if c is not self.card),
            versions=", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers", "triton", "cuda")),
            campaigns=self.card.campaigns.format(**self.disturbed()),
            fewest=NUMBERS[min(counts)],
            most=NUMBERS[max(counts)],
            prompt=PROMPT,
            spread=max(dense) / min(dense) - 1,
        )

    def is_long(self, label: str) -> bool:
        """Whether a run of the paper's rows has the paper's prompt."""
        name = label.partition("@")[0]
        return name in self.runs and self.runs[name]["prompt"] == PROMPT and bool(self.runs[name]["printed_ms"])

    def disturbed(self) -> dict[str, int]:
        """Eager reduced prefills of both campaigns, and how many took 15 % longer in the second."""
        earlier = {run["run"]: run["seconds"] for run in self.first["runs"]}
        pairs = [
            (earlier[name][EAGER]["reduced"], run["seconds"][EAGER]["reduced"])
            for name, run in self.runs.items()
            if all("reduced" in by.get(EAGER, {}) for by in (earlier.get(name, {}), run["seconds"]))
        ]
        return {"eager": len(pairs), "disturbed": sum(later > 1.15 * before for before, later in pairs)}

    @cached_property
    def passes(self) -> dict[tuple[str, str], int]:
        """By run's label and variant: timed prefills of the second campaign."""
        samples = [s for step in RUN_STEPS for s in self.record(step).samples if s.op == "prefill"]
        return {(s.labels["run"], s.labels["variant"]): len(s.samples_s) for s in samples}

    def rows(self) -> str:
        """The paper's rows: printed, predicted, measured."""
        predicted = {key: value for step in ("rows", "images", "long") for key, value in self.said(step, "prefill")}
        earlier = {run["run"]: run["seconds"] for run in self.first["runs"]}
        rows = []
        for name, run in self.runs.items():
            seconds = run["seconds"]
            if run["printed_ms"] is None or not any("reduced" in by for by in seconds.values()):
                continue
            graph = seconds.get(GRAPH, {}).get("reduced")
            marked = "" if graph is not None else " ¹"
            graph = earlier.get(name, {}).get(GRAPH, {}).get("reduced") if graph is None else graph
            dense, reduced = best(run, "dense"), best(run, "reduced")
            guess = predicted.get((f"{name}@{GRAPH}", "reduced"))
            of = f"{name}@{EAGER if EAGER in seconds else GRAPH}"
            rows.append(
                [
                    name,
                    run["tokens"] if len(run["tokens"]) < 26 else run["tokens"][:23] + "...",
                    f"{run['printed_ms']:.1f}",
                    ms(dense),
                    ms(seconds.get(EAGER, {}).get("reduced")),
                    ms(graph) + marked,
                    "-" if guess is None else f"{guess[0] * 1e3:.1f}",
                    f"{self.passes[of, 'dense']} + {self.passes[of, 'reduced']}",
                    "-" if run["printed_speedup"] is None else f"{run['printed_speedup']:.2f}x",
                    f"{dense / reduced:.2f}x",
                ]
            )
        names = ["row", "tokens by layer", "printed ms", "dense", "eager", "graph", "predicted", "passes"]
        aim = self.runs[AIM]
        whole = self.estimate("rows", f"{AIM}@{GRAPH}")
        text = wrapped(
            ROWS,
            hardware=self.card.hardware,
            measured=best(aim, "dense") / best(aim, "reduced"),
            printed=aim["printed_speedup"],
            flops=float(whole.dense.matrix_flops(("prefill",)) / whole.matrix_flops(("prefill",))),
        )
        return text + tabled(rows, [*names, "printed", "measured"], left=2)

    def requests(self) -> str:
        """Whole requests from pixels: where the time to the first token goes."""
        names = {"aim_25": "AIM 25 %", "aim_50_merge": "AIM 50 %, merging alone"}
        names |= {"fastv_half": "FastV, half after layer 2", "vtw_16": "VTW after layer 16", "divprune": "DivPrune"}
        names |= {"video_holov": "HoloV", "video_dart": "DART", "video_sparsevlm": "SparseVLM"}
        names |= {"video_visionzip": "VisionZip", "video_vidcom2": "VidCom²"}
        guess = {step: dict(self.said(step, "ttft")) for step in ("requests", "selections")}
        rows, features = [], []
        for run, name in names.items():
            source, mark = (self.found, "") if len(stage(self.found, run, "ttft")) == 2 else (self.first, " ¹")
            whole = stage(source, run, "ttft")
            parts = [stage(source, run, op).get("reduced") for op in ("vision", "projector", "merge")]
            features.append(sum(part for part in parts[:2] if part is not None))
            said = guess["selections" if run.startswith("video") else "requests"].get((f"{run}@{EAGER}", "reduced"))
            rows.append(
                [
                    name + mark,
                    *map(ms, parts),
                    ms(whole["dense"]),
                    ms(whole["reduced"]),
                    f"{whole['dense'] / whole['reduced']:.2f}x",
                    "-" if said is None else f"{said[0] * 1e3:.1f}",
                ]
            )
        headers = ["method", "tower", "projector", "before layer 0", "TTFT dense", "TTFT reduced", "speed-up"]
        whole_run = self.estimate("requests", f"aim_25@{EAGER}")
        products = whole_run.rows(["projector"]) & whole_run.table.is_product
        pool = stage(self.found, "aim_25", "projector")["reduced"] - float(whole_run.seconds[products].sum())
        text = wrapped(
            REQUESTS, low=min(features) * 1e3, high=max(features) * 1e3, pool=pool * 1e3, pooling=self.card.pooling
        )
        return text + tabled(rows, [*headers, "predicted TTFT"], left=1)

    def one_image(self) -> str:
        """One image on LLaVA-1.5-7B's shape, method by method."""
        rows = []
        for name in dict.fromkeys(s["run"] for s in self.first["stages"] if s["run"].startswith("pixels_")):
            whole, merge = stage(self.first, name, "ttft"), stage(self.first, name, "merge").get("reduced")
            if len(whole) == 2:
                ratio = f"{whole['dense'] / whole['reduced']:.2f}x"
                rows.append([name.removeprefix("pixels_"), ms(merge), ms(whole["dense"]), ms(whole["reduced"]), ratio])
        graphs = [run["seconds"].get(GRAPH, {}) for name, run in self.runs.items() if name.startswith("image_")]
        ratios = [by["dense"] / by["reduced"] for by in graphs if "reduced" in by]
        low, high = min(ratios), max(ratios)
        text = wrapped(ONE_IMAGE, name=self.card.name, count=NUMBERS[len(ratios)], low=low, high=high)
        return text + tabled(rows, ["method", "before layer 0", "TTFT dense", "TTFT reduced", "speed-up"], left=1)

    def masked(self) -> str:
        """The released code's masks beside real drops."""
        rows = []
        for name, run in self.runs.items():
            ours = self.runs.get(name.removeprefix("masked_"))
            if name.startswith("masked_") and ours is not None:
                masked, dropped = run["seconds"][EAGER]["reduced"], ours["seconds"][EAGER]["reduced"]
                rows.append([ours["run"], ms(masked), ms(dropped), f"{masked / dropped:.2f}x"])
        return MASKED + tabled(rows, ["row", "masked", "dropped", "dropping is faster by"], left=1)

    def kernels(self) -> str:
        """The reduction's kernels and their floors."""
        ceilings = ceilings_of(loaded(self.card.first / "profile.json"))
        rows, shares = [], {}
        samples = self.record("kernels").samples
        for sample in samples:
            floor = floor_s(sample, ceilings, "bf16")
            sizes = " ".join(f"{key}={value:g}" for key, value in sample.dims.items() if key in SIZES)
            least = ["-", "-"] if floor < 1e-7 else [f"{floor * 1e6:.1f}", f"{floor / sample.median_s:.0%}"]
            rows.append([sample.name, sizes, f"{sample.median_s * 1e6:.1f}", *least])
            if sample.op in REDUCTION:
                shares.setdefault(sample.name, []).append(floor / sample.median_s)
        by_tokens = {(s.name, s.dims.get("tokens")): s.median_s for s in samples}
        steps = {tokens: s for (name, tokens), s in by_tokens.items() if name == "pagerank_steps"}
        ratios = [by_tokens["pagerank", tokens] / seconds for tokens, seconds in steps.items()] or [0.0]
        share = self.found["overhead"]["total_s"] / self.runs[AIM]["seconds"][EAGER]["reduced"]
        near = [name for name, of in shares.items() if max(of) >= 0.6]
        text = wrapped(
            KERNELS,
            ceilings=self.card.ceilings,
            flops=ceilings.flops_per_s["bf16"] / 1e12,
            memory=ceilings.memory_bytes_per_s / 1e12,
            share=share,
            reached="met" if share <= 0.03 else "not reached",
            sixty=f"{' and '.join(near)} alone, at its larger sizes" if near else "none",
            kernels=self.card.kernels.format(
                wave_low=min(ratios),
                wave_high=max(ratios),
                wave_us=by_tokens["pagerank", 1668.0] * 1e6,
                priced_us=self.priced_score() * 1e6,
            ),
        )
        return text + tabled(rows, ["kernel", "sizes", "time", "floor", "of floor"], left=2)

    def priced_score(self) -> float:
        """Seconds that the first cut of AIM's 25 % schedule is priced at."""
        whole = self.estimate("rows", f"{AIM}@{GRAPH}").to_dict()
        return next(float(op["time_s"]) for op in whole["ops"] if (op["stage"], op["name"]) == ("prefill", "score"))

    def decode(self) -> str:
        """Seconds a token after dense and reduced prompts."""
        rows = []
        for run in dict.fromkeys(s["run"] for s in self.found["stages"] if s["op"] == "decode"):
            for stack in (EAGER, GRAPH):
                by = stage(self.found, run, "decode", stack)
                if len(by) == 2:
                    rows.append([run, stack, ms(by["dense"]), ms(by["reduced"])])
        return wrapped(DECODE, decode=self.card.decode) + tabled(rows, ["run", "stack", "dense", "reduced"], left=2)

    def predicted(self) -> str:
        """Errors of estimates that never saw these clocks."""
        rows = []
        for stack in (EAGER, GRAPH):
            for part in ("prefill", "vision", "projector", "merge", "ttft", "decode"):
                for variant in ("dense", "reduced"):
                    if (found := self.errors(stack, part, variant)) is not None:
                        rows.append([stack, part, variant, *found])
        host = self.said_of("dense", "prefill", f"dense_100@{EAGER}", "dense")
        graph = self.said_of("rows", "prefill", f"{AIM}@{GRAPH}", "reduced")
        tower = self.said_of("requests", "vision", f"aim_25@{EAGER}", "reduced")
        figures = {"host": host[3], "host_said": host[0], "tower": tower[3], "tower_said": tower[0]}
        figures |= {"graph_miss": graph[3] - graph[0]}
        text = wrapped(PREDICTED, hardware=self.card.hardware, seen=self.card.seen)
        text += wrapped(self.card.misses, **{name: seconds * 1e3 for name, seconds in figures.items()})
        headers = ["stack", "part", "variant", "distinct", "MAPE", "bias", "worst", "80 %"]
        return text + tabled(rows, headers, left=3)

    def errors(self, stack: str, part: str, variant: str) -> list[Any] | None:
        """Distinct predictions, MAPE, bias, worst, coverage; a prompt timed beside several schedules is one."""
        distinct: dict[str, list[tuple[float, ...]]] = {}
        for step in RUN_STEPS:
            for (label, of), figures in self.said(step, part):
                if label.endswith("@" + stack) and of == variant:
                    distinct.setdefault(f"{figures[0]:.6g}", []).append(figures)
        found = [tuple(np.median(same, axis=0)) for same in distinct.values()]
        if not found:
            return None
        said, low, high, measured = np.array(found).T
        errors = said / measured - 1.0
        held = f"{np.mean((low <= measured) & (measured <= high)):.0%}" if high.all() else "-"
        worst = errors[np.argmax(np.abs(errors))]
        return [len(errors), f"{np.mean(np.abs(errors)):.1%}", f"{np.mean(errors):+.1%}", f"{worst:+.1%}", held]

    def own(self) -> str:
        """The card's own profile and two timings a stack, judged on everything else."""
        profile = read_mapping(self.card.first / self.card.profile)
        records = [self.record(step) for step in (*RUN_STEPS, "masked")]
        found = {
            stack: judge_own_card(profile, records, stack, fitted=first_and_last(records[0], stack, profile))
            for stack in (EAGER, GRAPH)
        }
        rows = [row for stack, own in found.items() for row in own_rows(stack, own)]
        rows.append(["", "the bars (speed-ups: within 4 %)", "", "≤ 5 %", "", "≤ 12 %", "70 to 90 %"])
        text = wrapped(
            OWN,
            profile=self.card.profile,
            nodes="no product that was timed is in its grid, and {} of attention {}".format(
                *counted(found[GRAPH].nodes_timed, found[EAGER].nodes_timed)
            ),
            fitted=" and ".join(f"{timing.run['workload']['text_tokens']}" for timing in found[GRAPH].fitted),
            stacks=" ".join(fitted_text(stack, own) for stack, own in found.items()),
        )
        headers = ["stack", "of", "count", "MAPE", "bias", "worst", "80 %"]
        text += tabled(rows, headers, left=2) + "\nWhat misses, and why:\n\n"
        return text + wrapped(HOST_MISSES + self.card.own, **self.own_figures(found)) + self.ops(profile)

    def own_figures(self, found: Mapping[str, OwnCard]) -> dict[str, Any]:
        """What the prose on the card's own profile quotes."""
        eager, graph = found[EAGER], found[GRAPH]
        worst = max(graph.prefills("reduced"), key=lambda point: abs(point.error))
        middle = [p.error for p in graph.prefills("reduced") if p.tokens and 600 <= p.tokens <= 1700]
        long = [p.error for p in graph.points("prefill", "dense") if p.tokens == PROMPT]
        cuts = [p.predicted_s / p.measured_s for p in eager.points("selection") if p.run == f"{AIM}@{EAGER}"]
        profile = read_mapping(self.card.first / self.card.profile)
        earlier = [loaded(self.card.first / f"{step}.json") for step in (*RUN_STEPS, "masked")]
        before = Errors.of(judge_own_card(profile, earlier, EAGER, fitted=eager.fitted).prefills("reduced"))
        assert before is not None
        return {
            "dense_worst": max(p.error for p in eager.prefills("dense")),
            "pixels": sum(abs(p.error) > 0.12 for p in eager.points("prefill", "reduced") if "pixels_" in p.run),
            "pixel_runs": sum("pixels_" in p.run for p in eager.points("prefill", "reduced")),
            "worst_graph": f"`{worst.run.partition('@')[0]}`, {worst.error:+.0%}",
            "middle": -100 * min(middle),
            "long": 100 * float(np.median(long)),
            "high": sum(speedup.error > 0 for speedup in graph.speedups),
            "speedups": len(graph.speedups),
            "cut_low": min(cuts),
            "cut_high": max(cuts),
            "undisturbed": before.mape,
        }

    def ops(self, profile: Mapping[str, Any]) -> str:
        """Groups of ops of three eager prefills, measured and predicted."""
        wanted = [("llava_ov_7b", "dense"), ("merge_only_25", "reduced"), (AIM, "reduced")]
        record = self.record("rows")
        runs = {f"{name}@{EAGER}": record.settings["runs"][f"{name}@{EAGER}"] for name, _ in wanted}
        compared = compare_record(replace(record, settings={"runs": runs, "profile": profile})).of("group")
        points = {(p.run.partition("@")[0], p.variant, p.name): p for p in compared}
        rows = [
            [group, *(cell for run in wanted for cell in measured_and_said(points.get((*run, group))))]
            for group in dict.fromkeys(p.name for p in compared)
        ]
        headers = ["group", *(f"{name} {what}" for name in ("6372", "1668", "AIM 25 %") for what in ("ms", "error"))]
        ratios = probe_ratios(loaded(self.card.first / "profile.json"), "bf16")
        alone = {(s.name, s.dims.get("q_len")): s.median_s for s in self.record("kernels").samples}
        run = {**record.settings["runs"][f"llava_ov_7b@{EAGER}"], "hardware": profile}
        attention = [op["time_s"] for op in estimate_run(load_run(run)).to_dict()["ops"] if op["name"] == KERNEL]
        text = wrapped(
            OPS,
            probes_low=min(ratios),
            probes_high=max(ratios),
            kernel=alone["cudnn", PROMPT] * 1e6,
            kernel_said=float(np.median(attention)) * 1e6,
        )
        return text + tabled(rows, headers, left=1)

    def estimate(self, step: str, label: str) -> Estimate:
        """A run of a step under the shipped card."""
        return priced(self.card, step, label)

    def said(self, step: str, part: str) -> Iterator[tuple[tuple[str, str], tuple[float, float, float, float]]]:
        """By (run's label, variant): seconds predicted with the shipped card, the band's edges (0: none), measured."""
        record = self.record(step)
        for label in record.settings["runs"]:
            for sample in record.samples:
                if sample.labels["run"] != label or sample.op != part:
                    continue
                whole, variant = self.estimate(step, label), sample.labels["variant"]
                result = whole if variant == "reduced" or not whole.run.schedule.events else whole.dense
                if part not in ("ttft", "decode") and part not in result.stages:
                    continue
                stages = stages_timed(part, whole.run)
                found = result.interval({"ttft": "ttft", "decode": "tpot"}.get(part, stages))
                yield (label, variant), (found.value, found.low, found.high or 0.0, sample.median_s)

    def said_of(self, step: str, part: str, label: str, variant: str) -> tuple[float, float, float, float]:
        """What `said` has of one run."""
        return dict(self.said(step, part))[label, variant]


HOST_MISSES = """- **Eager**: two timings give a stack an offset and a scale, where a slower host needs more
  microseconds a launch. The offset is added where the card is the limit as well (dense prefills come out up to
  {dense_worst:.0%} too long), and launches that the dense prefill has not, of AIM's cuts and of selections ({pixels} of
  {pixel_runs} from pixels miss by over 12 %), are not scaled. Of the first campaign's reduced prefills the MAPE is
  {undisturbed:.1%}.
"""


loaded = cache(load_record)


@cache
def priced(card: Card, step: str, label: str) -> Estimate:
    """A run of a step of the card's second campaign, under the shipped card."""
    document = loaded(card.second / f"{step}.json").settings["runs"][label]
    return estimate_run(load_run(dict(document), {"estimator": "calibrated", "hardware": card.hardware}))


def own_rows(stack: str, own: OwnCard) -> Iterator[list[Any]]:
    """Rows of the table: prefills dense, reduced and all, and speed-ups."""
    for variant, name in (("dense", "dense prefills"), ("reduced", "reduced prefills"), (None, "all prefills")):
        errors = Errors.of(own.prefills(variant))
        assert errors is not None
        yield [stack, name, errors.count, *shown(errors.mape, errors.bias, errors.worst), f"{errors.coverage:.0%}"]
    errors_of = [speedup.error for speedup in own.speedups]
    within = sum(abs(error) <= 0.04 for error in errors_of)
    name = f"speed-ups ({within} of {len(errors_of)} within 4 %)"
    mape, bias = float(np.mean(np.abs(errors_of))), float(np.mean(errors_of))
    yield [stack, name, len(errors_of), *shown(mape, bias, worst_of(own.speedups)), "-"]


def worst_of(speedups: Sequence[Speedup]) -> float:
    """The largest error."""
    return max((speedup.error for speedup in speedups), key=abs)


def shown(mape: float, bias: float, worst: float) -> list[str]:
    """Errors as the tables have them."""
    return [f"{mape:.1%}", f"{bias:+.1%}", f"{worst:+.1%}"]


def fitted_text(stack: str, own: OwnCard) -> str:
    """What a calibrated stack consists of."""
    offset, scale = own.calibrated.offset_s, own.calibrated.scale
    added = f"{offset * 1e3:.1f} ms a request" if offset else "no offset (the best is negative)"
    return f"`{stack}` gets {added} and {scale:.3f} on kernel times."


def counted(*nodes: tuple[int, int]) -> tuple[str, str]:
    """Lengths of attention that are nodes, of several stacks, in words; products must be none."""
    assert not any(products for products, _ in nodes)
    lengths = max(length for _, length in nodes)
    return f"{NUMBERS[lengths]} length{'s' * (lengths != 1)}", "are" if lengths != 1 else "is"


def measured_and_said(point: Any) -> tuple[str, str]:
    """Milliseconds of a group, and the prediction's error."""
    return ("-", "-") if point is None else (ms(point.measured_s), f"{point.error:+.0%}")


def best(run: Mapping[str, Any], variant: str) -> float:
    """The faster of eager and graph."""
    return min(by[variant] for by in run["seconds"].values() if variant in by)


def stage(found: Mapping[str, Any], run: str, op: str, stack: str = EAGER) -> dict[str, float]:
    """Median seconds of a stage of a run, by variant."""
    wanted = (run, op, stack)
    return {s["variant"]: s["median_s"] for s in found["stages"] if (s["run"], s["op"], s["stack"]) == wanted}


def ms(seconds: float | None) -> str:
    """Milliseconds, or a dash."""
    return "-" if seconds is None else f"{seconds * 1e3:.1f}"


def tabled(rows: Sequence[Sequence[Any]], headers: Sequence[str], *, left: int) -> str:
    """A table of Markdown."""
    return table([list(row) for row in rows], list(headers), left=left, style="github") + "\n"


def wrapped(text: str, **figures: Any) -> str:
    """Prose filled with figures and broken anew; headings and items of lists stay apart."""
    blocks = []
    together = re.sub(r"(?<=\d) (?=%)", HELD, text.format(**figures))
    for block in re.split(r"\n\n+", together.strip("\n")):
        for item in re.split(r"\n(?=- )", block):
            line = " ".join(item.split())
            indent = "  " if line.startswith("- ") else ""
            blocks.append(
                textwrap.fill(line, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
            )
            blocks.append("\n")
        blocks.append("\n")
    return "".join(blocks).replace(HELD, " ")


def sentence(pages: Sequence[Page]) -> str:
    """The measured claim of the README's first screen."""
    prefills, requests, towers = [], [], []
    for page in pages:
        row, whole = page.runs[AIM], stage(page.found, "aim_25", "ttft")
        prefills.append(gained(best(row, "dense"), best(row, "reduced")))
        requests.append(gained(whole["dense"], whole["reduced"]))
        towers.append(sum(stage(page.found, "aim_25", op)["reduced"] for op in ("vision", "projector")) * 1e3)
    first, *others = (page.card.name for page in pages)
    rest = "; ".join(
        f"on an {name} the prefill {prefill}, and the request {request}"
        for name, prefill, request in zip(others, prefills[1:], requests[1:], strict=True)
    )
    links = " and ".join(f"[docs/{page.card.page.name}](docs/{page.card.page.name})" for page in pages)
    text = f"""On an {first}, AIM at 25 % takes the prefill of 32 frames on LLaVA-OneVision-7B's shape {prefills[0]}
        faster than the best dense one (the paper computes {pages[0].runs[AIM]["printed_speedup"]:.2f}), and the whole
        request under transformers {requests[0]}; {rest}. The tower and its pooling take {min(towers):.0f} to
        {max(towers):.0f} ms of a request either way. {links} have the rows, how often each was timed, and what was
        predicted."""
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False) + "\n"


def gained(dense: float, reduced: float) -> str:
    """From and to, and how many times."""
    return f"from {ms(dense)} to {ms(reduced)} ms, **{dense / reduced:.1f} times**"


def into_readme(text: str) -> None:
    """Put the sentence between its markers."""
    path = ROOT / "README.md"
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    path.write_text(f"{before}{BEGIN}{text}{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    pages = [Page(card) for card in CARDS]
    for each in pages:
        each.card.page.write_text(each.text(), encoding="utf-8")
    into_readme(sentence(pages))
