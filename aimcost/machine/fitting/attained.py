"""Published kernels, silicon tables and datasheets → the ``attained`` block of every profile, and what all cards share.

`renew` writes, from `configs/timings/kernels-*.jsonl` and the tables of aiconfigurator-core:

- ``tables/memory_bound.json``: memory-bound kernels by kind, with held-out errors by card and by source;
- ``tables/products_fp32.json``: a formula of fp32 products that every card carries by its share;
- ``attained`` in every visible profile: shares of bandwidth and of both peaks, each with its basis and source.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...inputs.files import read_text, write_atomically
from ...inputs.hardware import load_hardware
from ...inputs.strict_json import parse, to_json
from ...types import HardwareSpec
from ..attained import (
    FP32_WATTS,
    FREE,
    FREE_BEFORE_8,
    TENSOR_WATTS,
    design_share,
    fp32_share,
    sibling_share,
    watts_per_cycle,
    watts_per_flop,
)
from ..calibration import FP32_FILE, MEMORY_BOUND_FILE, calibration_of
from ..inheritance import kinship_of, parent_of
from ..timemodels.gemm import GemmModel
from ..timemodels.tables import Floats
from .aiconfigurator import FITTED_STACKS, SYSTEM_PROFILES, Timings, package_version, read_gemm, systems
from .derive import machine_of
from .fit import fit_gemm, halves, mape, predict_gemm
from .memory_bound import KINDS, Fit, KernelRows, chip_of, fit, held_out, read_rows

__all__ = ["attained_blocks", "fp32_products", "memory_bound", "renew", "tensor_share"]

# Products of a model's prefill: what a tensor share is stated on.
REFERENCE = [
    (m, n, k) for m in (2048, 4096, 8192) for n, k in ((4096, 4096), (14336, 4096), (4096, 14336), (8192, 8192))
]
# Kinds without timings: the kind whose launch and rate they use, and why. Bands are wide.
_VIDUR_EMBED = (
    "A100 and H100 reach 0.164 of their bandwidth in microsoft/vidur's profiles (commit 7d47513, MIT), "
    "2.2 bytes a cycle and SM on both"
)
ASSUMED: Mapping[str, Mapping[str, Any]] = {
    "embed": {"bytes_per_cycle": 2.2, "band": [0.8, 1.25], "source": _VIDUR_EMBED},
    "interpolate": {
        "row_cycles": 745.0,
        "typical_width": 114688,
        "vendor": "nvidia",
        "band": [0.6, 1.7],
        "source": "measured: LLaVA-OneVision's pooling of 32 frames in bf16 takes 47.2 and 46.2 ms on two H200s "
        "(hardware_profiles/measurements/nvidia_h200_sxm: projector less its products), of 114,688 grids of one "
        "channel; on NVIDIA's other cards assumed to take as many cycles",
    },
    **{
        kind: {"bytes_per_cycle": 6.3, "band": [0.6, 1.7], "source": "assumed: moves rows as fast as a fused RMSNorm"}
        for kind in ("gather", "merge")
    },
    "select": {
        "bytes_per_cycle": 6.3,
        "serial": True,
        "band": [0.6, 1.7],
        "source": "assumed: reads scores as fast as a fused RMSNorm, launches one after the other",
    },
    "score": {
        "bytes_per_cycle": 6.3,
        "compute_share": 0.3,
        "band": [0.5, 2.0],
        "source": "assumed: reads as fast as a fused RMSNorm, a third of the peak in its products",
    },
}
WIDTHS_FP32 = (4.0, 4.0)


def memory_bound(rows: KernelRows) -> tuple[dict[str, Any], Fit]:
    """The shared table: coefficients of each kind with its held-out error and band, and the fit behind it."""
    fitted = fit(rows)
    without_card, without_source = held_out(rows, "card"), held_out(rows, "source")
    kinds: dict[str, Any] = {}
    for kind in KINDS:
        chosen, model = rows.kind == kind, fitted.kinds[kind]
        ratio = rows.seconds[chosen] / without_card[chosen]
        low, high = np.quantile(ratio, [0.1, 0.9])
        block: dict[str, Any] = {"launch_cycles": round(model.launch_cycles)}
        if model.row_cycles:
            block["row_cycles"] = round(model.row_cycles, 3)
            block["typical_width"] = round(float(np.median(rows.width[chosen])))
        if np.isfinite(model.bytes_per_cycle):
            block["bytes_per_cycle"] = round(model.bytes_per_cycle, 2)
        sources, cards = sorted(set(rows.source[chosen])), sorted(set(rows.card[chosen]))
        kinds[kind] = {
            **block,
            "band": [round(min(float(low), 1.0), 3), round(max(float(high), 1.0), 3)],
            "held_out_mape": round(_by_card(rows, without_card, chosen), 3),
            "without_source_mape": round(_by_card(rows, without_source, chosen), 3),
            "source": f"fitted to {', '.join(sources)} on {', '.join(cards)}",
        }
    launch = round(float(np.exp(np.mean([np.log(model.launch_cycles) for model in fitted.kinds.values()]))))
    kinds |= {kind: {"launch_cycles": launch, **values} for kind, values in ASSUMED.items()}
    return {"reuse": round(fitted.reuse, 3), "kinds": kinds}, fitted


def _by_card(rows: KernelRows, predicted: Floats, chosen: Any) -> float:
    """Mean over cards of the mean absolute percentage error."""
    cards = set(rows.card[chosen])
    parts = [chosen & (rows.card == card) for card in cards]
    return float(np.mean([mape(predicted[part], rows.seconds[part]) for part in parts]))


def read_fp32(path: Path) -> dict[str, Timings]:
    """Products in fp32 by card, of a timing file."""
    found = [parse(line) for line in read_text(path).splitlines()]
    result = {}
    for card in sorted({row["kernel"]["hw"] for row in found}):
        mine = [row for row in found if row["kernel"]["hw"] == card]
        dims = {key: np.array([float(row["kernel"][key]) for row in mine]) for key in ("m", "n", "k")}
        result[card] = Timings(dims, np.array([row["value_s"] for row in mine]), str(mine[0]["group"]))
    return result


def fp32_products(by_card: Mapping[str, Timings], fitted_on: str) -> tuple[GemmModel, dict[str, dict[str, float]]]:
    """The formula fitted to half of one card's products, and what each card makes of it.

    Returns
    -------
    model, checks
        `checks` by card: ``rate``, that of a half of its products over the formula's, and ``mape``, ``bias``
        ``low`` and ``high`` on the other half.
    """
    machines = {card: machine_of(load_hardware(card), "fp32") for card in by_card}
    known, _ = halves(by_card[fitted_on])
    # the tables would be this card's alone; the formula carries
    model = replace(fit_gemm(known, machines[fitted_on], WIDTHS_FP32), corrections={})
    checks = {}
    for card, timings in by_card.items():
        known, unknown = halves(timings)
        on_known = predict_gemm(model, known, machines[card], WIDTHS_FP32)
        rate = 1.0 if card == fitted_on else float(np.median(on_known / known.seconds))
        predicted = predict_gemm(model.carried(rate, 1.0), unknown, machines[card], WIDTHS_FP32)
        low, high = np.quantile(unknown.seconds / predicted, [0.1, 0.9])
        checks[card] = {
            "rate": rate,
            "mape": mape(predicted, unknown.seconds),
            "bias": float(np.mean(predicted / unknown.seconds - 1.0)),
            "low": float(low),
            "high": float(high),
        }
    return model, checks


def tensor_share(model: GemmModel, hardware: HardwareSpec, dtype: str = "bf16", element_bytes: float = 2.0) -> float:
    """Share of its peak that a card's coefficients reach, geometric mean over `REFERENCE`."""
    m, n, k = (np.array(values, dtype=float) for values in zip(*REFERENCE, strict=True))
    moved = element_bytes * (m * k + n * k + m * n)
    machine = machine_of(hardware, dtype)
    peak = machine["peak"]
    seconds = model.seconds(
        m,
        n,
        k,
        bytes_moved=moved,
        weight_bytes=element_bytes * n * k,
        peak=peak,
        bandwidth=machine["bandwidth"],
        sm_count=machine["sm_count"],
    )
    return float(np.exp(np.mean(np.log(2.0 * m * n * k / seconds)))) / peak


