"""How good packed side chains are: overlapping atoms, and chi angles as in the native structure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpnn_core.constants import ALPHABET, C, N
from mpnn_core.design.packing import Packed
from mpnn_core.selecting.selections import select
from mpnn_core.structures.side_chains import ATOM_NAMES, CHIS, HALF_TURN, measured_chi
from mpnn_core.structures.structure import Structure

RADII = {6: 1.70, 7: 1.55, 8: 1.52, 9: 1.47, 15: 1.80, 16: 1.80, 17: 1.75, 35: 1.85, 53: 1.98}
"""Å, van der Waals radii by atomic number (Bondi, J. Phys. Chem. 1964). Other elements, metals
above all, bind at less than such a distance, and are not counted."""

OVERLAP = 0.8
"""Two atoms clash that are nearer than this share of the sum of their radii: 2.72 Å for two
carbons. A hydrogen bond of N and O, 2.6 Å and more, is farther than their 2.46 Å."""

DISULFIDE = 2.5
"""Å. Two SG of cysteines that are as near as this are taken as bonded."""

PEPTIDE = 2.0
"""Å. Residues follow each other where C of one is this near to N of the next."""

RECOVERED = np.deg2rad(20)
"""Radians. A chi angle that is this near to the native one is recovered."""

PLACES = ("all", "core", "surface")
"""Where residues are counted: `select` says which are of the core and of the surface."""

_ELEMENTS = {"C": 6, "N": 7, "O": 8, "S": 16}
_FIRST_BEYOND = 4  # CB


def clashes(packed: Packed, ligands: bool = True) -> NDArray[np.int64]:
    """How many pairs of heavy atoms overlap in each model: (n,) int64.

    One atom of a pair is of a side chain, CB included; the other is of another residue, or of what
    is around the protein. Not counted are atoms that bonds hold together: two SG of a disulfide,
    and the CB of any residue or the CD of a proline beside the backbone of the residue before or
    after.

    Parameters
    ----------
    ligands : whether the atoms around the protein count
    """
    context = packed.structure.context
    known = [i for i, element in enumerate(context.elements.tolist()) if element in RADII]
    around = context.coords[known if ligands else []].astype(np.float64)
    radius = np.array([RADII[int(e)] for e in context.elements[known if ligands else []]])
    found = [
        _clashes(sequence, xyz.astype(np.float64), around, radius)
        for sequence, xyz in zip(packed.sequences, packed.coordinates, strict=True)
    ]
    return np.array(found, np.int64)


def _clashes(
    sequence: str,
    xyz: NDArray[np.float64],
    around: NDArray[np.float64],
    around_radius: NDArray[np.float64],
) -> int:
    names = np.full(xyz.shape[:2], "", "U3")
    for i, letter in enumerate(sequence):
        of_letter = ATOM_NAMES[ALPHABET.index(letter)]
        names[i, : len(of_letter)] = of_letter
    rows, slots = np.nonzero(np.isfinite(xyz[..., 0]))
    of_protein = len(rows)
    name = names[rows, slots]
    radius = np.array([RADII[_ELEMENTS[n[0]]] for n in name.tolist()])
    places = np.concatenate([xyz[rows, slots], around])
    radii = np.concatenate([radius, around_radius])
    if not len(places):
        return 0
    widest = 2 * OVERLAP * float(radii.max())
    chain = np.concatenate([np.linalg.norm(xyz[:-1, C] - xyz[1:, N], axis=-1) < PEPTIDE, [False]])
    is_proline = np.array([letter == "P" for letter in sequence])
    count = 0
    for a, b, distance in _near_pairs(places, widest):
        near = distance < OVERLAP * (radii[a] + radii[b])
        a, b, distance = a[near], b[near], distance[near]
        # A pair of two atoms around the protein is none, and `a` is of the protein.
        a, b = np.minimum(a, b), np.maximum(a, b)
        own = a < of_protein
        a, b, distance = a[own], b[own], distance[own]
        side = slots[a] >= _FIRST_BEYOND
        both = b < of_protein
        count += int((side & ~both).sum())
        a, b, distance = a[both], b[both], distance[both]
        i, j = rows[a], rows[b]
        counted = (i != j) & ((slots[a] >= _FIRST_BEYOND) | (slots[b] >= _FIRST_BEYOND))
        sulfurs = (name[a] == "SG") & (name[b] == "SG") & (distance < DISULFIDE)
        follow = (np.abs(i - j) == 1) & chain[np.minimum(i, j)]
        for one, other, residue in ((a, b, i), (b, a, j)):
            root = (name[one] == "CB") | ((name[one] == "CD") & is_proline[residue])
            counted &= ~(follow & root & (slots[other] < _FIRST_BEYOND))
        count += int((counted & ~sulfurs).sum())
    return count


def _near_pairs(
    xyz: NDArray[np.float64], distance: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """All pairs of points (n, 3) within a distance, each once, in time and memory linear in n where
    points are as dense as atoms: rows, rows, and how far they are."""
    boxes = np.floor((xyz - xyz.min(0)) / distance).astype(np.int64) + 1
    size = boxes.max(0) + 2  # a margin on every side, so that no box has two numbers
    key = (boxes[:, 0] * size[1] + boxes[:, 1]) * size[2] + boxes[:, 2]
    order = np.argsort(key, kind="stable")
    ranked = key[order]
    steps = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)]
    for x, y, z in (step for step in steps if step >= (0, 0, 0)):
        wanted = ranked + (x * size[1] + y) * size[2] + z
        first, last = np.searchsorted(ranked, wanted), np.searchsorted(ranked, wanted, "right")
        if (x, y, z) == (0, 0, 0):  # of one box, each pair once
            first = np.arange(len(ranked)) + 1
        counts = last - first
        a = np.repeat(np.arange(len(ranked)), counts)
        b = np.arange(len(a)) - np.repeat(np.cumsum(counts) - counts, counts) + first[a]
        a, b = order[a], order[b]
        far = np.linalg.norm(xyz[a] - xyz[b], axis=-1)
        near = far <= distance
        yield a[near], b[near], far[near]


def recovered(structure: Structure, chi: NDArray[np.float32]) -> NDArray[np.float32]:
    """Whether chi angles are within `RECOVERED` of the structure's own.

    Parameters
    ----------
    chi : (n, L, 4) radians, of models that have the structure's own sequence

    Returns
    -------
    (n, L, 4) float32: 1 or 0, NaN where either angle is not known. Angles of D, E, F and Y that
    swap two equal atoms are compared without regard to which is which.
    """
    native, known = measured_chi(structure)
    turn = np.full((len(structure), CHIS), 2 * np.pi)
    for i, letter in enumerate(structure.sequence):
        if letter in HALF_TURN:
            turn[i, HALF_TURN[letter]] = np.pi
    apart = np.abs(chi.astype(np.float64) - native) % turn
    apart = np.minimum(apart, turn - apart)
    right = np.where(np.isfinite(apart), apart <= RECOVERED, np.nan)
    return np.where(known, right, np.nan).astype(np.float32)


class Recovery(NamedTuple):
    """Of one amino acid, "all" or a letter, and one of `PLACES`: of each chi angle, how many there
    are, and how many are recovered."""

    letter: str
    place: str
    right: tuple[int, ...]
    of: tuple[int, ...]


def recovery(packed: Packed) -> list[Recovery]:
    """The recovery of chi1 to chi4 by amino acid, of the core and of the surface.

    Raises
    ------
    ValueError
        A model has another sequence than the structure.
    """
    structure = packed.structure
    if any(sequence != structure.sequence for sequence in packed.sequences):
        raise ValueError(
            f"{structure.name}: a model has another sequence than the structure; angles are "
            "compared with native ones of the same residues"
        )
    right = recovered(structure, packed.chi)
    right[:, packed.kept] = np.nan  # those are native ones
    letters = np.array(list(structure.sequence))
    rows = []
    for letter in ("all", *dict.fromkeys(ALPHABET)):
        of_letter = (letters == letter) | (letter == "all")
        for place in PLACES:
            chosen = right[:, of_letter & select(structure, place)]
            of = np.isfinite(chosen).sum((0, 1))
            if of.any():
                good = (chosen == 1).sum((0, 1))
                rows.append(Recovery(letter, place, tuple(good.tolist()), tuple(of.tolist())))
    return rows
