"""A corpus: many structures, to train and to evaluate on, and their sequence clusters.

It is read from a folder of PDB or mmCIF files, or from an npz of single chains, with one row per
residue and the fields of `FIELDS`.
"""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpnn_core.constants import ALPHABET
from mpnn_core.structures import containers
from mpnn_core.structures.files import open_bounded, unpacked_size
from mpnn_core.structures.readers import read_structure
from mpnn_core.structures.structure import Structure, StructureError

# Residues per call: enough to fill the processor, few enough to lose little in an interruption.
ROWS_PER_CALL = 8192
# Of an npz: its size, and how much larger its arrays may be than it. Coordinates pack to a half.
LARGEST_BYTES = 4 * 2**30
MOST_UNPACKED, ALWAYS_UNPACKED = 20, 64 * 2**20
LARGEST_NUMBER = 2**31 - 1  # of a residue

# Field of an npz of S chains with N residues in all -> its shape, and the kinds of its dtype.
FIELDS: dict[str, tuple[tuple[str | int, ...], str]] = {
    "coords": (("N", 4, 3), "f"),  # Å: N, CA, C, O; NaN where missing
    "aa": (("N",), "iu"),  # index into `alphabet`
    "resnum": (("N",), "iu"),  # the author's residue number
    "offsets": (("S + 1",), "iu"),  # chain s has the rows offsets[s] to offsets[s + 1]
    "ids": (("S",), "U"),
    "alphabet": ((), "U"),
    "pdb": (("S",), "U"),  # this field and the next ones are optional
    "cluster30": (("S",), "iu"),
    "post_cutoff": (("S",), "b"),
}
_DEFAULTS: dict[str, Callable[[int], NDArray[Any]]] = {
    "pdb": lambda S: np.full(S, ""),
    "cluster30": np.arange,
    "post_cutoff": partial(np.zeros, dtype=np.bool_),
}


class CorpusError(ValueError):
    """An unusable corpus; the message names the file, what was expected and what it holds."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """S structures, and where each comes from.

    Attributes
    ----------
    name : its name in outputs
    structures : each is named after its chain or file
    pdb : S names of PDB entries; "" where unknown
    cluster : (S,) int64, the number of the 30 % sequence cluster; where it is unknown, each
        structure has its own
    post_cutoff : (S,) bool, whether it was released after August 2021, when the snapshot was taken
        that the published weights were trained on; False where unknown
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
        """Number of residues with a complete backbone."""
        return sum(int(s.mask.sum()) for s in self.structures)

    @cached_property
    def sha256(self) -> str:
        """Of names, sequences, chains, residue indices and coordinates; the format is no part."""
        digest = hashlib.sha256()
        for s in self.structures:
            digest.update(f"{s.name}\n{s.sequence}\n".encode())
            chain = s.chain_numbers
            for numbers in (chain, s.residue_index - s.residue_index[0]):
                digest.update(numbers.astype("<i8").tobytes())
            digest.update(s.coords.astype("<f4").tobytes())
        return digest.hexdigest()

    def subset(self, keep: ArrayLike, name: str = "") -> Corpus:
        """The corpus of the structures that `keep` selects: (S,) bool, or indices."""
        rows = np.arange(len(self))[np.asarray(keep)]
        return Corpus(
            name or self.name,
            tuple(self.structures[i] for i in rows),
            tuple(self.pdb[i] for i in rows),
            self.cluster[rows],
            self.post_cutoff[rows],
        )


def corpus_of(name: str, structures: Sequence[Structure]) -> Corpus:
    """A corpus of structures whose PDB entries, clusters and dates are unknown."""
    S = len(structures)
    unknown = {key: default(S) for key, default in _DEFAULTS.items()}
    return _corpus(name, structures, unknown)


def batched(
    structures: Iterable[Structure], sequences: int, rows: int = ROWS_PER_CALL
) -> Iterator[list[Structure]]:
    """Lists of structures to compute `sequences` of each in one call.

    A list has at least `rows` residues in all sequences, but for the last.
    """
    batch: list[Structure] = []
    for structure in structures:
        batch.append(structure)
        if sequences * sum(map(len, batch)) >= rows:
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
    try:
        files = containers.structure_files(folder)
    except OSError as error:
        raise CorpusError(f"{folder} cannot be read: {error.strerror}") from None
    if not files:
        raise CorpusError(f"{folder} holds no structure; expected {', '.join(containers.SUFFIXES)}")
    return files


