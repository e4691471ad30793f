"""The comparison of two revisions, on machines whose every second is known."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from mpnn_core.gate.intervals import ERROR, Interval, order_index
from mpnn_core.gate.project import load_project
from mpnn_core.gate.revisions.compare import benchmark_names
from mpnn_core.gate.revisions.comparison import (
    COULD_NOT_TELL,
    REGRESSION,
    Answer,
    CompareError,
    Comparison,
    print_comparison,
)
from mpnn_core.gate.revisions.race import LOOKS, REACH, THRESHOLD, BenchmarkError, Outcome, race
from mpnn_core.gate.verdicts import Change, judge_change

ROOT = Path(__file__).parents[1]
BUDGET_S = 1e6


class Machine:
    """Processes on a clock: a layout each, slowness that all share, noise of their own, stalls."""

    def __init__(
        self,
        slowdown: float = 1.0,
        layout: float = 0.0,
        drift: float = 0.0,
        noise: float = 0.0,
        stalls: float = 0.0,
        seed: int = 0,
        broken: tuple[str, ...] = (),
        run_s: float = 0.1,
        start_s: float = 5.0,
    ) -> None:
        self.now, self.log_slowness, self.sessions = 0.0, 0.0, 0
        self.slowdown, self.layout, self.drift = slowdown, layout, drift
        self.noise, self.stalls, self.broken = noise, stalls, broken
        self.run_s, self.start_s = run_s, start_s
        self.random = np.random.default_rng(seed)

    @contextmanager
    def start(self) -> Iterator[dict[str, Process]]:
        self.sessions += 1
        self.now += self.start_s
        yield {side: Process(self, side) for side in ("base", "head", "control")}

    def clock(self) -> float:
        return self.now

    def race(self, names=("a",), budget_s: float = BUDGET_S, **options) -> list[Outcome]:
        return race(self.start, names, budget_s, clock=self.clock, **options)


class Process:
    def __init__(self, machine: Machine, side: str) -> None:
        self.machine, self.side = machine, side
        slowdown = machine.slowdown if side == "head" else 1.0
        self.seconds = machine.run_s * slowdown * math.exp(machine.layout * machine.random.normal())

    def prepare(self, name: str) -> float:
        if self.side in self.machine.broken:
            raise BenchmarkError(f"no {name} in {self.side}")
        return self.time(name)

    def time(self, name: str) -> float:
        m = self.machine
        m.log_slowness = 0.95 * m.log_slowness + m.drift * m.random.normal()
        stall = 5.0 if m.random.random() < m.stalls else 1.0
        took = self.seconds * stall * math.exp(m.log_slowness + m.noise * m.random.normal())
        m.now += took
        return took


def test_without_noise_the_change_is_exact() -> None:
    (found,) = Machine(slowdown=1.1).race()
    assert found.change is Change.SLOWER and found.sessions == LOOKS[0]
    assert found.time == "+10.0 % [+10.0, +10.0]"
    (found,) = Machine(slowdown=0.8).race()
    assert found.change is Change.FASTER and found.time.startswith("-20.0 %")
    (found,) = Machine(slowdown=1.01).race()
    assert found.change is Change.NONE


def test_what_is_settled_is_not_measured_any_further() -> None:
    """The time goes to what is open: a benchmark whose processes differ from start to start."""
    machine = Machine()
    noisy = {"b"}

    @contextmanager
    def start() -> Iterator[dict[str, object]]:
        with machine.start() as sides:
            for process in sides.values():
                quiet = process.time

                factor = math.exp(0.06 * machine.random.normal())

                def time(name, quiet=quiet, factor=factor):
                    return quiet(name) * (factor if name in noisy else 1.0)

                process.time = time
            yield sides

    a, b = race(start, ("a", "b"), BUDGET_S, clock=machine.clock)
    assert a.sessions == LOOKS[0] < b.sessions, (a.sessions, b.sessions)


@pytest.mark.parametrize("budget", [60.0, 150.0, 300.0, 600.0])
def test_the_budget_is_kept(budget) -> None:
    machine = Machine(noise=0.05, layout=0.05)
    found = machine.race(("a", "b", "c"), budget)
    assert machine.now <= budget, machine.now
    if budget >= 150:
        assert machine.now > budget / 3, f"{machine.now:.0f} of {budget:.0f} s were used"
    if budget < 100:  # ten starts of 5 s do not fit
        assert {o.change for o in found} == {Change.INCONCLUSIVE}
        assert all("the budget " in o.note for o in found)


def test_a_budget_too_short_for_all_settles_some() -> None:
    """The costliest are left out, and said to be; the others get their restarts."""
    machine = Machine()

    @contextmanager
    def start() -> Iterator[dict[str, object]]:
        with machine.start() as sides:
            for process in sides.values():
                one = process.time

                def time(name, one=one):
                    return sum(one(name) for _ in range(20 if name == "dear" else 1))

                process.time = time
            yield sides

    dear, cheap = race(start, ("dear", "cheap"), 120.0, clock=machine.clock)
    assert (dear.change, dear.sessions) == (Change.INCONCLUSIVE, 0) and "left out" in dear.note
    assert (cheap.change, cheap.sessions) == (Change.NONE, LOOKS[0]) and machine.now <= 120


@pytest.mark.parametrize(
    ("broken", "change"),
    [
        (("head",), Change.BROKEN),
        (("base", "control"), Change.ONLY_HERE),
        (("base", "head", "control"), Change.BROKEN),
    ],
)
def test_what_runs_on_one_side_only_is_reported_as_such(broken, change) -> None:
    (found,) = Machine(broken=broken).race()
    assert found.change is change
    assert "no a in" in found.note, found.note


@pytest.mark.parametrize(
    ("measured", "control", "change"),
    [
        ((0.90, 0.88, 0.92), (1, 0.99, 1.01), Change.SLOWER),
        ((1.10, 1.08, 1.12), (1, 0.99, 1.01), Change.FASTER),
        ((1.00, 0.98, 1.02), (1, 0.99, 1.01), Change.NONE),
        ((0.96, 0.94, 0.98), (1, 0.99, 1.01), Change.INCONCLUSIVE),
        ((0.98, 0.972, 0.99), (1, 0.99, 1.01), Change.NONE),  # slower, and within the threshold
        ((0.94, 0.93, 0.95), (1.05, 1.04, 1.06), Change.INCONCLUSIVE),  # the control is as far off
        ((0.80, 0.79, 0.81), (1.05, 1.04, 1.06), Change.SLOWER),  # by more than the control is
        ((0.94, 0.93, 0.95), (0.95, 0.94, 0.96), Change.INCONCLUSIVE),
        ((1.00, 0.99, 1.01), (1.05, 1.04, 1.06), Change.INCONCLUSIVE),
    ],
)
def test_a_change_is_judged_by_its_interval_and_the_control(measured, control, change) -> None:
    assert judge_change(Interval(*measured), Interval(*control), THRESHOLD) is change


def test_without_an_interval_nothing_is_judged() -> None:
    assert judge_change(None, None, THRESHOLD) is Change.INCONCLUSIVE


MACHINES = {
    "layout": st.floats(0, 0.04),
    "drift": st.floats(0, 0.1),
    "noise": st.floats(0.005, 0.1),
    "stalls": st.floats(0, 0.1),
    "seed": st.integers(0, 2**32 - 1),
}
TRIALS = 60
# Of 60 trials whose error is 1 %, more than 5 are wrong less than once in 20,000 times.
MOST_WRONG = 5


def outcomes(slowdown: float, machine: dict) -> list[Outcome]:
    seeds = np.random.default_rng(machine["seed"]).integers(0, 2**32, TRIALS)
    found = []
    for seed in seeds:
        here = Machine(slowdown, **{**machine, "seed": int(seed)})
        found += here.race(rounds=3, seed=int(seed))
    return found


@given(st.floats(0.7, 1.5), st.fixed_dictionaries(MACHINES))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_the_interval_covers_the_true_ratio_at_its_rate(slowdown, machine) -> None:
    found = outcomes(slowdown, machine)
    missed = sum(not o.ratio.low <= 1 / slowdown <= o.ratio.high for o in found)
    assert missed <= MOST_WRONG, f"{missed} of {TRIALS} missed; the rate is {ERROR:.0%}"


@given(st.fixed_dictionaries(MACHINES))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_an_unchanged_tree_is_not_slower(machine) -> None:
    found = [o.change for o in outcomes(1.0, machine)]
    wrong = found.count(Change.SLOWER) + found.count(Change.FASTER)
    assert wrong <= MOST_WRONG, f"{wrong} of {TRIALS} unchanged trees changed"


@given(st.sampled_from([1.06, 1.1, 1.3]), st.fixed_dictionaries(MACHINES))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_a_slower_tree_is_not_called_unchanged(slowdown, machine) -> None:
    found = [o.change for o in outcomes(slowdown, machine)]
    wrong = found.count(Change.NONE) + found.count(Change.FASTER)
    assert wrong <= MOST_WRONG, f"{wrong} of {TRIALS} slowdowns of {slowdown} went unseen"


def test_on_a_quiet_machine_ten_percent_are_caught() -> None:
    """Never wrong is easy; this is the other half."""
    quiet = {"layout": 0.01, "drift": 0.02, "noise": 0.02, "stalls": 0.02, "seed": 1}
    caught = [o.change for o in outcomes(1.1, quiet)].count(Change.SLOWER)
    green = [o.change for o in outcomes(1.0, quiet)].count(Change.NONE)
    assert caught >= 0.95 * TRIALS and green >= 0.8 * TRIALS, (caught, green)


@contextmanager
def recorded(sessions: list[dict[str, list[float]]]) -> Iterator:
    """A way to start sessions that happened: log ratios of base over head, by benchmark."""
    waiting = iter(sessions)

    class Recorded:
        def __init__(self, logs: dict[str, float], side: str) -> None:
            self.logs, self.side = logs, side

        def prepare(self, name: str) -> float:
            return 0.1

        def time(self, name: str) -> float:
            return math.exp(-self.logs[name]) if self.side == "head" else 1.0

    @contextmanager
    def start() -> Iterator[dict[str, Recorded]]:
        logs = next(waiting)
        yield {side: Recorded(logs, side) for side in ("base", "head", "control")}

    yield start


def test_what_is_printed_is_what_was_judged() -> None:
    """Interval, spread, counts and verdict are those of the last look, not of later sessions."""
    first = [{"a": -0.1 + 0.05 * (i - 4.5)} for i in range(10)]
    later = [{"a": -0.5}] * 4  # four more, and time is over: the next look is at 15
    clock = iter(range(10**6))

    def found(sessions) -> Outcome:
        with recorded(sessions) as start:
            asked = len(sessions)
            ended: list[str] = []
            (outcome,) = race(
                start, ["a"], 1e4, rounds=3, progress=ended.append,
                clock=lambda: next(clock) * 1e-6 + (1e9 if len(ended) >= asked else 0),
            )  # fmt: skip
        return outcome

    at_the_look, at_the_end = found(first), found(first + later)
    assert at_the_look.change is Change.INCONCLUSIVE and at_the_look.sessions == LOOKS[0]
    at_the_look.restart_s = at_the_end.restart_s = None
    assert at_the_end == at_the_look


def test_the_reach_is_what_nine_of_ten_runs_stay_within() -> None:
    """The constants, from the distribution of an order statistic of normal values.

    Mixed over what a run's own estimate of the spread may be, a chi distribution.
    """
    assert tuple(REACH) == LOOKS
    for n, reach in REACH.items():
        upper = n - order_index(n, ERROR / len(LOOKS))
        shares = (np.arange(2000) + 0.5) / 2000
        estimates = np.sqrt(stats.chi2.ppf(shares, n - 1) / (n - 1))
        within = stats.beta.cdf(stats.norm.cdf(reach * estimates), upper, n - upper + 1)
        assert within.mean() == pytest.approx(0.9, abs=1e-3), n


@pytest.mark.parametrize(
    "machine",
    [
        {"layout": 0.02, "noise": 0.01},
        {"layout": 0.01, "noise": 0.05, "drift": 0.05},
        {"layout": 0.02, "noise": 0.02, "stalls": 0.05},
    ],
    ids=["layouts", "noise", "stalls"],
)
def test_what_a_run_says_is_caught_is_caught_in_nine_of_ten(machine) -> None:
    """One run says what would be caught; another, as short, is slower by just that."""
    trials, caught, half = 300, 0, 0
    for seed in range(trials):
        options = {"rounds": 3, "most": LOOKS[0]}
        (unchanged,) = Machine(**machine, seed=seed).race(**options)
        stated = unchanged.sensitivity(THRESHOLD)
        (slow,) = Machine(stated, **machine, seed=trials + seed).race(**options)
        caught += slow.change is Change.SLOWER
        width = unchanged.ratio.high / unchanged.ratio.value
        (slow,) = Machine(THRESHOLD * width, **machine, seed=2 * trials + seed).race(**options)
        half += slow.change is Change.SLOWER
    # Of 300 at 90 %, the standard deviation is 1.7 points.
    assert 0.85 <= caught / trials <= 0.95, f"{caught / trials:.0%} are caught, not 90 %"
    assert half / trials < 0.7, "the width of the interval alone is what half of the runs catch"


def test_the_budget_goes_to_the_most_suspicious_first() -> None:
    """Four benchmarks stay open; the one that looks slower gets the restarts that are left."""
    spread = {"a": 0.0, "b": 0.0, "slow": -0.09, "c": 0.0}
    machine = Machine(start_s=2.0)

    @contextmanager
    def start() -> Iterator[dict[str, object]]:
        with machine.start() as sides:
            layouts = {name: 0.06 * machine.random.normal() for name in spread}
            for side, process in sides.items():
                head = side == "head"

                def time(name, quiet=process.time, head=head):
                    return quiet(name) * math.exp((layouts[name] - spread[name]) * head)

                process.time = time
            yield sides

    found = race(start, spread, 90.0, clock=machine.clock)
    sessions = {o.benchmark: o.sessions for o in found}
    assert sessions["slow"] > LOOKS[0], sessions
    assert [sessions[name] for name in "abc"] == [LOOKS[0]] * 3, sessions
    assert machine.now <= 90, machine.now


def busy_machine() -> Comparison:
    """A planted 10 % on a busy machine: +9 to +14 % in all four designs, and none is settled.

    The spread from session to session is that of normal values, the same at every call.
    """
    percents = {
        "design_one": 9.1, "design_eight": 13.9, "design_complex": 11.2, "design_in_torch": 12.4,
        "log_probs": -0.4, "read_structure": 1.0, "read_mmcif": 0.2, "design_command": 0.1,
    }  # fmt: skip
    spread = {"log_probs": 0.01, "read_mmcif": 0.002, "design_command": 0.002}
    shares = stats.norm.ppf((np.arange(LOOKS[0]) + 0.5) / LOOKS[0])
    sessions = [
        {
            name: -math.log1p(p / 100) + spread.get(name, 0.08) * share
            for name, p in percents.items()
        }
        for share in shares
    ]
    with recorded(sessions) as start:
        outcomes = race(start, percents, 1e6, rounds=3, most=LOOKS[0])
    return Comparison("main", "abc", outcomes, [], THRESHOLD, 300.0)


def test_a_comparison_that_could_not_tell_says_so_and_names_what_could() -> None:
    found = busy_machine()
    assert not found.regressions
    assert len(found.untold) == 5 and found.untold[0].benchmark.startswith("design"), found.untold
    text = io.StringIO()
    print_comparison(found, Console(file=text, width=150))
    assert "no regression" not in text.getvalue()
    assert "could not tell whether 5 of 8 benchmarks got slower by more than 3 %" in text.getvalue()
    command = f"mpnn-core compare main --only {found.untold[0].benchmark} --budget 2m"
    assert f"this could tell: {command}\n" in text.getvalue()
    assert (found.exit_code(), found.exit_code(acceptance=True)) == (COULD_NOT_TELL, REGRESSION)


def test_open_and_not_slower_is_no_regression() -> None:
    """What is faster, or surely within the threshold, is not what a guard is for."""
    control = Interval(1, 0.9, 1.1)
    faster = Outcome("a", Change.INCONCLUSIVE, Interval(1.05, 0.99, 1.1), control, 10, 30)
    found = Comparison("main", "abc", [faster], [], THRESHOLD, 60.0)
    assert found.conclusion == "no regression" and found.exit_code(acceptance=True) == 0
    slower = Outcome("a", Change.INCONCLUSIVE, Interval(1.05, 0.96, 1.1), control, 10, 30)
    assert Comparison("main", "abc", [slower], [], THRESHOLD, 60.0).exit_code() == COULD_NOT_TELL


def test_a_regression_counts_more_than_what_is_open() -> None:
    found = busy_machine()
    found.outcomes += comparison().outcomes[:1]
    assert found.conclusion == (
        "1 regression; could not tell whether 5 more of 9 benchmarks got slower by more than 3 %"
    )
    assert found.exit_code() == REGRESSION


def test_the_command_that_could_tell_gets_longer_where_it_did_not() -> None:
    (again,) = (o for o in busy_machine().outcomes if o.benchmark == "design_one")
    again.restart_s = 3.0
    found = Comparison("a b", "abc", [again], [], THRESHOLD, 170.0)
    assert found.command_that_could_tell == (
        "mpnn-core compare 'a b' --only design_one --budget 6m"
    )
    found.outcomes.append(Outcome("b", Change.NONE))
    again.restart_s = 9.0  # 10 of these are to be six tenths of the budget
    assert found.command_that_could_tell.endswith("--only design_one --budget 3m")


def test_layouts_would_deceive_without_restarts() -> None:
    """Many rounds of one pair of processes are sure of what those two processes are."""
    wrong = 0
    for seed in range(20):
        machine = Machine(layout=0.04, noise=0.01, seed=seed)
        with machine.start() as sides:
            logs = [math.log(sides["base"].time("a") / sides["head"].time("a")) for _ in range(100)]
        wrong += abs(float(np.median(logs))) > math.log(THRESHOLD)
    assert wrong >= 5
    assert not any(
        Machine(layout=0.04, noise=0.01, seed=seed).race(rounds=3)[0].change is Change.SLOWER
        for seed in range(20)
    )


@pytest.mark.parametrize(
    ("base", "head", "worse"),
    [
        (2.4e-5, 2.4e-5, False),
        (2.4e-5, 5e-5, False),
        (2.4e-5, 2.4e-4, True),  # a digit
        (1e-5, 4e-5, True),  # within what exact means, and half a digit worse
        (1e-7, 1.5e-6, False),  # the last bits
        (3e-4, 3e-4, True),  # as bad as before, and not exact
        (2e-5, None, True),
        (2e-5, float("nan"), True),
        (None, 2e-5, False),
    ],
)
def test_an_answer_may_not_lose_half_a_digit(base, head, worse) -> None:
    exact = load_project(ROOT).exact
    assert Answer("a", base, head, exact.largest(base)).is_worse is worse
    assert (exact.within, exact.unit) == (1e-4, "nats")


def comparison() -> Comparison:
    slow = Outcome("a", Change.SLOWER, Interval(0.9, 0.88, 0.92), Interval(1, 0.99, 1.01), 10, 50)
    gone = Outcome("b", Change.ONLY_THERE)
    answers = [Answer("5L33", 2e-5, 2e-4, 6e-5)]
    return Comparison(
        "main", "abc", [slow, gone], answers, 1.03, 60.0, {"cores": "2"}, "today", "nats"
    )


def test_a_regression_is_named_with_its_size_and_confidence() -> None:
    slow, inexact = comparison().regressions
    assert slow == (
        "a is slower than main: time +11.1 % [+8.7, +13.6], 99 % interval, 10 restarts of 5 rounds"
    )
    assert inexact == "5L33 is less exact than main: 2.0e-04 against 2.0e-05 nats"
    text = io.StringIO()
    print_comparison(comparison(), Console(file=text, width=150))
    assert slow in text.getvalue() and "2 regressions" in text.getvalue()
    assert "only there" in text.getvalue()


def test_a_comparison_survives_its_file(tmp_path) -> None:
    path = tmp_path / "comparison.json"
    assert Comparison.load(path) is None
    comparison().save(path)
    assert Comparison.load(path) == comparison()
    path.write_text('{"schema": 2}')
    with pytest.raises(CompareError, match="is not a comparison"):
        Comparison.load(path)


def test_the_benchmarks_are_read_without_running_them(tmp_path) -> None:
    names = benchmark_names(ROOT / "perf_tests" / "benchmarks.py")
    assert "design_eight" in names and "answers" not in names
    path = tmp_path / "benchmarks.py"
    assert benchmark_names(path) == {}
    path.write_text("x = 1")
    with pytest.raises(CompareError, match="has no BENCHMARKS"):
        benchmark_names(path)
