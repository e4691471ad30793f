"""Many structures with what is known of each: what is trained and what is evaluated on.

A corpus is a folder of PDB or mmCIF files, or an npz of single chains, one row per residue; its
fields are those of `FIELDS`.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpnn_core.constants import ALPHABET
from mpnn_core.structures.readers import read_structure
from mpnn_core.structures.structure import Structure, StructureError

SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif")
# Residues per call: enough to fill the processor, few enough to lose little to a power cut.
ROWS_PER_CALL = 8192

# Field of an npz of S chains of N residues in all -> its shape, and the kinds of dtype it may have.
FIELDS: dict[str, tuple[tuple[str | int, ...], str]] = {
    "coords": (("N", 4, 3), "f"),  # Å: N, CA, C, O; NaN where missing
    "aa": (("N",), "iu"),  # index into `alphabet`
    "resnum": (("N",), "iu"),  # the author's residue number
    "offsets": (("S + 1",), "iu"),  # chain s has the rows offsets[s] to offsets[s + 1]
    "ids": (("S",), "U"),
    "alphabet": ((), "U"),
    "pdb": (("S",), "U"),  # this and what follows is optional
    "cluster30": (("S",), "iu"),
    "post_cutoff": (("S",), "b"),
}
_DEFAULTS: dict[str, Callable[[int], NDArray[Any]]] = {
    "pdb": lambda S: np.full(S, ""),
    "cluster30": np.arange,
    "post_cutoff": partial(np.zeros, dtype=np.bool_),
}


class CorpusError(ValueError):
    """A corpus that cannot be used: the file, what was expected, what was found."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """S structures, and what is known of each.

    Attributes
    ----------
    name : what outputs call it
    structures : each is named after its chain or file
    pdb : S texts, the PDB entry; "" where unknown
    cluster : (S,) int64; structures of one 30 % sequence cluster share a number, and each has its
        own where clusters are unknown
    post_cutoff : (S,) bool, released after the snapshot that the published weights were trained on
        (August 2021); False where unknown
    """

    name: str
    structures: tuple[Structure, ...]
    pdb: tuple[str, ...]
    cluster: NDArray[np.int64]
    post_cutoff: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.structures)

    def __repr__(self) -> str:
        return f"<Corpus {self.name}, {len(self)} structures, {self.residues} residues>"

    @property
    def residues(self) -> int:
        """How many residues have a complete backbone."""
        return sum(int(s.mask.sum()) for s in self.structures)

    @cached_property
    def sha256(self) -> str:
        """Of names, sequences, chains, residue indices and coordinates, from whatever format."""
        found = hashlib.sha256()
        for s in self.structures:
            found.update(f"{s.name}\n{s.sequence}\n".encode())
            chain = s.chain_numbers
            for numbers in (chain, s.residue_index - s.residue_index[0]):
                found.update(numbers.astype("<i8").tobytes())
            found.update(s.coords.astype("<f4").tobytes())
        return found.hexdigest()

    def subset(self, keep: ArrayLike, name: str = "") -> Corpus:
        """The structures that `keep` selects: (S,) bool, or indices."""
        rows = np.arange(len(self))[np.asarray(keep)]
        return Corpus(
            name or self.name,
            tuple(self.structures[i] for i in rows),
            tuple(self.pdb[i] for i in rows),
            self.cluster[rows],
            self.post_cutoff[rows],
        )


def corpus_of(name: str, structures: Sequence[Structure]) -> Corpus:
    """A corpus of structures of which no more is known."""
    S = len(structures)
    unknown = {key: default(S) for key, default in _DEFAULTS.items()}
    return _corpus(name, structures, unknown)


def batches(structures: Iterable[Structure], sequences: int) -> Iterator[list[Structure]]:
    """Structures to compute `sequences` of in one call, so that small ones share a step's work."""
    batch: list[Structure] = []
    for structure in structures:
        batch.append(structure)
        if sequences * sum(map(len, batch)) >= ROWS_PER_CALL:
            yield batch
            batch = []
    if batch:
        yield batch


def structure_files(folder: Path) -> list[Path]:
    """The structure files in a folder, by name.

    Raises
    ------
    CorpusError
        There is none.
    """
    found = sorted(
        p for p in folder.iterdir() if Path(p.name.removesuffix(".gz")).suffix.lower() in SUFFIXES
    )
    if not found:
        raise CorpusError(f"{folder} holds no structure; expected {', '.join(SUFFIXES)}, or .gz")
    return found


