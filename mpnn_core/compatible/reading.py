"""Structures as `protein_mpnn_run.py` and its `parse_multiple_chains.py` read them.

They differ from `read_structure` in what is a row and in which atoms it has: every number between
the first and the last of a chain is a row, with a gap where nothing has that number; of an atom
that comes more than once in a residue, whatever its label, the first in the file is read; of HETATM
records MSE alone is; residues stand in the order of their numbers and insertion codes.

`read` gives a `Parsed` of a PDB or mmCIF file, `from_jsonl` those of a file of parsed structures;
`Parsed.structure` makes a `Structure` of some of its chains, `Parsed.entry` the object of a line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpnn_core.constants import ALPHABET, BACKBONE, CA, CHAIN_GAP, THREE_LETTER_NAMES
from mpnn_core.structures.atoms import Atoms, Say, read_atoms
from mpnn_core.structures.containers import LARGEST, read_text, structure_name
from mpnn_core.structures.files import read_bounded
from mpnn_core.structures.structure import Structure, StructureError, shown_chain

GAP = "-"
"""The letter of a parsed sequence where a chain has no such residue, or none of the twenty."""

CHAINS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
"""The ids of chains, in the order in which they are read."""

MOST_ROWS = 100_000
"""Rows of a chain: a number that is wrong would make a gap of a thousand million."""

_SEQUENCE, _COORDS = "seq_chain_", "coords_chain_"
_LETTER = {**dict(zip(THREE_LETTER_NAMES, ALPHABET, strict=False)), "MSE": "M"}


class ParsedChain(NamedTuple):
    """A chain of n rows.

    Attributes
    ----------
    letters : n letters of the twenty, `GAP` for any other residue and where there is none
    xyz : (n, 4, 3) float64, Å: N, CA, C, O; NaN where missing, and all but CA of a trace
    numbers : n author's numbers with insertion codes; 1, 2, ... where they are not known
    """

    letters: str
    xyz: NDArray[np.float64]
    numbers: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Parsed:
    """A structure as it is parsed, before it is known what is designed.

    Attributes
    ----------
    name : the name of outputs, and of constraints in JSON
    chains : id -> chain, in the order in which they are read
    """

    name: str
    chains: Mapping[str, ParsedChain]

    @property
    def sequence(self) -> str:
        """All chains after each other, with gaps."""
        return "".join(chain.letters for chain in self.chains.values())

    def structure(self, chains: Sequence[str] | None = None, ca_only: bool = False) -> Structure:
        """A structure of these chains in this order, or of all in the order of their ids.

        A gap is a residue X with no coordinates, so that positions count it. `residue_index` is
        that of the original's `tied_featurize`.

        Raises
        ------
        StructureError
            A chain is not there, or has letters that are none; no residue has a complete backbone.
        """
        chosen = sorted(self.chains) if chains is None else list(chains)
        absent = [chain for chain in chosen if chain not in self.chains]
        if absent or not chosen:
            there = ", ".join(map(shown_chain, self.chains)) or "none"
            raise StructureError(
                f"{self.name} has no chain {shown_chain(absent[0])}; it has {there}"
                if absent
                else f"{self.name}: no chain to read; it has {there}"
            )
        read = [self.chains[chain] for chain in chosen]
        sizes = [len(chain.letters) for chain in read]
        index = np.arange(sum(sizes)) + CHAIN_GAP * np.repeat(np.arange(len(chosen)), sizes)
        try:
            return Structure(
                self.name,
                np.concatenate([chain.xyz for chain in read]),
                "".join(chain.letters for chain in read).replace(GAP, "X"),
                np.repeat(np.array(chosen), sizes),
                index,
                np.array([number for chain in read for number in chain.numbers]),
                ca_only=ca_only,
            )
        except StructureError as error:
            error.file = error.file or self.name
            raise

    def entry(self, ca_only: bool = False) -> dict[str, Any]:
        """The object that `parse_multiple_chains.py` writes as one line of JSON."""
        entry: dict[str, Any] = {}
        for chain, (letters, xyz, _) in self.chains.items():
            entry[_SEQUENCE + chain] = letters
            atoms = {"CA": xyz[:, [CA]]} if ca_only else {
                atom: xyz[:, a] for a, atom in enumerate(BACKBONE)
            }  # fmt: skip
            entry[_COORDS + chain] = {
                f"{atom}_chain_{chain}": of_atom.tolist() for atom, of_atom in atoms.items()
            }
        return {**entry, "name": self.name, "num_of_chains": len(self.chains), "seq": self.sequence}


def read(path: str | os.PathLike[str], say: Say = lambda _: None) -> Parsed:
    """The chains of a PDB or mmCIF file, plain or compressed.

    `say` takes a sentence about what is left out. Of several models the first is read.

    Raises
    ------
    StructureError
        The file does not exist, is no structure, or has no chain with an id.
    """
    file = Path(path)
    try:
        chains = _chains(read_atoms(read_text(file), say), say)
        if not chains:
            raise StructureError("no chain: expected ATOM records, with a letter or digit as chain")
    except StructureError as error:
        error.file = str(file)
        raise
    return Parsed(structure_name(file), chains)


def _chains(atoms: Atoms, say: Say) -> dict[str, ParsedChain]:
    kept = np.flatnonzero(~atoms.hetero | (atoms.residue == b"MSE"))
    present = [chain.decode() for chain in np.unique(atoms.chain[kept]).tolist()]
    if " " in present:
        say("a chain with a blank id is not read; give it a letter")
    rank = {chain: n for n, chain in enumerate(CHAINS)}
    named = sorted((c for c in present if c != " "), key=lambda c: (rank.get(c, len(rank)), c))
    of_chain = {c: kept[atoms.chain[kept] == c.encode()] for c in named}
    return {chain: _chain(atoms, rows, chain) for chain, rows in of_chain.items()}


def _chain(atoms: Atoms, rows: NDArray[np.int64], chain: str) -> ParsedChain:
    """The residues of one chain, from its atoms."""
    keys = list(
        zip(atoms.number[rows].tolist(), atoms.icode[rows].astype(np.str_).tolist(), strict=True)
    )
    first: dict[tuple[int, str], int] = {}  # residue -> its first atom, which names it
    for key, row in zip(keys, rows.tolist(), strict=True):
        first.setdefault(key, row)
    low, high = min(first)[0], max(first)[0]
    present = {number for number, _ in first}
    if high - low + 1 - len(present) + len(first) > MOST_ROWS:
        raise StructureError(
            f"its numbers go from {low} to {high}, and each is a position; at most {MOST_ROWS:,} "
            "are read",
            chain=chain,
        )
    order = sorted([*first, *((n, "") for n in range(low, high + 1) if n not in present)])
    place = {key: n for n, key in enumerate(order)}
    xyz = np.full((len(order), len(BACKBONE), 3), np.nan)
    names = atoms.atom[rows]
    for a, atom in enumerate(BACKBONE):
        found = np.flatnonzero(names == atom.encode())
        atoms.check(rows[found])
        for k in reversed(found.tolist()):  # the first in the file is written last
            xyz[place[keys[k]], a] = atoms.xyz[rows[k]]
    residues = atoms.residue[[first.get(key, 0) for key in order]].astype(np.str_).tolist()
    letters = [
        _LETTER.get(name, GAP) if key in first else GAP
        for key, name in zip(order, residues, strict=True)
    ]
    numbers = tuple(f"{number}{icode}" for number, icode in order)
    return ParsedChain("".join(letters), xyz, numbers)


def from_jsonl(
    path: str | os.PathLike[str],
    ca_only: bool = False,
    failed: Callable[[StructureError], None] | None = None,
) -> Iterator[Parsed]:
    """The structures of a file of parsed ones, a line each; those of CA atoms too.

    `failed` takes the error of a line that is none, and the others are read; without it the error
    is raised.

    Raises
    ------
    StructureError
        The file does not exist, or a line of it is no parsed structure; the message has its number.
    """
    for n, line in lines_of(path):
        try:
            parsed = from_entry(loaded(line), ca_only)
        except StructureError as error:
            of_line = StructureError(f"line {n}: {error}", file=str(path))
            if failed is None:
                raise of_line from None
            failed(of_line)
        else:
            yield parsed


def outlines(path: str | os.PathLike[str]) -> list[tuple[str, dict[str, str]]]:
    """The name and the letters of the chains of each structure of a file of parsed ones.

    Raises
    ------
    StructureError
        As `from_jsonl`.
    """
    found = []
    for n, line in lines_of(path):
        try:
            entry = loaded(line)
            found.append(
                (_name_of(entry), {chain: _letters(entry, chain) for chain in _ids(entry)})
            )
        except StructureError as error:
            raise StructureError(f"line {n}: {error}", file=str(path)) from None
    return found


def lines_of(path: str | os.PathLike[str]) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers; raises StructureError."""
    try:
        text = read_bounded(Path(path), LARGEST).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StructureError(f"not read: {reason}", file=str(path)) from None
    return [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]


