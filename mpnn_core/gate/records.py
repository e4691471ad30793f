"""What timed figures gave on each class of machine: the bounds of their gates.

How much faster one thing is than another depends on the processor, so no number that is typed in
bounds a ratio of times everywhere. A figure with `gated = "recorded"` is bounded by runs that were
recorded: ledgers in a folder for each class of machine, such as fixtures/ledgers/cpu-avx512/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from mpnn_core.gate.claims import RECORDED, Claim, Figure, Gate
from mpnn_core.gate.ledger import Entry, Ledger, LedgerError
from mpnn_core.gate.project import Project
from mpnn_core.gate.verdicts import GateResult

# What must hold of a recorded value: on the processor that it was recorded on, and on another one
# of its class, where the lowest counts. Two processors with AVX-512 were 37 and 27 times as fast as
# the original at one figure, and a third may be slower than both.
OWN = 0.8
OTHER = 0.5
# What a gate must see: that a figure fell to two thirds.
FALL = 2 / 3


@dataclass(frozen=True)
class Records:
    """The recorded entries of all classes of machines."""

    entries: tuple[Entry, ...] = ()

    def gate(self, figure: Figure, workload: str, machine: str, processor: str) -> Gate | None:
        """What must hold of a timed figure on a machine; None if its class has no record of it.

        At least OWN times the median of what this processor gave, or OTHER times the lowest value
        of the class where this processor has no record; for a figure of which less is better, at
        most the median over OWN, or the highest over OTHER.
        """
        found = [
            e for e in self.entries
            if (e.claim, e.figure, e.workload, e.machine)
            == (figure.claim, figure.key, workload, machine)
        ]  # fmt: skip
        own = [e.value for e in found if e.processor == processor and e.value is not None]
        others = [e.value for e in found if e.value is not None]
        if not others:
            return None
        worst = max if figure.less_is_better else min
        value, share = (median(own), OWN) if own else (worst(others), OTHER)
        number = len(own) or len(others)
        runs = f"of {number} recorded run{'s' if number > 1 else ''}"
        where = f"the median {runs} on {processor}"
        if not own:
            which = "highest" if figure.less_is_better else "lowest"
            where = f"the {which} {runs} on other processors of {machine}"
        if figure.less_is_better:
            return Gate(
                f"{1 / share:g} x {value:.3g}, {where}", at_most=float(f"{value / share:.3g}")
            )
        return Gate(f"{share:g} x {value:.3g}, {where}", at_least=float(f"{value * share:.3g}"))


@dataclass(frozen=True)
class Recording:
    """What of a ledger was kept as a record: the files with their numbers of figures, and why not.

    `refused` says of each timed figure that was not kept why, a sentence each.
    """

    files: Mapping[Path, int]
    refused: tuple[str, ...]


def load_records(project: Project) -> Records:
    """The recorded runs of a project; LedgerError names a file that is none."""
    entries: list[Entry] = []
    for path in sorted((project.root / project.ledgers).glob("*/*.json")):
        found = Ledger.load(path).entries
        for e in found:
            if e.machine != path.parent.name:
                raise LedgerError(
                    f"{path}: claim {e.claim}, {e.figure} is of machine {e.machine!r}; expected "
                    f"{path.parent.name!r}, the class that its folder is named after"
                )
        entries += found
    return Records(tuple(entries))


def record(ledger: Ledger, claims: Mapping[str, Claim], project: Project) -> Recording:
    """Keep the timed figures of a ledger as what their class of machine gives.

    Each class of machine gets a file, named after the date of the run; earlier ones stay.
    """
    known = {_key(e) for e in load_records(project).entries}
    kept: dict[str, list[Entry]] = {}
    refused = []
    for e in ledger.entries:
        figure = claims[e.claim].figures.get(e.figure) if e.claim in claims else None
        if figure is None or figure.gated != RECORDED or e.gate is GateResult.NONE:
            continue
        e = replace(e, date=e.date or ledger.date)
        reason = "it is recorded already" if _key(e) in known else _why_not(figure, e)
        if reason:
            refused.append(f"{e.claim} {e.figure} ({e.workload}): {reason}")
        else:
            kept.setdefault(e.machine, []).append(e)
    files = {}
    for machine, entries in kept.items():
        stamp = (ledger.date or entries[0].date).partition("+")[0].replace(":", "-")
        path = project.root / project.ledgers / machine / f"{stamp}.json"
        Ledger(entries, ledger.machine, ledger.date, ledger.mode).save(path)
        files[path] = len(entries)
    return Recording(files, tuple(refused))


def _key(e: Entry) -> tuple[str, ...]:
    return e.claim, e.figure, e.workload, e.machine, e.processor, e.date


def _why_not(figure: Figure, e: Entry) -> str:
    """Why an entry bounds nothing; "" if it does."""
    if e.value is None or e.low is None or e.high is None:
        return f"it has no interval; {e.note or 'more time is needed (--budget)'}"
    if not e.machine:
        return "its class of machine is not known; run its test again"
    if e.control is not None and not e.control[0] <= 1 <= e.control[1]:
        low, high = e.control
        return f"its control, [{low:.3g}, {high:.3g}], excludes 1: the machine was too noisy"
    if e.gate is GateResult.FAILED:
        return f"it failed its gate, {e.bound}; a fall is no record"
    seen = e.low / FALL > e.value / OWN if figure.less_is_better else e.high * FALL < e.value * OWN
    if not seen:
        return f"its interval, {e.measured}, is too wide for a gate that sees a fall of a third"
    return ""


def unrecorded(entries: Iterable[Entry]) -> list[str]:
    """A line for each class of machine with timed figures that nothing bounds yet."""
    missing: dict[str, int] = {}
    for e in entries:
        if e.gate is GateResult.UNRECORDED:
            missing[e.machine] = missing.get(e.machine, 0) + 1
    return [
        f"no gate for this class yet ({machine}): {count} timed figure{'s' if count > 1 else ''}; "
        "`mpnn-core claims --record` keeps this run as its record"
        for machine, count in missing.items()
    ]
