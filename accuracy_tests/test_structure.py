"""Structures: every awkward property on a real file that has it, and every error."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mpnn_core.constants import ALPHABET, BACKBONE
from mpnn_core.structures.readers import read_structure
from mpnn_core.structures.structure import Structure, StructureError

STRUCTURES = Path(__file__).parents[1] / "fixtures" / "structures"

# file: residues of each protein chain; residues with an incomplete backbone.
CONTENTS = {
    "1A8O.cif": ({"A": 70}, 0),
    "1GBT.cif": ({"A": 223}, 0),
    "1pwc.pdb": ({"A": 345}, 0),
    "2OFG.cif": ({"X": 106}, 0),
    "2XHE.cif": ({"A": 567, "B": 220}, 1),
    "3HTN.pdb": ({"A": 143, "B": 139, "C": 143}, 0),
    "4CUP.cif": ({"A": 115}, 0),
    "4GYT.pdb": ({"A": 177, "B": 177}, 0),
    "4YOW.pdb": ({"A": 227, "C": 227, "E": 227}, 0),
    "4ZHL.cif": ({"P": 10, "U": 247}, 0),
    "5L33.pdb": ({"A": 106}, 0),
    "6EHB.pdb": ({"A": 318, "B": 317, "C": 320}, 0),
    "6MRR.pdb": ({"A": 68}, 0),
    "mmcif_3o21.cif": ({"A": 374, "B": 365, "C": 375, "D": 375}, 0),
    "pdb1ubi.pdb": ({"A": 76}, 0),
    "pdb3enl.pdb": ({"A": 436}, 0),
    "pdb3hsy.pdb": ({"A": 354, "B": 376}, 0),
}

# Residues whose backbone is of another conformer than the original's, which takes the first of
# each atom in the file, not the one of the highest occupancy.
OTHER_CONFORMER = {
    "1pwc.pdb": [("A", "118"), ("A", "147")],
    "3HTN.pdb": [("C", "167")],
    "4GYT.pdb": [("A", "170")],
    "5L33.pdb": [("A", "40"), ("A", "74")],
    "pdb3hsy.pdb": [("B", "54"), ("B", "101")],
}

# file: residues with alternative conformations of the backbone; insertion codes; breaks.
ALTLOC_RESIDUES = {"3HTN.pdb": 35, "4CUP.cif": 1, "1pwc.pdb": 5, "pdb3hsy.pdb": 14}
INSERTION_CODES = {"4ZHL.cif": 19, "1GBT.cif": 4}
BREAKS = {"2XHE.cif": 3, "3HTN.pdb": 1, "6EHB.pdb": 2, "mmcif_3o21.cif": 6, "pdb3hsy.pdb": 1}

TS50 = sorted((STRUCTURES / "ts50").glob("*.pdb.gz"))
PDB_FILES = [STRUCTURES / name for name in CONTENTS if name.endswith(".pdb")]


def text_of(name: str) -> str:
    path = STRUCTURES / name
    return (
        gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    ).decode()


def assert_same(a: Structure, b: Structure) -> None:
    assert a.sequence == b.sequence
    for what in ("chain_ids", "residue_index", "residue_numbers", "mask", "coords"):
        np.testing.assert_array_equal(getattr(a, what), getattr(b, what), err_msg=what)


def biopython_model(name: str, model: int = 0):
    from Bio.PDB import MMCIFParser, PDBParser

    parser = (MMCIFParser if name.endswith(".cif") else PDBParser)(QUIET=True)
    return list(parser.get_structure("", STRUCTURES / name))[model]


def saved(writer) -> str:
    stream = io.StringIO()
    writer.save(stream)
    return stream.getvalue()


@pytest.fixture
def ubiquitin() -> list[str]:
    """The lines of pdb1ubi.pdb: one chain of 76 residues with nothing awkward in it."""
    return text_of("pdb1ubi.pdb").splitlines(keepends=True)


@pytest.fixture
def reading(tmp_path):
    """Reads a structure from lines, or from text or bytes."""

    def read(content, **options):
        path = tmp_path / "edited.pdb"
        if not isinstance(content, bytes):
            content = "".join(content).encode()
        path.write_bytes(content)
        return read_structure(path, **options)

    return read


def edited(lines: list[str], number: int, edit) -> list[str]:
    """The lines with `edit(line)` in place of each ATOM record of one residue ("" drops it)."""
    return [
        edit(line) if line.startswith("ATOM") and int(line[22:26]) == number else line
        for line in lines
    ]


def residue_lines(lines: list[str], number: int) -> list[str]:
    return [line for line in lines if line.startswith("ATOM") and int(line[22:26]) == number]


def moved(line: str, by: float) -> str:
    return f"{line[:30]}{float(line[30:38]) + by:8.3f}{line[38:]}"


# ---------------------------------------------------------------------------- what files hold


def test_the_fixtures_are_the_recorded_ones():
    recorded = dict(
        reversed(line.split(maxsplit=1))
        for line in (STRUCTURES / "SHA256SUMS").read_text().splitlines()
    )
    found = {
        f"./{path.relative_to(STRUCTURES)}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in STRUCTURES.rglob("*.*")  # all but SHA256SUMS
    }
    assert found == recorded


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_has_its_chains_and_residues(name):
    s = read_structure(STRUCTURES / name)
    sizes = {chain: int((s.chain_ids == chain).sum()) for chain in s.chains}
    assert (sizes, int((~s.mask).sum())) == CONTENTS[name]
    assert s.name == name.rpartition(".")[0]
    assert s.coords.shape == (len(s), 4, 3)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the original's own
@pytest.mark.parametrize("path", [*PDB_FILES, *TS50], ids=lambda path: path.name)
def test_layout_sequence_and_coordinates_are_the_originals(path, tmp_path):
    from protein_mpnn_utils import parse_PDB, tied_featurize

    plain = tmp_path / f"{path.name.split('.')[0]}.pdb"
    plain.write_text(text_of(path.relative_to(STRUCTURES)))
    chains = {line[21] for line in plain.read_text().splitlines() if line.startswith("ATOM")}
    parsed = parse_PDB(str(plain), sorted(chains))[0]
    X, S, mask, _, _, encoding, *_ = features = tied_featurize([parsed], "cpu", None)
    residue_idx = features[12]
    # The original has a row for each missing number and for each nucleotide; ours has none.
    rows = (mask[0] == 1) | (S[0] != ALPHABET.index("X"))
    letters = sorted(key.removeprefix("seq_chain_") for key in parsed if key.startswith("seq_"))
    chain_ids = np.array(letters)[encoding[0, rows].long().numpy() - 1]
    residue_idx = residue_idx[0, rows].numpy()

    s = read_structure(path)
    np.testing.assert_array_equal(s.chain_ids, chain_ids)
    if path.name == "4YOW.pdb":
        # Chains of DNA before C and E take numbers in the original; within a chain, the only
        # place where differences count, nothing changes.
        for chain in s.chains:
            here = s.chain_ids == chain
            shift = residue_idx[here] - s.residue_index[here]
            assert set(shift - shift[0]) == {0}, f"chain {chain}"
    else:
        np.testing.assert_array_equal(s.residue_index, residue_idx)
    assert s.sequence == "".join(ALPHABET[token] for token in S[0, rows])
    np.testing.assert_array_equal(s.tokens, S[0, rows].numpy())
    np.testing.assert_array_equal(s.mask, mask[0, rows].numpy() == 1)
    differs = (s.coords != X[0, rows].numpy()).any((1, 2)) & s.mask
    residues = zip(s.chain_ids[differs], s.residue_numbers[differs], strict=True)
    assert list(residues) == OTHER_CONFORMER.get(path.name, [])


# ------------------------------------------------------------------- one property, one file


@pytest.mark.parametrize("name", ALTLOC_RESIDUES)
def test_a_backbone_is_of_one_conformer_and_that_of_the_highest_occupancy(name):
    s = read_structure(STRUCTURES / name)
    model, disordered = biopython_model(name), 0
    for i, (chain, number) in enumerate(zip(s.chain_ids, s.residue_numbers, strict=True)):
        [residue] = [
            r for r in model[str(chain)].get_unpacked_list()
            if f"{r.id[1]}{r.id[2].strip()}" == number and r.id[0] in (" ", "H_MSE")
        ]  # fmt: skip
        backbone = [a for a in residue.get_unpacked_list() if a.name in BACKBONE]
        labels = {a.altloc for a in backbone} - {" "}
        if not labels:
            continue
        disordered += 1
        occupancy = {k: sum(a.occupancy for a in backbone if a.altloc == k) for k in labels}
        taken = [
            {a.altloc for a in backbone if a.name == atom and (a.coord == s.coords[i, n]).all()}
            for n, atom in enumerate(BACKBONE)
        ]
        of_one = set.intersection(*({*labels} if " " in found else found for found in taken))
        assert of_one, f"{chain}{number} mixes conformers: {taken}"
        assert max(occupancy[k] for k in of_one) == max(occupancy.values()), f"{chain}{number}"
    assert disordered == ALTLOC_RESIDUES[name]


@pytest.mark.parametrize("name", INSERTION_CODES)
def test_each_insertion_code_is_a_residue_of_its_own_place(name):
    s = read_structure(STRUCTURES / name)
    inserted = [i for i, number in enumerate(s.residue_numbers) if number[-1].isalpha()]
    assert len(inserted) == INSERTION_CODES[name]
    for i in inserted:
        # The number without a code may itself be missing: the first then advances by a number.
        assert s.residue_index[i] - s.residue_index[i - 1] == 1, s.residue_numbers[i]
    keys = [
        (chain, int(number.rstrip("ABCDEFGHIJ")), number)
        for chain, number in zip(s.chain_ids, s.residue_numbers, strict=True)
    ]
    assert keys == sorted(keys)


def test_the_first_of_several_models_is_read():
    s = read_structure(STRUCTURES / "2OFG.cif")
    first, second = (
        np.array([[r[a].coord for a in BACKBONE] for r in biopython_model("2OFG.cif", n)["X"]])
        for n in (0, 1)
    )
    np.testing.assert_array_equal(s.coords, first)
    assert not (s.coords[: len(second)] == second).any()


@pytest.mark.parametrize("name", BREAKS)
def test_numbers_missing_from_a_chain_advance_the_residue_index(name):
    s = read_structure(STRUCTURES / name)
    breaks = 0
    for i, j in pairwise(range(len(s))):
        step = s.residue_index[j] - s.residue_index[i]
        if s.chain_ids[i] != s.chain_ids[j]:
            assert step == 101, f"between chains, at row {j}"
            continue
        assert step == int(s.residue_numbers[j]) - int(s.residue_numbers[i])
        breaks += step > 1
    assert breaks == BREAKS[name]


def test_a_residue_with_an_incomplete_backbone_is_kept_and_masked():
    s = read_structure(STRUCTURES / "2XHE.cif")
    [i] = np.flatnonzero(~s.mask)
    assert (s.chain_ids[i], s.residue_numbers[i], s.sequence[i]) == ("A", "617", "A")
    assert np.isnan(s.coords[i]).all(1).tolist() == [False, True, True, True]


def test_hydrogens_change_nothing(reading):
    lines = text_of("6MRR.pdb").splitlines(keepends=True)
    heavy = [line for line in lines if line[:4] != "ATOM" or line[76:78].strip() != "H"]
    assert len(lines) - len(heavy) == 583
    assert_same(read_structure(STRUCTURES / "6MRR.pdb"), reading(heavy))


@pytest.mark.parametrize(("name", "count"), [("3HTN.pdb", 9), ("1A8O.cif", 4)])
def test_selenomethionine_is_methionine(name, count):
    s = read_structure(STRUCTURES / name)
    selenium = [
        (chain.id, str(residue.id[1]))
        for chain in biopython_model(name)
        for residue in chain
        if residue.resname == "MSE"
    ]
    assert len(selenium) == count
    letter = {(c, n): a for c, n, a in zip(s.chain_ids, s.residue_numbers, s.sequence, strict=True)}
    assert {letter[place] for place in selenium} == {"M"}


# ------------------------------------------------------------------------- residues and names


@pytest.mark.parametrize(
    ("residue", "letter"),
    [
        ("SEP", "S"), ("TPO", "T"), ("PTR", "Y"), ("MSE", "M"), ("HYP", "P"), ("KCX", "K"),
        ("GLH", "E"), ("ASH", "D"), ("CYX", "C"), ("CYM", "C"), ("LYN", "K"), ("HIP", "H"),
        ("HIE", "H"), ("HID", "H"), ("HSD", "H"), ("HSP", "H"), ("SEC", "C"), ("UNK", "X"),
        ("XYZ", "X"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("record", ["ATOM  ", "HETATM"])
def test_a_name_in_the_chain_is_read_as_its_parent(ubiquitin, reading, record, residue, letter):
    plain = reading(ubiquitin)
    s = reading(edited(ubiquitin, 20, lambda line: f"{record}{line[6:17]}{residue}{line[20:]}"))
    assert s.sequence == plain.sequence[:19] + letter + plain.sequence[20:]
    np.testing.assert_array_equal(s.coords, plain.coords)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the original's own
def test_the_original_leaves_a_modified_residue_out_and_we_read_it(ubiquitin, tmp_path):
    from protein_mpnn_utils import parse_PDB

    path = tmp_path / "sep.pdb"
    path.write_text(
        "".join(edited(ubiquitin, 20, lambda line: f"HETATM{line[6:17]}SEP{line[20:]}"))
    )
    s, theirs = read_structure(path), parse_PDB(str(path), ["A"])[0]["seq_chain_A"]
    assert (s.sequence[19], theirs[19]) == ("S", "-")
    assert s.sequence[:19] + s.sequence[20:] == theirs[:19] + theirs[20:]
    assert s.mask.all()


def test_hse_is_histidine_with_a_ring_and_homoserine_without(ubiquitin, reading):
    def renamed(line):
        return f"{line[:17]}HSE{line[20:]}"

    plain = reading(ubiquitin)
    assert (plain.sequence[67], plain.sequence[19]) == ("H", "S")
    assert reading(edited(ubiquitin, 68, renamed)).sequence[67] == "H"
    assert reading(edited(ubiquitin, 20, renamed)).sequence[19] == "S"


@pytest.mark.parametrize("residue", ["GLU", "SEP", "UNK"])
def with_ligand(lines: list[str], residue: str, *shifts: float, altlocs: str = " ") -> list[str]:
    """A copy of residue 18 as a HETATM on its own, in as many conformers as there are shifts."""
    ligand = [
        moved(f"HETATM{n[6:16]}{altloc}{residue}{n[20:22]} 901{n[26:54]}  0.50{n[60:]}", by=shift)
        for shift, altloc in zip(shifts, altlocs, strict=True)
        for n in residue_lines(lines, 18)
    ]
    end = lines.index(next(line for line in lines if line.startswith("HETATM")))
    return [*lines[:end], *ligand, *lines[end:]]


@pytest.mark.parametrize("residue", ["GLU", "SEP", "UNK"])
def test_an_amino_acid_that_is_a_ligand_is_no_residue(ubiquitin, reading, residue):
    assert_same(reading(with_ligand(ubiquitin, residue, 30.0)), reading(ubiquitin))


def test_the_conformers_of_a_ligand_are_not_bonded_to_each_other(ubiquitin, reading):
    N, _, C, _ = reading(ubiquitin).coords[17]
    shift = C[0] - N[0]  # along x, the second N comes as near to the first C as it can
    assert np.hypot(*(C - N)[1:]) < 2
    lines = with_ligand(ubiquitin, "GLU", 30.0, 30.0 + shift, altlocs="AB")
    assert_same(reading(lines), reading(ubiquitin))


def test_selenomethionine_needs_no_bond_as_in_the_original(ubiquitin, reading):
    s = reading(with_ligand(ubiquitin, "MSE", 30.0))
    assert (s.sequence[-1], s.residue_numbers[-1]) == ("M", "901")


def test_residues_are_laid_out_as_in_the_file_not_by_number(ubiquitin, reading):
    first = ubiquitin.index(residue_lines(ubiquitin, 1)[0])
    early = residue_lines(ubiquitin, 20)
    others = edited(ubiquitin, 20, lambda line: "")
    s = reading([*others[:first], *early, *others[first:]])
    plain = reading(ubiquitin)
    order = [19, *range(19), *range(20, 76)]
    assert s.residue_numbers.tolist() == plain.residue_numbers[order].tolist()
    np.testing.assert_array_equal(s.coords, plain.coords[order])
    # No peptide bond leads from 20 to 1; a number is missing between 19 and 21.
    assert np.diff(s.residue_index).tolist() == [100, *[1] * 18, 2, *[1] * 55]


def test_a_modified_residue_at_the_end_of_a_chain_needs_one_bond_only(ubiquitin, reading):
    for number in (1, 76):
        s = reading(edited(ubiquitin, number, lambda line: f"HETATM{line[6:17]}SEP{line[20:]}"))
        assert (len(s), s.sequence[number - 1]) == (76, "S")


def test_nucleotides_waters_and_ligands_are_no_residues():
    s = read_structure(STRUCTURES / "4YOW.pdb")
    assert {chain.id for chain in biopython_model("4YOW.pdb")} == {*"ABCDEF"}
    assert s.chains == ("A", "C", "E")
    assert "X" not in s.sequence


def test_calcium_is_no_residue_though_its_atom_is_named_ca(ubiquitin, reading):
    def calcium(line):
        return f"{line[:12]}CA    CA{line[20:]}" if line[12:16] == " CA " else ""

    assert reading(edited(ubiquitin, 76, calcium)).residue_numbers[-1] == "75"


# ---------------------------------------------------------------------------------- conformers


def with_conformers(lines: list[str], number: int, *variants: tuple[str, str, float]) -> list[str]:
    """One residue as several (altloc, residue name, occupancy), each 1 Å further along x."""
    copies = [
        moved(
            f"{line[:6]}{int(line[6:11]) + 100 * shift:5d}{line[11:16]}{altloc}{name}"
            f"{line[20:54]}{occupancy:6.2f}{line[60:]}",
            by=shift,
        )
        for shift, (altloc, name, occupancy) in enumerate(variants)
        for line in residue_lines(lines, number)
    ]
    at = lines.index(residue_lines(lines, number)[0])
    rest = edited(lines, number, lambda line: "")
    return [*rest[:at], *copies, *rest[at:]]


@pytest.mark.parametrize(
    ("variants", "letter", "shift"),
    [
        ([("A", "SER", 0.4), ("B", "SER", 0.6)], "S", 1),
        ([("A", "SER", 0.6), ("B", "SER", 0.4)], "S", 0),
        ([("A", "SER", 0.5), ("B", "SER", 0.5)], "S", 0),
        ([("B", "SER", 0.5), ("A", "SER", 0.5)], "S", 0),
        ([("A", "SER", 0.4), ("B", "THR", 0.6)], "T", 1),
        ([("A", "SER", 0.5), ("B", "THR", 0.5)], "S", 0),
        ([("A", "SER", 0.2), ("B", "THR", 0.3), ("C", "ALA", 0.5)], "A", 2),
    ],
)
def test_of_conformers_the_highest_occupancy_counts_then_the_first(
    ubiquitin, reading, variants, letter, shift
):
    plain, s = reading(ubiquitin), reading(with_conformers(ubiquitin, 20, *variants))
    assert (len(s), s.sequence[19]) == (76, letter)
    np.testing.assert_allclose(s.coords[19, :, 0] - plain.coords[19, :, 0], shift, atol=2e-5)


def test_one_conformer_may_be_a_modified_residue(ubiquitin, reading):
    lines = with_conformers(ubiquitin, 20, ("A", "SER", 0.3), ("B", "SEP", 0.7))
    lines = [f"HETATM{line[6:]}" if line[16:20] == "BSEP" else line for line in lines]
    # 1 Å along x the bonds are still below 2 Å.
    plain, s = reading(ubiquitin), reading(lines)
    assert (len(s), s.sequence[19]) == (76, "S")
    np.testing.assert_allclose(s.coords[19, :, 0] - plain.coords[19, :, 0], 1, atol=2e-5)


def test_a_conformer_takes_the_atoms_that_have_no_label(ubiquitin, reading):
    def labelled(line):
        if line[12:16] not in (" CA ", " CB "):
            return line
        a, b = (
            f"{line[:16]}{k}{line[17:54]}{o:6.2f}{line[60:]}" for k, o in [("A", 0.3), ("B", 0.7)]
        )
        return a + moved(b, by=0.5)

    plain, s = reading(ubiquitin), reading(edited(ubiquitin, 20, labelled))
    shift = s.coords[19, :, 0] - plain.coords[19, :, 0]
    np.testing.assert_allclose(shift, [0, 0.5, 0, 0], atol=2e-5)
    assert s.mask.all()


def test_a_labelled_atom_comes_before_an_unlabelled_one_of_its_name(ubiquitin, reading):
    def doubled(line):
        if line[12:16] != " CA ":
            return line
        serial, labelled = int(line[6:11]) + 5000, moved(line, by=0.5)
        return (
            f"{line[:54]}  0.30{line[60:]}"
            f"{line[:6]}{serial:5d}{line[11:16]}B{labelled[17:54]}  0.70{line[60:]}"
        )

    plain, s = reading(ubiquitin), reading(edited(ubiquitin, 20, doubled))
    shift = s.coords[19, :, 0] - plain.coords[19, :, 0]
    np.testing.assert_allclose(shift, [0, 0.5, 0, 0], atol=2e-5)


# --------------------------------------------------------------------------- missing coordinates


@pytest.mark.parametrize("atom", BACKBONE)
def test_a_missing_or_nan_atom_masks_its_residue_and_moves_no_other(ubiquitin, reading, atom):
    plain = reading(ubiquitin)
    missing = reading(edited(ubiquitin, 20, lambda n: "" if n[12:16].strip() == atom else n))
    unknown = reading(
        edited(
            ubiquitin, 20,
            lambda n: f"{n[:30]}{'nan':>8}{n[38:]}" if n[12:16].strip() == atom else n,
        )
    )  # fmt: skip
    for s in (missing, unknown):
        assert np.flatnonzero(~s.mask).tolist() == [19]
        assert s.sequence == plain.sequence
        np.testing.assert_array_equal(s.residue_index, plain.residue_index)


def test_unknown_mmcif_coordinates_mask_their_residue(reading):
    text = text_of("1A8O.cif")
    known = "ATOM   2   C  CA  . MSE A 1 1  ? 20.255 33.101 26.891"
    assert text.count(known) == 1
    for unknown in "?.":
        s = reading(text.replace(known, known.replace("20.255", unknown)))
        assert np.flatnonzero(~s.mask).tolist() == [0]


def test_an_infinite_coordinate_is_an_error(ubiquitin, reading):
    lines = edited(ubiquitin, 20, lambda line: f"{line[:30]}{'inf':>8}{line[38:]}")
    with pytest.raises(StructureError, match="infinite") as raised:
        reading(lines)
    assert (raised.value.chain, raised.value.residue) == ("A", "20")


def test_a_record_without_an_occupancy_is_read(ubiquitin, reading):
    assert_same(reading([line[:54] + "\n" for line in ubiquitin]), reading(ubiquitin))


# ------------------------------------------------------------------------------ chain selection


@pytest.mark.parametrize("chains", ["C,A", "A, C", ["A", "C"], ("C", "A", "A")])
def test_chains_are_selected_and_laid_out_by_id(chains):
    s, whole = (read_structure(STRUCTURES / "3HTN.pdb", c) for c in (chains, None))
    assert s.chains == ("A", "C")
    kept = whole.chain_ids != "B"
    np.testing.assert_array_equal(s.coords, whole.coords[kept])
    # A chain that was not asked for takes no numbers.
    assert s.residue_index[143] - s.residue_index[142] == 101


@pytest.mark.parametrize(
    ("chains", "chain", "message"),
    [
        ("Z", "Z", "is not there; protein chains there: A, C, E"),
        ("A,Z", "Z", "is not there; protein chains there: A, C, E"),
        (["AC"], "AC", "is not there; protein chains there: A, C, E"),
        ("B", "B", "is no protein; protein chains there: A, C, E"),
        ([], None, "no chain asked for; protein chains there: A, C, E"),
    ],
)
def test_a_chain_that_is_not_there_is_an_error_that_lists_those_that_are(chains, chain, message):
    with pytest.raises(StructureError, match=message) as raised:
        read_structure(STRUCTURES / "4YOW.pdb", chains)
    assert raised.value.chain == chain
    assert raised.value.file == str(STRUCTURES / "4YOW.pdb")


def test_a_chain_without_an_id_is_read(ubiquitin, reading):
    blank = [f"{n[:21]} {n[22:]}" if n.startswith(("ATOM", "HETATM")) else n for n in ubiquitin]
    assert reading(blank).chains == (" ",)
    assert_same(reading(blank, chains=" "), reading(blank))


# -------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("name", ["5L33.pdb", "1A8O.cif"])
@pytest.mark.parametrize("saved_as", ["plain", "x.cif", "x.pdb", "x.gz", "x.pdb.gz", "x.cif.gz"])
def test_the_content_decides_the_format_not_the_name(name, saved_as, tmp_path):
    data = (STRUCTURES / name).read_bytes()
    path = tmp_path / saved_as
    path.write_bytes(gzip.compress(data) if saved_as.endswith("gz") else data)
    s = read_structure(path)
    assert_same(s, read_structure(STRUCTURES / name))
    assert s.name == saved_as.split(".")[0]


@pytest.mark.parametrize(
    "edit",
    [
        str.encode,
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: ("\ufeff" + text).encode(),
        lambda text: text.rstrip().encode(),
        lambda text: text.replace("UBIQUITIN", "UB\xcfQUITIN").encode("latin1"),
    ],
    ids=["as is", "CRLF", "byte order mark", "no last newline", "8-bit"],
)
def test_newlines_and_encodings_change_nothing(ubiquitin, reading, edit):
    assert_same(reading(edit("".join(ubiquitin))), reading(ubiquitin))


def test_an_mmcif_may_begin_with_comments_and_blank_lines(reading):
    text = text_of("1A8O.cif")
    assert_same(reading("# made by\n\n#\n" + text), reading(text))


@pytest.mark.parametrize("column", ["pdbx_PDB_model_num", "pdbx_PDB_ins_code", "occupancy"])
def test_mmcif_columns_that_are_optional_may_be_absent(reading, column):
    from Bio.PDB.MMCIF2Dict import MMCIF2Dict
    from Bio.PDB.mmcifio import MMCIFIO

    data = MMCIF2Dict(STRUCTURES / "1A8O.cif")
    del data[f"_atom_site.{column}"]
    writer = MMCIFIO()
    writer.set_dict(data)
    assert_same(reading(saved(writer)), read_structure(STRUCTURES / "1A8O.cif"))


@pytest.mark.parametrize(
    "name",
    ["1GBT.cif", "1pwc.pdb", "2OFG.cif", "2XHE.cif", "3HTN.pdb", "4CUP.cif", "4YOW.pdb",
     "4ZHL.cif", "5L33.pdb", "6EHB.pdb", "6MRR.pdb", "pdb3hsy.pdb"],
)  # fmt: skip
def test_a_structure_written_as_pdb_and_as_mmcif_reads_the_same(name, reading):
    from Bio.PDB import MMCIFIO, PDBIO

    s = read_structure(STRUCTURES / name)
    for writer in (PDBIO(), MMCIFIO()):
        writer.set_structure(biopython_model(name).get_parent())
        assert_same(reading(saved(writer)), s)


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a structure: the file is empty"),
        (b"\n \n", "not a structure: the file is empty"),
        (b"\x7fELF\0\0\1", "not a structure: binary data"),
        (b">5L33\nMKVLL\n", "not a structure: neither PDB atom records nor an mmCIF"),
        (b"data_x\n_cell.length_a 10\n", "not a structure: an mmCIF without _atom_site.Cartn_x"),
        (b"data_x\nloop_\n'", "truncated, or not mmCIF"),
        (b"data_x\nloop_\n1 2\n", "truncated, or not mmCIF"),
        (b"data_x\n;text\n", "truncated, or not mmCIF"),
        (b"\x1f\x8bnot gzip at all", "damaged gzip file"),
    ],
)  # fmt: skip
def test_what_is_no_structure_is_an_error(content, message, reading):
    with pytest.raises(StructureError, match=message) as raised:
        reading(content)
    assert raised.value.file.endswith("edited.pdb")


def test_no_such_file_and_a_directory_are_errors(tmp_path):
    with pytest.raises(StructureError, match=r"none\.pdb: no such file"):
        read_structure(tmp_path / "none.pdb")
    with pytest.raises(StructureError, match=r"[Ii]s a directory|it is a folder"):
        read_structure(tmp_path)


def test_no_protein_chain_is_an_error(ubiquitin, reading):
    with pytest.raises(StructureError, match="no protein chain"):
        reading([line for line in ubiquitin if not line.startswith("ATOM")])


def test_nothing_with_a_complete_backbone_is_an_error_that_says_what_is_missing(ubiquitin, reading):
    carbons = [n for n in ubiquitin if not n.startswith("ATOM") or n[12:16] == " CA "]
    with pytest.raises(StructureError, match=r"none of the 76 .* missing: N, C, O"):
        reading(carbons)


@pytest.mark.parametrize(
    ("columns", "value", "message"),
    [
        (slice(30, 38), "********", "line {}: unreadable coordinate '[*]{{8}}'"),
        (slice(22, 26), " 2O ", "line {}: unreadable residue number ' 2O '"),
        (slice(54, 60), " x.xx ", "line {}: unreadable occupancy ' x.xx '"),
    ],
)
def test_an_unreadable_field_is_an_error_that_names_its_line(
    ubiquitin, reading, columns, value, message
):
    at = ubiquitin.index(residue_lines(ubiquitin, 20)[0])
    line = ubiquitin[at]
    ubiquitin[at] = line[: columns.start] + value + line[columns.stop :]
    with pytest.raises(StructureError, match=message.format(at + 1)) as raised:
        reading(ubiquitin)
    assert raised.value.chain == "A"


@pytest.mark.parametrize("value", ["2O.255", "inf", "1e999"])
def test_an_unreadable_or_infinite_mmcif_coordinate_names_its_residue(reading, value):
    text = text_of("1A8O.cif").replace("MSE A 1 1  ? 20.255", f"MSE A 1 1  ? {value}")
    with pytest.raises(StructureError, match=r"unreadable|infinite") as raised:
        reading(text)
    assert (raised.value.chain, raised.value.residue) == ("A", "151")


# An entry of the PDB ends as its format says, so that no cut goes unnoticed: what can be read of
# one is what the whole file says.
@pytest.mark.parametrize("name", ["5L33.pdb", "1A8O.cif"])
def test_an_entry_cut_anywhere_is_an_error_or_complete(name, tmp_path_factory):
    whole, data = read_structure(STRUCTURES / name), (STRUCTURES / name).read_bytes()
    path = tmp_path_factory.mktemp("cut") / "cut"
    cuts = {*np.linspace(1, len(data), 20, dtype=int), len(data) // 2, len(data) - 1}
    atoms = data.find(b"\nATOM")
    lines = [atoms + 1 + data[atoms + 1 : at].rfind(b"\n") for at in (len(data) // 2, 99_000)]
    errors = 0
    for cut in sorted(cuts | {at + k for at in lines for k in (0, 1, 2, 3, 4, 30)}):
        path.write_bytes(data[:cut])
        try:
            s = read_structure(path)
        except StructureError:
            errors += 1
        else:
            assert_same(s, whole)
    assert errors > 20, errors


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_bare_pdb_cut_within_a_record_is_an_error(data, tmp_path_factory):
    text = text_of("ts50/2xcjA.pdb.gz")
    starts = [at for at in range(0, len(text)) if text.startswith("ATOM", at)][1:]
    cut = data.draw(st.sampled_from(starts)) + data.draw(st.integers(1, 65))
    path = tmp_path_factory.getbasetemp() / "bare.pdb"
    path.write_text(text[:cut])
    with pytest.raises(StructureError, match="truncated"):
        read_structure(path)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_damaged_file_is_read_or_is_an_error_of_ours(data, tmp_path_factory):
    name = data.draw(st.sampled_from(["3HTN.pdb", "1A8O.cif"]))
    lines = text_of(name).splitlines(keepends=True)
    first = next(n for n, line in enumerate(lines) if line.startswith(("ATOM", "_atom_site.")))
    lines = [*(["data_x\n", "loop_\n"] if name.endswith("cif") else []), *lines[first:][:150]]
    for _ in range(data.draw(st.integers(1, 10))):
        n = data.draw(st.integers(2, len(lines) - 1))
        at = data.draw(st.integers(0, len(lines[n]) - 1))
        new = data.draw(st.sampled_from(["", " ", ".", "?", "1", "A", "B", "-", "'", "#", "\n"]))
        lines[n] = lines[n][:at] + new + lines[n][at + 1 :]
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_text("".join(lines))
    try:
        s = read_structure(path)
    except StructureError as error:
        assert error.file == str(path)
    else:
        assert s.mask.any()


@pytest.mark.parametrize("values", [1, 5, 12])
def test_a_bare_mmcif_cut_within_a_row_is_an_error(reading, values):
    from Bio.PDB import MMCIFIO

    writer = MMCIFIO()
    writer.set_structure(biopython_model("1A8O.cif"))
    lines = saved(writer).splitlines()
    cut = " ".join(lines[300].split()[:values])
    with pytest.raises(StructureError, match="the _atom_site loop ends within a row"):
        reading("\n".join([*lines[:300], cut]))


def test_a_model_that_is_not_ended_is_an_error(reading):
    from Bio.PDB import PDBIO

    writer = PDBIO()
    writer.set_structure(biopython_model("2OFG.cif").get_parent())
    text = saved(writer)
    second = text.index("MODEL      2")
    with pytest.raises(
        StructureError, match=f"model begun on line {text[:second].count(chr(10)) + 1}"
    ):
        reading(text[: text.index("ATOM", second) + 81 * 5])


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_cut_gzip_file_is_an_error(reading, kept):
    data = (STRUCTURES / "ts50" / "2xcjA.pdb.gz").read_bytes()
    with pytest.raises(StructureError, match="truncated: the gzip stream has no end"):
        reading(data[: int(kept * len(data))])


# -------------------------------------------------------------------------------- from_backbone


@st.composite
def backbones(draw):
    L = draw(st.integers(1, 40))
    finite = st.floats(-999, 999, width=32)
    coords = draw(arrays(np.float32, (L, 4, 3), elements=finite))
    hidden = draw(arrays(bool, (L,)))
    hidden[draw(st.integers(0, L - 1))] = False
    coords[hidden, draw(st.integers(0, 3))] = np.nan
    sequence = draw(st.text(ALPHABET, min_size=L, max_size=L))
    chain_ids = draw(st.lists(st.sampled_from(["A", "B", "AA", "1"]), min_size=L, max_size=L))
    index = draw(arrays(np.int64, (L,), elements=st.integers(-(10**6), 10**6)))
    return coords, sequence, chain_ids, index, hidden


@given(backbones())
def test_from_backbone_keeps_what_it_is_given(backbone):
    coords, sequence, chain_ids, index, hidden = backbone
    s = Structure.from_backbone(coords, sequence, chain_ids, index, name="x")
    np.testing.assert_array_equal(s.coords, coords)
    assert (s.name, s.sequence, s.chain_ids.tolist()) == ("x", sequence, chain_ids)
    assert s.chains == tuple(dict.fromkeys(chain_ids))
    np.testing.assert_array_equal(s.residue_index, index)
    np.testing.assert_array_equal(s.mask, ~hidden)
    assert "".join(ALPHABET[token] for token in s.tokens) == sequence
    assert len(s) == len(sequence)
    assert s.residue_numbers.tolist() == [str(i) for i in index]
    again = Structure.from_backbone(s.coords, s.sequence, s.chain_ids, s.residue_index)
    assert_same(again, s)


def test_from_backbone_numbers_residues_along_and_chains_apart():
    coords = np.ones((5, 4, 3))
    s = Structure.from_backbone(coords, "ACDEX", "BBAAB")
    assert s.chains == ("B", "A")
    assert s.residue_index.tolist() == [0, 1, 102, 103, 4]
    assert s.residue_numbers.tolist() == ["1", "2", "1", "2", "3"]
    assert Structure.from_backbone(coords, "ACDEX").residue_index.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
def test_from_backbone_takes_tensors(dtype):
    coords = torch.arange(24).reshape(2, 4, 3).to(dtype)
    s = Structure.from_backbone(coords, "AC", "AB", torch.tensor([3, 7]))
    np.testing.assert_array_equal(s.coords, np.arange(24, dtype=np.float32).reshape(2, 4, 3))
    assert s.residue_index.tolist() == [3, 7]


def test_from_backbone_equals_the_file_it_came_from():
    s = read_structure(STRUCTURES / "3HTN.pdb")
    t = Structure.from_backbone(s.coords, s.sequence, s.chain_ids, s.residue_index, s.name)
    assert t.name == "3HTN"
    for what in ("coords", "mask", "residue_index", "chain_ids", "tokens"):
        np.testing.assert_array_equal(getattr(s, what), getattr(t, what), err_msg=what)


ONES = np.ones((3, 4, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coords": np.ones((3, 3, 3))}, r"must be \(L, 4, 3\).* got \(3, 3, 3\)"),
        ({"coords": np.ones((3, 4))}, r"must be \(L, 4, 3\).* got \(3, 4\)"),
        ({"coords": "AAA"}, r"must be \(L, 4, 3\) numbers"),
        ({"coords": [[1, 2], [3]]}, r"must be \(L, 4, 3\) numbers"),
        ({"coords": np.ones((0, 4, 3)), "sequence": ""}, "no residue"),
        ({"coords": ONES * np.nan}, "none of the 3 residues has a complete backbone"),
        ({"coords": ONES * 1e39}, "chain A: residue 1: infinite coordinate"),
        ({"sequence": "AC"}, "the sequence has 2 letters for 3 residues"),
        ({"sequence": "AcD"}, "letter 'c' at position 2"),
        ({"sequence": "ACB"}, "letter 'B' at position 3"),
        ({"sequence": "AC-"}, "letter '-' at position 3"),
        ({"sequence": None}, "the sequence must be a str; got NoneType"),
        ({"chain_ids": "AB"}, r"chain_ids must be \(3,\).* got \(2,\)"),
        ({"residue_index": [1, 2]}, r"residue_index must be \(3,\).* got \(2,\)"),
        ({"residue_index": [1.0, 2.0, 3.0]}, "residue_index must be integers; got float64"),
    ],
    ids=lambda value: value if isinstance(value, str) else ", ".join(value),
)
def test_from_backbone_refuses(arguments, message):
    with pytest.raises(StructureError, match=message):
        Structure.from_backbone(**{"coords": ONES, "sequence": "ACD", **arguments})


@pytest.mark.parametrize("infinity", [math.inf, -math.inf])
def test_from_backbone_names_the_residue_of_an_infinite_coordinate(infinity):
    coords = ONES.copy()
    coords[2, 1, 0] = infinity
    with pytest.raises(StructureError, match="chain B: residue 7: infinite") as raised:
        Structure.from_backbone(coords, "ACD", "AAB", [5, 6, 7])
    assert (raised.value.chain, raised.value.residue) == ("B", "7")


def test_the_arrays_of_a_structure_cannot_be_written_to():
    coords = ONES.copy()
    s = Structure.from_backbone(coords, "ACD")
    coords[0] = 5
    assert s.coords[0, 0, 0] == 1
    for what in ("coords", "chain_ids", "residue_index", "residue_numbers", "mask"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(s, what)[0] = 0


def test_a_structure_says_what_it_is():
    s = read_structure(STRUCTURES / "2XHE.cif")
    assert repr(s) == "Structure('2XHE', 787 residues in chains A: 567, B: 220, 1 masked)"
