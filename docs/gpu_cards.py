"""The cards that docs/gpu.py has pages about: facts, and what only a reader of the records can say of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["CARDS", "ROOT", "Card"]

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Card:
    """A card with two campaigns; braces in its prose are filled with figures of the records.

    Attributes
    ----------
    name, hardware
        As the page says it, and the shipped profile, whose name is the folder of the campaigns too.
    profile
        The card's own profile, measured in the first campaign.
    campaigns
        How the two were run, and what they lack.
    pooling
        Where the cycles of the interpolation kernel come from.
    ceilings, kernels
        Where the ceilings were measured; what is said of the kernels.
    decode
        A remark on decode graphs.
    seen
        What the shipped profile has seen of these records.
    misses
        Why predictions of the shipped profile miss.
    own
        Why predictions of the card's own profile miss.
    """

    name: str
    hardware: str
    profile: str
    campaigns: str
    pooling: str
    ceilings: str
    kernels: str
    decode: str
    seen: str
    misses: str
    own: str

    @property
    def folder(self) -> Path:
        """The folder of its campaigns."""
        return ROOT / "hardware_profiles" / "measurements" / self.hardware

    @property
    def first(self) -> Path:
        """The first campaign."""
        return self.folder / "2026-11-26_first"

    @property
    def second(self) -> Path:
        """The second campaign, whose figures the tables hold."""
        return self.folder / "2026-11-26"

    @property
    def page(self) -> Path:
        """The page about it."""
        return ROOT / "docs" / f"gpu-{self.name.lower()}.md"


H200 = Card(
    name="H200",
    hardware="nvidia_h200_sxm",
    profile="nvidia_h200.yaml",
    campaigns="""The first campaign (`2026-11-26_first`) ran 5.5 minutes. The second (`2026-11-26`) had 3.9 minutes on
another H200, with faster reduction kernels and without the causal mask that transformers writes out while a CUDA graph
is recorded; five of its steps were cut off by the clock. Its long products were 2 to 7 % slower.""",
    pooling="""Its cycles were taken from these records (`memory_bound.json`), so the predicted TTFT has seen that one
kernel; the `llava` stack's time per frame, fitted to one published source, fell from 6.5 to 5.2 ms when it was
priced.""",
    ceilings="on the first card",
    kernels="""The second card's copy was timed as a memory copy of a graph, which is slower than a kernel. By a
profiler's trace of one eager prefill each (not committed), tuning took a step of PageRank at 1668 tokens from 64 to
47 µs, matching with its norms from 119 to 43 µs, choosing the kept tokens from 22 to 6 µs and the first gathering from
128 to 21 µs. The wavefront kernel (ADR 0004), which an H200 takes now, was not timed on one: see
[gpu-h100.md](gpu-h100.md).""",
    decode="The first campaign's graphs wrote the mask out here too (10.2 ms dense).",
    seen="only the interpolation was used (so the projector and TTFT have seen it)",
    misses="""- **Eager, short prompts** (transformers): this host queues a dense prefill of 100 tokens in {host:.0f} ms
  where the stack file says {host_said:.0f}. `aimcost calibrate-stack` takes the user's own timing; the shipped value
  stays that of published clocks.
- **Graphs** are slower than said, reduced ones most: gaps of one to two microseconds between 1,300 kernels explain 2 of
  the 6 ms that AIM at 25 % misses by; the rest is not explained.
- **Tower**: one image is bound by this host; 32 frames take {tower:.0f} ms where {tower_said:.0f} are predicted.
  **Projector**: of one image, bound by the host. **Before layer 0**: selections that loop on the host.""",
    own="""- **AIM with few tokens, captured** ({worst_graph}): the profile timed the reduction's kernels before they
  were made faster, so that AIM's cuts are predicted at {cut_low:.1f} to {cut_high:.1f} times what they take now.
- **Products** of the second card are slower than the first's, where the profile was measured.""",
)

H100 = Card(
    name="H100",
    hardware="nvidia_h100_sxm",
    profile="nvidia_h100_80gb_hbm3.yaml",
    campaigns="""The first campaign (`2026-11-26_first`) ran 2.9 minutes and captured no prefill: transformers makes its
cache of an empty list, which the runtime took for a copy from the host. Its profile is whole. The second
(`2026-11-26`) ran 4.6 minutes and has the graphs; its profile, correctness and dense steps were cut off by the clock.
Its host was disturbed at times: {disturbed} of {eager} eager reduced prefills took over 15 % longer than in the
first.""",
    pooling="""Its cycles were taken from the H200's records (`memory_bound.json`), so no part of the predicted TTFT has
seen this card.""",
    ceilings="in the first campaign",
    kernels="""`pagerank` is the wavefront kernel, which computes the logits twice and has the floor of two passes;
`pagerank_steps` computes them six times and is timed for comparison
([ADR 0004](adr/0004-kernels-two-paths-three-tricks.md) has tiles, other head widths and fp32). The wavefront takes
{wave_low:.2f} to {wave_high:.2f} of the steps' time and lies further from its floor: blocks of a head finish one after
the other. Estimates price the steps on every card: at 1668 tokens {priced_us:.0f} µs on this one, where the wavefront
takes {wave_us:.0f}.""",
    decode="",
    seen="nothing was used",
    misses="""- **Eager, short prompts** (transformers): this host queues a dense prefill of 100 tokens in {host:.0f} ms
  where the stack file says {host_said:.0f}; below about 1000 tokens an eager prefill takes what the host takes, and
  the disturbed ones longer.
- **Graphs** are slower than said, reduced ones most, as on an H200: AIM at 25 % by {graph_miss:.1f} ms.
- **Tower**: 32 frames take {tower:.0f} ms where {tower_said:.0f} are predicted. **Projector**: of one image, bound by
  the host. **Before layer 0**: selections that loop on the host.""",
    own="""- **DivPrune, captured** ({worst_graph}): its steps before layer 0 are part of the graph, and each is priced
  by the profile's curve of selecting, which times one kernel that ranks all tokens.
- **Graphs of 600 to 1700 tokens** are predicted up to {middle:.0f} % too short, dense ones of 6372 tokens {long:.1f} %
  too long: {high} of {speedups} speed-ups are predicted too high.
- **The disturbed host** of the second campaign: see the figure of the first.""",
)

CARDS = (H200, H100)
