"""Figures over many runs: what is compared, and where the level changed."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from stored_runs import PROCESSOR, entry, ledger, store

from mpnn_core.commands.main import main
from mpnn_core.gate.claims import load_claims
from mpnn_core.gate.history import (
    FALSE_ALARM,
    HistoryError,
    Latest,
    Run,
    Series,
    find_steps,
    load_runs,
    print_history,
    series,
)
from mpnn_core.gate.intervals import students_t

ROOT = Path(__file__).parents[1]
COUNTED = ROOT / "docs" / "history-alarms.json"
CLAIMS = load_claims(ROOT / "claims.toml")
E1, S1 = CLAIMS["E1"], CLAIMS["S1"]


def speeds(values, noise: float = 0.02, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.asarray(values) * np.exp(noise * rng.normal(size=len(values)))


def stored(tmp_path: Path, values, **options) -> list[Series]:
    for number, value in enumerate(values):
        store(tmp_path, number, [entry(E1, "speed", float(value))], **options)
    return series(load_runs(tmp_path))


def test_a_series_is_a_claim_on_a_workload_and_a_device(tmp_path) -> None:
    (found,) = stored(tmp_path, [3.0, 3.1])
    assert (found.claim, found.figure, found.device, found.unit) == ("E1", "speed", "cpu", "x")
    assert [p.value for p in found.points] == [3.0, 3.1]


def test_each_processor_has_a_series_of_its_own(tmp_path) -> None:
    for number, processor in enumerate(["one", "two"]):
        entries = [entry(E1, "speed", 3.0), entry(S1, "time", 14.0)]
        store(tmp_path, number, entries, processor=processor)
    found = series(load_runs(tmp_path))
    assert sorted((s.unit, s.processor) for s in found) == [
        ("ms", "one"), ("ms", "two"), ("x", "one"), ("x", "two"),
    ]  # fmt: skip
    assert series(load_runs(tmp_path), "S1") == [s for s in found if s.unit == "ms"]


def test_another_processor_is_no_change_of_code(tmp_path) -> None:
    stored(tmp_path, speeds([6.0] * 12), processor="one")
    for number in range(12, 24):
        store(tmp_path, number, [entry(E1, "speed", 3.0)], processor="two")
    first, second = series(load_runs(tmp_path))
    assert (len(first.points), len(second.points)) == (12, 12)
    assert first.steps == second.steps == [] and not (first.is_slower or second.is_slower)


def test_a_partial_run_on_another_processor_is_told_by_the_entry(tmp_path) -> None:
    stored(tmp_path, [3.0] * 3)
    store(tmp_path, 3, [replace(entry(E1, "speed", 2.0), processor="another")])
    assert [len(s.points) for s in series(load_runs(tmp_path))] == [3, 1]


@pytest.mark.parametrize("factor", [0.9, 1.1, 0.7])
def test_a_step_is_found_where_it_is(factor) -> None:
    values = speeds([3.0] * 25 + [3.0 * factor] * 15)
    (step,) = find_steps(values)
    assert abs(step.at - 25) <= 1
    assert step.after / step.before == pytest.approx(factor, rel=0.02)


def test_two_steps_are_two(tmp_path) -> None:
    found = find_steps(speeds([3.0] * 15 + [2.5] * 15 + [3.2] * 15))
    assert [abs(step.at - at) <= 1 for step, at in zip(found, [15, 30], strict=True)] == [True] * 2


def test_noise_has_no_steps() -> None:
    """Of 60 sequences of 60 runs, one in twenty of them five times too far out, 2 are too many."""
    false = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        values = speeds([3.0] * 60, seed=seed) * np.where(rng.random(60) < 0.05, 0.9, 1)
        false += bool(find_steps(values))
    assert false <= 2, f"{false} of 60"


@pytest.mark.parametrize("values", [[], [3.0], [3.0] * 100, [3.0, 2.0] * 3, [0.0] * 20])
def test_too_little_and_too_even_have_no_steps(values) -> None:
    assert find_steps(values) == []


def test_a_slow_commit_does_not_pass_the_second_time(tmp_path) -> None:
    """Nor the tenth: its own runs are no part of what it is held against."""
    stored(tmp_path, speeds([3.0] * 6))
    for again in range(10):
        store(tmp_path, 6 + again, [entry(E1, "speed", 2.5)], commit="slow")
        (found,) = series(load_runs(tmp_path))
        assert found.is_slower, f"run {again + 1} of the slow commit passed"
        assert found.reference == pytest.approx(3.0, rel=0.03)
    assert main(["history", "--storage", str(tmp_path)]) == 1


def test_one_disturbed_run_is_no_regression(tmp_path) -> None:
    stored(tmp_path, speeds([3.0] * 6))
    store(tmp_path, 6, [entry(E1, "speed", 2.5)], commit="same")
    store(tmp_path, 7, [entry(E1, "speed", 3.0)], commit="same")
    (found,) = series(load_runs(tmp_path))
    assert not found.is_slower


def test_two_runs_of_one_figure_that_differ_raise_no_alarm(tmp_path, capsys) -> None:
    """One engine, one machine, two runs: 8.0 [5.9, 9.0] and 5.4 [5.2, 5.6]."""
    for number, (value, low, high) in enumerate([(8.0, 5.9, 9.0), (5.4, 5.2, 5.6)]):
        measured = replace(entry(E1, "speed", value), low=low, high=high)
        store(tmp_path, number, [measured])
    (found,) = series(load_runs(tmp_path))
    assert found.latest is Latest.TOO_FEW
    assert main(["history", "--storage", str(tmp_path)]) == 0
    assert "1 of 1 have too few runs" in capsys.readouterr().out


def test_runs_that_differ_widely_predict_widely(tmp_path) -> None:
    """The latest's interval leaves out the mean of the others; what they predict does not."""
    (found,) = stored(tmp_path, [8.0, 5.6, 7.1, 5.9, 8.0, 6.2, 7.7, 5.4])
    assert found.points[-1].entry.high < found.reference
    assert found.latest is Latest.NOT_SLOWER


