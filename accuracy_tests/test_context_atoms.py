"""What surrounds a protein in its file, held to what the original's parser reads.

fixtures/complexes/atoms.npz has what LigandMPNN's `parse_PDB` gives for ten complexes and for edits
of one (fixtures/make_context_goldens.py). Where we read otherwise, a test says how.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest
from edited_complexes import EDITS, column, elements, ion, is_ligand, is_residue, records, text_of
from hypothesis import given, settings
from hypothesis import strategies as st
from proteins import COMPLEXES, path_of, protein, rows_of

from mpnn_core import Structure, StructureError, read_structure
from mpnn_core.sampling.noise import digest
from mpnn_core.structures.context import (
    NO_CONTEXT,
    NOT_IN_ORIGINAL,
    SIDE_CHAIN_ATOMS,
    SIDE_CHAIN_ELEMENTS,
    ContextAtoms,
)

FILES = {
    "1hvr": COMPLEXES / "1hvr.pdb.gz",
    "3mht": COMPLEXES / "3mht.pdb.gz",
    "1a28": COMPLEXES / "1a28.pdb.gz",
    "19hc": COMPLEXES / "19hc.pdb.gz",
    "2nwl-opm": COMPLEXES / "2nwl-opm.pdb.gz",
    "7cth": COMPLEXES / "7cth.cif.gz",
    "1pwc": path_of("1pwc"),
    "pdb3hsy": path_of("pdb3hsy"),
    "3HTN": path_of("3HTN"),
    "6EHB": path_of("6EHB"),
}
# Edits of which we read what the original does; the others have a test each.
AGREE = (
    "as it is", "selenomethionine", "hydroxycysteine", "peptide in HETATM",
    "residue of occupancy 0", "ligand of occupancy 0", "ligand A 0.7 and B 0.3",
    "ligand A 0.5 and B 0.5", "calcium", "calcium in the column of carbon", "mercury", "deuterium",
    "unknown element", "ligand again after an END", "water called TIP3", "acetyl before the chain",
)  # fmt: skip
DIFFER = (
    "carboxylysine", "trimethyllysine", "free amino acid", "residue without CA",
    "ligand labelled B alone", "ligand A 0.3 and B 0.7", "no elements", "molybdenum",
    "dummies with elements", "residue called UNK",
)  # fmt: skip


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(COMPLEXES / "atoms.npz") as file:
        return dict(file)


@pytest.fixture
def reading(tmp_path):
    """Reads a text, or lines; returns the structure and what was said."""

    def read(content: str | Iterable[str], name: str = "edited.pdb", **options):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else "\n".join([*content, "END", ""]))
        return read_and_said(path, **options)

    return read


def read_and_said(path: Path, **options) -> tuple[Structure, str]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        structure = read_structure(path, **options)
    return structure, "\n".join(str(w.message) for w in said)


def sorted_atoms(context: ContextAtoms) -> np.ndarray:
    """(A, 4), as in the goldens."""
    xyz = np.round(context.coords * 1000).astype(np.int64)
    rows = np.column_stack([xyz, context.elements])
    return rows[np.lexsort(rows.T[::-1])]


def counted(context: ContextAtoms) -> Counter[str]:
    """How many atoms there are of each residue's name."""
    return Counter(context.residue_names.tolist())


# -------------------------------------------------------------------------- against the original


@pytest.mark.parametrize("name", FILES)
def test_the_atoms_around_a_protein_are_those_of_the_original(name, golden) -> None:
    np.testing.assert_array_equal(
        sorted_atoms(read_structure(FILES[name]).context), golden[f"{name}/atoms"]
    )


@pytest.mark.parametrize("edit", AGREE)
def test_an_edited_complex_has_the_atoms_of_the_original(edit, golden, reading) -> None:
    s, _ = reading(text_of(edit))
    np.testing.assert_array_equal(sorted_atoms(s.context), golden[f"{edit}/atoms"])


@pytest.mark.parametrize("edit", DIFFER)
def test_the_documented_differences_are_differences(edit, golden, reading) -> None:
    s, _ = reading(text_of(edit))
    ours, theirs = sorted_atoms(s.context), golden[f"{edit}/atoms"]
    assert ours.shape != theirs.shape or (ours != theirs).any()


def test_every_edit_agrees_or_is_a_documented_difference() -> None:
    assert {*AGREE} | {*DIFFER} == EDITS.keys()
    assert not {*AGREE} & {*DIFFER}


