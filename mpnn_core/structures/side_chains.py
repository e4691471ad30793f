"""Side chains of ideal geometry: where the atoms of a residue are, by its backbone and chi angles.

Bond lengths and angles, and the atoms of the groups that each angle turns, are those of AlphaFold 2
(Jumper et al., Nature 2021; `residue_constants.py`, Apache-2.0, DeepMind Technologies Limited),
which LigandMPNN's packer was trained with. The numbers are data of that file; the code is ours.

The atoms of a residue are in the order of its `atom14`: N, CA, C, O, CB, and what is beyond. A
residue consists of rigid groups: the backbone N, CA, C with CB; O, which psi turns; and the atoms
that chi1 to chi4 turn. Each group has axes of its own: x along the bond that turns it.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mpnn_core.constants import AMINO_ACIDS, CA, THREE_LETTER_NAMES, C, N, O
from mpnn_core.structures.context import SIDE_CHAIN_ATOMS
from mpnn_core.structures.structure import Structure

ATOMS, CHIS = 14, 4
PSI, FIRST_CHI = 3, 4
"""Numbers of groups: 0 is the backbone, 3 what psi turns, 4 to 7 what chi1 to chi4 turn."""

# Of each residue: atom, group, x y z in Å in the group's axes. CA is the backbone's origin.
_GROUPS = {
    "ALA": """
        N 0 -0.525 1.363 0
        C 0 1.526 0 0
        O 3 0.627 1.062 0
        CB 0 -0.529 -0.774 -1.205""",
    "CYS": """
        N 0 -0.522 1.362 0
        C 0 1.524 0 0
        O 3 0.625 1.062 0
        CB 0 -0.519 -0.773 -1.212
        SG 4 0.728 1.653 0""",
    "ASP": """
        N 0 -0.525 1.362 0
        C 0 1.527 0 0
        O 3 0.626 1.062 0
        CB 0 -0.526 -0.778 -1.208
        CG 4 0.593 1.398 0
        OD1 5 0.61 1.091 0
        OD2 5 0.592 -1.101 -0.003""",
    "GLU": """
        N 0 -0.528 1.361 0
        C 0 1.526 0 0
        O 3 0.626 1.062 0
        CB 0 -0.526 -0.781 -1.207
        CG 4 0.615 1.392 0
        CD 5 0.6 1.397 0
        OE1 6 0.607 1.095 0
        OE2 6 0.589 -1.104 -0.001""",
    "PHE": """
        N 0 -0.518 1.363 0
        C 0 1.524 0 0
        O 3 0.626 1.062 0
        CB 0 -0.525 -0.776 -1.212
        CG 4 0.607 1.377 0
        CD1 5 0.709 1.195 0
        CD2 5 0.706 -1.196 0
        CE1 5 2.102 1.198 0
        CE2 5 2.098 -1.201 0
        CZ 5 2.794 -0.003 -0.001""",
    "GLY": """
        N 0 -0.572 1.337 0
        C 0 1.517 0 0
        O 3 0.626 1.062 0""",
    "HIS": """
        N 0 -0.527 1.36 0
        C 0 1.525 0 0
        O 3 0.625 1.063 0
        CB 0 -0.525 -0.778 -1.208
        CG 4 0.6 1.37 0
        ND1 5 0.744 1.16 0
        CD2 5 0.889 -1.021 0.003
        CE1 5 2.03 0.851 0.002
        NE2 5 2.145 -0.466 0.004""",
    "ILE": """
        N 0 -0.493 1.373 0
        C 0 1.527 0 0
        O 3 0.627 1.062 0
        CB 0 -0.536 -0.793 -1.213
        CG1 4 0.534 1.437 0
        CG2 4 0.54 -0.785 -1.199
        CD1 5 0.619 1.391 0""",
    "LYS": """
        N 0 -0.526 1.362 0
        C 0 1.526 0 0
        O 3 0.626 1.062 0
        CB 0 -0.524 -0.778 -1.208
        CG 4 0.619 1.39 0
        CD 5 0.559 1.417 0
        CE 6 0.56 1.416 0
        NZ 7 0.554 1.387 0""",
    "LEU": """
        N 0 -0.52 1.363 0
        C 0 1.525 0 0
        O 3 0.625 1.063 0
        CB 0 -0.522 -0.773 -1.214
        CG 4 0.678 1.371 0
        CD1 5 0.53 1.43 0
        CD2 5 0.535 -0.774 1.2""",
    "MET": """
        N 0 -0.521 1.364 0
        C 0 1.525 0 0
        O 3 0.625 1.062 0
        CB 0 -0.523 -0.776 -1.21
        CG 4 0.613 1.391 0
        SD 5 0.703 1.695 0
        CE 6 0.32 1.786 0""",
    "ASN": """
        N 0 -0.536 1.357 0
        C 0 1.526 0 0
        O 3 0.625 1.062 0
        CB 0 -0.531 -0.787 -1.2
        CG 4 0.584 1.399 0
        OD1 5 0.633 1.059 0
        ND2 5 0.593 -1.188 0.001""",
    "PRO": """
        N 0 -0.566 1.351 0
        C 0 1.527 0 0
        O 3 0.621 1.066 0
        CB 0 -0.546 -0.611 -1.293
        CG 4 0.382 1.445 0
        CD 5 0.477 1.424 0""",
    "GLN": """
        N 0 -0.526 1.361 0
        C 0 1.526 0 0
        O 3 0.626 1.062 0
        CB 0 -0.525 -0.779 -1.207
        CG 4 0.615 1.393 0
        CD 5 0.587 1.399 0
        OE1 6 0.634 1.06 0
        NE2 6 0.593 -1.189 -0.001""",
    "ARG": """
        N 0 -0.524 1.362 0
        C 0 1.525 0 0
        O 3 0.626 1.062 0
        CB 0 -0.524 -0.778 -1.209
        CG 4 0.616 1.39 0
        CD 5 0.564 1.414 0
        NE 6 0.539 1.357 0
        CZ 7 0.758 1.093 0
        NH1 7 0.206 2.301 0
        NH2 7 2.078 0.978 0""",
    "SER": """
        N 0 -0.529 1.36 0
        C 0 1.525 0 0
        O 3 0.626 1.062 0
        CB 0 -0.518 -0.777 -1.211
        OG 4 0.503 1.325 0""",
    "THR": """
        N 0 -0.517 1.364 0
        C 0 1.526 0 0
        O 3 0.626 1.062 0
        CB 0 -0.516 -0.793 -1.215
        OG1 4 0.472 1.353 0
        CG2 4 0.55 -0.718 -1.228""",
    "VAL": """
        N 0 -0.494 1.373 0
        C 0 1.527 0 0
        O 3 0.627 1.062 0
        CB 0 -0.533 -0.795 -1.213
        CG1 4 0.54 1.429 0
        CG2 4 0.533 -0.776 1.203""",
    "TRP": """
        N 0 -0.521 1.363 0
        C 0 1.525 0 0
        O 3 0.627 1.062 0
        CB 0 -0.523 -0.776 -1.212
        CG 4 0.609 1.37 0
        CD1 5 0.824 1.091 0
        CD2 5 0.854 -1.148 -0.005
        CE2 5 2.186 -0.678 -0.007
        CE3 5 0.622 -2.53 -0.007
        NE1 5 2.14 0.69 -0.004
        CZ2 5 3.283 -1.543 -0.011
        CZ3 5 1.715 -3.389 -0.011
        CH2 5 3.028 -2.89 -0.013""",
    "TYR": """
        N 0 -0.522 1.362 0
        C 0 1.524 0 0
        O 3 0.627 1.062 0
        CB 0 -0.522 -0.776 -1.213
        CG 4 0.607 1.382 0
        CD1 5 0.716 1.195 0
        CD2 5 0.713 -1.194 -0.001
        CE1 5 2.107 1.2 -0.002
        CE2 5 2.104 -1.201 -0.003
        CZ 5 2.791 -0.001 -0.003
        OH 5 4.168 -0.002 -0.005""",
}

_CHI_ATOMS = {
    "ARG": "CG CD NE CZ", "ASN": "CG OD1", "ASP": "CG OD1", "CYS": "SG", "GLN": "CG CD OE1",
    "GLU": "CG CD OE1", "HIS": "CG ND1", "ILE": "CG1 CD1", "LEU": "CG CD1", "LYS": "CG CD CE NZ",
    "MET": "CG SD CE", "PHE": "CG CD1", "PRO": "CG CD", "SER": "OG", "THR": "OG1", "TRP": "CG CD1",
    "TYR": "CG CD1", "VAL": "CG1",
}  # fmt: skip
"""The last atom of each chi angle: chi1 is of N, CA, CB and the first of them, chi2 of CA, CB and
the first two, and so on."""


HALF_TURN = {"D": 1, "E": 2, "F": 1, "Y": 1}
"""Of letters, the angle (from 0) that is the same after half a turn, for it swaps equal atoms."""


def _read(name: str) -> list[tuple[str, int, list[float]]]:
    rows = [line.split() for line in _GROUPS[name].strip().splitlines()]
    atoms = [(atom, int(group), [float(x) for x in xyz]) for atom, group, *xyz in rows]
    return [atoms[0], ("CA", 0, [0.0, 0.0, 0.0]), *atoms[1:]]


ATOM_NAMES = (*(tuple(atom for atom, _, _ in _read(name)) for name in THREE_LETTER_NAMES), ())
"""The names of each letter's atoms, in their order; X has none."""

