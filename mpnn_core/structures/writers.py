"""Structures written as PDB or mmCIF, with a sequence on them, by gemmi."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpnn_core.constants import ALPHABET, AMINO_ACIDS, BACKBONE, THREE_LETTER_NAMES
from mpnn_core.structures.errors import StructureError, shown_chain
from mpnn_core.structures.files import write_atomically
from mpnn_core.structures.structure import Structure

ENDINGS = (".pdb", ".cif")
NAMES = dict(zip(AMINO_ACIDS, THREE_LETTER_NAMES, strict=True)) | {"X": "UNK"}

# What the columns of a PDB file hold.
MOST_ATOMS, MOST_NUMBER, LEAST_NUMBER = 99_999, 9999, -999
LARGEST, SMALLEST = 9999.9995, -999.9995  # Å, as %8.3f
LARGEST_B, SMALLEST_B = 999.995, -99.995  # as %6.2f

_NUMBER = re.compile(r"\s*(-?\d+)([A-Za-z]?)\s*")


def write_structure(
    path: str | os.PathLike[str],
    structure: Structure,
    sequence: str | None = None,
    b_factor: ArrayLike | None = None,
    atoms: ArrayLike | None = None,
) -> None:
    """Write a structure as PDB or mmCIF, by the ending of the name.

    The known atoms of N, CA, C and O of each residue are written, with the name of the residue that
    `sequence` has there (UNK for X), the file's chains, author numbers and insertion codes; then
    the atoms of `structure.context`, as HETATM in mmCIF and PDB alike. Side chains are if `atoms`
    has them; water and hydrogens are not.

    Parameters
    ----------
    path : ends in .pdb or .cif; replaced if it exists
    sequence : L letters; None is the structure's own
    b_factor : (L,) numbers for the column of B-factors, such as `Designs.residue_confidence[i]`;
        None is 0. With `atoms`, (L, 14) may give one to each. Context atoms get 0
    atoms : (L, 14, 3) Å, all atoms of the sequence's residues in the order of
        `side_chains.ATOM_NAMES`, NaN where there is none, such as `Packed.coordinates[i]`; a
        residue without any is written with the atoms that the structure has of it, and B-factors
        of 0. None is the structure's own backbone

    Raises
    ------
    StructureError
        Another ending, a sequence or B-factors that do not fit, a residue number that is no number,
        or, as PDB, what its columns cannot hold; the message says what, and that mmCIF can.
    """
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise StructureError(f"{path}: expected a name that ends in {' or '.join(ENDINGS)}")
    letters = structure.sequence if sequence is None else sequence
    values, places = _checked(structure, letters, b_factor, atoms)
    if path.suffix == ".pdb":
        why = pdb_cannot_hold(structure, values, places)
        if why:
            raise StructureError(f"{structure.name} does not fit in a PDB file: {why}; write .cif")
    text = structure_text(structure, letters, values, path.suffix, places)
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))


def pdb_cannot_hold(
    structure: Structure,
    b_factor: NDArray[np.float64] | None = None,
    atoms: NDArray[np.float32] | None = None,
) -> str:
    """What of a structure the columns of a PDB file have no room for; "" if they hold it all."""
    around = structure.context
    for ids in (structure.chain_ids, around.chain_ids):
        wide = [chain for chain in dict.fromkeys(ids.tolist()) if len(chain) > 1]
        if wide:
            return f"chain id {wide[0]!r} has more than one letter"
    numbers = [_number(structure, n)[0] for n in structure.residue_numbers.tolist()]
    numbers += [_number(structure, n)[0] for n in around.residue_numbers.tolist()]
    for number in (max(numbers), min(numbers)):
        if not LEAST_NUMBER <= number <= MOST_NUMBER:
            return f"residue number {number} is not between {LEAST_NUMBER} and {MOST_NUMBER}"
    own = structure.coords if atoms is None else atoms
    count = int(np.isfinite(own).all(2).sum()) + len(around)
    ends = len(structure.chains)  # each has a line TER, which takes a number too
    if count + ends > MOST_ATOMS:
        return f"{count:,} atoms are more than {MOST_ATOMS - ends:,}"
    long = [name for name in around.residue_names.tolist() if len(name) > 3]
    long += [name for name in around.names.tolist() if len(name) > 4]
    if long:
        return f"the name {long[0]} is too long"
    for coords in (structure.coords, own, around.coords):
        known = coords[np.isfinite(coords)]
        if known.size and (known.max() >= LARGEST or known.min() <= SMALLEST):
            return "a coordinate is not between -999.999 and 9999.999 Å"
    if b_factor is not None and ((b_factor >= LARGEST_B) | (b_factor <= SMALLEST_B)).any():
        return "a B-factor is not between -99.99 and 999.99"
    return ""


def structure_text(
    structure: Structure,
    sequence: str,
    b_factor: NDArray[np.float64],
    ending: str,
    atoms: NDArray[np.float32] | None = None,
) -> str:
    """The text of a PDB or mmCIF file, from arguments that are checked."""
    import gemmi

    written = gemmi.Structure()
    written.name = re.sub(r"[^\w.-]", "_", structure.name) or "structure"
    model = gemmi.Model(1)
    chains: dict[str, Any] = {}
    ids = dict.fromkeys([*structure.chain_ids.tolist(), *structure.context.chain_ids.tolist()])
    for name in ids:
        chains[name] = gemmi.Chain(name if ending == ".pdb" or name.strip() else _free(ids))
    for i, letter in enumerate(sequence):
        residue = _residue(NAMES[letter], structure, structure.residue_numbers[i], "A")
        for name, xyz, b in _atoms_of(structure, letter, i, b_factor, atoms):
            residue.add_atom(_atom(name, name[0], xyz, b))
        if len(residue):
            chains[str(structure.chain_ids[i])].add_residue(residue)
    _add_context(structure, chains)
    for chain in chains.values():
        if len(chain):
            model.add_chain(chain)
    written.add_model(model)
    written.setup_entities()
    if ending == ".pdb":
        return str(written.make_pdb_string(gemmi.PdbWriteOptions(minimal=True)))
    for chain in written[0]:
        polymer = chain.get_polymer()
        if len(polymer):
            entity = written.get_entity_of(polymer)
            entity.full_sequence = [residue.name for residue in polymer]
    written.deduplicate_entities()
    written.assign_label_seq_id()
    groups = gemmi.MmcifOutputGroups(True)
    groups.cell = groups.symmetry = False
    # gemmi quotes no ids in these two; readers need neither.
    groups.entity_poly = groups.struct_asym = all(n.isalnum() for n in ids if n.strip())
    return str(written.make_mmcif_document(groups).as_string())


def _atoms_of(
    structure: Structure,
    letter: str,
    i: int,
    b_factor: NDArray[np.float64],
    atoms: NDArray[np.float32] | None,
) -> Iterator[tuple[str, NDArray[np.float32], float]]:
    """The atoms of a residue that are known: names, whose first letter is the element, places and
    B-factors."""
    names: Sequence[str] = BACKBONE
    places, values = structure.coords[i], b_factor[i]
    if atoms is not None:
        from mpnn_core.structures.side_chains import ATOM_NAMES

        if np.isfinite(atoms[i]).any():
            names, places = ATOM_NAMES[ALPHABET.index(letter)], atoms[i]
        else:
            values = np.zeros(())
    values = np.broadcast_to(values, len(places))
    for a, name in enumerate(names):
        if np.isfinite(places[a]).all():
            yield name, places[a], float(values[a])


def _add_context(structure: Structure, chains: dict[str, Any]) -> None:
    """Add the atoms around the protein, residue by residue, at the end of their chains."""
    import gemmi

    around = structure.context
    keys = list(zip(
        around.chain_ids.tolist(), around.residue_numbers.tolist(), around.residue_names.tolist(),
        strict=True,
    ))  # fmt: skip
    rows: dict[tuple[str, str, str], list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    for (chain, number, name), of_residue in rows.items():
        residue = _residue(name, structure, number, "H")
        times = Counter(around.names[of_residue].tolist())
        for n, row in enumerate(of_residue, start=1):
            element = gemmi.Element(int(around.elements[row]))
            atom = str(around.names[row])
            if times[atom] > 1:  # atoms of which only the element is known
                atom = f"{element.name.upper()}{n}"
            residue.add_atom(_atom(atom, element.name, around.coords[row], 0.0))
        chains[chain].add_residue(residue)


def _residue(name: str, structure: Structure, number: str, flag: str) -> Any:
    import gemmi

    residue = gemmi.Residue()
    residue.name = name
    value, code = _number(structure, str(number))
    residue.seqid = gemmi.SeqId(value, code or " ")
    residue.het_flag = flag
    return residue


def _atom(name: str, element: str, xyz: NDArray[np.float32], b_factor: float) -> Any:
    import gemmi

    atom = gemmi.Atom()
    atom.name = name
    atom.element = gemmi.Element(element)
    # The shortest numbers that are these in float32: mmCIF gets all digits of a float.
    atom.pos = gemmi.Position(*(float(str(x)) for x in xyz))
    atom.occ = 1.0
    atom.b_iso = round(float(b_factor), 4)
    return atom


def _free(ids: Iterable[str]) -> str:
    """A chain id for a blank one, which mmCIF does not have: the first letter that is free."""
    taken = set(ids)
    return next((letter for letter in ascii_uppercase if letter not in taken), "blank")


def _number(structure: Structure, text: str) -> tuple[int, str]:
    """ "52A" -> (52, "A")."""
    match = _NUMBER.fullmatch(text)
    if match is None or abs(int(match[1])) >= 2**31:
        raise StructureError(
            f"{structure.name}: residue number {text!r}; expected a number, with one letter of an "
            "insertion code at most, to write it in a file"
        )
    return int(match[1]), match[2]


def _checked(
    structure: Structure, sequence: str, b_factor: ArrayLike | None, atoms: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float32] | None]:
    """The B-factors (L,) or (L, 14) and atoms, once they and the sequence are found to fit."""
    L = len(structure)
    if len(sequence) != L:
        raise StructureError(
            f"{structure.name} has {L} residues; the sequence to write has {len(sequence)}"
        )
    wrong = [i for i, letter in enumerate(sequence) if letter not in NAMES]
    if wrong:
        i = wrong[0]
        raise StructureError(
            f"letter {sequence[i]!r} of the sequence; expected one of {''.join(NAMES)}",
            chain=shown_chain(str(structure.chain_ids[i])),
            residue=str(structure.residue_numbers[i]),
        )
    places = None if atoms is None else np.asarray(atoms, np.float32)
    if places is not None and places.shape != (L, 14, 3):
        raise StructureError(f"atoms must be ({L}, 14, 3) coordinates in Å; got {places.shape}")
    values = np.zeros(L) if b_factor is None else np.asarray(b_factor, np.float64)
    if places is not None and values.shape == (L, 14):
        if np.isnan(values[np.isfinite(places).all(2)]).any():
            raise StructureError("a B-factor of an atom that is there is not a number")
        return np.nan_to_num(values), places
    if values.shape != (L,) or not np.isfinite(values).all():
        raise StructureError(
            f"b_factor must be ({L},) finite numbers, one per residue; got {values.shape}"
        )
    return values, places
