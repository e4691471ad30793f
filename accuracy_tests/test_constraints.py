"""Constraints: labels to positions, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from proteins import protein

from mpnn_core import ALPHABET, PSSM, ConstraintError, Constraints, Structure
from mpnn_core.sampling.constraints import label, letter_index, positions


@pytest.fixture(scope="module")
def numbered() -> Structure:
    """Two chains; the first with negative numbers and insertion codes."""
    numbers = ["-3", "-2", "-1", "1", "2", "2A", "2B", "3", "10", "11", "1", "2"]
    L = len(numbers)
    return Structure(
        "numbered",
        np.random.default_rng(0).normal(size=(L, 4, 3)),
        "ACDEFGHIKLMN",
        np.array(["A"] * 10 + ["B"] * 2),
        np.arange(L),
        np.array(numbers),
    )


@pytest.mark.parametrize(
    "selection, expected",
    [
        (0, [0]),
        (11, [11]),
        (np.int64(3), [3]),
        ("A1", [3]),
        ("B1", [10]),
        ("A2", [4]),
        ("A2A", [5]),
        ("A2B", [6]),
        ("A-3", [0]),
        ("A-3--1", [0, 1, 2]),
        ("A-2-1", [1, 2, 3]),
        ("A2-3", [4, 5, 6, 7]),
        ("A2A-2B", [5, 6]),
        ("A3-10", [7, 8]),
        ("A10-10", [8]),
        ("B1-2", [10, 11]),
    ],
)
def test_a_label_names_its_positions(selection, expected, numbered):
    assert positions(numbered, selection) == expected


def test_every_residue_of_real_files_is_found_by_its_label():
    for name in ("4ZHL", "1GBT", "3HTN"):  # insertion codes, insertion codes, three chains
        structure = protein(name)
        for i in range(len(structure)):
            assert positions(structure, label(structure, i)) == [i], label(structure, i)


@pytest.mark.parametrize(
    "selection", [12, -1, "A4", "C1", "A", "", "1", "A3-1", "A3-4", "A1-B2", "A1-", "-"]
)
def test_what_names_no_position_is_refused_with_what_there_is(selection, numbered):
    there = "positions 0 to 11" if isinstance(selection, int) else "A-3 to A11, B1 to B2"
    with pytest.raises(ConstraintError, match=f"numbered.*{there}") as refusal:
        positions(numbered, selection)
    assert str(selection) in str(refusal.value)


def test_a_label_of_two_residues_is_refused():
    structure = Structure(
        "twice",
        np.zeros((2, 4, 3)),
        "AC",
        np.array(["A", "A"]),
        np.arange(2),
        np.array(["7", "7"]),
    )
    with pytest.raises(ConstraintError, match="twice: 'A7' names more than one residue"):
        positions(structure, "A7")


@pytest.mark.parametrize(
    "chains, expected",
    [(None, ["A", "B"]), ("A", ["A"]), ("B,A", ["A", "B"]), (["B"], ["B"]), (("A", "A"), ["A"])],
)
def test_chains_are_taken_in_the_structures_order(chains, expected, numbered):
    constraints = Constraints(chains)
    assert constraints.design_chains(numbered) == expected
    np.testing.assert_array_equal(
        constraints.designed(numbered), np.isin(numbered.chain_ids, expected)
    )


def test_an_absent_chain_is_refused_with_those_there_are(numbered):
    with pytest.raises(ConstraintError, match="numbered has no chain 'Z'; it has A, B"):
        Constraints("A,Z").designed(numbered)


def test_fixed_positions_are_not_designed(numbered):
    designed = Constraints("A", fixed=["A2-2B", 9, "B1"]).designed(numbered)
    assert np.flatnonzero(designed).tolist() == [0, 1, 2, 3, 7, 8]


def test_letters_are_omitted_everywhere_or_where_told(numbered):
    omitted = Constraints(omit="XC", omit_at={"A2-2B": "AG", 0: "L"}).omitted(numbered)
    letters = ["".join(np.array(list(ALPHABET))[row]) for row in omitted]
    assert letters[0] == "CLX"
    assert letters[4:7] == ["ACGX"] * 3
    assert {*letters[1:4], *letters[7:]} == {"CX"}


def test_biases_add_up(numbered):
    biases = Constraints(bias={"A": 1.0}, bias_at={"A1": {"A": 0.5, "C": -2.0}}).biases(numbered)
    expected = np.zeros((12, 21), np.float32)
    expected[:, 0] = 1
    expected[3, :2] = 1.5, -2
    np.testing.assert_array_equal(biases, expected)
    array = np.random.default_rng(0).normal(size=(12, 21)).astype(np.float32)
    found = Constraints(bias={"A": 1.0}, bias_at=array).biases(numbered)
    array[:, 0] += 1
    np.testing.assert_allclose(found, array, atol=1e-6)


@pytest.mark.parametrize("letter", ["a", "B", "AC", ""])
def test_what_is_no_letter_is_refused(letter):
    with pytest.raises(ConstraintError, match=f"{letter!r} is no residue; expected one letter of"):
        letter_index(letter)


@pytest.mark.parametrize(
    "constraints, message",
    [
        (Constraints(omit="X*"), "'\\*' is no residue"),
        (Constraints(omit=ALPHABET), "every residue is omitted at A-3; leave one"),
        (Constraints(omit_at={"A2A": ALPHABET}), "every residue is omitted at A2A"),
        (Constraints(omit_at={"A2A": ALPHABET[:20]}), "every residue is omitted at A2A"),
        (Constraints(omit_at={"Q1": "A"}), "no residue 'Q1'"),
    ],
)
def test_omissions_that_do_not_fit_are_refused(constraints, message, numbered):
    with pytest.raises(ConstraintError, match=message):
        constraints.omitted(numbered)


def test_a_fixed_position_may_have_everything_omitted(numbered):
    Constraints(fixed=["A2A"], omit_at={"A2A": ALPHABET}).omitted(numbered)


@pytest.mark.parametrize(
    "constraints, message",
    [
        (Constraints(bias={"AA": 1.0}), "'AA' is no residue"),
        (Constraints(bias={"A": float("inf")}), "biases must be finite; to bar a residue, omit it"),
        (Constraints(bias_at={"A1": {"A": float("nan")}}), "biases must be finite"),
        (Constraints(bias_at={99: {"A": 1.0}}), "positions 0 to 11, not 99"),
        (Constraints(bias_at=np.zeros((12, 20))), r"bias_at has shape \(12, 20\).*\(12, 21\)"),
    ],
)
def test_biases_that_do_not_fit_are_refused(constraints, message, numbered):
    with pytest.raises(ConstraintError, match=message):
        constraints.biases(numbered)


@pytest.mark.parametrize(
    "constraints, expected",
    [
        (Constraints(tied=[[0, 1], ["A5"]]), [{0: 1.0, 1: 1.0}]),
        (Constraints(tied=[{4: 0.5, 2: -1}]), [{4: 0.5, 2: -1}]),
        (Constraints(fixed=[0, 1], tied=[[0, 1], [2, 3]]), [{2: 1.0, 3: 1.0}]),
    ],
)
def test_groups_are_listed_with_their_weights(constraints, expected):
    structure = Structure.from_backbone(np.zeros((8, 4, 3)), "ACDEFGHI")
    assert constraints.groups(structure) == expected
    assert [list(group) for group in constraints.groups(structure)] == [list(g) for g in expected]


def test_an_incomplete_residue_is_left_out_of_its_group():
    coords = np.zeros((8, 4, 3))
    coords[1] = np.nan
    structure = Structure.from_backbone(coords, "ACDEFGHI")
    assert Constraints(tied=[[0, 1, 2], [3]]).groups(structure) == [{0: 1.0, 2: 1.0}]


def test_chains_of_a_homo_oligomer_are_tied_by_number():
    structure = Structure.from_backbone(np.zeros((6, 4, 3)), "ACDACD", ["A"] * 3 + ["B"] * 3)
    found = Constraints(tied_chains="A,B").groups(structure)
    assert found == [{0: 1.0, 3: 1.0}, {1: 1.0, 4: 1.0}, {2: 1.0, 5: 1.0}]


@pytest.mark.parametrize(
    "constraints, message",
    [
        (Constraints(tied=[[0, 1], [1, 2]]), "A2 is tied twice"),
        (Constraints(tied=[[0, 1]], tied_chains="A,B"), "A1 is tied twice"),
        (Constraints(tied=[[0, 1]], fixed=[1]), "A1 is designed and tied to A2, which is not; fix"),
        (Constraints(tied=[[0, 3]], chains="A"), "A1 is designed and tied to B1, which is not"),
        (Constraints(tied=[[0, 9]]), "positions 0 to 5, not 9"),
        (Constraints(tied=[{0: 1.0, 1: float("nan")}]), "the weight of A2 is nan"),
        (Constraints(tied_chains="A,Q"), "no chain 'Q'; it has A, B"),
        (Constraints(tied_chains="A"), "no residue number is in two of the tied chains"),
        (
            Constraints(tied=[[0, 1]], omit_at={0: "ACDEFGHIKL", 1: "MNPQRSTVWY"}),
            "between them, the positions tied to A1 omit every residue",
        ),
        (Constraints(fixed=range(6)), "every position is fixed; nothing to design"),
        (
            Constraints(pssm=PSSM(np.zeros((5, 21)), np.zeros(6))),
            r"pssm.bias has shape \(5, 21\); backbone needs finite numbers of shape \(6, 21\)",
        ),
        (
            Constraints(pssm=PSSM(np.zeros((6, 21)), np.ones(6), 1.5)),
            "pssm.multiplier times pssm.coefficient must be 0 to 1",
        ),
    ],
)
def test_constraints_that_cannot_be_met_are_refused_before_any_work(constraints, message):
    structure = Structure.from_backbone(np.zeros((6, 4, 3)), "ACDACD", ["A"] * 3 + ["B"] * 3)
    with pytest.raises(ConstraintError, match=message):
        constraints.check(structure)
