"""How often a published interval holds what a fresh process finds: a study, kept as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mpnn_core.gate import GateError
from mpnn_core.gate.intervals import Interval, fresh_process
from mpnn_core.gate.stored import read_json, typed, write_whole

# Of the interval around a rate.
CONFIDENCE = 0.95


class CoverageError(GateError):
    """The file of a study is missing or damaged."""


@dataclass(frozen=True)
class Covered:
    """One figure: a ratio from each process, those that made the interval and those after them."""

    figure: str
    published: list[float]
    fresh: list[float]

    @property
    def interval(self) -> Interval | None:
        """What is published of the first processes; None if too few of them measured it."""
        return fresh_process([math.log(ratio) for ratio in self.published])

    @property
    def inside(self) -> int:
        """How many of the later processes lie in it."""
        interval = self.interval
        return sum(interval.low <= r <= interval.high for r in self.fresh) if interval else 0


@dataclass(frozen=True)
class Study:
    """A study on one machine.

    Attributes
    ----------
    machine_class, machine : where it ran; the class is such as "cpu-avx512"
    condition : "idle", or "busy": one core was kept busy by another process
    load : average number of running processes, as the study began
    """

    machine_class: str
    machine: Mapping[str, str]
    condition: str
    load: float
    date: str
    figures: list[Covered]

    @property
    def path_name(self) -> str:
        return f"{self.machine_class}-{self.condition}.json"

    def save(self, folder: Path) -> Path:
        path = folder / self.path_name
        write_whole(path, json.dumps(asdict(self), indent=1) + "\n")
        return path

    @classmethod
    def load_from(cls, path: Path) -> Study:
        try:
            study: Study = typed(cls, read_json(path), "the study")
        except (FileNotFoundError, ValueError) as error:
            raise CoverageError(
                f"{path} is no study of coverage: {error}; perf_tests/coverage_study.py writes one"
            ) from None
        return study

    def rows(self) -> list[tuple[str, str, str, str]]:
        """For a table: figure, interval, how many inside, and the rate with its interval.

        The last row is of all figures together.
        """
        rows = []
        for c in self.figures:
            interval = "too few processes" if c.interval is None else f"{c.interval} x"
            rows.append((c.figure, interval, *_rate(c.inside, len(c.fresh))))
        rows.append(("all", "", *_rate(
            sum(c.inside for c in self.figures), sum(len(c.fresh) for c in self.figures)
        )))  # fmt: skip
        return rows


def _rate(inside: int, of: int) -> tuple[str, str]:
    from scipy.stats import binomtest

    if not of:
        return "0 of 0", "-"
    low, high = np.array(binomtest(inside, of).proportion_ci(CONFIDENCE, method="exact")) * 100
    return f"{inside} of {of}", f"{100 * inside / of:.0f} % [{low:.0f}, {high:.0f}]"
