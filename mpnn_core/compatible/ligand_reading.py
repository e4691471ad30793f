"""Structures as LigandMPNN's `parse_PDB` reads them, with ProDy, and what it writes of them.

It differs from `read_structure` in what is protein, in alternate locations, in atoms of occupancy 0
and in letters of modified residues: docs/explanation/exactness.md. The rules are ProDy's:

- Of alternate locations those labelled "A" are read, with the atoms that have no label.
- Protein is a residue, by chain, number and insertion code, that has a CA under one of ProDy's
  names of amino acids. A letter has only one of the twenty; every other is X.
- Where an atom comes twice in a residue, the last one counts.
- What is neither protein nor water is around the protein; dummies of a membrane are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpnn_core.constants import ALPHABET, AMINO_ACIDS, BACKBONE, THREE_LETTER_NAMES
from mpnn_core.structures.atoms import Atoms, read_atoms
from mpnn_core.structures.containers import read_text
from mpnn_core.structures.context import NO_CONTEXT, SIDE_CHAIN_ATOMS, ContextAtoms
from mpnn_core.structures.structure import Structure, StructureError, shown_chain, shown_items
from mpnn_core.structures.surroundings import DUMMIES

LETTERS = dict(zip(THREE_LETTER_NAMES, AMINO_ACIDS, strict=True))
"""The residue names that have a letter."""

FURTHER = (
    "ASX", "GLX", "ASH", "GLH", "CSO", "CYX", "HIP", "HID", "HIE", "HSD", "HSE", "HSP", "HISD",
    "HISE", "HISP", "LYN", "TYM", "ARN", "MSE", "CME", "SEC", "SEP", "TPO", "PTR", "PHD", "XLE",
    "XAA", "MEN", "CSB",
)  # fmt: skip
"""Names of amino acids beyond the twenty: protein, of letter X."""

WATERS = (
    "HOH", "DOD", "WAT", "TIP3", "H2O", "OH2", "TIP", "TIP2", "TIP4", "SPC", "SOL", "T3P",
)  # fmt: skip

_AMINO_ACIDS = np.array([*LETTERS, *FURTHER], "S")
_WATERS = np.array([name.encode() for name in WATERS] + [*DUMMIES])
_READ_OF_SIDE_CHAINS = SIDE_CHAIN_ATOMS[:-1]  # all but OXT
HYDROGEN = 1


@dataclass(frozen=True, eq=False)
class AtomRecords:
    """A atoms to be written, in order; all arrays (A,), coordinates (A, 3).

    Attributes
    ----------
    residue : int64, the row of the structure that an atom is of; -1 around the protein
    number, icode : the author's residue number and insertion code
    """

    residue: NDArray[np.int64]
    chain: NDArray[np.str_]
    number: NDArray[np.int64]
    icode: NDArray[np.str_]
    residue_name: NDArray[np.str_]
    name: NDArray[np.str_]
    altloc: NDArray[np.str_]
    element: NDArray[np.int64]
    xyz: NDArray[np.float64]
    occupancy: NDArray[np.float64]
    hetero: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.residue)


@dataclass(frozen=True, eq=False)
class Complex:
    """What LigandMPNN knows of a file.

    Attributes
    ----------
    structure : L residues in the order of the file, with their surroundings and side chains
    labels : of each residue chain, number and insertion code, as "A12B": how options name it
    backbone : the atoms N, CA, C and O of all residues, as the file has them
    others : the atoms around the protein, hydrogens too
    """

    structure: Structure
    labels: list[str]
    backbone: AtomRecords
    others: AtomRecords

    @property
    def name(self) -> str:
        return self.structure.name

    @cached_property
    def position(self) -> dict[str, int]:
        """The row of each label."""
        return {label: i for i, label in enumerate(self.labels)}

    @cached_property
    def chains(self) -> list[str]:
        """The chains in the order of their letters: that of sequences in files."""
        return sorted(set(self.structure.chain_ids.tolist()), key=str.strip)

    def by_chain(self, sequence: str, separator: str) -> str:
        """A sequence (L letters) as files have it: chain by chain."""
        letters = np.array(list(sequence))
        ids = self.structure.chain_ids
        return separator.join("".join(letters[ids == chain]) for chain in self.chains)


def read_complex(
    path: str | Path, chains: Sequence[str] = (), zero_occupancy: bool = False
) -> Complex:
    """The complex in a PDB or mmCIF file.

    Parameters
    ----------
    path : its name without folders, and without .pdb, names the outputs
    chains : the chains to read, with what is around them; none is all
    zero_occupancy : whether atoms of occupancy 0 are read

    Raises
    ------
    StructureError
        The file is unusable: what is wrong where. An unreadable number in an atom that is read, a
        residue that comes twice, a chain that is not there, no protein.
    """
    file = Path(path)
    try:
        return _complex(file, [chain.strip() for chain in chains], zero_occupancy)
    except StructureError as error:
        error.file = str(file)
        raise


def _complex(file: Path, chains: list[str], zero_occupancy: bool) -> Complex:
    atoms = read_atoms(read_text(file), lambda _: None)
    rows = _rows(atoms)
    residues, codes = _residues(atoms, rows)
    is_ca = atoms.atom[rows] == b"CA"
    protein = np.zeros(len(codes), bool)
    protein[residues[is_ca & np.isin(atoms.residue[rows], _AMINO_ACIDS)]] = True
    of_protein = protein[residues] & ~np.isin(atoms.residue[rows], _WATERS)
    kept = np.ones(len(rows), bool) if zero_occupancy else atoms.occupancy[rows] > 0
    if chains:
        there = {chain.decode().strip() for chain in np.unique(atoms.chain[rows]).tolist()}
        absent = [chain for chain in chains if chain not in there]
        if absent:
            known = ", ".join(map(shown_chain, sorted(there)))
            raise StructureError(f"is not there; chains there: {known}", chain=absent[0] or " ")
        kept &= np.isin(np.char.strip(atoms.chain[rows]), [chain.encode() for chain in chains])

    at_ca = np.flatnonzero(kept & of_protein & is_ca)
    if not len(at_ca):
        raise StructureError(
            "no protein: no residue has a CA under one of the names of amino acids that LigandMPNN "
            f"knows{'' if zero_occupancy else ', of an occupancy above 0'}"
        )
    ca = rows[at_ca]
    number_of = np.full(len(codes), -1)  # of a residue, its row in the structure
    number_of[residues[at_ca]] = np.arange(len(ca))
    labels = [_label(codes[residue]) for residue in residues[at_ca].tolist()]
    _check_once(labels)
    own = np.where(of_protein, number_of[residues], -1)

    inside, outside = kept & of_protein, kept & ~of_protein
    outside &= ~np.isin(atoms.residue[rows], _WATERS)
    atoms.check(rows[inside | outside])
    coords = _placed(atoms, rows, own, inside, BACKBONE, len(ca))
    around = outside & (atoms.element[rows] > HYDROGEN)
    context = _context(atoms, rows[around]) if around.any() else NO_CONTEXT
    side_chains = np.full((len(ca), len(SIDE_CHAIN_ATOMS), 3), np.nan, np.float32)
    names = _READ_OF_SIDE_CHAINS
    side_chains[:, : len(names)] = _placed(atoms, rows, own, inside, names, len(ca))
    chain_of = atoms.chain[ca].astype(np.str_)
    numbers = np.char.add(atoms.number[ca].astype(np.str_), atoms.icode[ca].astype(np.str_))
    structure = Structure(
        file.name.removesuffix(".pdb"),
        coords,
        "".join(LETTERS.get(name.decode(), "X") for name in atoms.residue[ca].tolist()),
        chain_of,
        _residue_index(atoms.number[ca]),
        numbers,
        context,
        side_chains,
        cb=_placed(atoms, rows, own, inside, ("CB",), len(ca))[:, 0],
    )
    is_backbone = inside & (own >= 0) & np.isin(atoms.atom[rows], np.array(BACKBONE, "S"))
    return Complex(
        structure,
        labels,
        _records(atoms, rows[is_backbone], own[is_backbone]),
        _records(atoms, rows[outside], np.full(int(outside.sum()), -1)),
    )


def _rows(atoms: Atoms) -> NDArray[np.int64]:
    """The atoms that are read of a file: before its first END, and of alternate locations A."""
    blocks = np.array([molecule.block for molecule in atoms.molecules])
    is_read = np.isin(atoms.altloc, [b"", b"A"]) & (blocks[atoms.molecule] == blocks.min())
    return np.flatnonzero(is_read)


def _residues(
    atoms: Atoms, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[tuple[str, int, str]]]:
    """The residue of each atom, and of each residue the chain, number and insertion code."""
    segments = np.array([molecule.name for molecule in atoms.molecules])
    columns = (atoms.chain, atoms.number, atoms.icode)
    keys = list(
        zip(
            segments[atoms.molecule[rows]].tolist(),
            *(column[rows].tolist() for column in columns),
            strict=True,
        )
    )
    known: dict[Any, int] = {}
    residues = np.array([known.setdefault(key, len(known)) for key in keys], np.int64)
    return residues, [(c.decode().strip(), n, i.decode()) for _, c, n, i in known]


def _label(code: tuple[str, int, str]) -> str:
    chain, number, icode = code
    return f"{chain}{number}{icode}"


def _check_once(labels: Sequence[str]) -> None:
    """Raise StructureError where two residues have one label: options could not tell them apart."""
    count: dict[str, int] = defaultdict(int)
    for label in labels:
        count[label] += 1
    twice = [label for label, n in count.items() if n > 1]
    if twice:
        raise StructureError(
            f"residues come more than once: {shown_items(twice)}; expected one CA for each chain, "
            "number and insertion code"
        )


def _placed(
    atoms: Atoms,
    rows: NDArray[np.int64],
    own: NDArray[np.int64],
    inside: NDArray[np.bool_],
    names: Sequence[str],
    L: int,
) -> NDArray[np.float32]:
    """(L, len(names), 3) Å: the named atoms of each residue, NaN where missing."""
    xyz = np.full((L, len(names), 3), np.nan, np.float32)
    slot = {name.encode(): n for n, name in enumerate(names)}
    wanted = np.flatnonzero(inside & (own >= 0) & np.isin(atoms.atom[rows], np.array(names, "S")))
    slots = [slot[name] for name in atoms.atom[rows[wanted]].tolist()]
    xyz[own[wanted], slots] = atoms.xyz[rows[wanted]]  # the last to be written stays
    return xyz


def _context(atoms: Atoms, rows: NDArray[np.int64]) -> ContextAtoms:
    numbers = np.char.add(atoms.number[rows].astype(np.str_), atoms.icode[rows].astype(np.str_))
    return ContextAtoms(
        atoms.xyz[rows].astype(np.float32),
        atoms.element[rows],
        atoms.atom[rows].astype(np.str_),
        atoms.residue[rows].astype(np.str_),
        numbers,
        atoms.chain[rows].astype(np.str_),
    )


def _residue_index(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """(L,) int64: the author's numbers, one more after every number that repeats the one before.

    The original's `featurize`; so insertion codes count.
    """
    repeats = np.zeros(len(numbers), np.int64)
    repeats[1:] = numbers[1:] == numbers[:-1]
    index: NDArray[np.int64] = numbers + np.cumsum(repeats)
    return index


def _records(atoms: Atoms, rows: NDArray[np.int64], own: NDArray[np.int64]) -> AtomRecords:
    def text(column: NDArray[np.bytes_]) -> NDArray[np.str_]:
        return column[rows].astype(np.str_)

    return AtomRecords(
        own, text(atoms.chain), atoms.number[rows], text(atoms.icode), text(atoms.residue),
        text(atoms.atom), text(atoms.altloc), atoms.element[rows], atoms.xyz[rows],
        atoms.occupancy[rows], atoms.hetero[rows],
    )  # fmt: skip


def three_letter_names(sequence: str) -> list[str]:
    """The residue names of a sequence: ALA for A, UNK for X."""
    names = dict(zip(ALPHABET, (*THREE_LETTER_NAMES, "UNK"), strict=True))
    return [names[letter] for letter in sequence]