ATOM_COUNTS = tuple(len(atoms) for atoms in ATOM_NAMES)

CHI_ATOMS = (*(tuple(_CHI_ATOMS.get(name, "").split()) for name in THREE_LETTER_NAMES), ())
CHI_COUNTS = tuple(len(atoms) for atoms in CHI_ATOMS)
"""How many chi angles each letter has."""


class Ideal(NamedTuple):
    """The geometry of the 21 letters, as arrays.

    Attributes
    ----------
    group : (21, 14) int64, of each atom
    xyz : (21, 14, 3), Å, in the axes of the group
    rotation, origin : (21, 8, 3, 3), (21, 8, 3): the axes of each group, in columns, and its origin
        in those of the one that it hangs on: of chi2 to chi4 the group before, else the backbone
    """

    group: NDArray[np.int64]
    xyz: NDArray[np.float64]
    rotation: NDArray[np.float64]
    origin: NDArray[np.float64]


@cache
def ideal() -> Ideal:
    """The geometry of the 21 letters."""
    letters = len(AMINO_ACIDS) + 1
    group, xyz = np.zeros((letters, ATOMS), np.int64), np.zeros((letters, ATOMS, 3))
    rotation, origin = np.tile(np.eye(3), (letters, 8, 1, 1)), np.zeros((letters, 8, 3))
    for i, name in enumerate(THREE_LETTER_NAMES):
        atoms = _read(name)
        at = {atom: np.array(place) for atom, _, place in atoms}
        for a, (_, number, place) in enumerate(atoms):
            group[i, a], xyz[i, a] = number, place
        rotation[i, PSI] = _axes(at["C"], -at["N"])
        origin[i, PSI] = at["C"]
        for k in range(CHI_COUNTS[i]):
            if k == 0:
                rotation[i, FIRST_CHI] = _axes(at["CB"], at["N"])
                origin[i, FIRST_CHI] = at["CB"]
            else:
                end = at[CHI_ATOMS[i][k - 1]]
                rotation[i, FIRST_CHI + k] = _axes(end, np.array([-1.0, 0.0, 0.0]))
                origin[i, FIRST_CHI + k] = end
    return Ideal(group, xyz, rotation, origin)