def test_the_elements_that_the_original_does_not_know_are_written_down(golden, reading) -> None:
    symbols = [gemmi.Element(n).name for n in range(1, 119)]
    s, said = reading(elements(symbols))
    assert s.context.elements.tolist() == list(range(2, 119))  # hydrogen is left out
    assert said == ""
    theirs = golden["elements"].tolist()
    assert {*range(2, 119)} - {*theirs} == NOT_IN_ORIGINAL
    assert theirs == sorted({*theirs})


@pytest.mark.parametrize("name", ["1hvr", "3mht", "1pwc"])
def test_side_chains_are_those_of_the_original(name, golden) -> None:
    s = read_structure(FILES[name])
    row = {label: i for i, label in enumerate(golden[f"{name}/labels"].tolist())}
    theirs = np.full((len(row), 32, 3), np.nan)
    theirs[golden[f"{name}/has"]] = golden[f"{name}/side_chains"] / 1000
    labels = [c + n for c, n in zip(s.chain_ids.tolist(), s.residue_numbers.tolist(), strict=True)]
    assert labels == list(row)
    differ = [
        label
        for i, label in enumerate(labels)
        if not np.allclose(s.side_chains[i], theirs[row[label]], atol=6e-4, equal_nan=True)
    ]
    # Two alternatives of which the original reads the first, and we the one of 0.7 and 0.64.
    assert differ == (["A29", "A86"] if name == "1pwc" else [])


# ------------------------------------------------------------------------------------ real files


def test_ions_and_small_anions_are_context() -> None:
    context = protein("3HTN").context
    assert {"NI", "FE"} <= {*context.names.tolist()}
    assert {26, 28} <= {*context.elements.tolist()}
    assert counted(protein("mmcif_3o21").context) == {"NAG": 126, "PO4": 10}


def test_nucleic_acids_are_context() -> None:
    assert counted(protein("4YOW").context) == {"DC": 228}
    chains = read_structure(FILES["3mht"]).context.chain_ids.tolist()
    assert Counter(chains) == {"A": 26, "C": 246, "D": 263}


def test_a_ligand_bound_to_a_residue_and_glycans_are_context() -> None:
    assert counted(protein("1pwc").context) == {"PNM": 23}
    assert counted(protein("pdb3hsy").context).keys() >= {"NAG"}


def test_a_modified_residue_of_a_chain_is_protein_and_a_free_one_is_context() -> None:
    s = read_structure(FILES["1hvr"])  # CSO in HETATM records
    assert "CSO" not in s.context.residue_names
    s, said = read_and_said(FILES["3mht"])  # S-adenosylhomocysteine has a backbone and no bond
    assert counted(s.context)["SAH"] == 26
    assert "amino acids that no peptide bond joins to the chain are ligands: SAH 328" in said
    assert "SAH as" not in said


def test_two_ligands_are_told_apart_by_chain_and_number() -> None:
    context = read_structure(FILES["1a28"]).context
    ids = zip(context.chain_ids.tolist(), context.residue_numbers.tolist(), strict=True)
    assert Counter(ids) == {("A", "1"): 23, ("B", "2"): 23}


def test_ligands_of_chains_not_asked_for_are_left_out_with_a_word(golden) -> None:
    s, said = read_and_said(FILES["1a28"], chains="A")
    np.testing.assert_array_equal(sorted_atoms(s.context), golden["1a28 A/atoms"])
    assert said.endswith("ligands of other chains are left out (chain B): STR")
    s, said = read_and_said(path_of("4YOW"), chains="A")  # whose DNA is called B, D, F
    assert len(s.context) == 0 and "(chain B, D, F): DC (12)" in said


def test_a_chain_of_nucleic_acid_is_read_beside_one_of_protein() -> None:
    s, said = read_and_said(path_of("4YOW"), chains="A,B")
    assert s.chains == ("A",)
    assert Counter(s.context.chain_ids.tolist()) == {"B": 76}
    assert "(chain D, F): DC (8)" in said
    with pytest.raises(StructureError, match="chain B: is no protein; protein chains there: A, C"):
        read_structure(path_of("4YOW"), chains="B,D")
    with pytest.raises(StructureError, match="chain Z: is not there"):
        read_structure(path_of("4YOW"), chains="A,B,Z")


