"""Structures that are written are the ones that were read, with the sequence of a design on them.

Read back by our reader, by Biopython and by gemmi.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest
from Bio.PDB import MMCIFParser, PDBParser
from Bio.PDB.PDBExceptions import PDBConstructionWarning
from proteins import AWKWARD, COMPLEXES, EXAMPLES, path_of, protein

import mpnn_core as mpnn
from mpnn_core.commands.main import main
from mpnn_core.constants import BACKBONE
from mpnn_core.structures.writers import MOST_ATOMS, NAMES, pdb_cannot_hold

LIGANDS = sorted(path for path in COMPLEXES.glob("*.gz"))
SMALL = protein("6MRR")


def files() -> list[Path]:
    return [path_of(name) for name in (*EXAMPLES, *AWKWARD)] + LIGANDS


def shifted(structure: mpnn.Structure) -> str:
    """Another sequence: of each letter the next one, so that no residue keeps its name."""
    letters = list(NAMES)
    return "".join(letters[(letters.index(a) + 1) % len(letters)] for a in structure.sequence)


def residues(path: Path) -> dict[tuple[str, str], tuple[str, dict[str, tuple[float, ...]], float]]:
    """By gemmi: (chain, number and code) -> name, atoms and B-factor of each ATOM residue."""
    found = {}
    for chain in gemmi.read_structure(str(path))[0]:
        for residue in chain:
            if residue.het_flag == "A":
                atoms = {a.name: tuple(a.pos.tolist()) for a in residue}
                number = f"{residue.seqid.num}{residue.seqid.icode.strip()}"
                found[chain.name, number] = residue.name, atoms, residue[0].b_iso
    return found


@pytest.mark.parametrize("ending", [".pdb", ".cif"])
@pytest.mark.parametrize("file", files(), ids=lambda path: path.name.split(".")[0])
def test_a_structure_is_read_back(tmp_path, file, ending) -> None:
    structure = mpnn.read_structure(file)
    sequence = shifted(structure)
    path = tmp_path / f"out{ending}"
    mpnn.write_structure(path, structure, sequence)
    found = mpnn.read_structure(path)
    # A residue of which no atom is known is not written, and one of UNK may be no protein.
    known = np.isfinite(structure.coords).all(2).any(1)
    if len(found) == known.sum():
        assert np.array_equal(found.coords, structure.coords[known], equal_nan=True)
        assert found.sequence == "".join(np.array(list(sequence))[known])
        for name in ("chain_ids", "residue_numbers"):
            assert np.array_equal(getattr(found, name), getattr(structure, name)[known])
    else:
        assert not structure.mask.all(), (len(found), known.sum())
    around, expected = found.context, structure.context
    order, rank = (np.lexsort(atoms.coords.T) for atoms in (around, expected))
    assert np.array_equal(around.coords[order], expected.coords[rank])
    for name in ("elements", "names", "residue_names", "residue_numbers", "chain_ids"):
        assert np.array_equal(getattr(around, name)[order], getattr(expected, name)[rank]), name


@pytest.mark.parametrize("ending", [".pdb", ".cif"])
@pytest.mark.parametrize("name", [*EXAMPLES, "1pwc"])
def test_gemmi_and_biopython_read_what_was_written(tmp_path, name, ending) -> None:
    structure = protein(name)
    sequence, b_factor = shifted(structure), np.linspace(0, 1, len(structure))
    path = tmp_path / f"out{ending}"
    mpnn.write_structure(path, structure, sequence, b_factor)
    by_gemmi = residues(path)
    parser = (PDBParser if ending == ".pdb" else MMCIFParser)(QUIET=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PDBConstructionWarning)
        model = parser.get_structure("x", str(path))[0]
    by_biopython = {
        (chain.id, f"{number}{code.strip()}"): residue
        for chain in model
        for residue in chain
        for hetero, number, code in [residue.id]
        if hetero == " "
    }
    keys = [*zip(structure.chain_ids.tolist(), structure.residue_numbers.tolist(), strict=True)]
    assert set(by_biopython) == set(by_gemmi) and set(by_gemmi) <= set(keys)
    for i, key in enumerate(keys):
        if key not in by_gemmi:
            assert np.isnan(structure.coords[i]).any(1).all()
            continue
        name, atoms, b = by_gemmi[key]
        assert name == by_biopython[key].get_resname() == NAMES[sequence[i]]
        assert b == pytest.approx(b_factor[i], abs=0.006)
        for a, atom in enumerate(BACKBONE):
            xyz = structure.coords[i, a]
            assert (atom in atoms) == np.isfinite(xyz).all() == by_biopython[key].has_id(atom)
            if atom in atoms:
                assert atoms[atom] == pytest.approx(xyz, abs=5e-4)
                assert by_biopython[key][atom].coord == pytest.approx(xyz, abs=5e-4)


@pytest.mark.parametrize("ending", [".pdb", ".cif"])
def test_ligands_are_hetero_atoms(tmp_path, ending) -> None:
    structure = mpnn.read_structure(COMPLEXES / "1hvr.pdb.gz")
    path = tmp_path / f"out{ending}"
    mpnn.write_structure(path, structure)
    lines = [line for line in path.read_text().splitlines() if line.startswith("HETATM")]
    assert len(lines) == len(structure.context) > 0
    assert all("XK2" in line for line in lines)


def test_mmcif_says_the_sequence_and_what_is_a_polymer(tmp_path) -> None:
    structure = mpnn.read_structure(COMPLEXES / "1hvr.pdb.gz")
    path = tmp_path / "out.cif"
    mpnn.write_structure(path, structure)
    found = gemmi.read_structure(str(path))
    kinds = {entity.entity_type for entity in found.entities}
    assert kinds == {gemmi.EntityType.Polymer, gemmi.EntityType.NonPolymer}
    (polymer,) = (e for e in found.entities if e.entity_type == gemmi.EntityType.Polymer)
    chain = structure.sequence[: (structure.chain_ids == "A").sum()]
    assert [NAMES[letter] for letter in chain] == polymer.full_sequence, "one for both chains"


def test_an_insertion_code_and_a_negative_number_are_kept(tmp_path) -> None:
    numbers = np.array(["-3", "-2", "5", "5A", "5B", *map(str, range(6, 69))])
    structure = replace(SMALL, residue_numbers=numbers)
    for ending in (".pdb", ".cif"):
        mpnn.write_structure(tmp_path / f"out{ending}", structure)
        assert mpnn.read_structure(tmp_path / f"out{ending}").residue_numbers.tolist() == (
            numbers.tolist()
        )


def test_a_trace_is_written_as_one(tmp_path) -> None:
    structure = mpnn.read_structure(path_of("6MRR"), ca_only=True)
    coords = structure.coords.copy()
    coords[:, [0, 2, 3]] = np.nan
    path = tmp_path / "out.pdb"
    mpnn.write_structure(path, replace(structure, coords=coords))
    found = mpnn.read_structure(path, ca_only=True)
    assert np.array_equal(found.coords[:, 1], structure.coords[:, 1])
    assert all(list(atoms) == ["CA"] for _, atoms, _ in residues(path).values())


def test_a_blank_chain_is_blank_in_pdb_and_named_in_mmcif(tmp_path) -> None:
    blank = replace(SMALL, chain_ids=np.full(68, " "))
    mpnn.write_structure(tmp_path / "out.pdb", blank)
    assert {c.strip() for c in mpnn.read_structure(tmp_path / "out.pdb").chains} == {""}
    mpnn.write_structure(tmp_path / "out.cif", blank)
    assert mpnn.read_structure(tmp_path / "out.cif").chains == ("A",)
    both = replace(SMALL, chain_ids=np.array([" "] * 30 + ["A"] * 38))
    mpnn.write_structure(tmp_path / "out.cif", both)
    found = mpnn.read_structure(tmp_path / "out.cif")
    of_blank = np.array(list(found.sequence))[found.chain_ids == "B"]
    assert "".join(of_blank) == SMALL.sequence[:30]


@pytest.mark.parametrize("chain", ["_", "A'", "a b", "#1", "loop_", "A-2"])
def test_an_odd_chain_id_is_kept_in_mmcif(tmp_path, chain) -> None:
    mpnn.write_structure(tmp_path / "out.cif", replace(SMALL, chain_ids=np.full(68, chain)))
    assert mpnn.read_structure(tmp_path / "out.cif").chains == (chain,)


def test_atoms_of_which_only_the_element_is_known_get_names(tmp_path) -> None:
    from mpnn_core import ContextAtoms

    around = ContextAtoms.of(np.eye(3) * 9, [6, 6, 30])
    mpnn.write_structure(tmp_path / "out.cif", replace(SMALL, context=around))
    (ligand,) = (
        residue
        for chain in gemmi.read_structure(str(tmp_path / "out.cif"))[0]
        for residue in chain
        if residue.het_flag == "H"
    )
    assert [atom.name for atom in ligand] == ["C1", "C2", "ZN3"]


LONG = MOST_ATOMS // 4 + 1


def long(length: int) -> mpnn.Structure:
    coords = np.tile(SMALL.coords, (length // 68 + 1, 1, 1))[:length]
    return mpnn.Structure.from_backbone(coords, "A" * length, residue_index=np.arange(length) % 999)


@pytest.mark.parametrize(
    ("structure", "why"),
    [
        (replace(SMALL, chain_ids=np.full(68, "AA")), "chain id 'AA' has more than one letter"),
        (replace(SMALL, residue_numbers=np.arange(9950, 10018).astype(str)), "number 10017"),
        (replace(SMALL, residue_numbers=np.arange(-1000, -932).astype(str)), "number -1000"),
        (replace(SMALL, coords=SMALL.coords + 9999), "a coordinate is not between"),
        (replace(SMALL, coords=SMALL.coords - 1050), "a coordinate is not between"),
        (long(LONG), "100,000 atoms are more than 99,998"),
    ],
    ids=["chain", "number", "negative", "far", "far back", "atoms"],
)
def test_what_pdb_has_no_room_for_is_said_and_mmcif_holds_it(tmp_path, structure, why) -> None:
    assert why in pdb_cannot_hold(structure)
    with pytest.raises(mpnn.StructureError, match=f"{why}.*write .cif"):
        mpnn.write_structure(tmp_path / "out.pdb", structure)
    assert not (tmp_path / "out.pdb").exists()
    if len(structure) == 68:
        mpnn.write_structure(tmp_path / "out.cif", structure)
        found = mpnn.read_structure(tmp_path / "out.cif")
        assert found.chains == structure.chains
        assert np.array_equal(found.residue_numbers, structure.residue_numbers)


def test_the_largest_that_fit_in_pdb_do(tmp_path) -> None:
    numbers = np.arange(9932, 10000).astype(str)
    structure = replace(SMALL, residue_numbers=numbers)
    assert pdb_cannot_hold(structure) == ""
    mpnn.write_structure(tmp_path / "out.pdb", structure)
    assert np.array_equal(mpnn.read_structure(tmp_path / "out.pdb").residue_numbers, numbers)
    assert pdb_cannot_hold(long(LONG - 1)) == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((SMALL, "A"), "68 residues; the sequence to write has 1"),
        ((SMALL, "B" * 68), "letter 'B'"),
        ((SMALL, None, np.zeros(3)), r"b_factor must be \(68,\)"),
        ((SMALL, None, np.full(68, np.nan)), "finite"),
        ((replace(SMALL, residue_numbers=np.full(68, "1x2")),), "residue number '1x2'"),
    ],
    ids=["length", "letter", "B-factors", "NaN", "number"],
)
def test_what_does_not_fit_is_refused(tmp_path, arguments, said) -> None:
    with pytest.raises(mpnn.StructureError, match=said):
        mpnn.write_structure(tmp_path / "out.pdb", *arguments)
    with pytest.raises(mpnn.StructureError, match=r"ends in \.pdb or \.cif"):
        mpnn.write_structure(tmp_path / "out.xyz", SMALL)
    assert list(tmp_path.iterdir()) == []


# The command.


@pytest.mark.parametrize("ending", ["pdb", "cif"])
def test_the_command_threads_each_design(tmp_path, model, ending) -> None:
    out = tmp_path / "out"
    arguments = ["design", path_of("6MRR"), "-n", 2, "--seed", 5, "--out", out]
    assert main([*map(str, arguments), "--structures", ending]) == 0
    names = sorted(path.name for path in (out / "structures").iterdir())
    assert names == [f"6MRR_1.{ending}", f"6MRR_2.{ending}"]
    designs = model.design(SMALL, 2, seed=5)
    for name, design, confidence in zip(names, designs, designs.residue_confidence, strict=True):
        path = out / "structures" / name
        assert mpnn.read_structure(path).sequence == design.sequence
        b_factors = [b for *_, b in residues(path).values()]
        assert b_factors == pytest.approx(confidence.tolist(), abs=0.006)


def test_the_command_writes_mmcif_where_pdb_has_no_room(tmp_path, capsys) -> None:
    file, out = tmp_path / "wide.cif", tmp_path / "out"
    mpnn.write_structure(file, replace(SMALL, chain_ids=np.full(68, "LONG")))
    assert main(["design", str(file), "--structures", "pdb", "--out", str(out)]) == 0
    assert "wide: written as mmCIF, for chain id 'LONG' has more" in capsys.readouterr().err
    assert [path.name for path in (out / "structures").iterdir()] == ["wide_1.cif"]
