"""Figures over many runs: those that pytest-benchmark stored, with the ledger that each carries.

A figure is followed by claim, workload, device and processor: another processor is no change of
code. No run is compared with the run before it: a slow commit would then pass the second time.

Two runs of one engine differ by more than their intervals say: what else the machine did, where the
memory lay. So how much runs differ is taken from the runs of earlier commits, and the latest commit
is slower only where it lies outside of what they predict for one more run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from rich.console import Console
from rich.text import Text

from mpnn_core.gate import GateError
from mpnn_core.gate.ledger import STORED, Entry, Ledger
from mpnn_core.gate.printing import print_table, print_words
from mpnn_core.gate.stored import read_json

# A smaller change of level, by this factor, is no step.
THRESHOLD = 1.03
# The fewest runs of a level; two may agree by chance.
SHORTEST_LEVEL = 4
# For each change of level, in units of the noise and of the logarithm of the number of runs.
PENALTY = 2.0
# The error of the rank test between two levels.
STEP_ERROR = 0.01
# Runs of other commits, on this processor and level, without which nothing is called slower.
FEWEST_RUNS = 6
# The chance that an unchanged engine is called slower in any of all its figures.
FALSE_ALARM = 0.05


class HistoryError(GateError):
    """A stored run cannot be read; the message names the file."""


@dataclass(frozen=True)
class Run:
    """A stored run: its date, commit, processor and ledger."""

    date: str
    commit: str
    processor: str
    ledger: Ledger


@dataclass(frozen=True)
class Point:
    run: Run
    entry: Entry

    @property
    def value(self) -> float:
        assert self.entry.value is not None
        return self.entry.value


@dataclass(frozen=True)
class Step:
    """From one level to another: `at` is the first point of the new one."""

    at: int
    before: float
    after: float


class Latest(StrEnum):
    """How the latest commit compares with the others."""

    SLOWER = "slower"
    NOT_SLOWER = "not slower"
    TOO_FEW = "too few runs"
    NOT_COMPARED = ""  # no ratio, or the latest commit did not measure it


@dataclass(frozen=True)
class Series:
    """One figure on one workload, class of device and processor, in the order of the runs."""

    claim: str
    figure: str
    workload: str
    device: str
    unit: str
    processor: str
    points: tuple[Point, ...]
    latest: Latest = Latest.NOT_COMPARED

    @property
    def is_ratio(self) -> bool:
        return self.unit == "x"

    @property
    def is_slower(self) -> bool:
        return self.latest is Latest.SLOWER

    @property
    def steps(self) -> list[Step]:
        """Changes of level, the earliest first."""
        return find_steps([p.value for p in self.points], self.is_ratio)

    @cached_property
    def own(self) -> tuple[Point, ...]:
        """The runs of the latest commit. However often it is run, it is held against others."""
        latest = self.points[-1].run.commit
        return tuple(p for p in self.points if p.run.commit == latest)

    @cached_property
    def level(self) -> tuple[Point, ...]:
        """The runs of other commits, from their latest step on."""
        latest = self.points[-1].run.commit
        others = tuple(p for p in self.points if p.run.commit != latest)
        steps = find_steps([p.value for p in others], self.is_ratio)
        return others[steps[-1].at :] if steps else others

    @property
    def reference(self) -> float | None:
        """The mean of this level, of a ratio the geometric one; None without another commit."""
        values = np.array([p.value for p in self.level])
        if not len(values):
            return None
        in_logs = self.is_ratio and (values > 0).all()
        return float(np.exp(np.log(values).mean()) if in_logs else values.mean())

    def chance(self) -> float | None:
        """How often one more run of an unchanged engine would be as slow as all of the latest's.

        From the spread of the level's runs, by Student's t; None for fewer than `FEWEST_RUNS`.
        """
        from scipy import stats

        n = len(self.level)
        if n < FEWEST_RUNS:
            return None
        before = np.log([p.value for p in self.level])
        distance = math.log(max(p.value for p in self.own)) - float(before.mean())
        spread = float(before.std(ddof=1)) * math.sqrt(1 + 1 / n)
        if spread == 0:
            return float(distance >= 0)
        return float(stats.t.cdf(distance / spread, n - 1))

    def lies_below(self) -> bool:
        """Whether the latest commit's own intervals, too, leave the level out, by `THRESHOLD`."""
        assert self.reference is not None
        highs = [p.entry.high for p in self.own]
        return all(high is not None and high < self.reference / THRESHOLD for high in highs)


def load_runs(storage: Path) -> list[Run]:
    """The runs in pytest-benchmark's storage that carry a ledger, the earliest first.

    Raises
    ------
    HistoryError
        A file was not written by pytest-benchmark, or is damaged.
    """
    runs = []
    for path in sorted(storage.rglob("*.json")):
        try:
            content = read_json(path)
            if STORED not in content:  # of another suite, or of an earlier version
                continue
            ledger = Ledger.from_json(content[STORED]["ledger"], str(path))
            commit = content.get("commit_info") or {}
            # Files that are not committed are a state of their own.
            name = str(commit.get("id", "unknown"))
            if commit.get("dirty"):
                name += f"+{path.stem}"
            processor = ledger.machine.get("processor", "unknown")
        except GateError:
            raise
        except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise HistoryError(f"{path} is not a stored run: {error!r}; remove it") from None
        runs.append(Run(str(content.get("datetime", ledger.date)), name, processor, ledger))
    return sorted(runs, key=lambda run: run.date)