def test_a_run_that_was_disturbed_is_not_slower_by_its_value_alone(tmp_path) -> None:
    """Its own interval reaches the others."""
    stored(tmp_path, speeds([3.0] * 8))
    store(tmp_path, 8, [entry(E1, "speed", 2.5, width=0.2)])
    (found,) = series(load_runs(tmp_path))
    assert found.chance() < 0.01 and found.latest is Latest.NOT_SLOWER


def test_an_improvement_of_long_ago_hides_no_fall(tmp_path) -> None:
    """What runs predict starts at their latest step."""
    (found,) = stored(tmp_path, [*speeds([2.0] * 8), *speeds([3.0] * 8, seed=1), 2.2])
    assert len(found.level) == 8 and found.reference == pytest.approx(3.0, rel=0.03)
    assert found.is_slower


def test_what_the_latest_commit_did_not_measure_is_not_compared(tmp_path) -> None:
    stored(tmp_path, [*speeds([3.0] * 8), 2.0])
    assert series(load_runs(tmp_path))[0].is_slower
    store(tmp_path, 9, [entry(S1, "time", 14.0)])
    assert [s.latest for s in series(load_runs(tmp_path))] == [Latest.NOT_COMPARED] * 2


# ---------------------------------------------------------- false alarms and falls, by simulation

FIGURES, PROCESSES = 25, 8
# Of one engine, as shares: what all figures of a run have in common, and what each run of a figure
# has of its own, from the quietest to the noisiest; and of that, what the processes of a run have.
IN_COMMON, QUIETEST, NOISIEST, WITHIN = 0.02, 0.01, 0.08, 0.4
# Processes of every fifth figure are of two kinds, one in five the slower: 5.4 where 8.0 is usual.
TWO_KINDS, SLOWER, SHARE = slice(4, None, 5), math.log(5.4 / 8.0), 0.2


