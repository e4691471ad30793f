"""How often comparisons of known slowdowns were right, counted from independent runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpnn_core.gate.intervals import Interval
from mpnn_core.gate.revisions.race import FEWEST_ROUNDS
from mpnn_core.gate.stored import read_text
from mpnn_core.gate.verdicts import Change

# Of the intervals of shares.
SHARE_ERROR = 0.05


@dataclass(frozen=True)
class Kind:
    """What independent runs have in common: machine, condition, planted slowdown in percent."""

    processor: str
    cores: int
    condition: str
    parallel: int
    restarts: int
    rounds: int
    slower: int


@dataclass(frozen=True)
class Rates:
    """Runs of one kind. `caught` are the slowdowns that each said is caught in 9 of 10 runs."""

    kind: Kind
    verdicts: Counter[str]
    caught: tuple[float, ...]
    load: tuple[float, float]

    @property
    def runs(self) -> int:
        return self.verdicts.total()

    def share(self, change: Change) -> Interval:
        """Share of the runs with this verdict, with its exact binomial interval (95 %)."""
        from scipy import stats

        counted = stats.binomtest(self.verdicts[change], self.runs)
        exact = counted.proportion_ci(1 - SHARE_ERROR, method="exact")
        return Interval(float(counted.statistic), float(exact.low), float(exact.high))


def read_runs(path: Path) -> list[dict[str, Any]]:
    """The runs that perf_tests/sensitivity.py stored, one JSON object a line; [] without a file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in read_text(path).splitlines()]


def rates(runs: list[dict[str, Any]]) -> list[Rates]:
    """Runs counted by kind, in the order of the kinds: machine, condition, slowdown."""
    by_kind: dict[Kind, list[dict[str, Any]]] = {}
    for run in runs:
        by_kind.setdefault(_kind(run), []).append(run)

    def order(kind: Kind) -> tuple[Any, ...]:
        return kind.processor, -kind.cores, kind.condition != "idle", kind.condition, kind.slower

    return [
        Rates(
            kind,
            Counter(run["verdict"] for run in by_kind[kind]),
            tuple(sorted(r["caught_9_of_10"] for r in by_kind[kind] if r.get("caught_9_of_10"))),
            (min(r["load"] for r in by_kind[kind]), max(r["load"] for r in by_kind[kind])),
        )
        for kind in sorted(by_kind, key=order)
    ]


def _kind(run: Mapping[str, Any]) -> Kind:
    # The first runs that were stored, of 2 cores, one after the other, lack some keys.
    return Kind(
        run["processor"], run.get("cores", 2), run["condition"], run.get("parallel", 1),
        run["at_most"], run.get("rounds_each", FEWEST_ROUNDS), run["slower"],
    )  # fmt: skip
