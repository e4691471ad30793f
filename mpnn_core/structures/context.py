"""What surrounds a protein in its file: ligands, metals, nucleic acids, and its own side chains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpnn_core.structures.errors import StructureError

SIDE_CHAIN_ATOMS = (
    "CG", "CG1", "CG2", "OG", "OG1", "SG", "CD", "CD1", "CD2", "ND1", "ND2", "OD1", "OD2", "SD",
    "CE", "CE1", "CE2", "CE3", "NE", "NE1", "NE2", "OE1", "OE2", "CH2", "NH1", "NH2", "OH", "CZ",
    "CZ2", "CZ3", "NZ", "OXT",
)  # fmt: skip
"""Atoms beyond CB, in the order of atom37: those that LigandMPNN sees of a fixed residue."""

SIDE_CHAIN_ELEMENTS = np.array([{"C": 6, "N": 7, "O": 8, "S": 16}[n[0]] for n in SIDE_CHAIN_ATOMS])
"""Their atomic numbers: (32,)."""


MOST_ELEMENTS = 118
"""Atomic numbers go from 1 to this."""

NOT_IN_ORIGINAL = frozenset((42, 113, 115, 117, 118))
"""Atomic numbers that LigandMPNN's `parse_PDB` does not know, and whose atoms it leaves out: its
list of elements has "Mb" for Mo and the provisional names Uut, Uup, Uus and Uuo for Nh, Mc, Ts and
Og. `Structure.context` has them; what a network reads of it is for the network to say."""


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
    chain_ids : (A,) str, the file's

    Raises
    ------
    StructureError
        Arrays of other shapes, a coordinate that is no finite float32, an element that is no
        atomic number.
    """

    coords: NDArray[np.float32]
    elements: NDArray[np.int64]
    names: NDArray[np.str_]
    residue_names: NDArray[np.str_]
    residue_numbers: NDArray[np.str_]
    chain_ids: NDArray[np.str_]

    def __post_init__(self) -> None:
        elements = np.array(self.elements)
        if not elements.size:
            elements = elements.astype(np.int64)
        if elements.dtype.kind not in "iu" or elements.ndim != 1:
            raise StructureError(
                "elements of context atoms must be (A,) atomic numbers; got "
                f"{elements.shape} {elements.dtype}"
            )
        wrong = elements[(elements < 1) | (elements > MOST_ELEMENTS)]
        if wrong.size:
            raise StructureError(
                f"element {wrong[0]} of a context atom; expected an atomic number, "
                f"1 to {MOST_ELEMENTS}"
            )
        A = len(elements)
        try:
            with np.errstate(over="ignore"):  # beyond float32 is infinite
                coords = np.array(self.coords, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise StructureError(
                f"coordinates of context atoms must be (A, 3) numbers in Å: {error}"
            ) from None
        if not A and not coords.size:
            coords = coords.reshape(0, 3)
        if coords.shape != (A, 3):
            raise StructureError(
                f"coordinates of context atoms must be ({A}, 3), one row per element; "
                f"got {coords.shape}"
            )
        if not np.isfinite(coords).all():
            i = int((~np.isfinite(coords)).any(1).argmax())
            raise StructureError(f"coordinate of context atom {i} is not finite: {coords[i]}")
        arrays: dict[str, NDArray[Any]] = {
            "coords": coords,
            "elements": elements.astype(np.int64),
        }
        for name in ("names", "residue_names", "residue_numbers", "chain_ids"):
            arrays[name] = texts = np.array(getattr(self, name), dtype=np.str_)
            if texts.shape != (A,):
                raise StructureError(
                    f"{name} of context atoms must be ({A},), one per element; got {texts.shape}"
                )
        for name, values in arrays.items():
            values.flags.writeable = False
            object.__setattr__(self, name, values)

    @classmethod
    def of(cls, coords: ArrayLike, elements: ArrayLike) -> ContextAtoms:
        """Atoms of which nothing else is known, as one residue LIG of a chain of no name.

        Parameters
        ----------
        coords : (A, 3), Å
        elements : (A,) integers, atomic numbers, 1 to 118
        """
        A = np.size(elements)
        texts = (np.full(A, text) for text in ("X", "LIG", "1", " "))
        return cls(coords, elements, *texts)  # type: ignore[arg-type]  # converted and checked

    def rows(self, keep: NDArray[np.bool_]) -> ContextAtoms:
        """The atoms that `keep`, (A,) bool, selects."""
        return ContextAtoms(**{name: values[keep] for name, values in vars(self).items()})

    def __len__(self) -> int:
        return len(self.elements)


NO_CONTEXT = ContextAtoms.of(np.zeros((0, 3)), [])
"""No atoms at all."""
