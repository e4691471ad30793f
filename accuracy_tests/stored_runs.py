"""Runs as pytest-benchmark stores them, made up: for tests of everything that reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mpnn_core.gate.claims import Claim, Gate
from mpnn_core.gate.intervals import Interval, exactly
from mpnn_core.gate.ledger import STORED, Entry, Ledger
from mpnn_core.gate.verdicts import judge_claim, judge_gate

PROCESSOR = "A processor"
# As if recorded runs bounded timed figures; those that are not here, at half of what is reported.
BOUNDS = {("S9", "component-2000"): 2.0}


def entry(claim: Claim, key: str, value: float, width: float = 0.03) -> Entry:
    """A figure of a claim, measured as `value`, its interval so wide on both sides."""
    figure = claim.figures[key]
    half = abs(value) * width + 1e-3 * (figure.sense != "count")
    interval = Interval(value, value - half, value + half)
    if figure.sense == "count":
        interval = exactly(value)
    gate = figure.gates.get("cpu")
    if figure.gated and not figure.less_is_better:
        least = BOUNDS.get((claim.id, key), figure.reported / 2)
        gate = Gate("a recorded run", at_least=least)
    return Entry(
        claim=claim.id,
        figure=key,
        reported=str(figure),
        workload=claim.workload,
        device="cpu",
        verdict=judge_claim(figure, interval, exactly(1)),
        gate=judge_gate(gate, interval, exactly(1)),
        bound=str(gate) if gate else "",
        unit=figure.unit,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        control=(0.99, 1.01),
        pairs=61,
        test="perf_tests/test_engine.py::test_forward_beats_the_original",
        headline=figure.headline,
    )


def ledger(entries: Sequence[Entry], processor: str = PROCESSOR, date: str = "") -> Ledger:
    machine = {"processor": processor, "torch": "2.13.0", "cores": "2"}
    return Ledger(list(entries), machine, date or "2026-01-01T00:00:00+00:00")


def store(
    storage: Path,
    number: int,
    entries: Sequence[Entry],
    commit: str | None = None,
    processor: str = PROCESSOR,
    dirty: bool = False,
) -> None:
    """One more run: the `number`-th, of a commit of its own unless one is given."""
    date = f"2026-{1 + number // 28:02}-{1 + number % 28:02}T00:00:00+00:00"
    content = {
        "machine_info": {},
        "commit_info": {"id": commit or f"{number:040x}", "dirty": dirty},
        "benchmarks": [],
        "datetime": date,
        STORED: {"schema": 1, "ledger": ledger(entries, processor, date).to_json()},
    }
    path = storage / "Linux-CPython-3.11-64bit" / f"{number:04}_run.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")
