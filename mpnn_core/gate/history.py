"""Figures over many runs: those that pytest-benchmark stored, with the ledger that each carries.

A figure is followed by claim, workload and device. Ratios of all machines are comparable; a number
with a unit of its own is compared with those from the same processor alone. No run is compared with
the run before it: a slow commit would then pass the second time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mpnn_core.gate import GateError
from mpnn_core.gate.ledger import STORED, Entry, Ledger
from mpnn_core.gate.printing import WHOLE_COLUMNS
from mpnn_core.gate.stored import read_json

# A smaller change of level, by this factor, is no step.
THRESHOLD = 1.03
# The fewest runs of a level; two may agree by chance.
SHORTEST_LEVEL = 4
# For each change of level, in units of the noise and of the logarithm of the number of runs.
PENALTY = 2.0
# The error of the rank test between two levels.
STEP_ERROR = 0.01


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


@dataclass(frozen=True)
class Series:
    """One figure on one workload and class of device, in the order of the runs.

    The series of a ratio has the points of all machines, any other those of one processor.
    """

    claim: str
    figure: str
    workload: str
    device: str
    unit: str
    points: tuple[Point, ...]

    @property
    def is_ratio(self) -> bool:
        return self.unit == "x"

    def of_latest_machine(self) -> tuple[Point, ...]:
        """The points from the processor of the latest run: another machine is no change of code."""
        processor = self.points[-1].run.processor
        return tuple(p for p in self.points if p.run.processor == processor)

    @property
    def steps(self) -> list[Step]:
        """Changes of level on the latest machine, the earliest first."""
        return find_steps([p.value for p in self.of_latest_machine()], self.is_ratio)

    @property
    def reference(self) -> float | None:
        """The median on this machine of all commits but the latest; None if there is no other."""
        latest = self.points[-1].run
        others = [p.value for p in self.of_latest_machine() if p.run.commit != latest.commit]
        return float(np.median(others)) if others else None

    @property
    def is_slower(self) -> bool:
        """Whether all of the latest commit's intervals lie below the reference, by the threshold.

        However often the commit is run, its own runs are no part of its reference.
        """
        reference, latest = self.reference, self.points[-1].run.commit
        if reference is None or not self.is_ratio:
            return False
        highs = [p.entry.high for p in self.of_latest_machine() if p.run.commit == latest]
        return all(high is not None and high < reference / THRESHOLD for high in highs)


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
    """One series for each figure that any run measured, in the order of the claims."""
    points: dict[tuple[str, str, str, str, str, str], list[Point]] = {}
    for run in runs:
        for e in run.ledger.entries:
            if e.value is None or not math.isfinite(e.value) or claim not in (None, e.claim):
                continue
            machine = "" if e.unit == "x" else run.processor
            key = (e.claim, e.figure, e.workload, e.device, e.unit, machine)
            points.setdefault(key, []).append(Point(run, e))
    return [Series(*key[:5], points=tuple(own)) for key, own in points.items()]


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
    console.width = max(console.width, WHOLE_COLUMNS)
    table = Table(title="History", title_justify="left", box=None, pad_edge=False)
    for column in ("claim", "figure", "runs", "first", "latest", "other commits", "workload"):
        table.add_column(column, no_wrap=column != "workload")
    for s in series:
        latest = s.points[-1]
        style = "bold red" if s.is_slower else ""
        other = "-" if s.reference is None else f"{s.reference:.3g}"
        table.add_row(
            Text(s.claim), Text(s.figure), str(len(s.points)), f"{s.points[0].value:.3g}",
            Text(latest.entry.measured, style), other, Text(f"{s.device}; {s.workload}"),
        )  # fmt: skip
        points = s.of_latest_machine()
        for step in s.steps:
            run = points[step.at].run
            text = f"step {step.before:.3g} to {step.after:.3g} at {run.commit[:12]}, {run.date}"
            table.add_row("", "", "", "", Text(text, "yellow"), "", "")
    console.print(table)
    for s in series:
        if s.is_slower:
            text = f"{s.claim} {s.figure} is slower than the other commits: {s.workload}"
            console.print(Text(text, "bold red"))
