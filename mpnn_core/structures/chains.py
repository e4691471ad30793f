"""Atoms give residues, and residues give chains: what belongs to which, and in what order.

The rules (docs/explanation/exactness.md lists where they differ from the original's):

- The order of residues is the order of the file, and of label_seq_id where mmCIF has it.
- Two molecules are two chains where the file tells them apart, even if both are called A.
- Of what comes twice within a molecule, nothing is mixed: it is a further residue if a peptide bond
  joins it to the one before, a copy that is left out if it lies in the same place, else an error.
- An amino acid in HETATM records belongs to a chain if a peptide bond joins it, if the file says
  so, or if it stands among the residues of the chain with a number that fits.
- Of alternative conformations a complete one is taken; of several the one of the highest
  occupancy; of equals the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpnn_core.constants import BACKBONE, CA, C, N, O
from mpnn_core.structures.atoms import Atoms, Say
from mpnn_core.structures.names import TERMINAL_OXYGENS, own_names, residue_letters
from mpnn_core.structures.structure import StructureError, shown_chain, shown_items

PEPTIDE_BOND = 2.0
"""Å. A C and an N nearer than this are bonded: the bond is 1.33, the closest contact above 2.5."""

SAME_PLACE = 3.0
"""Å between two CA atoms: two residues of a chain are 3.8 apart, two conformers of one less."""

SAME_MOLECULE = 10.0
"""Å between CA atoms on average: two copies of a molecule nearer than this are one, moved."""


class Conformer(NamedTuple):
    """One backbone of one residue."""

    letter: str
    xyz: NDArray[np.float64]  # (4, 3) Å: N, CA, C, O; NaN where missing
    occupancy: float  # summed over the backbone


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

    @property
    def label(self) -> str:
        return f"{self.number}{self.icode}"

    def best(self) -> Conformer:
        """The conformer that is read."""
        if len(self.conformers) == 1:
            return self.conformers[0]
        return max(
            self.conformers,
            key=lambda c: (bool(np.isfinite(c.xyz).all()), c.occupancy, np.isfinite(c.xyz).sum()),
        )

    def positions(self, atom: int) -> NDArray[np.float64]:
        """(n, 3) Å: one of the four atoms in every conformer."""
        return np.array([c.xyz[atom] for c in self.conformers])


def bonded(before: Residue, after: Residue) -> bool:
    """Whether a peptide bond leads from one residue to another, in any of their conformers."""
    return any(
        _near(one.xyz[C], other.xyz[N], PEPTIDE_BOND)
        for one in before.conformers
        for other in after.conformers
    )


def _near(a: NDArray[np.float64], b: NDArray[np.float64], distance: float) -> bool:
    x, y, z = (a - b).tolist()
    return bool(x * x + y * y + z * z < distance * distance)  # False for NaN


def protein_chains(atoms: Atoms, say: Say) -> dict[str, list[Residue]]:
    """The residues of every protein chain, by chain id."""
    amino_acids = _amino_acids(atoms, say)
    chains: dict[str, list[Residue]] = {}
    for chain, molecules in amino_acids.items():
        parts = _polymers(atoms, chain, molecules, say)
        for n, part in enumerate(parts):
            name = chain if n == 0 else _new_name(chain, {*amino_acids, *chains})
            chains[name] = part
            if n:
                say(
                    f"chain {shown_chain(chain)} names {len(parts)} molecules; the one that begins "
                    f"with residue {part[0].label} ({atoms.where(part[0].row)}) is called {name}"
                )
    return {chain: chains[chain] for chain in sorted(chains)}


def _new_name(chain: str, taken: set[str]) -> str:
    return next(name for n in range(2, 10**9) if (name := f"{chain.strip()}_{n}") not in taken)


# ------------------------------------------------------------------- atoms give amino acids


def _amino_acids(atoms: Atoms, say: Say) -> dict[str, dict[int, list[Residue]]]:
    """chain -> molecule -> its amino acids in the order of the file."""
    runs = _Runs(atoms)
    runs.say_what_is_left_out(say)
    atoms.check(runs.backbone_rows)
    found: dict[str, dict[int, list[Residue]]] = {}
    by_key: dict[tuple[str, int], dict[tuple[int, str], Residue]] = {}
    copies: dict[str, list[str]] = {}
    place = None
    for chain, piece in runs.residues():
        if place != (place := (chain, piece.molecule)):
            residues = found.setdefault(chain, {}).setdefault(piece.molecule, [])
            known = by_key.setdefault(place, {})
        key = piece.number, piece.icode
        earlier = known.get(key)
        if earlier is not None and _continues(runs, earlier, piece):
            runs.join(earlier, piece)
        elif earlier is None or bonded(residues[-1], piece):
            known[key] = piece
            residues.append(piece)
        elif _same_place(earlier, piece):
            copies.setdefault(chain, []).append(piece.label)
        else:
            raise StructureError(
                f"is there twice, at {atoms.where(earlier.row)} and {atoms.where(piece.row)}, in "
                "different places and with no peptide bond to the residue before; two molecules "
                "need two chain ids, or a TER between them",
                chain=chain,
                residue=piece.label,
            )
    for chain, labels in copies.items():
        say(
            f"chain {shown_chain(chain)}: atoms that come twice in one place are read once: "
            f"residue {shown_items(labels)}"
        )
    for molecules in found.values():
        for residues in molecules.values():
            if all(residue.place for residue in residues):
                residues.sort(key=lambda residue: residue.place)
    return found


def _continues(runs: _Runs, earlier: Residue, piece: Residue) -> bool:
    """Whether a piece is more of a residue: further atoms, or a further conformer."""
    return not runs.labels(earlier) & runs.labels(piece) and _same_place(earlier, piece)


def _same_place(one: Residue, other: Residue) -> bool:
    """Whether some atom of one lies by some atom of the other of the same name, or near it."""
    ours, theirs = one.positions(CA), other.positions(CA)
    if np.isfinite(ours).any() and np.isfinite(theirs).any():
        return any(_near(a, b, SAME_PLACE) for a in ours for b in theirs)
    ours, theirs = (np.concatenate([c.xyz for c in residue.conformers]) for residue in (one, other))
    return any(_near(a, b, SAME_PLACE) for a in ours for b in theirs) or not (
        np.isfinite(ours).any() and np.isfinite(theirs).any()
    )


_WATERS = frozenset(("HOH", "WAT", "TIP", "TIP3", "SOL", "SPC", "DOD", "H2O", "T3P", "TP3", "T4P"))
_RANKS = {name.encode(): rank for rank, name in enumerate(TERMINAL_OXYGENS)}
_SLOTS = {name: slot for slot, name in enumerate(BACKBONE)} | dict.fromkeys(TERMINAL_OXYGENS, O)


class _Runs:
    """Runs of atoms that follow each other in a file with one chain, molecule, number and name."""

    def __init__(self, atoms: Atoms) -> None:
        self._atoms = atoms
        A = len(atoms.chain)
        changes = np.zeros(A, bool)
        changes[:1] = True
        for column in (atoms.chain, atoms.molecule, atoms.number, atoms.icode, atoms.residue):
            changes[1:] |= column[1:] != column[:-1]
        self._starts = np.flatnonzero(changes)
        run = np.cumsum(changes) - 1  # (A,)
        self._names = atoms.residue[self._starts].astype(np.str_)
        is_atom = {name: atoms.atom == name.encode() for name in _SLOTS}
        has = {name: np.logical_or.reduceat(is_atom[name], self._starts) for name in BACKBONE}
        letters = residue_letters()
        unique, inverse = np.unique(self._names, return_inverse=True)
        known = np.array([letters.get(name, "") for name in unique.tolist()])[inverse]
        if "HSE" in unique:
            # CHARMM's epsilon-protonated histidine has a ring; the wwPDB's HSE is homoserine.
            ring = np.logical_or.reduceat(atoms.atom == b"ND1", self._starts)
            known[(self._names == "HSE") & ring] = "H"
        self._backbone_alone = (known == "") & has["N"] & has["CA"] & has["C"]
        self._letters = np.where(self._backbone_alone, "X", known)
        self._amino = self._letters != ""

        slot = np.full(A, -1)
        for name, s in _SLOTS.items():
            slot[is_atom[name]] = s
        # A terminal oxygen counts only where there is no O.
        slot[(slot == O) & ~is_atom["O"] & has["O"][run]] = -1
        rows = np.flatnonzero((slot >= 0) & self._amino[run])
        self.backbone_rows = rows
        self._slot, self._run = slot, run

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

    def say_what_is_left_out(self, say: Say) -> None:
        """Residues that are no amino acids, and amino acids that are read as another."""
        import gemmi

        others, counts = np.unique(self._names[~self._amino], return_counts=True)
        seen = {
            name: count
            for name, count in zip(others.tolist(), counts.tolist(), strict=True)
            if not gemmi.find_tabulated_residue(name).is_water() and name not in _WATERS
        }
        if seen:
            say(
                "not part of a protein, and not seen by the network: "
                + shown_items([f"{name} ({n})" if n > 1 else name for name, n in seen.items()])
            )
        unknown = sorted(set(self._names[self._backbone_alone].tolist()))
        if unknown:
            say(f"amino acids that the wwPDB does not know are X: {shown_items(unknown)}")
        own = own_names()
        pairs = zip(
            self._names[self._amino].tolist(), self._letters[self._amino].tolist(), strict=True
        )
        parents = sorted({f"{name} as {a}" for name, a in pairs if name not in own and a != "X"})
        if parents:
            say(f"modified residues are read as their parents: {shown_items(parents)}")

    def residues(self) -> Iterator[tuple[str, Residue]]:
        """Every run of an amino acid and its chain; one with an atom twice comes in pieces."""
        atoms, starts = self._atoms, self._starts
        amino = np.flatnonzero(self._amino)
        first = starts[amino]
        backbone = self.backbone_rows
        bounds = np.searchsorted(backbone, np.append(starts, len(self._run))).tolist()
        labels = zip(
            atoms.number[first].tolist(),
            atoms.icode[first].astype(np.str_).tolist(),
            self._names[amino].tolist(),
            atoms.hetero[first].tolist(),
            atoms.place[first].tolist(),
            strict=True,
        )
        places = zip(first.tolist(), atoms.molecule[first].tolist(), strict=True)
        chains = atoms.chain[first].astype(np.str_).tolist()
        letters, occupancies = self._letters[amino].tolist(), self._occupancies[amino].tolist()
        for n, (run, label, (row, molecule)) in enumerate(
            zip(amino.tolist(), labels, places, strict=True)
        ):
            rows = backbone[bounds[run] : bounds[run + 1]]
            if self._simple[run]:
                conformer = Conformer(letters[n], self._coords[run], occupancies[n])
                yield chains[n], Residue(*label, row, molecule, rows, [conformer])
                continue
            for piece in self._pieces(rows):
                conformers = list(self._conformers(piece))
                yield chains[n], Residue(*label, int(piece[0]), molecule, piece, conformers)

    def _pieces(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """The backbone rows of a run, divided where an atom with the same label comes again."""
        seen: set[tuple[bytes, bytes]] = set()
        start = 0
        for n, row in enumerate(rows.tolist()):
            label = self._atoms.atom[row], self._atoms.altloc[row]
            if label in seen:
                yield rows[start:n]
                start, seen = n, set()
            seen.add(label)
        yield rows[start:]

    def labels(self, residue: Residue) -> set[tuple[str, int, bytes]]:
        """Residue name, atom and conformer of every backbone atom."""
        names = self._names[self._run[residue.rows]]
        altlocs = self._atoms.altloc[residue.rows]
        slots = self._slot[residue.rows]
        return set(zip(names.tolist(), slots.tolist(), altlocs.tolist(), strict=True))

    def join(self, residue: Residue, piece: Residue) -> None:
        """Add what stands elsewhere in the file to a residue."""
        residue.rows = np.concatenate([residue.rows, piece.rows])
        names = self._names[self._run[residue.rows]]
        residue.conformers = [
            conformer
            for name in dict.fromkeys(names.tolist())
            for conformer in self._conformers(residue.rows[names == name])
        ] or residue.conformers

    def _conformers(self, rows: NDArray[np.int64]) -> Iterator[Conformer]:
        """A conformer is the atoms of one label with those that have none, so that a backbone
        never mixes two."""
        atoms = self._atoms
        labels = atoms.altloc[rows].tolist()
        letter = str(self._letters[self._run[rows[0]]])
        for label in dict.fromkeys(labels):
            xyz, occupancy = np.full((4, 3), np.nan), 0.0
            # Labelled atoms come before unlabelled ones of the same name, and the best oxygen
            # before the others; of equals the first.
            own = sorted(
                (row for row, a in zip(rows.tolist(), labels, strict=True) if a in (label, b"")),
                key=lambda row: (atoms.altloc[row] == b"", _RANKS.get(bytes(atoms.atom[row]), 0)),
            )
            for row in own:
                slot = int(self._slot[row])
                if np.isnan(xyz[slot]).all():
                    xyz[slot] = atoms.xyz[row]
                    occupancy += float(atoms.occupancy[row])
            yield Conformer(letter, xyz, occupancy)


# ----------------------------------------------------------------- amino acids give polymers


def _polymers(
    atoms: Atoms, chain: str, molecules: dict[int, list[Residue]], say: Say
) -> list[list[Residue]]:
    """The polymers of one chain id, each a list of residues in their order."""
    everything = [residue for residues in molecules.values() for residue in residues]
    partners = _partners(everything)
    polymers: list[list[Residue]] = []
    elsewhere: list[Residue] = []  # bonded to a residue that stands elsewhere in the file
    ligands: list[Residue] = []
    for residues in molecules.values():
        own = set(map(id, residues))
        of_sequence = len({residue.place for residue in residues}) > 1
        members = [
            # MSE is one in the original.
            not residue.hetero
            or residue.name == "MSE"
            or (of_sequence and residue.place > 0)
            or any(id(p) in own for p in partners.get(id(residue), ()))
            for residue in residues
        ]
        following = _following(residues, members)
        kept = []
        for n, residue in enumerate(residues):
            if members[n]:
                kept.append(residue)
            elif partners.get(id(residue)):
                elsewhere.append(residue)
            elif _stands_among(residue, residues[n - 1] if n else None, following[n]):
                kept.append(residue)
            else:
                ligands.append(residue)
        if kept:
            _add_polymer(atoms, chain, polymers, kept, say)
    for residue in elsewhere:
        for polymer in polymers:
            if _inserted(polymer, residue):
                break
        else:
            ligands.append(residue)
    if ligands:
        say(
            f"chain {shown_chain(chain)}: amino acids that no peptide bond joins to the chain are "
            f"ligands, and left out: {shown_items([f'{r.name} {r.label}' for r in ligands])}"
        )
    return polymers


def _following(residues: Sequence[Residue], members: Sequence[bool]) -> list[Residue | None]:
    """For each residue, the next one that is a member of the polymer."""
    found: list[Residue | None] = []
    following = None
    for residue, member in zip(reversed(residues), reversed(members), strict=True):
        found.append(following)
        following = residue if member else following
    return found[::-1]


def _stands_among(residue: Residue, before: Residue | None, after: Residue | None) -> bool:
    """Whether a residue stands before one of the polymer, and its number fits there."""
    if after is None or residue.number > after.number:
        return False
    return before is None or before.number <= residue.number


def _add_polymer(
    atoms: Atoms, chain: str, polymers: list[list[Residue]], residues: list[Residue], say: Say
) -> None:
    """Residues that the file keeps together: more of the last polymer, or one of their own."""
    if polymers:
        last, first = polymers[-1][-1], residues[0]
        same_origin = atoms.origins[last.molecule] == atoms.origins[first.molecule]
        # Programs write a TER at a gap, too; and a chain's last residues may stand after its TER.
        goes_on = same_origin and chain.strip() and first.number > last.number + 1
        if bonded(last, first) or goes_on:
            polymers[-1].extend(residues)
            return
    for polymer in polymers:
        if _is_copy(polymer, residues):
            say(
                f"chain {shown_chain(chain)} comes again in the same place, from "
                f"{atoms.where(residues[0].row)} on: it is read once"
            )
            return
    polymers.append(residues)


def _is_copy(polymer: Sequence[Residue], residues: Sequence[Residue]) -> bool:
    """Whether two molecules are one at two times, as in a trajectory without models."""
    if [(r.label, r.name) for r in polymer] != [(r.label, r.name) for r in residues]:
        return False
    ours, theirs = (np.array([r.best().xyz[CA] for r in either]) for either in (polymer, residues))
    distance = np.linalg.norm(ours - theirs, axis=1)
    known = np.isfinite(distance)
    return bool(known.any() and distance[known].mean() < SAME_MOLECULE)


def _inserted(polymer: list[Residue], residue: Residue) -> bool:
    """Put a residue where its peptide bonds are; False if they are not to this polymer."""
    for n, other in enumerate(polymer):
        if bonded(other, residue):
            polymer.insert(n + 1, residue)
            return True
        if bonded(residue, other):
            polymer.insert(n, residue)
            return True
    return False


def _partners(residues: Sequence[Residue]) -> dict[int, list[Residue]]:
    """id of a residue in HETATM records -> the residues that peptide bonds join it to."""
    hetero = [residue for residue in residues if residue.hetero]
    if not hetero:
        return {}
    cells: dict[tuple[int, int, int, int], list[Residue]] = {}
    for residue in residues:
        for atom in (N, C):
            for cell in {_cell(xyz) for xyz in residue.positions(atom) if np.isfinite(xyz).all()}:
                cells.setdefault((atom, *cell), []).append(residue)
    found: dict[int, list[Residue]] = {}
    around = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)]
    for residue in hetero:
        for atom, other_atom in ((N, C), (C, N)):
            for xyz in residue.positions(atom):
                if not np.isfinite(xyz).all():
                    continue
                x, y, z = _cell(xyz)
                for dx, dy, dz in around:
                    for other in cells.get((other_atom, x + dx, y + dy, z + dz), ()):
                        pair = (other, residue) if atom == N else (residue, other)
                        if other is not residue and bonded(*pair):
                            found.setdefault(id(residue), []).append(other)
    return found


def _cell(xyz: NDArray[np.float64]) -> tuple[int, int, int]:
    """The cube of a grid as wide as a peptide bond can be."""
    x, y, z = np.floor(xyz / PEPTIDE_BOND).tolist()
    return int(x), int(y), int(z)
