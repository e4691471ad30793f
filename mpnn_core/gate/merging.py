"""A run of some tests alone updates its own rows of the ledger, and keeps those of earlier runs.

A row is a claim's figure on one workload and device. What leaves the ledger is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mpnn_core.gate.claims import Claim
from mpnn_core.gate.ledger import Entry, Ledger, LedgerError
from mpnn_core.gate.verdicts import Verdict

# What tells one machine from another, of `ledger.this_machine`.
MACHINE = ("processor", "cores", "system")
# So many names stand in a line; the others are counted.
NAMED = 8


def onto_earlier(
    path: Path, latest: Ledger, claims: Mapping[str, Claim]
) -> tuple[Ledger, list[str]]:
    """The ledger at `path` with the rows of the latest run, and a line for all that it lost."""
    if not path.exists():
        return latest, []
    try:
        earlier = Ledger.load(path)
    except LedgerError as error:
        return latest, [f"the earlier ledger is replaced: {error}"]
    return merged(earlier, latest, claims)


def merged(
    earlier: Ledger, latest: Ledger, claims: Mapping[str, Claim]
) -> tuple[Ledger, list[str]]:
    """Two ledgers as one, and a line for each reason why rows are not in it.

    A row of the latest run takes the place of the earlier one, unless it has no measurement, is not
    red, and the earlier one has a measurement: then that stays. Rows of another machine go, and of
    figures that no claim has any more, and of workloads that their test has given up.
    """
    new = [_dated(e, latest.date) for e in latest.entries if e.test]
    lost: dict[str, list[Entry]] = {}
    kept = []
    for e in (_dated(e, earlier.date) for e in earlier.entries if not _is_blank(e)):
        own = [n for n in new if _row(n) == _row(e) or _from_one_test(n, e)]
        settled = [n for n in own if n.value is not None or n.is_red(latest.mode == "acceptance")]
        if e.claim not in claims or e.figure not in claims[e.claim].figures:
            lost.setdefault("no claim has this figure any more", []).append(e)
        elif other := _other_machine(e, earlier, new, latest):
            lost.setdefault(f"measured on another machine, {other}", []).append(e)
        elif not (settled or (own and e.value is None)):
            kept.append(e)
        elif e.value is not None and all(
            n.value is not None and _row(n) != _row(e) for n in settled
        ):
            lost.setdefault("their test gives another workload now", []).append(e)
    standing = [n for n in new if not _is_measured_in(kept, n)]
    lines = [f"left out of the ledger, {why}: {_named(gone)}" for why, gone in lost.items()]
    if unmeasured := [n for n in new if n not in standing]:
        lines.append(f"not measured in this run, kept from an earlier one: {_named(unmeasured)}")
    return replace(latest, entries=kept + standing).completed(claims), lines


def _is_blank(entry: Entry) -> bool:
    """Whether an entry says only that nothing ran."""
    return not entry.test or (entry.verdict is Verdict.NOT_RUN and not entry.is_red())


def _dated(entry: Entry, date: str) -> Entry:
    return replace(entry, date=entry.date or date)


def _row(entry: Entry) -> tuple[str, str, str, str]:
    return entry.claim, entry.figure, entry.workload, entry.device


def _from_one_test(one: Entry, other: Entry) -> bool:
    """Whether one test gave both; without a measurement, its workload and device are not known."""
    test = one.claim, one.figure, one.test
    return bool(one.test) and test == (other.claim, other.figure, other.test)


def _is_measured_in(kept: list[Entry], entry: Entry) -> bool:
    """Whether an entry without a measurement has one in the rows that stay."""
    return entry.value is None and any(
        k.value is not None and (_row(k) == _row(entry) or _from_one_test(k, entry)) for k in kept
    )


def _other_machine(entry: Entry, earlier: Ledger, new: list[Entry], latest: Ledger) -> str:
    """The machine of an earlier entry, if it is not that of the latest run."""
    for key in MACHINE:
        was, now = earlier.machine.get(key), latest.machine.get(key)
        if was and now and was != now:
            return entry.processor or earlier.machine.get("processor", was)
    for n in new:
        if n.device == entry.device:
            for was, now in ((entry.machine, n.machine), (entry.processor, n.processor)):
                if was and now and was != now:
                    return entry.processor or was
    return ""


def _named(entries: list[Entry]) -> str:
    names = list(dict.fromkeys(f"{e.claim} {e.figure}" for e in entries))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
