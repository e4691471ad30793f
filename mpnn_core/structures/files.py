"""Files: an input is a regular file of a bounded size; an output is written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO
from zipfile import ZipFile

# What a path leads to, where it is no regular file.
_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


def open_bounded(path: Path | str, limit: int) -> BufferedReader:
    """A regular file of at most `limit` bytes, open for reading; links are followed.

    A FIFO or a device is refused without reading from it: neither has an end that one could wait
    for.

    Raises
    ------
    OSError
        There is no such file, it is no regular file, or it is larger. `strerror` says what is wrong
        in words, without the path.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO waits for someone to write.
        descriptor = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
    except ValueError as error:  # a null byte, or what the file system cannot encode
        raise OSError(errno.EINVAL, f"no name of a file: {error}", str(path)) from None
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            kind = _KINDS.get(stat.S_IFMT(about.st_mode), "something else")
            raise OSError(errno.EINVAL, f"it is {kind}; expected a regular file", str(path))
        if about.st_size > limit:
            raise _too_large(path, about.st_size, limit)
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path: Path | str, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes; raises as `open_bounded`."""
    with open_bounded(path, limit) as file:
        # The size of a file in /proc is 0, and a file can grow: what is read counts as well.
        content = file.read(limit + 1)
    if len(content) > limit:
        raise _too_large(path, len(content), limit)
    return content


def _too_large(path: Path | str, size: int, limit: int) -> OSError:
    return OSError(
        errno.EFBIG, f"it holds {size:,} bytes or more; at most {limit:,} are read", str(path)
    )


def unpacked_size(archive: ZipFile, limit: int) -> int:
    """Bytes of all members of a zip archive once unpacked, without unpacking any.

    Raises
    ------
    ValueError
        They are more than `limit`.
    """
    size = sum(member.file_size for member in archive.infolist())
    if size > limit:
        raise ValueError(f"it holds {size:,} bytes once unpacked; at most {limit:,} are read")
    return size


NAME_BYTES = 255 - len(".npz")
"""What file systems take as a file's name, less the ending that is put to a structure's name."""


def output_name(name: str) -> str:
    """The name of a structure in outputs: itself if a file and a line of text can be called so.

    Otherwise, where it is too long or holds a line break or a byte that is no text, what can be
    shown of it and a digest of the whole, so that two such names stay two.
    """
    if name.isprintable() and "/" not in name and len(os.fsencode(name)) <= NAME_BYTES:
        return name
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    shown = "".join(c if c.isprintable() and c != "/" else "_" for c in name).encode()
    return f"{shown[: NAME_BYTES - 9].decode(errors='ignore')}-{digest}"


def check_folder(folder: Path) -> None:
    """Make a folder, and see that a file can be written there.

    Raises
    ------
    OSError
        It cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trial = folder / _part()
    trial.open("xb").close()
    trial.unlink()


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` with an open file; once complete, it appears at `path`."""
    with opened_atomically(path) as file:
        write(file)


@contextmanager
def opened_atomically(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to; once complete, it appears at `path`, and not at all after an error.

    What is there and is no file, such as /dev/null, is written to and not replaced.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(_part())
    try:
        with part.open("xb") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _part() -> str:
    """A name for an unfinished file, which nobody else can have: another run, or a planted link."""
    return f".{secrets.token_hex(16)}.part"
