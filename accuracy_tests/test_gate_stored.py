"""What the gate keeps in files: every field of its type, and every damaged file a sentence."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from stored_runs import entry, ledger

from mpnn_core.commands.main import main
from mpnn_core.gate import GateError
from mpnn_core.gate.claims import load_claims
from mpnn_core.gate.counting import Baseline
from mpnn_core.gate.history import load_runs
from mpnn_core.gate.ledger import Entry, Ledger
from mpnn_core.gate.project import load_project
from mpnn_core.gate.revisions.compare import benchmark_names
from mpnn_core.gate.revisions.comparison import Comparison
from mpnn_core.gate.stored import typed, write_whole

CLAIMS = load_claims(Path(__file__).parents[1] / "claims.toml")
GOOD = entry(CLAIMS["E2"], "speed", 22.0)
READERS = {
    "ledger": Ledger.load,
    "comparison": Comparison.load,
    "baseline": Baseline.load,
    "claims": load_claims,
    "project": lambda path: load_project(path.parent),
    "run": lambda path: load_runs(path.parent),
    "benchmarks": benchmark_names,
}
NAMES = {"project": "pyproject.toml", "claims": "claims.toml", "benchmarks": "benchmarks.py"}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 10**5, b"\0", b"= 1", b"[[[", b"{"])
def test_a_damaged_file_is_an_error_of_the_gate_that_names_it(kind, content, tmp_path) -> None:
    path = tmp_path / NAMES.get(kind, f"{kind}.json")
    path.write_bytes(content)
    with pytest.raises(GateError, match=path.name):
        READERS[kind](path)


@pytest.mark.parametrize("kind", sorted(READERS.keys() - {"benchmarks"}))
@pytest.mark.parametrize("what", ["a folder", "a FIFO", "too large"])
def test_what_is_no_file_of_a_sane_size_is_refused_without_waiting(kind, what, tmp_path) -> None:
    path = tmp_path / NAMES.get(kind, f"{kind}.json")
    if what == "a folder":
        path.mkdir()
    elif what == "a FIFO":
        os.mkfifo(path)
    else:
        with path.open("wb") as sparse:
            sparse.truncate(1 << 40)
    with pytest.raises(GateError, match=path.name):
        READERS[kind](path)


@pytest.mark.parametrize("change", [
    {"value": "fast"}, {"value": True}, {"value": None}, {"value": float("nan")},
    {"low": 23.0}, {"control": [1]}, {"control": 1}, {"control": ["a", "b"]},
    {"verdict": "good"}, {"verdict": []}, {"gate": 1}, {"pairs": 1.5}, {"note": None},
    {"claim": ["E2"]}, {"agrees": "yes"}, {"more": 1}, {"value": 10**400},
], ids=str)  # fmt: skip
def test_an_entry_with_a_field_of_another_type_is_refused(change: dict[str, Any]) -> None:
    values = GOOD.to_json()
    assert Entry.from_json(values) == GOOD
    with pytest.raises(ValueError):
        Entry.from_json({**values, **change})


def test_a_comparison_with_a_field_of_another_type_is_refused(tmp_path) -> None:
    good = Comparison("main", "abc", [], [], 1.03, 60.0)
    path = tmp_path / "comparison.json"
    good.save(path)
    assert Comparison.load(path) == good
    for change in ({"outcomes": [1]}, {"threshold": "3 %"}, {"base": 1}, {"answers": [{}]}):
        path.write_text(json.dumps({"schema": 2, **asdict(good), **change}))
        with pytest.raises(GateError, match="is not a comparison"):
            Comparison.load(path)


@pytest.mark.parametrize("table", [
    "claim = [1]", "claim = ['a']", "claim = [{}]", "claim = [{id = 1}]",
    "claim = [{id = 'a', title = 't', source = 's', hardware = 'h', workload = 'w', known = 'k',"
    " figures = 1}]",
    "claim = [{id = 'a', title = 't', source = 's', hardware = 'h', workload = 'w', known = 'k',"
    " figures.speed = 1}]",
    "claim = [{id = 'a', title = 't', source = 's', hardware = 'h', workload = 'w', known = 'k',"
    " figures.speed = {reported = 1, unit = 'x', sense = [], gates = []}}]",
    "claim = [{id = 'a', title = 't', source = 's', hardware = 'h', workload = 'w', known = 'k',"
    " figures.speed = {reported = 2, unit = 'x', sense = 'speedup', gates = [1]}}]",
    "claim = [{id = 'a', title = 't', source = 's', hardware = 'h', workload = 'w', known = 'k',"
    " figures.speed = {reported = 1" + "0" * 400 + ", unit = 'x', sense = 'speedup'}}]",
    "a = 1" + "0" * 5000,
])  # fmt: skip
def test_claims_of_other_types_are_refused(table: str, tmp_path) -> None:
    (tmp_path / "claims.toml").write_text(table)
    with pytest.raises(GateError):
        load_claims(tmp_path / "claims.toml")


@pytest.mark.parametrize("table", ["tool = 1", "tool.mpnn_core = 1", "tool.mpnn_core.gate = []"])
def test_a_project_whose_tables_are_none_is_refused(table: str, tmp_path) -> None:
    (tmp_path / "pyproject.toml").write_text(table)
    with pytest.raises(GateError, match=r"pyproject\.toml.*expected a table"):
        load_project(tmp_path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch) -> None:
    path = tmp_path / "new" / "ledger.json"
    ledger([GOOD]).save(path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("mpnn_core.gate.stored.os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, "half")
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["ledger.json"]


def test_what_is_typed_comes_back_as_its_type() -> None:
    assert typed(tuple[float, float] | None, [1, 2]) == (1.0, 2.0)
    assert typed(tuple[float, float] | None, None) is None
    with pytest.raises(ValueError, match=r"it is \[1\]; expected a list of 2"):
        typed(tuple[float, float], [1])


# ------------------------------------------------------------------------- from any folder below


@pytest.fixture
def project_folder(tmp_path, monkeypatch) -> Path:
    """A project with a ledger and claims; the current folder is deep below."""
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "claims.toml").write_text(
        (Path(__file__).parents[1] / "claims.toml").read_text("utf-8"), "utf-8"
    )
    (tmp_path / "pyproject.toml").write_text(
        "[tool.mpnn_core.gate]\nledger = 'runs/ledger.json'\n"
        "[tool.mpnn_core.gate.devices]\ncpu = ''\ncuda = 'a GPU'\nmps = 'a Mac'\n"
        "[tool.mpnn_core.gate.frameworks]\nmlx = 'MLX'\ncoreml = 'Core ML'\n"
    )
    ledger([GOOD]).save(tmp_path / "runs" / "ledger.json")
    monkeypatch.chdir(below)
    return tmp_path


def test_the_report_is_that_of_the_project_from_any_folder_below(project_folder, capsys) -> None:
    assert main(["report"]) == 0
    page = project_folder / ".mpnn_core" / "report.html"
    assert GOOD.measured in page.read_text("utf-8")
    assert 'href="../perf_tests/test_engine.py"' in page.read_text("utf-8")
    assert str(page) in capsys.readouterr().out


def test_claims_and_history_are_those_of_the_project_as_well(project_folder, capsys) -> None:
    assert main(["claims"]) == 0
    assert "22" in capsys.readouterr().out
    storage = project_folder / ".benchmarks"
    storage.mkdir()
    (storage / "0001_run.json").write_text("{")
    assert main(["history"]) == 2
    assert "0001_run.json is not a stored run" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--ledger", "--elsewhere", "--claims"])
def test_what_an_option_names_must_be_there(option: str, project_folder, capsys) -> None:
    """A slip of the pen would otherwise give a page without it."""
    assert main(["report", option, "nowhere"]) == 2
    error = capsys.readouterr().err
    assert "there is no" in error and "nowhere" in error


# ------------------------------------------------------------------------------- bounds of numbers


@pytest.mark.parametrize("call", [
    ["compare", "main", "--threshold", "-5"], ["compare", "main", "--threshold", "nan"],
    ["compare", "main", "--threshold", "inf"], ["compare", "main", "--threads", "0"],
    ["compare", "main", "--threads", "-1"], ["compare", "main", "--threads", "1000000"],
    ["compare", "main", "--budget", "99999999h"], ["compare", "main", "--budget", "-1s"],
    ["eval", "--num-orders", "0"], ["eval", "-n", "0"], ["eval", "-T", "nan"], ["eval", "-T", "-1"],
    ["eval", "-n", "100000000"], ["eval", "--num-orders", "100000000"], ["eval", "--seed", "-1"],
    ["distill", "x", "--student", "minimal", "--out", "y", "--minutes", "nan"],
    ["distill", "x", "--student", "minimal", "--out", "y", "--minutes", "-1"],
    ["export", "coreml", "--out", "x", "--buckets", "0"],
], ids=" ".join)  # fmt: skip
def test_a_number_out_of_its_bounds_is_refused(call: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as exit:
        main(call)
    assert exit.value.code == 2
    assert "expected" in capsys.readouterr().err


@pytest.mark.parametrize("revision", ["", " ", "\t", "--all", "-"])
def test_what_names_no_revision_is_not_compared(revision: str, capsys) -> None:
    assert main(["compare", "--", revision]) == 2
    assert "names no revision" in capsys.readouterr().err
