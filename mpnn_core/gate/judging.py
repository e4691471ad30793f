"""Binds a test to the figures that it names, and judges its measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import pytest

from mpnn_core.gate.claims import RECORDED, Claim, Figure, Gate
from mpnn_core.gate.hardware import device_class, hardware_of
from mpnn_core.gate.intervals import Interval, exactly
from mpnn_core.gate.ledger import Entry, now
from mpnn_core.gate.project import Project
from mpnn_core.gate.records import Records, load_records
from mpnn_core.gate.sessions import Times
from mpnn_core.gate.verdicts import (
    GateResult,
    Verdict,
    agrees,
    judge_claim,
    judge_gate,
    shortfall,
)

# Where a run of pytest keeps what it judges, and a test its entries.
PROJECT = pytest.StashKey[Project]()
CLAIMS = pytest.StashKey[Mapping[str, Claim]]()
RECORDS = pytest.StashKey[Records]()
ENTRY = "mpnn_core.ledger.entry"


def bindings(item: pytest.Item) -> list[tuple[str, str]]:
    """The (claim, figure) pairs that a test names, in the order of its marks."""
    pairs = []
    for mark in item.iter_markers("claim"):
        if len(mark.args) != 2 or mark.kwargs:
            raise pytest.UsageError(f"{item.nodeid}: expected claim(id, figure), got {mark.args}")
        pairs.append((str(mark.args[0]), str(mark.args[1])))
    return pairs[::-1]


def unbound(claims: Iterable[Claim], bound: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The (claim, figure) pairs that no test names."""
    named = set(bound)
    return [(c.id, key) for c in claims for key in c.figures if (c.id, key) not in named]


class Judge:
    """Judges measurements against the figures that a test names, and records the outcome."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.request = request
        self.claims = request.config.stash[CLAIMS]
        self.hardware = hardware_of(request.config.stash[PROJECT])
        self.figures = [self.claims[c].figures[key] for c, key in bindings(request.node)]
        if not self.figures:
            raise pytest.UsageError(f"{request.node.nodeid} measures, but names no claim")

    def __call__(
        self,
        measured: Interval | float | None,
        *,
        key: str | None = None,
        claim: str | None = None,
        workload: str = "",
        device: Any = "cpu",
        control: Interval | None = None,
        times: Times | None = None,
        note: str = "",
        only_record: bool = False,
        gate: Gate | None = None,
    ) -> list[Entry]:
        """Judge, record, and fail the test if a gate fails.

        Parameters
        ----------
        measured : an interval; a number that was counted; None if there was too little to measure
        key, claim : which of the figures that the test names; all of them if None
        workload : what was measured; the claim's own if ""
        device : its class, or a framework's own object for it
        control : the baseline against itself, where something was timed
        times : what was timed, and what there is to know of it; None where nothing was
        note : anything that a reader of the ledger should know
        only_record : the workload is not the claim's; written down beside it and not judged
        gate : what must hold, where the test brings the bounds; the figure's own gate if None

        Raises
        ------
        ValueError
            `measured` is NaN.
        """
        if not (measured is None or isinstance(measured, Interval)):
            measured = exactly(float(measured))
        figures = [f for f in self.figures if key in (None, f.key) and claim in (None, f.claim)]
        assert figures, f"{self.request.node.nodeid} names no figure {key!r} of claim {claim!r}"
        device, date = device_class(device), now()
        machine, processor = self.hardware.machine_class(device), self.hardware.processor(device)
        entries = []
        for figure in figures:
            what = workload or self.claims[figure.claim].workload
            bound, result, remark = gate, GateResult.NONE, ""
            if gate is None and not only_record:
                bound, remark = self._bound(figure, device, what)
            if bound is not None:
                result = judge_gate(bound, measured, control)
            elif remark and measured is None:  # its workload may not be known, nor its record
                result, remark = GateResult.INCONCLUSIVE, ""
            elif remark:
                result = GateResult.UNRECORDED
            verdict = judge_claim(figure, measured, control, machine)
            if only_record:
                verdict = Verdict.RECORDED
            short = ""
            if verdict is Verdict.SHORT and measured is not None:
                short = shortfall(figure, measured)
            entry = Entry(
                claim=figure.claim,
                figure=figure.key,
                reported=str(figure),
                workload=what,
                device=device,
                verdict=verdict,
                gate=result,
                bound=str(bound) if bound else "",
                unit=figure.unit,
                value=None if measured is None else float(measured.value),
                low=None if measured is None else float(measured.low),
                high=None if measured is None else float(measured.high),
                control=None if control is None else (float(control.low), float(control.high)),
                processes=len(times.processes) if times else 0,
                pairs=times.pairs if times else 0,
                agrees=None if measured is None else agrees(figure, measured),
                test=self.request.node.nodeid,
                note="; ".join(filter(None, (note, times.note if times else "", remark))),
                headline=figure.headline,
                machine=machine,
                processor=processor,
                date=date,
                short=short,
            )
            record(self.request.node, entry)
            entries.append(entry)
        acceptance = self.request.config.getoption("--acceptance")
        reds = [e for e in entries if e.is_red(acceptance)]
        if reds:
            pytest.fail("\n".join(e.sentence for e in reds), pytrace=False)
        return entries

    def _bound(self, figure: Figure, device: str, workload: str) -> tuple[Gate | None, str]:
        """The gate of a figure on a device, and what a reader of the ledger should know of it."""
        if device in figure.gates or figure.gated != RECORDED:
            return figure.gates.get(device), ""
        machine, processor = self.hardware.machine_class(device), self.hardware.processor(device)
        bound = self.records.gate(figure, workload, machine, processor)
        if bound is None:
            return None, f"no gate for {machine} yet: no run of it is recorded"
        return bound, f"the gate is {bound.source}"

    @property
    def records(self) -> Records:
        """The recorded runs of the project, read once in a run of pytest."""
        stash = self.request.config.stash
        if RECORDS not in stash:
            stash[RECORDS] = load_records(stash[PROJECT])
        return stash[RECORDS]


def record(item: pytest.Item, entry: Entry) -> None:
    """Let an entry travel with the reports of a test."""
    item.user_properties.append((ENTRY, entry.to_json()))


def recorded(item: pytest.Item | pytest.TestReport) -> list[dict[str, Any]]:
    """The entries of a test, as `Entry.to_json` gives them."""
    return [cast("dict[str, Any]", value) for key, value in item.user_properties if key == ENTRY]


def record_unmeasured(
    item: pytest.Item,
    pairs: Iterable[tuple[str, str]],
    verdict: Verdict,
    gate: GateResult = GateResult.NONE,
    note: str = "",
) -> None:
    """Entries for the (claim, figure) pairs that a test measured nothing of."""
    claims = item.config.stash[CLAIMS]
    for claim, key in pairs:
        record(item, Entry.unmeasured(claims[claim], key, verdict, gate, item.nodeid, note))


def not_exercised_here(item: pytest.Item, needs: str, note: str = "") -> None:
    """Record that a test's figures need hardware that is missing, and skip it.

    A note adds what was measured without that hardware.
    """
    text = f"needs {needs}" + (f"; {note}" if note else "")
    record_unmeasured(item, bindings(item), Verdict.NOT_EXERCISED, note=text)
    pytest.skip(f"not exercised: needs {needs}")
