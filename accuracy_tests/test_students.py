"""The students in the package: each is what was evaluated, and loses what its evaluation says."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import recorded
import torch
from proteins import TS50, protein

import mpnn_core as mpnn
from mpnn_core.constants import ALPHABET
from mpnn_core.network import variants
from mpnn_core.network.checkpoints import Checkpoint, file_sha256, resolve
from mpnn_core.network.families import PACKAGED_SHA256
from mpnn_core.training import evaluate

DOCS = Path(__file__).parents[1] / "docs"
STUDENTS = [v for v in mpnn.VARIANTS.values() if v.evaluation and v.student == v.name]
EVERY_FIFTH = TS50[::5]
# Points: what two residues on another side of a tie would move in one chain of about 137 residues,
# under 4 orders (2 of 548), and in the mean of ten chains; and in the mean of ten chains a few
# designs that part from the recorded ones at a draw. None was seen to move
# (docs/explanation/evaluation.md).
ONE_CHAIN, TEN_CHAINS, TEN_DESIGNED = 0.4, 0.1, 0.3
# Points: what every gate on a change must see, and what none may: 14 of TS50's 6,860 residues under
# 4 orders (27,440) that turn.
LOST, ROUNDING = 0.5, 0.05
GATED = {"baseline": ("S14", "teacher-forced-change")} | {
    name: ("E20", f"{name}-change") for name in recorded.STUDENTS
}

pytestmark = pytest.mark.skipif(not STUDENTS, reason="no student is in the package")
each_student = pytest.mark.parametrize("student", STUDENTS, ids=lambda v: v.name)


@each_student
def test_a_student_is_the_one_that_was_evaluated(student):
    evaluation = student.evaluation
    path = variants.WEIGHTS / f"{student.student}.safetensors"
    assert evaluation["model"]["sha256"] == file_sha256(path)
    assert evaluation["model"]["variant"] == student.name
    assert evaluation["teacher"]["sha256"] == PACKAGED_SHA256
    assert resolve("v_48_020", student).load().neighbours == student.neighbours
    assert evaluation["settings"]["confidence"] == 0.99
    assert evaluation["sets"]["TS50"]["corpus_sha256"] == evaluate.ts50().sha256


@each_student
def test_the_loss_that_is_quoted_is_of_a_set_that_chose_nothing(student):
    """The other set, of the entry `loss`, chose the recipes and when each training stopped."""
    sets = student.evaluation["sets"]
    chose = student.evaluation["loss"]
    assert chose == sets["backbones-val"]["metrics"]["recovery"]["loss_of_another_sample"]
    loss = sets["TS50"]["metrics"]["recovery"]["loss_of_another_sample"]
    quoted = f"{loss['value']:.1f} [{loss['low']:.1f}, {loss['high']:.1f}] points of teacher-forced"
    assert student.loss == f"{quoted} recovery on TS50, 50 chains"


@each_student
def test_a_student_recovers_chain_by_chain_what_its_evaluation_says(student):
    """A fall in one chain that another's rise would hide from the gate on the mean."""
    model = mpnn.load_model(variant=student.name)
    change = of_fifths(recorded.recovery(model, EVERY_FIFTH), student.name, "recovery")
    assert np.abs(change).max() <= ONE_CHAIN, (
        f"{student.name}: {recorded.where(change, EVERY_FIFTH)}"
    )
    assert abs(change.mean()) <= TEN_CHAINS, f"{student.name}: {change.mean():+.2f} points"


@each_student
def test_a_student_designs_as_its_evaluation_says(student):
    model = mpnn.load_model(variant=student.name)
    change = of_fifths(recorded.recovery_of_designs(model, EVERY_FIFTH), student.name, "designed")
    assert abs(change.mean()) <= TEN_DESIGNED, (
        f"{student.name}: {change.mean():+.2f} points; {recorded.where(change, EVERY_FIFTH)}"
    )
    designs = model.design(protein(EVERY_FIFTH[0]), 4, 0.1, seed=0)
    assert not any("X" in sequence for sequence in designs.sequences)
    assert set("".join(designs.sequences)) <= set(ALPHABET)


def of_fifths(found: np.ndarray, name: str, metric: str) -> np.ndarray:
    return found - recorded.chains(name, metric)[::5]


# ------------------------------------------------------------------ the gates, broken on purpose

