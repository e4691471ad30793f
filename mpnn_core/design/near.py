"""Which residues are near a ligand: those that LigandMPNN's ligand confidence counts."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mpnn_core.network.features import with_virtual_cb
from mpnn_core.structures.context import NOT_IN_ORIGINAL
from mpnn_core.structures.structure import Structure

NEAR = 8.0
"""Å, the original's `--ligand_mpnn_cutoff_for_score`."""

TOGETHER = 256
"""Residues that are compared with all atoms between the same two planes."""


def near_ligands(structure: Structure, cutoff: float = NEAR) -> NDArray[np.bool_]:
    """(L,) bool: the virtual CB is less than `cutoff`, in Å, from one of the context atoms that
    LigandMPNN sees, as the original's `mask_XY`. Side chains do not count, nor do incomplete
    residues."""
    if structure.states:
        return np.concatenate([near_ligands(state, cutoff) for state in structure.states])
    near = np.zeros(len(structure), dtype=bool)
    context = structure.context
    atoms = context.coords[~np.isin(context.elements, tuple(NOT_IN_ORIGINAL))]  # (A, 3)
    if not len(atoms):
        return near
    atoms = atoms[atoms[:, 0].argsort()]
    residues = np.flatnonzero(structure.mask)
    cb = with_virtual_cb(torch.from_numpy(structure.coords[residues]))[:, -1].numpy()  # (N, 3)
    along = cb[:, 0].argsort()
    for start in range(0, len(along), TOGETHER):
        rows = along[start : start + TOGETHER]
        x, y, z = cb[rows].T
        bounds = np.array([x[0] - cutoff - 1, x[-1] + cutoff + 1], np.float32)  # 1 Å for rounding
        first, last = np.searchsorted(atoms[:, 0], bounds)
        if first == last:
            continue
        a, b, c = atoms[first:last].T
        squared = (x[:, None] - a) ** 2 + (y[:, None] - b) ** 2 + (z[:, None] - c) ** 2
        near[residues[rows]] = np.sqrt(squared.min(1)) < cutoff
    return near
