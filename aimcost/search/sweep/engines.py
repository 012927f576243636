"""Where chunks are computed: here, in local processes, or by the workers of a Dask cluster.

An engine yields chunks in any order; what a chunk holds does not depend on who computed it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from ...errors import AimcostError, InvalidValueError, argument, one_line
from ...extras import load
from .formats import encode
from .grid import Chunk, Grid
from .pricing import columns_of

__all__ = ["Done", "compute", "engine"]

CONNECT_S = 20  # for a scheduler to answer
ENGINES = ("local", "dask")
# number of the chunk, digest of the sweep where it was computed, bytes, points with an error
Done = tuple[int, str, bytes, int]
# Chunks under way for each worker: one being computed, one waiting.
_AHEAD = 2


@lru_cache(maxsize=2)
def _grid(text: str) -> tuple[Grid, str]:
    grid = Grid.from_json(text)
    return grid, grid.digest


def compute(text: str, chunk: tuple[int, int, int, int], kind: str) -> Done:
    """One chunk of the sweep `text` in a format. Runs anywhere that has the same aimcost and profiles."""
    try:
        grid, digest = _grid(text)
        columns = columns_of(grid, Chunk(*chunk))
    except AimcostError as error:
        # exceptions with extra arguments do not survive pickling between processes
        raise AimcostError(str(error)) from None
    reasons = columns[-1]
    errors = 0 if reasons.constant else sum(1 for value in reasons.values if value is not None)
    return chunk[0], digest, encode(columns, kind), errors


def engine(
    name: str, text: str, chunks: Iterable[Chunk], kind: str, *, workers: int, scheduler: str | None
) -> Iterator[Done]:
    """Chunks as they get done.

    Parameters
    ----------
    workers
        Processes on this machine.
    scheduler
        Address of a Dask scheduler that runs already (``tcp://host:8786``): its workers compute.

    Raises
    ------
    InvalidValueError, MissingExtraError
        No such engine, or Dask is not installed.
    """
    if name not in ENGINES:
        raise InvalidValueError(argument("engine_name"), "one of " + ", ".join(ENGINES), name)
    if workers < 1:
        raise InvalidValueError(argument("workers"), "at least 1", workers)
    if scheduler is not None and name != "dask":
        raise InvalidValueError(argument("scheduler"), f"omitted unless {argument('engine_name')} is dask", scheduler)
    jobs = ((chunk.number, chunk.start, chunk.stop, chunk.context) for chunk in chunks)
    if name == "dask":
        return _dask(text, jobs, kind, workers, scheduler)
    if workers == 1:
        return (compute(text, job, kind) for job in jobs)
    return _processes(text, jobs, kind, workers)


def _result(future: Any) -> Done:
    """What a worker gave, or in one line why it gave nothing (killed, out of memory, without aimcost)."""
    try:
        result: Done = future.result()
    except AimcostError:
        raise
    except Exception as error:
        raise _failed(error) from error
    return result


def _failed(error: Exception) -> AimcostError:
    why = f"{type(error).__name__}: {one_line(error)}"
    return AimcostError(f"a worker failed: {why} ({argument('resume')} continues the sweep)")


@contextlib.contextmanager
def _nothing_from_here() -> Iterator[None]:
    """New interpreters import nothing from the current folder (a ./random.py would run; Python 3.11 and later)."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _end_with_parent() -> None:
    """End this worker when the process that began it is gone: killed, it could not say so."""
    from multiprocessing import connection, parent_process
    from threading import Thread

    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _processes(text: str, jobs: Iterator[Any], kind: str, workers: int) -> Iterator[Done]:
    from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, ProcessPoolExecutor, wait
    from multiprocessing import get_context

    # spawned, not forked: threads of this process would leave locks behind
    context = get_context("spawn")
    with _nothing_from_here(), ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:

        def submitted(count: int) -> set[Any]:
            try:
                return {pool.submit(compute, text, job, kind) for job in itertools.islice(jobs, count)}
            except (BrokenExecutor, OSError) as error:  # a worker was killed since, or as it began
                raise _failed(error) from error

        waiting = submitted(workers * _AHEAD)
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                waiting |= submitted(len(done))
                for future in done:
                    yield _result(future)
        finally:
            for future in waiting:
                future.cancel()


def _dask(text: str, jobs: Iterator[Any], kind: str, workers: int, scheduler: str | None) -> Iterator[Done]:
    distributed: Any = load("distributed", extra="sweep", purpose="engine 'dask'")
    if scheduler is not None:
        _check_address(scheduler)
    with contextlib.ExitStack() as stack:
        address: Any = scheduler
        if scheduler is None:
            address = stack.enter_context(_local_cluster(distributed, workers))
        try:
            client = stack.enter_context(distributed.Client(address, timeout=CONNECT_S))
        except OSError as error:
            raise InvalidValueError(
                argument("scheduler"), f"the address of a reachable scheduler ({error})", scheduler
            ) from None
        count = max(1, len(client.nthreads()))
        (shared,) = client.scatter([text], broadcast=True)
        first = [
            client.submit(compute, shared, job, kind, pure=False) for job in itertools.islice(jobs, count * _AHEAD)
        ]
        under_way = distributed.as_completed(first)
        for future in under_way:
            result = _result(future)
            for job in itertools.islice(jobs, 1):
                under_way.add(client.submit(compute, shared, job, kind, pure=False))
            yield result


def _check_address(scheduler: str) -> None:
    """Dask runs what reaches it, and without TLS anyone on the way may write: plain TCP stays on this machine.

    Raises
    ------
    InvalidValueError
        A scheduler of another machine without TLS, or no address.
    """
    protocol, _, rest = scheduler.rpartition("://")
    host = rest.rpartition(":")[0].strip("[]")
    if protocol == "tls" or (protocol in ("", "tcp") and _is_here(host)):
        return
    raise InvalidValueError(
        argument("scheduler"), "tls://HOST:PORT (with Dask's TLS settings), or tcp://127.0.0.1:PORT", scheduler
    )


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextlib.contextmanager
def _local_cluster(distributed: Any, workers: int) -> Iterator[Any]:
    """Processes of this machine, reachable from it alone.

    Dask always opens an HTTP server, for its dashboard or without one; here it has no pages and a port of the
    system's choosing.
    """
    import dask

    no_pages: dict[str, list[str]] = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}
    with (
        dask.config.set(no_pages),
        _nothing_from_here(),
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            worker_dashboard_address="127.0.0.1:0",
            silence_logs=50,  # of a worker that fails, `_failed` says what there is to say
        ) as cluster,
    ):
        yield cluster