def streamed_share(system: str, bandwidth: float) -> float:
    """90th percentile of bandwidth that products of 16 rows and fewer reach on weights of 300 MB and more."""
    parts = [t for t in (read_gemm(system, stack, "bfloat16") for stack in FITTED_STACKS) if t is not None]
    rates = []
    for timings in parts:
        m, n, k = (timings.dims[key] for key in ("m", "n", "k"))
        moved = 2.0 * (m * k + n * k + m * n)
        rates.append((moved / timings.seconds / bandwidth)[(m <= 16) & (moved > 3e8)])
    return float(np.quantile(np.concatenate(rates), 0.9))


def attained_blocks(
    names: list[str], fitted: Fit, fp32: Mapping[str, float], timed: Mapping[str, list[str]]
) -> dict[str, dict[str, Any]]:
    """The ``attained`` block of each profile.

    Parameters
    ----------
    fp32
        Share of the CUDA cores' peak on `REFERENCE`, of the cards that were timed.
    timed
        Kinds of memory-bound kernels timed on a card.
    """
    cards = {name: load_hardware(name) for name in names}
    tables = {SYSTEM_PROFILES[system]: system for system in systems()}
    streamed = {name: streamed_share(system, cards[name].memory_bytes_per_s) for name, system in tables.items()}
    memory = {name: _memory(card, fitted, streamed, timed) for name, card in cards.items()}
    tensor = {name: _tensor(card, tables) for name, card in cards.items()}
    blocks = {}
    for name, card in cards.items():
        block = {"memory": memory[name], "tensor": tensor[name]}
        cuda = _fp32(card, fp32)
        blocks[name] = {**block, "fp32": cuda} if cuda else block
    return blocks


