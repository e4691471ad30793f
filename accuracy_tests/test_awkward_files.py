"""Files that are awkward in a way that people have met: each kind by its rule.

The inputs are written by the functions below from one real chain, ubiquitin (pdb1ubi.pdb), so that
what is right is known: its sequence, its coordinates, its order.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import gemmi
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpnn_core.commands.main import main
from mpnn_core.constants import BACKBONE
from mpnn_core.structures.containers import structure_files
from mpnn_core.structures.names import residue_letters
from mpnn_core.structures.readers import read_structure
from mpnn_core.structures.structure import Structure, StructureError, StructureWarning

STRUCTURES = Path(__file__).parents[1] / "fixtures" / "structures"
UBIQUITIN = [
    line
    for line in (STRUCTURES / "pdb1ubi.pdb").read_text().splitlines()
    if line.startswith("ATOM") and int(line[22:26]) <= 40
]
SEQUENCE = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQ"


def residues(first: int, last: int, lines: Iterable[str] = UBIQUITIN) -> list[str]:
    return [line for line in lines if first <= int(line[22:26]) <= last]


def as_chain(
    lines: Iterable[str], chain: str = "A", start: int | None = None, away: float = 0.0,
    segment: str = "",
) -> list[str]:  # fmt: skip
    """The records with another chain id, numbered from `start`, moved along x."""
    lines = list(lines)
    shift = 0 if start is None else start - int(lines[0][22:26])
    return [
        f"{line[:21]}{chain}{int(line[22:26]) + shift:4d}{line[26:30]}"
        f"{float(line[30:38]) + away:8.3f}{line[38:72]}{segment:4s}{line[76:]}"
        for line in lines
    ]


def renumbered(lines: list[str], labels: Iterable[str]) -> list[str]:
    """The records with other residue numbers, five columns each: number and insertion code."""
    given = dict(zip(dict.fromkeys(line[22:27] for line in lines), labels, strict=True))
    return [f"{line[:22]}{given[line[22:27]]}{line[27:]}" for line in lines]


def columns(lines: Iterable[str], start: int, text: str) -> list[str]:
    return [f"{line[:start]}{text}{line[start + len(text) :]}" for line in lines]


def mmcif(lines: Iterable[str], **changed) -> str:
    """The records as mmCIF. `changed` gives a column another value: one, or a function of a row."""
    rows = []
    order: dict[str, int] = {}
    for line in lines:
        row = {
            "group_PDB": line[:6].strip(), "label_atom_id": line[12:16].strip(),
            "label_alt_id": line[16].strip() or ".", "label_comp_id": line[17:20].strip(),
            "label_asym_id": line[21].strip() or ".",
            "label_seq_id": str(order.setdefault(line[21:27], len(order) + 1)),
            "pdbx_PDB_ins_code": line[26].strip() or "?", "Cartn_x": line[30:38].strip(),
            "Cartn_y": line[38:46].strip(), "Cartn_z": line[46:54].strip(),
            "occupancy": line[54:60].strip(), "auth_seq_id": line[22:26].strip(),
            "auth_asym_id": line[21].strip() or ".", "pdbx_PDB_model_num": "1",
        }  # fmt: skip
        for column, value in changed.items():
            row[column] = value(row) if callable(value) else value
        rows.append(row)
    header = [f"_atom_site.{column}" for column in rows[0]]
    return "\n".join(
        ["data_x", "loop_", *header, *(" ".join(row.values()) for row in rows), "#", ""]
    )


@pytest.fixture
def reading(tmp_path):
    """Reads lines, text or bytes; returns the structure and what was said."""

    def read(content, name: str = "edited.pdb", **options) -> tuple[Structure, str]:
        path = tmp_path / name
        if isinstance(content, list):
            content = "\n".join(content) + "\n"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            structure = read_structure(path, **options)
        assert all(w.category is StructureWarning for w in said)
        return structure, "\n".join(str(w.message) for w in said)

    return read


def longest_bond(s: Structure) -> float:
    return float(np.nanmax(np.linalg.norm(s.coords[:, 3] - s.coords[:, 2], axis=1)))


# --------------------------------------------------------------------- A. what comes twice


@pytest.mark.parametrize(
    ("first", "between", "second"),
    [
        (as_chain(residues(1, 20)), ["TER"], as_chain(residues(1, 20), away=30)),
        (as_chain(residues(1, 20)), ["END"], as_chain(residues(1, 20), away=30)),
        (as_chain(residues(1, 20), " "), ["TER"], as_chain(residues(1, 20), " ", 21, 30)),
        (
            as_chain(residues(1, 20), " ", segment="PROA"), [],
            as_chain(residues(1, 20), " ", 1, 30, segment="PROB"),
        ),
        (as_chain(residues(1, 20)), ["TER"], as_chain(residues(21, 40), start=1, away=30)),
    ],
    ids=["TER", "END", "Amber", "segments", "TER between two proteins"],
)  # fmt: skip
def test_two_molecules_that_a_file_tells_apart_are_two_chains(first, between, second, reading):
    s, said = reading([*first, *between, *second])
    assert len(s) == 40 and len(s.chains) == 2
    assert "2 molecules" in said and f"line {len(first) + len(between) + 1}" in said
    steps = np.diff(s.residue_index)
    assert steps[19] == 101 and set(steps) == {1, 101}


@pytest.mark.parametrize("atom", BACKBONE)
def test_no_atom_comes_from_another_molecule(atom, reading):
    first = [n for n in as_chain(residues(1, 20)) if (n[12:16].strip(), n[22:26]) != (atom, "   5")]
    s, said = reading([*first, "TER", *as_chain(residues(1, 20), away=30)])
    assert np.flatnonzero(~s.mask).tolist() == [4]
    assert f"1 with no {atom}" in said
    assert longest_bond(s) < 2


@pytest.mark.parametrize("start", [1, 5, 20])
def test_two_molecules_that_nothing_tells_apart_are_an_error_with_both_lines(start, reading):
    first = as_chain(residues(1, 20))
    second = as_chain(residues(1, 20), start=start, away=30)
    with pytest.raises(StructureError, match="is there twice") as raised:
        reading([*first, *second])
    assert (raised.value.chain, raised.value.residue) == ("A", str(start))
    at = first.index(residues(start, start, first)[0]) + 1
    assert f"line {at} and line {len(first) + 1}" in str(raised.value)


def test_a_chain_that_is_not_asked_for_fails_nothing_and_is_not_spoken_of(reading):
    two = [*as_chain(residues(1, 20), "B"), *as_chain(residues(1, 20), "B", away=30)]
    with pytest.raises(StructureError, match="is there twice"):
        reading([*as_chain(residues(1, 20)), *two])
    s, said = reading([*as_chain(residues(1, 20)), *two], chains="A")
    assert (s.chains, said) == (("A",), "")


def test_one_author_chain_of_two_label_chains_is_two_chains(reading):
    text = mmcif(
        [*as_chain(residues(1, 20)), *as_chain(residues(1, 20), "B", away=30)], auth_asym_id="A"
    )
    s, said = reading(text)
    assert (len(s), len(s.chains)) == (40, 2) and "2 molecules" in said


def test_what_is_far_away_after_missing_residues_or_in_another_chain_needs_no_word(reading):
    far = as_chain(residues(31, 40), away=40)
    s, said = reading([*as_chain(residues(1, 20)), *far, *as_chain(far, "B", away=40)])
    assert (len(s), s.chains, said) == (40, ("A", "B"), "")
    s, said = reading([*as_chain(residues(1, 20)), *as_chain(far, start=21)])
    assert len(s) == 30 and "residues 20 and 21 are" in said


def test_frames_that_only_end_divides_are_one_molecule(reading):
    lines = as_chain(residues(1, 20))
    s, said = reading([*lines, "END", *as_chain(lines, away=0.7), "END"])
    assert len(s) == 20 and "comes again in the same place" in said


def test_residues_that_all_have_number_1_are_told_apart_by_their_bonds(reading):
    s, said = reading(columns(as_chain(residues(1, 40)), 22, "   1 "))
    assert s.sequence == SEQUENCE
    assert s.residue_index.tolist() == list(range(40))
    assert "numbers repeat" in said


def test_a_gap_with_a_ter_is_a_gap_of_one_chain(reading):
    s, _ = reading([*as_chain(residues(1, 10)), "TER", *as_chain(residues(15, 20))])
    assert s.chains == ("A",)
    assert np.diff(s.residue_index).max() == 5


def test_an_atom_that_comes_twice_in_one_place_is_read_once(reading):
    lines = as_chain(residues(1, 20))
    again = [n for n in residues(7, 7, lines) if n[12:16] == " CA "]
    s, said = reading([*residues(1, 7, lines), *again, *residues(8, 20, lines)])
    plain, _ = reading(lines)
    np.testing.assert_array_equal(s.coords, plain.coords)
    assert "residue 7" in said


# ------------------------------------------------------------------------------- B. order

IMGT = "105 106 107 108 109 110 111 111A 111B 112C 112B 112A 112 113 114 115 116 117 118 119"
ORDERS = {
    "IMGT": IMGT.split(),
    "1NSA": [*(f"{n}A" for n in range(7, 17)), *map(str, range(4, 14))],
    "1A2C": [*(f"1{c}" for c in "HGFEDCBA"), *map(str, range(1, 13))],
    "wraps": [str(n % 10_000) for n in range(9990, 10_010)],
    "falls": [*map(str, range(30, 10, -1))],
    "permuted": [*map(str, [*range(12, 21), *range(1, 12)])],
    "negative": [*map(str, range(-5, 15))],
}


def _five(labels: list[str]) -> list[str]:
    """Number and insertion code in their five columns."""
    return [
        f"{text[:-1]:>4s}{text[-1]}" if text[-1].isalpha() else f"{text:>4s} " for text in labels
    ]


@pytest.mark.parametrize("kind", ORDERS)
@pytest.mark.parametrize("form", ["pdb", "cif", "cif with its rows in another order"])
def test_residues_come_in_the_order_of_the_file(kind, form, reading):
    lines = renumbered(as_chain(residues(1, 20)), _five(ORDERS[kind]))
    content: str | list[str] = lines
    if form != "pdb":
        content = mmcif(lines)
        if "order" in form:
            head, rows = content.split("_atom_site.pdbx_PDB_model_num\n")
            rows = "\n".join([*sorted(rows.splitlines()[:-1]), "#", ""])
            content = f"{head}_atom_site.pdbx_PDB_model_num\n{rows}"
    s, _ = reading(content)
    plain, _ = reading(as_chain(residues(1, 20)))
    assert s.sequence == SEQUENCE[:20]
    np.testing.assert_array_equal(s.coords, plain.coords)
    assert s.residue_index.tolist() == list(range(20))
    assert s.residue_numbers.tolist() == ORDERS[kind]


def test_where_numbers_fall_and_no_bond_leads_on_the_chain_is_broken(reading):
    lines = [*as_chain(residues(11, 20)), *as_chain(residues(1, 8))]
    s, _ = reading(lines)
    assert s.sequence == SEQUENCE[10:20] + SEQUENCE[:8]
    assert np.diff(s.residue_index)[9] >= 33  # beyond what the network tells apart


def test_label_seq_id_tells_how_much_is_missing_where_numbers_do_not(reading):
    lines = [*as_chain(residues(11, 16)), *as_chain(residues(1, 8))]
    places = {n: n - 10 for n in range(11, 17)} | {n: n + 12 for n in range(1, 9)}
    s, _ = reading(mmcif(lines, label_seq_id=lambda row: str(places[int(row["auth_seq_id"])])))
    assert np.diff(s.residue_index)[5] == 7


# ----------------------------------------------------------- C. records that do not matter


def test_serial_numbers_over_99999_lose_no_atom(reading):
    lines = as_chain(residues(1, 20))
    wide = [
        f"{line[:5]}{100000 + n}{line[11:]}" if n >= 80 else line for n, line in enumerate(lines)
    ]
    assert wide[-1].startswith("ATOM 100")
    s, _ = reading(wide)
    assert s.sequence == SEQUENCE[:20] and s.mask.all()


WATER = "HETATM 9001  O   HOH A{}      50.000  50.000  50.000  1.00 20.00           O  "


@pytest.mark.parametrize("number", ["A000", "****", "    ", "zz9!"])
def test_a_water_of_any_number_changes_nothing(number, reading):
    lines = as_chain(residues(1, 20))
    s, said = reading([*lines, "TER", WATER.format(number)])
    assert (len(s), said) == (20, "")


def test_a_water_with_unreadable_coordinates_changes_nothing(reading):
    lines = as_chain(residues(1, 20))
    s, _ = reading([*lines, "TER", WATER.format("1000").replace("50.000", "******", 1)])
    assert len(s) == 20


@pytest.mark.parametrize("first", [9990, 9999, 10_000, 12_345])
def test_hybrid_36_numbers_are_decoded(first, reading):
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"

    def encoded(n: int) -> str:
        if n < 10_000:
            return f"{n:4d} "
        n += 466_560 - 10_000  # A000 in base 36 is 10,000
        return "".join(digits[n // 36**k % 36] for k in (3, 2, 1, 0)) + " "

    lines = renumbered(as_chain(residues(1, 20)), [encoded(first + n) for n in range(20)])
    s, _ = reading(lines)
    assert s.residue_numbers.tolist() == [str(first + n) for n in range(20)]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda n: n.replace("ATOM  ", "ATOM\t "), r"'\\t' in column 5"),
        (lambda n: f"{n[:20]}\xa0{n[21:]}", r"'\\xa0' in column 21"),
        (lambda n: f"{n[:21]}\u0410{n[22:]}", "in column 22"),
    ],
    ids=["tab", "no-break space", "a Cyrillic chain id"],
)
def test_a_record_that_is_not_in_ascii_columns_is_an_error_with_its_line(edit, message, reading):
    lines = as_chain(residues(1, 20))
    lines[10] = edit(lines[10])
    with pytest.raises(StructureError, match=f"line 11: .*{message}"):
        reading(lines)


# ----------------------------------------------------------------------------- D. mmCIF


@pytest.mark.parametrize("null", ["?", "."])
@pytest.mark.parametrize("column", ["auth_seq_id", "auth_asym_id", "both"])
def test_a_label_stands_in_for_an_author_id_row_by_row(column, null, reading):
    def unknown(row):
        return null if int(row["label_seq_id"]) % 2 else row["auth_seq_id"]

    changed = {
        "auth_seq_id": {"auth_seq_id": unknown},
        "auth_asym_id": {"auth_asym_id": null},
        "both": {"auth_seq_id": null, "auth_asym_id": null},
    }[column]
    s, _ = reading(mmcif(as_chain(residues(1, 20)), **changed))
    assert s.residue_numbers.tolist() == [str(n) for n in range(1, 21)]
    assert s.chains == ("A",)


def test_an_author_number_may_have_a_letter(reading):
    s, _ = reading(
        mmcif(
            as_chain(residues(1, 20)),
            auth_seq_id=lambda row: {"13": "12A"}.get(row["auth_seq_id"], row["auth_seq_id"]),
        )
    )
    assert s.residue_numbers[12] == "12A" and s.sequence == SEQUENCE[:20]


@pytest.mark.parametrize("number", ["A12", "1.5", "12AB", "99999999999999999999", "-"])
def test_an_author_number_that_is_none_is_an_error_of_ours(number, reading):
    text = mmcif(
        as_chain(residues(1, 20)),
        auth_seq_id=lambda row: number if row["auth_seq_id"] == "7" else row["auth_seq_id"],
    )
    with pytest.raises(StructureError, match="residue number") as raised:
        reading(text)
    assert (raised.value.chain, raised.value.residue) == ("A", number)


def test_of_two_data_blocks_the_first_is_read_and_that_is_said(reading):
    one, two = mmcif(as_chain(residues(1, 20))), mmcif(as_chain(residues(21, 40)))
    s, said = reading(one.replace("data_x", "data_one") + two.replace("data_x", "data_two"))
    assert s.sequence == SEQUENCE[:20] and "first of 2 data blocks" in said and "two" in said


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("data_", "DATA_").replace("loop_", "LOOP_"),
        lambda text: text.replace("_atom_site.", "_Atom_Site."),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(" CA ", " 'CA' ").replace(" N ", ' "N" '),
        lambda text: text.replace("26.981", "26.981(3)"),
        lambda text: f"# a comment\n\n{text}",
        lambda text: text.replace("\n#\n", "\n\n"),
    ],
    ids=["capitals", "tags", "CR", "CRLF", "quotes", "uncertainty", "comment", "no #"],
)
def test_the_grammar_of_cif_is_cifs(edit, reading):
    text = mmcif(as_chain(residues(1, 20)))
    edited = edit(text)
    assert edited != text or "26.981" not in text
    s, _ = reading(edited)
    assert s.sequence == SEQUENCE[:20] and s.mask.all()


# --------------------------------------------------------------- E. what is not designed


@pytest.mark.parametrize("name", [" OT1", " OC1", " O1 ", " OXT", " O' ", " OT "])
def test_a_terminal_oxygen_is_the_oxygen(name, reading):
    lines = as_chain(residues(1, 20))
    last = [
        f"{n[:12]}{name}{n[16:]}" if n[12:16] == " O  " and n[22:26] == "  20" else n for n in lines
    ]
    s, said = reading(last)
    plain, _ = reading(lines)
    np.testing.assert_array_equal(s.coords, plain.coords)
    assert said == ""


def test_a_terminal_oxygen_beside_an_o_changes_nothing(reading):
    lines = as_chain(residues(1, 20))
    other = [n.replace(" O  ", " OXT") for n in residues(20, 20, lines) if n[12:16] == " O  "]
    other = as_chain(other, away=1.0)
    s, _ = reading([*residues(1, 19, lines), *other, *residues(20, 20, lines)])
    plain, _ = reading(lines)
    np.testing.assert_array_equal(s.coords, plain.coords)


def with_conformers(lines: list[str], atoms: dict[str, str]) -> list[str]:
    """Residue 5 with, for each atom, the labels and occupancies "A.8 B.2"; B lies 1 Å along x."""
    edited = []
    for line in lines:
        name = line[12:16].strip()
        if line[22:26] != "   5" or name not in atoms:
            edited.append(line)
            continue
        for label in atoms[name].split():
            [moved] = as_chain([line], away=1.0 if label[0] == "B" else 0.0)
            edited.append(f"{moved[:16]}{label[0]}{moved[17:54]}  0{label[1:]}0{moved[60:]}")
    return edited


@pytest.mark.parametrize(
    "atoms",
    [
        {"CA": "A.8 B.2", "C": "B.2", "O": "B.2"},
        {"N": "A.8 B.2", "CA": "A.8 B.2", "C": "A.8 B.2", "O": "B.2"},
        {"N": "B.1", "CA": "A.9 B.1"},
    ],
)
def test_a_complete_conformer_comes_before_a_fuller_one(atoms, reading):
    plain, _ = reading(as_chain(residues(1, 20)))
    s, said = reading(with_conformers(as_chain(residues(1, 20)), atoms))
    assert s.mask.all() and "not designed" not in said
    shift = s.coords[4, :, 0] - plain.coords[4, :, 0]
    expected = [1.0 if atom in atoms else 0.0 for atom in BACKBONE]
    np.testing.assert_allclose(shift, expected, atol=2e-5)


@pytest.mark.parametrize("atom", ["N", "O"])
def test_what_is_not_designed_is_said_once_a_chain_with_the_reason(atom, reading):
    binder = [n for n in as_chain(residues(1, 20)) if n[12:16].strip() != atom]
    lines = [*binder, "TER", *as_chain(residues(21, 40), "B")]
    _, said = reading(lines)
    assert said.count("chain A: 20 of 20 residues") == 1 and f"20 with no {atom}" in said
    assert "chain B" not in said


@pytest.mark.parametrize("number", [1, 10, 20])
def test_a_modified_residue_between_gaps_belongs_to_its_chain(number, reading):
    lines = [n for n in as_chain(residues(1, 20)) if abs(int(n[22:26]) - number) != 1]
    lines = [f"HETATM{n[6:17]}SEP{n[20:]}" if int(n[22:26]) == number else n for n in lines]
    s, _ = reading([*lines, "TER"])
    assert s.residue_numbers.tolist().count(str(number)) == 1
    assert s.sequence[s.residue_numbers.tolist().index(str(number))] == "S"
    if number == 20:  # without a TER after it, nothing says that it is no ligand
        s, said = reading(lines)
        assert "SEP 20" in said and len(s) == 18


def test_label_seq_id_says_that_a_modified_residue_is_of_its_chain(reading):
    lines = [n for n in as_chain(residues(1, 20)) if n[22:26] != "  19"]
    lines = [f"HETATM{n[6:17]}SEP{n[20:]}" if n[22:26] == "  20" else n for n in lines]
    s, _ = reading(mmcif(lines))
    assert s.residue_numbers[-1] == "20"


def test_a_modified_residue_after_its_chain_is_put_where_its_bonds_are(reading):
    lines = as_chain(residues(1, 20))
    modified = [f"HETATM{n[6:17]}SEP{n[20:]}" for n in residues(7, 7, lines)]
    rest = [n for n in lines if n[22:26] != "   7"]
    s, _ = reading([*rest, "TER", *modified])
    assert s.residue_numbers.tolist() == [str(n) for n in range(1, 21)]
    assert s.sequence == f"{SEQUENCE[:6]}S{SEQUENCE[7:20]}"


def test_ligands_that_are_read_are_not_said():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_structure(STRUCTURES / "4YOW.pdb").context) == 228


# ------------------------------------------------------------------------------ F. names

FORCE_FIELD_NAMES = {
    **{
        end + name: letter
        for end in "NC"
        for name, letter in {
            "ALA": "A", "ARG": "R", "ASN": "N", "ASP": "D", "CYS": "C", "CYX": "C", "GLN": "Q",
            "GLU": "E", "GLY": "G", "HID": "H", "HIE": "H", "HIP": "H", "HIS": "H", "ILE": "I",
            "LEU": "L", "LYS": "K", "MET": "M", "PHE": "F", "PRO": "P", "SER": "S", "THR": "T",
            "TRP": "W", "TYR": "Y", "VAL": "V",
        }.items()
    },
    "HISD": "H", "LYSH": "K", "CYS2": "C", "GLUH": "E", "ASPH": "D",
}  # fmt: skip


@pytest.mark.parametrize("name", FORCE_FIELD_NAMES)
def test_a_name_of_four_letters_is_never_cut_into_another(name, reading):
    lines = as_chain(residues(1, 20))
    lines = columns(residues(1, 1, lines), 17, name) + residues(2, 20, lines)
    s, _ = reading(lines)
    assert (s.chains, s.sequence) == (("A",), FORCE_FIELD_NAMES[name] + SEQUENCE[1:20])


def test_a_chain_id_of_two_letters_is_read(reading):
    s, _ = reading(columns(as_chain(residues(1, 20)), 20, "BC"))
    assert (s.chains, s.sequence) == (("BC",), SEQUENCE[:20])


# Of the wwPDB's dictionary: components of the kinds that had no letter in version 0.1.
PARENTS = {
    "DPN": "F", "DLY": "K", "DAL": "A", "DAR": "R", "DSG": "N", "DAS": "D", "DCY": "C", "DGN": "Q",
    "DGL": "E", "DHI": "H", "DIL": "I", "DLE": "L", "MED": "M", "DPR": "P", "DSN": "S", "DTH": "T",
    "DTR": "W", "DTY": "Y", "DVA": "V", "08P": "C", "32S": "W", "3TY": "Y", "7QK": "K", "85F": "C",
    "SEP": "S", "MSE": "M", "SEC": "C", "PYL": "K",
}  # fmt: skip


@pytest.mark.parametrize("name", PARENTS)
@pytest.mark.parametrize("record", ["ATOM  ", "HETATM"])
def test_an_amino_acid_with_a_parent_has_its_letter(name, record, reading):
    lines = as_chain(residues(1, 20))
    edited = [f"{record}{n[6:17]}{name:3s}{n[20:]}" if n[22:26] == "   4" else n for n in lines]
    s, said = reading(edited)
    assert s.sequence == f"{SEQUENCE[:3]}{PARENTS[name]}{SEQUENCE[4:20]}"
    assert f"{name} as {PARENTS[name]}" in said


def test_the_letters_agree_with_those_that_gemmi_and_biopython_know():
    from Bio.Data.PDBData import protein_letters_3to1_extended

    ours = residue_letters()
    agrees = [n for n, letter in protein_letters_3to1_extended.items() if ours.get(n) == letter]
    assert len(agrees) > 0.98 * len(protein_letters_3to1_extended)
    for name, letter in ours.items():
        known = gemmi.find_tabulated_residue(name)
        if known.found() and known.is_standard() and letter != "X" and name not in ("SEC", "PYL"):
            assert known.one_letter_code == letter, name


# ------------------------------------------------------------- G. containers and folders


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["x.pdb", "x.pdb.GZ", "x.dat"])
def test_compressed_files_are_read_whatever_their_name(pack, name, reading):
    s, _ = reading(pack("\n".join(as_chain(residues(1, 20))).encode()), name)
    assert s.sequence == SEQUENCE[:20]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_text_with_a_byte_order_mark_is_read(encoding, reading):
    text = "\n".join(as_chain(residues(1, 20)))
    if encoding.endswith("e"):
        text = "\ufeff" + text
    s, _ = reading(text.encode(encoding))
    assert s.sequence == SEQUENCE[:20]


def _zip(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("in.pdb", "\n".join(UBIQUITIN))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (lambda p: _zip(p / "x.zip"), "zip archive; unpack it"),
        (lambda p: "\n".join(UBIQUITIN).encode("utf-16-le"), "UTF-16"),
        (lambda p: b"\x83\xa7encoder\xa7biotite\xaadataBlocks\x91" + bytes(50), "BinaryCIF"),
        (lambda p: b"<?xml version='1.0'?><PDBx:datablock/>", "PDBML"),
        (lambda p: b"\x28\xb5\x2f\xfd" + bytes(50), "zstd"),
        (lambda p: bytes(range(256)) * 4, "binary data"),
    ],
    ids=["zip", "UTF-16 without a mark", "BinaryCIF", "PDBML", "zstd", "binary"],
)
def test_a_form_that_is_not_read_is_named(content, names, reading, tmp_path):
    with pytest.raises(StructureError, match=names):
        reading(content(tmp_path))


def test_a_folder_gives_every_structure_and_says_what_it_skips(tmp_path, capsys):
    text = "\n".join([*as_chain(residues(1, 20)), "TER", "END"]).encode()
    cif = mmcif(as_chain(residues(1, 20))).encode()
    for name, content in {
        "a.PDB": text, "b.ent": text, "c.pdb1": text, "d.cif.gz": gzip.compress(cif),
        "e.mmcif": cif, "f.pdb.GZ": gzip.compress(text), "g.pdbx": cif,
        "h.pdb.bz2": bz2.compress(text), "i.pdb.xz": lzma.compress(text),
        "._a.PDB": b"\0Mac", "notes.txt": b"?", ".hidden.pdb": b"",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
    with pytest.warns(StructureWarning, match=r"left out: notes\.txt; expected"):
        files = structure_files(tmp_path)
    assert [file.name[0] for file in files] == [*"abcdefghi"]
    out = tmp_path.parent / "out"
    assert main(["design", str(tmp_path), "--out", str(out), "-n", "1"]) == 0
    assert {p.name for p in (out / "seqs").glob("*.fa")} == {f"{name}.fa" for name in "abcdefghi"}
    assert "notes.txt" in capsys.readouterr().err


# --------------------------------------------------------------------- H. truncated, bounds


@pytest.mark.parametrize("form", ["pdb", "cif"])
def test_a_file_that_looks_cut_is_an_error_that_says_how_to_go_on(form, reading):
    if form == "pdb":
        content = "\n".join(
            ["HEADER    X", "SEQRES   1 A   20  MET GLN", *as_chain(residues(1, 20)), ""]
        )
        end = "END\n"
    else:
        content = (
            mmcif(as_chain(residues(1, 20)))
            .replace("data_x", "data_x\n_database_2.database_id PDB\n#")
            .removesuffix("#\n")
        )
        end = "#\n"
    with pytest.raises(StructureError, match=f"if it is complete, add a line {end.strip()}"):
        reading(content)
    s, _ = reading(content + end)
    assert len(s) == 20


@pytest.mark.parametrize(("megabytes", "most"), [(64, 8), (200, 1024)])
def test_what_unpacks_to_far_more_is_refused_before_it_fills_the_memory(megabytes, most, tmp_path):
    from mpnn_core.structures import containers

    path = tmp_path / "bomb.pdb.gz"
    with gzip.open(path, "wb") as stream:
        for _ in range(megabytes):
            stream.write(bytes(1 << 20))
    limit = min(most, 64)  # whatever may be read, a hundred times the file or 64 MB
    with pytest.raises(StructureError, match=f"unpacks to more than {limit} MB"):
        containers.read_text(path, most << 20)


def take_time_in_proportion(
    prepare: Callable[[int], Callable[[], object]], few: int, many: int
) -> None:
    """So many more take at most four times as much longer: what grows with the square would not."""

    def seconds(count: int) -> float:
        call = prepare(count)
        started = time.perf_counter()
        call()
        return time.perf_counter() - started

    seconds(few)  # the first call pays for what is loaded
    # Other work makes the one longer or the other, so the more favourable of two counts.
    shorter, longer = max(seconds(few), seconds(few)), min(seconds(many), seconds(many))
    assert longer < 4 * many / few * shorter, f"{few}: {shorter:.3f} s, {many}: {longer:.3f} s"


def test_blank_lines_without_end_are_refused_at_once(reading):
    def refusing(count: int) -> None:
        with pytest.raises(StructureError, match="empty"):
            reading(b"\n" * count)
        with pytest.raises(StructureError, match="a million blank lines"):
            reading(b"\n" * count + "\n".join(UBIQUITIN).encode())

    take_time_in_proportion(lambda count: partial(refusing, count), 5_000_000, 100_000_000)


def test_many_free_amino_acids_take_time_in_proportion(reading):
    def spread(count: int) -> list[str]:
        one = [f"HETATM{n[6:]}" for n in as_chain(residues(18, 18)) if n[12:16].strip() in BACKBONE]
        return [
            f"{n[:22]}{k % 9999 + 1:4d}{n[26:30]}{k % 50 * 18:8.3f}{k // 50 * 9:8.3f}{n[46:]}"
            for k in range(count)
            for n in one
        ]

    chain = as_chain(residues(1, 20))

    take_time_in_proportion(
        lambda count: partial(reading, [*chain, "TER", *spread(count)]), 500, 4000
    )


# ----------------------------------------------------------------- K. impossible backbones


@pytest.mark.parametrize("scale", [0.0, 0.1, 10.0], ids=["at the origin", "nm", "stretched"])
def test_an_impossible_backbone_is_an_error(scale, reading):
    lines = [
        n[:30] + "".join(f"{scale * float(n[k : k + 8]):8.3f}" for k in (30, 38, 46)) + n[54:]
        for n in as_chain(residues(1, 20))
    ]
    with pytest.raises(StructureError, match="20 of 20 backbones are impossible") as raised:
        reading(lines)
    assert raised.value.chain == "A"


@pytest.mark.parametrize("atoms", [("C", "O"), ("O",), BACKBONE])
def test_a_few_impossible_backbones_are_a_warning_that_names_them(atoms, reading):
    zero = "".join(f"{0:8.3f}" for _ in "xyz")
    lines = [
        n[:30] + zero + n[54:] if n[12:16].strip() in atoms and int(n[22:26]) in (7, 8) else n
        for n in as_chain(residues(1, 20))
    ]
    s, said = reading(lines)
    assert len(s) == 20 and "2 of 20 backbones are impossible" in said and "7, 8" in said


def test_real_structures_are_not_called_impossible():
    for path in sorted(STRUCTURES.glob("*.*")):
        if path.suffix in (".pdb", ".cif"):
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                read_structure(path)
            assert not [w for w in said if "impossible" in str(w.message)], path.name


# ------------------------------------------------------------------------ all kinds at once


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_two_chains_are_called_no_residue_mixes_them(data, tmp_path_factory):
    """Two copies 30 Å apart, labelled at random: read apart, or refused; never mixed."""
    names = [data.draw(st.sampled_from("AB ")) for _ in "12"]
    start = data.draw(st.integers(-3, 40))
    between = data.draw(st.sampled_from([[], ["TER"], ["END"], ["TER", "END"]]))
    segments = [data.draw(st.sampled_from(["", "S1", "S2"])) for _ in "12"]
    dropped = data.draw(st.sets(st.integers(0, 155), max_size=40))
    first = [
        n for k, n in enumerate(as_chain(residues(1, 20), names[0], 1, 0, segments[0]))
        if k not in dropped
    ]  # fmt: skip
    second = as_chain(residues(1, 20), names[1], start, 30, segments[1])
    path = tmp_path_factory.getbasetemp() / "two.pdb"
    path.write_text("\n".join([*first, *between, *second, ""]))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            s = read_structure(path)
        except StructureError:
            return
    assert np.nanmax(np.linalg.norm(s.coords[:, :1] - s.coords, axis=2)) < 4
    assert len(s) <= 40
    for i in np.flatnonzero(np.diff(s.residue_index) == 1):
        distance = np.linalg.norm(s.coords[i + 1, 0] - s.coords[i, 2])
        told = f"{s.residue_numbers[i]} and {s.residue_numbers[i + 1]} are"
        assert not distance > 20 or any(told in str(w.message) for w in said), (
            f"{s.residue_numbers[i]} and the next are {distance:.0f} Å apart"
        )


def test_a_warning_is_one_line_of_the_command(tmp_path, capsys):
    path, lines = tmp_path / "in.pdb", as_chain(residues(1, 20))
    path.write_text("\n".join([*lines, "TER", *as_chain(lines, away=30)]))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["design", str(path), "--out", str(tmp_path), "-n", "1"]) == 0
    [line] = [line for line in capsys.readouterr().err.splitlines() if "2 molecules" in line]
    assert line.startswith("mpnn-core: warning: ")


# ------------------------------------------------- residues and chains, put together in any way


def as_hetero(lines: Iterable[str], name: str) -> list[str]:
    return [f"HETATM{n[6:17]}{name:3s}{n[20:]}" for n in lines]


@pytest.mark.parametrize("name", ["MSE", "SEP"])
@pytest.mark.parametrize("between", [[], ["TER"]], ids=["no TER", "TER"])
@pytest.mark.parametrize("numbers", [(10, 10), (9, 10), (1, 1), (20, 20), (1, 20)])
@pytest.mark.parametrize("first", [False, True], ids=["after", "before"])
def test_modified_residues_stand_where_their_bonds_are(name, between, numbers, first, reading):
    lines = as_chain(residues(1, 20))
    if numbers == (1, 20):  # a peptide of modified residues alone
        modified, rest = as_hetero(lines, name), []
        between = []
    else:
        modified = as_hetero(residues(*numbers, lines), name)
        rest = [n for n in lines if not numbers[0] <= int(n[22:26]) <= numbers[1]]
    parts = [modified, between, rest] if first else [rest, between, modified]
    s, _ = reading([line for part in parts for line in part])
    assert s.chains == ("A",)
    assert s.residue_numbers.tolist() == [str(n) for n in range(1, 21)]
    assert set(s.sequence[numbers[0] - 1 : numbers[1]]) == {"M" if name == "MSE" else "S"}


def test_mmcif_that_gives_every_modified_residue_a_chain_of_its_own_is_one_chain(reading):
    lines = as_chain(residues(1, 20))
    lines = as_hetero(residues(1, 1, lines), "MSE") + residues(2, 20, lines)
    lines = [f"HETATM{n[6:17]}MSE{n[20:]}" if n[22:26] == "  10" else n for n in lines]

    def label(row):
        n = int(row["auth_seq_id"])
        return "ABCD"[(n > 1) + (n > 9) + (n > 10)]

    s, _ = reading(mmcif(lines, label_asym_id=label, label_seq_id="?"))
    assert s.chains == ("A",) and len(s) == 20


@pytest.mark.parametrize(
    ("name", "letter"),
    [("GLUP", "E"), ("ASPP", "D"), ("LYSN", "K"), ("CYSS", "C"), ("HISN", "H"), ("HIS+", "H"),
     ("ASP-", "D"), ("ASN1", "N"), ("NTYM", "Y"), ("CSEP", "S"), ("ala ", "A"), ("Ala ", "A")],
)  # fmt: skip
def test_a_fourth_letter_makes_no_chain(name, letter, reading):
    lines = as_chain(residues(1, 20))
    lines = (
        residues(1, 9, lines) + columns(residues(10, 10, lines), 17, name) + residues(11, 20, lines)
    )
    s, _ = reading(lines)
    assert (s.chains, s.sequence) == (("A",), f"{SEQUENCE[:9]}{letter}{SEQUENCE[10:20]}")


def test_atoms_of_two_molecules_in_turn_are_an_error_or_one_of_them(reading):
    one, two = as_chain(residues(1, 20)), as_chain(residues(1, 20), away=30)
    mixed = [
        line for pair in zip(residues(5, 5, one), residues(5, 5, two), strict=True) for line in pair
    ]
    with pytest.raises(StructureError, match="is there twice"):
        reading([*residues(1, 4, one), *mixed, *residues(6, 20, one)])
    by_name = sorted(mixed, key=lambda n: n[12:16])
    with pytest.raises(StructureError, match="is there twice"):
        reading([*residues(1, 4, one), *by_name, *residues(6, 20, one)])


def test_an_atom_30_angstroms_away_is_none_of_its_residue(reading):
    lines = as_chain(residues(1, 20))
    far = [
        as_chain([n], away=30)[0] if n[12:16] == " O  " and n[22:26] == "   5" else n for n in lines
    ]
    s, said = reading(far)
    assert np.flatnonzero(~s.mask).tolist() == [4]
    assert "impossible" in said and "1 with no O" in said


def test_atoms_twice_in_turn_are_the_first_of_each(reading):
    lines = as_chain(residues(1, 20))
    again = as_chain(residues(5, 5, lines), away=1.5)
    mixed = [n for pair in zip(residues(5, 5, lines), again, strict=True) for n in pair]
    s, said = reading([*residues(1, 4, lines), *mixed, *residues(6, 20, lines)])
    plain, _ = reading(lines)
    np.testing.assert_array_equal(s.coords, plain.coords)
    assert said.count("twice in one place") == 1 and said.endswith("residue 5")


@pytest.mark.parametrize(
    ("start", "away", "chains", "said"),
    [(25, 30, 2, "2 molecules"), (401, 30, 2, "2 molecules"), (22, 30, 2, "2 molecules")],
)
def test_a_chain_goes_on_after_a_ter_only_where_it_can_reach(start, away, chains, said, reading):
    lines = as_chain(residues(1, 20))
    s, told = reading([*lines, "TER", *as_chain(lines, start=start, away=away)])
    assert len(s.chains) == chains and said in told


@pytest.mark.parametrize("distance", [4.8, 9.0])
@pytest.mark.parametrize("between", [["TER"], ["END"]])
def test_molecules_in_a_stack_are_each_their_own(distance, between, reading):
    lines = as_chain(residues(1, 20))
    s, _ = reading([*lines, *between, *as_chain(lines, away=distance)])
    assert len(s) == (40 if between == ["TER"] else 20)  # after an END, it is the next frame


def test_conformers_far_from_each_other_are_told_by_their_labels(reading):
    lines = as_chain(residues(1, 20))
    a = [f"{n[:16]}A{n[17:54]}  0.60{n[60:]}" for n in residues(5, 7, lines)]
    b = [f"{n[:16]}B{n[17:54]}  0.40{n[60:]}" for n in as_chain(residues(5, 7, lines), away=5)]
    s, _ = reading([*residues(1, 4, lines), *a, *b, *residues(8, 20, lines)])
    plain, _ = reading(lines)
    np.testing.assert_array_equal(s.coords, plain.coords)


@pytest.mark.parametrize("atoms", [("N", "CA"), ("N",), ("C", "O"), ("O",)])
def test_where_no_conformer_is_complete_one_fills_the_other(atoms, reading):
    lines = [
        f"{n[:16]}{'A' if n[12:16].strip() in atoms else 'B'}{n[17:]}" if n[22:26] == "   5" else n
        for n in as_chain(residues(1, 20))
    ]
    s, said = reading(lines)
    plain, _ = reading(as_chain(residues(1, 20)))
    np.testing.assert_array_equal(s.coords, plain.coords)
    assert said == ""


def test_what_stands_apart_of_a_residue_joins_it(reading):
    lines = as_chain(residues(1, 20))
    plain, _ = reading(lines)
    oxygens = [n for n in lines if n[12:16] == " O  "]
    side = [n for n in lines if n[12:16].strip() not in BACKBONE]
    rest = [n for n in lines if n not in oxygens and n not in side]
    for order in ([oxygens, rest, side], [side, rest, oxygens], [side, oxygens, rest]):
        s, said = reading([line for part in order for line in part])
        assert (s.sequence, said) == (SEQUENCE[:20], "")
        np.testing.assert_array_equal(s.coords, plain.coords)


@pytest.mark.parametrize("number", ["****", "zz9!", "    "])
def test_a_side_chain_with_no_number_makes_no_residue(number, reading):
    lines = as_chain(residues(1, 20))
    lines = [
        f"{n[:22]}{number}{n[26:]}" if (n[12:16], n[22:26]) == (" CB ", "   7") else n
        for n in lines
    ]
    with pytest.raises(StructureError, match="unreadable residue number"):
        reading(lines)


def test_hse_without_a_side_chain_is_histidine(reading):
    lines = as_chain(residues(1, 20))
    s, _ = reading(
        [n if n[22:26] != "   5" else f"{n[:17]}HSE{n[20:]}" for n in lines
         if n[22:26] != "   5" or n[12:16].strip() in BACKBONE]
    )  # fmt: skip
    assert s.sequence[4] == "H"


def test_a_free_amino_acid_before_a_chain_is_a_ligand(reading):
    ligand = as_hetero(as_chain(residues(18, 18), start=0, away=30), "GLU")
    s, said = reading([*ligand, *as_chain(residues(1, 20))])
    assert len(s) == 20 and "GLU 0" in said


@pytest.mark.parametrize("form", ["ATOM", "atom", "Atom"])
def test_records_in_small_letters_are_read(form, reading):
    s, _ = reading([f"{form}{n[4:]}" for n in as_chain(residues(1, 20))])
    assert s.sequence == SEQUENCE[:20]


@pytest.mark.parametrize("line", ["ATOMS in this file: 156", "ATOM", "HETATM 9001  O   HOH A 900"])
def test_a_line_that_is_no_record_of_an_amino_acid_changes_nothing(line, reading):
    lines = as_chain(residues(1, 20))
    s, _ = reading([line, *lines, "TER"])
    assert len(s) == 20


def test_columns_that_are_shifted_are_an_error_that_says_so(reading):
    lines = as_chain(residues(1, 20))
    lines[10] = f"{lines[10][:27]}9{lines[10][28:]}"
    with pytest.raises(StructureError, match=r"line 11: .*columns are shifted"):
        reading(lines)


def test_mmcif_may_say_what_is_no_name_in_any_alphabet(reading):
    s, _ = reading("data_x\n_audit.author Müller\n" + mmcif(as_chain(residues(1, 20)))[7:])
    assert len(s) == 20


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"x" * 257 + b"ustar" + bytes(300), "tar archive"),
        (b"\x85\xabmmtfVersion\xa31.0" + bytes(60), "MMTF"),
        (b"Rar!\x1a\x07" + bytes(60), "RAR archive"),
        (b"<!DOCTYPE html><html>404</html>", "begins with '<!DOCTYPE html>"),
        (b"version https://git-lfs.github.com/spec/v1", "begins with 'version https"),
        (b"PK this is text", "begins with 'PK this"),
    ],
)  # fmt: skip
def test_more_forms_that_are_not_read_are_named(content, names, reading):
    with pytest.raises(StructureError, match=names):
        reading(content)


def test_many_molecules_of_one_id_and_many_files_take_time_in_proportion(tmp_path, reading):
    def molecules(count: int) -> Callable[[], object]:
        one = as_chain(residues(1, 4))
        lines = [
            line
            for k in range(count)
            for line in [
                *(
                    f"{n[:30]}{k % 60 * 16:8.1f}{float(n[38:46]) + k // 60 * 16:8.1f}{n[46:]}"
                    for n in one
                ),
                "TER",
            ]
        ]
        spread = [
            n
            if n == "TER"
            else f"{n[:30]}{float(n[30:38]) + float(one[k % len(one)][30:38]):8.1f}{n[38:]}"
            for k, n in enumerate(lines)
        ]
        return partial(reading, spread)

    def files(count: int) -> Callable[[], object]:
        for k in range(count):
            (tmp_path / f"{k}.txt").touch()

        def list_them() -> None:
            with pytest.warns(StructureWarning, match=f"{count - 8} more"):
                structure_files(tmp_path)

        return list_them

    take_time_in_proportion(molecules, 250, 2000)
    take_time_in_proportion(files, 500, 4000)
