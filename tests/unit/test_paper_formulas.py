"""Papers' counts of a prompt beside what is executed, and arithmetic in multiply-adds."""

from __future__ import annotations

import json
from statistics import fmean
from typing import Any

import pytest

import aimcost
from aimcost.errors import UnknownNameError
from aimcost.inputs.run import load_run
from aimcost.pricing.formulas import FORMULAS, flops_by_formula

LLAVA: dict[str, Any] = {"model": "llava-1.5-7b", "hardware": "nvidia_a100_sxm_80gb"}
ONEVISION: dict[str, Any] = {"model": "llava-onevision-qwen2-7b", "hardware": "nvidia_a100_sxm_80gb"}
FLAGS = ["estimate", "--model", ONEVISION["model"], "--hardware", ONEVISION["hardware"], "--frames", "32"]
# text tokens of the eleven image benchmarks in vbdi/divprune's tflops.py (799e2d9)
DIVPRUNE_TEXTS = [15, 15, 23, 83, 25, 113, 15, 39, 21, 91, 57]


def by_formula(**run: Any) -> dict[str, float]:
    return flops_by_formula(load_run({**LLAVA, **run}))


def test_divprune_gives_what_its_released_script_prints() -> None:
    """Means over the benchmarks: 3.2280 T of 576 visual tokens, 0.5122 T of 56 (r = 0.098: 520 of 576 go)."""
    full, pruned = [], []
    for text in DIVPRUNE_TEXTS:
        workload = {"visual_tokens": 576, "text_tokens": text}
        full.append(by_formula(workload=workload)["divprune"])
        cut = {"name": "explicit", "tokens_per_layer": [[56 + text, 32]]}
        pruned.append(by_formula(workload=workload, method=cut)["divprune"])
    assert round(fmean(full) / 1e12, 4) == 3.2280
    assert round(fmean(pruned) / 1e12, 4) == 0.5122


def test_holitom_counts_visual_tokens_alone() -> None:
    """32 · 196 tokens: 40.8 T in its table, 40,765,480,763,392 by the code in its issue 2; 91.3 T are executed."""
    run = {**ONEVISION, "workload": {"frames": 32, "text_tokens": 100, "newline": False}}
    assert flops_by_formula(load_run(run), ["holitom"]) == {"holitom": 40_765_480_763_392}
    executed = aimcost.estimate(run).stages["prefill"].flops
    assert executed == pytest.approx(91.3e12, rel=1e-3)


def test_fastv_sums_the_layers_before_and_after_its_cut() -> None:
    """Equation 5: K layers of n tokens and T − K of fewer, here 2 of 636 and 30 of 348."""

    def layer(n: int) -> int:
        return 4 * n * 4096**2 + 2 * n**2 * 4096 + 2 * n * 4096 * 11008

    run = {"workload": {"visual_tokens": 576, "text_tokens": 60, "batch": 3}}
    method = {"name": "explicit", "tokens_per_layer": [[636, 2], [348, 30]]}
    assert by_formula(**run, method=method)["fastv"] == 3 * (2 * layer(636) + 30 * layer(348))


def test_sparsevlm_counts_three_mlp_matrices() -> None:
    """Its modelling_sparse_llama.py: 4nd² + 2n²d + 3ndm of all tokens, in each layer."""
    found = by_formula(workload={"visual_tokens": 576, "text_tokens": 92})
    assert found["sparsevlm"] - found["fastv"] == 32 * 668 * 4096 * 11008


def test_an_unknown_paper_is_refused_with_the_list(cli: Any) -> None:
    with pytest.raises(UnknownNameError, match="known: divprune, fastv, holitom, sparsevlm"):
        flops_by_formula(load_run({**LLAVA, "workload": {"text_tokens": 9}}), ["nobody"])
    done = cli(*FLAGS, "--flops-formula", "fastv,fastw")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown formula 'fastw'; did you mean 'fastv'? (known: divprune, fastv, holitom, sparsevlm)" in done.stderr
    assert cli(*FLAGS, "--flops-formula", "fastv", "--csv").returncode == 2


def test_each_paper_has_one_line_with_its_source(cli: Any) -> None:
    text = cli(*FLAGS, "--flops-formula", ",".join(FORMULAS)).stdout
    lines = [line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith("formula ")]
    assert [line.partition(":")[0] for line in lines] == list(FORMULAS)
    for line, formula in zip(lines, FORMULAS.values(), strict=True):
        assert formula.source in line
        assert line.endswith("91.35 TFLOP executed in prefill")
    found = json.loads(cli(*FLAGS, "--flops-formula", "holitom,fastv", "--json").stdout)["summary"]
    assert list(found["flops_by_formula"]) == ["holitom", "fastv"]
    assert "flops_by_formula" not in json.loads(cli(*FLAGS, "--json").stdout)["summary"]


def test_multiply_adds_are_half_the_flops(cli: Any) -> None:
    flops = cli(*FLAGS, "--layers", "--ops", "--method", "aim").stdout
    macs = cli(*FLAGS, "--layers", "--ops", "--method", "aim", "--macs").stdout
    assert "MACs are multiply-adds: FLOPs / 2" in macs
    assert "FLOP " not in macs
    assert macs.count("  MACs  ") == flops.count("  FLOPs  ") == 4

    def first(text: str) -> str:
        return next(line for line in text.splitlines() if line.startswith("to first token")).split()[3]

    assert float(first(macs)) == pytest.approx(float(first(flops)) / 2, rel=1e-3)
    totals = json.loads(cli(*FLAGS, "--macs", "--json").stdout)["totals"]
    assert totals["macs"] == totals["flops"] / 2
    assert "'--macs' must be given without --csv" in cli(*FLAGS, "--macs", "--csv").stderr
