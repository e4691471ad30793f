"""A stream of structures over several devices of one machine: a process for each device."""

from __future__ import annotations

import atexit
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import current_process, parent_process
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import torch

from mpnn_core.design.arguments import (
    Temperature,
    check_count,
    checked_seed,
    checked_temperature,
)
from mpnn_core.design.isolation import isolated, reason
from mpnn_core.design.model import Model, load_model
from mpnn_core.design.results import Designs
from mpnn_core.network.families import PACKAGED
from mpnn_core.sampling.constraints import Constraints
from mpnn_core.structures.structure import Structure

# Batches that wait at each worker, so that none is idle while results are ahead in order.
WAITING = 3


@dataclass(frozen=True, eq=False)
class Lost:
    """Takes the place of the designs of a structure that has none, and says why.

    Its worker process died, as when the system kills it for memory; or it cannot be computed, as
    when it does not fit the constraints.
    """

    structure: Structure
    device: str
    reason: str


class _Design(NamedTuple):
    """What every structure is designed with, as in `Model.design`."""

    num_sequences: int
    temperature: Temperature
    seed: int
    constraints: Constraints | None
    common_random_numbers: bool
    details: bool


def design_stream(
    structures: Iterable[Structure],
    devices: Sequence[str],
    num_sequences: int = 1,
    temperature: Temperature = 0.1,
    seed: int | None = 0,
    constraints: Constraints | None = None,
    *,
    weights: str | Path = PACKAGED,
    variant: str = "baseline",
    backend: str = "auto",
    batch_size: int = 64,
    details: bool = False,
    common_random_numbers: bool = False,
    side_chain_context: bool = False,
) -> Iterator[Designs | Lost]:
    """Designs of structures in the order they come, computed on several devices.

    Every structure gets the designs that `Model.design` gives it with the same seed, whatever the
    devices. A structure that cannot be computed comes as `Lost`, and so does one that its worker
    dies of: only the batch in progress is lost, and a new worker takes over. Workers end with the
    process that started them, however it ends.

    Each worker is a new Python process that imports the calling script. So a script calls this
    below ``if __name__ == "__main__":``.

    Parameters
    ----------
    structures : read as they are needed, a few batches ahead. If reading one raises an error, it is
        raised here, after the designs of those before
    devices : such as ["cuda:0", "cuda:1"]; a device may be named more than once
    num_sequences, temperature, seed, constraints, common_random_numbers : as in `Model.design`
    weights, variant, backend, side_chain_context : as in `load_model`
    batch_size : structures that a worker takes at a time
    details : whether log-probabilities, probabilities and orders are sent back too. Sending them
        takes longer than computing them

    Raises
    ------
    ValueError, CheckpointError
        An argument is out of range, or the model cannot be loaded.
    RuntimeError
        A worker ends while it starts, as where a script calls this without the line above.
    """
    if getattr(current_process(), "_inheriting", False):
        # A worker is importing the script, and has come to this call. It says nothing and does no
        # more of the script; the process that started it raises the error.
        sys.exit(UNGUARDED)
    if not devices:
        raise ValueError("no device is given; expected at least one, such as ['cuda:0']")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    check_count(num_sequences)
    checked_temperature(temperature)
    design = _Design(
        num_sequences, temperature, checked_seed(seed), constraints, common_random_numbers, details
    )
    model = (str(weights), variant, backend, side_chain_context)
    return _designs(iter(structures), devices, batch_size, design, model)


