"""PDB and mmCIF files, plain or gzipped, read into a `Structure`.

From top to bottom: a file gives atoms, atoms give residues, residues give the structure. An
unusable file is a `StructureError` that names the file, the chain and the residue.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpnn_core.constants import BACKBONE, CHAIN_GAP
from mpnn_core.structures.structure import Structure, StructureError

PEPTIDE_BOND = 2.0
"""Å. A C and an N nearer than this are bonded: the bond is 1.33, the closest contact above 2.5."""

_UNKNOWN = ("?", ".")  # mmCIF's unknown and inapplicable values

# Residue names of force fields, which the wwPDB does not define, or defines as another residue (its
# GLH is a modified glutamine); and the wwPDB's names of residues that have no letter of their own.
_FURTHER_NAMES = {
    "ASH": "D", "GLH": "E", "CYX": "C", "CYM": "C", "LYN": "K", "ARN": "R", "TYM": "Y",
    "HID": "H", "HIE": "H", "HIP": "H", "HSD": "H", "HSP": "H",
    "SEC": "C", "PYL": "K", "ASX": "X", "GLX": "X", "UNK": "X",
}  # fmt: skip


def read_structure(
    path: str | os.PathLike[str], chains: str | Sequence[str] | None = None
) -> Structure:
    """The protein chains of a PDB or mmCIF file, plain or gzipped.

    The content of the file decides the format, not its name. Chains and residues come in the order
    of the original's `parse_PDB` and `tied_featurize`: chains sorted by id, residues by author
    number and insertion code. Of several models the first is read. Of alternative conformations,
    or of different residues with one number, a single one is read: the one with the highest
    backbone occupancy; of equals, the first in the file. Modified residues and protonation states
    count as their parent; a residue with a protein backbone and no parent is X. A HETATM residue
    belongs to a chain if a peptide bond joins it to the chain, or if it is MSE, as in the original;
    waters, ligands and nucleotides do not belong to any.

    Parameters
    ----------
    path : the file
    chains : the author's chain ids, "A", "A,B" or ["A", "B"]; None reads all protein chains

    Raises
    ------
    StructureError
        The file does not exist, is no structure, is cut short, or holds no protein; a chain does
        not exist; no residue has a complete backbone; a coordinate is infinite or no number.
    """
    file = Path(path)
    try:
        text = _read_text(file)
        atoms = _mmcif_atoms(text) if _is_mmcif(text) else _pdb_atoms(text)
        return _assemble(structure_name(file), atoms, chains)
    except StructureError as error:
        error.file = str(file)
        raise


def structure_name(path: str | os.PathLike[str]) -> str:
    """The name of a structure that is read from this file: "5L33" for 5L33.pdb, 5L33.cif.gz."""
    return Path(Path(path).name.removesuffix(".gz")).stem


# --------------------------------------------------------------------------- a file gives atoms


class _Atom(NamedTuple):
    chain: str
    number: int
    icode: str
    residue: str
    hetero: bool
    altloc: str
    atom: str
    xyz: tuple[float, float, float]
    occupancy: float


def _read_text(file: Path) -> str:
    """The text of a file, unpacked."""
    try:
        data = file.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise StructureError("no such file") from None
    except IsADirectoryError:
        raise StructureError("is a directory, not a file") from None
    except EOFError:
        raise StructureError("truncated: the gzip stream has no end") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise StructureError(f"damaged gzip file: {error}") from None
    except OSError as error:
        raise StructureError(f"cannot be read: {error.strerror or error}") from None
    if not data.strip():
        raise StructureError("not a structure: the file is empty")
    if b"\0" in data:
        raise StructureError("not a structure: binary data, expected PDB or mmCIF text")
    # Remarks may be in an old 8-bit encoding; all that is used is ASCII.
    return data.decode("utf-8-sig", errors="replace")


def _is_mmcif(text: str) -> bool:
    """Whether the first line that is no comment opens a data block."""
    lines = (line for line in io.StringIO(text) if line.strip() and not line.startswith("#"))
    return next(lines, "").lstrip().lower().startswith("data_")


def _pdb_atoms(text: str) -> Iterator[_Atom]:
    """The atoms of the first model of a PDB file."""
    from Bio.PDB.PDBParser import PDBParser

    records = io.StringIO("".join(_pdb_records(text)))
    # QUIET: Biopython warns of chains in pieces and of residues and atoms that come twice, and then
    # does what the original does: it joins the pieces, and takes the first.
    model = next(iter(PDBParser(QUIET=True).get_structure("", records)))
    for chain in model:
        for residue in chain.get_unpacked_list():
            hetero, number, icode = residue.id
            # Biopython lists conformers by label; serial numbers give the order of the file.
            for atom in sorted(residue.get_unpacked_list(), key=lambda a: a.serial_number):
                x, y, z = map(float, atom.coord)
                yield _Atom(
                    chain.id, number, icode.strip(), residue.resname, hetero != " ",
                    atom.altloc.strip(), atom.name, (x, y, z), atom.occupancy,
                )  # fmt: skip


def _pdb_records(text: str) -> Iterator[str]:
    """The atom and model records of a PDB file, after a check that each, and the file, is whole."""
    kinds: set[str] = set()
    widths: list[int] = []
    model = 0  # the line that opened the present model; 0 outside of models
    closed = False  # whether a TER, END or the like follows the atoms so far
    kind = line = ""
    for n, line in enumerate(text.rstrip().splitlines(), start=1):
        kind = line[:6].rstrip()
        kinds.add(kind)
        if kind in ("ATOM", "HETATM"):
            widths.append(len(line.rstrip()))
            closed = False
            yield _checked_record(line, n) + "\n"
        elif kind in ("MODEL", "ENDMDL"):
            model = n if kind == "MODEL" else 0
            yield line + "\n"
        closed |= kind in ("TER", "ENDMDL", "CONECT", "MASTER", "END")

    if not widths:
        raise StructureError("not a structure: neither PDB atom records nor an mmCIF data block")
    if model and "END" not in kinds:
        raise StructureError(f"truncated: the model begun on line {model} is not ended")
    if kinds >= {"HEADER", "SEQRES"} and not closed:
        raise StructureError("truncated: a PDB entry with no TER or END after its last atom")
    if not text.endswith("\n"):
        # A file may lack its last newline. Its last record is cut if all others are longer.
        narrower = kind in ("ATOM", "HETATM") and widths[-1] < min(widths[:-1], default=0)
        if narrower or kind in ("A", "AT", "ATO", "H", "HE", "HET", "HETA", "HETAT"):
            raise StructureError(f"truncated: line {n} is cut short: {line!r}")


def _checked_record(line: str, n: int) -> str:
    """An atom record, line `n` of its file, if it can be read; with an occupancy if it had none."""
    where = {"chain": line[21:22] or None, "residue": line[22:27].strip() or None}
    if len(line.rstrip()) < 54:
        raise StructureError(f"line {n}: truncated within its coordinates: {line!r}", **where)
    if not line[54:60].strip():
        line = f"{line[:54]}  1.00{line[60:]}"
    for field, start, stop, read in (
        ("residue number", 22, 26, int),
        ("coordinate", 30, 38, float),
        ("coordinate", 38, 46, float),
        ("coordinate", 46, 54, float),
        ("occupancy", 54, 60, float),
    ):
        try:
            read(line[start:stop])
        except ValueError:
            message = f"line {n}: unreadable {field} {line[start:stop]!r}"
            raise StructureError(message, **where) from None
    return line


def _mmcif_atoms(text: str) -> Iterator[_Atom]:
    """The atoms of the first model of an mmCIF file, chains and residues as the author's."""
    from Bio.PDB.MMCIF2Dict import MMCIF2Dict

    try:
        data: dict[str, list[str]] = MMCIF2Dict(io.StringIO(text))
    except (ValueError, LookupError, ArithmeticError) as error:
        raise StructureError(f"truncated, or not mmCIF: {error}") from None
    _check_mmcif_whole(text, data)

    def column(*names: str, default: str | None = None) -> list[str]:
        for name in names:
            if f"_atom_site.{name}" in data:
                return data[f"_atom_site.{name}"]
        if default is None:
            raise StructureError(f"not a structure: an mmCIF without _atom_site.{names[0]}")
        return [default] * len(data["_atom_site.Cartn_x"])

    xyz = [column(f"Cartn_{axis}") for axis in "xyz"]
    models = column("pdbx_PDB_model_num", default="1")
    for model, group, chain, number, icode, residue, altloc, atom, occupancy, *position in zip(
        models,
        column("group_PDB", default="ATOM"),
        column("auth_asym_id", "label_asym_id"),
        column("auth_seq_id", "label_seq_id"),
        column("pdbx_PDB_ins_code", default="?"),
        column("label_comp_id", "auth_comp_id"),
        column("label_alt_id", default="."),
        column("label_atom_id", "auth_atom_id"),
        column("occupancy", default="1"),
        *xyz,
        strict=True,
    ):
        if model != models[0] or number in _UNKNOWN:  # unnumbered: not of a polymer
            continue
        icode, altloc = ("" if value in _UNKNOWN else value for value in (icode, altloc))
        try:
            x, y, z = (float("nan" if value in _UNKNOWN else value) for value in position)
            yield _Atom(
                chain, int(number), icode, residue, group == "HETATM", altloc, atom, (x, y, z),
                float("1" if occupancy in _UNKNOWN else occupancy),
            )  # fmt: skip
        except ValueError as error:
            raise StructureError(
                f"atom {atom}: unreadable: {error}", chain=chain, residue=number + icode
            ) from None


