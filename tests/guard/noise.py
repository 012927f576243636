"""Seeded noise models of a latency gate, and what the gate makes of them. Simulated, not measured.

A model gives the logarithm of prefill over reference kernel for every pair of every process of every run. A process
differs from the next by a factor that stays (`process`), a run by one of its own (`run`), a CPU model by one that its
name tells (`cpus`); pairs are noisy, correlated, drifting, spiked, or in one of two states of the clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aimcost.guard.bands import Band, Limit, Update, figure_of, merged, paired_limit
from aimcost.guard.history import rise_of

Floats = NDArray[np.float64]
SHAPE = {"tokens": 8, "layers": 2, "hidden": 64, "intermediate": 96, "heads": 4, "kv_heads": 2, "head_dim": 16}
PROCESSES, PAIRS, UPDATES = 10, 25, 3
# A disturbance of one sample is cut at e^0.5; the reference kernel takes 0.9 of a prefill.
CUT, REFERENCE = 0.5, 0.9


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Relative standard deviations, unless said.

    `tails` degrees of freedom of Student's t (0: normal); `spikes` chance, Pareto exponent and size; `walk` correlation
    from pair to pair and its spread; `states` chance to switch, factors of the reference kernel and of the prefill;
    `drift` a pair, up or down; `cpus` factors of equally likely machines; `neighbours` chance, least and most.
    """

    pairs: float
    process: float = 0.0
    run: float = 0.0
    tails: float = 0.0
    drift: float = 0.0
    walk: tuple[float, float] = (0.0, 0.0)
    spikes: tuple[float, float, float] | None = None
    states: tuple[float, float, float] | None = None
    cpus: tuple[float, ...] = (1.0,)
    neighbours: tuple[float, float, float] | None = None
    # what the bars ask to see: +10 % where processes differ by at most 2 % and tails are light
    quiet: bool = True


