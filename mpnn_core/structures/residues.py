"""Atoms give residues: every amino acid of a file, with its conformers, in the order of the file.

- A residue stands where the first of its N, CA and C stands; what is found of it elsewhere joins.
- Of what comes twice within a molecule, nothing is mixed: it is a further residue if a peptide bond
  joins it to the one before, a copy that is left out if it lies in the same place, else an error.
- Of alternative conformations a complete one is taken; of several the one of the highest
  occupancy; of equals the first. Where none is complete, one fills what another lacks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpnn_core.constants import BACKBONE, CA, C, N, O
from mpnn_core.structures.atoms import Atoms, Say
from mpnn_core.structures.names import TERMINAL_OXYGENS, residue_letters
from mpnn_core.structures.structure import StructureError, shown_chain, shown_items

PEPTIDE_BOND = 2.0
"""Å. A C and an N nearer than this are bonded: the bond is 1.33, the closest contact above 2.5."""

SAME_PLACE = 3.0
"""Å between two CA atoms: two residues of a chain are 3.8 apart, two conformers of one less."""

SAME_FRAME = 10.0
"""Å on average: a molecule that comes again after an END, and moved by less than this, is the same
at another time."""

SHORTEST_BOND, LONGEST_BOND = 0.5, 3.0
"""Å. N-CA, CA-C and C-O are 1.2 to 1.6; a backbone outside of these bounds is none."""

BONDS = ((N, CA), (CA, C), (C, O))


class Conformer(NamedTuple):
    """One backbone of one residue."""

    letter: str
    xyz: NDArray[np.float64]  # (4, 3) Å: N, CA, C, O; NaN where missing
    occupancy: float  # summed over the backbone
    label: bytes = b""  # of the alternative conformation


@dataclass(slots=True, eq=False)
class Residue:
    """An amino acid, with all its conformers."""

    number: int
    icode: str
    name: str
    hetero: bool
    place: int  # in the full sequence, from 1; 0 where unknown
    row: int  # of its first atom
    molecule: int
    rows: NDArray[np.int64]  # of its backbone atoms
    conformers: list[Conformer]
    apart: tuple[int, ...] = ()  # a row of each run that joined it

    @property
    def label(self) -> str:
        return f"{self.number}{self.icode}"

    def best(self) -> Conformer:
        """The conformer that is read."""
        if len(self.conformers) == 1:
            return self.conformers[0]
        best, *others = sorted(
            self.conformers,
            key=lambda c: (bool(np.isfinite(c.xyz).all()), c.occupancy, np.isfinite(c.xyz).sum()),
            reverse=True,
        )
        if np.isfinite(best.xyz).all():
            return best
        return _filled(best, [other for other in others if other.letter == best.letter])

    def positions(self, atom: int) -> NDArray[np.float64]:
        """(n, 3) Å: one of the four atoms in every conformer."""
        return np.array([c.xyz[atom] for c in self.conformers])


def _filled(best: Conformer, others: list[Conformer]) -> Conformer:
    """A conformer with the atoms that it lacks, from others where they fit; or itself."""
    xyz = best.xyz.copy()
    for other in others:
        for atom in np.flatnonzero(np.isnan(xyz).any(1)).tolist():
            neighbours = [b if a == atom else a for a, b in BONDS if atom in (a, b)]
            bonds = [np.linalg.norm(xyz[n] - other.xyz[atom]) for n in neighbours]
            known = [bond for bond in bonds if np.isfinite(bond)]
            if known and all(SHORTEST_BOND < bond < LONGEST_BOND for bond in known):
                xyz[atom] = other.xyz[atom]
    return best._replace(xyz=xyz) if np.isfinite(xyz).all() else best


def bonded(before: Residue, after: Residue) -> bool:
    """Whether a peptide bond leads from one residue to another, in any of their conformers."""
    return _nearest(before.positions(C), after.positions(N)) < PEPTIDE_BOND


def _nearest(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The smallest distance between two sets of positions; infinite if one has none."""
    with np.errstate(invalid="ignore"):  # infinite coordinates are refused later, with their place
        squares = ((a[:, None] - b[None]) ** 2).sum(2)
    return float(np.sqrt(np.nanmin(squares))) if np.isfinite(squares).any() else np.inf


