"""What a run designs: files, folders, lists, archives of structures, and tables of backbones.

An `Item` says where a structure is and reads nothing until it is asked to, so that a million fit in
memory and travel to other processes.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import tarfile
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from glob import glob, has_magic
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from mpnn_core.structures.containers import (
    ALWAYS_UNPACKED,
    LARGEST,
    MOST_UNPACKED,
    SUFFIXES,
    is_structure_name,
    structure_files,
    structure_name,
)
from mpnn_core.structures.files import open_bounded, output_name
from mpnn_core.structures.structure import Structure, StructureError

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
BACKBONES = (".npz", ".parquet")
LIST = ".txt"
MOST_MEMBERS = 10_000_000
LARGEST_ARCHIVE = 1 << 44


class InputError(ValueError):
    """Inputs that cannot be listed; the message names the file and what was expected."""


@dataclass(frozen=True, slots=True)
class Item:
    """A structure of a run.

    Attributes
    ----------
    name : of its outputs
    path : the file, or the archive or table that it is in
    member : its name in an archive, "" where `path` is its file; of a table, its row
    """

    name: str
    path: Path
    member: str = ""

    @property
    def source(self) -> str:
        """What messages call it: FILE, or ARCHIVE!MEMBER."""
        return f"{self.path}!{self.member}" if self.member else str(self.path)

    @property
    def is_row(self) -> bool:
        """Whether it is the row of a table of backbones, which has no file."""
        return self.path.suffix.lower() in BACKBONES

    def digest(self) -> str:
        """sha256 of the content, hex: of the file, the member, or the row's arrays."""
        if self.is_row:
            return row_digest(self.structure())
        with self._opened() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @contextmanager
    def file(self) -> Iterator[Path]:
        """Its file; of a member of an archive, a copy that is there for as long."""
        if not self.member:
            yield self.path
            return
        with tempfile.TemporaryDirectory(prefix="mpnn_core-") as folder:
            copy = Path(folder) / PurePosixPath(self.member).name
            with self._opened() as file:
                copy.write_bytes(file.read())
            yield copy

    def structure(self) -> Structure:
        """The structure of a row of a table of backbones."""
        return _backbone(self.path, self.member, self.name)

    @contextmanager
    def _opened(self) -> Iterator[io.BufferedReader | io.BytesIO]:
        if not self.member:
            with open_bounded(self.path, LARGEST) as file:
                yield file
            return
        try:
            with _archive(self.path).open(self.member) as file:
                # All at once: what is wrong with the archive is raised here, and not by a reader.
                content = file.read(LARGEST + 1)
        except FileNotFoundError:
            raise StructureError("no such file", file=self.source) from None
        except _DAMAGED as error:
            raise StructureError(f"cannot be read: {_words(error)}", file=self.source) from None
        if len(content) > LARGEST:
            raise StructureError(
                f"unpacks to more than {LARGEST >> 20} MB, which is no structure", file=self.source
            )
        yield io.BytesIO(content)


