"""Results at a prompt and in a notebook: one line, HTML that runs nothing, data frames, plots."""

from __future__ import annotations

import html.parser
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aimcost
from aimcost.errors import AimcostError
from aimcost.evidence.evidence import gather
from aimcost.evidence.scores import mean_of
from aimcost.measure.records import load_record
from aimcost.measure.validate import compare_record
from aimcost.views import Viewable

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "hardware_profiles" / "measurements" / "amd_epyc" / "2026-11-21_validation.json"
TIMINGS = [ROOT / "configs" / "timings" / "fastv.jsonl"]
RUN: dict[str, Any] = {
    "model": "llava-1.5-7b",
    "workload": {"images": 1, "text_tokens": 40, "new_tokens": 4},
    "method": {"name": "fastv"},
    "hardware": "nvidia_a100_sxm_80gb",
}
MARKUP = "<script>alert(1)</script>"

RESULTS: dict[str, Callable[[], Viewable]] = {
    "estimate": lambda: aimcost.estimate(RUN),
    "unreduced": lambda: aimcost.estimate(RUN, method="none", new_tokens=0),
    "plan": lambda: aimcost.plan(RUN, {"max_ttft_ms": 40}, methods=["fastv"]),
    "over budget": lambda: aimcost.plan(RUN, {"max_ttft_ms": 1e-3}, methods=["fastv"]),
    "comparison": lambda: aimcost.compare(RUN, ["nvidia_l4", "nvidia_h100_sxm"]),
    "evidence": lambda: gather(TIMINGS),
    "record": lambda: load_record(RECORD),
    "validation": lambda: compare_record(load_record(RECORD)),
}


# These fit the surrogate of published scores first: three seconds.
TASKS: dict[str, Callable[[], Viewable]] = {
    "task": lambda: aimcost.plan(RUN, task="gqa", methods=["fastv"], min_accuracy=0.9),
    "machines of a task": lambda: aimcost.plan(
        RUN, task="gqa", methods=["fastv"], min_accuracy=0.9, hardware=["nvidia_l4", "nvidia_h100_sxm"]
    ),
}
NAMES = [*RESULTS, *(pytest.param(name, marks=pytest.mark.check) for name in TASKS)]


class _Results(dict[str, Viewable]):
    """Each made when a test asks for it."""

    def __missing__(self, name: str) -> Viewable:
        return self.setdefault(name, {**RESULTS, **TASKS}[name]())


@pytest.fixture(scope="module")
def results() -> dict[str, Viewable]:
    return _Results()


@pytest.mark.parametrize("name", NAMES)
def test_a_result_is_one_line_at_a_prompt(results: dict[str, Viewable], name: str) -> None:
    line = repr(results[name])
    assert line.startswith(f"<{type(results[name]).__name__}: ")
    assert "\n" not in line
    assert len(line) < 240


class _Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.found.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", NAMES)
def test_html_is_well_formed_and_runs_nothing(results: dict[str, Viewable], name: str) -> None:
    tags = _Tags()
    tags.feed(results[name]._repr_html_())
    assert not tags.open
    assert not tags.found & {"script", "style", "img", "iframe", "a"}
    assert "table" in tags.found


def test_markup_in_a_name_is_text() -> None:
    machine = {"name": MARKUP, "memory_gb_per_s": 1000, "dense_tflops": {"fp16": 100}}
    shown = aimcost.estimate(RUN, hardware=machine)._repr_html_()
    assert "alert(1)" in shown
    assert "<script" not in shown


def test_what_the_line_of_an_estimate_says() -> None:
    estimate = aimcost.estimate(RUN)
    assert f"TTFT {estimate.ttft_s * 1e3:.2f} ms" in repr(estimate)
    assert f"TPOT {estimate.tpot_s * 1e3:.2f} ms" in repr(estimate)


def test_the_gain_of_an_estimate_is_that_of_its_summary() -> None:
    estimate = aimcost.estimate(RUN)
    summary = estimate.to_dict()["summary"]
    assert (estimate.speedup, estimate.saved_s) == (summary["ttft_speedup"], summary["ttft_saved_s"])
    assert estimate.speedup == pytest.approx(estimate.dense.ttft_s / estimate.ttft_s)
    assert estimate.saved_s == pytest.approx(estimate.dense.ttft_s - estimate.ttft_s)
    assert estimate.tpot_s == summary["tpot_s"]
    assert (estimate.dense.speedup, estimate.dense.saved_s) == (None, None)


