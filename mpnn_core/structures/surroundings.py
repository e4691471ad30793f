"""Residues and what is left give surroundings: side chains, and the atoms around the protein.

- A side chain is of the conformer whose backbone is read; where the backbone has no alternatives,
  of the complete one of the highest occupancy, of equals the first.
- Around the protein are the atoms of all residues that are neither protein nor water. Of
  alternative conformations of a residue one is read, by the same rule; none is filled from another.
  Two residues with different labels and one place are alternatives, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mpnn_core.structures.atoms import Atoms, Say
from mpnn_core.structures.context import NO_CONTEXT, SIDE_CHAIN_ATOMS, ContextAtoms
from mpnn_core.structures.residues import SAME_FRAME, Conformer, Residue, Runs
from mpnn_core.structures.structure import shown_chain, shown_items

READ_OF_SIDE_CHAINS = ("CB", *SIDE_CHAIN_ATOMS)
_READ = READ_OF_SIDE_CHAINS[:-1]
"""All but OXT, which the original's `parse_PDB` does not read either."""
_KEYS = np.array(_READ, "S4").view(np.uint32)  # four bytes compare faster as a number
_BY_KEY = np.argsort(_KEYS)

CLASH = 1.0
"""Å. Two atoms nearer than this are alternatives: the shortest bond without hydrogen is 1.1."""

DUMMIES = (b"DUM",)
"""Residues that mark the planes of a membrane, in files of OPM and PPM."""


def side_chains(
    runs: Runs,
    residues: Sequence[Residue],
    read: Sequence[Conformer],
    zero_occupancy: bool,
    say: Say,
) -> NDArray[np.float32]:
    """(L, 33, 3) Å: the side chains of L residues, of each of which one conformer is read: the
    atoms `READ_OF_SIDE_CHAINS`.

    NaN where an atom is missing, unreadable or, unless `zero_occupancy`, of occupancy 0.
    """
    atoms = runs.atoms
    keys = atoms.atom.astype("S4").view(np.uint32)
    at = np.minimum(np.searchsorted(_KEYS, keys, sorter=_BY_KEY), len(_KEYS) - 1)
    slots = _BY_KEY[at]
    owners = runs.owners(residues)[runs.run]
    is_read = (_KEYS[slots] == keys) & (owners >= 0)
    if not zero_occupancy:
        is_read &= atoms.occupancy > 0
    rows = np.flatnonzero(is_read)
    readable = atoms.readable(rows)
    if not readable.all():
        bad = owners[rows[~readable]]
        labels = dict.fromkeys(residues[n].label for n in bad.tolist())
        count = f"{len(bad)} atoms" if len(bad) > 1 else "an atom"
        say(
            f"{count} of side chains, unreadable or without a position, left out: residue "
            f"{shown_items(list(labels))}"
        )
        rows = rows[readable]
    letters = np.array([conformer.letter for conformer in read])
    rows = rows[runs.letters[runs.run[rows]] == letters[owners[rows]]]

    labelled = atoms.altloc[rows] != b""
    if labelled.any():
        keep = ~labelled
        for group in _groups(owners[rows], np.flatnonzero(labelled)):
            conformer = read[int(owners[rows[group[0]]])]
            label = conformer.label or _best_label(runs, rows[group])
            keep[group] |= atoms.altloc[rows[group]] == label
        # Where an atom comes twice, the first is read, and one with the label before one without.
        rows = np.concatenate([rows[keep & labelled], rows[keep & ~labelled]])
    xyz = np.full((len(residues), len(READ_OF_SIDE_CHAINS), 3), np.nan, np.float32)
    rows = rows[::-1]  # the last to be written stays
    xyz[owners[rows], slots[rows]] = atoms.xyz[rows]
    return xyz