def test_atoms_of_occupancy_0_are_read_if_asked_for(golden) -> None:
    s, said = read_and_said(FILES["19hc"])
    assert len(s.context) == 792
    assert "2 atoms around the protein, of occupancy 0 (zero_occupancy=True reads them)" in said
    s, said = read_and_said(FILES["19hc"], zero_occupancy=True)
    np.testing.assert_array_equal(sorted_atoms(s.context), golden["19hc zero/atoms"])
    assert len(s.context) == 794 and said == ""


def test_the_dummies_of_a_membrane_are_left_out_with_a_word() -> None:
    s, said = read_and_said(FILES["2nwl-opm"])
    assert "DUM" not in s.context.residue_names
    assert "4002 atoms around the protein, dummies of a membrane, left out: DUM (2001)" in said


@pytest.mark.parametrize(("name", "element"), [(" H1 ", "H"), (" D1 ", "D"), ("HG11", "")])
def test_hydrogens_are_left_out_without_a_word(name, element, reading) -> None:
    lines = column(ion(name, element)([line for line in records() if is_residue(line)]), 17, "LIG")
    s, said = reading([*records(), *lines])
    assert counted(s.context) == {"PNM": 23} and said == ""


@pytest.mark.parametrize("name", ["1pwc", "pdb3hsy", "3mht", "19hc", "3HTN"])
def test_mmcif_gives_what_pdb_gives(name, tmp_path) -> None:
    ours = read_structure(FILES[name])
    structure = gemmi.read_structure(str(FILES[name]))
    structure.setup_entities()
    structure.make_mmcif_document().write_file(str(tmp_path / "same.cif"))
    same = read_structure(tmp_path / "same.cif")
    assert same.residue_numbers.tolist() == ours.residue_numbers.tolist()
    np.testing.assert_array_equal(same.side_chains, ours.side_chains)
    # gemmi writes a chain's polymer first: another order of the same atoms.
    for field in ("residue_names", "residue_numbers", "chain_ids", "names"):
        there = [Counter(getattr(s.context, field).tolist()) for s in (same, ours)]
        assert there[0] == there[1], field
    np.testing.assert_array_equal(sorted_atoms(same.context), sorted_atoms(ours.context))


@pytest.mark.parametrize("name", ["1pwc", "pdb3hsy", "3HTN", "6EHB", "4YOW"])
def test_elements_follow_from_names_where_their_column_is_blank(name, reading) -> None:
    text = path_of(name).read_text().splitlines()
    lines = [line for line in text if line.startswith(("ATOM", "HETATM", "TER"))]
    s, _ = reading(column((line.ljust(80) for line in lines), 76, "    "))
    ours = protein(name)
    np.testing.assert_array_equal(s.context.elements, ours.context.elements)
    assert len(ours.context)


@pytest.mark.parametrize("name", ["1pwc", "pdb3hsy", "3mht", "19hc", "3HTN", "6EHB"])
def test_elements_follow_from_names_where_mmcif_has_no_symbol(name, tmp_path) -> None:
    ours = read_structure(FILES[name])
    document = gemmi.read_structure(str(FILES[name])).make_mmcif_document()
    column = document.sole_block().find_loop("_atom_site.type_symbol")
    for n in range(len(column)):
        column[n] = "?"
    document.write_file(str(tmp_path / "same.cif"))
    same = read_structure(tmp_path / "same.cif")
    np.testing.assert_array_equal(sorted_atoms(same.context), sorted_atoms(ours.context))


# ---------------------------------------------------------------------------------------- edits


@pytest.mark.parametrize(
    "edit", ["carboxylysine", "trimethyllysine", "selenomethionine", "residue called UNK"]
)
def test_a_modified_residue_is_no_context(edit, reading) -> None:
    s, said = reading(text_of(edit))
    assert len(s) == 345 and counted(s.context) == {"PNM": 23}
    assert ("read as their parents" in said) == ("UNK" not in edit)


def test_an_amino_acid_on_its_own_is_context(reading) -> None:
    s, said = reading(text_of("free amino acid"))
    assert len(s) == 345 and s.context.residue_numbers.tolist().count("900") == 8
    assert "are ligands: ILE 900" in said


def test_a_residue_without_ca_is_no_context(reading) -> None:
    s, _ = reading(text_of("residue without CA"))
    assert counted(s.context) == {"PNM": 23} and (~s.mask).sum() == 1