def _axes(along: NDArray[np.float64], aside: NDArray[np.float64]) -> NDArray[np.float64]:
    """Axes in columns, x along one vector and y in the plane of both: (3, 3)."""
    x = along / np.linalg.norm(along)
    y = aside - (aside @ x) * x
    y /= np.linalg.norm(y)
    return np.stack([x, y, np.cross(x, y)], 1)


def coordinates(backbone: Tensor, tokens: Tensor, chi: Tensor) -> Tensor:
    """The atoms of residues with these letters and angles.

    Parameters
    ----------
    backbone : (L, 4, 3) float, Å: N, CA, C, O. CA stays; of the others, the plane of N and the
        direction of C are taken, and the angle of O around CA - C
    tokens : (n, L) int64
    chi : (n, L, 4) float, radians; those that a residue does not have move nothing

    Returns
    -------
    (n, L, 14, 3) Å, in the dtype of `backbone`; what is beyond a residue's atoms means nothing.
    """
    known = (torch.from_numpy(a).to(backbone.device) for a in ideal())
    group, xyz, rotation, origin = (a[tokens] for a in known)
    xyz, rotation, origin = (a.to(backbone.dtype) for a in (xyz, rotation, origin))
    frame = frames(backbone)  # (L, 3, 3)
    turned = _turned(rotation[..., FIRST_CHI:, :, :], chi.to(backbone.dtype))  # (n, L, 4, 3, 3)
    moved = [rotation[..., 0, :, :]] * FIRST_CHI
    shifts = list(origin.unbind(-2))
    psi = _angle_of_o(backbone).expand(tokens.shape)
    moved[PSI] = _turned(rotation[..., PSI, :, :], psi)
    moved.append(turned[..., 0, :, :])
    for k in range(1, CHIS):
        before = moved[-1]
        shifts[FIRST_CHI + k] = shifts[FIRST_CHI + k - 1] + _apply(before, shifts[FIRST_CHI + k])
        moved.append(before @ turned[..., k, :, :])
    rotations, origins = torch.stack(moved, -3), torch.stack(shifts, -2)  # (n, L, 8, ...)
    row = group[..., None].expand(*group.shape, 3)  # (n, L, 14, 3)
    of_atoms = rotations.gather(-3, row[..., None].expand(*row.shape, 3))
    local = _apply(of_atoms, xyz) + origins.gather(-2, row)
    return _apply(frame[:, None], local) + backbone[:, None, CA]