def read_corpus(path: Path | str, complain: Callable[[str], None] | None = None) -> Corpus:
    """A folder of structure files, or an npz of single chains.

    The residue index of a chain counts missing numbers, as in `read_structure`. What surrounds the
    backbones is left out.

    Parameters
    ----------
    path : the folder or the npz
    complain : called with a message for each unusable structure, which is then left out; None
        raises the error instead

    Raises
    ------
    CorpusError
        The path does not exist or is neither of the two, a field is missing or differs from
        `FIELDS`, or no structure can be used.
    StructureError
        A structure cannot be used.
    """
    path = Path(path)
    if path.is_dir():
        files = [partial(_backbones, file) for file in structure_files(path)]
        structures, _ = _usable(path, files, complain)
        return corpus_of(path.name, structures)
    fields = _read_fields(path)
    chains = [partial(_chain, path, fields, s) for s in range(len(fields["ids"]))]
    structures, rows = _usable(path, chains, complain)
    return _corpus(path.stem, structures, {key: fields[key][rows] for key in _DEFAULTS})


def _corpus(name: str, structures: Sequence[Structure], known: dict[str, NDArray[Any]]) -> Corpus:
    """A corpus from its structures and the optional fields of an npz."""
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
    """The structures that can be read, and their indices among all readers."""
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
    """The fields of an npz, checked. Each is read once, for every access decompresses it."""
    try:
        with open_bounded(path, LARGEST_BYTES) as file:
            size = os.fstat(file.fileno()).st_size
            with zipfile.ZipFile(file) as archive:
                unpacked_size(archive, max(ALWAYS_UNPACKED, MOST_UNPACKED * size))
            file.seek(0)
            with np.load(file, allow_pickle=False) as content:
                found = {key: content[key] for key in content.files if key in FIELDS}
                fields = {key: np.asarray(value) for key, value in found.items()}  # or bytes
    except FileNotFoundError:
        raise CorpusError(
            f"there is no {path}; expected a folder of structures, or an npz of chains"
        ) from None
    # Readers of archives, of deflated bytes and of arrays raise whatever damaged bytes lead to.
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise CorpusError(
            f"{path} is not an npz of chains: {reason or error or type(error).__name__}"
        ) from None
    missing = sorted(FIELDS.keys() - _DEFAULTS.keys() - fields.keys())
    if missing:
        raise CorpusError(
            f"{path} is not an npz of chains: {', '.join(missing)} missing, found "
            f"{', '.join(sorted(fields)) or 'nothing'}"
        )
    N, S = fields["aa"].size, fields["ids"].size
    sizes = {"N": N, "S": S, "S + 1": S + 1}
    for key, (axes, kinds) in FIELDS.items():
        values = fields[key] if key in fields else fields.setdefault(key, _DEFAULTS[key](S))
        expected = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in axes)
        if values.shape != expected or values.dtype.kind not in kinds:
            raise CorpusError(
                f"{path}: {key} has shape {values.shape} and dtype {values.dtype}; expected "
                f"{expected} of kind {' or '.join(kinds)}, for {S} chains of {N} residues in all"
            )
        if kinds == "U" and not _is_text(values):
            raise CorpusError(f"{path}: {key} holds signs that cannot be printed")
    offsets = fields["offsets"]
    if S == 0 or offsets[0] != 0 or offsets[-1] != N or (np.diff(offsets) < 1).any():
        raise CorpusError(
            f"{path}: offsets must rise from 0 to {N}, the residues there are, by at least one for "
            f"each of {S} chains"
        )
    if np.abs(fields["resnum"].astype(np.float64)).max() > LARGEST_NUMBER:
        raise CorpusError(
            f"{path}: resnum runs from {fields['resnum'].min()} to {fields['resnum'].max()}; "
            f"expected numbers of residues, within ±{LARGEST_NUMBER}"
        )
    alphabet = str(fields["alphabet"])
    unknown = sorted(set(alphabet) - set(ALPHABET))
    if unknown or fields["aa"].min() < 0 or fields["aa"].max() >= len(alphabet):
        raise CorpusError(
            f"{path}: aa runs from {fields['aa'].min()} to {fields['aa'].max()} in the alphabet "
            f"{alphabet!r}; expected indices into letters of {ALPHABET}"
        )
    return fields


def _is_text(values: NDArray[Any]) -> bool:
    """Whether an array of kind U holds printable text: numpy takes any 32 bits for a sign."""
    codes = np.frombuffer(
        values.tobytes(), np.dtype(np.uint32).newbyteorder(values.dtype.byteorder)
    )
    return not (codes > sys.maxunicode).any() and all(str(v).isprintable() for v in values.flat)


def _backbones(file: Path) -> Structure:
    """The structure of a file, without ligands and side chains."""
    return replace(read_structure(file).with_ligands(()), side_chains=None, cb=None)


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