def amino_acids(runs: Runs, say: Say) -> dict[str, dict[int, list[Residue]]]:
    """chain -> molecule -> its amino acids, in the order of the file or of label_seq_id."""
    atoms = runs.atoms
    atoms.check(runs.backbone_rows)
    found: dict[str, dict[int, list[Residue]]] = {}
    known: dict[tuple[str, int, int, str], Residue] = {}
    copies: dict[str, dict[str, None]] = {}

    def is_more_of(earlier: Residue, piece: Residue, chain: str) -> bool:
        """Whether a piece is of a residue that is known; an error if it is of no other either."""
        if runs.continues(earlier, piece):
            runs.join(earlier, piece)
        elif same_place(earlier, piece):
            copies.setdefault(chain, {})[piece.label] = None
        else:
            return False
        return True

    late: list[tuple[str, Residue]] = []
    for chain, piece, anchored in runs.residues():
        if not anchored:
            late.append((chain, piece))
            continue
        residues = found.setdefault(chain, {}).setdefault(piece.molecule, [])
        key = chain, piece.molecule, piece.number, piece.icode
        earlier = known.get(key)
        if earlier is not None and runs.continues(earlier, piece):
            runs.join(earlier, piece)
        elif earlier is None or bonded(residues[-1], piece):
            known[key] = piece
            residues.append(piece)
        elif not is_more_of(earlier, piece, chain):
            raise _twice(atoms, chain, earlier, piece)
    for chain, piece in late:  # side chains, and oxygens that stand apart
        key = chain, piece.molecule, piece.number, piece.icode
        earlier = known.get(key)
        if earlier is None:
            atoms.check(np.array([piece.row]))
            known[key] = piece
            residues = found.setdefault(chain, {}).setdefault(piece.molecule, [])
            residues.append(piece)
            residues.sort(key=lambda residue: residue.row)
        elif not len(piece.rows):
            earlier.apart += (piece.row,)
        elif not is_more_of(earlier, piece, chain):
            raise _twice(atoms, chain, earlier, piece)
    for chain, labels in copies.items():
        say(
            f"chain {shown_chain(chain)}: atoms that come twice in one place are read once: "
            f"residue {shown_items(list(labels))}"
        )
    for molecules in found.values():
        for residues in molecules.values():
            if all(residue.place for residue in residues):
                residues.sort(key=lambda residue: residue.place)
    return found


def _twice(atoms: Atoms, chain: str, earlier: Residue, piece: Residue) -> StructureError:
    return StructureError(
        f"is there twice, at {atoms.where(earlier.row)} and {atoms.where(piece.row)}, in "
        "different places and with no peptide bond to the residue before; two molecules "
        "need two chain ids, or a TER between them",
        chain=chain,
        residue=piece.label,
    )


def same_place(one: Residue, other: Residue) -> bool:
    """Whether the CA atoms of two residues are as near as those of one; where one has none,
    whether any of their atoms are."""
    if np.isfinite(one.positions(CA)).any() and np.isfinite(other.positions(CA)).any():
        return _nearest(one.positions(CA), other.positions(CA)) < SAME_PLACE
    ours, theirs = (np.concatenate([c.xyz for c in residue.conformers]) for residue in (one, other))
    return _nearest(ours, theirs) < SAME_PLACE


_WATERS = frozenset((
    "HOH", "WAT", "TIP", "TIP2", "TIP3", "TIP4", "SOL", "SPC", "DOD", "H2O", "OH2", "T3P", "TP3",
    "T4P",
))  # fmt: skip
_RANKS = {name.encode(): rank for rank, name in enumerate(TERMINAL_OXYGENS)}
_SLOTS = {name: slot for slot, name in enumerate(BACKBONE)} | dict.fromkeys(TERMINAL_OXYGENS, O)