def _check_mmcif_whole(text: str, data: dict[str, list[str]]) -> None:
    """Raise StructureError for an mmCIF file that is cut short."""
    for category in ("_atom_site", next(reversed(data), "").partition(".")[0]):
        rows = {len(v) for key, v in data.items() if key.startswith(f"{category}.")}
        if len(rows) > 1:
            raise StructureError(f"truncated: the {category} loop ends within a row")
    # wwPDB entries close every category with a "#" line, so that one cut between rows shows.
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "_database_2.database_id" in data and "#" in lines and lines[-1] != "#":
        raise StructureError(f"truncated: a PDB entry that ends in {lines[-1]!r}, not '#'")


# ---------------------------------------------------- atoms give residues, and these the structure


class _Residue(NamedTuple):
    """The backbone of one conformer of one residue."""

    number: int
    icode: str
    letter: str
    hetero: bool  # belongs to the chain only if peptide-bonded to it
    xyz: dict[str, tuple[float, float, float]]
    occupancy: float  # summed over the backbone


def _assemble(name: str, atoms: Iterable[_Atom], chains: str | Sequence[str] | None) -> Structure:
    """The structure of some chains of a file, or of all its protein chains."""
    atoms_of: dict[str, list[_Atom]] = defaultdict(list)
    for atom in atoms:
        atoms_of[atom.chain].append(atom)
    residues_of = {chain: _residues(atoms_of[chain]) for chain in sorted(atoms_of)}
    proteins = [chain for chain, residues in residues_of.items() if residues]
    choice = f"protein chains there: {', '.join(proteins)}"
    if not proteins:
        raise StructureError(
            "no protein chain: no residue that is an amino acid by its name or its backbone"
        )
    if isinstance(chains, str):
        chains = chains.split(",")
    selected = proteins if chains is None else sorted({c.strip() or " " for c in chains})
    if not selected:
        raise StructureError(f"no chain asked for; {choice}")
    for chain in selected:
        if chain not in proteins:
            kind = "is no protein" if chain in atoms_of else "is not there"
            raise StructureError(f"{kind}; {choice}", chain=chain)

    rows = [(chain, residue) for chain in selected for residue in residues_of[chain]]
    return Structure(
        name,
        np.array([[r.xyz.get(a, (np.nan,) * 3) for a in BACKBONE] for _, r in rows]),
        "".join(r.letter for _, r in rows),
        np.array([chain for chain, _ in rows]),
        _residue_index([residues_of[chain] for chain in selected]),
        np.array([f"{r.number}{r.icode}" for _, r in rows]),
    )


