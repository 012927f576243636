"""Write docs/validation.md from the shipped profiles, the committed timings of others, and the records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aimcost.inputs import discover
from aimcost.inputs.files import read_mapping
from aimcost.inputs.hardware import load_hardware
from aimcost.inputs.stack import load_stack
from aimcost.machine.calibration import calibration_of
from aimcost.machine.coefficients import COLLECTIVE_BAND, COLLECTIVE_SHARE
from aimcost.machine.fitting.derive import machine_of
from aimcost.machine.fitting.external import compare_external, read_external
from aimcost.machine.inheritance import INHERITED_FILE
from aimcost.machine.timemodels.attention import AttentionModel
from aimcost.measure.campaign.plan import is_campaign
from aimcost.measure.records import Record, load_record
from aimcost.measure.validate import compare_record
from aimcost.ops.attention import single_pass
from aimcost.report.calibration import errors_text, external_text, inherited_text
from aimcost.report.table import table
from aimcost.report.validation import validation_section
from aimcost.report.validation_plot import draw_validation
from aimcost.types.formats import Widths
from aimcost.units import MEGA

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "hardware_profiles" / "measurements"
PICTURES = ROOT / "docs" / "pictures"
EXTERNAL = ROOT / "tests" / "baselines" / "external_gemm_timings.csv"

HEAD = """# Predicted against measured

`make docs` (`docs/validation.py`) writes this page from the profiles in `hardware_profiles/` and the timings in
`tests/baselines/`. Every figure in its tables is computed.

## Method

A profile marked *measured* holds coefficients fitted to public tables of operation latencies, with
half of the distinct shapes held out. Errors are means of |predicted / measured − 1| (MAPE) over single
operations; *bias* is the mean of predicted / measured − 1; *90 % within* bounds nine tenths of
the absolute errors. The 80 % band of an estimate comes from the 10th and 90th percentile of
measured / predicted on the fitted half, shared by all rows of a kind of operation and independent
between kinds; *in band* is the share of each check's rows inside it. The shipped coefficients are those of
the fitted half, so these errors are theirs.

`aimcost calibrate --from aiconfigurator --system a100_sxm` (with `aimcost[silicon]`) repeats a fit and
prints its table; `aimcost calibrate --check FILE` repeats the comparison with third-party timings.

## Third-party timings, never fitted

Single GEMMs (fp16) that microsoft/vidur measured for Llama-2-7B (older software), and GEMMs of a stack left out of the
fits. *Scale* is the factor that would remove the bias (`aimcost calibrate --from-timing`), the last column the error
that remains. *In band* should be near 80 % for stacks like those of the tables; for older software it is not, and a
scale corrects that.
"""

MEASURED = """## Runs of the AIM implementation, measured

Each section is one record in `hardware_profiles/measurements/`: models with random weights, run dense and
reduced through `aimcost.apply`, beside the prediction of `calibrated` with a profile of the same machine. The
record holds the runs, the profile and every sample, so that

    aimcost validate --from-record RECORD

prints these digits on any computer, without torch. On a CPU one thread is timed by its CPU time, which other
load hardly affects. The claim is about prefills and layers; *selection*, *merge* and the groups are parts of them that
locate an error (*rest*: residual additions and the overhead of calling modules, which no op of the table covers).
"""

BEYOND = """## Beyond the measured range

GEMMs with few rows are fitted and those with many predicted, at eight times the fitted range and beyond. The 10th and
90th percentile of measured / predicted there are the band outside a profile's range (never tighter than the band
inside), in m, n and k. Where no such check exists (attention, collectives, machines measured by `aimcost profile`) the
square of the band is assumed.
"""

INHERITED = """## Cards that were not measured

A card without a calibration inherits the coefficients of a related card, and every band is multiplied by how far GEMMs
of one card are from another card's coefficients. Cards of the same architecture and compute
capability take the first row, other NVIDIA cards (Volta, Turing, Ampere 8.6) the second. Cards of another vendor
take the third: it is measured on Intel's Arc Pro B60, the one such card in the tables, and **assumed** for all
others. In the first row A100 and L40S stand in for each other, and the B200 for the RTX PRO 6000: measured cards of one
design differ in memory only. `aimcost calibrate --inherited` computes the table again;
`hardware_profiles/tables/inherited.json` names the pairs of cards.
"""

UNKNOWN = """## What is not known

- Predictions of AIM on a GPU are compared with clocks on two kinds of card, both Hopper ([gpu-h200.md](gpu-h200.md),
  [gpu-h100.md](gpu-h100.md)).
- Norms, activations, RoPE, look-ups, selection and merging are in no operation table. Their rates are fitted to
  published kernel timings, or are those of a similar kernel; the 80 % band of a norm is {norms} times its time, that of
  a look-up {lookups}. Eager stacks multiply launches and traffic as counted in transformers' layers.
- Host time per launch, in µs, is that of the software stack: {stacks}. `configs/stacks/` says which of these
  are fitted to published timings and which are assumed.
- Attention takes the coefficients of the kernel that the profile names first. Where a card has those of a second
  one, that one takes {fastest:+.0%} to {slowest:+.0%} for a causal prefill of {tokens} tokens at head width {width}.
