"""One file of constraints for many structures, in JSON, by author numbers and by selections.

::

    {
      "version": 1,
      "structures": {
        "*": {"omit": "C"},
        "5L33": {"fixed": "A10-20", "bias_at": {"surface": {"K": 0.5}}}
      }
    }

An entry speaks of the structure of its name, and "*" of every one. Both hold; `chains`,
`redesigned` and `pssm` of a structure replace those of "*". docs/reference/constraints.md describes
each key, and `mpnn_core/data/constraints.schema.json` is the JSON Schema.
"""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from mpnn_core.constants import ALPHABET
from mpnn_core.sampling.constraints import Constraints
from mpnn_core.sampling.labels import ConstraintError
from mpnn_core.selecting.json_files import Line, is_number, read_json_lines, shown, shown_names
from mpnn_core.selecting.originals import ConstraintFile, PSSMUse, constraint_file
from mpnn_core.selecting.selections import rows
from mpnn_core.selecting.sources import Part, Source
from mpnn_core.structures.structure import Structure

VERSION = 1
EVERY = "*"
"""The name of the entry that is for all structures."""

ONCE = ("chains", "redesigned", "pssm")
"""What an entry states in place of the entry for all structures; the rest adds up."""

_LETTERS = set(ALPHABET)


@dataclass(frozen=True, eq=False)
class ConstraintSets(Source):
    """A file of constraints, checked as far as that is possible without a structure.

    Attributes
    ----------
    path : the file
    entries : name of a structure, or "*" -> key -> value
    """

    path: Path
    entries: Mapping[str, Mapping[str, Any]]

    def parts(
        self, structure: Structure, path: str | None = None, pssm: PSSMUse | None = None
    ) -> list[Part]:
        """What the entries say of a structure, as `Source.parts`."""
        names = [name for name in (EVERY, structure.name) if name in self.entries]
        if not names:
            raise ConstraintError(
                f"{self.path}: no entry for {structure.name}, and none for all, {EVERY!r}; it has "
                f"{shown_names(self.entries)}. An entry that is empty, {{}}, designs it freely"
            )
        own = self.entries.get(structure.name, {})
        parts = []
        for name in names:
            at = f"{self.path}: {name}"
            entry = {
                key: value
                for key, value in self.entries[name].items()
                if name == structure.name or key not in ONCE or key not in own
            }
            parts.append(Part(at, _fields(entry, structure, at, self.path)))
        return parts


def read_constraints(path: str | os.PathLike[str], kind: str | None = None) -> Source:
    """Read a file of constraints: this project's, ProteinMPNN's JSONL or LigandMPNN's JSON.

    Parameters
    ----------
    path : the file; its content says which it is
    kind : which of the originals' it is, one of `mpnn_core.selecting.originals.KINDS`, where the
        content cannot say: LigandMPNN's fixed and redesigned residues look alike

    Returns
    -------
    `for_structure(structure)` of it gives `Constraints`.

    Raises
    ------
    ConstraintError
        It cannot be read, is none of these, or is wrong somewhere; the message names file and key.
    """
    file = Path(path)
    lines = read_json_lines(file)
    content = lines[0].content
    if kind is None and isinstance(content, dict) and "structures" in content:
        return constraint_sets(file, lines)
    made = constraint_file(file, lines, kind)
    if kind is None and made.kind == "fixed_residues":
        raise ConstraintError(
            f"{file}: residues of structures; say whether they are kept or designed, with the kind "
            "fixed_residues or redesigned_residues"
        )
    return made


