"""How wrong coefficients are on another card: the band of a card that inherits them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..loading.calibration import INHERITED_FILE, calibration_of, parent_of
from ..loading.hardware import load_hardware
from ..records import write_atomically
from ..timemodels.gemm import GemmModel
from .aiconfigurator import FITTED_STACKS, SYSTEM_PROFILES, package_version, read_gemm, systems
from .derive import machine_of
from .fit import pool, predict_gemm

__all__ = ["inherited_band", "write_inherited_band"]

NEIGHBOURS = {"nvidia_a100_sxm_80gb", "nvidia_l40s"}
ROWS = 4000  # of each card, so that no card's table outweighs another's


def inherited_band() -> dict[str, Any]:
    """10th and 90th percentile of measured / predicted where a card's products take a relative's
    coefficients: of its own architecture, and between the two neighbours A100 and L40S."""
    ratios, pairs = [], []
    for system in systems():
        card = load_hardware(SYSTEM_PROFILES[system])
        relatives = {parent_of(card)} | (NEIGHBOURS if card.name in NEIGHBOURS else set())
        parts = [t for t in (read_gemm(system, stack, "bfloat16") for stack in FITTED_STACKS) if t]
        measured = pool(parts)
        chosen = np.random.default_rng(0).choice(len(measured), min(ROWS, len(measured)), replace=False)
        mask = np.zeros(len(measured), dtype=bool)
        mask[chosen] = True
        sample = measured.where(mask)
        for parent in sorted(relatives - {card.name}):
            model = calibration_of(load_hardware(parent)).gemm["bf16"]
            assert isinstance(model, GemmModel)  # shipped cards carry coefficients, not a machine's own grid
            predicted = predict_gemm(model, sample, machine_of(card, "bf16"))
            ratios.append(sample.seconds / predicted)
            pairs.append(f"{parent} → {card.name}")
    together = np.concatenate(ratios)
    low, high = np.quantile(together, [0.1, 0.9])
    return {
        "band": [round(float(low), 3), round(float(high), 3)],
        "mape": round(float(np.mean(np.abs(1 / together - 1))), 3),
        "pairs": pairs,
        "source": f"tables of aiconfigurator-core {package_version()} (Apache-2.0), bf16 products",
    }


def write_inherited_band(profiles: Path) -> dict[str, Any]:
    """Compute the band and write it beside the profiles."""
    band = inherited_band()
    write_atomically(profiles / INHERITED_FILE, json.dumps(band, indent=1, ensure_ascii=False) + "\n")
    return band