def row_digest(structure: Structure) -> str:
    """sha256 of the arrays of a table's row, hex."""
    digest = hashlib.sha256(structure.sequence.encode())
    for array in (structure.coords, structure.residue_index, structure.chain_ids):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file, hex."""
    with open_bounded(path, LARGEST) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# What damaged archives lead zipfile, tarfile and the decompressors to raise.
_DAMAGED = (
    OSError, EOFError, KeyError, ValueError, RuntimeError, zlib.error, lzma.LZMAError,
    zipfile.BadZipFile, tarfile.TarError,
)  # fmt: skip


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class _Archive:
    """A tar or zip file that stays open: finding a member anew takes reading all before it.

    Attributes
    ----------
    sizes : member -> bytes once unpacked, of all regular files
    unusable : member -> why it cannot be read
    """

    def __init__(self, path: Path) -> None:
        self.sizes: dict[str, int] = {}
        self.unusable: dict[str, str] = {}
        self._zip: zipfile.ZipFile | None = None
        self._file = open_bounded(path, LARGEST_ARCHIVE)
        weakref.finalize(self, self._file.close)
        try:
            if path.suffix.lower() == ".zip":
                self._read_zip()
            else:
                self._read_tar(path)
        except BaseException:
            self._file.close()
            raise

    def _read_zip(self) -> None:
        self._zip = zipfile.ZipFile(self._file)
        for info in self._zip.infolist():
            if info.is_dir():
                continue
            self._add(info.filename, info.file_size)
            if info.flag_bits & 1:
                self.unusable[info.filename] = "it is encrypted; unpack it, and name its folder"
            elif info.file_size > max(ALWAYS_UNPACKED, MOST_UNPACKED * info.compress_size):
                self.unusable[info.filename] = _too_large(info.file_size)

    def _read_tar(self, path: Path) -> None:
        """List the members; a header is refused before the bytes that it promises are unpacked."""
        most = max(ALWAYS_UNPACKED, MOST_UNPACKED * path.stat().st_size)
        self._tar = tarfile.open(fileobj=self._file)  # noqa: SIM115  # it stays open
        self._members: dict[str, tarfile.TarInfo] = {}
        for info in self._tar:
            if info.offset_data + info.size > most:
                raise ValueError(
                    f"it unpacks to more than {most >> 20} MB, {MOST_UNPACKED} times its own size, "
                    "which structures do not"
                )
            if info.isdir():
                continue
            self._add(info.name, info.size)
            self._members[info.name] = info
            if not info.isreg() or info.issparse():
                self.unusable[info.name] = "it is a link or no regular file"

    def _add(self, member: str, size: int) -> None:
        if len(self.sizes) >= MOST_MEMBERS:
            raise ValueError(f"it has more than {MOST_MEMBERS:,} members; divide it")
        if member in self.sizes:
            raise ValueError(f"two members are called {member}; expected one")
        self.sizes[member] = size
        if size > LARGEST:
            self.unusable[member] = _too_large(size)

    def open(self, member: str) -> IO[bytes]:
        """A member, to read."""
        if self._zip is not None:
            return self._zip.open(member)
        found = self._tar.extractfile(self._members[member])
        assert found is not None, "links and folders are unusable"
        return found


def _too_large(size: int) -> str:
    return f"it unpacks to {size:,} bytes, which is no structure"


_archive = lru_cache(maxsize=4)(_Archive)


def list_items(paths: Iterable[Path | str], say: Any) -> list[Item]:
    """The items of files, folders, patterns, lists (*.txt, a path a line), archives and tables.

    `say` is called with a sentence for what is left out or called otherwise.

    Raises
    ------
    InputError
        A list or an archive cannot be read, or has no structure, or two items have one name.
    """
    items: list[Item] = []
    for path in paths:
        items += _of_path(Path(path), say)
    by_name: dict[str, Item] = {}
    for item in items:
        other = by_name.setdefault(item.name, item)
        if other is not item:
            raise InputError(
                f"{other.source} and {item.source} are both called {item.name}, and would be "
                "written to the same output; rename one, or run them apart"
            )
        own = structure_name(item.member or item.path)
        if not item.is_row and item.name != own:
            say(f"warning: {item.source}: called {item.name} in the output, for its own name "
                "cannot be")  # fmt: skip
    return items


def _of_path(path: Path, say: Any) -> list[Item]:
    if has_magic(str(path)) and not os.path.lexists(path):
        found = sorted(Path(name) for name in glob(str(path), recursive=True))
        if not found:
            raise InputError(f"{path}: no file fits this pattern")
        return [item for one in found for item in _of_path(one, say)]
    name = path.name.lower()
    if path.is_dir():
        return [_file(file) for file in _of_folder(path)]
    if name.endswith(ARCHIVES):
        return _of_archive(path, say)
    if path.suffix.lower() in BACKBONES:
        return [Item(output_name(label), path, str(row)) for row, label in enumerate(_labels(path))]
    if path.suffix.lower() == LIST:
        return [item for one in _of_list(path) for item in _of_path(one, say)]
    return [_file(path)]


def _of_folder(path: Path) -> list[Path]:
    try:
        files = structure_files(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not files:
        raise InputError(f"{path} holds no structure; expected {', '.join(SUFFIXES)}")
    return files


def _file(path: Path) -> Item:
    return Item(output_name(structure_name(path)), path)


def _of_list(path: Path) -> list[Path]:
    """The paths of a list; those that are not absolute are beside it."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: a list of structures that cannot be read: {reason}") from None
    found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise InputError(f"{path}: a list with no path; expected the path of a structure in a line")
    if any(Path(line).suffix.lower() == LIST for line in found):
        raise InputError(f"{path}: a list that names another list; expected structures")
    return [path.parent / line for line in found]


