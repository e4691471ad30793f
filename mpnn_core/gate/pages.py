"""The ledger as a page of Markdown: every figure, claim by claim."""

from __future__ import annotations

from collections.abc import Mapping

from mpnn_core.gate.claims import Claim
from mpnn_core.gate.ledger import ABSENT, Entry, Ledger
from mpnn_core.gate.verdicts import GateResult, Verdict

# What Markdown would not show as it is: an entity where not every reader takes a backslash.
SIGNS = str.maketrans(
    {sign: f"\\{sign}" for sign in "\\|*_`[#"}
    | {"&": "&amp;", "<": "&lt;", "~": "&#126;", "$": "&#36;", "@": "&#64;"}
)
HEADS = ("figure", "reported", "measured", "verdict", "gate", "device and workload")


def markdown(ledger: Ledger, claims: Mapping[str, Claim]) -> str:
    """The whole ledger, a table for each claim, with the machine and the counts.

    Figures that the ledger has no entry of are in it as not run or not exercised. The same ledger
    and claims give the same text.
    """
    ledger = ledger.completed(claims)
    machine = ", ".join(f"{key} {value}" for key, value in ledger.machine.items())
    lines = [
        f"Measured on: {escaped(machine) or 'no machine yet'}; "
        f"{escaped(ledger.date) or 'no run yet'}.",
        "",
    ]
    for name, kind in (("Verdicts", Verdict), ("Gates", GateResult)):
        counts = ", ".join(f"{n} {k}" for k, n in ledger.counts(kind).items())
        lines += [f"{name}: {counts or 'none'}.", ""]
    for claim in claims.values():
        lines += _section(claim, [e for e in ledger.entries if e.claim == claim.id])
    return "\n".join(lines).rstrip() + "\n"


def _section(claim: Claim, entries: list[Entry]) -> list[str]:
    lines = [
        f"## {escaped(claim.id)} · {escaped(claim.title)}",
        "",
        f"Reported by: {escaped(claim.source)}. Measured there on: {escaped(claim.hardware)}. "
        f"Workload: {escaped(claim.workload)}. Known: {escaped(claim.known)}.",
        "",
        _row(HEADS),
        _row(["---"] * len(HEADS)),
    ]
    for e in entries:
        where = (e.note,) if e.verdict in ABSENT else (e.device, e.workload, e.note)
        gate = ", ".join(filter(None, (e.gate, e.bound)))
        gate = "-" if e.gate is GateResult.NONE else gate
        words = "; ".join(filter(None, where))
        lines.append(_row([e.figure, e.reported, e.measured, e.judged, gate, words]))
    return [*lines, ""]


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(map(escaped, cells)) + " |"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line, within a line or a cell of a table."""
    text = text.translate(SIGNS)
    # An address would become a link by itself.
    text = text.replace("://", "&#58;//").replace("www.", "www&#46;")
    return " ".join(text.split())
