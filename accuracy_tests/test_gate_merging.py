"""A run of some tests alone: what it puts into the ledger, what it leaves there, what it says."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from stored_runs import PROCESSOR, entry, ledger

from mpnn_core.gate.claims import load_claims
from mpnn_core.gate.ledger import Entry, Ledger
from mpnn_core.gate.merging import merged, onto_earlier
from mpnn_core.gate.pages import markdown
from mpnn_core.gate.printing import print_short, print_whole
from mpnn_core.gate.verdicts import GateResult, Verdict

CLAIMS = load_claims(Path(__file__).parents[1] / "claims.toml")
MONDAY, FRIDAY = "2026-01-05T10:00:00+00:00", "2026-01-09T10:00:00+00:00"
SPEED = replace(entry(CLAIMS["E2"], "speed", 40), test="tests.py::test_speed")
LOSS = replace(entry(CLAIMS["S4"], "loss", 8.9), test="tests.py::test_loss")
UNMEASURED = {"value": None, "low": None, "high": None}
OPEN = replace(
    LOSS, **UNMEASURED, verdict=Verdict.INCONCLUSIVE, gate=GateResult.INCONCLUSIVE, device="-",
    note="takes about 60 s, the budget has 3 s left",
)  # fmt: skip
BROKEN = replace(OPEN, verdict=Verdict.NOT_RUN, gate=GateResult.FAILED, note="the test failed")


def run(*entries: Entry, date: str = FRIDAY) -> Ledger:
    return replace(ledger(entries, date=date), started=date)


def both(earlier: list[Entry], latest: list[Entry]) -> tuple[list[Entry], list[str]]:
    """The rows of a run on Monday with those of one on Friday, without blank ones."""
    found, lines = merged(run(*earlier, date=MONDAY), run(*latest), CLAIMS)
    return [e for e in found.entries if e.test], lines


def test_a_run_of_a_part_updates_its_rows_and_keeps_the_others_with_their_dates() -> None:
    faster = replace(SPEED, value=50.0, low=49.0, high=51.0)
    rows, lines = both([SPEED, LOSS], [faster])
    assert rows == [replace(LOSS, date=MONDAY), replace(faster, date=FRIDAY)]
    assert not lines
    again, _ = merged(ledger(rows, date=FRIDAY), run(SPEED), CLAIMS)
    assert {e.date for e in again.measured if e.claim == "S4"} == {MONDAY}, "its own date"


def test_rows_of_other_workloads_and_devices_stand_beside() -> None:
    others = [replace(SPEED, workload="3HTN"), replace(SPEED, device="cuda", test="tests.py::gpu")]
    others[0] = replace(others[0], test="tests.py::test_of_3HTN")
    rows, lines = both([SPEED, *others], [SPEED])
    assert {(e.workload, e.device) for e in rows} == {
        (SPEED.workload, "cpu"), ("3HTN", "cpu"), (SPEED.workload, "cuda"),
    }  # fmt: skip
    assert not lines


@pytest.mark.parametrize(
    ("earlier", "line"),
    [
        (replace(SPEED, claim="X1"), "no claim has this figure any more: X1 speed"),
        (replace(SPEED, figure="x"), "no claim has this figure any more: E2 x"),
        (replace(SPEED, test="t.py::t", machine="cpu-avx2", workload="w", processor="An old one"),
         "measured on another machine, An old one: E2 speed"),
        (replace(SPEED, test="t.py::t", workload="w", processor="An old one"),
         "measured on another machine, An old one: E2 speed"),
        (replace(SPEED, workload="an old workload"),
         "their test gives another workload now: E2 speed"),
    ],
)  # fmt: skip
def test_what_leaves_the_ledger_is_said(earlier, line) -> None:
    now = replace(SPEED, machine="cpu-avx512", processor=PROCESSOR)
    rows, lines = both([earlier], [now])
    assert rows == [replace(now, date=FRIDAY)]
    assert lines == [f"left out of the ledger, {line}"]


def test_a_ledger_of_another_machine_leaves_no_row() -> None:
    old = ledger([SPEED, LOSS], "Another processor", MONDAY)
    found, lines = merged(old, run(SPEED), CLAIMS)
    assert [e.claim for e in found.measured] == ["E2"]
    names = "S4 loss, E2 speed" if found.entries[0].claim == "S4" else "E2 speed, S4 loss"
    assert lines == [
        f"left out of the ledger, measured on another machine, Another processor: {names}"
    ]


def test_what_a_run_could_not_measure_stays_as_it_was() -> None:
    rows, lines = both([SPEED, LOSS], [OPEN])
    assert rows == [replace(LOSS, date=MONDAY), replace(SPEED, date=MONDAY)]
    assert lines == ["not measured in this run, kept from an earlier one: S4 loss"]
    rows, lines = both([SPEED], [OPEN])
    assert replace(OPEN, date=FRIDAY) in rows and not lines, "where nothing is known, it is said"


def test_a_test_that_fails_before_it_measures_is_red_and_not_as_it_was() -> None:
    rows, _ = both([SPEED, LOSS], [BROKEN])
    assert rows == [replace(BROKEN, date=FRIDAY), replace(SPEED, date=MONDAY)]
    rows, _ = both([BROKEN], [SPEED])
    assert replace(BROKEN, date=MONDAY) in rows, "a red stays until its test runs again"
    rows, lines = both([BROKEN], [LOSS])
    assert rows == [replace(LOSS, date=FRIDAY)] and not lines


def test_at_acceptance_what_stays_inconclusive_is_not_as_it_was() -> None:
    latest = run(OPEN)
    latest.mode = "acceptance"
    found, _ = merged(run(LOSS, date=MONDAY), latest, CLAIMS)
    assert [e.date for e in found.entries if e.test] == [FRIDAY]


def test_a_ledger_that_cannot_be_read_is_replaced_and_said_to_be(tmp_path) -> None:
    path = tmp_path / "ledger.json"
    assert onto_earlier(path, run(SPEED), CLAIMS) == (run(SPEED), [])
    path.write_text("{}")
    found, (line,) = onto_earlier(path, run(SPEED), CLAIMS)
    assert found == run(SPEED)
    assert line.startswith(f"the earlier ledger is replaced: {path} is not a ledger")


@pytest.mark.parametrize("form", [print_short, print_whole])
def test_rows_of_several_runs_are_printed_with_their_dates(form) -> None:
    red = replace(LOSS, gate=GateResult.FAILED)
    found, _ = merged(run(red, date=MONDAY), run(SPEED), CLAIMS)
    text = printed(found, form)
    assert "2026-01-09 10:00 UTC" in text
    assert "rows: 1 of this run, 1 of earlier runs, the oldest of 2026-01-05 10:00 UTC" in text
    if form is print_short:
        assert "points: failed; 61 pairs, control [0.99, 1.01] (measured 2026-01-05" in text
    one, _ = merged(run(date=MONDAY), run(SPEED, red), CLAIMS)
    assert "rows:" not in printed(one, form) and " date" not in printed(one, form)


def test_the_page_of_several_runs_dates_the_rows_of_earlier_ones() -> None:
    found, _ = merged(run(LOSS, date=MONDAY), run(SPEED), CLAIMS)
    text = markdown(found, CLAIMS)
    assert "rows: 1 of this run, 1 of earlier runs, the oldest of 2026-01-05 10:00 UTC" in text
    (row,) = (line for line in text.splitlines() if LOSS.measured.partition(" ")[0] in line)
    assert "61 pairs; measured 2026-01-05 10:00 UTC" in row
    assert text.count("; measured 2026") == 1


def printed(content: Ledger, form) -> str:
    text = io.StringIO()
    form(content, Console(file=text, width=250))
    return " ".join(text.getvalue().split())
