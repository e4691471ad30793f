"""Batches over the actors of a Ray cluster, with the semantics of `runs.workers`.

An actor is a process anywhere in the cluster that has loaded the model; it reads, designs and
writes its batch, so the folder of the run is one that all nodes see. Results come as they are
ready.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

from mpnn_core.runs.folder import RunError
from mpnn_core.runs.workers import TRIES

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2
"""Batches that wait at each actor: enough to keep it busy, few enough that little is in flight."""


class RayWorkers(Generic[Item, Result]):
    """Actors that compute batches, one each at a time.

    Parameters
    ----------
    address : "local" starts a cluster on this machine; "auto" is the one that this node is of; or
        the address of another
    count : actors, of which each has a core for itself; None takes as many as there are cores, or,
        with GPUs, as are good for these
    device : "cpu" or "cuda"
    prepare, lost : as in `runs.workers.Workers`
    most_on_a_gpu : actors that may share one, if `count` is None

    Attributes
    ----------
    sharing : actors on one GPU; 1 without

    Raises
    ------
    RunError
        Ray is not installed, there is no such cluster, or it has too few cores or no GPU.
    """

    def __init__(
        self,
        address: str,
        count: int | None,
        device: str,
        prepare: Callable[[str], Callable[[list[Item]], list[Result]]],
        lost: Callable[[Item, str, str], Result],
        most_on_a_gpu: int = 1,
    ) -> None:
        self.ray = _ray()
        self.device, self.prepare, self.lost = device, prepare, lost
        # Workers import this package as this process does.
        runtime = {"env_vars": {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}}
        try:
            self.ray.init(
                address=None if address == "local" else address, log_to_driver=True,
                ignore_reinit_error=True, include_dashboard=False, runtime_env=runtime,
                logging_level="WARNING",
            )  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise RunError(f"--cluster {address}: no Ray cluster there: {error}") from None
        has = self.ray.cluster_resources()
        cores, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
        self.on_gpus = device.startswith("cuda")
        if self.on_gpus and not gpus:
            raise RunError(f"--cluster {address}: the cluster has no GPU")
        best = cores
        if self.on_gpus:
            best = gpus * max(1, min(most_on_a_gpu, cores // (2 * gpus)))
        self.count = count or best
        if not 1 <= self.count <= cores:
            raise RunError(
                f"--cluster {address}: the cluster has {cores} cores, too few for {self.count} "
                "workers, which take one each"
            )
        self.sharing = -(-self.count // gpus) if self.on_gpus else 1

    def results(self, items: Iterator[Item], batch_size: int) -> Iterator[Result]:
        """The result of every item, as they are ready; see `Workers.results`.

        Raises
        ------
        RunError
            The first actor cannot start, or none is left.
        """
        ray = self.ray
        again: deque[tuple[list[Item], int]] = deque()  # batches whose actor died, and their try
        actors = [self._actor(i) for i in range(self.count)]
        # An actor for which there is no room yet may never start; it gets nothing until it does.
        starting = {actor.started.remote(): a for a, actor in enumerate(actors)}
        busy: dict[Any, tuple[int, list[Item], int]] = {}
        load: dict[int, int] = {}  # of the actors that have started
        is_all_given = has_one_started = False

        def give() -> None:
            """Keep every actor busy; nobody gets more than it will soon compute."""
            nonlocal is_all_given
            while load and min(load.values()) < AHEAD:
                batch, tries = again.popleft() if again else (list(islice(items, batch_size)), 1)
                if not batch:
                    is_all_given = True
                    return
                a = min(load, key=load.__getitem__)
                busy[actors[a].compute.remote(batch)] = a, batch, tries
                load[a] += 1

        try:
            while busy or again or not is_all_given:
                if not busy and not starting:
                    raise RunError("--cluster: no actor is left; call it again to continue")
                (ready,), _ = ray.wait([*busy, *starting], num_returns=1)
                if ready in starting:
                    a = starting.pop(ready)
                    try:
                        ray.get(ready)
                    except ray.exceptions.RayError as error:
                        if not has_one_started:  # what keeps one from starting keeps all
                            *_, why = str(error).strip().splitlines()
                            raise RunError(f"--cluster: an actor cannot start: {why}") from None
                    else:
                        load[a], has_one_started = 0, True
                    give()
                    continue
                a, *_ = busy[ready]
                died = ""
                # An actor computes in order. What it died of is the first that has no result; what
                # came after that waits anew.
                for ref in [ref for ref in list(busy) if ref == ready or busy[ref][0] == a]:
                    if ref != ready and not died and not ray.wait([ref], timeout=0)[0]:
                        break
                    _, batch, tries = busy[ref]
                    if died:
                        del busy[ref]
                        again.append((batch, tries))
                        continue
                    try:
                        results = ray.get(ref)
                    except ray.exceptions.RayTaskError:  # what computing raised
                        raise
                    except ray.exceptions.RayError as error:
                        died = str(error).splitlines()[0]
                        results = []
                        if tries >= TRIES:
                            results = [self.lost(item, f"actor {a}", died) for item in batch]
                        else:
                            again.extend(([item], tries + 1) for item in batch)
                    del busy[ref]
                    load[a] -= 1
                    yield from results
                if died:
                    ray.kill(actors[a])
                    del load[a]
                    actors[a] = self._actor(a)
                    starting[actors[a].started.remote()] = a
                give()
        finally:
            for actor in actors:
                ray.kill(actor)
            ray.shutdown()

    def _actor(self, number: int) -> Any:
        """An actor; it has a core for itself, and its part of a GPU."""
        # Ray counts in ten-thousandths, and rounds.
        gpus = 10_000 // self.sharing / 10_000 if self.on_gpus else 0
        remote = self.ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(_Actor)
        return remote.remote(f"{number}:{self.device}", self.prepare)


class _Actor:
    """What an actor is made of."""

    def __init__(self, place: str, prepare: Callable[[str], Callable[[list[Any]], list[Any]]]):
        self._compute = prepare(place)

    def started(self) -> None:
        """It is there."""

    def compute(self, batch: list[Any]) -> list[Any]:
        return self._compute(batch)


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise RunError(
            "--cluster needs Ray, which is not installed: pip install 'mpnn-core[ray]'"
        ) from None
    return ray
