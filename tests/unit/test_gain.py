"""Bands of a total, of what a reduction saves and of its speed-up: one-sided terms, shared terms, a run over itself."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import aimcost
from aimcost.machine.bands import OWN, SPREAD_DECODE, SPREAD_PROMPT, WIDTH
from aimcost.pricing.gain import gain, limit
from aimcost.pricing.priced import Band
from aimcost.pricing.pricing import estimate_run, unreduced
from aimcost.report.text import estimate_text

IMAGE: dict[str, Any] = {
    "model": "llava-1.5-7b",
    "workload": {"images": 1, "text_tokens": 60},
    "hardware": "nvidia_a100_sxm_80gb",
}


def band(seconds: list[float], below: list[float], above: list[float], **keys: Any) -> Band:
    count = len(seconds)
    return Band(
        names=tuple("abc"[:count]),
        group=np.arange(count),
        seconds=np.array(seconds),
        below=np.array(below),
        above=np.array(above),
        **{"decode": np.zeros(count, dtype=bool), **keys},
    )


def test_terms_add_in_quadrature_and_an_end_may_be_missing() -> None:
    """3 below and 4 below make 5; the term without a lower end widens the upper one alone."""
    both = band([10.0, 20.0, 0.0], [3.0, 4.0, 0.0], [0.0, 0.0, 12.0])
    assert both.around(np.ones(3)) == pytest.approx((25.0, 42.0))
    assert both.around(np.array([1.0, 0.0, 0.0])) == pytest.approx((7.0, 10.0))


def test_width_is_of_terms_and_scales_are_of_totals() -> None:
    """Half of (3, 4) and 10 % of 30 below: √(1.5² + 2² + 3²); prompt and decode have scales of their own."""
    scaled = band([10.0, 20.0], [3.0, 4.0], [0.0, 0.0], width=0.5, prompt_scale=(0.9, 1.2))
    low, high = scaled.around(np.ones(2))
    assert (low, high) == pytest.approx((30.0 - math.sqrt(1.5**2 + 2**2 + 3**2), 36.0))
    parted = band([10.0, 20.0], [0.0, 0.0], [0.0, 0.0], decode=np.array([False, True]), decode_scale=(0.5, 1.0))
    assert parted.around(np.ones(2)) == pytest.approx((20.0, 30.0))


def test_a_request_that_may_cost_more_and_never_less() -> None:
    """transformers: 0 ms a request, at most 30; the low end of its time is that without any request."""
    estimate = aimcost.estimate(IMAGE)
    assert estimate.band is not None
    moves = estimate.band.moves(estimate.first_token_rows)
    assert moves["request"] == pytest.approx((0.0, WIDTH * 0.030))
    assert moves["prompt"] == pytest.approx(
        (estimate.ttft_s * (1 - SPREAD_PROMPT[0]), estimate.ttft_s * (SPREAD_PROMPT[1] - 1))
    )
    without = aimcost.estimate(IMAGE, include=["vision", "projector", "prefill"])
    assert estimate.ttft_s == without.ttft_s
    assert estimate.ttft_band_s[0] == pytest.approx(without.ttft_band_s[0])
    assert estimate.ttft_band_s[1] > without.ttft_band_s[1]  # type: ignore[operator]


def test_prompt_and_decode_have_a_scale_each() -> None:
    run = {**IMAGE, "workload": {"images": 1, "text_tokens": 60, "new_tokens": 9}}
    estimate = aimcost.estimate(run, stack="torch_compile")
    assert estimate.band is not None
    moves = estimate.band.moves(estimate.step_rows)
    total = 8 * estimate.stages["decode"].tpot_s
    assert moves["prompt"] == (0.0, 0.0)
    assert moves["decode"] == pytest.approx((total * (1 - SPREAD_DECODE[0]), total * (SPREAD_DECODE[1] - 1)))
    untested = aimcost.estimate(run, stack="vllm")
    assert untested.band is not None
    assert untested.band.moves(untested.step_rows)["decode"][0] == pytest.approx(
        0.15 * 8 * untested.stages["decode"].tpot_s
    )


def test_a_run_gains_nothing_over_itself() -> None:
    estimate = aimcost.estimate(IMAGE, stack="llava")
    found = gain(estimate, estimate)
    assert found is not None
    assert found.speedup == pytest.approx((1.0, 1.0, 1.0))
    assert found.saved == pytest.approx((0.0, 0.0, 0.0))


def fake(seconds: list[float], above: list[float]) -> Any:
    """Two rows, of terms a and b, with upper ends alone."""
    segments = [
        SimpleNamespace(stage="prefill", name=name, beside="", start=i, stop=i + 1) for i, name in enumerate("ab")
    ]
    return SimpleNamespace(
        seconds=np.array(seconds),
        band=band(seconds, [0.0, 0.0], above),
        shares=lambda what: np.ones(2),
        table=SimpleNamespace(segments=segments),
    )


def test_what_both_runs_share_in_proportion_drops_out() -> None:
    """D = 100, R = 50. Term a moves them by 10 and 5 (a tenth of each: nothing), b by 8 and 0: 0.08 up, and OWN."""
    found = gain(fake([60.0, 40.0], [10.0, 8.0]), fake([30.0, 20.0], [5.0, 0.0]))
    assert found is not None
    assert found.speedup.value == 2.0
    assert found.speedup.low == pytest.approx(2.0 * math.exp(-OWN))
    assert found.speedup.high == pytest.approx(2.0 * math.exp(math.hypot(OWN, 0.08)))
    # saved: 10 - 5 and 8 - 0 up, and 0.2 of the 50 s
    assert found.saved == pytest.approx((50.0, 50.0 - 50 * OWN, 50.0 + math.hypot(5.0, 8.0, 50 * OWN)))


def test_moves_larger_than_the_run_leave_the_ratio_within_the_runs_bands():
    """D = 4 up to 24, R = 12 up to 32 by the same 20 s: linearised, D / R would rise to a hundred times itself."""
    found = gain(fake([3.0, 1.0], [20.0, 0.0]), fake([3.0, 9.0], [20.0, 0.0]))
    assert found is not None
    assert found.speedup.high == pytest.approx(24.0 / 12.0 * math.exp(OWN))
    assert found.speedup.low == pytest.approx(4.0 / 12.0 * math.exp(-OWN))


def test_the_ratio_is_known_better_than_a_quotient_of_bands() -> None:
    reduced = aimcost.estimate({**IMAGE, "method": {"name": "divprune"}}, stack="llava")
    dense = estimate_run(unreduced(reduced.run))
    found = gain(dense, reduced)
    assert found is not None
    assert found.speedup.high is not None
    (low, high), (dense_low, dense_high) = reduced.ttft_band_s, dense.ttft_band_s
    assert high is not None
    assert dense_high is not None
    assert dense_low / high < found.speedup.low < found.speedup.value < found.speedup.high < dense_high / low
    summary = reduced.to_dict()["summary"]
    assert summary["ttft_speedup"] == pytest.approx(dense.ttft_s / reduced.ttft_s)
    assert (summary["ttft_speedup_low"], summary["ttft_speedup_high"]) == pytest.approx(found.speedup[1:])
    assert summary["ttft_saved_s"] == pytest.approx(dense.ttft_s - reduced.ttft_s)


def test_an_estimator_without_a_band_states_the_ratio_alone() -> None:
    reduced = aimcost.estimate({**IMAGE, "method": {"name": "divprune"}, "estimator": "roofline"})
    summary = reduced.to_dict()["summary"]
    assert summary["ttft_speedup"] > 1.0
    assert summary["ttft_speedup_low"] is None
    assert summary["ttft_high_s"] is None


def test_the_limit_is_what_lies_outside_the_language_model() -> None:
    dense = aimcost.estimate(IMAGE, stack="llava")
    outside = dense.ttft_s - dense.stages["prefill"].time_s
    expected = f"{outside * 1e3:.0f} of {dense.ttft_s * 1e3:.0f} ms are outside the language model"
    assert limit(dense) == f"{expected}: no reduction can beat {dense.ttft_s / outside:.1f}x here"
    text = aimcost.estimate({**IMAGE, "model": "llama-2-7b", "workload": {"text_tokens": 4000}})
    assert limit(text).startswith("0 ms of ")


KEYS = [
    *("stack", "method", "ttft_s", "ttft_low_s", "ttft_high_s", "tpot_s", "tpot_low_s", "tpot_high_s"),
    *("request_s", "tokens_per_s", "visual_tokens", "mean_visual_tokens", "parameters", "active_parameters"),
    *("context_limit", "concurrent_requests", "ttft_saved_s", "ttft_speedup", "ttft_speedup_low", "ttft_speedup_high"),
]


def test_the_summary_has_every_key_and_null_where_there_is_no_meaning() -> None:
    summary = aimcost.estimate(IMAGE).to_dict()["summary"]
    assert list(summary) == KEYS
    none = [key for key in KEYS if summary[key] is None]
    assert none == [
        *("tpot_s", "tpot_low_s", "tpot_high_s", "tokens_per_s"),
        *("ttft_saved_s", "ttft_speedup", "ttft_speedup_low", "ttft_speedup_high"),
    ]
    assert (summary["visual_tokens"], summary["mean_visual_tokens"], summary["context_limit"]) == (576, 576, 4096)
    run = {**IMAGE, "workload": {"images": 1, "text_tokens": 60, "new_tokens": 11, "batch": 4}}
    estimate = aimcost.estimate(run)
    summary = estimate.to_dict()["summary"]
    assert summary["tokens_per_s"] == pytest.approx(44 / summary["request_s"])
    assert summary["request_s"] == pytest.approx(summary["ttft_s"] + 10 * summary["tpot_s"])


def test_active_parameters_leave_out_the_experts_that_sleep() -> None:
    """Mixtral-8x7B: 46.7 billion stored; 2 of 8 experts of 3 x 4096 x 14336 in each of 32 layers: 12.9 billion."""
    summary = aimcost.estimate({**IMAGE, "model": "mixtral-8x7b", "workload": {"text_tokens": 9}}).to_dict()["summary"]
    assert summary["parameters"] == pytest.approx(46.7e9, rel=0.002)
    assert summary["parameters"] - summary["active_parameters"] == 32 * 6 * 3 * 4096 * 14336


def test_the_gain_table_shows_the_whole_request_and_its_rates() -> None:
    """Seconds are those of the summary: prefill to the last token; rates are of all requests of the batch."""
    run = {**IMAGE, "workload": {"images": 2, "text_tokens": 60, "new_tokens": 11, "batch": 4}, "method": "fastv"}
    reduced = aimcost.estimate(run)
    before, after = (each.to_dict()["summary"]["request_s"] for each in (reduced.dense, reduced))
    rows = {line[:24].strip(): line[24:].split() for line in estimate_text(reduced, reduced.dense).splitlines()}
    ratio = f"{before / after:.2f}x"
    assert rows["whole request"][1] == ratio
    assert " ".join(rows["whole request"]).count(f"{before * 1e3:.1f} ms") == 1
    assert rows["tokens a second"] == ["-", ratio, f"{44 / before:.1f}/s", f"{44 / after:.1f}/s"]
    assert rows["images a second"] == ["-", ratio, f"{8 / before:.1f}/s", f"{8 / after:.1f}/s"]
    assert "frames a second" not in rows
    prompt = aimcost.estimate({**run, "workload": {"images": 2, "text_tokens": 60}})
    assert "whole request" not in estimate_text(prompt, prompt.dense)
    decode = aimcost.estimate({**run, "include": ["decode"]})
    assert "images a second" not in estimate_text(decode, decode.dense)


def test_the_mean_of_the_visual_tokens_is_over_layers() -> None:
    """FastV: 2 layers of 576 and 30 of 288 in 32."""
    text = estimate_text(aimcost.estimate({**IMAGE, "method": "fastv"}))
    assert "visual tokens    306.0 a layer on average, of 576" in text


def test_no_time_saved_is_a_zero_without_a_sign(cli: Any) -> None:
    """Launch-bound decode steps take as long with fewer tokens: the difference is rounding, and shown as 0 s."""
    run = ["--model", "llava-next-vicuna-7b", "--images", "1", "--new-tokens", "32", "--method", "visionzip"]
    shown = cli("estimate", *run, "--hardware", "nvidia_h100_sxm").stdout
    assert "per output token" in shown
    assert "−0" not in shown
