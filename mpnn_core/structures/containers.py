"""What a structure file is packed in: compression and text encoding, unpacked and bounded.

A form that is not read is a `StructureError` that names the form and says what to do.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from mpnn_core.structures.files import read_bounded
from mpnn_core.structures.structure import SHOWN, StructureError, StructureWarning, shown_items

LARGEST = 1 << 30
"""Bytes of a file, packed or not: eight million atoms."""

MOST_UNPACKED, ALWAYS_UNPACKED = 100, 64 << 20
"""How many times larger than itself a file may unpack to (structures: 3 to 8), and bytes that it
always may."""

_Opener = Callable[[IO[bytes]], Any]

COMPRESSIONS: dict[bytes, tuple[str, _Opener]] = {
    b"\x1f\x8b": ("gzip", lambda file: gzip.GzipFile(fileobj=file)),
    b"BZh": ("bzip2", bz2.BZ2File),
    b"\xfd7zXZ\0": ("xz", lzma.LZMAFile),
}
"""First bytes -> the name of the compression, and what opens it."""

_NOT_READ = (
    (b"PK\3\4", "a zip archive", "unpack it, and name the files or the folder"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it, and name the files or the folder"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it with `zstd -d`"),
    (b"\x04\x22\x4d\x18", "compressed by lz4", "unpack it with `lz4 -d`"),
    (b"\x1f\x9d", "compressed by compress", "unpack it with `gunzip`"),
    (b"\x89HDF", "HDF5", "save it as PDB or mmCIF"),
    (b"Rar!", "a RAR archive", "unpack it, and name the files or the folder"),
    (b"<?xml", "XML (PDBML)", "fetch the entry as mmCIF"),
)  # fmt: skip

_UTF_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

MOST_BLANK_LINES = 1_000_000

SUFFIXES = (".pdb", ".ent", ".pdb1", ".pdbx", ".cif", ".mmcif")
"""How the name of a structure file ends, in any case; then it may have one of `PACKED`."""

PACKED = (".gz", ".bz2", ".xz")


def structure_name(path: Path | str) -> str:
    """The name of a structure that is read from this file: "5L33" for 5L33.pdb, 5L33.cif.gz."""
    return _unpacked_name(Path(path)).stem


def structure_files(folder: Path) -> list[Path]:
    """The structure files in a folder, by name; a StructureWarning names what else is in it.

    What an operating system hides, such as the `._5L33.pdb` that macOS writes beside a file, is not
    spoken of.
    """
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    files = [p for p in entries if is_structure_name(p) and not p.is_dir()]
    taken = set(files)
    others = [p.name for p in entries if p not in taken]
    if others:
        kinds = sorted({Path(name).suffix or "no ending" for name in others[SHOWN:]})
        more = f" ({', '.join(kinds[:SHOWN])})" if kinds else ""
        warnings.warn(
            f"{folder}: no structure by its name, and left out: {shown_items(others)}{more}; "
            f"expected {', '.join(SUFFIXES)}, or one of these and {', '.join(PACKED)}",
            StructureWarning,
            stacklevel=2,
        )
    return files


def is_structure_name(path: Path) -> bool:
    """Whether a file is called as structures are; .pdb2 and so on are assemblies of the wwPDB."""
    suffix = _unpacked_name(path).suffix.lower()
    return suffix in SUFFIXES or (suffix.startswith(".pdb") and suffix[4:].isdigit())


def _unpacked_name(path: Path) -> Path:
    """The path without `.gz` or the like."""
    return Path(path.stem) if path.suffix.lower() in PACKED else Path(path.name)


def read_text(file: Path, largest: int = LARGEST) -> str:
    """The text of a structure file, unpacked.

    Raises
    ------
    StructureError
        The file cannot be read, is no text, is damaged, or is larger than `largest` bytes.
    """
    try:
        data = read_bounded(file, largest)
    except FileNotFoundError:
        raise StructureError("no such file") from None
    except OSError as error:
        raise StructureError(f"cannot be read: {error.strerror or error}") from None
    for mark, (name, opener) in COMPRESSIONS.items():
        if data.startswith(mark):
            most = max(ALWAYS_UNPACKED, MOST_UNPACKED * len(data))
            data = _unpacked(file, name, opener, min(largest, most))
    return _decoded(data)


def _unpacked(file: Path, name: str, opener: _Opener, largest: int) -> bytes:
    try:
        with file.open("rb") as packed, opener(packed) as stream:
            data = stream.read(largest + 1)
    except EOFError:
        raise StructureError(f"truncated: the {name} stream has no end; fetch it again") from None
    except (OSError, zlib.error, lzma.LZMAError) as error:
        raise StructureError(f"damaged {name} file: {error}") from None
    if len(data) > largest:
        raise StructureError(
            f"unpacks to more than {largest >> 20} MB, which is no structure; expected at most that"
        )
    return data


def _decoded(data: bytes) -> str:
    if not data or data.isspace():
        raise StructureError("not a structure: the file is empty")
    for start, form, advice in _NOT_READ:
        if data.startswith(start):
            raise StructureError(f"not read: it is {form}; {advice}")
    for mark, encoding in _UTF_MARKS:
        if data.startswith(mark):
            try:
                return _newlines(data.decode(encoding))
            except UnicodeDecodeError as error:
                if encoding != "utf-8-sig":
                    raise StructureError(f"damaged {encoding.upper()} text: {error}") from None
    head = data[: 1 << 16]
    if head[257:262] == b"ustar":
        raise StructureError("not read: it is a tar archive; unpack it, and name the files")
    if b"\0" in head:
        if b"encoder" in head and b"dataBlocks" in head:
            raise StructureError("not read: it is BinaryCIF; fetch or save it as mmCIF text")
        if b"mmtfVersion" in head:
            raise StructureError("not read: it is MMTF; fetch or save it as mmCIF text")
        for own, other in ((head[::2], head[1::2]), (head[1::2], head[::2])):
            if other and not other.strip(b"\0") and own.isascii() and b"\0" not in own:
                raise StructureError(
                    "not read: it is UTF-16 without a byte order mark; save it as UTF-8 text"
                )
    data = data.rstrip(b"\0\x1a")
    if b"\0" in data:
        raise StructureError("not a structure: binary data, expected PDB or mmCIF text")
    # Remarks may be in an old 8-bit encoding; all that is used is ASCII.
    return _newlines(data.decode("utf-8-sig", errors="replace"))


def _newlines(text: str) -> str:
    text = text.replace("\f", "")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if len(text) > 2 * MOST_BLANK_LINES and text.count("\n\n") > MOST_BLANK_LINES:
        raise StructureError("not a structure: more than a million blank lines")
    return text
