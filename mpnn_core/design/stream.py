"""A stream of structures over several devices of one machine: a process for each device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch

from mpnn_core.design.arguments import Temperature
from mpnn_core.design.model import Model, load_model
from mpnn_core.design.results import Designs
from mpnn_core.network.families import PACKAGED
from mpnn_core.sampling.constraints import Constraints
from mpnn_core.structures.structure import Structure

# Batches that wait at each worker, so that none is idle while results are ahead in order.
WAITING = 3


@dataclass(frozen=True, eq=False)
class Lost:
    """Takes the place of the designs of a structure if its worker process died.

    A worker dies when the system kills it for memory, for instance.
    """

    structure: Structure
    device: str
    reason: str


def design_stream(
    structures: Iterable[Structure],
    devices: Sequence[str],
    num_sequences: int = 1,
    temperature: Temperature = 0.1,
    seed: int = 0,
    constraints: Constraints | None = None,
    *,
    weights: str | Path = PACKAGED,
    variant: str = "baseline",
    backend: str = "auto",
    batch_size: int = 64,
    details: bool = False,
) -> Iterator[Designs | Lost]:
    """Designs of structures in the order they come, computed on several devices.

    Every structure gets the designs that `Model.design` gives it with the same seed, whatever the
    devices. If a worker dies, only the batch in progress is lost: its structures come as `Lost`,
    and a new worker takes over.

    Parameters
    ----------
    structures : read as they are needed, a few batches ahead
    devices : such as ["cuda:0", "cuda:1"]; a device may be named more than once
    num_sequences, temperature, seed, constraints : as in `Model.design`
    weights, variant, backend : as in `load_model`
    batch_size : structures that a worker takes at a time
    details : whether log-probabilities, probabilities and orders are sent back too. Sending them
        takes longer than computing them

    Raises
    ------
    ValueError, ConstraintError, CheckpointError
        As `load_model` and `Model.design` raise them.
    """
    if not devices:
        raise ValueError("no device is given; expected at least one, such as ['cuda:0']")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")

    def worker(w: int) -> ProcessPoolExecutor:
        # CUDA cannot be used in a forked process.
        model = (str(weights), variant, devices[w], backend)
        return ProcessPoolExecutor(1, get_context("spawn"), _start, model)

    def assigned(batch: list[Structure], w: int) -> _Assigned:
        arguments = (batch, num_sequences, temperature, seed, constraints, details)
        try:
            future = workers[w].submit(_design, *arguments)
        except BrokenProcessPool:  # it died while it had nothing to do
            workers[w] = worker(w)
            future = workers[w].submit(_design, *arguments)
        return _Assigned(batch, w, workers[w], future)

    def waiting(w: int) -> int:
        return sum(item.worker == w and not item.future.done() for item in ahead)

    workers = [worker(w) for w in range(len(devices))]
    stream = iter(structures)
    ahead: deque[_Assigned] = deque()
    try:
        while True:
            while len(ahead) < 2 * WAITING * len(devices):
                w = min(range(len(devices)), key=waiting)
                batch = [] if waiting(w) >= WAITING else list(islice(stream, batch_size))
                if not batch:
                    break
                ahead.append(assigned(batch, w))
            if not ahead:
                return
            first = ahead.popleft()
            try:
                results: list[Designs] | list[Lost] = first.future.result()
            except BrokenProcessPool as error:
                # A worker does one batch after another, so it is this one that it had begun.
                results = [Lost(s, devices[first.worker], str(error)) for s in first.batch]
                if workers[first.worker] is first.pool:
                    first.pool.shutdown(wait=False)
                    workers[first.worker] = worker(first.worker)
                for i, item in enumerate(ahead):
                    if item.pool is first.pool and not item.succeeded:
                        ahead[i] = assigned(item.batch, item.worker)
            yield from results
    finally:
        for pool in workers:
            pool.shutdown(wait=False, cancel_futures=True)


class _Assigned(NamedTuple):
    """A batch, and the worker that computes it."""

    batch: list[Structure]
    worker: int
    pool: ProcessPoolExecutor
    future: Future[list[Designs]]

    @property
    def succeeded(self) -> bool:
        return self.future.done() and self.future.exception() is None


_model: Model | Exception | None = None


def _start(weights: str, variant: str, device: str, backend: str) -> None:
    """Load the model: what a worker process does first."""
    global _model
    if not device.startswith("cuda"):
        torch.set_num_threads(1)  # one worker per core is what several on a CPU are for
    try:
        _model = load_model(weights, variant, device, backend)
    except Exception as error:  # raised by the first batch, whose result somebody waits for
        _model = error


def _design(
    structures: list[Structure],
    num_sequences: int,
    temperature: Temperature,
    seed: int,
    constraints: Constraints | None,
    details: bool,
) -> list[Designs]:
    if isinstance(_model, Exception):
        raise _model
    assert _model is not None
    designs: list[Designs] = _model.design(
        structures, num_sequences, temperature, seed, constraints
    )
    return designs if details else [d.without_details() for d in designs]
