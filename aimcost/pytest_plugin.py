"""pytest plugin: the fixture `aimcost` and the marker `latency_budget`, on top of pytest-benchmark.

A test times the real prefill of a run, interleaved with a reference kernel on the same thread, and
fails where their ratio leaves the stored noise band. Nothing but the standard library and pytest is
imported before a test asks for the fixture.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .guard.latency import Verdict

__all__ = ["LatencyGate", "aimcost"]

MARKER = "latency_budget"
DEFAULTS: dict[str, Any] = {"run": None, "slowdown": 0.05, "within": None, "rounds": 15, "attempts": 3, "name": None}
# Measurements that one update adds to a band.
UPDATE_MEASUREMENTS = 5
WARM_UP = 2


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the latency gate."""
    group = parser.getgroup("aimcost")
    group.addoption("--aimcost-update", action="store_true", help="measure noise bands and store them")
    group.addoption("--aimcost-bands", metavar="FILE", help="where noise bands are stored (ini: aimcost_bands)")
    parser.addini("aimcost_bands", "where aimcost's latency gate stores noise bands", default="latency_bands.json")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    text = "time the prefill of a run and fail where it is slower than its noise band allows (aimcost)"
    config.addinivalue_line("markers", f"{MARKER}(run, slowdown=0.05, within=None, rounds=15, attempts=3): {text}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have pytest-benchmark use this thread's CPU time in tests of the gate, and in no other."""
    if not config.pluginmanager.hasplugin("benchmark"):
        return
    for item in items:
        if "aimcost" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.benchmark(timer=time.thread_time, disable_gc=True, group="aimcost"))


@pytest.fixture
def aimcost(request: pytest.FixtureRequest) -> LatencyGate:
    """The latency gate of a test; skips where pytest-benchmark or torch is missing or switched off."""
    if not request.config.pluginmanager.hasplugin("benchmark"):
        pytest.skip("the latency gate needs pytest-benchmark: pip install 'aimcost[test]'")
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            pytest.skip(f"the latency gate needs {package}: pip install 'aimcost[torch]'")
    benchmark = request.getfixturevalue("benchmark")
    if benchmark.disabled:
        pytest.skip("the latency gate measures: benchmarks are disabled (--benchmark-enable, and no xdist)")
    return LatencyGate(request, benchmark)


