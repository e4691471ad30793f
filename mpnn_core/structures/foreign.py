"""Structures of Biopython and biotite, in and out, as text of the formats that both sides know.

So what is read of them follows the rules of files (`readers`), and what comes out is what a file
would hold (`writers`): the backbone, and the atoms around the protein.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from mpnn_core.structures.readers import structure_of_text
from mpnn_core.structures.structure import Structure
from mpnn_core.structures.writers import structure_text


def from_biopython(entity: Any, name: str = "", **reading: Any) -> Structure:
    """See `Structure.from_biopython`."""
    from Bio.PDB.mmcifio import MMCIFIO

    written = MMCIFIO()
    written.set_structure(entity)
    text = io.StringIO()
    written.save(text)
    return structure_of_text(text.getvalue(), name or str(entity.id), **reading)


def to_biopython(structure: Structure) -> Any:
    """See `Structure.to_biopython`."""
    from Bio.PDB.MMCIFParser import MMCIFParser

    return MMCIFParser(QUIET=True).get_structure(structure.name, io.StringIO(_text(structure)))


def from_biotite(array: Any, name: str = "biotite", **reading: Any) -> Structure:
    """See `Structure.from_biotite`."""
    pdbx = _pdbx()
    file = pdbx.CIFFile()
    if array.coord.ndim == 3:  # a stack of models, of which the first is read
        array = array[0]
    pdbx.set_structure(file, array, data_block="structure")
    return structure_of_text(file.serialize(), name, **reading)


def to_biotite(structure: Structure) -> Any:
    """See `Structure.to_biotite`."""
    pdbx = _pdbx()
    file = pdbx.CIFFile.read(io.StringIO(_text(structure)))
    return pdbx.get_structure(file, model=1, use_author_fields=True)


def _text(structure: Structure) -> str:
    return structure_text(structure, structure.sequence, np.zeros(len(structure)), ".cif")


def _pdbx() -> Any:
    try:
        from biotite.structure.io import pdbx
    except ImportError:
        raise ImportError(
            "biotite is not installed: pip install 'mpnn-core[notebook]', or pip install biotite"
        ) from None
    return pdbx
