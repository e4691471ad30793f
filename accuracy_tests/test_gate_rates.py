"""Rates of the guard from independent runs, and the script that makes the runs."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from scipy import stats

from mpnn_core.gate import GateError
from mpnn_core.gate.revisions.rates import rates, read_runs
from mpnn_core.gate.verdicts import Change

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def sensitivity() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sensitivity", ROOT / "perf_tests/sensitivity.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def line(verdict: str, slower: int = 0, **other) -> dict:
    return {
        "processor": "P", "cores": 64, "condition": "idle", "parallel": 30, "at_most": 10,
        "rounds_each": 15, "slower": slower, "verdict": verdict, "caught_9_of_10": 1.06,
        "load": 3.0, **other,
    }  # fmt: skip


def test_runs_are_counted_by_machine_condition_and_size() -> None:
    found = rates([
        *[line("no change")] * 3, line("slower"), *[line("slower", 10)] * 2,
        line("inconclusive", condition="busy"), line("no change", processor="Q"),
    ])  # fmt: skip
    kinds = [(r.kind.processor, r.kind.condition, r.kind.slower, r.runs) for r in found]
    assert kinds == [
        ("P", "idle", 0, 4), ("P", "idle", 10, 2), ("P", "busy", 0, 1), ("Q", "idle", 0, 1)
    ]  # fmt: skip
    assert found[0].verdicts == {"no change": 3, "slower": 1}
    assert found[0].load == (3.0, 3.0) and found[0].caught == (1.06,) * 4


def test_a_share_has_its_exact_interval() -> None:
    """By Clopper and Pearson: 0 of 40 may be a rate of 8.8 %, the 40th root of 0.025 from 1."""
    (none,) = rates([line("no change")] * 40)
    share = none.share(Change.SLOWER)
    assert (share.value, share.low) == (0, 0)
    assert share.high == pytest.approx(1 - 0.025 ** (1 / 40))
    (most,) = rates([line("slower", 20)] * 14 + [line("inconclusive", 20)])
    share = most.share(Change.SLOWER)
    low, high = stats.beta.ppf([0.025, 0.975], [14, 15], [2, 1])
    assert share.value == pytest.approx(14 / 15)
    assert (share.low, share.high) == pytest.approx((low, high))


def test_the_stored_runs_are_read_old_and_new() -> None:
    found = rates(read_runs(ROOT / "docs" / "guard-runs.jsonl"))
    assert sum(r.runs for r in found if r.kind.slower == 0) >= 40
    assert all(r.kind.cores >= 1 and r.kind.restarts >= 10 for r in found)
    assert read_runs(ROOT / "docs" / "no-such-file.jsonl") == []


def test_each_run_has_two_processors_of_its_own(sensitivity, tmp_path, monkeypatch) -> None:
    """Of one core, where a core shows as two; else two runs would share it."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert sensitivity.slots(2, tmp_path) == [[0, 1], [2, 3]]
    for cpu in range(8):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    assert sensitivity.slots(4, tmp_path) == [[0, 4], [1, 5], [2, 6], [3, 7]]
    with pytest.raises(GateError, match="5 runs side by side need 10 processors, and there are 8"):
        sensitivity.slots(5, tmp_path)


def test_what_cannot_run_says_what_is_missing(sensitivity, tmp_path, capsys) -> None:
    assert sensitivity.main(["run", "--built", str(tmp_path)]) == 2
    assert "holds no tree.txt; expected a folder that `build` made" in capsys.readouterr().err
    assert sensitivity.main(["build", str(tmp_path / "new"), "--so", str(tmp_path)]) == 2
    assert "holds no compiled modules" in capsys.readouterr().err
    assert sensitivity.main(["build", str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.proof
def test_independent_runs_of_the_real_procedure(tmp_path) -> None:
    """Two runs, of an unchanged and of a slower package, without git and compiler."""
    built, out = tmp_path / "built", tmp_path / "runs.jsonl"
    native = ROOT / "mpnn_core" / "backends" / "native"

    def script(*call: str | Path) -> None:
        command = [sys.executable, ROOT / "perf_tests" / "sensitivity.py", *call]
        subprocess.run(command, check=True, timeout=900)

    script("build", built, "--so", native)
    script("run", "--built", built, "--unchanged", "1", "--each", "1", "--sizes", "30",
           "--rounds", "3", "--out", out)  # fmt: skip
    runs = [json.loads(text) for text in out.read_text().splitlines()]
    assert sorted(run["slower"] for run in runs) == [0, 30]
    for run in runs:
        assert run["restarts"] == 10 and run["seconds"] > 0 and run["cores"] == os.cpu_count()
        assert run["verdict"] in ("inconclusive", "slower" if run["slower"] else "no change"), run
