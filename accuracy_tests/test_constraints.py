"""Constraints: labels to positions, and what is refused."""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from proteins import protein, without_backbone

from mpnn_core import ALPHABET, PSSM, ConstraintError, Constraints, Structure
from mpnn_core.constants import AMINO_ACIDS, THREE_LETTER_NAMES
from mpnn_core.sampling.constraints import letter_index
from mpnn_core.sampling.labels import ConstraintWarning, label, positions


def numbered_chains(**numbers: list[str] | range) -> Structure:
    """A structure whose chains have these author numbers; "blank" is the chain ' '."""
    ids = [" " if chain == "blank" else chain for chain, given in numbers.items() for _ in given]
    flat = [str(number) for given in numbers.values() for number in given]
    L = len(flat)
    letters = (AMINO_ACIDS * (1 + L // 20))[:L]
    return Structure(
        "numbered", np.zeros((L, 4, 3)), letters, np.array(ids), np.arange(L), np.array(flat)
    )


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
        ("A:2A", [5]),
        ("A:-3", [0]),
        ("A:-3--1", [0, 1, 2]),
        ("A3-A10", [7, 8]),
        ("A:3-A:10", [7, 8]),
        (" A3 ", [7]),
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
    "selection", [12, -1, "A4", "C1", "A", "", "1", "A3-1", "A4-9", "A1-B2", "A1-", "-"]
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


@given(st.data())
def test_every_residue_is_found_by_its_label_whatever_the_chains_are_called(data):
    ids = st.text("AB12- ", max_size=3).map(str.strip)
    chains = data.draw(st.lists(ids, min_size=1, max_size=4, unique=True))
    number = st.builds("{}{}".format, st.integers(-12, 130), st.sampled_from(["", "A"]))
    numbers = {
        chain or "blank": data.draw(st.lists(number, min_size=1, max_size=9, unique=True))
        for chain in chains
    }
    structure = numbered_chains(**numbers)
    for i in range(len(structure)):
        assert positions(structure, label(structure, i)) == [i], label(structure, i)


@pytest.mark.parametrize(
    "selection, meanings, clear",
    [
        ("A12", ["A:12", "A1:2"], [11, 21]),
        ("A10-12", ["A:10-12", "A1:0-12"], [range(9, 12), range(20, 32)]),
        ("A12-14", ["A:12-14", "A1:2-14"], [range(11, 14), range(21, 34)]),
        ("A12-4", ["A:12-4", "A1:2-4"], [None, range(21, 24)]),
    ],
)
@pytest.mark.filterwarnings("ignore::mpnn_core.sampling.labels.ConstraintWarning")
def test_a_label_of_two_meanings_is_refused_and_a_colon_says_which(selection, meanings, clear):
    structure = numbered_chains(A=range(1, 21), A1=range(1, 21))
    with pytest.raises(ConstraintError, match=f"{' or '.join(meanings)}; write the one"):
        Constraints(fixed=[selection]).designed(structure)
    for meaning, expected in zip(meanings, clear, strict=True):
        if expected is None:
            with pytest.raises(ConstraintError, match="for 12 comes after 4 there"):
                positions(structure, meaning)
        else:
            assert positions(structure, meaning) == list(np.atleast_1d(expected)), meaning


def test_a_label_of_two_meanings_of_which_one_exists_is_taken():
    structure = numbered_chains(A=range(1, 10), A1=range(1, 10))
    assert positions(structure, "A12") == [10]
    assert positions(structure, "A1-3") == [0, 1, 2]


@pytest.mark.parametrize(
    "selection, expected, missing",
    [
        ("A1-10", range(7), "no residue A10; of A1-10, it has A1 to A7"),
        ("A8-13", [7], "no residue A8; of A8-13, it has A13$"),
        ("A9-99", range(7, 15), "no residue A9 and no A99; of A9-99, it has A13 to A20"),
        ("A0-2", range(2), "no residue A0"),
        ("A5-14", range(4, 9), None),
    ],
)
def test_a_range_that_ends_in_a_gap_is_what_there_is_of_it_and_says_so(
    selection, expected, missing
):
    structure = numbered_chains(A=[*range(1, 8), *range(13, 21)])
    if missing is None:
        assert positions(structure, selection) == list(expected)
    else:
        with pytest.warns(ConstraintWarning, match=missing):
            assert positions(structure, selection) == list(expected)


@pytest.mark.parametrize("selection", ["A8-12", "A8", "A30-40", "A13-7"])
def test_a_range_without_a_residue_is_refused(selection):
    structure = numbered_chains(A=[*range(1, 8), *range(13, 21)])
    with pytest.raises(ConstraintError, match=f"no residue '{selection}'.* it has A1 to A20"):
        positions(structure, selection)


def test_a_range_follows_the_order_of_the_chain():
    structure = numbered_chains(H=["111", "112B", "112A", "112", "113"], A=[*range(5, 9), 1, 2])
    assert positions(structure, "H112B-112") == [1, 2, 3]
    assert positions(structure, "A7-2") == [7, 8, 9, 10]
    with pytest.raises(ConstraintError, match="for 1 comes after 6 there"):
        positions(structure, "A1-6")


@pytest.mark.parametrize("selection", ["5", ":5", " 5", " :5"])
def test_a_residue_of_a_blank_chain_has_a_label(selection):
    structure = numbered_chains(blank=range(1, 9), A=range(1, 9))
    assert np.flatnonzero(~Constraints(fixed=[selection]).designed(structure)) == [4]
    with pytest.raises(ConstraintError, match="it has :1 to :8, A1 to A8"):
        positions(structure, "9")


@pytest.mark.parametrize("chains", [" ", "", [" "], " ,", "A", "A, "])
def test_a_blank_chain_is_named_by_a_blank(chains):
    structure = numbered_chains(blank=range(1, 9), A=range(1, 9))
    expected = {"A": ["A"], "A, ": [" ", "A"]}.get(str(chains), [" "])
    assert Constraints(chains).design_chains(structure) == expected
    with pytest.raises(ConstraintError, match="has no chain 'Z'; it has ' ', A"):
        Constraints("Z").design_chains(structure)


@pytest.mark.parametrize("many", ["A1-3,B7", "A1-3 B7", "A1-3, B7 ", ["A1-3,B7"], ["A1-3", "B7"]])
def test_several_labels_are_divided_by_commas_or_spaces(many):
    structure = numbered_chains(A=range(1, 9), B=range(1, 9))
    kept = [0, 1, 2, 14]
    assert np.flatnonzero(~Constraints(fixed=many).designed(structure)).tolist() == kept
    assert np.flatnonzero(Constraints(redesigned=many).designed(structure)).tolist() == kept
    if isinstance(many, str):
        omitted = Constraints(omit_at={many: "C"}).omitted(structure)
        assert np.flatnonzero(omitted[:, ALPHABET.index("C")]).tolist() == kept
        biases = Constraints(bias_at={many: {"W": 2}}).biases(structure)
        assert np.flatnonzero(biases[:, ALPHABET.index("W")]).tolist() == kept


def test_thousands_of_labels_take_hardly_longer_than_a_range():
    structure = numbered_chains(A=range(1, 5001))

    def seconds(fixed: list[str]) -> float:
        taken = []
        for _ in range(5):
            start = time.perf_counter()
            Constraints(fixed=fixed).designed(structure)
            taken.append(time.perf_counter() - start)
        return min(taken)

    ratio = seconds([f"A{i}" for i in range(1, 2501)]) / seconds(["A1-2500"])
    assert ratio < 10, f"2,500 labels take {ratio:.1f} times as long as one range"


def test_what_is_redesigned_may_be_named_instead_of_what_is_kept():
    structure = numbered_chains(A=range(1, 9), B=range(1, 9))

    def designed(**constraints) -> list[int]:
        return np.flatnonzero(Constraints(**constraints).designed(structure)).tolist()

    assert designed(redesigned="A3-5") == [2, 3, 4]
    assert designed(redesigned=[2, "B1"]) == [2, 8]
    assert designed(redesigned="A3-5", fixed="A4", chains="A") == [2, 4]
    assert designed(redesigned=()) == []
    with pytest.raises(ConstraintError, match="B1 is to be redesigned, and its chain is not among"):
        designed(redesigned="B1", chains="A")
    with pytest.raises(ConstraintError, match="every position is fixed"):
        Constraints(redesigned="A3", fixed="A3").check(structure)


def test_an_incomplete_backbone_is_not_said_to_be_fixed():
    structure = protein("6EHB")
    first = structure.chains[0]
    rows = np.flatnonzero(structure.chain_ids == first)
    coords = structure.coords.copy()
    coords[rows, 3] = np.nan  # O
    without_o = Structure(
        "no_o", coords, structure.sequence, structure.chain_ids, structure.residue_index,
        structure.residue_numbers,
    )  # fmt: skip
    message = rf"no_o: nothing to design: the backbone .* \(chain {first}: {len(rows)}; O missing\)"
    with pytest.raises(ConstraintError, match=message):
        Constraints(first).check(without_o)
    some = without_backbone(structure, rows[:3])
    last = label(some, rows[2])
    with pytest.raises(ConstraintError, match=f"chain {first}: 1; N, CA, C, O missing"):
        Constraints(redesigned=last).check(some)
    with pytest.raises(ConstraintError, match="every position is fixed; nothing to design"):
        Constraints(first, fixed=rows.tolist()).check(some)


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


@pytest.mark.parametrize("name", [*THREE_LETTER_NAMES, "Cys", "cys", "CYSMET", "CYSX", "XCYS"])
def test_a_three_letter_name_is_not_taken_for_three_letters(name, numbered):
    bare = name.upper().strip("X")
    assert not set(bare) & {*" ,"}
    for constraints in (
        Constraints(omit=name), Constraints(omit=[name]), Constraints(omit=f"{name}, W"),
        Constraints(omit_at={"A1": name}),
    ):  # fmt: skip
        with pytest.raises(ConstraintError, match=f"write .* or {','.join(bare)} for the letters"):
            constraints.omitted(numbered)
    meant = dict(zip(THREE_LETTER_NAMES, AMINO_ACIDS, strict=True)).get(bare)
    if meant and "X" not in name:
        with pytest.raises(ConstraintError, match=f"'{name}' is no residue.*; write {meant}"):
            Constraints(bias={name: 1.0}).biases(numbered)


@pytest.mark.parametrize("letters", ["C,Y,S,X", "C Y S X", ["C", "Y", "S", "X"], "XYCS"])
def test_letters_may_be_divided(letters, numbered):
    omitted = Constraints(omit=letters).omitted(numbered)
    assert {"".join(np.array(list(ALPHABET))[row]) for row in omitted} == {"CSYX"}


def test_a_small_letter_is_refused_with_the_capital(numbered):
    with pytest.raises(ConstraintError, match=r"'w' is no residue; expected .*; write W"):
        Constraints(bias={"w": 1.0}).biases(numbered)


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
    "tied", ["A1-4,B11-14", [["A1-4", "B11-14"]], ["A1-4 B11-14"], "A:1-4,B11-B14"]
)
def test_ranges_are_tied_residue_by_residue(tied):
    structure = numbered_chains(A=range(1, 5), B=range(11, 15))
    found = Constraints(tied=tied).groups(structure)
    assert found == [{i: 1.0, i + 4: 1.0} for i in range(4)]


def test_ranges_are_tied_by_their_numbers_across_a_gap():
    structure = numbered_chains(A=["1", "2", "4", "4A", "5"], B=["11", "12", "14", "14A", "15"])
    weighted = Constraints(tied=[{"A1-5": 1.0, "B11-15": -0.5}]).groups(structure)
    assert weighted == [{i: 1.0, i + 5: -0.5} for i in range(5)]


@pytest.mark.parametrize(
    "tied, message",
    [
        ("A1-4,B1-3", "A1-4 has 4 residues and B1-3 3; .* A4 has no partner"),
        ("A1-4,C1-5", "A1-4 has 4 residues and C1-5 4; .* A4 has no partner"),
        ("A1-4,B1", "A1-4 has 4 residues and B1 1; .* A2 has no partner"),
        ("A1-4", "A1-4 is tied to nothing; .* A1,A2,A3 gets one amino acid"),
    ],
)
def test_ranges_that_do_not_match_are_not_tied(tied, message):
    structure = numbered_chains(A=range(1, 5), B=range(1, 5), C=[1, 2, 3, 5])
    with pytest.raises(ConstraintError, match=message):
        Constraints(tied=tied).check(structure)


@pytest.mark.parametrize(
    "tied_chains, expected",
    [
        ("A,B", [(0, 3), (1, 4), (2, 5)]),
        ("A B", [(0, 3), (1, 4), (2, 5)]),
        (["A,B", "C,D"], [(0, 3), (1, 4), (2, 5), (6, 9), (7, 10), (8, 11)]),
        ([["A", "B"], ["C", "D"]], [(0, 3), (1, 4), (2, 5), (6, 9), (7, 10), (8, 11)]),
        (["A", "B"], [(0, 3), (1, 4), (2, 5)]),
        ((), []),
        ("", []),
        ([], []),
    ],
)
def test_several_homo_oligomers_are_tied_each_for_itself(tied_chains, expected):
    structure = numbered_chains(A=range(3), B=range(3), C=range(3), D=range(3))
    groups = Constraints(tied_chains=tied_chains).groups(structure)
    assert [tuple(group) for group in groups] == expected


def test_chains_whose_numbers_go_on_are_tied_in_order_and_it_is_said():
    structure = numbered_chains(A=range(1, 4), B=range(4, 7), C=range(7, 11))
    with pytest.warns(ConstraintWarning, match="no residue number is in two.*A1 with B4"):
        groups = Constraints(tied_chains="A,B").groups(structure)
    assert [tuple(group) for group in groups] == [(0, 3), (1, 4), (2, 5)]
    with pytest.raises(ConstraintError, match=r"A 3, C 4\); tie their positions one by one"):
        Constraints(tied_chains="A,C").groups(structure)


def test_tied_chains_of_unequal_lengths_are_spoken_of():
    message = r"6EHB: the tied chains .residues: A 318, B 317, C 320. .* of 4 residues are not in"
    with pytest.warns(ConstraintWarning, match=message):
        groups = Constraints(tied_chains="A,B,C").groups(protein("6EHB"))
    assert {len(group) for group in groups} == {2, 3}


def test_tied_chains_that_share_half_of_their_numbers_are_spoken_of():
    structure = replace(numbered_chains(A=range(1, 21), B=range(11, 31)), sequence="A" * 40)
    with pytest.warns(ConstraintWarning, match="of 20 residues are not in all of them: A1, A2"):
        groups = Constraints(tied_chains="A,B").groups(structure)
    assert len(groups) == 10


def test_a_number_that_comes_again_in_a_chain_is_not_tied_to_itself():
    structure = numbered_chains(A=[1, 2, 1], B=[1, 2, 1])
    groups = Constraints(tied_chains="A,B").groups(structure)
    assert [tuple(group) for group in groups] == [(0, 3), (1, 4), (2, 5)]


def test_constraints_that_fit_say_nothing(numbered):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Constraints("A,B", fixed="A1-3", omit="C,W", tied="A10,B1", redesigned="A-3-11,B1-2").check(
            numbered_chains(A=range(-3, 12), B=range(1, 3))
        )


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


LETTERS_OF_A_CHAIN = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDG"


def oligomer(**chains: tuple[int, str]) -> Structure:
    """Chains of given letters, numbered from a given number on."""
    letters = "".join(text for _, text in chains.values())
    ids = [chain for chain, (_, text) in chains.items() for _ in text]
    numbers = [first + k for first, text in chains.values() for k in range(len(text))]
    structure = Structure.from_backbone(np.zeros((len(letters), 4, 3)), letters, ids)
    return replace(structure, residue_numbers=np.array(numbers).astype(str))


def test_chains_that_are_numbered_differently_are_tied_by_alignment_and_it_is_said():
    text = LETTERS_OF_A_CHAIN
    other = text[3:20] + text[22:]  # three fewer at the start, two fewer inside
    structure = oligomer(A=(1, text), B=(101, other))
    said = r"no residue number .* A4-A20 with B101-B117, A23-A43 with B118-B138; left out: A1, A2"
    with pytest.warns(ConstraintWarning, match=said):
        groups = Constraints(tied_chains="A,B").groups(structure)
    expected = [(i, 43 + i - 3) for i in range(3, 20)] + [(i, 43 + i - 5) for i in range(22, 43)]
    assert [tuple(group) for group in groups] == expected


def test_shifted_numbers_that_do_not_fit_the_letters_are_not_believed():
    text = LETTERS_OF_A_CHAIN
    structure = oligomer(A=(1, text), B=(6, text), C=(1, text[2:]))
    said = r"of equal number in the tied chains, \d+ % are equal; tied by alignment .* A1-A43 with"
    with pytest.warns(ConstraintWarning, match=said):
        groups = Constraints(tied_chains="A,B,C").groups(structure)
    tuples = [(i, 43 + i) if i < 2 else (i, 43 + i, 84 + i) for i in range(43)]
    assert [tuple(group) for group in groups] == tuples


def test_chains_that_are_not_alike_are_not_aligned():
    text = LETTERS_OF_A_CHAIN
    structure = oligomer(A=(1, text), B=(101, text[::-1][:40]))
    with pytest.raises(ConstraintError, match="no residue number is in two of the tied chains"):
        Constraints(tied_chains="A,B").groups(structure)
    structure = oligomer(A=(1, text), B=(1, text[::-1]))
    with pytest.warns(ConstraintWarning, match="% are equal; tied by number"):
        groups = Constraints(tied_chains="A,B").groups(structure)
    assert [tuple(group) for group in groups] == [(i, 43 + i) for i in range(43)]


def test_alignment_without_biopython_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "Bio.Align", None)
    structure = oligomer(A=(1, LETTERS_OF_A_CHAIN), B=(101, LETTERS_OF_A_CHAIN[3:]))
    with pytest.raises(ConstraintError, match=r"Biopython is installed: pip install 'mpnn-core"):
        Constraints(tied_chains="A,B").groups(structure)


