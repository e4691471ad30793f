"""What surrounds a protein in its file: ligands, metals, nucleic acids, and its own side chains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

SIDE_CHAIN_ATOMS = (
    "CG", "CG1", "CG2", "OG", "OG1", "SG", "CD", "CD1", "CD2", "ND1", "ND2", "OD1", "OD2", "SD",
    "CE", "CE1", "CE2", "CE3", "NE", "NE1", "NE2", "OE1", "OE2", "CH2", "NH1", "NH2", "OH", "CZ",
    "CZ2", "CZ3", "NZ", "OXT",
)  # fmt: skip
"""Atoms beyond CB, in the order of atom37: those that LigandMPNN sees of a fixed residue."""

SIDE_CHAIN_ELEMENTS = np.array([{"C": 6, "N": 7, "O": 8, "S": 16}[n[0]] for n in SIDE_CHAIN_ATOMS])
"""Their atomic numbers: (32,)."""


@dataclass(frozen=True, eq=False)
class ContextAtoms:
    """A atoms that are neither protein nor water, without hydrogens. Arrays are read-only.

    Attributes
    ----------
    coords : (A, 3) float32, Å
    elements : (A,) int64, atomic numbers, 1 to 118
    names : (A,) str, such as "FE" or "C1'"
    residue_names : (A,) str, such as "HEM"
    residue_numbers : (A,) str, the author's, with insertion codes
    chain_ids : (A,) str
    """

    coords: NDArray[np.float32]
    elements: NDArray[np.int64]
    names: NDArray[np.str_]
    residue_names: NDArray[np.str_]
    residue_numbers: NDArray[np.str_]
    chain_ids: NDArray[np.str_]

    @classmethod
    def of(cls, coords: ArrayLike, elements: ArrayLike) -> ContextAtoms:
        """Atoms of which nothing else is known, as one residue LIG of a chain of no name."""
        xyz = np.asarray(coords, np.float32).reshape(-1, 3)
        A = len(xyz)
        texts = (np.full(A, text) for text in ("X", "LIG", "1", " "))
        return cls(xyz, np.asarray(elements, np.int64), *texts)

    def __len__(self) -> int:
        return len(self.elements)


NO_CONTEXT = ContextAtoms.of(np.zeros((0, 3)), [])