def constraint_sets(file: Path, lines: list[Line]) -> ConstraintSets:
    """A file of this project's form, of lines that are read already."""
    content = lines[0].content
    unknown = sorted(set(content) - {"$schema", "version", "structures"})
    if len(lines) > 1:
        raise ConstraintError(f"{file}: line {lines[1].number}: a second object; expected one")
    if content.get("version") != VERSION or isinstance(content.get("version"), bool):
        raise ConstraintError(
            f"{file}: version is {shown(content.get('version'))}; expected {VERSION}"
        )
    if unknown:
        raise ConstraintError(f"{file}: {unknown[0]!r} is no key; expected version and structures")
    structures = content["structures"]
    if not isinstance(structures, dict) or not structures:
        raise ConstraintError(
            f"{file}: structures: {shown(structures)}; expected names of structures with what "
            'holds for each, as in {"5L33": {"fixed": "A10-20"}}'
        )
    for name, entry in structures.items():
        at = f"{file}: {name}"
        if not isinstance(entry, dict):
            raise ConstraintError(f'{at}: {shown(entry)}; expected keys, as in {{"omit": "C"}}')
        for key, value in entry.items():
            if key not in _KEYS:
                close = difflib.get_close_matches(key, _KEYS, 1)
                expected = f"did you mean {close[0]}" if close else f"expected {', '.join(_KEYS)}"
                raise ConstraintError(f"{at}: {key!r} is no key; {expected}")
            _KEYS[key](value, f"{at}: {key}")
    return ConstraintSets(file, structures)


def schema() -> str:
    """The JSON Schema of the file, as text."""
    return (files("mpnn_core") / "data" / "constraints.schema.json").read_text()


# Checks of values, before there is a structure.


def _check_texts(value: Any, at: str) -> None:
    """A text, or a list of texts; none empty."""
    every = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) and text.strip() for text in every):
        raise ConstraintError(f"{at}: {shown(value)}; expected a text, or a list of texts")


def _check_letters(value: Any, at: str) -> None:
    if not isinstance(value, str) or not set(value) <= _LETTERS:
        raise ConstraintError(f"{at}: {shown(value)}; expected letters of {ALPHABET}, as in CP")


def _check_number(value: Any, at: str) -> None:
    if not is_number(value):
        raise ConstraintError(f"{at}: {shown(value)} is no number")


def _check_share(value: Any, at: str) -> None:
    _check_number(value, at)
    if not 0 <= value <= 1:
        raise ConstraintError(f"{at}: {shown(value)}; expected 0 to 1")


def _check_bool(value: Any, at: str) -> None:
    if not isinstance(value, bool):
        raise ConstraintError(f"{at}: {shown(value)}; expected true or false")


def _check_temperature(value: Any, at: str) -> None:
    _check_number(value, at)
    if value < 0:
        raise ConstraintError(f"{at}: {shown(value)}; expected a temperature of at least 0")


def _object_of(check: Callable[[Any, str], None], form: str) -> Callable[[Any, str], None]:
    """A check of objects whose values `check` takes."""

    def check_object(value: Any, at: str) -> None:
        if not isinstance(value, dict):
            raise ConstraintError(f"{at}: {shown(value)}; expected {form}")
        for key, item in value.items():
            check(item, f"{at}: {key}")

    return check_object


def _check_bias(value: Any, at: str) -> None:
    _object_of(_check_number, 'letters with numbers, as in {"W": -1.5}')(value, at)
    for letter in value:
        if letter not in _LETTERS:
            raise ConstraintError(
                f"{at}: {letter!r} is no residue; expected a letter of {ALPHABET}"
            )


def _check_tied(value: Any, at: str) -> None:
    if not isinstance(value, list):
        raise ConstraintError(f'{at}: {shown(value)}; expected a list, as in ["A1-20,B1-20"]')
    for n, group in enumerate(value, start=1):
        if isinstance(group, dict):
            form = 'residues with weights, as in {"A5": 1, "B5": -0.5}'
            _object_of(_check_number, form)(group, f"{at}: group {n}")
        else:
            _check_texts(group, f"{at}: group {n}")


_PSSM: dict[str, Callable[[Any, str], None]] = {
    "file": _check_texts,
    "chains": lambda value, at: None,  # as a file of PSSMs, below
    "multiplier": _check_share,
    "threshold": _check_number,
    "log_odds": _check_bool,
}


def _check_pssm(value: Any, at: str) -> None:
    if not isinstance(value, dict) or ("file" in value) == ("chains" in value):
        raise ConstraintError(f"{at}: {shown(value)}; expected an object with file or chains")
    for key, item in value.items():
        if key not in _PSSM:
            raise ConstraintError(f"{at}: {key!r} is no key; expected {', '.join(_PSSM)}")
        _PSSM[key](item, f"{at}: {key}")
    if "file" in value and not isinstance(value["file"], str):
        raise ConstraintError(f"{at}: file: {shown(value['file'])}; expected a path")
    if "chains" in value:
        constraint_file(Path(at), [Line(1, {"chains": value["chains"]})], "pssm")