MODELS = {
    "independent, 2 % a pair": Noise(pairs=0.02),
    "4 % a pair, 1 % between processes": Noise(pairs=0.04, process=0.01),
    "2 % a pair, 1.8 % between processes": Noise(pairs=0.02, process=0.018),
    "2 % a pair, 3 % between processes": Noise(pairs=0.02, process=0.03, quiet=False),
    "Student's t(2) of 4 %, Pareto spikes": Noise(
        pairs=0.04, process=0.01, tails=2.0, spikes=(0.2, 1.2, 0.3), quiet=False
    ),
    "drift of 0.03 % a pair": Noise(pairs=0.02, process=0.01, drift=0.0003),
    "correlated 0.98, 3 %": Noise(pairs=0.01, walk=(0.98, 0.03)),
    "correlated 0.995, 4 %": Noise(pairs=0.01, walk=(0.995, 0.04)),
    "two clock states, +12 % and +2 %": Noise(pairs=0.02, states=(0.01, 1.02, 1.12), quiet=False),
    "two clock states, +8 % and 0": Noise(pairs=0.02, states=(0.01, 1.0, 1.08), quiet=False),
    "two CPU models, one in four +8 %": Noise(pairs=0.02, cpus=(1.0, 1.0, 1.0, 1.08)),
    "a neighbour in 1 of 10 processes, +10 to 60 %": Noise(
        pairs=0.03, process=0.01, neighbours=(0.1, 0.1, 0.6), quiet=False
    ),
    "1.5 % between runs, 1 % between processes": Noise(pairs=0.02, process=0.01, run=0.015),
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Shares of gates that alarmed, by slowdown, and at what each states as visible; the median of what they state."""

    alarms: dict[float, float]
    visible: float
    at_visible: float


@dataclass(frozen=True, kw_only=True)
class Risen:
    """Shares of histories in which a rise was called: with none, and so many runs after one."""

    false: float
    after: tuple[float, ...]


def measured(
    noise: Noise, runs: int, generator: np.random.Generator, slowdown: float = 0.0
) -> tuple[Floats, list[str]]:
    """Median ratios, shape (runs, `PROCESSES`), and the CPU model of each run."""
    shape = (runs, PROCESSES, PAIRS)
    cpu = generator.integers(len(noise.cpus), size=runs)
    level = np.log(noise.cpus)[cpu][:, None] + noise.run * generator.standard_normal((runs, 1))
    level = level + noise.process * generator.standard_normal(shape[:2])
    if noise.neighbours:
        chance, least, most = noise.neighbours
        met = generator.random(shape[:2]) < chance
        level += met * np.log1p(generator.uniform(least, most, shape[:2]))
    ratio = level[..., None] + math.log1p(slowdown) - math.log(REFERENCE)
    for sign in (1, -1):
        draws = generator.standard_t(noise.tails, shape) if noise.tails else generator.standard_normal(shape)
        ratio = ratio + sign * np.clip(noise.pairs * draws, -CUT, CUT)
        if noise.spikes:
            chance, exponent, size = noise.spikes
            ratio += sign * np.log1p(size * generator.pareto(exponent, shape)) * (generator.random(shape) < chance)
    rho, spread = noise.walk
    if spread:
        steps = generator.standard_normal(shape) * spread * math.sqrt(1 - rho**2)
        for pair in range(1, PAIRS):
            steps[..., pair] += rho * steps[..., pair - 1]
        ratio += steps
    if noise.drift:
        direction = generator.choice([-1.0, 1.0], size=(*shape[:2], 1))
        ratio += noise.drift * direction * np.arange(1, PAIRS + 1)
    if noise.states:
        chance, reference, prefill = noise.states
        switched = np.cumsum(generator.random(shape) < chance, axis=-1) % 2 == 1
        slow = (generator.random((*shape[:2], 1)) < 0.5) ^ switched
        ratio += slow * math.log(prefill / reference)
    return np.exp(np.median(ratio, axis=-1)), [f"cpu of factor {noise.cpus[index]}" for index in cpu]


class _Tally:
    """Alarms of gates by slowdown, and the slowdowns that they said they would see."""

    def __init__(self, slowdowns: tuple[float, ...]) -> None:
        self.alarms = dict.fromkeys(slowdowns, 0)
        self.visible: list[float] = []
        self.shown = 0

    def add(self, slowdown: float, figure: float, allowed: Limit) -> None:
        """One gate's figure at a slowdown; what it says is visible is tried on the same run."""
        self.alarms[slowdown] += figure > allowed.ratio
        self.visible.append(allowed.visible)
        self.shown += figure / (1 + slowdown) * (1 + allowed.visible) > allowed.ratio

    def outcome(self, gates: int) -> Outcome:
        return Outcome(
            alarms={key: count / gates for key, count in self.alarms.items()},
            visible=float(np.median(self.visible)),
            at_visible=self.shown / len(self.visible),
        )


def simulated(noise: Noise, slowdowns: tuple[float, ...], gates: int, *, seed: int = 0, limit: float = 0.05) -> Outcome:
    """Gates against a band of `UPDATES` updates each."""
    generator = np.random.default_rng(seed)
    updates = [measured(noise, gates, generator) for _ in range(UPDATES)]
    runs = [measured(noise, gates, generator, slowdown) for slowdown in slowdowns]
    tally = _Tally(slowdowns)
    for gate in range(gates):
        band: Band | None = None
        for ratios, cpus in updates:
            band = merged(band, SHAPE, Update(cpu=cpus[gate], ratios=tuple(ratios[gate].tolist())), limit)
        assert band is not None
        for slowdown, (ratios, cpus) in zip(slowdowns, runs, strict=True):
            allowed = band.limit(limit, cpu=cpus[gate], processes=PROCESSES)
            tally.add(slowdown, figure_of(ratios[gate].tolist()), allowed)
    return tally.outcome(gates)


def simulated_pairs(
    noise: Noise, slowdowns: tuple[float, ...], gates: int, *, seed: int = 0, limit: float = 0.05
) -> Outcome:
    """Gates against the base commit on the same machine: CPU model and run are the same for both."""
    generator = np.random.default_rng(seed)
    alone = replace(noise, cpus=(1.0,), run=0.0)
    base, _ = measured(alone, gates, generator)
    tally = _Tally(slowdowns)
    for slowdown in slowdowns:
        head, _ = measured(alone, gates, generator, slowdown)
        for ours, theirs in zip(head.tolist(), base.tolist(), strict=True):
            allowed = paired_limit(ours, theirs, limit)
            tally.add(slowdown, figure_of(ours), allowed)
    return tally.outcome(gates)


def risen(noise: Noise, histories: int, *, before: int = 20, after: int = 6, by: float = 0.05, seed: int = 0) -> Risen:
    """Histories of runs, some time after a rise that a single run hardly shows."""
    generator = np.random.default_rng(seed)
    found = [0] * (after + 1)
    for _ in range(histories):
        quiet, slow = (
            [figure_of(run) for run in measured(replace(noise, cpus=(1.0,)), runs, generator, slowdown)[0].tolist()]
            for runs, slowdown in ((before, 0.0), (after, by))  # a history is of one CPU model
        )
        for count in range(after + 1):
            found[count] += rise_of(quiet + slow[:count]) is not None
    return Risen(false=found[0] / histories, after=tuple(count / histories for count in found[1:]))
