"""The ledger as a page of Markdown: every figure, claim by claim."""

from __future__ import annotations

from collections.abc import Mapping

from mpnn_core.gate.claims import Claim
from mpnn_core.gate.ledger import ABSENT, Ledger, minute
from mpnn_core.gate.verdicts import GateResult, Verdict

# What Markdown would not show as it is: an entity where not every reader takes a backslash.
SIGNS = str.maketrans(
    {sign: f"\\{sign}" for sign in "\\|*_`[#"}
    | {"&": "&amp;", "<": "&lt;", "~": "&#126;", "$": "&#36;", "@": "&#64;"}
)
# Four columns have room on a phone.
HEADS = ("figure", "reported", "measured", "verdict and gate")


def markdown(ledger: Ledger, claims: Mapping[str, Claim]) -> str:
    """The whole ledger, a table for each claim, with the machine and the counts.

    Figures that the ledger has no entry of are in it as not run or not exercised. The same ledger
    and claims give the same text.
    """
    ledger = ledger.completed(claims)
    machine = ", ".join(f"{key} {value}" for key, value in ledger.machine.items())
    lines = [
        f"Measured on: {escaped(machine) or 'no machine yet'}; "
        f"{escaped(minute(ledger.date)) or 'no run yet'}.",
        "",
    ]
    for name, kind in (("Verdicts", Verdict), ("Gates", GateResult)):
        counts = ", ".join(f"{n} {k}" for k, n in ledger.counts(kind).items())
        lines += [f"{name}: {counts or 'none'}.", ""]
    if ledger.ages:
        lines += [f"Of several runs: {escaped(ledger.ages)}.", ""]
    for claim in claims.values():
        lines += _section(claim, ledger)
    return "\n".join(lines).rstrip() + "\n"


def _section(claim: Claim, ledger: Ledger) -> list[str]:
    entries = [e for e in ledger.entries if e.claim == claim.id]
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
        told = (e.machine or e.device, e.workload, e.made_of, e.note)
        where = (e.note,) if e.verdict in ABSENT else told
        words = "; ".join(filter(None, where))
        if e.value is not None and ledger.is_earlier(e):
            words += f"; measured {minute(e.date)}"
        gate = e.judged if e.gate is GateResult.NONE else f"{e.judged}; gate {e.gated}"
        figure = e.figure.replace("-", " ")
        lines.append(
            _row([f"{figure}: {words}" if words else figure, e.reported, e.measured, gate])
        )
    return [*lines, ""]


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(map(escaped, cells)) + " |"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line, within a line or a cell of a table."""
    text = text.translate(SIGNS)
    # An address would become a link by itself.
    text = text.replace("://", "&#58;//").replace("www.", "www&#46;")
    return " ".join(text.split())
