"""Gates of timed figures: bounds from recorded runs on the same class of machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from mpnn_core.gate.claims import load_claims
from mpnn_core.gate.intervals import Interval
from mpnn_core.gate.ledger import Entry, Ledger, LedgerError
from mpnn_core.gate.project import load_project
from mpnn_core.gate.records import FALL, OTHER, OWN, Records, load_records, record, unrecorded
from mpnn_core.gate.verdicts import GateResult, Verdict, judge_gate

ROOT = Path(__file__).parents[1]
PROJECT = load_project(ROOT)
CLAIMS = load_claims(ROOT / "claims.toml", PROJECT)
RECORDED = load_records(PROJECT)
E2 = CLAIMS["E2"].figures["speed"]
E41 = CLAIMS["E41"].figures["overhead"]


def entry(figure=E2, value=30.0, processor="Zen 5", machine="cpu-avx512", **values) -> Entry:
    low, high = (None, None) if value is None else (0.95 * value, 1.05 * value)
    given = {
        "claim": figure.claim, "figure": figure.key, "reported": str(figure), "workload": "w",
        "device": "cpu", "verdict": Verdict.SHORT, "gate": GateResult.UNRECORDED, "unit": "x",
        "value": value, "low": low, "high": high, "control": (0.98, 1.02),
        "processes": 8, "pairs": 80, "machine": machine, "processor": processor,
        "date": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return Entry(**{**given, **values})


def bound(entries: Iterable[Entry], figure=E2, processor="Zen 5", machine="cpu-avx512"):
    return Records(tuple(entries)).gate(figure, "w", machine, processor)


def test_the_processor_s_own_records_come_before_those_of_its_class() -> None:
    runs = [entry(value=v) for v in (36.0, 37.0, 50.0)] + [entry(value=27.0, processor="SPR")]
    assert bound(runs).at_least == pytest.approx(OWN * 37)
    assert bound(runs, processor="SPR").at_least == pytest.approx(OWN * 27)
    third = bound(runs, processor="Skylake")
    assert third.at_least == pytest.approx(OTHER * 27), "the slowest of the class"
    assert (
        third.source == "0.5 x 27, the lowest of 4 recorded runs on other processors of cpu-avx512"
    )
    assert bound(runs).source == "0.8 x 37, the median of 3 recorded runs on Zen 5"


def test_a_processor_of_one_class_does_not_turn_the_other_red() -> None:
    """8 sequences of 5L33 ran at 37x on one processor with AVX-512 and 27x on another."""
    for mine, other in ((27.0, 37.0), (37.0, 27.0)):
        gate = bound([entry(value=other, processor="SPR")])
        measured = Interval(mine, 0.9 * mine, 1.1 * mine)
        assert judge_gate(gate, measured, None) is GateResult.PASSED


def test_where_less_is_better_the_bound_is_the_mirror() -> None:
    runs = [entry(E41, v) for v in (1.0, 1.1)]
    assert bound(runs, E41).at_most == pytest.approx(1.05 / OWN, rel=1e-2)
    assert bound(runs, E41, processor="another").at_most == pytest.approx(1.1 / OTHER)
    assert bound(runs, E41).at_least is None


@pytest.mark.parametrize("machine", ["cpu-neon", "cpu-avx2"])
def test_a_class_without_a_record_has_no_gate(machine) -> None:
    assert bound([entry()], machine=machine) is None
    assert Records((entry(),)).gate(E2, "another workload", "cpu-avx512", "Zen 5") is None


def recorded_figures() -> list:
    return [
        pytest.param(e, id=f"{e.claim}-{e.figure}-{e.machine}-{e.workload[:30]}")
        for e in RECORDED.entries
    ]


def test_headline_figures_have_records() -> None:
    recorded = {(e.claim, e.figure) for e in RECORDED.entries}
    assert recorded >= {("E1", "speed"), ("E2", "speed"), ("E4", "one"), ("E8", "many-fast")}


@pytest.mark.parametrize("e", recorded_figures())
def test_a_fall_of_a_third_is_red_and_a_hair_is_not(e) -> None:
    figure = CLAIMS[e.claim].figures[e.figure]
    gate = RECORDED.gate(figure, e.workload, e.machine, e.processor)

    def judged(factor: float) -> tuple[GateResult, Entry]:
        values = [
            x / factor if figure.less_is_better else x * factor for x in (e.value, e.low, e.high)
        ]
        result = judge_gate(gate, Interval(*values), None)
        value, low, high = values
        now = replace(e, value=value, low=low, high=high, gate=result, bound=str(gate))
        return result, now

    fallen, red = judged(FALL)
    assert fallen is GateResult.FAILED, red.sentence
    assert red.is_red() and f"the gate is {gate}, measured {red.measured}: failed" in red.sentence
    hair, _ = judged(0.97)
    assert hair in (GateResult.PASSED, GateResult.INCONCLUSIVE), f"{e.measured} against {gate}"


@pytest.fixture
def project(tmp_path):
    (tmp_path / "claims.toml").write_text((ROOT / "claims.toml").read_text())
    return replace(PROJECT, root=tmp_path)


def test_a_run_is_recorded_by_its_class_and_bounds_the_next(project) -> None:
    run = Ledger([entry(), entry(value=90.0, machine="h100", device="cuda")], date=entry().date)
    recording = record(run, CLAIMS, project)
    folder = project.root / "fixtures" / "ledgers"
    assert recording.files == {
        folder / name / "2026-01-01T00-00-00.json": 1 for name in ("cpu-avx512", "h100")
    }
    gate = load_records(project).gate(E2, "w", "cpu-avx512", "Zen 5")
    assert gate.at_least == pytest.approx(OWN * 30)
    again = record(run, CLAIMS, project)
    assert not again.files and all("recorded already" in line for line in again.refused)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"value": None, "low": None, "high": None, "note": "3 processes"}, "no interval; 3 proc"),
        ({"control": (1.01, 1.05)}, "its control, [1.01, 1.05], excludes 1: the machine was too n"),
        ({"gate": GateResult.FAILED, "bound": ">= 31"}, "it failed its gate, >= 31; a fall is no"),
        ({"low": 20.0, "high": 40.0}, "too wide for a gate that sees a fall of a third"),
        ({"machine": ""}, "its class of machine is not known"),
    ],
)
def test_what_bounds_nothing_is_not_recorded_and_says_why(project, values, reason) -> None:
    recording = record(Ledger([entry(**values)]), CLAIMS, project)
    assert not recording.files and not load_records(project).entries
    (line,) = recording.refused
    assert line.startswith("E2 speed (w): ") and reason in line, line


def test_a_measurement_beside_the_claim_and_one_that_is_not_timed_are_left_alone(project) -> None:
    loss = CLAIMS["S4"].figures["loss"]
    run = Ledger([entry(gate=GateResult.NONE), entry(loss, gate=GateResult.PASSED)])
    recording = record(run, CLAIMS, project)
    assert not recording.files and not recording.refused


def test_a_record_in_the_folder_of_another_class_is_named(project) -> None:
    path = project.root / "fixtures" / "ledgers" / "h100" / "run.json"
    Ledger([entry()]).save(path)
    with pytest.raises(LedgerError) as error:
        load_records(project)
    assert str(error.value) == (
        f"{path}: claim E2, speed is of machine 'cpu-avx512'; expected 'h100', the class that its "
        "folder is named after"
    )


def test_what_has_no_gate_yet_is_said_once_for_a_class_with_how_to_record_it() -> None:
    neon = [entry(machine="cpu-neon"), entry(machine="cpu-neon"), entry(gate=GateResult.PASSED)]
    assert unrecorded(neon) == [
        "no gate for this class yet (cpu-neon): 2 timed figures; `mpnn-core claims --record` keeps "
        "this run as its record"
    ]