def frames(backbone: Tensor) -> Tensor:
    """The axes of backbones (L, 4, 3), in columns: x from CA to C, N in the plane of x and y."""
    x = F.normalize(backbone[:, C] - backbone[:, CA], dim=-1)
    towards_n = backbone[:, N] - backbone[:, CA]
    y = F.normalize(towards_n - x * (x * towards_n).sum(-1, keepdim=True), dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


def _angle_of_o(backbone: Tensor) -> Tensor:
    """The angle that puts O in the place that it has around CA - C: (L,)."""
    _, y, z = frames(backbone).unbind(-1)
    towards_o = backbone[:, O] - backbone[:, C]
    # The y axis of the group of O is that of -N.
    return torch.atan2(-(z * towards_o).sum(-1), -(y * towards_o).sum(-1))


def _turned(rotation: Tensor, angle: Tensor) -> Tensor:
    """Axes (..., 3, 3), turned about their x by angles (...)."""
    x, y, z = rotation.unbind(-1)
    cos, sin = angle.cos()[..., None], angle.sin()[..., None]
    return torch.stack([x, cos * y + sin * z, cos * z - sin * y], -1)


def _apply(rotation: Tensor, xyz: Tensor) -> Tensor:
    """(..., 3, 3), (..., 3) -> (..., 3)."""
    return (rotation * xyz[..., None, :]).sum(-1)


def measured_chi(structure: Structure) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The chi angles of a structure's own side chains, (L, 4) radians, and whether each is known,
    (L, 4); 0 where it is not.

    Where the structure has no CB, an ideal one is taken.
    """
    L = len(structure)
    chi, known = np.zeros((L, CHIS), np.float32), np.zeros((L, CHIS), bool)
    if structure.side_chains is None or structure.ca_only:
        return chi, known
    coords, tokens = structure.coords.astype(np.float64), structure.tokens
    if structure.mask.any():
        whole = torch.from_numpy(np.nan_to_num(coords))
        none = torch.zeros(1, L, CHIS, dtype=torch.float64)
        cb = coordinates(whole, torch.tensor(tokens)[None], none)[0, :, 4].numpy()
        if structure.cb is not None:
            cb = np.where(np.isfinite(structure.cb), structure.cb.astype(np.float64), cb)
    number = {atom: i for i, atom in enumerate(SIDE_CHAIN_ATOMS)}
    for token, atoms in enumerate(CHI_ATOMS):
        rows = np.flatnonzero((tokens == token) & structure.mask)
        chain = [coords[rows, N], coords[rows, CA], cb[rows]] if len(rows) else []
        for k, atom in enumerate(atoms if len(rows) else ()):
            chain.append(structure.side_chains[rows, number[atom]].astype(np.float64))
            angle = dihedral(*chain[-4:])
            there = np.isfinite(angle)
            known[rows, k] = there
            chi[rows[there], k] = angle[there]
    return chi, known


def dihedral(
    a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64], d: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The angle between the planes a b c and b c d of (n, 3) points: (n,) radians, -pi to pi."""
    along = c - b
    first, second = np.cross(b - a, along), np.cross(along, d - c)
    sine = (np.cross(first, second) * along).sum(-1) / np.linalg.norm(along, axis=-1)
    return np.arctan2(sine, (first * second).sum(-1))