def _designs(
    structures: Iterator[Structure],
    devices: Sequence[str],
    batch_size: int,
    design: _Design,
    model: tuple[str, str, str, bool],
) -> Iterator[Designs | Lost]:
    """What `design_stream` gives, from its arguments; `model` as `_start` takes it."""

    def assigned(batch: list[Structure], w: int) -> _Assigned:
        try:
            future = workers[w].pool.submit(_computed, batch, design)
        except BrokenProcessPool:  # it died while it had nothing to do
            workers[w] = _Worker(devices[w], model)
            future = workers[w].pool.submit(_computed, batch, design)
        return _Assigned(batch, w, workers[w], future)

    def waiting(w: int) -> int:
        return sum(item.place == w and not item.future.done() for item in ahead)

    workers = [_Worker(device, model) for device in devices]
    ahead: deque[_Assigned] = deque()
    unreadable: Exception | None = None
    try:
        while True:
            while len(ahead) < 2 * WAITING * len(devices):
                w = min(range(len(devices)), key=waiting)
                batch: list[Structure] = []
                if waiting(w) < WAITING and unreadable is None:
                    try:
                        for structure in islice(structures, batch_size):
                            batch.append(structure)
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
                results: Sequence[Designs | Lost] = first.future.result()
            except BrokenProcessPool as error:
                if first.worker.failed_to_start:
                    raise RuntimeError(NOT_STARTED.format(first.worker.device)) from None
                # A worker does one batch after another, so it is this one that it had begun.
                results = [Lost(s, first.worker.device, str(error)) for s in first.batch]
                if workers[first.place] is first.worker:
                    first.worker.pool.shutdown(wait=False)
                    workers[first.place] = _Worker(first.worker.device, model)
                for i, item in enumerate(ahead):
                    if item.worker is first.worker and not item.succeeded:
                        ahead[i] = assigned(item.batch, item.place)
            yield from results
    finally:
        for worker in workers:
            worker.pool.shutdown(wait=False, cancel_futures=True)


# The exit code of a worker whose script calls `design_stream` while it is imported.
UNGUARDED = 1

NOT_STARTED = (
    "the worker process of device {!r} ended while it started; what it printed says why. If it "
    "printed nothing, the script calls design_stream when it is imported, and each worker imports "
    'it: put the call below the line `if __name__ == "__main__":`'
)


class _Worker:
    """A process that designs on a device, one batch after the other."""

    def __init__(self, device: str, model: tuple[str, str, str, bool]) -> None:
        self.device = device
        self.context = _Spawning()
        self.pool = ProcessPoolExecutor(1, self.context, _start, (device, *model))
        self.started = self.pool.submit(_start_is_over)

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


class _Spawning(SpawnContext):
    """Starts new Python processes, for CUDA cannot be used in a forked one; keeps the last one."""

    process: SpawnProcess | None = None

    def Process(self, *arguments: Any, **options: Any) -> SpawnProcess:  # type: ignore[override]
        self.process = SpawnProcess(*arguments, **options)
        return self.process


class _Assigned(NamedTuple):
    """A batch, the place of its worker among the devices, and the worker that computes it."""

    batch: list[Structure]
    place: int
    worker: _Worker
    future: Future[list[Designs | Lost]]

    @property
    def succeeded(self) -> bool:
        return self.future.done() and self.future.exception() is None


# What follows runs in a worker.
_model: Model | Exception | None = None
_device = ""


def _start(device: str, weights: str, variant: str, backend: str, side_chain_context: bool) -> None:
    """Load the model: what a worker process does first."""
    global _model, _device
    _device = device
    parent = parent_process()
    assert parent is not None
    Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    atexit.register(_forget)
    if not device.startswith("cuda"):
        torch.set_num_threads(1)  # one worker per core is what several on a CPU are for
    try:
        _model = load_model(weights, variant, device, backend, side_chain_context)
    except Exception as error:  # raised by the first batch, whose result somebody waits for
        _model = error


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, which cannot tell it if it was killed.

    A worker holds both ends of the queues that it reads, so it would wait for ever.
    """
    wait([parent])
    os._exit(1)


def _forget() -> None:
    """Free the model; the thread that watches the parent would keep it alive past all else."""
    global _model
    _model = None


def _start_is_over() -> None:
    """The first task of a worker."""


def _computed(structures: list[Structure], design: _Design) -> list[Designs | Lost]:
    """Designs of a batch; a structure that cannot be computed is lost alone."""
    if isinstance(_model, Exception):
        raise _model
    assert _model is not None
    model = _model

    def compute(batch: Sequence[Structure]) -> Iterator[Designs]:
        designs: list[Designs] = model.design(
            batch, design.num_sequences, design.temperature, design.seed, design.constraints,
            common_random_numbers=design.common_random_numbers,
        )  # fmt: skip
        return iter(designs if design.details else [d.without_details() for d in designs])

    return [
        Lost(structure, _device, reason(result)) if isinstance(result, Exception) else result
        for structure, result in isolated(compute, structures)
    ]
