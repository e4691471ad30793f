"""Residues give chains: what belongs to which, and in what order.

The rules (docs/explanation/exactness.md lists where they differ from the original's):

- The order of residues is the order of the file, and of label_seq_id where mmCIF has it.
- Two molecules are two chains where the file tells them apart, even if both are called A.
- Amino acids in HETATM records stand where their peptide bonds are, wherever the file has them.
  One that has none belongs to a chain if it is numbered in the full sequence, if it stands among
  the residues of the chain and its number and its distance fit there, or if it is MSE.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from mpnn_core.constants import CA, C, N
from mpnn_core.structures.atoms import Atoms, Say
from mpnn_core.structures.residues import (
    PEPTIDE_BOND,
    SAME_FRAME,
    SAME_PLACE,
    Residue,
    Runs,
    amino_acids,
    bonded,
)
from mpnn_core.structures.structure import shown_chain, shown_items

MOST_MISSING = 50
"""Residue numbers that may be missing of one chain where it goes on after a TER."""

REACH = 4.0
"""Å between the CA atoms of two residues, for each number that they are apart: stretched, 3.8."""


def protein_chains(runs: Runs, say: Say) -> tuple[dict[str, list[Residue]], list[Residue]]:
    """The residues of every protein chain, by chain id, and the amino acids that are ligands."""
    atoms = runs.atoms
    by_id = amino_acids(runs, say)
    chains: dict[str, list[Residue]] = {}
    ligands: list[Residue] = []
    for chain, molecules in by_id.items():
        polymers, free = _polymers(atoms, chain, molecules, say)
        ligands += free
        first, *others = polymers or [[]]
        if first:
            chains[chain] = first
        names = _new_names(chain, {*by_id, *chains})
        renamed = []
        for polymer in others:
            name = next(names)
            chains[name] = polymer
            start = polymer[0]
            renamed.append(f"{name} (from residue {start.label}, {atoms.where(start.row)})")
        if renamed:
            say(
                f"chain {shown_chain(chain)} names {len(others) + 1} molecules; those after the "
                f"first are called {shown_items(renamed)}"
            )
    return {chain: chains[chain] for chain in sorted(chains)}, ligands


def _new_names(chain: str, taken: set[str]) -> Iterator[str]:
    return (name for n in range(2, 10**9) if (name := f"{chain.strip()}_{n}") not in taken)


def _polymers(
    atoms: Atoms, chain: str, molecules: dict[int, list[Residue]], say: Say
) -> tuple[list[list[Residue]], list[Residue]]:
    """The polymers of one chain id, each a list of residues in their order, and its ligands."""
    loose = {id(residue) for residues in molecules.values() for residue in _loose(residues)}
    everything = [residue for residues in molecules.values() for residue in residues]
    bonds = _Bonds([residue for residue in everything if id(residue) in loose], everything)
    attached, free = bonds.fragments(loose)
    ligands: list[Residue] = []
    polymers = _Polymers(atoms, chain, bonds.attachments)
    for number, residues in molecules.items():
        following = _following(residues, loose)
        members: list[Residue] = []
        for residue, after in zip(residues, following, strict=True):
            if id(residue) not in loose or id(residue) in free:
                members.append(residue)
            elif id(residue) in attached:
                continue
            elif residue.name == "MSE" or _stands_among(
                residue, members[-1] if members else None, after, atoms.molecules[number].ended
            ):
                members.append(residue)
            else:
                ligands.append(residue)
        if members:
            polymers.add(members)
    for fragment, before, after in bonds.attachments:
        polymers.insert(fragment, before, after)
    polymers.say_what_is_one(say)
    if ligands:
        say(
            f"chain {shown_chain(chain)}: amino acids that no peptide bond joins to the chain are "
            f"ligands: {shown_items([f'{r.name} {r.label}' for r in ligands])}"
        )
    return polymers.found, ligands


def _loose(residues: Sequence[Residue]) -> list[Residue]:
    """Those of a molecule that only a bond, a number or a name can join to a chain."""
    numbered = len({residue.place for residue in residues}) > 1
    return [r for r in residues if r.hetero and not (numbered and r.place)]


def _following(residues: Sequence[Residue], loose: set[int]) -> list[Residue | None]:
    """For each residue, the next one that is surely of the chain."""
    found: list[Residue | None] = []
    following = None
    for residue in reversed(residues):
        found.append(following)
        following = following if id(residue) in loose else residue
    return found[::-1]


def _stands_among(
    residue: Residue, before: Residue | None, after: Residue | None, ended: bool
) -> bool:
    """Whether a residue stands before one of the chain, or before its TER, and fits there."""
    if after is None and not (ended and before is not None):
        return False
    return (before is None or _reaches(before, residue)) and (
        after is None or _reaches(residue, after)
    )


def _reaches(before: Residue, after: Residue) -> bool:
    """Whether a chain can lead from one residue to another over the numbers between them."""
    step = after.number - before.number
    ours, theirs = before.best().xyz[CA], after.best().xyz[CA]
    distance = float(np.linalg.norm(ours - theirs))
    return step >= 0 and not distance > REACH * max(step, 1)  # unknown is not too far


Attachment = tuple[list[Residue], Residue | None, Residue | None]
"""Residues in HETATM records, and those of a chain that they are bonded to, before and after."""


class _Bonds:
    """The peptide bonds of some residues, `loose`, to each other and to all."""

    def __init__(self, loose: Sequence[Residue], residues: Sequence[Residue]) -> None:
        self._loose = loose
        self._before: dict[
            int, Residue
        ] = {}  # id of a residue -> the one whose C its N is bonded to
        self._after: dict[int, Residue] = {}
        self.attachments: list[Attachment] = []
        if not loose:
            return
        carbons, nitrogens = (_cells(residues, atom) for atom in (C, N))
        for residue in loose:
            for other in self._around(residue, N, carbons):
                if other is not residue and bonded(other, residue):
                    self._before.setdefault(id(residue), other)
            for other in self._around(residue, C, nitrogens):
                if other is not residue and bonded(residue, other):
                    self._after.setdefault(id(residue), other)

    def fragments(self, loose: set[int]) -> tuple[set[int], set[int]]:
        """The ids of residues in fragments bonded to a chain, and of those bonded to each other
        alone; `attachments` says where the first belong."""
        attached: set[int] = set()
        free: set[int] = set()
        done: set[int] = set()
        starts = [r for r in self._loose if id(self._before.get(id(r))) not in loose]
        for start in [*starts, *self._loose]:  # of a ring, any residue is the start
            fragment: list[Residue] = []
            residue: Residue | None = start
            while residue is not None and id(residue) in loose and id(residue) not in done:
                done.add(id(residue))
                fragment.append(residue)
                residue = self._after.get(id(residue))
            if not fragment:
                continue
            before = self._before.get(id(fragment[0]))
            before = None if before is None or id(before) in loose else before
            after = None if residue is None or id(residue) in loose else residue
            if before is not None or after is not None:
                attached.update(map(id, fragment))
                self.attachments.append((fragment, before, after))
            elif len(fragment) > 1:
                free.update(map(id, fragment))
        return attached, free

    @staticmethod
    def _around(residue: Residue, atom: int, cells: Cells) -> Iterator[Residue]:
        for position in residue.positions(atom).tolist():
            if not all(map(math.isfinite, position)):
                continue
            x, y, z = (math.floor(value / PEPTIDE_BOND) for value in position)
            for dx, dy, dz in product((-1, 0, 1), repeat=3):
                yield from cells.get((x + dx, y + dy, z + dz), ())


Cells = dict[tuple[int, int, int], list[Residue]]
"""Residues by the cubes of a grid that an atom of theirs lies in; as wide as a bond can be."""


def _cells(residues: Sequence[Residue], atom: int) -> Cells:
    owners = [residue for residue in residues for _ in residue.conformers]
    xyz = np.array([c.xyz[atom] for residue in residues for c in residue.conformers])
    known = np.isfinite(xyz).all(1)
    cubes = np.floor(xyz[known] / PEPTIDE_BOND).astype(np.int64)
    cells: Cells = {}
    for n, (x, y, z) in zip(np.flatnonzero(known).tolist(), cubes.tolist(), strict=True):
        cells.setdefault((x, y, z), []).append(owners[n])
    return cells


class _Polymers:
    """The polymers of one chain id, as they are found."""

    def __init__(self, atoms: Atoms, chain: str, attachments: Sequence[Attachment]) -> None:
        self.found: list[list[Residue]] = []
        self._atoms, self._chain = atoms, chain
        self._bridges = {(id(before), id(after)) for _, before, after in attachments}
        self._polymer_of: dict[int, list[Residue]] = {}  # by the id of a residue
        # Polymers by what they consist of and where they are, to find copies.
        self._places: dict[object, list[list[Residue]]] = {}
        self._unplaced: list[list[Residue]] = []
        self._goes_on: list[str] = []
        self._copies: list[str] = []

    def add(self, residues: list[Residue]) -> None:
        """Residues that the file keeps together: more of the last polymer, or one of their own."""
        if self.found and self._continues(self.found[-1][-1], residues[0]):
            polymer = self.found[-1]
            polymer.extend(residues)
        elif self.found and self._is_copy(residues):
            self._copies.append(self._atoms.where(residues[0].row))
            return
        else:
            polymer = residues
            self.found.append(polymer)
            self._unplaced.append(list(residues))
        self._polymer_of.update(dict.fromkeys(map(id, residues), polymer))

    def _continues(self, last: Residue, first: Residue) -> bool:
        if bonded(last, first) or (id(last), id(first)) in self._bridges:
            return True
        ours, theirs = (self._atoms.molecules[r.molecule] for r in (last, first))
        # Programs write a TER at a gap, too.
        step = first.number - last.number
        if (
            (ours.block, ours.name) == (theirs.block, theirs.name)
            and self._chain.strip()
            and 1 < step <= MOST_MISSING
            and _reaches(last, first)
        ):
            self._goes_on.append(f"{last.label} to {first.label}")
            return True
        return False

    def _is_copy(self, residues: list[Residue]) -> bool:
        """Whether a molecule is there already: in one place, or moved a little after an END."""
        for molecule in self._unplaced:
            self._places.setdefault(_consists_of(molecule), []).append(molecule)
        self._unplaced = []
        (parts, cell), xyz = _consists_of(residues), _trace(residues)
        known = np.isfinite(xyz).all(1)
        for shift in product((-1, 0, 1), repeat=3):
            place = (parts, (cell[0] + shift[0], cell[1] + shift[1], cell[2] + shift[2]))
            for other in self._places.get(place, ()):
                blocks = {self._atoms.molecules[r[0].molecule].block for r in (residues, other)}
                limit = SAME_FRAME if len(blocks) > 1 else SAME_PLACE
                if np.linalg.norm(xyz - _trace(other), axis=1)[known].mean() < limit:
                    return True
        return False

    def insert(
        self, fragment: list[Residue], before: Residue | None, after: Residue | None
    ) -> None:
        """Put residues where their peptide bonds are."""
        neighbour = before if before is not None and id(before) in self._polymer_of else after
        polymer = self._polymer_of.get(id(neighbour))
        if polymer is None or neighbour is None:
            return  # it is bonded to a copy, which is left out
        at = polymer.index(neighbour) + (neighbour is before)
        polymer[at:at] = fragment
        self._polymer_of.update(dict.fromkeys(map(id, fragment), polymer))

    def say_what_is_one(self, say: Say) -> None:
        """What a TER or an END divides, and is read as one molecule."""
        if self._goes_on:
            say(
                f"chain {shown_chain(self._chain)} goes on after a TER, from residue "
                f"{shown_items(self._goes_on)}"
            )
        if self._copies:
            say(
                f"chain {shown_chain(self._chain)} comes again in the same place, from "
                f"{shown_items(self._copies)} on: it is read once"
            )


def _trace(residues: Sequence[Residue]) -> NDArray[np.float64]:
    """(n, 3) Å: the CA atoms."""
    return np.array([residue.best().xyz[CA] for residue in residues])


def _consists_of(residues: Sequence[Residue]) -> tuple[object, tuple[int, int, int]]:
    """What a molecule consists of, and the cell of a grid that its centre lies in."""
    xyz = _trace(residues)
    known = xyz[np.isfinite(xyz).all(1)]
    centre = known.mean(0) if len(known) else np.zeros(3)
    parts = tuple((r.number, r.icode, r.name) for r in residues)
    x, y, z = np.floor(centre / SAME_FRAME).astype(int).tolist()
    return parts, (x, y, z)
