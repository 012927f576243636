"""pytest plugin: the fixture `aimcost` and the marker `latency_budget`, on top of pytest-benchmark.

A test times the real prefill of a run, interleaved with a reference kernel on the same thread, in this process and in
fresh ones that collect the same test. It fails where their ratios leave the stored noise band, or those of a base
commit. Nothing but the standard library and pytest is imported before a test asks for the fixture.
"""

from __future__ import annotations

import time
from argparse import SUPPRESS
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from .guard.latency import Verdict
    from .measure.gate_workers import Workers

__all__ = ["LatencyGate", "aimcost"]

MARKER = "latency_budget"
DEFAULTS: dict[str, Any] = {
    "run": None,
    "slowdown": 0.05,
    "within": None,
    "rounds": 25,
    "processes": 10,
    "attempts": 1,
    "name": None,
}
WARM_UP = 2
_LINES = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the latency gate."""
    group = parser.getgroup("aimcost")
    group.addoption("--aimcost-update", action="store_true", help="measure noise bands and store them")
    group.addoption("--aimcost-bands", metavar="FILE", help="where noise bands are stored (ini: aimcost_bands)")
    group.addoption("--aimcost-base", metavar="COMMIT", help="compare with the tests at this commit, not with bands")
    group.addoption("--aimcost-history", metavar="FILE", help="add figures here, and fail where they rose over runs")
    group.addoption("--aimcost-worker", metavar="FILE", help=SUPPRESS)
    parser.addini("aimcost_bands", "where aimcost's latency gate stores noise bands", default="latency_bands.json")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    text = "time the prefill of a run and fail where it is slower than its noise band allows (aimcost)"
    options = ", ".join(f"{key}={value}" for key, value in DEFAULTS.items() if key not in ("run", "name"))
    config.addinivalue_line("markers", f"{MARKER}(run, {options}): {text}")
    config.stash[_LINES] = []


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """What each gate found, and the slowdown that its noise lets it see."""
    lines = config.stash.get(_LINES, [])
    if lines:
        terminalreporter.write_sep("-", "latency gates")
        for line in lines:
            terminalreporter.write_line(line)


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
        self.node_id = request.node.nodeid
        self.name = str(self.options["name"] or self.node_id)
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
            None where the band was just measured (``--aimcost-update``), and in the processes of a gate.
        """
        from .errors import AimcostError
        from .extras import torch_module

        try:
            loaded = self._load(self.options["run"] if run is None else run)
            gate = torch_module("aimcost.measure.gate", "the measured latency gate")
            gate.keep_freed_memory()
            with gate.single_thread():
                if not self.config.getoption("--aimcost-worker"):
                    return self._measured(gate, loaded, prefill)
                self._worker(gate, loaded, prefill)
        except AimcostError as error:
            pytest.fail(f"latency gate: {error}", pytrace=False)
        return None

    def _load(self, given: Any) -> Any:
        from .errors import InvalidValueError
        from .inputs.run import load_run

        if given is None:
            raise InvalidValueError(f"{MARKER}: run", "given: a run file, name or mapping", None)
        beside = self.folder / given if isinstance(given, str) else None
        return load_run(beside if beside is not None and beside.is_file() else given)

    def _pairs(self, gate: Any, run: Any, prefill: Any, shape: dict[str, int], rounds: int) -> _Pairs:
        timed = prefill
        if timed is None:
            timed = gate.prefill_of(run.hf_config(), run.schedule, batch=run.workload.batch)
        return _Pairs(gate, self.benchmark, timed, gate.reference_kernel(shape), rounds)

    def _worker(self, gate: Any, run: Any, prefill: Any) -> None:
        """Measure once, as the process that started this one asked."""
        from .inputs.files import read_json
        from .measure.gate_workers import report

        file = str(self.config.getoption("--aimcost-worker"))
        asked = read_json(Path(file))
        report(file, self._pairs(gate, run, prefill, asked["shape"], int(asked["rounds"])).ratio())

    def _measured(self, gate: Any, run: Any, prefill: Any) -> Verdict | None:
        from .guard.bands import Band, Update, load_bands, merged, save_bands
        from .guard.latency import judge, judge_pairs, predict, shape_of
        from .measure.profile.environment import cpu_name

        bands = load_bands(self.bands_path)
        update, base = bool(self.config.getoption("--aimcost-update")), self.config.getoption("--aimcost-base")
        band: Band | None = bands.get(self.name)
        if band is None and not update and not base:
            pytest.fail(f"no noise band for {self.name!r} in {self.bands_path}: --aimcost-update", pytrace=False)
        shape = shape_of(run) if band is None else dict(band.reference)
        rounds, slowdown, cpu = int(self.options["rounds"]), float(self.options["slowdown"]), cpu_name()
        pairs = self._pairs(gate, run, prefill, shape, rounds)
        processes = self._processes({"shape": shape, "rounds": rounds}, pairs)
        verdict = None
        if update:
            ratios = processes()
            band = merged(band, shape, Update(cpu=cpu, ratios=tuple(ratios)), slowdown)
            save_bands(self.bands_path, {**bands, self.name: band})
            self._note(f"band of {len(band.updates)} updates")
        elif base:
            head, other = self._against(str(base), {"shape": shape, "rounds": rounds}, pairs)
            verdict = judge_pairs(head, other, slowdown=slowdown)
        else:
            assert band is not None
            verdict = judge(processes, band, slowdown=slowdown, cpu=cpu, attempts=int(self.options["attempts"]))
        if verdict is not None:
            ratios = list(verdict.runs[-1])
        prediction = predict(run, shape)
        self._record(ratios, verdict, prediction, pairs, shape, cpu)
        self._remember(ratios, cpu, update=update)
        if verdict is not None:
            self._assert(verdict, prediction)
        return verdict

    def _processes(self, request: dict[str, Any], pairs: _Pairs) -> Callable[[], list[float]]:
        """A measurement: the ratio of this process and of fresh ones."""
        workers = self._workers()
        count = max(1, int(self.options["processes"]))
        return lambda: [pairs.ratio(), *(workers.ratio(request) for _ in range(count - 1))]

    def _against(self, base: str, request: dict[str, Any], pairs: _Pairs) -> tuple[list[float], list[float]]:
        """Ratios of processes of this commit and of a base commit, which alternate."""
        from .measure.gate_workers import checkout

        workers, head, other = self._workers(), list[float](), list[float]()
        with checkout(self.config.rootpath, base) as root:
            for number in range(max(1, int(self.options["processes"]))):
                head.append(workers.ratio(request) if number else pairs.ratio())
                other.append(workers.ratio(request, root))
        return head, other

    def _workers(self) -> Workers:
        from .measure.gate_workers import Workers

        names = {name for name, plugin in self.config.pluginmanager.list_name_plugin() if plugin is not None}
        arguments = ("-p", __name__) if __name__ in names else ()  # by -p here, else by its entry point there too
        return Workers(root=self.config.rootpath, test=self.node_id, arguments=arguments)

    def _note(self, text: str) -> None:
        self.config.stash[_LINES].append(f"{self.name}: {text}")

    def _remember(self, ratios: list[float], cpu: str, *, update: bool) -> None:
        """Add the run to the history, and fail where that shows a rise."""
        from .guard import history
        from .guard.bands import figure_of

        file = self.config.getoption("--aimcost-history")
        if not file:
            return
        history.add(file, self.name, cpu, figure_of(ratios), update=update)
        rise = history.rise_of(history.load(file, self.name, cpu))
        if rise is not None:
            pytest.fail(
                f"prefill rose by {rise.by:.1%} {rise.runs} runs ago and stays there (chance {rise.p:.2%}): "
                f"mend it, or take it as normal with --aimcost-update",
                pytrace=False,
            )

    def _record(
        self,
        ratios: list[float],
        verdict: Verdict | None,
        prediction: Any,
        pairs: _Pairs,
        shape: dict[str, int],
        cpu: str,
    ) -> None:
        """What pytest-benchmark's own JSON carries beside its statistics."""
        from .guard.bands import figure_of

        info: dict[str, Any] = {
            "ratio": figure_of(ratios) if verdict is None else verdict.ratio,
            "ratios": ratios,
            "yardstick_s": pairs.reference_s,
            "yardstick": shape,
            "clock": "thread_cpu",
            "cpu": cpu,
        }
        if verdict is not None:
            limit = verdict.limit
            info.update(band_center=limit.center, limit=limit.ratio, visible=limit.visible, known_cpu=limit.known_cpu)
            what = "" if limit.known_cpu else ", no update on this CPU model"
            self._note(
                f"{verdict.slowdown:+.1%}, limit {limit.ratio / limit.center - 1:+.1%}{what}; "
                f"a slowdown of {limit.visible:.1%} shows nine times in ten"
            )
        if prediction is not None:
            info.update(
                predicted_s=prediction.seconds,
                predicted_ratio=prediction.ratio,
                deviation=prediction.deviation(info["ratio"]),
            )
        self.benchmark.extra_info["aimcost"] = info

    def _assert(self, verdict: Verdict, prediction: Any) -> None:
        shown = f"{verdict.ratio:.4f}"
        if not verdict.ok:
            against = "the base commit" if self.config.getoption("--aimcost-base") else "its band"
            pytest.fail(
                f"prefill is {verdict.slowdown:.1%} slower than {against}: {shown} times the reference kernel, "
                f"normal {verdict.limit.center:.4f}, limit {verdict.limit.ratio:.4f}",
                pytrace=False,
            )
        within = self.options["within"]
        if within is not None and prediction is not None:
            off = prediction.deviation(verdict.ratio)
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
