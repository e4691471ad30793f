"""The rounds of one process, on a machine whose clock only its own work moves."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from mpnn_core.gate.pairing import MOST_ROUNDS, Rounds


class Machine:
    """A clock, and work that takes `seconds` of it: shared slowness, own noise, rare stalls."""

    def __init__(self, noise: float = 0.0, drift: float = 0.0, stalls: float = 0.0, seed: int = 0):
        self.now, self.log_slowness = 0.0, 0.0
        self.noise, self.drift, self.stalls = noise, drift, stalls
        self._random = np.random.default_rng(seed)

    def work(self, seconds: float) -> Callable[[], None]:
        def run() -> None:
            step, own, stall = self._random.normal(), self._random.normal(), self._random.random()
            self.log_slowness = 0.98 * self.log_slowness + self.drift * step
            stalled = 5.0 if stall < self.stalls else 1.0
            self.now += seconds * stalled * math.exp(self.log_slowness + self.noise * own)

        return run

    def pair(self, ratio: float, **options) -> Rounds:
        """A baseline of 0.1 s, its control, and a candidate that is `ratio` times as fast."""
        baseline = self.work(0.1)
        sides = {
            "baseline": baseline, "candidate": self.work(0.1 / ratio), "control": baseline
        }  # fmt: skip
        return Rounds(sides, clock=self.clock, **options)

    def clock(self) -> float:
        return self.now


def log_ratio(rounds: Rounds, slow: str = "baseline", fast: str = "candidate") -> float:
    return float(np.median(np.subtract(rounds.log_seconds[slow], rounds.log_seconds[fast])))


def test_without_noise_every_round_is_exact() -> None:
    rounds = Machine().pair(1.84)
    for _ in range(3):
        rounds.round()
    assert rounds.log_seconds["baseline"] == pytest.approx([math.log(0.1)] * 3)
    assert log_ratio(rounds) == pytest.approx(math.log(1.84))
    assert log_ratio(rounds, fast="control") == pytest.approx(0)


def test_slowness_that_all_sides_share_and_stalls_leave_the_ratio() -> None:
    rounds = Machine(noise=0.01, drift=0.05, stalls=0.05, seed=3).pair(2.0)
    for _ in range(MOST_ROUNDS):
        rounds.round()
    assert log_ratio(rounds) == pytest.approx(math.log(2.0), abs=0.1)


@pytest.mark.parametrize(("seconds", "repeats"), [(1e-5, 100), (2.5e-4, 4), (0.1, 1)])
def test_a_short_side_is_repeated_to_a_millisecond(seconds, repeats) -> None:
    machine, calls = Machine(), []
    work = machine.work(seconds)

    def baseline() -> None:
        calls.append(machine.now)
        work()

    sides = {"baseline": baseline, "candidate": machine.work(0.1), "control": baseline}
    rounds = Rounds(sides, clock=machine.clock)
    calls.clear()
    rounds.round()
    assert len(calls) == 2 * repeats  # the baseline, and the baseline as its own control
    assert rounds.log_seconds["baseline"][0] == pytest.approx(math.log(seconds))


@pytest.mark.parametrize(("seconds", "calls"), [(0.1, 2), (0.3, 1)])
def test_each_side_is_warmed_up_once_and_a_short_one_twice(seconds, calls) -> None:
    """The first call compiles, allocates and fills caches; the control is the baseline."""
    machine, seen = Machine(), []
    work = machine.work(seconds)

    def baseline() -> None:
        seen.append(1)
        work()

    Rounds(
        {"baseline": baseline, "other": machine.work(0.3), "control": baseline}, clock=machine.clock
    )
    assert len(seen) == calls


def test_a_warm_up_of_its_own_takes_the_place_of_the_sides() -> None:
    machine, seen = Machine(), []
    rounds = Rounds(
        {"long": lambda: (seen.append("long"), machine.work(100)())},
        warm_up=lambda: seen.append("piece"),
        clock=machine.clock,
    )
    assert seen == ["piece"] and machine.now == 0
    rounds.round()
    assert seen == ["piece", "long"] and rounds.seconds == pytest.approx(100)


def test_each_side_is_synchronised_before_and_after() -> None:
    machine, seen = Machine(), []

    def side(name: str) -> Callable[[], None]:
        work = machine.work(0.1)
        return lambda: (seen.append(name), work())[1]

    rounds = Rounds(
        {"b": side("b"), "c": side("c")}, lambda: seen.append("wait"), clock=machine.clock
    )
    seen.clear()
    for _ in range(5):
        rounds.round()
    assert seen[0::3] == seen[2::3] == ["wait"] * 10
    assert sorted(seen[1::3]) == ["b"] * 5 + ["c"] * 5


def test_work_that_is_still_running_is_waited_for() -> None:
    """A device that takes 0.1 s and returns at once is as slow as a CPU that takes 0.1 s."""
    machine, pending = Machine(), []

    def wait() -> None:
        while pending:
            pending.pop()()

    work = machine.work(0.1)
    sides = {"baseline": work, "candidate": lambda: pending.append(work)}
    rounds = Rounds(sides, wait, clock=machine.clock)
    rounds.round()
    assert log_ratio(rounds) == pytest.approx(0)


def test_the_order_is_random_and_the_same_for_a_seed() -> None:
    def orders(seed: int) -> list[str]:
        machine, seen = Machine(), []
        sides = {n: lambda n=n: (seen.append(n), machine.work(0.1)())[1] for n in "bck"}
        rounds = Rounds(sides, clock=machine.clock, seed=seed)
        seen.clear()
        for _ in range(60):
            rounds.round()
        return ["".join(seen[i : i + 3]) for i in range(0, len(seen), 3)]

    assert orders(0) == orders(0) != orders(1)
    counts = {order: orders(0).count(order) for order in ("bck", "bkc", "cbk", "ckb", "kbc", "kcb")}
    assert sum(counts.values()) == 60 and min(counts.values()) >= 4, counts


@pytest.mark.parametrize(
    ("seconds", "count"), [(0, 1), (0.5, 1), (0.61, 2), (1.55, 5), (1e9, MOST_ROUNDS)]
)
def test_at_least_one_round_is_run_and_more_if_they_fit(seconds, count) -> None:
    rounds = Machine().pair(1.0)  # 0.3 s a round
    rounds.run(seconds)
    assert rounds.count == count
    assert count == 1 or rounds.seconds <= seconds
