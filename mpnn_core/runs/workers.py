"""Batches over several processes, in order: one that dies costs what it dies of, and no more."""

from __future__ import annotations

import atexit
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import count, islice
from multiprocessing import current_process, parent_process
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from threading import Thread
from typing import Any, Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Batches that wait at each worker, so that none is idle while results are ahead in order.
WAITING = 3
TRIES = 2
"""How often an item may be in a batch that its worker dies of, the second time alone."""

# The exit code of a worker whose script starts workers while it is imported.
UNGUARDED = 1

NOT_STARTED = (
    "the worker process of device {!r} ended while it started; what it printed says why. If it "
    "printed nothing, the script calls {} when it is imported, and each worker imports "
    'it: put the call below the line `if __name__ == "__main__":`'
)


def leave_if_worker() -> None:
    """End a worker that imports the script that started it, and has come to starting workers.

    It says nothing and does no more of the script; the process that started it raises the error.
    """
    if getattr(current_process(), "_inheriting", False):
        sys.exit(UNGUARDED)


class Workers(Generic[Item, Result]):
    """Processes that compute batches, one each at a time.

    Parameters
    ----------
    places : one for each process, such as "cpu" or "cuda:1"
    prepare : place -> the function that computes a batch there: called in each new process. What it
        raises is raised by the first batch. It is pickled, and so are items and results
    lost : (item, place, reason) -> what takes the place of a result
    caller : what an error calls the function that started them
    """

    def __init__(
        self,
        places: Sequence[str],
        prepare: Callable[[str], Callable[[list[Item]], list[Result]]],
        lost: Callable[[Item, str, str], Result],
        caller: str,
    ) -> None:
        self.places, self.prepare, self.lost, self.caller = places, prepare, lost, caller

    def results(self, items: Iterator[Item], batch_size: int) -> Iterator[Result]:
        """The result of every item, in their order; items are read a few batches ahead.

        If reading one raises an error, it is raised here, after the results of those before. A
        worker that dies is replaced, and its batch is computed again, each item by itself; one that
        its worker dies of again is lost.

        Raises
        ------
        RuntimeError
            A worker ends while it starts.
        """
        workers = [self._worker(place) for place in self.places]
        ahead: deque[_Assigned[Item, Result]] = deque()
        serial = count()
        unreadable: Exception | None = None

        def assigned(batch: list[Item], w: int, tries: int = 1) -> _Assigned[Item, Result]:
            try:
                future = workers[w].pool.submit(_computed, batch)
            except BrokenProcessPool:  # it died while it had nothing to do
                workers[w] = self._worker(self.places[w])
                future = workers[w].pool.submit(_computed, batch)
            return _Assigned(batch, w, workers[w], future, tries, next(serial))

        def after_death(each: _Assigned[Item, Result], why: str) -> list[_Assigned[Item, Result]]:
            """What takes the place of the batch that a worker died of."""
            if each.tries < TRIES:
                return [assigned([item], each.place, each.tries + 1) for item in each.batch]
            future: Future[list[Result]] = Future()
            future.set_result([self.lost(item, each.worker.place, why) for item in each.batch])
            return [each._replace(future=future)]

        def waiting(w: int) -> int:
            return sum(item.place == w and not item.future.done() for item in ahead)

        try:
            while True:
                while len(ahead) < 2 * WAITING * len(workers):
                    w = min(range(len(workers)), key=waiting)
                    batch: list[Item] = []
                    if waiting(w) < WAITING and unreadable is None:
                        try:
                            for item in islice(items, batch_size):
                                batch.append(item)
                        except Exception as error:
                            unreadable = error
                    if not batch:
                        break
                    ahead.append(assigned(batch, w))
                if not ahead:
                    if unreadable is not None:
                        raise unreadable
                    return
                first = ahead.popleft()
                try:
                    results = first.future.result()
                except BrokenProcessPool as error:
                    if first.worker.failed_to_start:
                        place = first.worker.place
                        raise RuntimeError(NOT_STARTED.format(place, self.caller)) from None
                    if workers[first.place] is first.worker:
                        first.worker.end()
                        workers[first.place] = self._worker(first.worker.place)
                    held = [first, *ahead]
                    left = [x for x in held if x.worker is first.worker and not x.succeeded]
                    # A worker does one batch after another, in the order in which it got them.
                    begun = min(left, key=lambda x: x.serial)
                    ahead.clear()
                    for each in held:
                        if each is begun:
                            ahead.extend(after_death(each, str(error)))
                        elif any(each is x for x in left):
                            ahead.append(assigned(each.batch, each.place, each.tries))
                        else:
                            ahead.append(each)
                    continue
                yield from results
        finally:
            for worker in workers:
                worker.end()

    def _worker(self, place: str) -> _Worker:
        return _Worker(place, self.prepare)


class _Worker:
    """A process at a place."""

    def __init__(self, place: str, prepare: Callable[[str], Any]) -> None:
        self.place = place
        self.context = _Spawning()
        self.pool = ProcessPoolExecutor(1, self.context, _start, (place, prepare))
        self.started = self.pool.submit(_start_is_over)
        # The process has an end of its own. While this one is open too, a message that the process
        # was sending when it died seems to go on for ever.
        self.pool._result_queue._writer.close()  # type: ignore[attr-defined]

    @property
    def failed_to_start(self) -> bool:
        """Whether it ended itself before it could compute; not if the system ended it."""
        if self.started.done() and self.started.exception() is None:
            return False
        process = self.context.process
        if process is None:
            return False
        process.join()
        return bool(process.exitcode and process.exitcode > 0)

    def end(self) -> None:
        """End the process, in the middle of a batch too: nobody waits for the rest any more."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        if self.context.process is not None:
            self.context.process.terminate()


class _Spawning(SpawnContext):
    """Starts new Python processes, for CUDA cannot be used in a forked one; keeps the last one."""

    process: SpawnProcess | None = None

    def Process(self, *arguments: Any, **options: Any) -> SpawnProcess:  # type: ignore[override]
        self.process = SpawnProcess(*arguments, **options)
        return self.process


class _Assigned(NamedTuple, Generic[Item, Result]):
    """A batch, the number of its worker, the worker, what it will give, the try it is, and its
    number among all."""

    batch: list[Item]
    place: int
    worker: _Worker
    future: Future[list[Result]]
    tries: int
    serial: int

    @property
    def succeeded(self) -> bool:
        return self.future.done() and self.future.exception() is None


# What follows runs in a worker.
_compute: Callable[[list[Any]], list[Any]] | Exception | None = None


def _start(place: str, prepare: Callable[[str], Callable[[list[Any]], list[Any]]]) -> None:
    """What a worker process does first."""
    global _compute
    parent = parent_process()
    assert parent is not None
    Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    atexit.register(_forget)
    try:
        _compute = prepare(place)
    except Exception as error:  # raised by the first batch, whose result somebody waits for
        _compute = error


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, which cannot tell it if it was killed.

    A worker holds both ends of the queues that it reads, so it would wait for ever.
    """
    wait([parent])
    os._exit(1)


def _forget() -> None:
    """Free what computes; the thread that watches the parent would keep it alive past all else."""
    global _compute
    _compute = None


def _start_is_over() -> None:
    """The first task of a worker."""


def _computed(batch: list[Any]) -> list[Any]:
    if isinstance(_compute, Exception):
        raise _compute
    assert _compute is not None
    return _compute(batch)
