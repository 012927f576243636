"""One run on several machines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import InvalidValueError, UnknownNameError, argument
from ..inputs.plain import items_of
from ..inputs.run import Run
from ..machine.inheritance import calibration_status
from ..machine.peaks import compute_dtypes, peak_flops_per_s, require_hardware
from ..types.stages import STAGES
from ..units import KILO, format_seconds
from ..views import Viewable
from .estimator import estimator_of
from .priced import BOUNDS
from .pricing import estimate_run
from .result import Estimate

__all__ = ["MachineComparison", "compare_run", "mfu"]

SECONDS_PER_HOUR = 3600.0
# Share of the time to first token below which waiting for launches does not count.
HIDDEN = 1e-3
HIDDEN_NOTE = "no kernel before the first token waits for its launch: capturing launches in a graph saves nothing here"


class MachineComparison(Viewable, list[dict[str, Any]]):
    """A list of rows, one a machine and stack, that shows itself as a table.

    Attributes
    ----------
    run
        The run that was compared.
    """

    _views_in = "comparisons"

    def __init__(self, run: Run, rows: Iterable[dict[str, Any]]) -> None:
        super().__init__(rows)
        self.run = run

    def _line(self) -> str:
        machines = "1 machine" if len(self) == 1 else f"{len(self)} rows"
        fastest = next(iter(self), None)
        best = "" if fastest is None else f", fastest {fastest['hardware']}: TTFT {format_seconds(fastest['ttft_s'])}"
        return f"{self.run.model.name}, {self.run.schedule.method}: {machines}{best}"


def compare_run(
    run: Run,
    hardware: Sequence[str],
    stacks: Sequence[str] = (),
    *,
    workloads: Sequence[Mapping[str, Any]] = (),
    prices: Mapping[str, float] | None = None,
    currency: str = "",
) -> MachineComparison:
    """The run on each of `hardware` under each of `stacks`, by time to first token, fastest first.

    Parameters
    ----------
    hardware, stacks
        Names of profiles and of stacks; without any, the run's own.
    workloads
        Keys of the workload to vary, such as ``[{"frames": 8}, {"frames": 32}]``: rows come workload by workload.
    prices, currency
        Of an hour of one device, by name of the profile; they precede those of the run and of profiles.

    Returns
    -------
    MachineComparison, a list of dict
        hardware, stack, calibration, flops, ttft_s and (of a run that decodes) tpot_s with their bands, bound
        (of the largest share of the time), launch_wait_s (seconds to the first token that the device waits for
        launches), mfu, memory, speedup over the unreduced run on the same machine, and the cost of 1000 requests
        where there is a price, with that price and its currency. With `workloads`, which of them.

    Raises
    ------
    UnknownNameError, InvalidValueError
        No such profile, or no lists of names.
    """
    if not any(stage != "decode" for stage in (run.include or STAGES)):
        raise InvalidValueError(
            "include", "at least one stage before decode: machines are sorted by time to first token", ""
        )
    hardware = items_of("hardware", hardware, str, "names of profiles")
    stacks = items_of("stacks", stacks, str, "names of stacks")
    runs = [run.with_(hardware=name) for name in dict.fromkeys(hardware)] or [run]
    runs = [each.with_(stack=name) for each in runs for name in dict.fromkeys(stacks)] or runs
    _check_prices(prices or {}, runs)
    loads = [", ".join(f"{key} {value}" for key, value in load.items()) for load in workloads] or [""]
    named = [(each.with_(load), name) for load, name in zip(workloads or [{}], loads, strict=True) for each in runs]
    runs = [each for each, _ in named]
    rows = [{**({"workload": name} if name else {}), **_row(each, prices or {}, currency)} for each, name in named]
    _note_hidden_launches(runs, rows)
    if len(set(stacks)) > 1 and not estimator_of(run.estimator).uses_stack:
        rows = _without_twins(rows, run.estimator, stacks)

    def order(row: Mapping[str, Any]) -> tuple[int, bool, float]:
        return loads.index(row.get("workload", "")), not row["fits"], row["ttft_s"]

    return MachineComparison(run, sorted(rows, key=order))


def _check_prices(prices: Mapping[str, float], runs: Sequence[Run]) -> None:
    machines = {require_hardware(run.hardware).name for run in runs}
    if not isinstance(prices, Mapping):
        raise InvalidValueError(argument("prices"), "numbers by the name of a machine", prices)
    for name, price in prices.items():
        if name not in machines:
            raise UnknownNameError("machine", name, machines, where=argument("prices"))
        if isinstance(price, bool) or not isinstance(price, int | float) or not 1e-12 <= price <= 1e30:
            raise InvalidValueError(argument("prices"), "numbers above zero", price, where=name)


def _without_twins(rows: Sequence[dict[str, Any]], estimator: str, stacks: Sequence[str]) -> list[dict[str, Any]]:
    """One row a machine, where no stack acts and all rows of it read the same; that is noted in place of each stack."""

    def figures(row: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if key != "notes"}

    kept: list[dict[str, Any]] = []
    for row in rows:
        if not any(figures(row) == figures(other) for other in kept):
            kept.append(row)
    if len(kept) == len(rows):
        return kept
    names = " and ".join(dict.fromkeys(stacks))
    note = f"stacks {names} ignored: {estimator} prices no software stack, so that they share a row"
    own = " ignored: " + f"{estimator} prices no software stack"
    return [{**row, "notes": [*(each for each in row["notes"] if not each.endswith(own)), note]} for row in kept]


def _note_hidden_launches(runs: Sequence[Run], rows: Sequence[dict[str, Any]]) -> None:
    """Note why stacks that do and do not capture launches agree, where no kernel waits for its launch."""
    for place in dict.fromkeys((row["hardware"], row.get("workload")) for row in rows):
        pairs = zip(runs, rows, strict=True)
        here = [(run, row) for run, row in pairs if (row["hardware"], row.get("workload")) == place]
        graphs = {run.stack.graph == "all" for run, row in here if row["stack"] is not None}
        if len(graphs) == 2 and all(row["launch_wait_s"] <= HIDDEN * row["ttft_s"] for _, row in here):
            for _, row in here:
                row["notes"].append(HIDDEN_NOTE)


def _row(run: Run, prices: Mapping[str, float], currency: str) -> dict[str, Any]:
    machine = require_hardware(run.hardware)
    result = estimate_run(run)
    plain = result.dense
    low, high = result.ttft_band_s
    found = result.gain
    banded = found.speedup if found is not None and found.speedup.high is not None else None
    own = run.price_per_hour if run.price_per_hour is not None else machine.price_per_hour
    price = prices.get(machine.name, own)
    return {
        "hardware": machine.name,
        "stack": run.stack.name if estimator_of(result.estimator).uses_stack else None,
        "calibration": calibration_label(result),
        "flops": result.totals.flops,
        "ttft_s": result.ttft_s,
        "ttft_low_s": low,
        "ttft_high_s": high,
        "extrapolated": result.ttft_extrapolated,
        **result.decode_step(),
        "bound": _bound(result),
        "launch_wait_s": _launch_wait(result),
        "mfu": mfu(result),
        "peak_bytes": result.memory.peak_bytes,
        "usable_bytes": result.memory.usable_bytes,
        "fits": result.memory.fits is not False,
        "speedup": plain.ttft_s / result.ttft_s if result.ttft_s else None,
        "speedup_low": banded.low if banded else None,
        "speedup_high": banded.high if banded else None,
        "ttft_saved_s": found.saved.value if found is not None and found.saved.value >= 0 else None,
        "cost_per_1000_requests": None if price is None else _cost(run, price, result.totals.time_s),
        **({} if price is None else {"price_per_hour": price, "currency": currency or None}),
        "notes": [note for note in result.notes if note not in run.notes],
    }


def _cost(run: Run, price_per_hour: float, seconds: float) -> float:
    """Of a thousand requests, at a price for each device; replicas cost more and serve as many more."""
    devices = run.parallel.tp * run.parallel.pp
    return price_per_hour * devices * seconds / SECONDS_PER_HOUR * KILO / run.workload.batch


def calibration_label(result: Estimate) -> str:
    """Where the times come from: measured or inherited coefficients, or datasheet limits."""
    hardware = result.run.hardware
    if hardware is None or not estimator_of(result.estimator).uses_calibration:
        return "datasheet"
    return calibration_status(hardware)


def _bound(result: Estimate) -> str:
    mask = result.rows(stage for stage in result.included if stage != "decode")
    shares = [float(result.seconds[mask & (result.bound == code)].sum()) for code in range(len(BOUNDS))]
    return BOUNDS[shares.index(max(shares))]


def _launch_wait(result: Estimate) -> float:
    """Seconds to the first token that the device waits for launches."""
    device = result.priced.device_seconds
    if device is None:
        return 0.0
    mask = result.rows(stage for stage in result.included if stage not in ("decode", "overhead"))
    return float((result.seconds - device)[mask].sum())


def mfu(result: Estimate) -> float:
    """Model FLOPs utilisation to the first token: matrix-product FLOPs over time at peak."""
    machine = require_hardware(result.run.hardware)
    peak, _ = peak_flops_per_s(machine, compute_dtypes(result.run.precision)[0])
    stages = [stage for stage in result.included if stage != "decode"]
    return result.matrix_flops(stages) / (result.ttft_s * peak) if result.ttft_s else 0.0
