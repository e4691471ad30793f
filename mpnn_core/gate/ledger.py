"""The ledger: measurement, verdict and gate of every figure in one run. Kept as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mpnn_core.gate import GateError
from mpnn_core.gate.claims import Claim
from mpnn_core.gate.hardware import cpu_name, hardware_of
from mpnn_core.gate.intervals import Interval
from mpnn_core.gate.project import Project
from mpnn_core.gate.stored import read_json, typed, write_whole
from mpnn_core.gate.verdicts import GateResult, Verdict

SCHEMA = 1
# Where a run that pytest-benchmark stores keeps its ledger.
STORED = "mpnn_core"
# The verdicts on figures that have no measurement.
ABSENT = (Verdict.NOT_EXERCISED, Verdict.NOT_RUN)


class LedgerError(GateError):
    """The file of a ledger is missing or damaged."""


def _no_ledger(source: str, reason: str) -> LedgerError:
    return LedgerError(
        f"{source} is not a ledger of this version: {reason}; expected a JSON object with "
        f'"schema": {SCHEMA} and "entries", one object per figure of a claim; '
        "`pytest` in the repository writes one"
    )


@dataclass(frozen=True)
class Entry:
    """One figure of one claim on one workload and device, measured or not.

    value, low, high and control are None where nothing was measured; processes and pairs are 0
    where nothing was timed. Built-in numbers and texts only: an entry travels through JSON.
    """

    claim: str
    figure: str
    reported: str
    workload: str
    device: str
    verdict: Verdict
    gate: GateResult
    bound: str = ""
    unit: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    control: tuple[float, float] | None = None
    processes: int = 0  # fresh processes, whose values the interval is made of
    pairs: int = 0  # of runs, in all processes together
    agrees: bool | None = None  # whether the interval holds the reported figure itself
    test: str = ""
    note: str = ""
    headline: str = ""  # the figure's words in the short ledger
    machine: str = ""  # its class, such as "cpu-avx512"; "" where none is known
    processor: str = ""
    date: str = ""  # when it was measured, as `now` gives it
    short: str = ""  # how far from a target that it did not reach: "by 32 %"

    @classmethod
    def unmeasured(
        cls, claim: Claim, key: str, verdict: Verdict, gate: GateResult, test: str, note: str
    ) -> Entry:
        """An entry for a figure without a measurement."""
        figure = claim.figures[key]
        return cls(
            claim.id, key, str(figure), claim.workload, "-", verdict, gate,
            test=test, note=note, headline=figure.headline,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Built-in types only, for JSON and for pytest-xdist's channel."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Entry:
        """The entry that `to_json` gave; ValueError for anything else."""
        entry: Entry = typed(cls, values, "an entry")
        numbers = (entry.value, entry.low, entry.high)
        if len({number is None for number in numbers}) > 1:
            raise ValueError(f"value, low and high are {numbers}; expected all three, or none")
        if entry.value is not None and entry.low is not None and entry.high is not None:
            Interval(entry.value, entry.low, entry.high)  # none holds NaN
        return entry

    @property
    def measured(self) -> str:
        """Value, interval and unit in words; "-" without a measurement."""
        if self.value is None or self.low is None or self.high is None:
            return "-"
        return f"{Interval(self.value, self.low, self.high)} {self.unit}".strip()

    @property
    def judged(self) -> str:
        """The verdict in words: "confirmed", "short by 32 %"."""
        return f"{self.verdict} {self.short}".strip()

    @property
    def gated(self) -> str:
        """The gate's result and its bound in words; "-" where there is no gate."""
        words = ", ".join(filter(None, (self.gate, self.bound)))
        return "-" if self.gate is GateResult.NONE else words

    @property
    def made_of(self) -> str:
        """What the interval of a timed figure is made of: "8 processes, 80 pairs"."""
        counts = (self.processes, "process", "processes"), (self.pairs, "pair", "pairs")
        return ", ".join(f"{n} {many if n > 1 else one}" for n, one, many in counts if n)

    def is_red(self, acceptance: bool = False) -> bool:
        """Whether the entry fails its test; at acceptance, an inconclusive gate does as well."""
        red = (GateResult.FAILED, GateResult.INCONCLUSIVE) if acceptance else (GateResult.FAILED,)
        return self.gate in red

    @property
    def sentence(self) -> str:
        """Gate and measurement in one sentence, for a red."""
        if self.value is None and not self.bound:
            return f"claim {self.claim}, {self.figure}: gate {self.gate}: {self.note}"
        text = (
            f"claim {self.claim}, {self.figure}, on {self.device} ({self.workload}): the gate is "
            f"{self.bound}, measured {self.measured}: {self.gate}"
        )
        if self.made_of:
            text += f"; {self.made_of}"
        if self.control:
            low, high = self.control
            text += f", control [{low:.3g}, {high:.3g}]"
        return text


