"""Things timed against each other in one process, on a machine that others use too.

A round is one run of each side, in random order. A machine that is slow for a while slows all sides
of a round, and the median of the rounds' ratios does not follow a round that was disturbed.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# A side that takes longer than this to warm up is warm after one run.
LONGEST_WARM_UP_S = 0.2
# A side that is shorter is repeated until it is not: clocks and calls have a cost of their own.
SHORTEST_SIDE_S = 1e-3
# More rounds of one process say nothing more of how processes differ.
MOST_ROUNDS = 20


@dataclass
class Rounds:
    """Rounds of several sides in this process.

    Attributes
    ----------
    sides : called without arguments; their results are dropped. A call that is a side twice, under
        two names, is its own control, and is warmed up once
    synchronise : returns when the device has finished all work that it was given
    warm_up : run instead of the sides before the first round, where a piece of them suffices
    clock : seconds, from any start
    log_seconds : side -> logarithm of the seconds of one call, one for each round
    """

    sides: Mapping[str, Callable[[], Any]]
    synchronise: Callable[[], None] = lambda: None
    warm_up: Callable[[], Any] | None = None
    seed: int = 0
    clock: Callable[[], float] = time.perf_counter
    log_seconds: dict[str, list[float]] = field(init=False)
    seconds: float = field(default=0.0, init=False)  # of the rounds alone

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self.log_seconds = {side: [] for side in self.sides}
        self._repeats = dict.fromkeys(self.sides, 1)
        if self.warm_up is not None:
            self._time(self.warm_up, 1)
            return
        warm: dict[Callable[[], Any], int] = {}
        for side, call in self.sides.items():
            if call not in warm:
                seconds = self._time(call, 1)
                if seconds < LONGEST_WARM_UP_S:
                    seconds = self._time(call, 1)
                warm[call] = max(1, math.ceil(SHORTEST_SIDE_S / max(seconds, 1e-9)))
            self._repeats[side] = warm[call]

    @property
    def count(self) -> int:
        return len(next(iter(self.log_seconds.values())))

    def round(self) -> None:
        """Time every side once, in random order."""
        started = self.clock()
        for side in self._random.sample(list(self.sides), len(self.sides)):
            seconds = self._time(self.sides[side], self._repeats[side])
            self.log_seconds[side].append(math.log(max(seconds, 1e-12)))
        self.seconds += self.clock() - started

    def run(self, seconds: float) -> None:
        """One round, and more while another one fits into so many seconds, MOST_ROUNDS at most."""
        self.round()
        while self.count < MOST_ROUNDS and self.seconds + self.seconds / self.count <= seconds:
            self.round()

    def _time(self, side: Callable[[], Any], repeats: int) -> float:
        """Seconds per call."""
        self.synchronise()
        started = self.clock()
        for _ in range(repeats):
            side()
        self.synchronise()
        return (self.clock() - started) / repeats