def _memory(
    card: HardwareSpec, fitted: Fit, streamed: Mapping[str, float], timed: Mapping[str, list[str]]
) -> dict[str, Any]:
    if card.name in timed:
        return {
            "share": round(fitted.shares[chip_of(card.name)], 3),
            "basis": "timed",
            "kinds": timed[card.name],
            "source": "fitted to its published memory-bound kernels (configs/timings)",
        }
    if card.name in streamed:
        return {
            "share": round(streamed[card.name], 3),
            "basis": "tables",
            "source": f"weights streamed by its products (aiconfigurator-core {package_version()}), 90th percentile",
        }
    shares = {**streamed, **{name: fitted.shares[chip_of(name)] for name in timed}}
    memory = "HBM" if _has_hbm(card) else "GDDR"
    alike = {name: load_hardware(name) for name in shares}
    pool = [n for n, spec in alike.items() if spec.vendor == "nvidia" and _has_hbm(spec) == _has_hbm(card)]
    design = [name for name in pool if alike[name].architecture == card.architecture] if memory == "HBM" else []
    values = [shares[name] for name in design or pool]
    where = f"{card.architecture} cards" if design else "cards"
    return {
        "share": round(float(np.exp(np.mean(np.log(values)))), 3),
        "basis": "inherited",
        "source": (
            f"mean of the {len(values)} {where} with {memory} that were timed ({min(values):.2f} to {max(values):.2f})"
        ),
    }


def _has_hbm(card: HardwareSpec) -> bool:
    gddr = card.compute_capability in ("7.5", "8.6", "8.9", "12.0") or card.architecture == "xe2"
    return not gddr


def _tensor(card: HardwareSpec, tables: Mapping[str, str]) -> dict[str, Any]:
    if card.name in tables:
        model = calibration_of(card).gemm["bf16"]
        assert isinstance(model, GemmModel)
        return {
            "share": round(tensor_share(model, card), 3),
            "basis": "measured",
            "source": "its own coefficients on 12 products of 2048 to 8192 rows",
        }
    parent = load_hardware(parent_of(card))
    theirs = calibration_of(parent).gemm["bf16"]
    assert isinstance(theirs, GemmModel)
    share = tensor_share(theirs, parent)
    kinship = kinship_of(card, parent)
    if not card.tdp_w or kinship == "vendor":
        return {"share": round(share, 3), "basis": "inherited", "source": f"that of {parent.name}"}
    if kinship == "sibling":
        per_flop, other = (1e12 * watts_per_flop(spec) for spec in (card, parent))
        return {
            "share": round(sibling_share(card, parent, share), 3),
            "basis": "rule",
            "source": (
                f"{share:.2f} of {parent.name} times the root of {per_flop:.2f} over {other:.2f} W per TFLOP/s, "
                f"at most {max(FREE, share):.2f}"
            ),
        }
    clock = card.boost_clock_hz or parent.boost_clock_hz
    old = card.compute_capability.startswith("7.")
    free, known = (
        (FREE_BEFORE_8, "a published prefill on a V100 (InfoMerge)")
        if old
        else (FREE, "no card of its design was measured")
    )
    return {
        "share": round(design_share(card, clock), 3),
        "basis": "published" if old and card.architecture == "volta" else "rule",
        "source": (
            f"{known}: {free} where power holds the boost clock ({TENSOR_WATTS} W per SM "
            f"and GHz), it has {watts_per_cycle(card, clock):.2f}"
        ),
    }


