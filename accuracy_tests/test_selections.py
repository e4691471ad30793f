"""Selections: what each word chooses, how they are joined, and what is refused."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from proteins import path_of, protein
from strategies import layouts

from mpnn_core import ContextAtoms, Structure, select
from mpnn_core.commands.main import main
from mpnn_core.commands.select import as_list, as_pymol
from mpnn_core.constants import AMINO_ACIDS
from mpnn_core.sampling.labels import label
from mpnn_core.selecting.selections import (
    CONTACT,
    FEWEST_OF_CORE,
    MOST_OF_SURFACE,
    NEIGHBOURHOOD,
    POCKET,
    SelectionError,
    atoms_of,
    has_words,
    neighbours,
    rows,
    rows_or_labels,
    within,
)

COMPLEX = "3HTN"  # chains A, B and C from 43 to 185, with FE, NI, SO4 and 1PE around them


def far_apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n, m) Å, the least distance between atoms of residues, pair by pair."""
    gaps = one[:, None, :, None] - other[None, :, None, :]
    return np.nan_to_num(np.linalg.norm(gaps, axis=-1), nan=np.inf).min((2, 3))


def test_labels_and_ranges_choose_what_constraints_choose():
    s = protein(COMPLEX)
    assert rows(s, "A43") == [0]
    assert rows(s, "A43-45,B43 C185") == [0, 1, 2, 143, 424]
    assert rows(s, 7) == [7]
    assert rows(s, ["A43", 7, "chain:C - C44-185"]) == [0, 7, 282]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("chain:A + B43", [*range(143), 143]),
        ("chain:A - A45-185", [0, 1]),
        ("all - chain:A/B", [*range(282, 425)]),
        ("all - chain:A,chain:B", [*range(282, 425)]),
        ("A43-50 - A44-50 + A46", [0, 3]),
        ("A43 - A43", []),
        ("  A43   +   A44  ", [0, 1]),
    ],
)
def test_lists_are_joined_from_left_to_right(text, expected):
    assert rows(protein(COMPLEX), text) == expected


@pytest.mark.parametrize("distance", [None, 5.0, 12.0])
def test_an_interface_is_within_a_distance_of_the_other_chain(distance):
    s = protein(COMPLEX)
    atoms = atoms_of(s)
    chain = s.chain_ids
    limit = distance or CONTACT
    near = far_apart(atoms, atoms) <= limit
    a, b, c = (chain == name for name in "ABC")
    suffix = "" if distance is None else f":{distance:g}"
    expected = (a & near[:, b].any(1)) | (b & near[:, a].any(1))
    assert (select(s, f"interface:A/B{suffix}") == expected).all() and expected.any()
    expected = near[:, b | c].any(1) & a | near[:, a].any(1) & (b | c)
    assert (select(s, f"interface:A{suffix}") == expected).all()
    apart = chain[:, None] != chain[None]
    if distance is None:
        assert (select(s, "interface") == (near & apart).any(1)).all()
    assert (select(s, f"interface:C/B/A{suffix}") == (near & apart).any(1)).all()


@pytest.mark.parametrize("name", ["FE", "so4", "ligand", "LIGAND"])
def test_near_is_within_a_distance_of_what_surrounds(name):
    s = protein(COMPLEX)
    keep = np.ones(len(s.context), bool)
    if name.lower() != "ligand":
        keep = np.char.upper(s.context.residue_names) == name.upper()
    near = far_apart(atoms_of(s), s.context.coords[keep][:, None])
    for text, distance in ((f"near:{name}", POCKET), (f"near:{name}:4.5", 4.5)):
        chosen = select(s, text)
        assert (chosen == (near <= distance).any(1)).all() and chosen.any()