def context_atoms(
    runs: Runs, ligands: Sequence[Residue], zero_occupancy: bool, say: Say
) -> ContextAtoms:
    """The atoms of all residues that are no protein, `ligands` among them, and no water."""
    rows = _rows_around(runs, ligands)
    if not len(rows):
        return NO_CONTEXT
    atoms = runs.atoms
    rows = _without(rows, np.isin(atoms.residue[rows], DUMMIES), runs, "dummies of a membrane", say)
    rows = _without(
        rows, atoms.element[rows] == 0, runs, "of no element that is known", say, by_name=True
    )
    rows = rows[atoms.element[rows] != 1]
    if not zero_occupancy:
        empty = ~(atoms.occupancy[rows] > 0)
        rows = _without(rows, empty, runs, "of occupancy 0 (zero_occupancy=True reads them)", say)
    rows = _without(rows, ~atoms.readable(rows), runs, "unreadable or without a position", say)
    rows = _once(runs, rows, say)
    rows = _one_of_alternatives(runs, _one_conformer(runs, rows), say)
    numbers = np.char.add(atoms.number[rows].astype(np.str_), atoms.icode[rows].astype(np.str_))
    return ContextAtoms(
        atoms.xyz[rows].astype(np.float32),
        atoms.element[rows],
        atoms.atom[rows].astype(np.str_),
        atoms.residue[rows].astype(np.str_),
        numbers,
        atoms.chain[rows].astype(np.str_),
    )


def chains_around(runs: Runs, ligands: Sequence[Residue]) -> set[str]:
    """The file's chains that have residues around the protein."""
    chains = np.unique(runs.atoms.chain[_rows_around(runs, ligands)])
    return {chain.decode() for chain in chains.tolist()}


def say_what_is_of_other_chains(others: Atoms, say: Say) -> None:
    """What of the surroundings is not read since it is of chains that were not asked for."""
    runs = Runs(others)
    rows = _rows_around(runs, ())
    rows = rows[(others.element[rows] > 1) & ~np.isin(others.residue[rows], DUMMIES)]
    if len(rows):
        chains = sorted({chain.decode() for chain in others.chain[rows].tolist()})
        say(
            f"ligands of other chains are left out (chain {', '.join(map(shown_chain, chains))}): "
            f"{shown_items(_residues_of(runs, rows))}"
        )


def _rows_around(runs: Runs, ligands: Sequence[Residue]) -> NDArray[np.int64]:
    """The atoms of residues that are no water and no amino acid, or one of these."""
    around = runs.around()
    for ligand in ligands:
        around[runs.run[[ligand.row, *ligand.apart]]] = True
    return np.flatnonzero(around[runs.run])


def _without(
    rows: NDArray[np.int64],
    drop: NDArray[np.bool_],
    runs: Runs,
    what: str,
    say: Say,
    by_name: bool = False,
) -> NDArray[np.int64]:
    """The rows that are not dropped, and a sentence about the others."""
    dropped = rows[drop]
    if not len(dropped):
        return rows
    atoms = runs.atoms
    if by_name:
        names = zip(atoms.atom[dropped].tolist(), atoms.residue[dropped].tolist(), strict=True)
        items = list(dict.fromkeys(f"{a.decode()} of {r.decode()}" for a, r in names))
    else:
        items = _residues_of(runs, dropped)
    count = f"{len(dropped)} atoms" if len(dropped) > 1 else "an atom"
    say(f"{count} around the protein, {what}, left out: {shown_items(items)}")
    return rows[~drop]


def _residues_of(runs: Runs, rows: NDArray[np.int64]) -> list[str]:
    """The names of the residues that atoms are of, and how many there are of each."""
    counts = Counter(runs.names[np.unique(runs.run[rows])].tolist())
    return [f"{name} ({n})" if n > 1 else name for name, n in sorted(counts.items())]


