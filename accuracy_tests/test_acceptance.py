"""The acceptance suite for forks: an exact fork passes, and each of ten planted faults is found.

The suite runs in processes of its own, as those who have a fork run it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from mpnn_core.acceptance import cases, frequencies
from mpnn_core.acceptance import test_speed as speed
from mpnn_core.acceptance.candidate import (
    Candidate,
    DifferenceError,
    Judge,
)
from mpnn_core.acceptance.comparing import cause, wrong_neighbours
from mpnn_core.peers import original

ROOT = Path(__file__).parents[1]
FORK = ROOT / "fixtures" / "fork.py"


class Found(NamedTuple):
    """The check that finds a fault, and what it calls the cause."""

    check: str
    cause: str


PARITY, EDGES = "test_parity.py::test_log_probabilities_are_the_originals", "test_edges.py"
FAULTS = {
    "off-by-one k-NN": Found(f"{PARITY}[5L33]", "the choice of the nearest residues (k-NN)"),
    "swapped atoms": Found(f"{PARITY}[5L33]", "the atoms N and C are exchanged"),
    "missing chain gap": Found(f"{PARITY}[3HTN-three-chains]", "chains are not told apart"),
    "padding": Found(
        f"{EDGES}::test_a_chain_of_this_length[47]", "the places of absent neighbours (padding)"
    ),
    "wrong order": Found(f"{PARITY}[5L33]", "the decoding order is read as ranks"),
    "stale cache": Found(
        "test_invariances.py::test_what_was_asked_before_changes_nothing", "a stale cache"
    ),
    "fp16 features": Found(f"{PARITY}[5L33]", "numbers of lower precision (half)"),
    "shared noise": Found(
        "test_sampling.py::test_each_sequence_has_random_numbers_of_its_own",
        "the random number of a position is shared between the sequences of a call",
    ),
    "omitted mask": Found(f"{PARITY}[5L33-five-masked]", "the mask is omitted"),
    "temperature twice": Found(
        "test_sampling.py::test_letters_come_as_often_as_their_probabilities[0.5]",
        "temperature is applied twice",
    ),
}

# Each fault under the check that finds it, and the exact fork under all of those: in one process,
# since most of the time goes into loading torch.
SELECTED = """
import contextlib, io, json, os, sys
from pathlib import Path

import pytest

import mpnn_core.acceptance

folder = Path(mpnn_core.acceptance.__file__).parent
runs = {}
for fault, checks in json.loads(sys.argv[1]).items():
    os.environ["FAULT"] = fault
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = pytest.main(
            ["-c", str(folder / "pytest.ini"), f"--candidate={sys.argv[2]}",
             *(str(folder / check) for check in checks)]
        )
    runs[fault] = [int(code), out.getvalue()]