def test_surface_and_core_are_by_neighbours():
    s = protein("4GYT")
    cb = atoms_of(s)[:, -1]
    known = np.isfinite(cb).all(1)
    close = far_apart(cb[:, None], cb[:, None]) <= NEIGHBOURHOOD
    counts = np.where(known, close.sum(1) - 1, -1)
    assert (neighbours(s) == counts).all()
    surface, core = select(s, "surface"), select(s, "core")
    assert (surface == (known & (counts <= MOST_OF_SURFACE))).all() and surface.any()
    assert (core == (counts >= FEWEST_OF_CORE)).all() and core.any()
    assert not (surface & core).any()


def test_the_core_is_where_hydrophobic_residues_are():
    """A native protein has them there, which is what the word is for."""
    shares = []
    for word in ("surface", "core"):
        letters = [
            letter
            for name in ("4GYT", "6EHB", "3HTN")
            for letter in np.array(list(protein(name).sequence))[select(protein(name), word)]
        ]
        shares.append(np.isin(letters, list("AFILMVWC")).mean())
    surface, core = shares
    assert 1.5 * surface < core, (surface, core)


def test_a_virtual_cb_is_where_the_real_one_is():
    residues = gemmi.read_structure(str(path_of("6MRR")))[0]["A"]
    real = {
        str(residue.seqid.num): atom.pos.tolist()
        for residue in residues
        for atom in residue
        if atom.name == "CB"
    }
    s = protein("6MRR")
    virtual = dict(zip(s.residue_numbers.tolist(), atoms_of(s)[:, -1], strict=True))
    gaps = [np.linalg.norm(virtual[number] - at) for number, at in real.items()]
    assert len(gaps) > 50 and np.median(gaps) < 0.1


def test_a_trace_is_selected_by_its_ca():
    s = protein(COMPLEX).as_trace()
    assert atoms_of(s).shape == (425, 1, 3)
    assert 0 < select(s, "interface:A/B").sum() < select(protein(COMPLEX), "interface:A/B").sum()
    assert 0 < select(s, "core").sum() < 425


def test_residues_without_atoms_are_near_nothing():
    s = protein(COMPLEX)
    coords = s.coords.copy()
    coords[10:14] = np.nan
    missing = Structure("holes", coords, s.sequence, s.chain_ids, s.residue_index,
                        s.residue_numbers, s.context)  # fmt: skip
    for text in ("surface", "core", "interface", "near:ligand:1000"):
        assert not select(missing, text)[10:14].any()
    assert select(missing, "all").all()


@pytest.mark.parametrize(
    "text, character, message",
    [
        ("", 1, "nothing is selected"),
        (" , ", 1, "nothing is selected"),
        ("+ A43", 1, "nothing stands before +"),
        ("- A43", 1, "nothing stands before -; a selection begins with what it chooses"),
        ("A43 +", 5, "nothing follows +"),
        ("A43 + - A44", 7, "nothing stands before -"),
        ("A43, A999", 6, "3HTN has no residue 'A999'"),
        ("surface-A43", 1, "+ and - stand between spaces"),
        ("A43+A44", 1, "+ and - stand between spaces"),
        ("all - chain:Q", 13, "3HTN has no chain 'Q'; it has A, B, C"),
        ("chain:", 7, "a name is missing"),
        ("chain:A:3", 1, "expected chain:A or chain:A/B"),
        ("interface:A/Q:8", 13, "3HTN has no chain 'Q'"),
        ("interface:A/A", 13, "chain A comes twice"),
        ("interface:A/B:8A", 15, "'8A' is no distance"),
        ("interface:A/B:0", 15, "'0' is no distance"),
        ("interface:A/B:nan", 15, "'nan' is no distance"),
        ("interface:A/B:", 1, "is not read; expected interface:A/B:8"),
        ("A43 near:ZN:6", 10, "3HTN has no 'ZN' around the protein; it has 1PE, FE, NI, SO4"),
        ("near:", 6, "a name is missing"),
        ("near", 1, "3HTN has no residue 'near'"),
    ],
)
def test_a_wrong_selection_is_pointed_at(text, character, message):
    with pytest.raises(SelectionError) as error:
        select(protein(COMPLEX), text)
    assert error.value.place + 1 == character, str(error.value)
    assert f"character {character}:" in str(error.value) and message in str(error.value)


