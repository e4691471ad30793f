"""Output files: each is written whole, or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO

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
    """Call `write` with an open file; once complete, it appears at `path`.

    What is there and is no file, such as /dev/null, is written to and not replaced.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            write(file)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(_part())
    try:
        with part.open("xb") as file:
            write(file)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _part() -> str:
    """A name for an unfinished file, which nobody else can have: another run, or a planted link."""
    return f".{secrets.token_hex(16)}.part"