@pytest.mark.parametrize("at", ["A5", "A25"])
def test_tied_positions_have_the_temperature_that_one_of_them_has(at) -> None:
    structure = protein("6MRR")
    resolved = Constraints(tied=["A5,A25"], temperature_at={at: 5.0}).resolve(structure)
    rows = [i for i, n in enumerate(structure.residue_numbers) if n in ("5", "25")]
    assert resolved.temperatures[rows].tolist() == [5.0, 5.0]
    assert np.isnan(np.delete(resolved.temperatures, rows)).all()


def test_tied_positions_with_two_temperatures_are_refused() -> None:
    constraints = Constraints(tied=["A5,A25"], temperature_at={"A5": 5.0, "A25": 1.0})
    with pytest.raises(ConstraintError, match=r"tied to A5 have the temperatures 1, 5; .*one"):
        constraints.resolve(protein("6MRR"))


@pytest.mark.parametrize("value", ["0.1", -1, float("nan"), 1e39, None])
def test_a_temperature_that_is_none_is_refused(value) -> None:
    with pytest.raises(ConstraintError, match=r"the temperature at A1 is .*; expected a number"):
        Constraints(temperature_at={"A1": value}).temperatures(protein("6MRR"))


@pytest.mark.parametrize(
    "change",
    [{"coefficient": np.ones(67)}, {"coefficient": np.ones(80)}, {"bias": 0.5},
     {"log_odds": np.ones((3, 21))}],
    ids=["short", "long", "scalar", "odds"],
)  # fmt: skip
def test_arrays_of_a_chains_matrix_that_differ_in_length_are_refused(change) -> None:
    whole = {"bias": np.full((68, 21), 1 / 21), "coefficient": np.ones(68), "multiplier": 0.5}
    pssm = PSSM(**{**whole, **change})
    with pytest.raises(ConstraintError, match="PSSM of chain A has arrays of different lengths"):
        Constraints(pssm={"A": pssm}).resolve(protein("6MRR"))


def test_no_matrix_at_all_is_none() -> None:
    assert Constraints(pssm={}).resolve(protein("6MRR")).pssm is None
