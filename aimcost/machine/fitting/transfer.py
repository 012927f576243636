"""How wrong coefficients are on another card: the bands of cards that inherit them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from ...inputs.files import write_atomically
from ...inputs.hardware import load_hardware
from ...inputs.strict_json import to_json
from ..attained import design_share, sibling_share
from ..calibration import calibration_of
from ..inheritance import DESIGNS, PARENTS, Kinship, kinship_of
from ..timemodels.gemm import GemmModel
from ..timemodels.tables import Floats
from .aiconfigurator import FITTED_STACKS, SYSTEM_PROFILES, Timings, package_version, read_gemm, systems
from .attained import tensor_share
from .derive import machine_of
from .fit import pool, predict_gemm

__all__ = ["inherited_bands", "write_inherited_bands"]

Pair = tuple[str, str]
# No two measured cards of one design differ in more than their memory: these two stand for those that do.
NEIGHBOURS = ("nvidia_a100_sxm_80gb", "nvidia_l40s")
FOREIGN = "intel_arc_pro_b60"  # the one measured card that is not NVIDIA's
ROWS = 4000  # of each card, so that no card's table outweighs another's
# A model's projections are this wide and more. Narrower products take a launch, whatever the card.
NARROWEST = 512


def inherited_bands(progress: Callable[[int, int, str], None] = lambda *_: None) -> dict[str, Any]:
    """10th and 90th percentile of measured / predicted where a card's products take another's coefficients.

    By kinship: ``sibling``, the parent's coefficients on the other cards of its architecture, and on two
    neighbours each other's; ``architecture``, between any two designs; ``vendor``, of every NVIDIA design on
    another maker's card. The ratios hold the parent's own errors too, so that a band widened by them is wide.

    Parameters
    ----------
    progress
        Called with what is done, of how much, and what comes next.

    Raises
    ------
    MissingExtraError
        The tables are not installed.
    """
    names = systems()
    total = len(names) + 1
    samples = {}
    for done, system in enumerate(names):
        progress(done, total, f"reading {system}")
        samples[SYSTEM_PROFILES[system]] = _sample(system)
    progress(len(names), total, "comparing cards")
    pairs: dict[Kinship, list[Pair]] = {
        "sibling": [*_siblings(samples), NEIGHBOURS, NEIGHBOURS[::-1]],
        "architecture": list(permutations(DESIGNS, 2)),
        "vendor": [(design, FOREIGN) for design in DESIGNS],
    }
    return {
        **{kinship: _transfer(chosen, samples) for kinship, chosen in pairs.items()},
        "source": (
            f"tables of aiconfigurator-core {package_version()} (Apache-2.0), bf16 products with n and k of "
            f"{NARROWEST} and more, {ROWS} a card"
        ),
    }


def write_inherited_bands(path: Path, progress: Callable[[int, int, str], None] = lambda *_: None) -> dict[str, Any]:
    """Compute the bands and write them to `path`, as JSON."""
    bands = inherited_bands(progress)
    write_atomically(path, to_json(bands) + "\n")
    return bands


def _siblings(cards: Iterable[str]) -> list[Pair]:
    parents = [(PARENTS[load_hardware(card).architecture], card) for card in cards]
    return [(parent, card) for parent, card in parents if parent != card]


def _sample(system: str) -> Timings:
    """As many products of each card, drawn with a fixed seed."""
    measured = pool([t for t in (read_gemm(system, stack, "bfloat16") for stack in FITTED_STACKS) if t])
    measured = measured.where((measured.dims["n"] >= NARROWEST) & (measured.dims["k"] >= NARROWEST))
    chosen = np.random.default_rng(0).choice(len(measured), min(ROWS, len(measured)), replace=False)
    mask = np.zeros(len(measured), dtype=bool)
    mask[chosen] = True
    return measured.where(mask)


def _transfer(pairs: list[Pair], samples: dict[str, Timings]) -> dict[str, Any]:
    ratios = np.concatenate([_ratios(parent, card, samples[card]) for parent, card in pairs])
    low, high = np.quantile(ratios, [0.1, 0.9])
    return {
        "band": [round(float(low), 3), round(float(high), 3)],
        "mape": round(float(np.mean(np.abs(1 / ratios - 1))), 3),
        "pairs": [f"{parent} → {card}" for parent, card in pairs],
    }


def _ratios(parent: str, card: str, sample: Timings) -> Floats:
    """Measured over what the parent's coefficients say on the card's own peak, bandwidth and rate by the rules."""
    theirs, mine = load_hardware(parent), load_hardware(card)
    model = calibration_of(theirs).gemm["bf16"]
    assert isinstance(model, GemmModel)  # shipped cards carry coefficients, not a machine's own grid
    share = tensor_share(model, theirs)
    kinship = kinship_of(mine, theirs)
    clock = calibration_of(mine).machine.cycles_per_s
    by_rule = {
        "sibling": lambda: sibling_share(mine, theirs, share),
        "architecture": lambda: design_share(mine, clock),
        "vendor": lambda: share,
    }
    carried = model.carried(by_rule[kinship]() / share, 1.0)
    return np.asarray(sample.seconds / predict_gemm(carried, sample, machine_of(mine, "bf16")))
