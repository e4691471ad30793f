"""The paired measurement, on a machine whose every second is known: only its own work moves it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpnn_core.gate.claims import Figure, Gate
from mpnn_core.gate.intervals import median_ratio
from mpnn_core.gate.pairing import LOOKS, Pairing, interleaved
from mpnn_core.gate.verdicts import GateResult, Verdict, judge_claim, judge_gate

BUDGET_S = 1e9
SPEEDUP = Figure("T", "speed", 2.0, "x", "speedup", machine="any")  # floor 1.414
SAME = Figure("T", "same", 1.0, "x", "about", margin=1.05, machine="any")


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

    def pair(self, ratio: float, **options) -> Pairing:
        """A baseline of 0.1 s against a candidate that is `ratio` times as fast."""
        return Pairing(self.work(0.1), self.work(0.1 / ratio), clock=self.clock, **options)

    def clock(self) -> float:
        return self.now


def measured(pairing: Pairing, figure: Figure, gate: Gate | None = None):
    """The verdict and the gate's result of the whole procedure, look by look."""

    def judge():
        interval, control = pairing.ratio(), pairing.control()
        return judge_claim(figure, interval, control), judge_gate(gate, interval, control)

    pairing.look_again(lambda: "inconclusive" not in judge(), BUDGET_S)
    return judge()


def test_without_noise_the_ratio_is_exact() -> None:
    pairing = Machine().pair(1.84)
    for _ in range(10):
        pairing.round()
    found, control = pairing.ratio(), pairing.control()
    assert (found.low, found.value, found.high) == pytest.approx((1.84, 1.84, 1.84))
    assert (control.low, control.high) == pytest.approx((1, 1))


def test_a_batch_is_compared_per_protein() -> None:
    pairing = Machine().pair(0.5, work=8)  # 8 proteins in twice the time of one
    for _ in range(10):
        pairing.round()
    assert pairing.ratio().value == pytest.approx(4.0)


def test_too_few_pairs_are_no_interval() -> None:
    pairing = Machine().pair(40)
    for _ in range(9):
        pairing.round()
    assert pairing.ratio() is None


@pytest.mark.parametrize(("seconds", "repeats"), [(1e-5, 100), (2.5e-4, 4), (0.1, 1)])
def test_a_short_side_is_repeated_to_a_millisecond(seconds, repeats) -> None:
    machine, calls = Machine(), []
    work = machine.work(seconds)

    def baseline() -> None:
        calls.append(machine.now)
        work()

    pairing = Pairing(baseline, machine.work(0.1), clock=machine.clock)
    calls.clear()
    pairing.round()
    assert len(calls) == 2 * repeats  # the baseline, and the baseline as its own control
    assert pairing.log_ratios[0] == pytest.approx(math.log(seconds / 0.1))


def test_the_first_call_is_not_measured() -> None:
    """The first call compiles, allocates and fills caches."""
    machine, calls = Machine(), []

    def candidate() -> None:
        calls.append(1)
        machine.now += 100.0 if len(calls) == 1 else 0.1

    pairing = Pairing(machine.work(0.1), candidate, clock=machine.clock)
    for _ in range(10):
        pairing.round()
    assert pairing.ratio().value == pytest.approx(1.0)
    assert pairing.seconds > 100, "the warm-up is paid for out of the budget, too"


def test_each_side_is_synchronised_before_and_after() -> None:
    machine, seen = Machine(), []

    def side(name: str) -> Callable[[], None]:
        work = machine.work(0.1)
        return lambda: (seen.append(name), work())[1]

    pairing = Pairing(
        side("baseline"), side("candidate"), lambda: seen.append("wait"), clock=machine.clock
    )
    seen.clear()
    for _ in range(5):
        pairing.round()
    assert seen[0::3] == seen[2::3] == ["wait"] * 15
    assert sorted(seen[1::3]) == ["baseline"] * 10 + ["candidate"] * 5


def test_work_that_is_still_running_is_waited_for() -> None:
    """A device that takes 0.1 s and returns at once is as slow as a CPU that takes 0.1 s."""
    machine, pending = Machine(), []

    def wait() -> None:
        while pending:
            pending.pop()()

    work = machine.work(0.1)
    pairing = Pairing(work, lambda: pending.append(work), wait, clock=machine.clock)
    for _ in range(10):
        pairing.round()
    assert pairing.ratio().value == pytest.approx(1.0)


def test_the_order_is_random_and_the_same_each_time() -> None:
    def orders(seed: int) -> list[str]:
        machine, seen = Machine(), []
        pairing = Pairing(
            lambda: (seen.append("b"), machine.work(0.1)())[1],
            lambda: (seen.append("c"), machine.work(0.1)())[1],
            clock=machine.clock,
            seed=seed,
        )
        seen.clear()
        for _ in range(60):
            pairing.round()
        return ["".join(seen[i : i + 3]) for i in range(0, len(seen), 3)]

    assert orders(0) == orders(0) != orders(1)
    counts = {order: orders(0).count(order) for order in ("bbc", "bcb", "cbb")}
    assert sum(counts.values()) == 60 and min(counts.values()) >= 8, counts


