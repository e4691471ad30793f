"""What binds a test to figures, and holds a measurement against them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import pytest

from mpnn_core.gate.claims import Claim, Figure, Gate
from mpnn_core.gate.intervals import Interval, exactly
from mpnn_core.gate.ledger import Entry
from mpnn_core.gate.verdicts import GateResult, Verdict, agrees, judge_claim, judge_gate

_ENTRY = "mpnn_core.ledger.entry"
_CLAIMS = pytest.StashKey[Mapping[str, Claim]]()


def bindings(item: pytest.Item) -> list[tuple[str, str]]:
    """The (claim, figure) pairs that a test names."""
    found = []
    for mark in item.iter_markers("claim"):
        if len(mark.args) != 2 or mark.kwargs:
            raise pytest.UsageError(f"{item.nodeid}: expected claim(id, figure), got {mark.args}")
        found.append((str(mark.args[0]), str(mark.args[1])))
    return found[::-1]


def unbound(claims: Iterable[Claim], bound: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The (claim, figure) pairs that no test names."""
    named = set(bound)
    return [(c.id, key) for c in claims for key in c.figures if (c.id, key) not in named]


class Judge:
    """Holds measurements against the figures that a test names, and writes the ledger."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.request = request
        self.claims = request.config.stash[_CLAIMS]
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
        pairs: int = 0,
        note: str = "",
        only_record: bool = False,
        gate: Gate | None = None,
    ) -> list[Entry]:
        """Judge, record, and fail the test if a gate fails.

        Parameters
        ----------
        measured : an interval; a number that was counted; or None if there was too little
        key, claim : which of the figures that the test names; all of them if None
        workload : what was measured; the claim's own if ""
        device : its class, or the torch device
        control : the baseline against itself, where something was timed
        only_record : it is another workload than the claim's, kept beside it and not judged
        gate : what must hold, where the bound comes with what is measured; the figure's own if None

        Raises
        ------
        ValueError
            `measured` is NaN.
        """
        interval = (
            measured
            if measured is None or isinstance(measured, Interval)
            else exactly(float(measured))
        )
        device = getattr(device, "type", device)
        chosen = [
            f
            for f in self.figures
            if (key is None or f.key == key) and (claim is None or f.claim == claim)
        ]
        assert chosen, f"{self.request.node.nodeid} names no figure {key!r} of claim {claim!r}"
        entries = []
        for figure in chosen:
            own = None if only_record else figure.gates.get(device)
            bound = own if gate is None else gate
            entry = Entry(
                claim=figure.claim,
                figure=figure.key,
                reported=str(figure),
                workload=workload or self.claims[figure.claim].workload,
                device=device,
                verdict=(
                    Verdict.RECORDED if only_record else judge_claim(figure, interval, control)
                ),
                gate=judge_gate(bound, interval, control),
                bound=str(bound) if bound else "",
                unit=figure.unit,
                value=None if interval is None else float(interval.value),
                low=None if interval is None else float(interval.low),
                high=None if interval is None else float(interval.high),
                control=None if control is None else (float(control.low), float(control.high)),
                pairs=pairs,
                agrees=None if interval is None else agrees(figure, interval),
                test=self.request.node.nodeid,
                note=note,
            )
            _record(self.request.node, entry)
            entries.append(entry)
        acceptance = self.request.config.getoption("--acceptance")
        reds = [e for e in entries if _is_red(e, acceptance)]
        if reds:
            pytest.fail("\n".join(map(sentence, reds)), pytrace=False)
        return entries

    def settled(self, interval: Interval | None, control: Interval | None, device: str) -> bool:
        """Whether more measuring could change no verdict and no gate."""
        return all(
            judge_claim(f, interval, control) is not Verdict.INCONCLUSIVE
            and judge_gate(f.gates.get(device), interval, control) is not GateResult.INCONCLUSIVE
            for f in self.figures
        )


def _record(item: pytest.Item, entry: Entry) -> None:
    item.user_properties.append((_ENTRY, entry.to_json()))


def _entries(item: pytest.Item | pytest.TestReport) -> list[dict[str, Any]]:
    """What was recorded, as `Entry.to_json` gave it."""
    return [cast("dict[str, Any]", value) for key, value in item.user_properties if key == _ENTRY]


def _is_red(entry: Entry, acceptance: bool) -> bool:
    return entry.gate is GateResult.FAILED or (acceptance and entry.gate is GateResult.INCONCLUSIVE)


def sentence(entry: Entry) -> str:
    """What a red says."""
    text = (
        f"claim {entry.claim}, {entry.figure}, on {entry.device} ({entry.workload}): the gate is "
        f"{entry.bound}, measured {entry.measured}: {entry.gate}"
    )
    if entry.pairs:
        text += f"; {entry.pairs} pairs"
    if entry.control:
        text += f", the baseline against itself [{entry.control[0]:.3g}, {entry.control[1]:.3g}]"
    return text


def _skip(item: pytest.Item, needs: str, found: str = "") -> None:
    claims = item.config.stash[_CLAIMS]
    for claim, key in bindings(item):
        figure = claims[claim].figures[key]
        note = f"needs {needs}" + (f"; {found}" if found else "")
        _record(item, _unmeasured(claims, figure, item, Verdict.NOT_EXERCISED, note=note))
    pytest.skip(f"not exercised: needs {needs}")


def _unmeasured(
    claims: Mapping[str, Claim],
    figure: Figure,
    item: pytest.Item,
    verdict: Verdict,
    gate: GateResult = GateResult.NONE,
    note: str = "",
) -> Entry:
    return Entry(
        figure.claim,
        figure.key,
        str(figure),
        claims[figure.claim].workload,
        "-",
        verdict,
        gate,
        test=item.nodeid,
        note=note,
    )
