"""Figures over many runs: what is compared, and where the level changed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from stored_runs import entry, store

from mpnn_core.commands.main import main
from mpnn_core.gate.claims import load_claims
from mpnn_core.gate.history import (
    HistoryError,
    Series,
    find_steps,
    load_runs,
    print_history,
    series,
)

CLAIMS = load_claims(Path(__file__).parents[1] / "claims.toml")
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


def test_ratios_of_all_machines_are_one_series_and_times_are_not(tmp_path) -> None:
    for number, processor in enumerate(["one", "two"]):
        entries = [entry(E1, "speed", 3.0), entry(S1, "time", 14.0)]
        store(tmp_path, number, entries, processor=processor)
    found = series(load_runs(tmp_path))
    assert sorted((s.unit, len(s.points)) for s in found) == [("ms", 1), ("ms", 1), ("x", 2)]
    assert series(load_runs(tmp_path), "S1") == [s for s in found if s.unit == "ms"]


def test_another_machine_is_no_step(tmp_path) -> None:
    stored(tmp_path, speeds([3.0] * 12), processor="one")
    for number in range(12, 24):
        store(tmp_path, number, [entry(E1, "speed", 6.0)], processor="two")
    (found,) = series(load_runs(tmp_path))
    assert len(found.points) == 24 and found.steps == [] and not found.is_slower


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


def test_files_that_are_not_committed_are_a_state_of_their_own(tmp_path) -> None:
    stored(tmp_path, speeds([3.0] * 4), commit="same")
    store(tmp_path, 4, [entry(E1, "speed", 2.5)], commit="same", dirty=True)
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
