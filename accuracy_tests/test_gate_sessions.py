"""Fresh processes: what they are asked to do within a budget, and what is made of their records.

The processes are played here, on a clock that the test owns; real ones run in test_gate_project.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from mpnn_core.gate.intervals import FEWEST_PROCESSES, FRESH_CONFIDENCE, fresh_process
from mpnn_core.gate.sessions import (
    PROCESSES,
    Ended,
    Plan,
    Record,
    Sessions,
    Test,
    Times,
    environment_of_child,
    measure,
    read_records,
)

START_UP = 2.0


class Machine:
    """Processes that take START_UP; each test takes (before, each round) seconds."""

    def __init__(self, tests: Mapping[str, tuple[float, float]], dies_in: str = ""):
        self.tests, self.dies_in = tests, dies_in
        self.plans: list[Plan] = []

    def run(self, plan: Plan) -> Ended:
        self.plans.append(plan)
        elapsed, records = START_UP, {}
        for test, allowed in plan.tests.items():
            before, round_s = self.tests[test]
            late = plan.until_s is not None and elapsed + plan.costs.get(test, 0) > plan.until_s
            if late and test not in plan.always:
                records[test] = Record(test, 1e-3, too_late=True)
                continue
            if test == self.dies_in:
                records[test] = Record(test)
                return Ended(records, elapsed, "exit status -11: Segmentation fault")
            rounds = max(1, min(20, int(allowed / round_s + 1e-9)))
            seconds = before + rounds * round_s
            sides = {"baseline": [0.0] * rounds, "candidate": [-1.0] * rounds}
            records[test] = Record(test, seconds, rounds * round_s, sides)
            elapsed += seconds
        return Ended(records, elapsed)


def counts(found: Sessions) -> dict[str, int]:
    return {test: len(records) for test, records in found.records.items()}


def test_every_test_is_timed_in_every_process_within_the_budget() -> None:
    machine = Machine({"a": (1.0, 0.5), "b": (0.1, 0.01)})
    found = measure([Test("a"), Test("b")], 120, 8, machine.run)
    assert counts(found) == {"a": 8, "b": 8} and not found.left_out and not found.deaths
    assert found.seconds <= 120
    assert {len(plan.tests) for plan in machine.plans} == {2}
    assert list(machine.plans[0].tests) == ["a", "b"]
    orders = {tuple(plan.tests) for plan in machine.plans[1:]}
    assert len(orders) == 2, "each process has an order of its own"
    assert len({plan.seed for plan in machine.plans}) == 8


def test_the_time_that_is_left_goes_into_rounds() -> None:
    short, long = (
        measure([Test("a")], budget, 8, Machine({"a": (1.0, 0.5)}).run) for budget in (32, 96)
    )
    assert short.times("a").pairs <= 16 and long.times("a").pairs >= 8 * 10
    assert short.seconds <= 32 and long.seconds <= 96


def test_what_the_budget_does_not_pay_for_is_left_out_and_said() -> None:
    machine = Machine({"cheap": (1.0, 0.5), "dear": (30.0, 30.0)})
    found = measure([Test("dear", cost=60), Test("cheap")], 80, 8, machine.run)
    assert counts(found) == {"cheap": 8, "dear": 0}
    assert found.left_out == {"dear": "the budget did not pay for it"}
    assert found.times("dear").note == "the budget did not pay for it"
    assert list(machine.plans[0].tests) == ["cheap", "dear"], "what is costly comes last"
    assert found.seconds <= 80


def test_a_test_that_turns_out_to_be_dear_is_dropped_after_the_first_process() -> None:
    machine = Machine({"a": (1.0, 0.5), "dear": (5.0, 20.0), "b": (1.0, 0.5)})
    found = measure([Test("a"), Test("dear"), Test("b")], 80, 8, machine.run)
    assert counts(found) == {"a": 8, "dear": 1, "b": 7}, "what is cheap is timed after all"
    assert found.left_out == {"dear": "the budget paid for one fresh process"}
    assert found.times("dear").product({"baseline": 1}) is None


def test_a_headline_is_timed_by_all_processes_however_short_the_budget_is() -> None:
    machine = Machine({"a": (1.0, 0.5), "headline": (5.0, 5.0)})
    found = measure([Test("a"), Test("headline", always=True)], 30, 8, machine.run)
    assert counts(found)["headline"] == 8 and "a" in found.left_out


def test_without_a_budget_no_process_is_started() -> None:
    machine = Machine({"a": (1.0, 0.5)})
    found = measure([Test("a", always=True)], 0, 8, machine.run)
    assert not machine.plans and found.left_out == {"a": "the budget has 0 s left"}


def test_a_process_that_dies_leaves_the_others_their_values_and_is_said() -> None:
    machine, lines = Machine({"a": (1.0, 0.5), "b": (1.0, 0.5), "c": (1.0, 0.5)}, "b"), []
    found = measure([Test(t) for t in "abc"], 200, 8, machine.run, lines.append)
    assert counts(found) == {"a": 8, "b": 0, "c": 7}
    death = "fresh process 1 of 8 died: exit status -11: Segmentation fault"
    assert found.deaths == [death] and found.errors("b") == [death]
    assert not found.errors("a") and not found.errors("c")
    assert "died" not in found.times("c").note
    assert "exit status -11" in lines[0] and "2 tests timed" in lines[1]


def test_processes_that_do_not_start_are_not_started_again() -> None:
    plans = []

    def run(plan: Plan) -> Ended:
        plans.append(plan)
        return Ended({}, 1.0, "exit status 4: no such option")

    found = measure([Test("a")], 100, 8, run)
    assert len(plans) == 1
    note = found.times("a").note
    assert note.startswith(f"0 fresh processes timed it, and it takes {FEWEST_PROCESSES}; fresh")
    assert "no such option" in note


def test_an_error_in_a_process_is_the_test_s_and_the_test_is_not_run_again() -> None:
    plans = []

    def run(plan: Plan) -> Ended:
        plans.append(plan)
        good = Record("good", 1.0, 0.5, {"baseline": [0.0]})
        bad = Record("bad", 1.0, error="assert 1 > 2")
        return Ended({r.test: r for r in (good, bad) if r.test in plan.tests}, 3.0)

    found = measure([Test("good"), Test("bad")], 100, 8, run)
    assert found.errors("bad") == ["assert 1 > 2"] and not found.errors("good")
    assert counts(found) == {"good": 8, "bad": 1} and len(plans) == PROCESSES


def test_a_process_counts_once_however_many_rounds_it_ran() -> None:
    disturbed = {"baseline": [0.0, 0.0, 3.0], "candidate": [-1.0, -1.0, -1.0]}
    processes = [disturbed, {"baseline": [0.1], "candidate": [-1.0]}] * 4
    times = Times(processes)
    assert times.pairs == 16
    assert times.values({"baseline": 1, "candidate": -1}) == pytest.approx([1.0, 1.1] * 4)
    found = times.ratio("baseline", "candidate", 8)
    expected = fresh_process([1.0 + math.log(8), 1.1 + math.log(8)] * 4)
    assert (found.low, found.value, found.high) == pytest.approx(
        (expected.low, expected.value, expected.high)
    )
    assert times.seconds("candidate") == pytest.approx([math.exp(-1)] * 8)


def test_powers_of_sides_are_multiplied_round_by_round() -> None:
    sides = {"alone": [0.0, 1.0], "small": [-1.0, 0.0], "batch": [-0.5, 0.5], "both": [-1.5, -0.5]}
    found = Times([sides] * 6).product({"alone": 1, "small": -1, "batch": -1, "both": 1})
    assert (found.low, found.high) == pytest.approx((1, 1))


@pytest.mark.parametrize("n", [0, 1, FEWEST_PROCESSES - 1])
def test_too_few_processes_have_no_interval(n) -> None:
    assert fresh_process([0.0] * n) is None
    assert fresh_process([0.0] * FEWEST_PROCESSES) is not None


@pytest.mark.parametrize("n", [6, 8, 12])
@pytest.mark.parametrize(
    ("shape", "least"),
    # The interval is exact for normal values; tails of 5 degrees of freedom cost it 1.4 points.
    [("normal", 0.95), ("heavy", 0.935)],
)
def test_the_interval_holds_the_next_process_at_its_rate(n, shape, least) -> None:
    rng = np.random.default_rng(37)
    trials = 2000

    def draw() -> np.ndarray:
        values = rng.normal(size=n + 1) if shape == "normal" else rng.standard_t(5, size=n + 1)
        return 0.7 + 0.05 * values

    held = 0
    for _ in range(trials):
        *published, fresh = draw()
        interval = fresh_process(published)
        held += interval.low <= math.exp(fresh) <= interval.high
    rate = binomtest(held, trials).proportion_ci(0.999)
    assert FRESH_CONFIDENCE == 0.95
    assert rate.low <= 0.95 and rate.high >= least, held / trials


def test_a_line_that_was_not_finished_is_dropped(tmp_path) -> None:
    path = tmp_path / "records.jsonl"
    whole = {"test": "a", "seconds": 1.0, "rounds_s": 0.5, "log_seconds": {"baseline": [0.0]}}
    path.write_text(f'{{"test": "a"}}\n{json.dumps(whole)}\n{{"test": "b"}}\n{{"test": "b", "sec')
    records = read_records(path)
    assert records["a"].rounds == 1 and records["b"].seconds == 0
    assert read_records(tmp_path / "absent") == {}


def test_a_plan_survives_its_file(tmp_path) -> None:
    plan = Plan({"a": 0.5}, {"a": 10.0}, ["a"], 15.0, 3, 1e9, "out")
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


def test_threads_wait_in_a_fresh_process_unless_the_environment_says_otherwise(monkeypatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("PYTEST_ADDOPTS", "--junitxml=x")
    environment = environment_of_child()
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE" and "PYTEST_ADDOPTS" not in environment
    assert str(Path(__file__).parents[1]) in environment["PYTHONPATH"]
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert environment_of_child()["OMP_WAIT_POLICY"] == "ACTIVE"
