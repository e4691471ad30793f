"""JSON read with care: bounded, no key twice, no NaN; and errors that say where in the file.

A JSONL file is the same with one object per line.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from mpnn_core.sampling.labels import ConstraintError
from mpnn_core.structures.files import read_bounded

LARGEST = 1 << 30
"""Bytes of a file; PSSMs of thousands of structures are hundreds of MiB."""

SHOWN = 60
"""Characters of a value that a message shows."""


class Line(NamedTuple):
    """An object of a file, and the line on which it begins."""

    number: int
    content: Any


def read_json_lines(path: str | os.PathLike[str]) -> list[Line]:
    """The objects of a JSON file (one) or a JSONL file (one per line that is not blank).

    Raises
    ------
    ConstraintError
        There is no such file, it is no text, or a line of it is no JSON; the message names the file
        and the line.
    """
    file = Path(path)
    text = read_text(file)
    try:
        return [Line(1, _loads(text))]
    except _NotJsonError as error:
        whole = error
    lines = [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
    # JSON over several lines is wrong where the parser stopped; in JSONL each line is for itself.
    if not lines:
        raise ConstraintError(f"{file}: it is empty; expected JSON")
    if len(lines) == 1 or not whole.goes_on:
        raise ConstraintError(f"{file}: line {whole.line}: {whole}")
    objects = []
    for n, line in lines:
        try:
            objects.append(Line(n, _loads(line)))
        except _NotJsonError as error:
            raise ConstraintError(f"{file}: line {n}: {error}") from None
    return objects


def read_text(file: Path, largest: int = LARGEST) -> str:
    """A text file; raises ConstraintError with its name."""
    try:
        return read_bounded(file, largest).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConstraintError(f"{file}: no text: byte {error.start} is not UTF-8") from None
    except OSError as error:
        raise ConstraintError(f"{file}: not read: {error.strerror or error}") from None


def is_number(value: Any) -> bool:
    """Whether it is a number that float64 holds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def shown(value: Any) -> str:
    """A value as a message shows it."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 4]} ..."


def shown_names(names: Iterable[str]) -> str:
    """ "A, B, C and 4 more"."""
    every = list(names)
    more = f" and {len(every) - 5} more" if every[5:] else ""
    return (", ".join(every[:5]) + more) if every else "none"


class _NotJsonError(Exception):
    def __init__(self, message: str, line: int = 1, goes_on: bool = False) -> None:
        super().__init__(message)
        self.line, self.goes_on = line, goes_on


def _loads(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        goes_on = error.msg == "Extra data"
        raise _NotJsonError(
            f"no JSON: {error.msg} at column {error.colno}", error.lineno, goes_on
        ) from None
    except RecursionError:
        raise _NotJsonError("no constraints: brackets within brackets without end") from None
    except ValueError as error:  # a number of more digits than Python reads
        raise _NotJsonError(f"no JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _NotJsonError(f"the key {twice!r} comes twice in one object; expected once")
    return content


def _no_constant(name: str) -> Any:
    raise _NotJsonError(f"{name} is no number that can be used; expected finite numbers")