def loaded(line: str) -> Any:
    """What a line of JSON holds; raises StructureError."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise StructureError(f"no JSON: {error}") from None


def from_entry(entry: Any, ca_only: bool = False) -> Parsed:
    """A structure from the object that is one line of JSON; raises StructureError."""
    name = _name_of(entry)
    return Parsed(name, {chain: _chain_of(entry, name, chain, ca_only) for chain in _ids(entry)})


def _name_of(entry: Any) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise StructureError(
            'no parsed structure; expected {"name": ..., "seq_chain_A": ..., "coords_chain_A": ...}'
        )
    return str(entry["name"])


def _ids(entry: dict[str, Any]) -> list[str]:
    """The ids of the chains of a parsed structure, in the order of its keys."""
    found = [key.removeprefix(_SEQUENCE) for key in entry if key.startswith(_SEQUENCE)]
    if not found:
        raise StructureError(f"{entry['name']} has no chain; expected a key such as seq_chain_A")
    return found


def _letters(entry: dict[str, Any], chain: str) -> str:
    """The letters of a chain, with gaps."""
    letters, name = entry[_SEQUENCE + chain], entry["name"]
    if not isinstance(letters, str) or not letters:
        raise StructureError(f"{name}: seq_chain_{chain} has no letters")
    wrong = set(letters) - set(ALPHABET) - {GAP}
    if wrong:
        raise StructureError(
            f"{name}: chain {chain} has the letter {min(wrong)!r}; expected {ALPHABET} or {GAP}"
        )
    return letters


def _chain_of(entry: dict[str, Any], name: str, chain: str, ca_only: bool) -> ParsedChain:
    letters, coords = _letters(entry, chain), entry.get(_COORDS + chain)
    if not isinstance(coords, dict):
        raise StructureError(f"{name}: expected the atoms of coords_chain_{chain}")
    xyz = np.full((len(letters), len(BACKBONE), 3), np.nan)
    for a, atom in enumerate(BACKBONE):
        if ca_only and a != CA:
            continue
        key = f"{atom}_chain_{chain}"
        if key not in coords:
            trace = (
                "; a trace is read with --ca_only" if set(coords) == {f"CA_chain_{chain}"} else ""
            )
            raise StructureError(f"{name}: coords_chain_{chain} has no {key}{trace}")
        try:
            of_atom = np.asarray(coords[key], dtype=np.float64)
        except (TypeError, ValueError):
            raise StructureError(f"{name}: {key} is not of numbers") from None
        if of_atom.shape == (len(letters), 1, 3):  # as a trace is written
            of_atom = of_atom[:, 0]
        if of_atom.shape != (len(letters), 3):
            raise StructureError(
                f"{name}: {key} has shape {of_atom.shape}; expected ({len(letters)}, 3), as "
                f"seq_chain_{chain} has letters"
            )
        xyz[:, a] = of_atom
    return ParsedChain(letters, xyz, tuple(str(n) for n in range(1, len(letters) + 1)))