def test_an_interface_needs_two_chains_and_near_a_ligand():
    with pytest.raises(SelectionError, match="has the chain A alone"):
        select(protein("6MRR"), "interface")
    with pytest.raises(SelectionError, match="around the protein; it has nothing there"):
        select(protein("6MRR").with_ligands(()), "near:ligand")


def named(*chains: str, numbers: tuple[str, ...] = ("1", "2", "3")) -> Structure:
    """A structure whose chains have these ids, all with the same numbers."""
    L = len(chains) * len(numbers)
    return Structure(
        "named", np.random.default_rng(0).normal(size=(L, 4, 3)), (AMINO_ACIDS * L)[:L],
        np.repeat(np.array(chains), len(numbers)), np.arange(L), np.array(numbers * len(chains)),
    )  # fmt: skip


def test_a_chain_that_is_called_as_a_word_is_never_guessed():
    s = named("near", "all")
    with pytest.raises(SelectionError, match="may be a residue of chain near or what it says"):
        select(s, "near:2")
    assert rows(s, "near2") == [1] and rows(s, "all2") == [4]
    assert rows(s, "all") == [*range(6)]


def test_a_blank_chain_and_numbers_below_zero():
    s = named(" ", numbers=("-5", "-4", "-1", "2"))
    assert rows(s, "chain:") == [0, 1, 2, 3]
    assert rows(s, "-5") == [0] and rows(s, "-5 -4") == [0, 1] and rows(s, ":-5--1") == [0, 1, 2]
    assert rows(s, "all - -5") == [1, 2, 3]


@given(data=st.data())
def test_a_text_of_any_labels_and_operators_is_read_as_it_stands(data):
    """With numbers below zero, where a minus is of the number, of a range, and an operator."""
    numbers = tuple(str(n) for n in data.draw(st.lists(st.integers(-9, 9), min_size=1, max_size=6,
                                                       unique=True).map(sorted)))  # fmt: skip
    s = named("A", "B1", numbers=numbers)
    expected = np.zeros(len(s), bool)
    texts = []
    for n in range(data.draw(st.integers(1, 5))):
        operator = "+" if n == 0 else data.draw(st.sampled_from("+-"))
        items = []
        for _ in range(data.draw(st.integers(1, 3))):
            first = data.draw(st.integers(0, len(s) - 1))
            same = np.flatnonzero(s.chain_ids == s.chain_ids[first])
            last = data.draw(st.sampled_from([int(i) for i in same if i >= first]))
            text = label(s, first)
            items.append(text if first == last else f"{text}-{s.residue_numbers[last]}")
            expected[first : last + 1] = operator == "+"
        texts += [] if n == 0 else [operator]
        texts.append(data.draw(st.sampled_from([",", " ", ", "])).join(items))
    assert (select(s, " ".join(texts)) == expected).all(), texts


@given(text=st.text(st.sampled_from("AB14-+:/, nearfcitsu.\x00é"), max_size=30))
def test_any_text_is_read_or_pointed_at(text):
    try:
        chosen = select(named("A", "B"), text)
    except SelectionError as error:
        assert 0 <= error.place <= len(text)
    else:
        assert chosen.shape == (6,) and chosen.dtype == bool


@given(layout=layouts(60), data=st.data())
def test_what_is_listed_is_what_was_chosen(layout, data):
    s = layout.build()
    chosen = data.draw(st.lists(st.integers(0, len(s) - 1), unique=True).map(sorted))
    if chosen:
        assert rows(s, as_list(s, chosen)) == chosen
    else:
        assert as_list(s, chosen) == "" and as_pymol(s, chosen) == "none"