def _once(runs: Runs, rows: NDArray[np.int64], say: Say) -> NDArray[np.int64]:
    """The rows without residues that come again after an END, moved a little or not at all."""
    atoms = runs.atoms
    if not any(molecule.block for molecule in atoms.molecules):
        return rows
    seen: dict[object, list[tuple[int, NDArray[np.float64]]]] = {}
    copies: list[NDArray[np.int64]] = []
    for part in np.split(rows, np.flatnonzero(np.diff(runs.run[rows])) + 1):
        row = int(part[0])
        key = (
            atoms.chain[row], atoms.number[row], atoms.icode[row], atoms.residue[row],
            *atoms.atom[part].tolist(), *atoms.altloc[part].tolist(),
        )  # fmt: skip
        block, xyz = atoms.molecules[int(atoms.molecule[row])].block, atoms.xyz[part]
        known = seen.setdefault(key, [])
        if any(
            earlier != block and np.linalg.norm(there - xyz, axis=1).mean() < SAME_FRAME
            for earlier, there in known
        ):
            copies.append(part)
        else:
            known.append((block, xyz))
    if not copies:
        return rows
    again = np.concatenate(copies)
    return _without(
        rows, np.isin(rows, again), runs, "which come again after an END in the same place", say
    )


def _one_conformer(runs: Runs, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows without those of further conformations of a residue."""
    atoms = runs.atoms
    labelled = atoms.altloc[rows] != b""
    if not labelled.any():
        return rows
    # Two residues with one number are alternatives if they have labels.
    place = np.stack(
        [
            np.unique(column[rows], return_inverse=True)[1].reshape(-1)
            for column in (atoms.chain, atoms.number, atoms.icode)
        ]
    )
    place = np.unique(place, axis=1, return_inverse=True)[1].reshape(-1)
    keep = ~labelled
    for group in _groups(place, np.flatnonzero(labelled)):
        keep[group] |= atoms.altloc[rows[group]] == _best_label(runs, rows[group])
    return rows[keep]


def _one_of_alternatives(runs: Runs, rows: NDArray[np.int64], say: Say) -> NDArray[np.int64]:
    """The rows without the labelled atoms of residues that are in the place of others with another
    label, of which those of the higher mean occupancy are read; of equals the first."""
    atoms = runs.atoms
    labelled = rows[atoms.altloc[rows] != b""]
    if len(set(atoms.altloc[labelled].tolist())) < 2:
        return rows
    residues = np.split(labelled, np.flatnonzero(np.diff(runs.run[labelled])) + 1)
    read, dropped = [labelled[:0]], [labelled[:0]]
    for part in sorted(residues, key=lambda part: -round(float(atoms.occupancy[part].mean()), 4)):
        taken = np.concatenate(read)
        taken = taken[atoms.altloc[taken] != atoms.altloc[part[0]]]
        apart = np.linalg.norm(atoms.xyz[taken][:, None] - atoms.xyz[part], axis=2)
        (dropped if (apart < CLASH).any() else read).append(part)
    drop = np.isin(rows, np.concatenate(dropped))
    return _without(rows, drop, runs, "alternatives to others in their place", say)


def _groups(numbers: NDArray[np.int64], labelled: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The places of each number that one of the labelled places has."""
    some = np.flatnonzero(np.isin(numbers, numbers[labelled]))
    some = some[np.argsort(numbers[some], kind="stable")]
    yield from np.split(some, np.flatnonzero(np.diff(numbers[some])) + 1)


def _best_label(runs: Runs, rows: NDArray[np.int64]) -> bytes:
    """The label of the conformation of a residue that is read: of those with most of the atoms of
    their residue's name, the one of the highest mean occupancy; of equals the first."""
    atoms = runs.atoms
    table = list(
        zip(
            atoms.altloc[rows].tolist(), atoms.residue[rows].tolist(), atoms.atom[rows].tolist(),
            atoms.occupancy[rows].tolist(), strict=True,
        )
    )  # fmt: skip
    names: dict[bytes, set[bytes]] = {}  # of a residue's name, the atoms of any conformation
    for _, residue, atom, _ in table:
        names.setdefault(residue, set()).add(atom)

    def rank(label: bytes) -> tuple[float, float]:
        kinds = {residue for of, residue, _, _ in table if of == label}
        whole = sum(len(names[residue]) for residue in kinds)
        present = {(r, a) for of, r, a, _ in table if r in kinds and of in (label, b"")}
        occupancies = [occupancy for of, _, _, occupancy in table if of == label]
        return len(present) / whole, round(sum(occupancies) / len(occupancies), 4)

    labels = dict.fromkeys(label for label, *_ in table if label)
    return max(labels, key=rank)  # the first of equals