def test_the_conformation_of_a_ligand_is_the_one_of_the_highest_occupancy(reading) -> None:
    at_first = protein("1pwc").context.coords
    for edit, moved in (
        ("ligand A 0.3 and B 0.7", 1.0),
        ("ligand A 0.7 and B 0.3", 0.0),
        ("ligand A 0.5 and B 0.5", 0.0),
        ("ligand labelled B alone", 0.0),
    ):
        s, _ = reading(text_of(edit))
        np.testing.assert_allclose(s.context.coords, at_first + np.array([moved, 0, 0]), atol=1e-4)


def test_a_conformation_that_lacks_an_atom_comes_after_a_whole_one(reading) -> None:
    lines = EDITS["ligand A 0.3 and B 0.7"](records())
    last = max(n for n, line in enumerate(lines) if is_ligand(line) and line[16] == "B")
    s, _ = reading(lines[:last] + lines[last + 1 :])
    np.testing.assert_allclose(s.context.coords, protein("1pwc").context.coords, atol=1e-4)


def test_one_of_two_ligands_with_one_number_is_read(reading) -> None:
    lines = EDITS["ligand A 0.3 and B 0.7"](records())
    renamed = [
        f"{line[:17]}XYZ{line[20:]}" if is_ligand(line) and line[16] == "B" else line
        for line in lines
    ]
    renamed.sort(key=lambda line: line[17:20] == "XYZ")
    s, _ = reading(renamed)
    assert counted(s.context) == {"XYZ": 23}


@pytest.mark.parametrize(
    ("first", "second", "read"), [("  0.30", "  0.70", "XYZ"), ("  0.50", "  0.50", "PNM")]
)
def test_one_of_two_ligands_in_one_place_is_read(first, second, read, reading) -> None:
    ligand = [line for line in records() if is_ligand(line)]
    others = [line for line in records() if not is_ligand(line)]
    one = column(column(ligand, 16, "A"), 54, first)
    other = column(column(column(ligand, 16, "BXYZ"), 22, " 901"), 54, second)
    s, said = reading([*others, *one, *other])
    assert counted(s.context) == {read: 23}
    left = {"PNM", "XYZ"} - {read}
    assert f"alternatives to others in their place, left out: {left.pop()}" in said


def test_two_ligands_with_labels_and_two_places_are_read(reading) -> None:
    ligand = [line for line in records() if is_ligand(line)]
    apart = [f"{n[:16]}BXYZ{n[20:22]} 901{n[26:]}" for n in ligand]
    s, _ = reading([*records(), *(f"{n[:30]}{float(n[30:38]) + 9:8.3f}{n[38:]}" for n in apart)])
    assert counted(s.context) == {"PNM": 23, "XYZ": 23}


def test_elements_are_read_from_names_where_the_original_has_none(reading) -> None:
    s, _ = reading(text_of("no elements"))
    np.testing.assert_array_equal(s.context.elements, protein("1pwc").context.elements)


@pytest.mark.parametrize(("name", "number"), [("CA  ", 20), (" CA ", 6), ("HG  ", 80), (" HG ", 1)])
def test_the_column_of_a_name_tells_metals_where_no_element_is_given(name, number, reading):
    lines = ion(name, "XX")([line for line in records() if is_residue(line)])
    s, _ = reading([*records(), *column(lines, 76, "  ")])
    assert s.context.elements.tolist()[23:] == ([number] if number > 1 else [])


@pytest.mark.parametrize(
    ("name", "residue", "number"),
    [
        (" CA ", " CA ", 20),
        (" CL-", "CL- ", 17),
        ("CLA ", "CLA ", 17),
        ("SOD ", "SOD ", 11),
        (" K  ", "  K ", 19),
        (" ZN2", "ZN2 ", 30),
        (" CLA", "LIG ", 6),
    ],
)
def test_an_ion_called_after_its_residue_is_known_in_any_column(name, residue, number, reading):
    lines = ion(name, "XX")([line for line in records() if is_residue(line)])
    s, _ = reading([*records(), *column(column(lines, 76, "  "), 17, residue)])
    assert s.context.elements.tolist()[23:] == [number]


def test_calcium_is_no_alpha_carbon(reading) -> None:
    s, _ = reading(text_of("calcium"))
    assert len(s) == 345 and s.context.elements[-1] == 20 and s.context.names[-1] == "CA"