def _residue_index(chains: Iterable[Sequence[_Residue]]) -> NDArray[np.int64]:
    """(L,) int64, as the original's `tied_featurize`: every number and insertion code between the
    first and the last of a chain counts, whether or not the file has it."""
    index: list[int] = []
    start = 0
    for residues in chains:
        index.append(start)
        for previous, residue in pairwise(residues):
            index.append(index[-1] + max(1, residue.number - previous.number))
        start = index[-1] + 1 + CHAIN_GAP
    return np.array(index, dtype=np.int64)


def _residues(atoms: Iterable[_Atom]) -> list[_Residue]:
    """The amino acids of one chain, one conformer of each, by number and insertion code."""
    groups: dict[tuple[int, str, str, bool], list[_Atom]] = defaultdict(list)
    for atom in atoms:
        groups[atom.number, atom.icode, atom.residue, atom.hetero].append(atom)
    conformers = [conformer for group in groups.values() for conformer in _conformers(group)]

    chosen: dict[tuple[int, str], _Residue] = {}
    for residue in conformers:
        if residue.hetero and not any(_bonded(residue, other) for other in conformers):
            continue  # an amino acid, but a ligand
        best = chosen.setdefault((residue.number, residue.icode), residue)
        # Atoms decide between equals only where there is nothing to sum: an occupancy of zero.
        if (residue.occupancy, len(residue.xyz)) > (best.occupancy, len(best.xyz)):
            chosen[residue.number, residue.icode] = residue
    return [chosen[number] for number in sorted(chosen)]


