"""Benchmarks of two revisions timed in turn, session by session, until each is settled."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mpnn_core.gate import GateError
from mpnn_core.gate.intervals import ERROR, Interval, median_ratio
from mpnn_core.gate.verdicts import Change, judge_change

# Sessions after which the intervals are looked at; the error is shared among the looks.
LOOKS = (10, 15, 22, 33)
# A change by less than this factor counts as none: a rebuild alone may do as much.
THRESHOLD = 1.03
BUDGET_S = 300.0
# The first look's share of the budget; the rest goes to benchmarks that are still open then.
FIRST_LOOK = 0.6
FEWEST_ROUNDS, MOST_ROUNDS = 3, 15
SIDES = ("base", "head", "control")


class Side(Protocol):
    """Times benchmarks in one revision, in a process of its own."""

    def prepare(self, name: str) -> float:
        """Warm up: seconds of a run. BenchmarkError if the revision cannot run it."""

    def time(self, name: str) -> float:
        """Seconds of a run."""


class BenchmarkError(GateError):
    """A benchmark raised an error in a revision, or its process ended."""


Session = Callable[[], AbstractContextManager[Mapping[str, Side]]]


@dataclass
class Outcome:
    """The result of one benchmark.

    `ratio` is the time of the base over that of the head, `control` that of the base over itself:
    over 1 is faster.
    """

    benchmark: str
    change: Change
    ratio: Interval | None = None
    control: Interval | None = None
    sessions: int = 0
    rounds: int = 0
    note: str = ""

    @property
    def time(self) -> str:
        """The change of the time that a run takes, in percent, with its interval."""
        if self.ratio is None:
            return "-"
        value, low, high = (
            100 * (1 / r - 1) for r in (self.ratio.value, self.ratio.high, self.ratio.low)
        )
        return f"{value:+.1f} % [{low:+.1f}, {high:+.1f}]"

    def sensitivity(self, threshold: float) -> float | None:
        """The slowdown, as a factor of time, that an interval of this width would have caught."""
        if self.ratio is None:
            return None
        return threshold * self.ratio.high / self.ratio.value


def race(
    start: Session,
    names: Iterable[str],
    budget_s: float = BUDGET_S,
    threshold: float = THRESHOLD,
    clock: Callable[[], float] = time.perf_counter,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
    rounds: int | None = None,
    most: int = LOOKS[-1],
) -> list[Outcome]:
    """Measure benchmarks session by session until each is settled or the budget is spent.

    Parameters
    ----------
    start : opens a session: fresh processes by the names of SIDES
    names : benchmarks
    budget_s : seconds in all; a session that would not fit is not begun
    threshold : see `verdicts.judge_change`
    progress : gets a line after every session
    rounds : of each session; None fits them to the budget
    most : sessions
    """
    began, order = clock(), random.Random(seed)
    outcomes = {name: Outcome(name, Change.INCONCLUSIVE) for name in names}
    ratios: dict[str, list[float]] = {name: [] for name in outcomes}
    controls: dict[str, list[float]] = {name: [] for name in outcomes}
    open_names, longest = list(outcomes), 0.0
    for session in range(most):
        started = clock()
        if not open_names or started - began + longest > budget_s:
            break
        with start() as sides:
            starting = clock() - started
            costs = _prepare(sides, open_names, outcomes)
            if session == 0:
                for name in _unaffordable(costs, budget_s / LOOKS[0] - starting):
                    outcomes[name].note = "left out: the budget does not pay for it"
                    del costs[name]
            open_names = list(costs)
            spare = _share(session, budget_s, started - began) - (clock() - started)
            fitting = int(spare / max(sum(costs.values()), 1e-9))
            count = rounds or min(max(fitting, FEWEST_ROUNDS), MOST_ROUNDS)
            logs = _rounds(sides, open_names, count, order)
        for name, seconds in logs.items():
            ratios[name].append(float(np.median([r["base"] - r["head"] for r in seconds])))
            controls[name].append(float(np.median([r["base"] - r["control"] for r in seconds])))
            o = outcomes[name]
            o.sessions, o.rounds = o.sessions + 1, o.rounds + count
            o.ratio = median_ratio(ratios[name], ERROR / len(LOOKS))
            o.control = median_ratio(controls[name], ERROR / len(LOOKS))
            if session + 1 in LOOKS:
                o.change = judge_change(o.ratio, o.control, threshold)
        open_names = [n for n in open_names if outcomes[n].change is Change.INCONCLUSIVE]
        longest = max(longest, clock() - started)
        progress(f"restart {session + 1}: {len(open_names)} of {len(outcomes)} benchmarks are open")
    for o in outcomes.values():
        if o.sessions and o.change is Change.INCONCLUSIVE and o.ratio is None:
            o.note = f"the budget paid for {o.sessions} restarts; the first look is at {LOOKS[0]}"
    return list(outcomes.values())


def _prepare(
    sides: Mapping[str, Side], names: Iterable[str], outcomes: Mapping[str, Outcome]
) -> dict[str, float]:
    """Warm up every benchmark: seconds of a round of each; those that do not run are settled."""
    costs = {}
    for name in names:
        try:
            costs[name] = sum(sides[side].prepare(name) for side in SIDES)
        except BenchmarkError as error:
            outcomes[name].change, outcomes[name].note = _broken(sides, name, error)
    return costs


def _share(session: int, budget_s: float, spent_s: float) -> float:
    """Seconds that a session may take, all in all."""
    if session < LOOKS[0]:
        return FIRST_LOOK * budget_s / LOOKS[0]
    # Open benchmarks get the rest of the budget, spread over the sessions up to the next look.
    until = next(look for look in LOOKS if look > session)
    return (budget_s - spent_s) / (until - session)


def _rounds(
    sides: Mapping[str, Side], names: Sequence[str], count: int, order: random.Random
) -> dict[str, list[dict[str, float]]]:
    """Log seconds of each benchmark, by round and side; benchmarks and sides in random order."""
    logs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(count):
        for name in order.sample(names, len(names)):
            seconds = {side: sides[side].time(name) for side in order.sample(SIDES, len(SIDES))}
            logs[name].append({side: math.log(s) for side, s in seconds.items()})
    return logs


def _unaffordable(costs: Mapping[str, float], session_s: float) -> list[str]:
    """The costliest benchmarks, as many as must go for a session to fit; never all of them."""
    dearest_first = sorted(costs, key=lambda name: costs[name], reverse=True)
    left = sum(costs.values())
    gone: list[str] = []
    for name in dearest_first[:-1]:
        # Each prepares with two runs, and then has its rounds.
        if (2 + FEWEST_ROUNDS) * left <= session_s:
            break
        gone.append(name)
        left -= costs[name]
    return gone


def _broken(sides: Mapping[str, Side], name: str, error: BenchmarkError) -> tuple[Change, str]:
    """On which sides a benchmark does not run, and why."""
    errors = {}
    for side in ("base", "head"):
        try:
            sides[side].prepare(name)
        except BenchmarkError as own:
            errors[side] = str(own)
    if errors.keys() == {"base", "head"}:
        return Change.BROKEN, f"{errors['head']}; nor does it in the other revision"
    if "base" in errors:
        return Change.ONLY_HERE, errors["base"]
    return Change.BROKEN, errors.get("head", str(error))
