"""The ledger as a page of Markdown: every figure, claim by claim."""

from __future__ import annotations

from collections.abc import Mapping

from mpnn_core.gate.claims import Claim
from mpnn_core.gate.ledger import ABSENT, Entry, Ledger
from mpnn_core.gate.verdicts import GateResult, Verdict

HEADS = ("figure", "reported", "measured", "verdict", "gate", "device and workload")


def markdown(ledger: Ledger, claims: Mapping[str, Claim]) -> str:
    """The whole ledger, a table for each claim, with the machine and the counts.

    Figures that the ledger has no entry of are in it as not run or not exercised. The same ledger
    and claims give the same text.
    """
    ledger = ledger.completed(claims)
    machine = ", ".join(f"{key} {value}" for key, value in ledger.machine.items())
    lines = [
        f"Measured on: {_cell(machine) or 'no machine yet'}; {ledger.date or 'no run yet'}.",
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
        f"## {claim.id} · {_cell(claim.title)}",
        "",
        f"Reported by: {_cell(claim.source)}. Measured there on: {_cell(claim.hardware)}. "
        f"Workload: {_cell(claim.workload)}. Known: {_cell(claim.known)}.",
        "",
        _row(HEADS),
        _row(["---"] * len(HEADS)),
    ]
    for e in entries:
        where = (e.note,) if e.verdict in ABSENT else (e.device, e.workload, e.note)
        gate = f"{e.gate}, {e.bound}" if e.bound else "-"
        words = "; ".join(filter(None, where))
        lines.append(_row([e.figure, e.reported, e.measured, e.verdict, gate, words]))
    return [*lines, ""]


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    for sign in "\\|*_`<[":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