def series(runs: Iterable[Run], claim: str | None = None) -> list[Series]:
    """One series for each figure that any run measured on a processor, in the order of the claims.

    `claim` leaves out other claims; all of them are judged together nevertheless.
    """
    runs = list(runs)
    points: dict[tuple[str, str, str, str, str, str], list[Point]] = {}
    for run in runs:
        for e in run.ledger.entries:
            if e.value is None or not math.isfinite(e.value):
                continue
            key = (e.claim, e.figure, e.workload, e.device, e.unit, e.processor or run.processor)
            points.setdefault(key, []).append(Point(run, e))
    found = [Series(*key, points=tuple(own)) for key, own in points.items()]
    latest = runs[-1].commit if runs else ""
    return [s for s in _judged(found, latest) if claim in (None, s.claim)]


def _judged(found: Sequence[Series], commit: str) -> list[Series]:
    """The series, with how `commit` compares in each ratio that it measured.

    Corrected for the number of ratios by Holm's method: the chance of any false alarm among them is
    `FALSE_ALARM` at most, however they hang together.
    """
    verdicts: dict[int, Latest] = {}
    chances: dict[int, float] = {}
    for i, s in enumerate(found):
        if (
            s.points[-1].run.commit != commit
            or not s.is_ratio
            or min(p.value for p in s.points) <= 0
        ):
            continue
        chance = s.chance()
        verdicts[i] = Latest.TOO_FEW if chance is None else Latest.NOT_SLOWER
        if chance is not None:
            chances[i] = chance
    for rank, i in enumerate(sorted(chances, key=chances.__getitem__)):
        if chances[i] > FALSE_ALARM / (len(chances) - rank):
            break
        if found[i].lies_below():
            verdicts[i] = Latest.SLOWER
    return [replace(s, latest=verdicts.get(i, s.latest)) for i, s in enumerate(found)]


def find_steps(values: ArrayLike, is_ratio: bool = True) -> list[Step]:
    """Where the level of a sequence changes for good, by change-point detection (PELT).

    The penalty is in units of the noise between neighbours, so that a quiet sequence shows smaller
    steps. A rank test must then tell each step from chance, and a step of a ratio must be larger
    than THRESHOLD.
    """
    import ruptures
    from scipy import stats

    levels = np.asarray(values, dtype=float)
    if len(levels) < 2 * SHORTEST_LEVEL:
        return []
    x = np.log(levels) if is_ratio and (levels > 0).all() else levels
    # Neighbours differ by their noise alone but at the steps, and the median does not see those.
    noise = float(np.median(np.abs(np.diff(x)))) / (stats.norm.ppf(0.75) * math.sqrt(2))
    if noise == 0:
        noise = float(np.ptp(x)) * 1e-3
    if noise == 0:
        return []
    # The sum of absolute deviations: one disturbed run is no level.
    algorithm = ruptures.Pelt(model="l1", min_size=SHORTEST_LEVEL, jump=1)
    ends = algorithm.fit((x / noise).reshape(-1, 1)).predict(pen=PENALTY * math.log(len(x)))
    return _confirmed(x, levels, [0, *ends], is_ratio)


def _confirmed(
    x: np.ndarray, values: np.ndarray, bounds: Sequence[int], is_ratio: bool
) -> list[Step]:
    from scipy import stats

    bounds, steps, i = list(bounds), [], 1
    while i < len(bounds) - 1:
        start, at, end = bounds[i - 1 : i + 2]
        p = stats.mannwhitneyu(x[start:at], x[at:end]).pvalue
        before, after = float(np.median(values[start:at])), float(np.median(values[at:end]))
        large = not is_ratio or abs(math.log(after / before)) > math.log(THRESHOLD)
        # Levels of four and four runs can reach 0.03 at best: a short level is not judged twice.
        if large and p <= max(STEP_ERROR, _least_p(at - start, end - at)):
            steps.append(Step(at, before, after))
            i += 1
        else:
            del bounds[i]
    return steps


def _least_p(n: int, m: int) -> float:
    """The rank test's p of two levels that do not overlap at all."""
    return 2 / math.comb(n + m, n)


def print_history(series: Sequence[Series], console: Console) -> None:
    """Print a line per figure, and its steps below."""
    if not series:
        console.print("no run is stored; `pytest -m claim --benchmark-autosave` stores one")
        return
    print_words("History", console, "italic")
    several = len({s.processor for s in series}) > 1
    rows: list[list[str | Text]] = []
    for s in series:
        last = s.points[-1]
        style = "bold red" if s.is_slower else ""
        other = "-" if s.reference is None else f"{s.reference:.3g}"
        place = f"{s.device}, {s.processor}" if several else s.device
        rows.append([
            s.claim, s.figure, str(len(s.points)), f"{s.points[0].value:.3g}",
            Text(last.entry.measured, style), other, Text(s.latest, style),
            f"{place}; {s.workload}",
        ])  # fmt: skip
        for step in s.steps:
            run = s.points[step.at].run
            text = f"step {step.before:.3g} to {step.after:.3g} at {run.commit[:12]}, {run.date}"
            rows.append(["", "", "", "", Text(text, "yellow"), "", "", ""])
    heads = (
        "claim", "figure", "runs", "first", "latest", "other commits", "latest against them",
        "workload",
    )  # fmt: skip
    print_table(heads, rows, console)
    few = sum(s.latest is Latest.TOO_FEW for s in series)
    if few:
        console.print(
            f"{few} of {len(series)} have too few runs: whether the latest commit is slower takes "
            f"{FEWEST_RUNS} of other commits on the same processor, since their last step"
        )
    for s in series:
        if s.is_slower:
            text = (
                f"{s.claim} {s.figure} is slower than {len(s.level)} runs of other commits "
                f"predict: {s.workload}, {s.processor}"
            )
            console.print(Text(text, "bold red"))