def test_molybdenum_is_an_atom(reading) -> None:
    s, _ = reading(text_of("molybdenum"))
    assert s.context.elements[-1] == 42


def test_an_unknown_element_is_left_out_with_a_word(reading) -> None:
    lines = ion("X1  ", "X")([line for line in records() if is_residue(line)])
    s, said = reading([*records(), *lines, *column(lines, 22, " 901")])
    assert len(s.context) == 23
    assert "2 atoms around the protein, of no element that is known, left out: X1 of X" in said


def test_an_unreadable_position_is_left_out_with_a_word(reading) -> None:
    lines = records()
    n = next(n for n, line in enumerate(lines) if is_ligand(line))
    s, said = reading([*lines[:n], f"{lines[n][:30]}  1.2x34{lines[n][38:]}", *lines[n + 1 :]])
    assert len(s.context) == 22 and len(s) == 345
    assert "an atom around the protein, unreadable or without a position, left out: PNM" in said
    n = next(n for n, line in enumerate(lines) if is_residue(line) and line[12:16] == " CG1")
    s, said = reading([*lines[:n], f"{lines[n][:30]}  1.2x34{lines[n][38:]}", *lines[n + 1 :]])
    i = s.residue_numbers.tolist().index("100")
    assert np.isnan(s.side_chains[i, SIDE_CHAIN_ATOMS.index("CG1")]).all() and s.mask[i]
    assert "an atom of side chains, unreadable or without a position, left out: residue 100" in said


def test_what_comes_again_after_an_end_is_read_once(reading) -> None:
    lines = [line for line in records() if line[17:20] != "HOH"]
    again = [f"{n[:30]}{float(n[30:38]) + 0.5:8.3f}{n[38:]}" for n in lines]
    s, said = reading([*lines, "END", *again])
    assert len(s) == 345
    np.testing.assert_array_equal(s.context.coords, protein("1pwc").context.coords)
    assert "which come again after an END in the same place, left out: PNM" in said


def test_a_side_chain_is_of_the_conformer_whose_backbone_is_read(reading) -> None:
    def edit(first: str, second: str) -> np.ndarray:
        lines = []
        for line in records():
            if is_residue(line):
                lines.append(f"{line[:16]}A{line[17:54]}{first}{line[60:]}")
                x = float(line[30:38]) + 0.5
                lines.append(f"{line[:16]}B{line[17:30]}{x:8.3f}{line[38:54]}{second}{line[60:]}")
            else:
                lines.append(line)
        s, _ = reading(lines)
        i = s.residue_numbers.tolist().index("100")
        return np.concatenate([s.coords[i], s.side_chains[i][np.isfinite(s.side_chains[i, :, 0])]])

    ours = protein("1pwc")
    i = ours.residue_numbers.tolist().index("100")
    side = ours.side_chains[i][np.isfinite(ours.side_chains[i, :, 0])]
    expected = np.concatenate([ours.coords[i], side])
    assert len(side) == 3
    np.testing.assert_allclose(edit("  0.60", "  0.40"), expected, atol=1e-4)
    np.testing.assert_allclose(
        edit("  0.40", "  0.60"), expected + np.array([0.5, 0, 0]), atol=1e-4
    )


def test_no_atom_of_another_conformer_fills_a_side_chain(reading) -> None:
    """The backbone is A's; the side chain of B is whole and of a higher occupancy."""
    lines = []
    for line in records():
        if not is_residue(line):
            lines.append(line)
            continue
        is_backbone = line[12:16].strip() in ("N", "CA", "C", "O")
        for label, x, occupancy in (("A", 0, 0.6), ("B", 0.5, 0.4)):
            if line[12:16] != " CD1" or label == "B":
                o = occupancy if is_backbone else 1 - occupancy
                at = float(line[30:38]) + x
                lines.append(
                    f"{line[:16]}{label}{line[17:30]}{at:8.3f}{line[38:54]}{o:6.2f}{line[60:]}"
                )
        if line[12:16] == " CG1":  # and once more without a label
            lines.append(f"{line[:30]}{float(line[30:38]) + 1:8.3f}{line[38:]}")
    s, _ = reading(lines)
    ours = protein("1pwc")
    i = s.residue_numbers.tolist().index("100")
    expected = ours.side_chains[i].copy()
    assert np.isfinite(expected[SIDE_CHAIN_ATOMS.index("CD1")]).all()
    expected[SIDE_CHAIN_ATOMS.index("CD1")] = np.nan
    np.testing.assert_allclose(s.side_chains[i], expected, atol=1e-4)


