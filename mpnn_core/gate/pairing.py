"""Two things timed against each other, on a machine that others use too.

One round is one run of each, in random order, and a second run of the baseline as the control. The
estimate is the median of the rounds' ratios: a machine that is slow for a while slows both sides of
a round, and a disturbed round is one value among many.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mpnn_core.gate.intervals import ERROR, Interval, median_ratio

Side = TypeVar("Side", bound=Hashable)

# Pairs after which the interval is looked at; the error is shared among the looks.
LOOKS = (10, 31, 61, 183)
# A side that takes longer than this to warm up is warm after one run.
LONGEST_WARM_UP_S = 1.0
# A side that is shorter is repeated until it is not: clocks and calls have a cost of their own.
SHORTEST_SIDE_S = 1e-3


@dataclass
class Pairing:
    """Rounds of baseline, candidate and control.

    Attributes
    ----------
    baseline, candidate : called without arguments; their results are dropped
    synchronise : returns when the device has finished all work that it was given
    work : how many times the baseline's work one call of the candidate does, as a batch of 8 does
    clock : seconds, from any start
    """

    baseline: Callable[[], Any]
    candidate: Callable[[], Any]
    synchronise: Callable[[], None] = lambda: None
    work: int = 1
    seed: int = 0
    clock: Callable[[], float] = time.perf_counter
    log_ratios: list[float] = field(default_factory=list, init=False)
    log_controls: list[float] = field(default_factory=list, init=False)
    seconds: float = field(default=0.0, init=False)  # spent so far, warm-up and all
    seconds_per_round: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        """Warm up both sides, and fix how often each is repeated within a round."""
        self._random = random.Random(self.seed)
        self._sides = {}
        started = self.clock()
        for name, call in (("baseline", self.baseline), ("candidate", self.candidate)):
            seconds = self._time(call, 1)
            if seconds < LONGEST_WARM_UP_S:
                seconds = self._time(call, 1)
            repeats = max(1, math.ceil(SHORTEST_SIDE_S / max(seconds, 1e-9)))
            self._sides[name] = call, repeats
            self.seconds_per_round += seconds * repeats * (2 if name == "baseline" else 1)
        self._sides["control"] = self._sides["baseline"]
        self.seconds += self.clock() - started

    def round(self) -> None:
        """Time baseline, candidate and baseline again, in random order."""
        started = self.clock()
        order = self._random.sample(list(self._sides), len(self._sides))
        seconds = {side: self._time(*self._sides[side]) for side in order}
        self.log_ratios.append(math.log(self.work * seconds["baseline"] / seconds["candidate"]))
        self.log_controls.append(math.log(seconds["baseline"] / seconds["control"]))
        this_round = self.clock() - started
        self.seconds += this_round
        self.seconds_per_round += (this_round - self.seconds_per_round) / len(self.log_ratios)

    def ratio(self) -> Interval | None:
        """How many times faster the candidate is; None while there are too few pairs."""
        return median_ratio(self.log_ratios, ERROR / len(LOOKS))

    def control(self) -> Interval | None:
        """The same for the baseline against itself."""
        return median_ratio(self.log_controls, ERROR / len(LOOKS))

    def look_again(self, settled: Callable[[], bool], budget_s: float) -> None:
        """More rounds, look by look, until `settled` or the next look would not fit the budget."""
        for look in LOOKS:
            missing = max(0, look - len(self.log_ratios))
            if missing and (
                settled() or self.seconds + missing * self.seconds_per_round > budget_s
            ):
                return
            for _ in range(missing):
                self.round()

    def _time(self, side: Callable[[], Any], repeats: int) -> float:
        """Seconds per call."""
        self.synchronise()
        started = self.clock()
        for _ in range(repeats):
            side()
        self.synchronise()
        return (self.clock() - started) / repeats


def interleaved(
    sides: Mapping[Side, Callable[[], Any]], rounds: int, seed: int = 0
) -> dict[Side, list[float]]:
    """Several things timed against each other: log seconds of each side, (rounds,) each.

    Every side runs once to warm up, and once in each round, in random order. For figures that
    share their baseline, or that turn on more than two sides; on the CPU.
    """
    for call in sides.values():
        call()
    order, logs = random.Random(seed), {side: list[float]() for side in sides}
    for _ in range(rounds):
        for side in order.sample(list(sides), len(sides)):
            started = time.perf_counter()
            sides[side]()
            logs[side].append(math.log(time.perf_counter() - started))
    return logs
