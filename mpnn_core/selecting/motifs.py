"""Residues that the program which made a backbone says to keep.

RFdiffusion writes a `.trb` beside each design, RFdiffusion3 a `.json`, and Rosetta's scripts write
lines `REMARK PDBinfo-LABEL: n FIXED` in the PDB file itself. Each becomes 0-based positions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpnn_core.sampling.labels import ConstraintError, positions
from mpnn_core.selecting.json_files import read_json_lines, shown, shown_names
from mpnn_core.selecting.pickles import read_plain_pickle
from mpnn_core.structures.containers import is_structure_name, read_text
from mpnn_core.structures.structure import Structure, StructureError

FIXED = "FIXED"
_LABEL_LINE = re.compile(r"REMARK\s+PDBinfo-LABEL:\s*(\S+)\s*(.*)")


def fixed_from(path: str | os.PathLike[str], structure: Structure) -> list[int]:
    """The positions that a file says to keep.

    Parameters
    ----------
    path : RFdiffusion's `.trb`, RFdiffusion3's `.json`, or a PDB file with remarks; told apart by
        the ending
    structure : the design

    Returns
    -------
    0-based positions, in their order

    Raises
    ------
    ConstraintError
        The file cannot be read, keeps nothing, or names a residue that the structure does not have.
    """
    file = Path(path)
    if file.suffix.lower() == ".trb":
        rows = _of_trb(file, structure)
    elif file.suffix.lower() == ".json":
        rows = _of_json(file, structure)
    elif is_structure_name(file):
        rows = _of_remarks(file, structure)
    else:
        raise ConstraintError(
            f"{file}: expected a .trb of RFdiffusion, a .json of RFdiffusion3 or a PDB file with "
            "REMARK PDBinfo-LABEL lines"
        )
    return sorted(set(rows))


def _of_trb(file: Path, structure: Structure) -> list[int]:
    """RFdiffusion's motif: `complex_con_hal_pdb_idx`, else `con_hal_pdb_idx` and the receptor's.

    Positions whose amino acid was masked, False in `inpaint_seq`, are not kept: RFdiffusion has
    their backbone, and leaves their sequence to be designed.
    """
    content = read_plain_pickle(file)
    if not isinstance(content, dict):
        raise ConstraintError(f"{file}: {type(content).__name__}; expected a .trb of RFdiffusion")
    of_all = "complex_con_hal" in " ".join(map(str, content))
    prefixes = ("complex_",) if of_all else ("", "receptor_")
    rows: list[int] = []
    found = False
    for prefix in prefixes:
        residues, index = (content.get(f"{prefix}con_hal_{kind}") for kind in ("pdb_idx", "idx0"))
        if residues is not None:
            found = True
            key = f"{prefix}con_hal_pdb_idx"
            rows += [_row_of(structure, residue, f"{file}: {key}") for residue in _list(residues)]
        elif index is not None:
            found = True
            rows += [_row_at(structure, i, f"{file}: {prefix}con_hal_idx0") for i in _list(index)]
    if not found:
        raise ConstraintError(
            f"{file}: neither con_hal_pdb_idx nor con_hal_idx0; it has {shown_names(content)}"
        )
    kept = content.get("inpaint_seq")
    if kept is not None:
        kept = np.asarray(_list(kept)).astype(bool)
        if kept.shape != (len(structure),):
            raise ConstraintError(
                f"{file}: inpaint_seq has {kept.size} values, and {structure.name} has "
                f"{len(structure)} residues; expected one each: is it of another design?"
            )
        rows = [row for row in rows if kept[row]]
    if not rows:
        raise ConstraintError(f"{file}: it keeps no residue; there is no motif in this design")
    return rows


def _list(values: Any) -> list[Any]:
    return list(values.tolist()) if isinstance(values, np.ndarray) else list(values)


def _row_of(structure: Structure, residue: Any, at: str) -> int:
    """("A", 114) -> its position."""
    parts = _list(residue) if isinstance(residue, list | tuple | np.ndarray) else []
    if len(parts) != 2:
        raise ConstraintError(
            f"{at}: {shown(residue)}; expected a chain and a number, as in ('A', 7)"
        )
    return _only(structure, f"{parts[0]}:{parts[1]}", at)


def _row_at(structure: Structure, index: Any, at: str) -> int:
    if not isinstance(index, int) or not 0 <= index < len(structure):
        raise ConstraintError(
            f"{at}: {index!r}; {structure.name} has the positions 0 to {len(structure) - 1}"
        )
    return index


def _only(structure: Structure, label: str, at: str) -> int:
    try:
        return positions(structure, label)[0]
    except ConstraintError as error:
        raise ConstraintError(f"{at}: {error}") from None


def _of_json(file: Path, structure: Structure) -> list[int]:
    """RFdiffusion3's motif: the values of `diffused_index_map`, which has the design's residue of
    each of the input, without those that `select_unfixed_sequence` leaves to be designed."""
    lines = read_json_lines(file)
    content = lines[0].content
    if not isinstance(content, dict) or not isinstance(content.get("diffused_index_map"), dict):
        raise ConstraintError(
            f"{file}: no diffused_index_map, as RFdiffusion3 writes beside a design; it has "
            f"{shown_names(content) if isinstance(content, dict) else shown(content)}"
        )
    moved: Mapping[str, Any] = content["diffused_index_map"]
    said = content.get("specification")
    specification = said if isinstance(said, dict) else {}
    free = _unfixed(specification.get("select_unfixed_sequence"), moved, file)
    if specification.get("redesign_motif_sidechains") is True:
        free = set(moved)
    rows = []
    for source, label in moved.items():
        at = f"{file}: diffused_index_map: {source}"
        if not isinstance(label, str):
            raise ConstraintError(f"{at}: {shown(label)}; expected a residue, such as A12")
        if source not in free:
            rows.append(_only(structure, label, at))
    if not rows:
        raise ConstraintError(
            f"{file}: it keeps no residue; the sequence of its motif is not fixed"
        )
    return rows


_RANGE = re.compile(r"([A-Za-z]+\w*?|\w)(-?\d+)(?:-(-?\d+))?")


def _unfixed(selection: Any, moved: Iterable[str], file: Path) -> set[str]:
    """The keys of the map that a selection names: true, "A20-35,B7" or {"A20-35": ...}."""
    if selection is None or selection is False:
        return set()
    if selection is True:
        return set(moved)
    texts: Sequence[str] = list(selection) if isinstance(selection, dict) else []
    if isinstance(selection, str):
        texts = [part for part in re.split(r"[,\s]+", selection) if part]
    if not texts and selection not in ("", {}):
        raise ConstraintError(
            f"{file}: select_unfixed_sequence: {shown(selection)}; expected residues, as in A20-35"
        )
    keys = {key: _RANGE.fullmatch(key) for key in moved}
    free: set[str] = set()
    for text in texts:
        match = _RANGE.fullmatch(text)
        if match is None:
            raise ConstraintError(
                f"{file}: select_unfixed_sequence: {text!r}; expected residues, as in A20-35"
            )
        chain, first, last = match[1], int(match[2]), int(match[3] or match[2])
        free |= {
            key for key, of in keys.items() if of and of[1] == chain and first <= int(of[2]) <= last
        }
    return free


def _of_remarks(file: Path, structure: Structure) -> list[int]:
    """Lines `REMARK PDBinfo-LABEL: n FIXED`; n counts the residues of the file from 1."""
    try:
        text = read_text(file)
    except StructureError as error:
        raise ConstraintError(f"{file}: {error}") from None
    found: list[tuple[int, str]] = []
    order: dict[tuple[str, str], None] = {}
    there = set(zip(structure.chain_ids.tolist(), structure.residue_numbers.tolist(), strict=True))
    for line in text.splitlines():
        if line.startswith("ENDMDL"):
            break
        if line.startswith(("ATOM", "HETATM")):
            residue = (line[21:22], line[22:27].strip())
            key = residue if residue in there else (residue[0].strip(), residue[1])
            if key in there:
                order[key] = None
    for number, line in enumerate(text.splitlines(), start=1):
        match = _LABEL_LINE.match(line)
        if match and FIXED in match[2].upper().split():
            found.append((number, match[1]))
    if not found:
        raise ConstraintError(
            f"{file}: no line REMARK PDBinfo-LABEL: n FIXED, so it does not say what to keep"
        )
    row = {
        key: i
        for i, key in enumerate(
            zip(structure.chain_ids.tolist(), structure.residue_numbers.tolist(), strict=True)
        )
    }
    residues = list(order)
    rows = []
    for number, text in found:
        if not text.isdigit() or not 1 <= int(text) <= len(residues):
            raise ConstraintError(
                f"{file}: line {number}: residue {text}; {structure.name} has residues 1 to "
                f"{len(residues)}, counted in the order of the file"
            )
        rows.append(row[residues[int(text) - 1]])
    return rows
