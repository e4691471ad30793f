"""How fast peers are against the original: fresh processes, all sides interleaved.

One process of every side is a session. In it each side runs a workload once, which compiles and
warms up, and then in rounds, in random order; a session gives one ratio, the median of its rounds.
The session is what is counted: the interval says what another one would give.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from mpnn_core import Structure
from mpnn_core.gate.intervals import fresh_process
from mpnn_core.peers.contract import PeerError
from mpnn_core.peers.opening import OpenPeer, open_peer

SESSIONS, ROUNDS = 8, 3
BASELINE = "original"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Workload:
    """What is timed: `n` designs of each protein, or the log-probabilities of one."""

    name: str
    words: str
    proteins: tuple[str, ...]
    n: int = 1
    call: str = "design"

    def size(self, proteins: Mapping[str, Structure]) -> int:
        """Residues in all sequences."""
        return self.n * sum(len(proteins[name]) for name in self.proteins)


def workloads(ts50: Sequence[str]) -> tuple[Workload, ...]:
    """All workloads, those that take least first."""
    return (
        Workload("score", "log-probabilities of 5L33", ("5L33",), call="log_probs"),
        Workload("5L33x1", "1 sequence of 5L33", ("5L33",), 1),
        Workload("5L33x8", "8 sequences of 5L33", ("5L33",), 8),
        Workload("5L33x64", "64 sequences of 5L33", ("5L33",), 64),
        Workload("3HTNx8", "8 sequences of 3HTN", ("3HTN",), 8),
        Workload("4YOWx8", "8 sequences of 4YOW", ("4YOW",), 8),
        Workload("TS50x8", "8 sequences of each of 50 chains", tuple(ts50), 8),
    )


WORKLOADS = tuple(workload.name for workload in workloads(()))


@dataclass
class Measured:
    """One side on one workload."""

    batch: int | None = None  # sequences together, the fastest that was tried
    first_s: float = 0.0  # what the first call takes longer than later ones: compiling, mostly
    seconds: list[float] = field(default_factory=list)  # of a run, per session
    log_ratios: list[float] = field(default_factory=list)  # original over peer, per session

    def as_json(self) -> dict[str, Any]:
        interval = fresh_process(self.log_ratios)
        return {
            "batch": self.batch,
            "first_s": self.first_s,
            "seconds": median(self.seconds),
            "sessions": len(self.log_ratios),
            "ratio": math.exp(sum(self.log_ratios) / len(self.log_ratios)),
            "interval": interval and [interval.low, interval.high],
        }


@dataclass
class Race:
    """The original and its peers on some workloads, within a budget of seconds."""

    peers: Sequence[str]
    workloads: Sequence[Workload]
    proteins: Mapping[str, Structure]
    budget_s: float
    say: Say
    sessions: int = SESSIONS
    opener: Callable[[str], Any] = open_peer
    clock: Callable[[], float] = time.monotonic
    measured: dict[tuple[str, str], Measured] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Look what each workload costs, and measure those that the budget has room for."""
        self._random, self._started = random.Random(0), self.clock()
        chosen = self._look()
        for session in range(self.sessions if chosen else 0):
            before = self.clock()
            self._session(chosen)
            took = self.clock() - before
            if session + 1 < self.sessions and self._spent() + took > self.budget_s:
                self.say(f"the budget is spent after {session + 1} of {self.sessions} sessions")
                break

    def of(self, side: str) -> dict[str, Any]:
        """What was measured of a side, per workload, as JSON; a peer's side is its number."""
        return {
            workload: found.as_json()
            for (of_side, workload), found in self.measured.items()
            if of_side == side and found.log_ratios
        }

    def _spent(self) -> float:
        return self.clock() - self._started

    def _sides(self) -> list[str]:
        return [BASELINE, *(f"{i}" for i, spec in enumerate(self.peers) if spec not in self.failed)]

    def _spec(self, side: str) -> str:
        return BASELINE if side == BASELINE else self.peers[int(side)]

    def _open(self, stack: ExitStack) -> dict[str, OpenPeer]:
        sides = self._sides()
        opened = {}
        for side in self._random.sample(sides, len(sides)):
            if side == BASELINE:
                opened[side] = stack.enter_context(self.opener(BASELINE))
                continue
            peer = self._tried(side, stack.enter_context, self.opener(self._spec(side)))
            if peer is not None:
                opened[side] = peer
        return opened

    def _tried(self, side: str, action: Callable[..., Any], *arguments: Any) -> Any:
        """What an action of a peer gives; a peer that fails is left out from then on."""
        try:
            return action(*arguments)
        except PeerError as error:
            if side == BASELINE:
                raise
            self.failed[self._spec(side)] = str(error)
            self.say(str(error))
            return None

    def _time(self, peer: OpenPeer, workload: Workload, batch: int | None) -> float:
        structures = [self.proteins[name] for name in workload.proteins]
        seed = self._random.randrange(2**31)
        return peer.time(workload.call, structures, workload.n, seed, batch)

    def _look(self) -> list[Workload]:
        """The workloads that fit, with the fastest batch of every side; nothing of it counts."""
        chosen: list[Workload] = []
        with ExitStack() as stack:
            before = self.clock()
            sides = self._open(stack)
            each_session = self.clock() - before
            last: tuple[Workload, float] | None = None
            for i, workload in enumerate(self.workloads):
                expected = 0.0
                if last is not None and last[0].call == workload.call:
                    growth = workload.size(self.proteins) / last[0].size(self.proteins)
                    expected = last[1] * growth
                needed = self._spent() + expected + self.sessions * (each_session + expected)
                if needed > self.budget_s:
                    return self._without(self.workloads[i:], needed, chosen)
                cost = sum(
                    self._look_at(side, peer, workload)
                    for side, peer in sides.items()
                    if self._spec(side) not in self.failed
                )
                needed = self._spent() + self.sessions * (each_session + cost)
                if needed > self.budget_s:
                    return self._without(self.workloads[i:], needed, chosen)
                chosen.append(workload)
                each_session += cost
                last = workload, cost
        return chosen

    def _without(
        self, rest: Sequence[Workload], needed: float, chosen: list[Workload]
    ) -> list[Workload]:
        self.left_out = [workload.name for workload in rest]
        self.say(
            f"the budget has no room for {', '.join(self.left_out)}; the first of them needs "
            f"--budget {math.ceil(needed / 60)}m or more"
        )
        return chosen

    def _look_at(self, side: str, peer: OpenPeer, workload: Workload) -> float:
        """Choose the batch of a side; seconds that it takes in a session."""
        sizes: list[int | None] = [None]
        if "batch" in peer.has and workload.call == "design":
            sizes = [workload.n, workload.n // 4] if workload.n > 4 else [workload.n]
        best = Measured()
        steady = math.inf
        for size in sizes:
            first = self._tried(side, self._time, peer, workload, size)
            again = self._tried(side, self._time, peer, workload, size)
            if first is None or again is None:
                return 0.0
            if again < steady:
                steady = again
                best = Measured(size, max(0.0, first - again))
        self.measured[side, workload.name] = best
        return best.first_s + (ROUNDS + 1) * steady

    def _session(self, chosen: Sequence[Workload]) -> None:
        """One process of every side on all chosen workloads."""
        with ExitStack() as stack:
            opened = self._open(stack)
            for workload in chosen:
                seconds: dict[str, list[float]] = {side: [] for side in opened}
                for round_ in range(ROUNDS + 1):  # the first compiles
                    for side in self._random.sample(list(opened), len(opened)):
                        if self._spec(side) in self.failed:
                            continue
                        batch = self.measured[side, workload.name].batch
                        peer = opened[side]
                        took = self._tried(side, self._time, peer, workload, batch)
                        if round_ and took is not None:
                            seconds[side].append(took)
                for side, values in seconds.items():
                    if len(values) == ROUNDS:
                        found = self.measured[side, workload.name]
                        found.seconds.append(median(values))
                        pairs = zip(seconds[BASELINE], values, strict=True)
                        found.log_ratios.append(median(math.log(a / b) for a, b in pairs))