- Collectives are NCCL's; serving stacks use faster kernels for small messages. Machines whose
  profile holds no curves take {link:.0%} of the link's datasheet bandwidth, within {low:g} to {high:g} times.
- Bands of inherited coefficients are those of GEMMs: attention, collectives and hosts were not compared between cards.
"""
TOKENS, WIDTH = 4096, 128
# Heads and key heads of Qwen2-7B.
HEADS, KV_HEADS = 28, 4


def page() -> str:
    """The page's Markdown."""
    parts = [HEAD, external_text(compare_external(read_external(EXTERNAL)), tablefmt="github"), ""]
    parts += [MEASURED, *sections()]
    blocks = calibrations()
    parts += [BEYOND, extrapolation_text(blocks) + "\n"]
    bands = read_mapping(ROOT / "hardware_profiles" / INHERITED_FILE)
    parts += [INHERITED, inherited_text(bands, tablefmt="github") + "\n"]
    parts.append("## Held-out errors by card\n")
    for name, block in blocks.items():
        parts.append(f"### {name}\n\n{block['source']}, {block['date']}\n")
        parts.append(errors_text(block["errors"], tablefmt="github") + "\n")
    return "\n".join([*parts, unknown(blocks)])


def calibrations() -> dict[str, dict[str, Any]]:
    """The calibration block of each card that was fitted to tables."""
    blocks = {name: read_mapping(path).get("calibration") for name, path in discover.names("hardware").items()}
    return {name: block for name, block in blocks.items() if block and block.get("errors")}


def extrapolation_text(blocks: Mapping[str, Any]) -> str:
    """One row per card and format: error and band inside the measured range and beyond it."""
    rows = [
        [card, dtype, *(f"{e[f'{where}_mape']:.1%}" for where in ("held_out", "extrapolation")), *map(band, bands)]
        for card, block in blocks.items()
        for dtype, e in block["gemm"].items()
        for bands in [(e["band"], e["extrapolation_band"])]
    ]
    headers = ["card", "format", "MAPE inside", "MAPE beyond", "band inside", "band beyond"]
    return table(rows, headers, left=2, style="github")


def band(edges: Sequence[float]) -> str:
    """Two factors, as text."""
    return f"{edges[0]:.2f} – {edges[1]:.2f}"


def unknown(blocks: Mapping[str, Any]) -> str:
    """What no table covers, with the figures assumed instead."""
    kinds = calibration_of(load_hardware(next(iter(blocks)))).memory_bound
    stacks = [load_stack(name) for name in discover.names("stack")]
    others = list(second_kernels(blocks))
    return UNKNOWN.format(
        norms=factors(kinds["rms_norm"]),
        lookups=factors(kinds["embed"]),
        stacks=", ".join(f"`{stack.name}` {stack.host_s.value * MEGA:g}" for stack in stacks),
        tokens=TOKENS,
        width=WIDTH,
        fastest=min(others),
        slowest=max(others),
        link=COLLECTIVE_SHARE,
        low=COLLECTIVE_BAND[0],
        high=COLLECTIVE_BAND[1],
    )


def factors(model: Any) -> str:
    """Band of a kind as factors on its time."""
    return f"{model.provenance.low:.2f}–{model.provenance.high:.2f}"


def second_kernels(blocks: Mapping[str, Any]) -> Iterator[float]:
    """Time of each other kernel's causal prefill, beside that of the kernel that the profile names first."""
    sizes = {"batch": 1, "heads": HEADS, "kv_heads": KV_HEADS, "head_dim": WIDTH, "q_len": TOKENS, "kv_len": TOKENS}
    dims = {key: np.array([float(value)]) for key, value in sizes.items()}
    cost = single_pass(dims, causal=True, widths=Widths(weights=2.0, activations=2.0, kv=2.0))
    for card, block in blocks.items():
        machine = machine_of(load_hardware(card), "bf16")
        kernels = {k: v[WIDTH] for k, v in block["attention"].items() if k != "default" and WIDTH in v}
        tables = read_mapping(ROOT / "hardware_profiles" / block["tables"])
        seconds = {
            kernel: AttentionModel.of(values, tables[f"attention/{kernel}/{WIDTH}"], where=card).seconds(
                dims, bytes_moved=cost.bytes, flops=cost.flops, **machine
            )[0]
            for kernel, values in kernels.items()
        }
        first = seconds.pop(block["attention"]["default"])
        yield from (float(other / first - 1.0) for other in seconds.values())


def records() -> Iterator[tuple[Path, Record]]:
    """The validation records; others are profiles, and folders of campaigns, which docs/gpu.py writes about."""
    for path in sorted(RECORDS.rglob("*.json")):
        if is_campaign(path.parent):
            continue
        record = load_record(path)
        if record.kind == "validation":
            yield path, record


def sections() -> list[str]:
    """One section a validation record."""
    found = []
    for path, record in records():
        relative = path.relative_to(ROOT).as_posix()
        comparison = compare_record(record, where=relative)
        picture = PICTURES / f"{path.parent.name}_{path.stem}.svg"
        draw_validation(comparison, picture)
        drawn = f"![predicted against measured]({picture.relative_to(ROOT / 'docs').as_posix()})\n"
        found += [validation_section(comparison, relative), drawn]
    return found


if __name__ == "__main__":
    (ROOT / "docs" / "validation.md").write_text(page(), encoding="utf-8")
