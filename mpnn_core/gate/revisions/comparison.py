"""The result of comparing two revisions, kept as JSON and printed."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from mpnn_core.gate import GateError
from mpnn_core.gate.intervals import ERROR
from mpnn_core.gate.printing import print_table, print_words
from mpnn_core.gate.revisions.race import FIRST_LOOK, LOOKS, Outcome
from mpnn_core.gate.stored import read_json, typed, write_whole
from mpnn_core.gate.verdicts import Change

SCHEMA = 2
# Exit codes. 2 is that of a wrong call, as everywhere.
REGRESSION, COULD_NOT_TELL = 1, 3
# The budget of the command that could tell, at least.
SHORTEST_BUDGET_MIN = 2


class CompareError(GateError):
    """The comparison cannot be made; the message says what is missing."""


@dataclass
class Answer:
    """Largest error of some answers against a truth, in two revisions.

    `largest` is the error that passes beside the base's (`Exact.largest`).
    """

    name: str
    base: float | None
    head: float | None
    largest: float
    note: str = ""

    @property
    def is_worse(self) -> bool:
        """Whether the head's error is too large, or its answer is missing."""
        if self.head is None:
            return self.base is not None
        return not self.head <= self.largest  # NaN is too large


@dataclass
class Comparison:
    """Two revisions, benchmark by benchmark. `unit` is that of the answers' errors."""

    base: str
    head: str
    outcomes: list[Outcome]
    answers: list[Answer]
    threshold: float
    seconds: float
    machine: Mapping[str, str] = field(default_factory=dict)
    date: str = ""
    unit: str = ""

    @property
    def regressions(self) -> list[str]:
        """A sentence for each regression, with its size and confidence; none: the head passes."""
        lines = []
        for o in self.outcomes:
            if o.change is Change.SLOWER:
                lines.append(
                    f"{o.benchmark} is slower than {self.base}: time {o.time}, "
                    f"{100 * (1 - ERROR):.0f} % interval, {o.sessions} restarts of "
                    f"{o.rounds // o.sessions} rounds"
                )
            elif o.change is Change.BROKEN:
                lines.append(f"{o.benchmark} does not run here: {o.note}")
        for a in self.answers:
            if a.is_worse:
                errors = a.note
                if a.head is not None:
                    errors = f"{a.head:.1e} against {a.base or 0:.1e} {self.unit}".strip()
                lines.append(f"{a.name} is less exact than {self.base}: {errors}")
        return lines

    @property
    def untold(self) -> list[Outcome]:
        """Benchmarks that may be slower by more than the threshold, the most suspicious first."""
        found = [o for o in self.outcomes if o.may_be_slower(self.threshold)]
        return sorted(found, key=lambda o: o.suspicion(self.threshold), reverse=True)

    @property
    def conclusion(self) -> str:
        """One sentence on the time and the answers of all benchmarks together."""
        n, told, untold = len(self.regressions), "no regression", self.untold
        if n:
            told = f"{n} regression{'s' if n > 1 else ''}"
        if untold:
            more = "more " if n else ""
            told = f"{told}; " if n else ""
            told += (
                f"could not tell whether {len(untold)} {more}of {len(self.outcomes)} benchmarks "
                f"got slower by more than {100 * (self.threshold - 1):.3g} %"
            )
        return told

    @property
    def command_that_could_tell(self) -> str:
        """`mpnn-core compare` of the most suspicious benchmark alone, with budget for all rounds.

        "" if there is nothing to tell.
        """
        if not self.untold:
            return ""
        first = self.untold[0]
        minutes = math.ceil((first.restart_s or 0.0) * LOOKS[0] / FIRST_LOOK / 60)
        if len(self.outcomes) == 1:  # that was it already: with twice the time
            minutes = max(minutes, math.ceil(2 * self.seconds / 60))
        budget = f"{max(SHORTEST_BUDGET_MIN, minutes)}m"
        return shlex.join(
            ["mpnn-core", "compare", self.base, "--only", first.benchmark, "--budget", budget]
        )

    def exit_code(self, acceptance: bool = False) -> int:
        """0, REGRESSION, or COULD_NOT_TELL, which is a REGRESSION as well at acceptance."""
        if self.regressions:
            return REGRESSION
        if self.untold:
            return REGRESSION if acceptance else COULD_NOT_TELL
        return 0

    def save(self, path: Path) -> None:
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n"
        write_whole(path, text)

    @classmethod
    def load(cls, path: Path) -> Comparison | None:
        """The comparison that was saved at `path`; None where there is none of this version."""
        try:
            content = read_json(path)
            if not isinstance(content, dict):
                raise ValueError(f"it holds a {type(content).__name__}")
            if content.pop("schema", SCHEMA) != SCHEMA:
                return None
            comparison: Comparison = typed(cls, content)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise CompareError(f"{path} is not a comparison: {error}") from None
        return comparison


# What `Outcome.sensitivity` is called.
CAUGHT = "caught in 9 of 10 runs"
STYLES = {
    Change.SLOWER: "bold red",
    Change.BROKEN: "bold red",
    Change.FASTER: "green",
    Change.NONE: "green",
    Change.INCONCLUSIVE: "yellow",
}


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the table, the answers and the verdict."""
    c = comparison
    print_words(f"{c.head} against {c.base}", console, "italic")
    rows: list[list[str | Text]] = []
    for o in c.outcomes:
        caught, control = o.sensitivity(c.threshold), "-"
        if o.control is not None:
            control = f"[{o.control.low:.3f}, {o.control.high:.3f}]"
        rows.append([
            o.benchmark,
            o.time,
            Text(o.change, STYLES.get(o.change, "")),
            "-" if caught is None else f"{100 * (caught - 1):.1f} %",
            control,
            o.note,
        ])  # fmt: skip
    print_table(("benchmark", "time", "verdict", CAUGHT, "control", "note"), rows, console)
    for a in c.answers:
        base, head = ("-" if x is None else f"{x:.1e}" for x in (a.base, a.head))
        style = "bold red" if a.is_worse else ""
        print_words(f"{a.name}: largest error {head} {c.unit}, in {c.base} {base}", console, style)
    for regression in c.regressions:
        print_words(regression, console, "bold red")
    style = "bold red" if c.regressions else "yellow" if c.untold else ""
    print_words(
        f"{c.conclusion}; threshold {100 * (c.threshold - 1):.3g} %, "
        f"{c.seconds:.0f} s of measuring",
        console,
        style,
    )
    if c.untold:
        names = ", ".join(f"{o.benchmark} ({o.time})" for o in c.untold)
        print_words(f"open: {names}", console)
        print_words(f"this could tell: {c.command_that_could_tell}", console)
