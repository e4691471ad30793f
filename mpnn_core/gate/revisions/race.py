"""Benchmarks of two revisions timed in turn, session by session, until each is settled."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mpnn_core.gate import GateError
from mpnn_core.gate.intervals import ERROR, Interval, median_ratio
from mpnn_core.gate.verdicts import Change, change_bar, judge_change

# Sessions after which the intervals are looked at; the error is shared among the looks.
LOOKS = (10, 15, 22, 33)
# A slowdown is caught if the upper end of the interval stays below the threshold. By look: how far
# above the true value that end may come, in standard deviations between sessions, in 9 of 10 runs.
# Of normal values; that the deviation is itself estimated, from so many sessions, is counted in.
REACH = {10: 2.713, 15: 2.010, 22: 1.505, 33: 1.106}
# A change by less than this factor counts as none: a rebuild alone may do as much.
THRESHOLD = 1.03
BUDGET_S = 300.0
# The first look's share of the budget; the rest goes to benchmarks that are still open then.
FIRST_LOOK = 0.6
FEWEST_ROUNDS, MOST_ROUNDS = 3, 15
# Runs of a benchmark that prepare it, in every session.
WARM_UPS = 2
# Of the time up to the next look, what is planned; the rest is for runs that take longer.
PLANNED = 0.95
SIDES = ("base", "head", "control")


class Side(Protocol):
    """Times benchmarks in one revision, in a process of its own."""

    def prepare(self, name: str) -> float:
        """Warm up: seconds of a run. BenchmarkError if the revision cannot run it."""

    def time(self, name: str) -> float:
        """Seconds of a run. BenchmarkError as well."""


class BenchmarkError(GateError):
    """A benchmark raised an error in a revision."""


class EndedError(BenchmarkError):
    """A benchmark ended its process; until a new session, that side runs nothing."""


Session = Callable[[], AbstractContextManager[Mapping[str, Side]]]


@dataclass
class Outcome:
    """The result of one benchmark, as its last look found it.

    `ratio` is the time of the base over that of the head, `control` that of the base over itself:
    over 1 is faster. `spread` is the standard deviation of the ratio's logarithm from session to
    session. `restart_s` are the seconds of a session of this benchmark alone, with MOST_ROUNDS.
    """

    benchmark: str
    change: Change
    ratio: Interval | None = None
    control: Interval | None = None
    sessions: int = 0
    rounds: int = 0
    note: str = ""
    spread: float | None = None
    restart_s: float | None = None

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
        """The slowdown, as a factor of time, that is caught in 9 of 10 runs.

        Of runs like this one: as many sessions, with this spread between them.
        """
        if self.control is None or self.spread is None or self.sessions not in REACH:
            return None
        return change_bar(self.control, threshold) * math.exp(REACH[self.sessions] * self.spread)

    def may_be_slower(self, threshold: float) -> bool:
        """Whether it is open, and a slowdown by more than the threshold is not excluded."""
        is_open = self.change is Change.INCONCLUSIVE
        return is_open and (self.ratio is None or self.ratio.low < 1 / threshold)

    def suspicion(self, threshold: float) -> float:
        """How far it looks slower than the threshold, in units of the spread."""
        if self.ratio is None or self.spread is None:
            return -math.inf
        return -math.log(self.ratio.value * threshold) / max(self.spread, 1e-9)


@dataclass
class _Course:
    """A benchmark on its way: one value per session, and what its last look made of them."""

    outcome: Outcome
    ratios: list[float] = field(default_factory=list)
    controls: list[float] = field(default_factory=list)
    rounds: int = 0
    round_s: float = 0.0  # a run on each side

    @property
    def name(self) -> str:
        return self.outcome.benchmark

    @property
    def is_open(self) -> bool:
        return self.outcome.change is Change.INCONCLUSIVE

    def add(self, logs: Sequence[Mapping[str, float]], threshold: float) -> None:
        """Take in a session, and look at all of them if it is time to."""
        self.ratios.append(statistics.median(r["base"] - r["head"] for r in logs))
        self.controls.append(statistics.median(r["base"] - r["control"] for r in logs))
        self.rounds += len(logs)
        if len(self.ratios) not in LOOKS:
            return
        ratio = median_ratio(self.ratios, ERROR / len(LOOKS))
        control = median_ratio(self.controls, ERROR / len(LOOKS))
        o = self.outcome
        o.ratio, o.control, o.spread = ratio, control, float(np.std(self.ratios, ddof=1))
        o.sessions, o.rounds = len(self.ratios), self.rounds
        o.change = judge_change(ratio, control, threshold)

    def settle(self, change: Change, note: str) -> None:
        self.outcome = Outcome(self.name, change, note=note)


class _VoidError(Exception):
    """A process of the session ended: what it measured is dropped, and it starts again."""


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

    A benchmark that raises an error or ends its process fails alone: the others start again
    without it. After the first look, the budget goes to the most suspicious benchmarks first.

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
    courses = [_Course(Outcome(name, Change.INCONCLUSIVE)) for name in names]
    starts: list[float] = []
    sessions = 0

    def left() -> float:
        return began + budget_s - clock()

    while plan := _plan(courses, left(), _typical(starts), threshold, most):
        group, until = plan
        while group and len(group[0].ratios) < until and _fits(group, left(), _typical(starts)):
            started = clock()
            share = FIRST_LOOK * budget_s / LOOKS[0]
            if until > LOOKS[0]:
                share = PLANNED * left() / (until - len(group[0].ratios))
            try:
                with start() as sides:
                    starts.append(clock() - started)
                    _prepare(sides, group)
                    if not sessions:
                        _leave_out(group, budget_s / LOOKS[0] - starts[-1])
                    spare = share - (clock() - started)
                    fitting = int(spare / max(_round_s(group), 1e-9))
                    count = rounds or min(max(fitting, FEWEST_ROUNDS), MOST_ROUNDS)
                    logs = _rounds(sides, group, count, order)
            except _VoidError:
                group = [c for c in group if c.is_open]
                progress("a benchmark ended its process; the others start again without it")
                continue
            for course in group:
                course.add(logs[course.name], threshold)
            group = [c for c in group if c.is_open]
            sessions += 1
            open_ = sum(c.is_open for c in courses)
            progress(f"restart {sessions}: {open_} of {len(courses)} benchmarks are open")
    for course in courses:
        o = course.outcome
        if course.round_s:
            o.restart_s = _typical(starts) + _session_s([course], MOST_ROUNDS)
        if course.ratios and course.is_open and o.ratio is None:
            o.sessions, o.rounds = len(course.ratios), course.rounds
            o.note = f"the budget paid for {o.sessions} restarts; the first look is at {LOOKS[0]}"
    return [course.outcome for course in courses]


def _typical(starts: Sequence[float]) -> float:
    """Seconds that processes take to start; the very first are the slowest."""
    return statistics.median_low(starts) if starts else 0.0


def _round_s(group: Iterable[_Course]) -> float:
    return sum(course.round_s for course in group)


def _session_s(group: Iterable[_Course], rounds: int) -> float:
    """Seconds of a session, but for the start of its processes; 0 before the first one."""
    return (WARM_UPS + rounds) * _round_s(group)


def _fits(group: Iterable[_Course], left_s: float, start_s: float) -> bool:
    return start_s + _session_s(group, FEWEST_ROUNDS) <= left_s


def _plan(
    courses: Sequence[_Course], left_s: float, start_s: float, threshold: float, most: int
) -> tuple[list[_Course], int] | None:
    """Benchmarks to measure together, and the look that the first of them is to reach.

    All of them up to the first look. Then the most suspicious that can reach its next one, and
    beside it as many as the budget pays for with all their rounds. None: the budget is spent.
    """
    new = [c for c in courses if c.is_open and len(c.ratios) < LOOKS[0] and not c.outcome.note]
    if new:
        return (new, LOOKS[0]) if _fits(new, left_s, start_s) else None
    waiting = [c for c in courses if c.is_open and LOOKS[0] <= len(c.ratios) < most]
    waiting.sort(key=lambda c: c.outcome.suspicion(threshold), reverse=True)
    for first in waiting:
        until = next(look for look in LOOKS if look > len(first.ratios))
        share = PLANNED * left_s / (until - len(first.ratios))
        if not _fits([first], share, start_s):
            continue
        group = [first]
        for other in waiting:
            both = [*group, other]
            if other is not first and start_s + _session_s(both, MOST_ROUNDS) <= share:
                group = both
        return group, until
    return None


def _prepare(sides: Mapping[str, Side], group: list[_Course]) -> None:
    """Warm up every benchmark; those that do not run are settled, and leave the group."""
    for course in list(group):
        seconds = _on_each(sides, course, "prepare", SIDES)
        if seconds is None:
            group.remove(course)
        else:
            course.round_s = sum(seconds.values())


def _rounds(
    sides: Mapping[str, Side], group: list[_Course], count: int, order: random.Random
) -> dict[str, list[dict[str, float]]]:
    """Log seconds of each benchmark, by round and side; benchmarks and sides in random order."""
    logs: dict[str, list[dict[str, float]]] = {course.name: [] for course in group}
    for _ in range(count):
        for course in order.sample(group, len(group)):
            seconds = _on_each(sides, course, "time", order.sample(SIDES, len(SIDES)))
            if seconds is None:
                group.remove(course)
            else:
                logs[course.name].append({side: math.log(s) for side, s in seconds.items()})
    return logs


def _on_each(
    sides: Mapping[str, Side], course: _Course, action: str, order: Sequence[str]
) -> dict[str, float] | None:
    """Seconds of an action by side; None from a benchmark that fails, which is settled then.

    Raises
    ------
    _VoidError
        A process ended with it.
    """
    seconds = {}
    for side in order:
        try:
            seconds[side] = getattr(sides[side], action)(course.name)
        except BenchmarkError as error:
            if any(isinstance(e, EndedError) for e in _settle_failed(sides, course, side, error)):
                raise _VoidError from None
            return None
    return seconds


def _settle_failed(
    sides: Mapping[str, Side], course: _Course, side: str, error: BenchmarkError
) -> list[BenchmarkError]:
    """Settle a benchmark that failed on one side, by whether it runs on the other one."""
    tree, other = ("head", "base") if side == "head" else ("base", "head")
    errors = {tree: error}
    try:
        sides[other].prepare(course.name)
        sides[other].time(course.name)
    except BenchmarkError as own:
        errors[other] = own
    if len(errors) == 2:
        note = f"{errors['head']}; nor does it in the other revision"
        course.settle(Change.BROKEN, note)
    else:
        course.settle(Change.BROKEN if tree == "head" else Change.ONLY_HERE, str(error))
    return list(errors.values())


def _leave_out(group: list[_Course], session_s: float) -> None:
    """Drop the costliest benchmarks, as many as must go for a session to fit; never all."""
    left = _round_s(group)
    for course in sorted(group, key=lambda c: c.round_s, reverse=True)[:-1]:
        if (WARM_UPS + FEWEST_ROUNDS) * left <= session_s:
            break
        course.outcome.note = "left out: the budget does not pay for it"
        group.remove(course)
        left -= course.round_s