def _fp32(card: HardwareSpec, fp32: Mapping[str, float]) -> dict[str, Any] | None:
    if card.vendor != "nvidia" or not card.tdp_w:
        return None
    if card.name in fp32:
        source = "fitted to its fp32 products (NeuSight, configs/timings)"
        return {"share": round(fp32[card.name], 3), "basis": "timed", "source": source}
    parent = load_hardware(parent_of(card))
    if card.name == FP32_TWIN:
        share = round(fp32[FP32_FITTED_ON], 3)
        return {"share": share, "basis": "inherited", "source": f"that of {FP32_FITTED_ON}, the same chip"}
    free = max(fp32.values())
    # Hopper's library runs Ampere's kernels: no clock is short of power there
    cap = fp32["nvidia_h100_sxm"] if card.architecture == "hopper" else free
    clock = card.boost_clock_hz or parent.boost_clock_hz or 1.9e9
    share = min(cap, fp32_share(card, clock, free))
    source = (
        f"{cap:.2f} where power holds the boost clock ({FP32_WATTS} W per SM and GHz), "
        f"it has {watts_per_cycle(card, clock):.2f}"
    )
    return {"share": round(share, 3), "basis": "rule", "source": source}


# The card whose fp32 products are fitted, and the board with the same chip that is not timed.
FP32_FITTED_ON, FP32_TWIN = "nvidia_a100_pcie_80gb", "nvidia_a100_sxm_80gb"


def renew(profiles: Path, timings: Path, date: str) -> dict[str, dict[str, Any]]:
    """Write the two shared tables and the ``attained`` block of every visible profile.

    Parameters
    ----------
    profiles, timings
        ``hardware_profiles`` and ``configs/timings``.
    """
    rows = read_rows(sorted(timings.glob("kernels-*mem*.jsonl")))
    table, fitted = memory_bound(rows)
    write_table(profiles / MEMORY_BOUND_FILE, table)
    by_card = read_fp32(timings / "kernels-neusight-linear-fp32.jsonl")
    model, checks = fp32_products(by_card, FP32_FITTED_ON)
    shares = {
        card: tensor_share(model.carried(check["rate"], 1.0), load_hardware(card), "fp32", 4.0)
        for card, check in checks.items()
    }
    block = _fp32_block(model, checks, date)
    write_atomically(
        profiles / FP32_FILE,
        to_json({"share": round(shares[FP32_FITTED_ON], 3), "products": block}) + "\n",
    )
    timed = {str(card): sorted({str(kind) for kind in rows.kind[rows.card == card]}) for card in set(rows.card)}
    names = [path.stem for path in sorted(profiles.glob("*.yaml")) if not path.stem.startswith("llm_viewer")]
    blocks = attained_blocks(names, fitted, shares, timed)
    for name, values in blocks.items():
        write_attained(profiles / f"{name}.yaml", values)
    return blocks


def _fp32_block(model: GemmModel, checks: Mapping[str, Mapping[str, float]], date: str) -> dict[str, Any]:
    low, high = min(c["low"] for c in checks.values()), max(c["high"] for c in checks.values())
    return {
        **model.block(),
        "range": {key: list(values) for key, values in model.calibrated.items()},
        "held_out_mape": round(max(check["mape"] for check in checks.values()), 4),
        "band": [round(min(low, 1.0), 4), round(max(high, 1.0), 4)],
        "source": (
            f"fitted to half of the fp32 products that NeuSight (commit 6945927, torch 2.1) timed on {FP32_FITTED_ON}, "
            f"without tables; the error is the worst of {', '.join(checks)} on the other half"
        ),
        "date": date,
    }


_BLOCK = re.compile(r"^attained:.*?(?=^[^\s#]|\Z)", re.MULTILINE | re.DOTALL)


def write_attained(profile: Path, block: Mapping[str, Mapping[str, Any]]) -> None:
    """Put the block into a profile, before its calibration."""
    text = _BLOCK.sub("", read_text(profile))
    lines = ["attained:"]
    for name, values in block.items():
        lines.append(f"  {name}:")
        for key, value in values.items():
            # a list of plain names
            shown = to_json(value) if isinstance(value, str) else str(value).replace("'", "")
            lines.append(f"    {key}: {shown}")
    written = "\n".join(lines) + "\n"
    head, mark, tail = text.partition("\ncalibration:")
    write_atomically(profile, head.rstrip("\n") + "\n" + written + (mark.lstrip("\n") + tail if mark else ""))


def write_table(path: Path, table: Mapping[str, Any]) -> None:
    """The shared table, one kind a line."""
    kinds = ",\n".join(f"  {to_json(kind)}: {to_json(values, indent=None)}" for kind, values in table["kinds"].items())
    write_atomically(path, f'{{\n "reuse": {table["reuse"]},\n "kinds": {{\n{kinds}\n }}\n}}\n')