def test_keys_alone_are_a_run() -> None:
    keys: dict[str, Any] = {key: value for key, value in RUN.items() if key != "workload"}
    by_keys = aimcost.estimate(**keys, images=1, text_tokens=40, new_tokens=4)
    assert by_keys.to_dict() == aimcost.estimate(RUN).to_dict()
    assert aimcost.schedule(**keys, images=1, text_tokens=40, new_tokens=4) == aimcost.schedule(RUN)
    keys["hardware"] = [keys["hardware"]]
    assert aimcost.compare(**keys, images=1, text_tokens=40, new_tokens=4, tp=1) == aimcost.compare(RUN)
    with pytest.raises(AimcostError, match="'run' must be given, or `model`"):
        aimcost.estimate(frames=32)


def test_a_comparison_is_a_list(results: dict[str, Viewable]) -> None:
    comparison: Any = results["comparison"]
    assert comparison == list(comparison)
    assert [row["hardware"] for row in comparison] == ["nvidia_h100_sxm", "nvidia_l4"]
    assert pickle.loads(pickle.dumps(comparison)) == comparison


def test_the_public_names_are_listed() -> None:
    assert dir(aimcost) == sorted(aimcost.__all__)
    for name in aimcost.__all__:
        assert getattr(aimcost, name) is not None


def test_the_frames_hold_the_figures(results: dict[str, Viewable]) -> None:
    pytest.importorskip("pandas")
    estimate: Any = results["estimate"]
    ops = estimate.to_frame()
    assert ops.time_s.sum() == pytest.approx(estimate.seconds.sum())
    assert list(estimate.to_frame("layers").tokens) == list(estimate.run.schedule.tokens)
    plan: Any = results["plan"]
    assert list(plan.to_frame().ttft_s) == [row["ttft_s"] for row in plan.front()]
    assert {"method.k", "method.ratio"} < {*plan.to_frame().columns}
    evidence: Any = results["evidence"]
    assert evidence.to_frame("rows").error.abs().mean() == pytest.approx(mean_of(evidence.sources, "mape").value)
    assert len(results["record"].to_frame()) == len(load_record(RECORD).samples)
    with pytest.raises(AimcostError, match=r"unknown table 'layer'; did you mean 'layers'"):
        estimate.to_frame("layer")


def test_what_an_absent_package_is_called_by(results: dict[str, Viewable], monkeypatch: pytest.MonkeyPatch) -> None:
    for package, show in (("pandas", "to_frame"), ("matplotlib", "plot")):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        with pytest.raises(AimcostError, match=rf"needs {package}: pip install 'aimcost\[notebook\]'"):
            getattr(results["estimate"], show)()


def test_plots_show_the_figures(results: dict[str, Viewable]) -> None:
    pytest.importorskip("matplotlib")
    estimate: Any = results["estimate"]
    bars = estimate.plot("breakdown").axes[0].patches
    dense, reduced = (sum(bar.get_width() for bar in bars[row::2]) for row in (0, 1))
    assert (dense, reduced) == pytest.approx((estimate.dense.ttft_s * 1e3, estimate.ttft_s * 1e3))
    visual, _, before = estimate.plot("tokens").axes[0].patches
    assert list(visual.get_data().values) == list(estimate.run.schedule.tokens)
    assert list(before.get_data().values) == list(estimate.dense.run.schedule.tokens)
    points = [len(each.get_offsets()) for each in estimate.plot("roofline").axes[0].collections]
    assert sum(points) == sum(op["flops"] > 0 for op in estimate.ops())
    assert results["unreduced"].plot()._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(AimcostError, match="unknown plot 'tree'; known: breakdown, roofline, tokens"):
        estimate.plot("tree")


@pytest.mark.check
@pytest.mark.parametrize("name", NAMES)
def test_every_plot_is_drawn(results: dict[str, Viewable], name: str) -> None:
    pytest.importorskip("matplotlib")
    from aimcost.report.notebook import _views

    for kind in _views(results[name]).plots:
        figure = results[name].plot(kind)
        assert figure.axes
        figure.draw_without_rendering()
