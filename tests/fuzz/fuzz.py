"""A seeded fuzzer of everything that aimcost reads: it looks for tracebacks, memory, time, and figures that cannot be.

    python tests/fuzz/fuzz.py --inputs 1000 --seed 0
    python tests/fuzz/fuzz.py --only grid:0:417 --show

Input number i of a seed is the same in every run. Batches of them share a process whose address space is limited; one
that takes longer than a CPU limit is ended by a signal. What fails is printed as one JSON line, with the name that
``--only`` takes.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

# Of the whole process, libraries included; and of each input, but that of a configuration which no reader knows: it is
# traced, once, and 48 layers of experts take 16 s.
ADDRESS_SPACE, CPU_S = 1_000_000_000, 10.0
TRACING_CPU_S = {"hf_config": 60.0}
# Inputs that share a process, and what aimcost holds in it.
BATCH = 100


class TooSlow(BaseException):
    """An input took more than the CPU limit."""


def _ring(_: int, __: FrameType | None) -> None:
    raise TooSlow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9, help="of CPU time, after which no more are begun")
    parser.add_argument("--target", action="append", help="fuzz these alone")
    parser.add_argument("--only", help="TARGET:SEED:NUMBER of one input")
    parser.add_argument("--show", action="store_true", help="print what the input is")
    options = parser.parse_args()
    import targets

    names = options.target or list(targets.TARGETS)
    numbers = range(options.first, options.first + options.inputs)
    jobs = [f"{names[number % len(names)]}:{options.seed}:{number}" for number in numbers]
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(HOME=folder, XDG_CACHE_HOME=folder, XDG_CONFIG_HOME=folder)
        os.environ.pop("AIMCOST_PATH", None)
        jobs = [options.only] if options.only else jobs
        while jobs and children_s() < options.seconds:
            batch, jobs = jobs[:BATCH], jobs[BATCH:]
            for found in in_child(batch, folder, options.show):
                if found.get("problem") == "MemoryError" and len(batch) > 1:
                    # those before it may have left too little: what counts is the input alone
                    (found,) = in_child([found["input"]], folder, options.show)
                report.add(found)
    print(json.dumps(report.summary()))
    sys.exit(1 if report.failures else 0)


def children_s() -> float:
    """CPU time of the inputs so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Report:
    """Counts by target, and what was worst."""

    def __init__(self) -> None:
        self.inputs, self.answered = collections.Counter[str](), collections.Counter[str]()
        self.failures, self.slowest = 0, (0.0, "")

    def add(self, found: dict[str, Any]) -> None:
        name = found["input"].partition(":")[0]
        self.inputs[name] += 1
        self.answered[name] += found["answered"]
        self.slowest = max(self.slowest, (found["seconds"], found["input"]))
        if "problem" in found:
            self.failures += 1
            print(json.dumps(found), flush=True)

    def summary(self) -> dict[str, Any]:
        return {
            "inputs": dict(self.inputs),
            "answered": dict(self.answered),
            "total": sum(self.inputs.values()),
            "failures": self.failures,
            "slowest": self.slowest[1],
            "slowest_s": round(self.slowest[0], 2),
            "cpu_s": round(children_s(), 1),
            "peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        }


def in_child(jobs: list[str], folder: str, show: bool) -> list[dict[str, Any]]:
    """What came of some inputs, run in a process of their own: one that is ended by the system is a problem as well."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        faulthandler.enable()
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        signal.signal(signal.SIGVTALRM, _ring)
        with open(write, "w", encoding="utf-8") as out:
            for job in jobs:
                out.write(json.dumps(_tried(job, folder, show)) + "\n")
                out.flush()
        os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    _, status = os.waitpid(child, 0)
    if status:
        died = {"input": jobs[len(found)], "answered": False, "seconds": 0.0, "problem": f"ended with status {status}"}
        return [*found, died, *(in_child(rest, folder, show) if (rest := jobs[len(found) + 1 :]) else ())]
    return found


def _tried(job: str, folder: str, show: bool) -> dict[str, Any]:
    """What came of one input."""
    import targets

    name = job.partition(":")[0]
    place = Path(folder, "w")
    place.mkdir(exist_ok=True)
    os.chdir(place)
    shown: list[Any] = []
    targets.ANSWERED.clear()
    began = time.process_time()
    problem = _problem(targets.TARGETS[name], random.Random(job), shown, TRACING_CPU_S.get(name, CPU_S))
    seconds = time.process_time() - began
    for left in sorted(place.rglob("*"), reverse=True):
        left.rmdir() if left.is_dir() and not left.is_symlink() else left.unlink()
    if show:
        print(*shown, sep="\n", flush=True)
    found = {"input": job, "answered": bool(targets.ANSWERED), "seconds": seconds}
    return found if problem is None else {**found, **problem, "given": repr(shown)[:600]}


def _problem(target: Any, rng: random.Random, shown: list[Any], cpu_s: float) -> dict[str, Any] | None:
    """What is wrong with how an input is taken; None where nothing is."""
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s)
    try:
        with warnings.catch_warnings():
            # overflow in NumPy prints a line of our code into the user's terminal
            warnings.simplefilter("error", RuntimeWarning)
            said = target(rng, shown)
    except TooSlow:
        return {"problem": f"more than {cpu_s:g} s", "where": ""}
    except MemoryError:
        return {"problem": "MemoryError", "where": ""}
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "aimcost" in frame.filename]
        place = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno} {place.name}"
        return {"problem": f"{type(error).__name__}: {error}"[:200], "where": where}
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
    return None if said is None else {"problem": said[:300], "where": ""}


if __name__ == "__main__":
    main()
