"""The ledger in a terminal: short, as a person reads it, or whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mpnn_core.gate.ledger import ABSENT, Entry, Ledger
from mpnn_core.gate.records import unrecorded
from mpnn_core.gate.verdicts import GateResult, Verdict

# What each form needs; a narrower terminal, or a file, gets so many columns all the same.
SHORT_COLUMNS = 100
WHOLE_COLUMNS = 150
STYLES: Mapping[str, str] = {
    Verdict.CONFIRMED: "green",
    Verdict.COMPATIBLE: "green",
    Verdict.REACHED: "green",
    Verdict.SHORT: "yellow",
    Verdict.DIRECTION_ONLY: "yellow",
    Verdict.REFUTED: "magenta",
    Verdict.INCONCLUSIVE: "yellow",
    GateResult.PASSED: "green",
    GateResult.FAILED: "bold red",
}


def print_short(ledger: Ledger, console: Console) -> None:
    """Print the headline figures, every red, the missing hardware, and the counts.

    Headlines that were not run are left out. Where none was measured, all measured figures stand.
    """
    console.width = SHORT_COLUMNS
    headlines = headline_entries(ledger)
    figures = {(e.claim, e.figure) for e in ledger.entries}
    title = f"Claims ledger: {len(headlines)} of {len(figures)} figures"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("claim", "figure", "reported", "measured here", "verdict", "gate"):
        table.add_column(column, no_wrap=column != "measured here")
    for e in headlines:
        table.add_row(
            Text(e.claim),
            Text(e.headline or e.figure),
            Text(e.reported),
            Text(e.measured.removesuffix(f" {e.unit}")),  # the unit stands beside it
            Text(e.judged, STYLES.get(e.verdict, "")),
            Text("-" if e.gate is GateResult.NONE else e.gate, STYLES.get(e.gate, "")),
        )
    console.print(table)
    legend = "verdict: measured here against reported; gate: a bound that must hold here"
    console.print(Text(legend, "dim"))
    for e in ledger.reds:
        console.print(Text(e.sentence, "bold red"))
    for line in _missing(ledger.absent):
        console.print(Text(line))
    for line in unrecorded(ledger.entries):
        console.print(Text(line))
    console.print(Text(_counts(ledger)))


def headline_entries(ledger: Ledger) -> list[Entry]:
    """One entry for each figure of the short ledger: a measured and judged one, if there is one."""
    by_figure: dict[tuple[str, str], list[Entry]] = {}
    for e in ledger.entries:
        by_figure.setdefault((e.claim, e.figure), []).append(e)
    best = [
        min(entries, key=lambda e: (e.value is None, e.verdict is Verdict.RECORDED))
        for entries in by_figure.values()
    ]
    headlines = [e for e in best if e.headline and e.verdict is not Verdict.NOT_RUN]
    if any(e.value is not None for e in headlines):
        return headlines
    return [e for e in best if e.value is not None]


def _missing(absent: Sequence[Entry]) -> list[str]:
    """How many figures wait for each missing piece of hardware, and how many were not run."""
    needs: dict[str, set[tuple[str, str]]] = {}
    not_run = set()
    for e in absent:
        if e.verdict is Verdict.NOT_RUN:
            not_run.add((e.claim, e.figure))
        else:
            hardware = e.note.partition(";")[0].removeprefix("needs ")
            needs.setdefault(hardware, set()).add((e.claim, e.figure))
    lines = []
    if needs:
        most_first = sorted(needs, key=lambda name: -len(needs[name]))
        counts = ", ".join(f"{len(needs[name])} need {name}" for name in most_first)
        lines.append(f"not exercised here: {counts}")
    if not_run:
        lines.append(f"not run: {len(not_run)}")
    return lines


def print_whole(ledger: Ledger, console: Console) -> None:
    """Print every entry, figures without a measurement, the machine, and the counts."""
    console.width = max(console.width, WHOLE_COLUMNS)
    table = Table(title="Claims ledger", title_justify="left", box=None, pad_edge=False)
    for column in ("claim", "figure", "reported", "measured here", "verdict", "gate"):
        table.add_column(column, no_wrap=True)
    table.add_column("workload", min_width=30)
    for e in ledger.entries:
        if e.verdict not in ABSENT:
            gate = ", ".join(filter(None, (e.gate, e.bound)))
            gate = "-" if e.gate is GateResult.NONE else gate
            table.add_row(
                *map(Text, (e.claim, e.figure, e.reported, e.measured)),
                Text(e.judged, STYLES.get(e.verdict, "")),
                Text(gate, STYLES.get(e.gate, "")),
                Text("; ".join(filter(None, (e.device, e.note, e.workload)))),
            )
    console.print(table)
    for verdict in ABSENT:
        by_note: dict[str, list[str]] = {}
        for e in ledger.absent:
            if e.verdict is verdict:
                by_note.setdefault(e.note, []).append(f"{e.claim} {e.figure} ({e.reported})")
        for note, names in by_note.items():
            console.print(Text(f"{verdict}, {note}: {', '.join(names)}"))
    machine = ", ".join(f"{key} {value}" for key, value in ledger.machine.items())
    console.print(Text(f"{machine}; {ledger.date}; mode {ledger.mode}", "dim"))
    for line in unrecorded(ledger.entries):
        console.print(Text(line))
    console.print(Text(_counts(ledger)))


def _counts(ledger: Ledger) -> str:
    lines = []
    for name, kind in (("verdicts", Verdict), ("gates", GateResult)):
        counts = ledger.counts(kind)
        lines.append(f"{name}: " + (", ".join(f"{n} {k}" for k, n in counts.items()) or "none"))
    return "\n".join(lines)