SHIFTED = """
import pytest

GATES = [pytest.param(marks=pytest.mark.claim(*gate), id="-".join(gate)) for gate in {gates}]

@pytest.mark.parametrize((), GATES)
def test_half_a_point(judge):
    judge(-{lost})

@pytest.mark.parametrize((), GATES)
def test_rounding(judge):
    judge({rounding})
"""

# As the gate measures it, of weights that are in another file.
DAMAGED = """
import pytest
import mpnn_core as mpnn
import recorded
from test_claims_recovery import judge_changes
from proteins import TS50

@pytest.mark.claim("{claim}", "{key}")
def test_gate(judge):
    model = mpnn.load_model({path!r}, variant="{name}")
    found = {{
        "TS50": recorded.recovery(model, TS50),
        "complexes": recorded.recovery(model, recorded.COMPLEXES),
    }}
    judge_changes(judge, "{name}", "{key}", found)
"""


@pytest.fixture
def gate(model, pytester: pytest.Pytester):
    """Run tests under the project's claims: their outcome.

    The session's model comes first: what is imported later, pytester takes back at its end, and
    native code cannot be imported twice.
    """
    for name in ("claims.toml", "pyproject.toml"):
        shutil.copy(DOCS.parent / name, pytester.path)
    pytester.makeconftest('pytest_plugins = ["mpnn_core.gate.plugin"]')

    def run(test: str):
        path = pytester.makepyfile(test)
        return pytester.runpytest("-p", "no:cacheprovider", str(path))

    return run


def test_half_a_point_turns_each_gate_red_and_rounding_does_not(gate):
    gates = [*GATED.values(), ("S14", "designed-change")]
    result = gate(SHIFTED.format(gates=gates, lost=LOST, rounding=ROUNDING))
    result.assert_outcomes(failed=len(gates), passed=len(gates))
    for claim, key in gates:
        line = f"*claim {claim}, {key}, on cpu*measured -0.5 points: failed*"
        result.stdout.fnmatch_lines_random([line])


@pytest.mark.proof
@pytest.mark.parametrize("name", GATED)
def test_weights_that_lose_half_a_point_turn_the_gate_red(gate, tmp_path, name):
    """Noise in every weight, the least of a row of sizes that costs so much."""
    claim, key = GATED[name]
    checkpoint = resolve("v_48_020", mpnn.VARIANTS[name]).load()
    before = recorded.chains(name, "recovery").mean()
    for size in 0.005 * 1.5 ** np.arange(10):
        path = tmp_path / f"{name}.safetensors"
        damaged(checkpoint, size).save(path)
        lost = before - recorded.recovery(mpnn.load_model(path, variant=name), TS50).mean()
        if lost >= LOST:
            break
    assert LOST <= lost < 4 * LOST, f"noise of {size:.3f} costs {lost:.2f} points"
    result = gate(DAMAGED.format(claim=claim, key=key, name=name, path=str(path)))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*claim {claim}, {key}, on cpu*points: failed*"])


def damaged(checkpoint: Checkpoint, size: float) -> Checkpoint:
    """The same, with noise of that share of each tensor's own spread."""
    random = torch.Generator().manual_seed(0)
    state = {
        key: value + size * value.std() * torch.randn(value.shape, generator=random)
        for key, value in checkpoint.state.items()
    }
    return replace(checkpoint, state=state)


@each_student
def test_a_student_has_a_training_record_and_a_card_made_from_it(student):
    record = json.loads((variants.WEIGHTS / f"{student.student}.training.json").read_text())
    assert record["student"] == student.name
    assert record["run"]["steps"] > 0
    assert all(math.isfinite(point[2]) for point in record["curve"])
    listed = (DOCS / "reference" / "models" / "training-set.tsv").read_text("utf-8").splitlines()
    assert listed[0] == f"# {record['corpus']['sha256']}", "the list is of another corpus"
    assert len(listed) - 2 == record["corpus"]["structures"]
    card = DOCS / "reference" / "models" / f"{student.name}.md"
    assert card.is_file(), f"{card} is missing; python docs/make_model_cards.py makes it"
    assert card.read_text("utf-8") == cards().card(student), (
        f"{card} is not what was recorded; python docs/make_model_cards.py makes it anew"
    )


def cards():
    """docs/make_model_cards.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("cards", DOCS / "make_model_cards.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