def _of_archive(path: Path, say: Any) -> list[Item]:
    """The structures of a tar or zip file; what else is in it is said."""
    try:
        archive = _archive(path)
    except _DAMAGED as error:
        raise InputError(f"{path}: an archive that cannot be read: {_words(error)}") from None
    plain = [m for m in archive.sizes if not PurePosixPath(m).name.startswith(".")]
    structures = [m for m in plain if is_structure_name(Path(PurePosixPath(m).name))]
    for member in structures:
        if member in archive.unusable:
            # Known before anything is computed: refused, for the rest is not what was asked for.
            raise InputError(f"{path}!{member}: {archive.unusable[member]}")
    if not structures:
        raise InputError(f"{path}: an archive without a structure; expected *.pdb or *.cif in it")
    left_out = len(plain) - len(structures)
    if left_out:
        say(f"warning: {path}: {left_out} members are no structures by their names, and left out")
    return [Item(output_name(structure_name(PurePosixPath(m).name)), path, m) for m in structures]


# ---------------------------------------------------------------------------- tables of backbones

COLUMNS = {
    "name": "text", "coords": "L * 12 numbers, Å: N, CA, C, O of each residue",
    "sequence": "L letters", "chain_ids": "L texts, or none: one chain",
    "residue_index": "L whole numbers, or none",
}  # fmt: skip
"""Columns of a Parquet file of backbones, a row each; the last two may be missing."""


def _labels(path: Path) -> Sequence[str]:
    names, _ = _table(path, os.stat(path).st_mtime_ns if path.is_file() else 0)
    return names


def _backbone(path: Path, row: str, name: str) -> Structure:
    _, rows = _table(path, os.stat(path).st_mtime_ns)
    structure: Structure = rows(int(row), name)
    return structure


@lru_cache(maxsize=2)
def _table(path: Path, changed: int) -> tuple[Sequence[str], Any]:
    """The names of a table's rows, and what gives the structure of one."""
    try:
        return _npz(path) if path.suffix.lower() == ".npz" else _parquet(path)
    except InputError:
        raise
    # NumPy, zipfile and pyarrow raise whatever damaged bytes lead them to.
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{path}: backbones that cannot be read: {reason}") from None


def _npz(path: Path) -> tuple[Sequence[str], Any]:
    """Chains end to end: coords (N, 4, 3), aa (N,) in `alphabet`, resnum (N,), offsets (S + 1,),
    ids (S,), as a corpus of `mpnn-core eval`."""
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as npz:
        missing = {"coords", "aa", "resnum", "offsets", "ids", "alphabet"} - set(npz.files)
        if missing:
            raise InputError(
                f"{path}: no {', '.join(sorted(missing))}; expected backbones end to end"
            )
        fields = {name: npz[name] for name in ("coords", "aa", "resnum", "offsets", "ids")}
        alphabet = np.array(list(str(npz["alphabet"])))
    offsets = fields["offsets"]

    def structure(row: int, name: str) -> Structure:
        rows = slice(offsets[row], offsets[row + 1])
        letters = "".join(alphabet[fields["aa"][rows]])
        return Structure.from_backbone(
            fields["coords"][rows], letters, None, fields["resnum"][rows], name=name
        )

    return fields["ids"].tolist(), structure


def _parquet(path: Path) -> tuple[Sequence[str], Any]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise InputError(
            f"{path}: Parquet needs pyarrow, which is not installed: pip install 'mpnn-core[table]'"
        ) from None
    table = parquet.read_table(path)
    missing = {"name", "coords", "sequence"} - set(table.column_names)
    if missing:
        expected = "; ".join(f"{name}: {what}" for name, what in COLUMNS.items())
        raise InputError(f"{path}: no column {', '.join(sorted(missing))}; expected {expected}")

    def structure(row: int, name: str) -> Structure:
        values: dict[str, Any] = {
            column: table[column][row].as_py() if column in table.column_names else None
            for column in COLUMNS
        }
        coords = np.array(values["coords"], np.float64)
        if coords.size % 12:
            raise StructureError(f"coords has {coords.size} numbers; expected 12 for each residue")
        return Structure.from_backbone(
            coords.reshape(-1, 4, 3), values["sequence"], values["chain_ids"],
            values["residue_index"], name=name,
        )  # fmt: skip

    return table["name"].to_pylist(), structure


# -------------------------------------------------------------------------------------- shards


@dataclass(frozen=True)
class Shard:
    """A part of a run: the items whose content says so, whatever else is in the run."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """ "3/16"; InputError for what is none."""
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise InputError(f"shard {text!r}: expected NUMBER/OF, such as 3/16, counted from 1")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def holds(self, digest: str) -> bool:
        """Whether content of a sha256, hex, is of this shard."""
        return int(digest[:15], 16) % self.of == self.number - 1
