"""The ledger in a terminal: short, as a person reads it, or whole."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mpnn_core.gate.ledger import ABSENT, Entry, Ledger, minute
from mpnn_core.gate.records import unrecorded
from mpnn_core.gate.verdicts import GateResult, Verdict

GAP = 2  # between two columns
INDENT = 2  # of what stands below its name, where a table is too wide
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


def print_words(text: str | Text, console: Console, style: str = "", indent: int = 0) -> None:
    """Print a paragraph that is broken between words alone: a longer word has a line of its own."""
    paragraph = _one_line(text) if isinstance(text, str) else text
    paragraph.style = paragraph.style or style
    for line in _lines(paragraph, console.width - indent):
        console.print(Text(" " * indent) + line, soft_wrap=True)


def _lines(text: Text, width: int) -> list[Text]:
    """Text broken between words alone. (`Text.wrap` cuts words, or counts wide letters as one.)"""
    breaks, used = [], 0
    for word in re.finditer(r"\S+\s*", text.plain):
        if used and used + cell_len(word[0].rstrip()) > width:
            breaks.append(word.start())
            used = 0
        used += cell_len(word[0])
    lines = list(text.divide(breaks))
    for line in lines:
        line.rstrip()
    return lines


def print_table(
    heads: Sequence[str], rows: Sequence[Sequence[str | Text]], console: Console
) -> None:
    """Print a table as wide as the terminal, with every word whole.

    Where the longest words of all columns have no room beside each other, each row becomes a few
    lines: its first two cells, and below them a line for each other cell with the column's name.
    """
    cells = [[_one_line(cell) for cell in row] for row in rows]
    columns = list(zip([Text(head, "bold") for head in heads], *cells, strict=True))
    least = [max(_longest_word(cell) for cell in column) for column in columns]
    widths = [max(cell_len(cell.plain) for cell in column) for column in columns]
    room = console.width - GAP * (len(heads) - 1)
    if sum(least) > room:
        for row in cells:
            print_words(Text(" ").join(row[:2]), console)
            for head, cell in zip(heads[2:], row[2:], strict=True):
                if cell:
                    print_words(Text(f"{head}: ", "dim") + cell, console, indent=INDENT)
        return
    while sum(widths) > room:
        widest = max((w, i) for i, w in enumerate(widths) if w > least[i])[1]
        widths[widest] -= 1
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for head, width in zip(heads, widths, strict=True):
        table.add_column(Text("\n").join(_lines(Text(head), width)), width=width)
    for row in cells:
        broken = (_lines(cell, width) for cell, width in zip(row, widths, strict=True))
        table.add_row(*(Text("\n").join(lines) for lines in broken))
    console.print(table)


def _one_line(cell: str | Text) -> Text:
    text = cell if isinstance(cell, Text) else Text(cell)
    return Text(" ".join(text.plain.split()), text.style)


def _longest_word(cell: Text) -> int:
    return max(map(cell_len, cell.plain.split()), default=0)


def print_short(ledger: Ledger, console: Console) -> None:
    """Print the headline figures, every red, the missing hardware, and the counts.

    Headlines that were not run are left out. Where none was measured, all measured figures stand.
    """
    headlines = headline_entries(ledger)
    figures = {(e.claim, e.figure) for e in ledger.entries}
    print_words(f"Claims ledger: {len(headlines)} of {len(figures)} figures", console, "italic")
    heads = ["claim", "figure", "reported", "measured here", "verdict", "gate"]
    rows: list[list[str | Text]] = [
        [
            e.claim,
            e.headline or e.figure,
            e.reported,
            e.measured.removesuffix(f" {e.unit}"),  # the unit stands beside it
            Text(e.judged, STYLES.get(e.verdict, "")),
            Text("-" if e.gate is GateResult.NONE else e.gate, STYLES.get(e.gate, "")),
        ]
        for e in headlines
    ]
    _print_dated(heads, rows, headlines, ledger, console)
    legend = "verdict: measured here against reported; gate: a bound that must hold here"
    print_words(legend, console, "dim")
    for e in ledger.reds:
        when = f" (measured {minute(e.date)})" if ledger.is_earlier(e) else ""
        print_words(e.sentence + when, console, "bold red")
    for line in [*_missing(ledger.absent), *unrecorded(ledger.entries), *_counts(ledger)]:
        print_words(line, console)


def _print_dated(
    heads: list[str],
    rows: list[list[str | Text]],
    entries: Sequence[Entry],
    ledger: Ledger,
    console: Console,
) -> None:
    """Print a row for each entry, with its date if they are of several runs."""
    if ledger.earlier:
        heads = [*heads, "date"]
        for row, e in zip(rows, entries, strict=True):
            row.append(minute(e.date or ledger.date))
    print_table(heads, rows, console)


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
    print_words("Claims ledger", console, "italic")
    present = [e for e in ledger.entries if e.verdict not in ABSENT]
    heads = ["claim", "figure", "reported", "measured here", "verdict", "gate", "workload"]
    rows: list[list[str | Text]] = [
        [
            e.claim,
            e.figure,
            e.reported,
            e.measured,
            Text(e.judged, STYLES.get(e.verdict, "")),
            Text(e.gated, STYLES.get(e.gate, "")),
            "; ".join(filter(None, (e.machine or e.device, e.made_of, e.note, e.workload))),
        ]
        for e in present
    ]
    _print_dated(heads, rows, present, ledger, console)
    for verdict in ABSENT:
        by_note: dict[str, list[str]] = {}
        for e in ledger.absent:
            if e.verdict is verdict:
                by_note.setdefault(e.note, []).append(f"{e.claim} {e.figure} ({e.reported})")
        for note, names in by_note.items():
            print_words(f"{verdict}, {note}: {', '.join(names)}", console)
    machine = ", ".join(f"{key} {value}" for key, value in ledger.machine.items())
    print_words(f"{machine}; {minute(ledger.date)}; mode {ledger.mode}", console, "dim")
    for line in [*unrecorded(ledger.entries), *_counts(ledger)]:
        print_words(line, console)


def _counts(ledger: Ledger) -> list[str]:
    lines = []
    for name, kind in (("verdicts", Verdict), ("gates", GateResult)):
        counts = ledger.counts(kind)
        lines.append(f"{name}: " + (", ".join(f"{n} {k}" for k, n in counts.items()) or "none"))
    return [*lines, ledger.ages] if ledger.ages else lines
