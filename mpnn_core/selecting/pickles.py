"""Pickles of plain data, read without running anything of theirs.

RFdiffusion's `.trb` is a pickle, and a pickle may call any function that it names. Here a name is
looked up in a list of what NumPy's arrays are made of, and even those are stand-ins: nothing is
imported for a file. What else it names is refused.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mpnn_core.sampling.labels import ConstraintError
from mpnn_core.structures.files import read_bounded

LARGEST = 1 << 28
"""Bytes of a file; a design of thousands of residues has less than 1 MiB."""


class _Type:
    """Stands for a dtype: what its state says, and no more."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code, self.order = str(code), "="

    def state(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]

    def dtype(self) -> np.dtype[Any]:
        """The dtype; of numbers, truth values and text alone."""
        if not (self.code[:1] in "biufUS?" and self.code[1:].isdigit()) and self.code != "O8":
            raise ValueError(f"an array of {self.code!r}; expected numbers, truth values or text")
        return np.dtype(
            self.code if self.code == "O8" else self.order.replace("|", "=") + self.code
        )


class _Array:
    """Stands for an array."""

    def __init__(self, *_: Any) -> None:
        self.shape: tuple[int, ...] = (0,)
        self.type = _Type("f8")
        self.raw: Any = b""
        self.fortran = False

    def state(self, state: Any) -> None:
        _, shape, self.type, self.fortran, self.raw = state
        self.shape = tuple(map(int, shape))
        if not isinstance(self.type, _Type):
            raise ValueError("an array of no type")

    def value(self) -> Any:
        """The array, or a list where it holds objects."""
        dtype = self.type.dtype()
        if dtype.hasobject:
            if not isinstance(self.raw, list):
                raise ValueError("an array of objects that is no list of them")
            return list(self.raw)
        flat = np.frombuffer(_bytes(self.raw), dtype)
        return flat.reshape(self.shape, order="F" if self.fortran else "C")


def _bytes(raw: Any) -> bytes:
    """What an array holds; of a number, bytes() would make as many zeros."""
    if isinstance(raw, str):
        return raw.encode("latin-1")
    if not isinstance(raw, bytes | bytearray):
        raise ValueError(f"an array made of {type(raw).__name__}")
    return bytes(raw)


def _from_buffer(raw: Any, kind: Any, shape: Any, order: Any = "C") -> _Array:
    array = _Array()
    array.state((1, shape, kind, order == "F", _bytes(raw)))
    return array


def _scalar(kind: Any, raw: Any = b"") -> _Array:
    array = _Array()
    array.state((1, (), kind, False, raw))
    return array


_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    ("collections", "OrderedDict"): dict,
    **{(module, "set"): set for module in ("builtins", "__builtin__")},
    **{(module, "frozenset"): frozenset for module in ("builtins", "__builtin__")},
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
    ("_codecs", "encode"): lambda text, *_: str(text).encode("latin-1"),  # bytes, in protocol 2
}


class _PlainData(pickle._Unpickler):
    """Reads plain data. That in Python, for its memory is what the file has, whatever that says."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, which is no array and no plain container; nothing of "
                "it was run"
            ) from None

    def load_build(self) -> None:
        """State is for the stand-ins of arrays alone."""
        stack: list[Any] = vars(self)["stack"]
        state, made = stack.pop(), stack[-1]
        if not isinstance(made, (_Type, _Array)):
            raise pickle.UnpicklingError("it gives a state to what is no array; nothing was run")
        made.state(state)

    dispatch[pickle.BUILD[0]] = load_build


def read_plain_pickle(path: Path) -> Any:
    """What a pickle of arrays and plain containers holds.

    Arrays of numbers, truth values and text are NumPy's; those of objects are lists.

    Raises
    ------
    ConstraintError
        It cannot be read, is no pickle, or holds anything else; nothing of it is run.
    """
    try:
        content = read_bounded(path, LARGEST)
    except OSError as error:
        raise ConstraintError(f"{path}: not read: {error.strerror or error}") from None
    try:
        return _plain(_PlainData(io.BytesIO(content)).load(), 0, {})
    # A damaged pickle raises whatever its bytes happen to lead to.
    except Exception as error:
        raise ConstraintError(
            f"{path}: no pickle of plain data: {error or 'it is damaged'}"
        ) from None


MOST_LEVELS = 50


def _plain(value: Any, depth: int, done: dict[int, tuple[Any, Any]]) -> Any:
    """The same with arrays in place of what stands for them; `done` has what came before, by id,
    for a container may be in many places."""
    if depth > MOST_LEVELS:
        raise ValueError("containers within containers without end")
    if id(value) in done:
        return done[id(value)][1]
    made = value
    if isinstance(value, _Array):
        array = value.value()
        made = _plain(array, depth + 1, done) if isinstance(array, list) else array
    elif isinstance(value, dict):
        made = {key: _plain(item, depth + 1, done) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        made = [_plain(item, depth + 1, done) for item in value]
    done[id(value)] = value, made  # kept, so that no other gets its id
    return made
