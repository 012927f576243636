"""Write docs/validation.md from the shipped profiles, the committed timings of others, and the records."""

from __future__ import annotations

from pathlib import Path

from aimcost import discover
from aimcost.external import compare_external, read_external
from aimcost.loading.files import read_mapping
from aimcost.records import load_record
from aimcost.report.calibration import errors_text, external_text
from aimcost.report.validation import validation_section
from aimcost.report.validation_plot import draw_validation
from aimcost.validation import compare_record

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "hardware_profiles" / "measurements"
PICTURES = ROOT / "docs" / "pictures"
EXTERNAL = ROOT / "tests" / "baselines" / "external_gemm_timings.csv"

HEAD = """# Predicted against measured

This page is written by `make docs` from the profiles in `hardware_profiles/` and the timings in
`tests/baselines/`. No figure in its tables is typed.

## Method

A profile marked *measured* holds coefficients fitted to public tables of operation latencies, half of
whose distinct shapes were left out. Errors are means of |predicted / measured − 1| (MAPE) over single
operations; *bias* is the mean of predicted / measured − 1; *90 % within* bounds nine tenths of the
absolute errors. The 80 % band of an estimate comes from the 10th and 90th percentile of
measured / predicted on the held-out half, shared by all rows of a kind of operation and independent
between kinds. The coefficients that are shipped are those of the fitted half, so these errors are theirs.

How: `aimcost calibrate --from aiconfigurator --system a100_sxm` (with `aimcost[silicon]`) repeats a fit and
prints its table; `aimcost calibrate --check FILE` repeats the comparison with timings of others.

## Timings of others, never fitted

Single products (fp16) that microsoft/vidur measured for Llama-2-7B (another software era), and products of a
stack that was left out of the fits. *Scale* is the one factor that would remove the bias
(`aimcost calibrate --from-timing`), the last column what is left after it. *In band* should be near 80 %
where the stack is of the tables' kind; where a clock is of another era it is not, and a scale is the cure.
"""

MEASURED = """## Runs of the AIM implementation, timed for real

Each section is one record in `hardware_profiles/measurements/`: models with random weights, run dense and
reduced through `aimcost.apply`, beside the prediction of `calibrated` with a profile of the same machine. The
record holds the runs, the profile and every sample, so that

    aimcost validate --from-record RECORD

prints these digits on any computer, without torch. On a CPU one thread is timed by its own CPU time, which
other load hardly stretches. Prefills and layers are the claim; *selection*, *merge* and the groups are below
them in time, and say where an error comes from (*rest*: residual additions, and what calling the modules
takes, which no operation of the table holds).
"""

UNKNOWN = """## What is not known

- **No prefill of the AIM implementation has been timed on a GPU by this project yet.** Predicted times of
  whole requests rest on the operations above.
- Norms, activations, RoPE, look-ups, selection and merging are in no table. They take the share of bandwidth
  that public profiles of such kernels reach (0.36–0.62, look-ups 0.15–0.18), with a band that holds both ends;
  `eager` execution multiplies launches and traffic as counted in transformers' layers.
- Host time a launch is assumed (15 µs eager, 6 µs compiled, within 0.4 to 2 times); `execution: cuda_graph` leaves
  it out.
- Attention takes the coefficients of the kernel that the profile names first; other kernels differ by 5–20 %.
- Collectives are NCCL's; serving stacks send small messages with faster kernels of their own. Machines whose
  profile holds no curves take 70 % of the link's datasheet bandwidth, with a band of a factor of two.
- Cards without tables inherit a relative's coefficients, with the band in
  `hardware_profiles/tables/inherited.json`, which says between which cards it was measured.
"""


def page() -> str:
    """The page's Markdown."""
    parts = [HEAD, external_text(compare_external(read_external(EXTERNAL)), tablefmt="github"), ""]
    parts += [MEASURED, *sections()]
    parts.append("## Held-out errors by card\n")
    for name, path in discover.names("hardware").items():
        block = read_mapping(path).get("calibration")
        if block and block.get("errors"):
            parts.append(f"### {name}\n\n{block['source']}, {block['date']}\n")
            parts.append(errors_text(block["errors"], tablefmt="github") + "\n")
    return "\n".join([*parts, UNKNOWN])


def sections() -> list[str]:
    """One section a validation record; other records in the folder are profiles and campaigns."""
    found = []
    for path in sorted(RECORDS.rglob("*.json")):
        record = load_record(path)
        if record.kind == "validation":
            relative = path.relative_to(ROOT).as_posix()
            comparison = compare_record(record, where=relative)
            picture = PICTURES / f"{path.parent.name}_{path.stem}.svg"
            draw_validation(comparison, picture)
            drawn = f"![predicted against measured]({picture.relative_to(ROOT / 'docs').as_posix()})\n"
            found += [validation_section(comparison, relative), drawn]
    return found


if __name__ == "__main__":
    (ROOT / "docs" / "validation.md").write_text(page(), encoding="utf-8")