class LatencyGate:
    """What the fixture `aimcost` gives a test.

    Parameters
    ----------
    request, benchmark
        The test, and pytest-benchmark's fixture for it.
    """

    def __init__(self, request: pytest.FixtureRequest, benchmark: Any) -> None:
        marker = request.node.get_closest_marker(MARKER)
        given = dict(marker.kwargs) if marker is not None else {}
        if marker is not None and marker.args:
            given["run"] = marker.args[0]
        unknown = set(given) - set(DEFAULTS)
        if unknown:
            pytest.fail(f"{MARKER} has no {sorted(unknown)[0]!r}: it takes {', '.join(DEFAULTS)}", pytrace=False)
        self.options = {**DEFAULTS, **given}
        self.benchmark, self.config = benchmark, request.config
        self.name = str(self.options["name"] or request.node.nodeid)
        self.folder = request.path.parent

    @property
    def bands_path(self) -> Path:
        """The file of noise bands: the option, or the ini value below the root folder."""
        given = self.config.getoption("--aimcost-bands")
        return Path(given) if given else self.config.rootpath / str(self.config.getini("aimcost_bands"))

    def check(self, run: Any = None, *, prefill: Any = None) -> Verdict | None:
        """Time the prefill of `run` and fail the test where it left its band.

        Parameters
        ----------
        run
            A run file, name or mapping; by default the marker's. Files are looked up beside the test too.
        prefill
            What to time in place of the prefill of a model with random weights: a function without
            arguments, such as a call of your own model.

        Returns
        -------
        Verdict or None
            None where the band was just measured (``--aimcost-update``).
        """
        from .errors import AimcostError
        from .extras import torch_module
        from .guard.bands import load_bands

        try:
            loaded = self._load(self.options["run"] if run is None else run)
            bands = load_bands(self.bands_path)
            gate = torch_module("aimcost.measure.gate", "the measured latency gate")
            gate.keep_freed_memory()
            with gate.single_thread():
                return self._measured(gate, loaded, bands, prefill)
        except AimcostError as error:
            pytest.fail(f"latency gate: {error}", pytrace=False)

    def _load(self, given: Any) -> Any:
        from .errors import InvalidValueError
        from .inputs.run import load_run

        if given is None:
            raise InvalidValueError(f"{MARKER}: run", "given: a run file, name or mapping", None)
        beside = self.folder / given if isinstance(given, str) else None
        return load_run(beside if beside is not None and beside.is_file() else given)

    def _measured(self, gate: Any, run: Any, bands: dict[str, Any], prefill: Any) -> Verdict | None:
        from .guard.bands import merged, save_bands
        from .guard.latency import judge, predict, shape_of

        update, band = bool(self.config.getoption("--aimcost-update")), bands.get(self.name)
        if band is None and not update:
            pytest.fail(f"no noise band for {self.name!r} in {self.bands_path}: --aimcost-update", pytrace=False)
        shape = shape_of(run) if band is None else dict(band.reference)
        timed = prefill
        if timed is None:
            timed = gate.prefill_of(run.hf_config(), run.schedule, batch=run.workload.batch)
        pairs = _Pairs(gate, self.benchmark, timed, gate.reference_kernel(shape), int(self.options["rounds"]))
        slowdown = float(self.options["slowdown"])
        verdict, ratios = None, list[float]()
        if update:
            ratios = [pairs.ratio() for _ in range(UPDATE_MEASUREMENTS)]
            band = merged(band, shape, ratios, slowdown)
            save_bands(self.bands_path, {**bands, self.name: band})
        elif band is not None:
            verdict = judge(pairs.ratio, band, slowdown=slowdown, attempts=int(self.options["attempts"]))
            ratios = list(verdict.ratios)
        prediction = predict(run, shape)
        self._record(ratios, band, prediction, pairs)
        if verdict is not None:
            self._assert(verdict, prediction)
        return verdict

    def _record(self, ratios: list[float], band: Any, prediction: Any, pairs: _Pairs) -> None:
        """What pytest-benchmark's own JSON carries beside its statistics."""
        info: dict[str, Any] = {
            "ratio": min(ratios),
            "ratios": ratios,
            "band_center": band.center,
            "band_noise": band.noise,
            "limit": band.limit(float(self.options["slowdown"])),
            "yardstick_s": pairs.reference_s,
            "yardstick": dict(band.reference),
            "clock": "thread_cpu",
        }
        if prediction is not None:
            info.update(
                predicted_s=prediction.seconds,
                predicted_ratio=prediction.ratio,
                deviation=prediction.deviation(min(ratios)),
            )
        self.benchmark.extra_info["aimcost"] = info

    def _assert(self, verdict: Verdict, prediction: Any) -> None:
        shown = ", ".join(f"{ratio:.4f}" for ratio in verdict.ratios)
        if not verdict.ok:
            pytest.fail(
                f"prefill is {verdict.slowdown:.1%} slower than its band: {shown} times the reference kernel, "
                f"normal {verdict.center:.4f}, limit {verdict.limit:.4f}",
                pytrace=False,
            )
        within = self.options["within"]
        if within is not None and prediction is not None:
            off = prediction.deviation(min(verdict.ratios))
            if abs(off) > within:
                pytest.fail(
                    f"prefill is {off:+.1%} off the prediction ({shown} times the reference kernel, "
                    f"predicted {prediction.ratio:.4f}), allowed {within:.0%}",
                    pytrace=False,
                )


class _Pairs:
    """Interleaved samples of prefill and reference kernel: pytest-benchmark measures first, this class the repeats."""

    def __init__(self, gate: Any, benchmark: Any, prefill: Any, reference: Any, rounds: int) -> None:
        self.gate, self.benchmark = gate, benchmark
        self.prefill, self.reference, self.rounds = prefill, reference, rounds
        self.reference_s = 0.0
        self._first = True

    def ratio(self) -> float:
        """The median ratio of one measurement."""
        from .guard.latency import median_ratio

        if not self._first:
            steps, taken = self.gate.time_pairs(self.reference, self.prefill, self.rounds)
            return median_ratio(taken, steps)
        self._first = False
        watch, steps = self.gate.Stopwatch("cpu"), list[float]()

        def before() -> None:
            steps.append(watch.time(self.reference))

        self.benchmark.pedantic(self.prefill, setup=before, rounds=self.rounds, warmup_rounds=WARM_UP)
        taken, steps = list(self.benchmark.stats.stats.data), steps[-self.rounds :]
        self.reference_s = sorted(steps)[len(steps) // 2]
        return median_ratio(taken, steps)
