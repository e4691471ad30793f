"""What the gate keeps in files: read within bounds, checked field by field, written whole.

The gate knows nothing of the engine, so it opens its files itself.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

LARGEST_BYTES = 256 * 2**20


def read_text(path: Path) -> str:
    """The text of a regular file of at most LARGEST_BYTES.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It cannot be read, or is no text in UTF-8; the message says why, without the path.
    """
    try:
        # A FIFO or a device has no end, and opening a FIFO waits for someone to write.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(error.strerror) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no regular file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(LARGEST_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > LARGEST_BYTES:
        raise ValueError(f"it has more than {LARGEST_BYTES:,} bytes")
    return content.decode("utf-8")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; raises as `read_text`."""
    text = read_text(path)
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError(f"it is nested too deep: {error}") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises as `read_text`."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON in UTF-8: {error}") from None


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there complete, or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{secrets.token_hex(16)}.part")
    try:
        with part.open("x", encoding="utf-8", errors="replace") as file:
            file.write(text)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def typed(kind: Any, value: Any, where: str = "it") -> Any:
    """A value out of JSON as an instance of `kind`: a dataclass, or what a field of one may be.

    Raises
    ------
    ValueError
        It is of another type, lacks a field or has one that does not exist; `where` names it.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):  # X | None
        (other,) = (part for part in parts if part is not NoneType)
        return None if value is None else typed(other, value, where)
    if origin in (list, tuple):
        count = len(parts) if origin is tuple else None
        if not isinstance(value, list | tuple) or count not in (None, len(value)):
            size = "" if count is None else f" of {count}"
            raise ValueError(f"{where} is {_short(value)}; expected a list{size}")
        kinds = parts if origin is tuple else parts * len(value)
        return origin(
            typed(part, v, f"{where}[{i}]")
            for i, (part, v) in enumerate(zip(kinds, value, strict=True))
        )
    if is_dataclass(kind) or origin is Mapping:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is {_short(value)}; expected an object")
        if origin is Mapping:
            return {key: typed(parts[1], v, f"{where}.{key}") for key, v in value.items()}
        types = get_type_hints(kind)
        wrong = [name for name in value if name not in {f.name for f in fields(kind)}]
        if wrong:
            raise ValueError(f"{where} has no field {wrong[0]!r}")
        try:
            return kind(**{name: typed(types[name], v, name) for name, v in value.items()})
        except TypeError as cause:  # a field is missing
            raise ValueError(f"{where}: {cause}") from None
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    expected = int | float if kind is float else kind
    if not isinstance(value, expected) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where} is {_short(value)}; expected {kind.__name__}")
    try:
        return kind(value)
    except OverflowError as cause:
        raise ValueError(f"{where}: {cause}") from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