@dataclass
class Ledger:
    """The entries of a run, and the machine that it ran on.

    A run of some tests alone leaves the entries of earlier runs (merging.py): those that are dated
    before the run `started`. "" where all are of one run.
    """

    entries: list[Entry]
    machine: Mapping[str, str] = field(default_factory=dict)
    date: str = ""
    mode: str = "default"
    started: str = ""

    @property
    def measured(self) -> list[Entry]:
        return [e for e in self.entries if e.value is not None]

    @property
    def absent(self) -> list[Entry]:
        """Entries of figures that were not exercised, or not run."""
        return [e for e in self.entries if e.verdict in ABSENT]

    @property
    def earlier(self) -> list[Entry]:
        """Entries that an earlier run than the latest one left, the oldest first."""
        return sorted((e for e in self.entries if self.is_earlier(e)), key=lambda e: e.date)

    def is_earlier(self, entry: Entry) -> bool:
        return bool(entry.date) and entry.date < self.started

    @property
    def ages(self) -> str:
        """How many figures are from the latest run, and how old the others are; "" for one run."""
        if not self.earlier:
            return ""
        own = sum(bool(e.test) and not self.is_earlier(e) for e in self.entries)
        return (
            f"rows: {own} of this run, {len(self.earlier)} of earlier runs, "
            f"the oldest of {minute(self.earlier[0].date)}"
        )

    @property
    def reds(self) -> list[Entry]:
        return [e for e in self.entries if e.is_red(self.mode == "acceptance")]

    def counts(self, kind: type[Verdict] | type[GateResult]) -> dict[str, int]:
        """How many entries have each verdict, or each result of a gate; none of 0."""
        name = "verdict" if kind is Verdict else "gate"
        counts = {str(k): sum(getattr(e, name) is k for e in self.entries) for k in kind}
        return {k: n for k, n in counts.items() if n and k != GateResult.NONE}

    def to_json(self) -> dict[str, Any]:
        """Built-in types only, as `from_json` takes them."""
        return {"schema": SCHEMA, **asdict(self), "entries": [e.to_json() for e in self.entries]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], source: str) -> Ledger:
        """The ledger that `to_json` gave; `source` names it in a LedgerError."""
        if not isinstance(content, Mapping):
            raise _no_ledger(source, f"it holds a {type(content).__name__}")
        rest = dict(content)
        schema = rest.pop("schema", None)
        if schema != SCHEMA:
            raise _no_ledger(source, f'its "schema" is {json.dumps(schema)}')
        try:
            entries = rest.pop("entries", None)
            if not isinstance(entries, list):
                raise ValueError('it has no list of "entries"')
            ledger: Ledger = typed(cls, {**rest, "entries": []})
            ledger.entries = [Entry.from_json(entry) for entry in entries]
        except ValueError as error:
            raise _no_ledger(source, str(error)) from None
        return ledger

    def save(self, path: Path) -> None:
        text = json.dumps(self.to_json(), indent=1) + "\n"
        write_whole(path, text)

    @classmethod
    def load(cls, path: Path) -> Ledger:
        """The ledger that a run left at `path`; LedgerError says what to do where there is none."""
        try:
            content = read_json(path)
        except FileNotFoundError:
            raise LedgerError(
                f"there is no ledger at {path}; `pytest` in the repository writes one"
            ) from None
        except ValueError as error:
            raise _no_ledger(str(path), str(error)) from None
        return cls.from_json(content, str(path))

    def completed(self, claims: Mapping[str, Claim]) -> Ledger:
        """With an entry for every figure that this run has none of, in the order of the claims."""
        entries: list[Entry] = []
        for claim in claims.values():
            for key, figure in claim.figures.items():
                own = [e for e in self.entries if (e.claim, e.figure) == (claim.id, key)]
                verdict, note = Verdict.NOT_RUN, "no test of it ran"
                if figure.needs:
                    verdict, note = Verdict.NOT_EXERCISED, f"needs {figure.needs}"
                entries += own or [Entry.unmeasured(claim, key, verdict, GateResult.NONE, "", note)]
        return replace(self, entries=entries)


def this_machine(project: Project) -> dict[str, str]:
    """Processor, system and versions, which a reader of the figures must know."""
    machine = {
        "processor": cpu_name(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **hardware_of(project).machine(),
    }
    for distribution in project.distributions:
        try:
            machine[distribution] = version(distribution)
        except PackageNotFoundError:
            machine[distribution] = "not installed"
    return machine


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def minute(date: str) -> str:
    """A date as a reader needs it: "2026-11-26 16:09 UTC"; as it stands, if it is no date."""
    try:
        moment = datetime.fromisoformat(date)
        return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if moment.tzinfo else date
    except (ValueError, OverflowError):
        return date


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