print(json.dumps(runs))
"""


def process(
    *command: str, fault: str = "", folder: Path = ROOT, blind: bool = False
) -> subprocess.CompletedProcess[str]:
    """Python with this package, in a folder; `blind` to the original."""
    environment = {
        **os.environ, "FAULT": fault, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": "",
    }  # fmt: skip
    if blind:
        (folder / "sitecustomize.py").write_text(
            "import sys\n\n\nclass Absent:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name == 'protein_mpnn_utils':\n"
            "            raise ModuleNotFoundError('No module named ' + name, name=name)\n\n\n"
            "sys.meta_path.insert(0, Absent())\n"
        )
        environment["PYTHONPATH"] += os.pathsep + str(folder)
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs() -> dict[str, tuple[int, str]]:
    """Exit code and output of each fault's check; of the exact fork, under all of them."""
    selected = {fault: [found.check] for fault, found in FAULTS.items()}
    selected[""] = sorted({found.check for found in FAULTS.values()})
    done = process("-c", SELECTED, json.dumps(selected), str(FORK))
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def fork_module():
    import importlib.util

    spec = importlib.util.spec_from_file_location("fork", FORK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_fault_of_the_fork_is_in_the_table() -> None:
    assert list(FAULTS) == list(fork_module().FAULTS)


def test_the_checks_that_find_faults_pass_on_the_exact_fork(runs) -> None:
    code, out = runs[""]
    assert code == 0, out
    checks = len({found.check for found in FAULTS.values()})
    assert f"fork 1.0 is exact: all {checks} checks passed." in out


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_named(fault, runs) -> None:
    code, out = runs[fault]
    assert code == 1, f"{fault} is not found:\n{out}"
    assert "fork 1.0 is not exact: 1 of 1 checks failed." in out
    likely = out.partition("Likely cause: ")[2].partition("fork 1.0 is not exact")[0]
    assert FAULTS[fault].cause in likely, out


@pytest.mark.proof
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_by_the_whole_suite(fault, tmp_path) -> None:
    done = process("-m", "mpnn_core.acceptance", str(FORK), fault=fault, folder=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    failed = re.findall(r"(?m)^_+ (test_\S+) _+$", done.stdout)
    assert FAULTS[fault].check.partition("::")[2] in failed, done.stdout
    assert f"fork 1.0 is not exact: {len(failed)} of 50 checks failed." in done.stdout


def test_an_exact_fork_passes_in_any_folder_and_leaves_nothing_there(tmp_path) -> None:
    """Without the original as well, where this package's engine judges."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (tmp_path / "conftest.py").write_text("raise ValueError\n")
    before = {"pytest.ini", "conftest.py", "sitecustomize.py"}
    done = process("-m", "mpnn_core.acceptance", str(FORK), folder=tmp_path, blind=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fork 1.0 is exact: all 50 checks passed." in done.stdout
    assert "8 sequences of 5L33: fork 1.0 " in done.stdout
    assert "and by mpnn_core 0.1.0" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["ours", pytest.param("original", marks=pytest.mark.proof)])
def test_a_peer_that_ships_with_this_package_passes(name, tmp_path) -> None:
    done = process("-m", "mpnn_core.acceptance", name, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    # They tell no neighbours and take no batch.
    assert "is exact: all 46 checks passed (4 not exercised)." in done.stdout


def test_options_of_pytest_choose_checks(tmp_path) -> None:
    done = process(
        "-m", "mpnn_core.acceptance", str(FORK), "-k", "sampling and seed", folder=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fork 1.0 passed the 2 checks that were chosen; 48 others did not run." in done.stdout


# ----------------------------------------------------------------------------- what is refused


def test_a_refusal_is_an_error_of_usage(tmp_path) -> None:
    done = process("-m", "mpnn_core.acceptance", "none.py", folder=tmp_path)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "there is no file of Python none.py" in done.stderr and "Traceback" not in done.stderr


class Odd:
    """A peer whose answers have a wrong form."""

    name, version = "odd", "0"

    def log_probs(self, structure, sequence, order):
        return np.zeros((len(structure), 20))

    def design(self, structure, n, temperature, seed):
        return ["A"] * n

    def neighbours(self, structure):
        raise IndexError("selected index k out of range")


def test_answers_of_a_wrong_form_are_told_with_the_form_expected() -> None:
    question = cases.Cut(5).build()
    candidate = Candidate(Odd())
    with pytest.raises(DifferenceError, match=r"odd 0: .* shape \(5, 20\); expected \(5, 21\)"):
        candidate.log_probs(question)
    with pytest.raises(DifferenceError, match=r"returned 2 sequences of \[1\] letters; expected 2"):
        candidate.design(question.structure, 2, 1.0, 0)
    with pytest.raises(DifferenceError, match=r"neighbours of cut .* raised IndexError: selected"):
        candidate.neighbours(question.structure)


# ----------------------------------------------------------------------------- parts of the suite


def test_another_neighbour_is_named() -> None:
    structure = cases.stored()["5L33"].question.structure
    found = fork_module().Fork().neighbours(structure)
    assert wrong_neighbours(structure, found) == ""
    others = [i for i in range(106) if i not in found[3]]
    gone = found[3, np.flatnonzero(found[3] != 3)[0]]
    found[3, found[3] == gone] = others[0]
    said = wrong_neighbours(structure, found)
    assert "residue 3 (row 3) of 5L33 (106 residues) has 48 neighbours; expected the 48" in said
    assert f"missing: [{gone}], rows too many: [{others[0]}]" in said


def test_a_wrong_graph_is_the_likely_cause_where_the_neighbours_are_not_told() -> None:
    class Silent(Candidate):
        def offers(self, method: str) -> bool:
            return False

    question, judge = cases.stored()["5L33"].question, Judge.here()
    candidate = Silent(fork_module().Fork("off-by-one k-NN"))
    found, right = candidate.log_probs(question), judge.log_probs(question)
    said = cause(candidate, question, found, np.abs(found - right), judge)
    assert "the choice of the 48 nearest residues (k-NN)" in said
    assert "its first 40 residues alone" in said


@pytest.mark.parametrize("outcomes", [2, 20, 400])
def test_right_draws_are_not_called_wrong_and_wrong_ones_are(outcomes) -> None:
    rng = np.random.default_rng(0)
    p = np.arange(1, outcomes + 1) / np.arange(1, outcomes + 1).sum()
    right = [frequencies.excess(rng.multinomial(2000, p), p) for _ in range(500)]
    assert max(right) < 1, f"{max(right):.2f}"
    wrong = frequencies.excess(rng.multinomial(2000, p**2 / (p**2).sum()), p)
    assert wrong > 1, f"{wrong:.2f}"


def timed(monkeypatch, theirs: list[float], at_least: float | None) -> str:
    """What test_speed.py says of a candidate that takes a second, on a clock of this test."""
    clock = iter(theirs)
    candidate, judge = Candidate(Odd()), Judge(Odd(), is_original=True)
    monkeypatch.setattr(
        speed, "seconds", lambda peer, n=8: 1.0 if peer is candidate.peer else next(clock)
    )
    lines: list[str] = []
    speed.test_designs_are_timed(candidate, judge, at_least, lines)
    return lines[0]


def test_speed_is_told_and_is_no_gate_unless_asked_for(monkeypatch) -> None:
    assert "odd 0 1.00 s, the original (odd 0) 0.10 s" in timed(monkeypatch, [0.1], None)


def test_at_least_is_a_gate(monkeypatch) -> None:
    said = timed(monkeypatch, [6.0, 5.0, 7.0], 5)
    assert "is 6 times as fast as the original (odd 0) [5 to 7 in 3 rounds]" in said
    with pytest.raises(DifferenceError, match=r"4 times as fast .*; --at-least asks for 5"):
        timed(monkeypatch, [3.0, 4.0, 4.5], 5)
    with pytest.raises(pytest.skip.Exception, match=r"inconclusive: .*\[4 to 6 in 12 rounds\]"):
        timed(monkeypatch, [4.0, 6.0] * 6, 5)


@pytest.mark.parametrize("name", ["5L33", "3HTN-three-chains", "5L33-five-masked"])
def test_the_stored_answers_are_the_originals(name) -> None:
    """In float64, where rounding is no excuse."""
    import torch

    case = cases.stored()[name]
    mask = case.question.structure.mask
    seen = case.question.of_rows(np.flatnonzero(mask))
    given = original.inputs(seen.structure).to(torch.float64)
    network = original.load(dtype=torch.float64)
    live = original.log_probs(network, given, original.batched(seen.order))[0].numpy()
    assert np.abs(live - case.answer[mask]).max() < 1e-5
    assert np.isnan(case.answer[~mask]).all()


def test_the_cases_hold_what_a_fork_gets_wrong() -> None:
    """Three chains that touch, a gap, masked residues with the origin among the others, X."""
    stored = {name: case.question for name, case in cases.stored().items()}
    whole = stored["3HTN-three-chains"].structure
    assert len(whole.chains) == 3
    CA = whole.coords[:, 1]
    between = whole.chain_ids[:, None] != whole.chain_ids[None]
    assert (np.linalg.norm(CA[:, None] - CA[None], axis=-1)[between] < 8).sum() > 20
    gap = stored["5L33-without-a-loop"].structure
    assert len(gap.chains) == 1 and np.diff(gap.residue_index).max() > 1
    masked = stored["5L33-five-masked"].structure
    assert (~masked.mask).sum() == 5
    assert (np.linalg.norm(masked.coords[masked.mask, 1], axis=-1) < 12).sum() > 10
    assert stored["5L33-some-letters-X"].sequence.count("X") == 5
