"""Two things timed against each other, on a machine that others use too.

One round is one run of each, in random order, and a second run of the baseline as the control. The
estimate is the median of the rounds' ratios: what slows the machine down for a while slows both
sides of a round, and a round that was disturbed is one value among many.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mpnn_core.gate.verdicts import ERROR, Interval, median_ratio

# Pairs after which the interval is looked at; the error is shared among the looks.
LOOKS = (10, 31, 61, 183)
# A side that is shorter is repeated until it is not: clocks and calls have a cost of their own.
SHORTEST_SIDE_S = 1e-3


@dataclass
class Pairing:
    """Rounds of baseline, candidate and control.

    Attributes
    ----------
    baseline, candidate : called without arguments; what they return is dropped
    synchronise : waits until the device has done what it was given
    work : how many times the baseline's work one call of the candidate does, as a batch of 8 does
    """

    baseline: Callable[[], Any]
    candidate: Callable[[], Any]
    synchronise: Callable[[], None] = lambda: None
    work: int = 1
    seed: int = 0
    log_ratios: list[float] = field(default_factory=list)
    log_controls: list[float] = field(default_factory=list)
    seconds: float = 0.0  # spent in rounds so far

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._repeats = {"baseline": 0, "candidate": 0}

    def warm_up(self) -> None:
        """Run both sides twice, and fix how often each is repeated within a round."""
        for name, side in (("baseline", self.baseline), ("candidate", self.candidate)):
            self._time(side, 1)
            self._repeats[name] = max(1, math.ceil(SHORTEST_SIDE_S / self._time(side, 1)))

    def round(self) -> None:
        """Time baseline, candidate and baseline again, in random order."""
        if not self._repeats["baseline"]:
            self.warm_up()
        started = time.perf_counter()
        sides = ["baseline", "candidate", "control"]
        self._random.shuffle(sides)
        took = {}
        for side in sides:
            name = "candidate" if side == "candidate" else "baseline"
            call = self.candidate if side == "candidate" else self.baseline
            took[side] = self._time(call, self._repeats[name])
        self.log_ratios.append(math.log(self.work * took["baseline"] / took["candidate"]))
        self.log_controls.append(math.log(took["baseline"] / took["control"]))
        self.seconds += time.perf_counter() - started

    def ratio(self) -> Interval | None:
        """How many times faster the candidate is; None while there are too few pairs."""
        return median_ratio(self.log_ratios, ERROR / len(LOOKS))

    def control(self) -> Interval | None:
        """The same for the baseline against itself."""
        return median_ratio(self.log_controls, ERROR / len(LOOKS))

    def look_again(self, settled: Callable[[], bool], budget_s: float) -> None:
        """More rounds, look by look, until `settled` or the next look would not fit the budget."""
        for look in LOOKS:
            missing = look - len(self.log_ratios)
            if missing <= 0:
                continue
            per_round = self.seconds / max(1, len(self.log_ratios))
            if settled() or self.seconds + missing * per_round > budget_s:
                return
            for _ in range(missing):
                self.round()

    def _time(self, side: Callable[[], Any], repeats: int) -> float:
        """Seconds per call."""
        self.synchronise()
        started = time.perf_counter()
        for _ in range(repeats):
            side()
        self.synchronise()
        return (time.perf_counter() - started) / repeats
