"""Which residues are near a ligand: those that LigandMPNN's ligand confidence counts."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mpnn_core.network.context import DISTANCE_BYTES, Surroundings
from mpnn_core.network.features import with_virtual_cb
from mpnn_core.structures.structure import Structure

NEAR = 8.0
"""Å, the original's `--ligand_mpnn_cutoff_for_score`."""


def near_ligands(structure: Structure) -> NDArray[np.bool_]:
    """(L,) bool: the virtual CB is less than `NEAR` from one of the context atoms that LigandMPNN
    sees, as the original's `mask_XY`. Side chains do not count, nor do incomplete residues."""
    if structure.states:
        return np.concatenate([near_ligands(state) for state in structure.states])
    near = np.zeros(len(structure), dtype=bool)
    atoms = Surroundings.of([structure], None).xyz  # (A, 3)
    if not len(atoms):
        return near
    cb = with_virtual_cb(torch.from_numpy(structure.coords[structure.mask]))[:, -1]  # (N, 3)
    rows = max(1, DISTANCE_BYTES // (3 * atoms.element_size() * len(atoms)))
    nearest = [
        (part[:, None] - atoms).square().sum(-1).min(1).values.sqrt() for part in cb.split(rows)
    ]
    near[structure.mask] = (torch.cat(nearest) < NEAR).numpy()
    return near