def simulated(seed: int, earlier: int, fall: float = 0.0) -> list[Series]:
    """So many runs of one engine, and one more, in which a figure has lost the share `fall`.

    The figure is the first, and as noisy as any, by lot.
    """
    rng = np.random.default_rng(seed)
    noise, prone = np.geomspace(QUIETEST, NOISIEST, FIGURES), np.zeros(FIGURES)
    prone[TWO_KINDS] = SHARE
    lot = rng.permutation(FIGURES)
    noise, prone = noise[lot], prone[lot]
    runs, plain = [], entry(E1, "speed", 3.0)
    for number in range(earlier + 1):
        level = math.log(3.0) + IN_COMMON * rng.normal() + noise * rng.normal(size=FIGURES)
        if number == earlier:
            level[0] += math.log(1 - fall)
        logs = level + WITHIN * noise * rng.normal(size=(PROCESSES, FIGURES))
        logs += SLOWER * (rng.random((PROCESSES, FIGURES)) < prone)
        mean, spread = logs.mean(0), logs.std(0, ddof=1) * math.sqrt(1 + 1 / PROCESSES)
        half = students_t(PROCESSES - 1, 0.05) * spread  # of a fresh process
        bounds = np.exp([mean, mean - half, mean + half]).T.tolist()
        entries = [
            replace(plain, workload=str(i), value=value, low=low, high=high)
            for i, (value, low, high) in enumerate(bounds)
        ]
        runs.append(Run(f"{number:04}", f"{number:040x}", PROCESSOR, ledger(entries)))
    return series(runs)


def false_alarms(histories: int, earlier: int) -> int:
    """Of so many histories of an unchanged engine, those in which any figure is called slower."""
    return sum(
        any(s.is_slower for s in simulated(seed, earlier)) for seed in range(histories)
    )  # fmt: skip


def caught(histories: int, earlier: int, fall: float) -> int:
    """Of so many histories whose latest run fell, those in which that is seen."""
    return sum(simulated(seed, earlier, fall)[0].is_slower for seed in range(histories))


def test_an_unchanged_engine_is_seldom_called_slower() -> None:
    """In any of 25 figures: 5 % of histories at most, of which 40 have 5 at most, at 99 %."""
    found = false_alarms(40, 8)
    assert found <= 5, f"{found} of 40 histories of an unchanged engine raise an alarm"


def test_a_fall_of_a_third_is_mostly_seen() -> None:
    found = caught(20, 8, 1 / 3)
    assert found >= 11, f"{found} of 20 falls by a third were seen"


@pytest.mark.proof
@pytest.mark.parametrize("row", json.loads(COUNTED.read_text("utf-8")), ids=lambda r: r["earlier"])
def test_false_alarms_and_falls_are_as_often_as_the_page_says(row) -> None:
    """Random numbers are seeded: the counts are those that are stored, for the page."""
    earlier, fall = row["earlier"], row["fall"] / 100
    false, seen = false_alarms(row["histories"], earlier), caught(row["falls"], earlier, fall)
    assert false <= FALSE_ALARM * row["histories"], f"{false} histories raise an alarm"
    assert (false, seen) == (row["false alarms"], row["seen"]), f"{COUNTED} is stale"


def test_files_that_are_not_committed_are_a_state_of_their_own(tmp_path) -> None:
    stored(tmp_path, speeds([3.0] * 6), commit="same")
    store(tmp_path, 6, [entry(E1, "speed", 2.5)], commit="same", dirty=True)
    (found,) = series(load_runs(tmp_path))
    assert found.is_slower


def test_history_is_printed_with_its_steps(tmp_path, capsys) -> None:
    stored(tmp_path, speeds([3.0] * 12 + [2.5] * 12))
    (found,) = series(load_runs(tmp_path))
    text = io.StringIO()
    print_history([found], Console(file=text, width=150))
    assert "E1" in text.getvalue() and "step 3 to 2.5 at" in text.getvalue().replace("2.49", "2.5")
    assert main(["history", "--storage", str(tmp_path), "--claim", "S1"]) == 0
    assert "no run is stored" in capsys.readouterr().out


def test_an_empty_storage_is_no_error(tmp_path, capsys) -> None:
    assert main(["history", "--storage", str(tmp_path / "none")]) == 0
    assert "no run is stored" in capsys.readouterr().out


def test_a_damaged_run_is_named(tmp_path, capsys) -> None:
    stored(tmp_path, [3.0])
    damaged = tmp_path / "0002_run.json"
    damaged.write_text("{")
    with pytest.raises(HistoryError, match=r"0002_run\.json is not a stored run"):
        load_runs(tmp_path)
    assert main(["history", "--storage", str(tmp_path)]) == 2
    damaged.write_text('{"benchmarks": []}')  # of a suite without claims
    assert len(load_runs(tmp_path)) == 1