def _conformers(atoms: Sequence[_Atom]) -> Iterator[_Residue]:
    """The conformers of a residue in the order of the file; none if it is no amino acid.

    A conformer is the atoms of one altloc label with those that have none, so that a backbone
    never mixes two.
    """
    first = atoms[0]
    names = {atom.atom for atom in atoms}
    letter = _parents().get(first.residue)
    if first.residue == "HSE" and "ND1" in names:
        letter = "H"  # CHARMM's epsilon-protonated histidine; the wwPDB's HSE is homoserine
    if letter is None and not names >= {"N", "CA", "C"}:
        return
    backbone = [atom for atom in atoms if atom.atom in BACKBONE]
    for label in dict.fromkeys(atom.altloc for atom in backbone) or [""]:
        # Labelled atoms come first, and so before an unlabelled one of the same name.
        own = sorted((a for a in backbone if a.altloc in (label, "")), key=lambda a: not a.altloc)
        taken = {atom.atom: atom for atom in reversed(own)}
        yield _Residue(
            first.number,
            first.icode,
            letter or "X",
            first.hetero and first.residue != "MSE",
            {atom.atom: atom.xyz for atom in taken.values()},
            sum(taken[name].occupancy for name in BACKBONE if name in taken),
        )


def _bonded(a: _Residue, b: _Residue) -> bool:
    """Whether a peptide bond joins two residues, in either direction."""
    if (a.number, a.icode) == (b.number, b.icode):  # conformers, whose atoms overlap
        return False
    ends = ((a, b), (b, a))
    return any(
        math.dist(i.xyz["C"], j.xyz["N"]) < PEPTIDE_BOND
        for i, j in ends
        if "C" in i.xyz and "N" in j.xyz
    )


@lru_cache(maxsize=1)
def _parents() -> dict[str, str]:
    """The letter of every residue name with one: the wwPDB's amino acids by their parent, and
    `_FURTHER_NAMES`."""
    from Bio.Data.PDBData import protein_letters_3to1_extended

    return protein_letters_3to1_extended | _FURTHER_NAMES
