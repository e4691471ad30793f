"""Worker processes of a comparison that die: the benchmark fails alone, all others are measured.

Real processes, each in an environment of its own, around a package of one line.
"""

from __future__ import annotations

import json
import os

import pytest

from mpnn_core.gate.project import Project
from mpnn_core.gate.revisions import builds, processes
from mpnn_core.gate.revisions.compare import answers_of
from mpnn_core.gate.revisions.comparison import COULD_NOT_TELL, CompareError, Comparison
from mpnn_core.gate.revisions.processes import Processes
from mpnn_core.gate.revisions.race import Outcome, race
from mpnn_core.gate.verdicts import Change

# Each way of failing, as the body of a benchmark, and what its message names.
FAILURES = {
    "an exception": ("raise LookupError('no such table')", "LookupError: no such table"),
    "an exit": ("os._exit(7)", "ended with exit code 7"),
    "a crash": ("os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
}
# The same in the fourth run: two of `prepare`, and the second that is timed.
RUNS_FIRST = 3

BENCHMARKS = """
import os, signal
import tiny

def first():
    return lambda: sum(range(2000))

def failing():
    calls = []
    def run():
        calls.append(0)
        if tiny.SIDE in {sides} and len(calls) > {after}:
            {body}
    if {after} < 0:
        run()
    return run

def last():
    return lambda: sum(range(2000))

BENCHMARKS = (first, failing, last)

def answers():
    return []
"""


@pytest.fixture(scope="module")
def sides(tmp_path_factory) -> dict[str, builds.Build]:
    """Two environments, whose package tells one from the other."""
    made = {}
    for side in ("base", "head"):
        folder = tmp_path_factory.mktemp(side)
        (folder / side / "tiny").mkdir(parents=True)
        (folder / side / "tiny" / "__init__.py").write_text(f"SIDE = {side!r}\n")
        made[side] = builds.assemble(folder / side, folder / "environment", folder, side)
    return {**made, "control": made["base"]}


def project_of(sides: dict[str, builds.Build], benchmarks: str) -> Project:
    root = sides["head"].source
    (root / "benchmarks.py").write_text(benchmarks)
    return Project(root, package="tiny", benchmarks="benchmarks.py")


def raced(sides: dict[str, builds.Build], benchmarks: str) -> tuple[list[Outcome], list[str]]:
    """Outcomes after one whole restart, and what was said; the test's clock ends the budget."""
    project, said = project_of(sides, benchmarks), []
    found = race(
        lambda: Processes(sides, sides["head"], project),
        ("first", "failing", "last"),
        budget_s=600,
        rounds=3,
        progress=said.append,
        clock=lambda: 600.0 * any(line.startswith("restart 1") for line in said),
    )
    return found, said


@pytest.mark.parametrize("where", ["prepare", "time"])
@pytest.mark.parametrize("how", FAILURES)
@pytest.mark.parametrize(("side", "change"), [("head", Change.BROKEN), ("base", Change.ONLY_HERE)])
def test_a_benchmark_that_dies_fails_alone(sides, how, where, side, change) -> None:
    body, message = FAILURES[how]
    after = -1 if where == "prepare" else RUNS_FIRST
    text = BENCHMARKS.format(sides=(side,), after=after, body=body)
    first, failing, last = raced(sides, text)[0]
    assert failing.change is change and message in failing.note, failing
    assert failing.ratio is None and failing.sessions == 0
    for other in (first, last):
        assert other.change is Change.INCONCLUSIVE and other.sessions == 1, other
        assert "the budget paid for" in other.note, other


def test_a_benchmark_that_hangs_is_ended_and_fails_alone(sides, monkeypatch) -> None:
    monkeypatch.setattr(processes, "LONGEST_REPLY_S", 8.0)
    body = "import time; time.sleep(600)"
    text = BENCHMARKS.format(sides=("head",), after=RUNS_FIRST, body=body)
    first, failing, last = raced(sides, text)[0]
    assert failing.change is Change.BROKEN, failing
    assert "was ended: it had not answered within 8 s" in failing.note, failing
    assert first.sessions == last.sessions == 1


def test_a_benchmark_that_dies_on_both_sides_says_so(sides) -> None:
    text = BENCHMARKS.format(sides=("base", "head"), after=RUNS_FIRST, body="os._exit(7)")
    first, failing, last = raced(sides, text)[0]
    assert failing.change is Change.BROKEN, failing
    assert failing.note.endswith("nor does it in the other revision"), failing.note
    assert first.sessions == last.sessions == 1


def test_the_processes_start_again_after_a_death_and_not_after_an_exception(sides) -> None:
    for how, restarts in (("a crash", 1), ("an exception", 0)):
        text = BENCHMARKS.format(sides=("head",), after=-1, body=FAILURES[how][0])
        _, said = raced(sides, text)
        assert sum("ended its process" in line for line in said) == restarts, (how, said)


def test_what_was_measured_beside_a_death_is_saved(sides, tmp_path) -> None:
    outcomes, _ = raced(sides, BENCHMARKS.format(sides=("base",), after=-1, body="os._exit(1)"))
    found = Comparison("main", "abc", outcomes, [], 1.03, 1.0)
    found.save(tmp_path / "comparison.json")
    assert Comparison.load(tmp_path / "comparison.json") == found
    assert found.exit_code() == COULD_NOT_TELL
    changes = [
        o["change"] for o in json.loads((tmp_path / "comparison.json").read_text())["outcomes"]
    ]
    assert changes == ["inconclusive", "only here", "inconclusive"]


def test_answers_that_end_their_process_say_so(sides) -> None:
    text = BENCHMARKS.format(sides=(), after=0, body="pass").replace("return []", "os._exit(5)")
    project = project_of(sides, text)
    pair = {side: sides[side] for side in ("base", "head")}
    with Processes(pair, sides["head"], project) as started:
        (answer,) = answers_of(started, project.exact)
    assert answer.is_worse and "ended with exit code 5" in answer.note


def test_a_file_of_benchmarks_that_the_base_cannot_import_says_what_to_do(sides) -> None:
    text = "import tiny\nif tiny.SIDE == 'base':\n    from tiny import newer\nBENCHMARKS = ()\n"
    project = project_of(sides, text)
    with (
        pytest.raises(CompareError, match=r"cannot be imported.*newer.*inside the benchmark"),
        Processes(sides, sides["head"], project),
    ):
        pass


def test_all_sides_compute_under_the_same_rules(sides, monkeypatch) -> None:
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    text = "import os, numpy\nBENCHMARKS = ()\ndef answers():\n"
    for name in names:
        text += f"    yield os.environ[{name!r}], numpy.zeros(1), numpy.zeros(1)\n"
    project = project_of(sides, text)

    def seen() -> list[list[str]]:
        with Processes(sides, sides["head"], project, threads=2) as started:
            return [list(process.errors()) for process in started.values()]

    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert seen() == [["2", "PASSIVE"]] * 3
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert seen() == [["2", "ACTIVE"]] * 3, "what the caller says holds"
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