def test_a_large_effect_is_settled_by_ten_pairs() -> None:
    pairing = Machine(noise=0.05, stalls=0.02).pair(40)
    verdict, _ = measured(pairing, SPEEDUP)
    assert (verdict, len(pairing.log_ratios)) == (Verdict.DIRECTION_ONLY, 10)


def test_a_close_call_is_looked_at_again() -> None:
    pairing = Machine(noise=0.08).pair(1.5)
    verdict, _ = measured(pairing, SPEEDUP)
    assert verdict is Verdict.DIRECTION_ONLY
    assert len(pairing.log_ratios) in LOOKS[1:], len(pairing.log_ratios)


def test_what_cannot_be_settled_ends_at_the_last_look() -> None:
    pairing = Machine(noise=0.1).pair(math.sqrt(2))  # on the floor itself
    assert measured(pairing, SPEEDUP)[0] is Verdict.INCONCLUSIVE
    assert len(pairing.log_ratios) == LOOKS[-1]


@pytest.mark.parametrize(("budget", "pairs"), [(0, 0), (3.2, 10), (9.7, 31), (18.9, 61)])
def test_a_look_that_does_not_fit_the_budget_is_not_begun(budget, pairs) -> None:
    pairing = Machine().pair(1.0)  # 0.3 s a round, 0.4 s of warm-up
    pairing.look_again(lambda: False, budget + 0.4)
    assert len(pairing.log_ratios) == pairs
    assert pairing.seconds <= max(budget, 0) + 0.4 + 1e-9


MACHINES = {
    "noise": st.floats(0.005, 0.15),
    "drift": st.floats(0, 0.1),
    "stalls": st.floats(0, 0.1),
    "seed": st.integers(0, 2**32 - 1),
}
TRIALS = 40
# Of 40 trials whose error is 1 %, more than 5 are wrong less than once in 10,000 times.
MOST_WRONG = 5


def outcomes(ratio: float, figure: Figure, gate: Gate | None, machine: dict) -> list:
    seeds = np.random.default_rng(machine["seed"]).integers(0, 2**32, TRIALS)
    return [
        measured(Machine(**{**machine, "seed": int(seed)}).pair(ratio), figure, gate)
        for seed in seeds
    ]


@given(st.fixed_dictionaries(MACHINES))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_against_itself_nothing_is_faster(machine) -> None:
    found = outcomes(1.0, SPEEDUP, Gate("", at_least=1.03), machine)
    passed = sum(gate is GateResult.PASSED for _, gate in found)
    wrong = sum(v in (Verdict.CONFIRMED, Verdict.DIRECTION_ONLY) for v, _ in found)
    assert passed <= MOST_WRONG and wrong <= MOST_WRONG, f"{passed} passed, {wrong} confirmed"


@given(st.floats(1.45, 4), st.fixed_dictionaries(MACHINES))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_what_is_faster_is_not_refuted(ratio, machine) -> None:
    found = outcomes(ratio, SPEEDUP, Gate("", at_least=1.42), machine)
    refuted = sum(v is Verdict.REFUTED for v, _ in found)
    failed = sum(gate is GateResult.FAILED for _, gate in found)
    assert refuted <= MOST_WRONG and failed <= MOST_WRONG, f"{refuted} refuted, {failed} failed"


@given(st.sampled_from([1 / 1.2, 1.2]), st.fixed_dictionaries(MACHINES))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_a_change_is_not_called_no_change(ratio, machine) -> None:
    found = outcomes(ratio, SAME, None, machine)
    confirmed = sum(v is Verdict.CONFIRMED for v, _ in found)
    assert confirmed <= MOST_WRONG, f"{confirmed} of {TRIALS} times {ratio:.2f} was no change"


def test_on_a_quiet_machine_the_truth_is_found() -> None:
    """Never wrong is easy; this is the other half."""
    quiet = {"noise": 0.02, "drift": 0.02, "stalls": 0.02, "seed": 1}
    faster = [v for v, _ in outcomes(2.0, SPEEDUP, None, quiet)]
    slower = [gate for _, gate in outcomes(1.1, SPEEDUP, Gate("", at_least=1.5), quiet)]
    same = [v for v, _ in outcomes(1.0, SAME, None, quiet)]
    assert faster.count(Verdict.CONFIRMED) >= 0.9 * TRIALS, faster
    assert slower.count(GateResult.FAILED) >= 0.9 * TRIALS, slower
    assert same.count(Verdict.CONFIRMED) >= 0.9 * TRIALS, same


def test_sides_share_their_rounds() -> None:
    calls: list[str] = []
    logs = interleaved({name: partial(calls.append, name) for name in "abc"}, rounds=5)
    assert {name: len(found) for name, found in logs.items()} == {"a": 5, "b": 5, "c": 5}
    rounds = [calls[i : i + 3] for i in range(0, 18, 3)]  # the first is the warm-up
    assert all(sorted(found) == ["a", "b", "c"] for found in rounds)
    assert len(set(map(tuple, rounds))) > 1, "the order is random"


def test_sides_are_told_apart() -> None:
    logs = interleaved({1: partial(time.sleep, 0.002), 4: partial(time.sleep, 0.008)}, rounds=8)
    ratio = median_ratio([b - a for a, b in zip(logs[1], logs[4], strict=True)], 0.01)
    assert ratio is not None and 2.5 < ratio.value < 4.5