_check_letters_at = _object_of(_check_letters, 'selections with letters, as in {"A10-20": "CP"}')
_check_bias_at = _object_of(
    _check_bias, 'selections with letters and numbers, as in {"A10-20": {"K": 0.5}}'
)
_check_temperature_at = _object_of(
    _check_temperature, 'selections with temperatures, as in {"surface": 0.3}'
)

_KEYS: dict[str, Callable[[Any, str], None]] = {
    "chains": _check_texts,
    "redesigned": _check_texts,
    "fixed": _check_texts,
    "omit": _check_letters,
    "omit_at": _check_letters_at,
    "bias": _check_bias,
    "bias_at": _check_bias_at,
    "tied": _check_tied,
    "tied_chains": _check_texts,
    "pssm": _check_pssm,
    "temperature_at": _check_temperature_at,
}


# Arguments of Constraints, for a structure.


def _rows(structure: Structure, selection: Any, at: str) -> list[int]:
    try:
        return rows(structure, selection)
    except ConstraintError as error:
        raise ConstraintError(f"{at}: {structure.name}: {error}") from None


def _fields(entry: Mapping[str, Any], structure: Structure, at: str, path: Path) -> dict[str, Any]:
    """An entry as arguments of Constraints."""
    fields: dict[str, Any] = {
        key: _rows(structure, entry[key], f"{at}: {key}")
        for key in ("redesigned", "fixed")
        if key in entry
    }
    for key in ("omit", "bias"):
        if key in entry:
            fields[key] = ",".join(entry[key]) if key == "omit" else dict(entry[key])
    if "chains" in entry:
        fields["chains"] = _texts(entry["chains"])
        _named(structure, f"{at}: chains", chains=fields["chains"])
    if "omit_at" in entry:
        omit_at: dict[int, str] = {}
        for selection, letters in entry["omit_at"].items():
            for row in _rows(structure, selection, f"{at}: omit_at"):
                omit_at[row] = ",".join([*filter(None, [omit_at.get(row)]), *letters])
        fields["omit_at"] = {row: letters for row, letters in omit_at.items() if letters}
    if "bias_at" in entry:
        bias = np.zeros((len(structure), len(ALPHABET)), np.float32)
        for selection, values in entry["bias_at"].items():
            chosen = _rows(structure, selection, f"{at}: bias_at")
            for letter, value in values.items():
                bias[chosen, ALPHABET.index(letter)] += value
        fields["bias_at"] = bias
    if "temperature_at" in entry:
        fields["temperature_at"] = {
            row: value
            for selection, value in entry["temperature_at"].items()
            for row in _rows(structure, selection, f"{at}: temperature_at")
        }
    if "tied" in entry:
        fields["tied"] = entry["tied"]
        _named(structure, f"{at}: tied", tied=entry["tied"])
    if "tied_chains" in entry:
        fields["tied_chains"] = entry["tied_chains"]
        _named(structure, f"{at}: tied_chains", tied_chains=entry["tied_chains"])
    if "pssm" in entry:
        fields |= _pssm(entry["pssm"], structure, f"{at}: pssm", path)
    return fields


def _texts(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ",".join(value)


def _named(structure: Structure, at: str, **stated: Any) -> None:
    """Raise ConstraintError with the place where what is stated does not fit the structure."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come when the constraints are used
            constraints = Constraints(**stated)
            constraints.design_chains(structure)
            constraints.groups(structure)
    except ConstraintError as error:
        raise ConstraintError(f"{at}: {error}") from None


def _pssm(entry: Mapping[str, Any], structure: Structure, at: str, path: Path) -> dict[str, Any]:
    use = PSSMUse(
        multiplier=entry.get("multiplier", 1.0),
        threshold=entry.get("threshold", 0.0),
        log_odds=entry.get("log_odds", False),
        bias=True,
    )
    if "file" in entry:
        lines = read_json_lines(path.parent / entry["file"])
        file = constraint_file(path.parent / entry["file"], lines, "pssm")
    else:
        file = ConstraintFile(Path(at), "pssm", {"": entry["chains"]}, {"": 1})
    return file.fields(structure, pssm=use)