def read_corpus(path: Path | str, complain: Callable[[str], None] | None = None) -> Corpus:
    """A folder of structure files, or an npz of single chains.

    The residue index of a chain counts missing numbers, as that of `read_structure` does.

    Parameters
    ----------
    path : the folder or the npz
    complain : gets the message on each structure that cannot be used, which is then left out; None
        raises it instead

    Raises
    ------
    CorpusError
        No such file, neither of the two, a field that is missing or is not what `FIELDS` says, or
        no structure that can be used.
    StructureError
        A structure that cannot be used.
    """
    path = Path(path)
    if path.is_dir():
        files = [partial(read_structure, file) for file in structure_files(path)]
        structures, _ = _usable(path, files, complain)
        return corpus_of(path.name, structures)
    fields = _read_fields(path)
    chains = [partial(_chain, path, fields, s) for s in range(len(fields["ids"]))]
    structures, rows = _usable(path, chains, complain)
    return _corpus(path.stem, structures, {key: fields[key][rows] for key in _DEFAULTS})


def _corpus(name: str, structures: Sequence[Structure], known: dict[str, NDArray[Any]]) -> Corpus:
    return Corpus(
        name,
        tuple(structures),
        tuple(known["pdb"].tolist()),
        known["cluster30"].astype(np.int64),
        known["post_cutoff"],
    )


def _usable(
    path: Path,
    readers: Sequence[Callable[[], Structure]],
    complain: Callable[[str], None] | None,
) -> tuple[list[Structure], list[int]]:
    """The structures that can be read, and which of all they are."""
    structures, rows = [], []
    for row, read in enumerate(readers):
        try:
            structures.append(read())
            rows.append(row)
        except StructureError as error:
            if complain is None:
                raise
            complain(str(error))
    if not structures:
        raise CorpusError(f"{path}: none of its {len(readers)} structures can be used")
    return structures, rows


def _read_fields(path: Path) -> dict[str, NDArray[Any]]:
    """The fields of an npz, checked. Each is read once: an access decompresses it anew."""
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if not isinstance(content, np.lib.npyio.NpzFile):
                raise ValueError("one array alone")
            fields = {key: content[key] for key in content.files}
    except FileNotFoundError:
        raise CorpusError(
            f"there is no {path}; expected a folder of structures, or an npz of chains"
        ) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CorpusError(f"{path} is not an npz of chains: {error}") from None
    missing = sorted(FIELDS.keys() - _DEFAULTS.keys() - fields.keys())
    if missing:
        raise CorpusError(
            f"{path} is not an npz of chains: {', '.join(missing)} missing, found "
            f"{', '.join(sorted(fields)) or 'nothing'}"
        )
    N, S = fields["aa"].size, fields["ids"].size
    sizes = {"N": N, "S": S, "S + 1": S + 1}
    for key, (axes, kinds) in FIELDS.items():
        found = fields[key] if key in fields else fields.setdefault(key, _DEFAULTS[key](S))
        expected = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in axes)
        if found.shape != expected or found.dtype.kind not in kinds:
            raise CorpusError(
                f"{path}: {key} has shape {found.shape} and dtype {found.dtype}; expected "
                f"{expected} of kind {' or '.join(kinds)}, for {S} chains of {N} residues in all"
            )
    offsets = fields["offsets"]
    if S == 0 or offsets[0] != 0 or offsets[-1] != N or (np.diff(offsets) < 1).any():
        raise CorpusError(
            f"{path}: offsets must rise from 0 to {N}, the residues there are, by at least one for "
            f"each of {S} chains"
        )
    alphabet = str(fields["alphabet"])
    unknown = sorted(set(alphabet) - set(ALPHABET))
    if unknown or fields["aa"].min() < 0 or fields["aa"].max() >= len(alphabet):
        raise CorpusError(
            f"{path}: aa runs from {fields['aa'].min()} to {fields['aa'].max()} in the alphabet "
            f"{alphabet!r}; expected indices into letters of {ALPHABET}"
        )
    return fields


def _chain(path: Path, fields: dict[str, NDArray[Any]], s: int) -> Structure:
    """Chain s of an npz."""
    rows = slice(*fields["offsets"][s : s + 2].tolist())
    name, numbers = str(fields["ids"][s]), fields["resnum"][rows].astype(np.int64)
    letters = np.array(list(str(fields["alphabet"])))[fields["aa"][rows]]
    try:
        return Structure(
            name,
            fields["coords"][rows],
            "".join(letters),
            np.full(len(numbers), "A"),
            np.concatenate([[0], np.maximum(1, np.diff(numbers)).cumsum()]),
            numbers.astype(np.str_),
        )
    except StructureError as error:
        error.file, error.chain = f"{path}: {name}", None
        raise