@given(st.integers(1, 40), st.integers(0, 60), st.floats(0.1, 50), st.integers(0, 2**32 - 1))
def test_boxes_find_what_distances_say(n, m, distance, seed):
    rng = np.random.default_rng(seed)
    atoms, points = rng.normal(0, 15, (n, 3, 3)), rng.normal(0, 15, (m, 3))
    atoms[rng.random((n, 3)) < 0.2] = np.nan
    points[rng.random(m) < 0.2] = np.nan
    expected = (far_apart(atoms, points[:, None]) <= distance).any(1) if m else np.zeros(n, bool)
    assert (within(atoms, points, distance) == expected).all()


def test_labels_stay_labels_and_words_become_positions():
    s = protein(COMPLEX)
    assert rows_or_labels(s, None) is None
    assert rows_or_labels(s, ["A43-50,B7", 3]) == ["A43-50,B7", 3]
    assert rows_or_labels(s, "A43 - A44 + chain:C - C44-185") == [0, 282]
    assert [has_words(t) for t in ("A43", "A:43", "core", "A1 + A2", "-5", "near:HEM", "near")] == [
        False, False, True, True, False, True, False,
    ]  # fmt: skip


# The command.


def test_the_command_prints_what_is_selected(capsys):
    path = path_of(COMPLEX)
    selection = "A43-45 + B44 + C43-185 - C46-185"
    for form, expected in (
        ("list", "A43-45,B44,C43-45"),
        ("count", "7"),
        ("pymol", "(chain A and resi 43+44+45) or (chain B and resi 44) or (chain C and resi "
                  "43+44+45)"),
    ):  # fmt: skip
        assert main(["select", str(path), selection, "--format", form]) == 0
        assert capsys.readouterr().out == expected + "\n"
    assert main(["select", str(path), "near:ZN"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and f"{path}: selection 'near:ZN', character 6" in said.err


def test_pymol_reads_numbers_below_zero_and_blank_chains():
    s = named(" ", numbers=("-5", "2"))
    assert as_pymol(s, [0, 1]) == '(chain "" and resi \\-5+2)'


def test_design_takes_selections(tmp_path, capsys):
    path, out = path_of(COMPLEX), tmp_path / "out"
    written = ["--restart", "--out", str(out), "-T", "5", "--seed", "1"]
    for option, changed in (("--redesign", "near:FE:10"), ("--redesigned", "near:FE:10")):
        assert main(["design", str(path), option, changed, *written]) == 0
        native, designed = (out / "seqs" / f"{COMPLEX}.fa").read_text().splitlines()[1::2]
        # Letters of numbers that are missing stand in neither.
        differ = sum(a != b for a, b in zip(native, designed, strict=True))
        chosen = int(select(protein(COMPLEX), changed).sum())
        assert chosen / 3 < differ <= chosen
    kept = "all - near:FE:10"
    assert main(["design", str(path), "--fixed", kept, *written]) == 0
    native, designed = (out / "seqs" / f"{COMPLEX}.fa").read_text().splitlines()[1::2]
    assert 0 < sum(a != b for a, b in zip(native, designed, strict=True)) <= chosen
    capsys.readouterr()
    assert main(["design", str(path), "--fixed", "core + Q1", *written]) == 1
    assert f"{path}: selection 'core + Q1', character 8" in capsys.readouterr().err


def test_a_large_complex_is_selected_in_a_moment():
    """No distance is computed between residues that are far apart."""
    s = protein("6EHB")
    coords = np.concatenate([s.coords + 300.0 * np.array([n, 0, 0]) for n in range(6)])
    chains = np.concatenate([np.char.add(s.chain_ids, str(n)) for n in range(6)])
    around = ContextAtoms.of(coords[::50, 0], np.full(len(coords[::50]), 6))
    large = Structure(
        "large", coords, s.sequence * 6, chains, np.arange(len(coords)),
        np.tile(s.residue_numbers, 6), around,
    )  # fmt: skip
    for text in ("interface", "near:ligand", "surface"):
        one = int(select(large, text).sum())
        assert one > 0
    ids = large.chains
    assert select(large, f"interface:{ids[0]}/{ids[1]}").sum() == select(s, "interface:A/B").sum()