def test_terminal_oxygens_and_atoms_of_occupancy_0_are_no_side_chain(reading) -> None:
    assert " OXT" in path_of("6EHB").read_text()
    assert np.isnan(protein("6EHB").side_chains[:, SIDE_CHAIN_ATOMS.index("OXT")]).all()
    lines = [
        f"{n[:54]}  0.00{n[60:]}" if is_residue(n) and n[12:16] == " CG1" else n for n in records()
    ]
    for zero_occupancy in (False, True):
        s, _ = reading(lines, zero_occupancy=zero_occupancy)
        i = s.residue_numbers.tolist().index("100")
        there = np.isfinite(s.side_chains[i, SIDE_CHAIN_ATOMS.index("CG1")]).all()
        assert there == zero_occupancy


def test_a_ligand_changes_no_random_number() -> None:
    s = protein("1pwc")
    bare = replace(s, context=NO_CONTEXT, side_chains=None)
    assert digest(s) == digest(bare) == digest(s.with_membrane(True))


# ----------------------------------------------------------------------------------- Hypothesis

LABELS = st.sampled_from(" AB")
OCCUPANCIES = st.sampled_from(["  0.00", "  0.25", "  0.50", "  0.75", "  1.00"])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), LABELS, OCCUPANCIES), min_size=1, max_size=9))
def test_conformations_are_never_mixed(tmp_path_factory, atoms) -> None:
    """Of four atoms in any number of conformations, those of one label and those of none are read,
    and never an atom of occupancy 0."""
    given_ = list({(n, label): (n, label, o) for n, label, o in atoms}.values())
    [ca] = (line for line in records() if is_residue(line) and line[12:16] == " CA ")
    lines = [
        f"HETATM{ca[6:12]} C{n} {label}LIG A 900 {x:11.3f}{0:8.3f}{0:8.3f}{o}{ca[60:76]} C  "
        for x, (n, label, o) in enumerate(given_)
    ]
    path = tmp_path_factory.mktemp("mixed") / "x.pdb"
    path.write_text("\n".join([*(n for n in records() if n[:4] == "ATOM"), *lines, "END", ""]))
    context = read_structure(path).context
    there = [given_[round(x)] for x in context.coords[:, 0].tolist()]
    assert not any(float(o) == 0 for *_, o in there)
    read = {label for _, label, _ in there} - {" "}
    labels = {label for _, label, o in given_ if float(o) > 0} - {" "}
    assert len(read) == bool(labels)
    expected = [a for a in given_ if float(a[2]) > 0 and a[1] in (" ", *read)]
    assert there == expected


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.integers(2, 118),
            *[st.integers(-99_999, 99_999)] * 3,
            st.sampled_from(["LIG", "ZN", "HEM", "DA", "STR"]),
        ),
        max_size=30,
    )
)
def test_atoms_come_back_as_they_were_written(tmp_path_factory, atoms) -> None:
    lines = [
        f"HETATM{n:5d} {gemmi.Element(element).name.upper():>2}   {name:>3} Z{n:4d}    "
        f"{x / 1000:8.3f}{y / 1000:8.3f}{z / 1000:8.3f}  1.00  0.00          "
        f"{gemmi.Element(element).name.upper():>2}"
        for n, (element, x, y, z, name) in enumerate(atoms, start=1)
    ]
    path = tmp_path_factory.mktemp("written") / "x.pdb"
    path.write_text("\n".join([*(n for n in records() if n[:4] == "ATOM"), *lines, "END", ""]))
    context = read_structure(path).context
    assert context.elements.tolist() == [element for element, *_ in atoms]
    assert context.residue_names.tolist() == [name for *_, name in atoms]
    xyz = np.array([[x, y, z] for _, x, y, z, _ in atoms]).reshape(-1, 3) / 1000
    np.testing.assert_allclose(context.coords, xyz, atol=1e-5)


# ------------------------------------------------------------------------- Structure and atoms