class Runs:
    """Runs of atoms that follow each other in a file with one chain, molecule, number and name.

    Attributes
    ----------
    atoms : all atoms, A of them, in R runs
    run : (A,) int64, the run of each atom
    names : (R,) str, the residue's name
    letters : (R,) str, the letter of an amino acid, "" for other residues
    backbone_rows : (n,) int64, the atoms of backbones
    """

    def __init__(self, atoms: Atoms) -> None:
        self.atoms = atoms
        A = len(atoms.chain)
        changes = np.zeros(A, bool)
        changes[:1] = True
        for column in (atoms.chain, atoms.molecule, atoms.number, atoms.icode, atoms.residue):
            changes[1:] |= column[1:] != column[:-1]
        self._starts = np.flatnonzero(changes)
        run = np.cumsum(changes) - 1  # (A,)
        self.names = atoms.residue[self._starts].astype(np.str_)
        is_atom = {name: atoms.atom == name.encode() for name in _SLOTS}
        has = {name: np.logical_or.reduceat(is_atom[name], self._starts) for name in BACKBONE}
        letters = residue_letters()
        unique, inverse = np.unique(self.names, return_inverse=True)
        known = np.array([letters.get(name.upper(), "") for name in unique.tolist()])[inverse]
        if "HSE" in unique:
            # CHARMM's epsilon-protonated histidine; the wwPDB's HSE is homoserine.
            chain_of_serine = (atoms.atom == b"OG") | (atoms.atom == b"OD")
            serine = np.logical_or.reduceat(chain_of_serine, self._starts)
            known[(self.names == "HSE") & ~serine] = "H"
        self._anchored = has["N"] | has["CA"] | has["C"]
        backbone_alone = (known == "") & has["N"] & has["CA"] & has["C"]
        self.letters = np.where(backbone_alone, "X", known)
        self._amino = self.letters != ""

        slot = np.full(A, -1)
        for name, s in _SLOTS.items():
            slot[is_atom[name]] = s
        # A terminal oxygen counts only where there is no O.
        slot[(slot == O) & ~is_atom["O"] & has["O"][run]] = -1
        rows = np.flatnonzero((slot >= 0) & self._amino[run])
        self.backbone_rows = rows
        self._slot, self.run = slot, run

        # Where a run has each atom at most once and no label, its one conformer needs no loop.
        R = len(self._starts)
        counts = np.zeros((R, 4), np.int64)
        np.add.at(counts, (run[rows], slot[rows]), 1)
        labelled = np.zeros(R, bool)
        labelled[run[rows[atoms.altloc[rows] != b""]]] = True
        self._simple = (counts <= 1).all(1) & ~labelled
        self._coords = np.full((R, 4, 3), np.nan)
        self._coords[run[rows], slot[rows]] = atoms.xyz[rows]
        self._occupancies = np.bincount(run[rows], atoms.occupancy[rows], R)

    def around(self) -> NDArray[np.bool_]:
        """(R,) bool: residues that are neither amino acid nor water."""
        import gemmi

        others, inverse = np.unique(self.names[~self._amino], return_inverse=True)
        is_water = [
            name in _WATERS or gemmi.find_tabulated_residue(name).is_water()
            for name in others.tolist()
        ]
        around = ~self._amino
        around[around] = ~np.array(is_water, bool)[inverse]
        return around

    def owners(self, residues: Sequence[Residue]) -> NDArray[np.int64]:
        """(R,) int64: which of these residues has the atoms of a run; -1 if none, or several."""
        firsts = np.array([residue.row for residue in residues], np.int64)
        apart = [(row, n) for n, residue in enumerate(residues) for row in residue.apart]
        extra = np.array(apart, np.int64).reshape(-1, 2)
        rows = np.concatenate([firsts, extra[:, 0]])
        numbers = np.concatenate([np.arange(len(residues)), extra[:, 1]])
        runs = self.run[rows]
        owners = np.full(len(self.names), -1)
        first = owners.copy()
        owners[runs], first[runs[::-1]] = numbers, numbers[::-1]
        owners[owners != first] = -1
        return owners

    def continues(self, earlier: Residue, piece: Residue) -> bool:
        """Whether a piece is more of a residue: further atoms near it, or a further conformer."""
        ours, theirs = self._labels(earlier), self._labels(piece)
        if ours & theirs:
            return False
        altlocs = [{altloc for _, _, altloc in labels} for labels in (ours, theirs)]
        if b"" not in altlocs[0] | altlocs[1] and altlocs[0].isdisjoint(altlocs[1]):
            return True
        return same_place(earlier, piece)

    def residues(self) -> Iterator[tuple[str, Residue, bool]]:
        """Every run of an amino acid, its chain, and whether it has any of N, CA and C; a run with
        an atom twice comes in pieces."""
        atoms, starts = self.atoms, self._starts
        amino = np.flatnonzero(self._amino)
        first = starts[amino]
        backbone = self.backbone_rows
        bounds = np.searchsorted(backbone, np.append(starts, len(self.run))).tolist()
        labels = zip(
            atoms.number[first].tolist(),
            atoms.icode[first].astype(np.str_).tolist(),
            self.names[amino].tolist(),
            atoms.hetero[first].tolist(),
            atoms.place[first].tolist(),
            strict=True,
        )
        places = zip(first.tolist(), atoms.molecule[first].tolist(), strict=True)
        chains = atoms.chain[first].astype(np.str_).tolist()
        anchored = self._anchored[amino].tolist()
        letters, occupancies = self.letters[amino].tolist(), self._occupancies[amino].tolist()
        for n, (run, label, (row, molecule)) in enumerate(
            zip(amino.tolist(), labels, places, strict=True)
        ):
            rows = backbone[bounds[run] : bounds[run + 1]]
            if self._simple[run]:
                conformer = Conformer(letters[n], self._coords[run], occupancies[n])
                yield chains[n], Residue(*label, row, molecule, rows, [conformer]), anchored[n]
                continue
            for piece in self._pieces(rows):
                conformers = list(self._conformers(piece))
                residue = Residue(*label, int(piece[0]), molecule, piece, conformers)
                yield chains[n], residue, bool((self._slot[piece] < O).any())

    def _pieces(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """The backbone rows of a run; where atoms come again with the same label, the first of
        each, then the second of each, and so on."""
        labels = zip(self.atoms.atom[rows].tolist(), self.atoms.altloc[rows].tolist(), strict=True)
        pieces: list[list[int]] = []
        seen: Counter[tuple[bytes, bytes]] = Counter()
        for row, label in zip(rows.tolist(), labels, strict=True):
            if seen[label] == len(pieces):
                pieces.append([])
            pieces[seen[label]].append(row)
            seen[label] += 1
        yield from (np.array(piece) for piece in pieces)

    def _labels(self, residue: Residue) -> set[tuple[str, bytes, bytes]]:
        """Residue name, atom and conformer of every backbone atom."""
        names = self.names[self.run[residue.rows]]
        atoms, altlocs = self.atoms.atom[residue.rows], self.atoms.altloc[residue.rows]
        return set(zip(names.tolist(), atoms.tolist(), altlocs.tolist(), strict=True))

    def join(self, residue: Residue, piece: Residue) -> None:
        """Add what stands elsewhere in the file to a residue."""
        residue.rows = np.concatenate([residue.rows, piece.rows])
        residue.apart += (piece.row,)
        names = self.names[self.run[residue.rows]]
        residue.conformers = [
            conformer
            for name in dict.fromkeys(names.tolist())
            for conformer in self._conformers(residue.rows[names == name])
        ] or residue.conformers

    def _conformers(self, rows: NDArray[np.int64]) -> Iterator[Conformer]:
        """A conformer is the atoms of one label with those that have none, so that a backbone
        never mixes two."""
        atoms = self.atoms
        letter = str(self.letters[self.run[rows[0]]])
        labels, names = atoms.altloc[rows].tolist(), atoms.atom[rows].tolist()
        slots, xyz = self._slot[rows].tolist(), atoms.xyz[rows].tolist()
        occupancies = atoms.occupancy[rows].tolist()
        # Labelled atoms come before unlabelled ones of the same name, and the best oxygen before
        # the others; of equals the first.
        order = sorted(range(len(rows)), key=lambda k: (labels[k] == b"", _RANKS.get(names[k], 0)))
        for label in dict.fromkeys(labels):
            positions, occupancy = [[math.nan] * 3 for _ in BACKBONE], 0.0
            for k in order:
                if labels[k] in (label, b"") and math.isnan(positions[slots[k]][0]):
                    positions[slots[k]] = xyz[k]
                    occupancy += occupancies[k]
            yield Conformer(letter, np.array(positions), occupancy, label)