def test_arrays_are_checked_and_read_only() -> None:
    s = protein("1pwc")
    for array in (s.side_chains, *vars(s.context).values(), s.with_membrane(True).membrane):
        assert not array.flags.writeable
    assert SIDE_CHAIN_ELEMENTS.shape == (32,)
    with pytest.raises(StructureError, match=r"side_chains must be \(345, 32, 3\).*\(344, 32, 3\)"):
        replace(s, side_chains=s.side_chains[1:])
    infinite = s.side_chains.copy()
    infinite[7, 3, 1] = np.inf
    with pytest.raises(StructureError, match=r"chain A: residue \d+: infinite coordinate of OG$"):
        replace(s, side_chains=infinite)
    with pytest.raises(StructureError, match="context must be ContextAtoms; got ndarray"):
        replace(s, context=s.context.coords)


@pytest.mark.parametrize(
    ("coords", "numbers", "error"),
    [
        (np.zeros((2, 3)), [6, 0], "element 0 of a context atom; expected an atomic number, 1 to"),
        (np.zeros((2, 3)), [6, 119], "element 119 of a context atom"),
        (np.zeros((2, 3)), [6.0, 7.0], r"must be \(A,\) atomic numbers; got \(2,\) float64"),
        (np.zeros((3, 2)), [6, 7], r"must be \(2, 3\), one row per element; got \(3, 2\)"),
        ([[0, 0, np.nan]], [6], "coordinate of context atom 0 is not finite"),
        ([[0, 0, 1e39]], [6], "coordinate of context atom 0 is not finite"),
        (np.zeros((0, 3)), [6], r"must be \(1, 3\), one row per element; got \(0, 3\)"),
        ([["x", 0, 0]], [6], r"must be \(A, 3\) numbers in Å"),
    ],
)
def test_context_atoms_that_are_none_are_refused(coords, numbers, error) -> None:
    with pytest.raises(StructureError, match=error):
        ContextAtoms.of(coords, numbers)


def test_no_atoms_are_context_as_well() -> None:
    for coords in ([], np.zeros(0), np.zeros((0, 3))):
        assert ContextAtoms.of(coords, []).coords.shape == (0, 3)


def test_a_structure_from_coordinates_takes_atoms() -> None:
    s = protein("1pwc")
    atoms = ContextAtoms.of(s.context.coords, s.context.elements)
    made = Structure.from_backbone(s.coords, s.sequence, context=atoms)
    assert made.context is atoms and made.side_chains is None and made.membrane is None
    assert Structure.from_backbone(s.coords, s.sequence).context is NO_CONTEXT


def test_ligands_are_kept_by_name() -> None:
    s = protein("mmcif_3o21")
    assert counted(s.with_ligands("nag").context) == {"NAG": 126}
    assert counted(s.with_ligands(["PO4", "NAG"]).context) == {"NAG": 126, "PO4": 10}
    assert len(s.with_ligands(()).context) == len(s.with_ligands("HEM").context) == 0
    assert s.with_ligands("PO4").side_chains.tobytes() == s.side_chains.tobytes()
    assert len(s.context) == 136


def test_labels_of_a_membrane_are_one_per_residue_or_one_bool() -> None:
    s = protein("5L33")
    assert s.membrane is None
    assert s.with_membrane(True).membrane.tolist() == [1] * 106
    assert s.with_membrane(np.bool_(False)).membrane.tolist() == [0] * 106
    labels = np.arange(106) % 3
    assert s.with_membrane(labels.astype(np.int8)).membrane.tolist() == labels.tolist()
    for wrong, error in (
        (labels + 1, "membrane must be 0 other, 1 interface or 2 buried; got 3"),
        (labels - 1, "got -1"),
        (labels[1:], r"membrane must be \(106,\), one per residue; got \(105,\)"),
        (labels == 1, "membrane must be integers: 0 other, 1 interface, 2 buried; got bool"),
        (1, r"membrane must be \(106,\), one per residue; got \(\)"),
        (None, "membrane must be integers"),
    ):
        with pytest.raises(StructureError, match=error):
            s.with_membrane(wrong)


def test_rows_of_a_structure_keep_what_is_known_of_them() -> None:
    s = protein("1pwc").with_membrane(True)
    part = rows_of(s, slice(3, 9))
    assert len(part) == 6 and part.context is s.context and len(part.membrane) == 6
    np.testing.assert_array_equal(part.side_chains, s.side_chains[3:9])


def test_every_complex_is_the_published_file() -> None:
    for line in (COMPLEXES / "SHA256SUMS").read_text().splitlines():
        digest_, name = line.split()
        assert hashlib.sha256((COMPLEXES / name).read_bytes()).hexdigest() == digest_, name
