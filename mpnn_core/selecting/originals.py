"""The originals' files of constraints, in JSON: read whole, and resolved for a structure.

ProteinMPNN's JSONL files have one entry per structure name, with positions that count from 1 in
each chain, gaps included. LigandMPNN's JSON files have labels such as "C10", for one structure or,
in the `_multi` form, under the path of each. `read_constraint_file` reads any of them, and
`ConstraintFile.fields` gives what it says of a structure as arguments of `Constraints`, by 0-based
position; `for_structure` adds that to constraints.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpnn_core.constants import ALPHABET
from mpnn_core.sampling.constraints import PSSM
from mpnn_core.sampling.labels import ConstraintError, ConstraintWarning, positions
from mpnn_core.selecting.json_files import Line, is_number, read_json_lines, shown, shown_names
from mpnn_core.selecting.sources import Part, Source
from mpnn_core.selecting.sources import PSSMUse as PSSMUse
from mpnn_core.selecting.sources import with_files as with_files
from mpnn_core.structures.containers import structure_name
from mpnn_core.structures.structure import Structure, shown_chain

NO_LIMIT = 10_000.0
"""The log-odds of residues of which a PSSM says nothing, as in the original."""

LETTERS = set(ALPHABET)

BY_STRUCTURE = (
    "chain_ids", "fixed_positions", "omit_positions", "bias_by_residue", "tied_positions", "pssm",
    "fixed_residues", "redesigned_residues", "omit_residues", "bias_residues",
)  # fmt: skip
FOR_ALL = ("bias",)
KINDS = (*FOR_ALL, *BY_STRUCTURE)
"""Kinds of files: ProteinMPNN's bias_AA_jsonl, chain_id_jsonl, fixed_positions_jsonl,
omit_AA_jsonl, bias_by_res_jsonl, tied_positions_jsonl, pssm_jsonl; LigandMPNN's fixed_residues,
redesigned_residues, omit_AA_per_residue and bias_AA_per_residue, with `_multi` and without."""

_EXPECTED = {
    "bias": '{"A": -1.1, "F": 0.7}',
    "chain_ids": '{"NAME": [["A"], ["B"]]}, the chains to design and those to keep',
    "fixed_positions": '{"NAME": {"A": [1, 2, 3]}}',
    "omit_positions": '{"NAME": {"A": [[[1, 2], "GPL"]]}}',
    "bias_by_residue": '{"NAME": {"A": [[21 numbers], ...]}}, a row for each position',
    "tied_positions": '{"NAME": [{"A": [1], "B": [1]}]}, or with weights [[1], [0.5]]',
    "pssm": '{"NAME": {"A": {"pssm_coef": ..., "pssm_bias": ..., "pssm_log_odds": ...}}}',
    "fixed_residues": '{"PATH": "A12 A13 B2"}',
    "redesigned_residues": '{"PATH": "A12 A13 B2"}',
    "omit_residues": '{"PATH": {"A12": "GPL"}}, or {"A12": "GPL"} for one structure',
    "bias_residues": '{"PATH": {"A12": {"G": -0.3}}}, or {"A12": {"G": -0.3}} for one structure',
}


@dataclass(frozen=True)
class ChainPositions:
    """The rows of each chain by the originals' positions, 1 to n, gaps included.

    A position is the distance in `residue_index` from the first row of the chain: the numbers that
    a chain leaves out count. Where gaps have rows of their own, it is the row.
    """

    rows: Mapping[str, NDArray[np.int64]]
    """Chain -> (n,) rows of the structure, -1 where the chain has a gap."""

    @classmethod
    def of(cls, structure: Structure) -> ChainPositions:
        """Those of a structure."""
        rows: dict[str, NDArray[np.int64]] = {}
        for chain in structure.chains:
            of_chain = np.flatnonzero(structure.chain_ids == chain)
            index = structure.residue_index[of_chain]
            at = index - index.min()
            # Numbers that jump about say nothing of gaps: then residues count, in their order.
            if len(set(at.tolist())) < len(at) or at.max() >= _MOST_POSITIONS:
                at = np.arange(len(of_chain))
            rows[chain] = np.full(int(at.max()) + 1, -1)
            rows[chain][at] = of_chain
        return cls(rows)


_MOST_POSITIONS = 1_000_000


@dataclass(frozen=True, eq=False)
class ConstraintFile(Source):
    """One of the originals' files, checked as far as that is possible without a structure.

    Attributes
    ----------
    path : the file
    kind : one of `KINDS`
    entries : name or path of a structure -> what is said of it; "" for all structures
    lines : the line of each entry
    superseded : names that only earlier lines have, which do not count
    """

    path: Path
    kind: str
    entries: Mapping[str, Any]
    lines: Mapping[str, int]
    superseded: frozenset[str] = frozenset()

    def key(self, structure: Structure, path: str | None = None) -> str:
        """The key of the entry for a structure: its path, its name, or a path with its name.

        Raises
        ------
        ConstraintError
            There is none, or more than one.
        """
        for key in ("", path, structure.name):
            if key is not None and key in self.entries:
                return key
        keys = [key for key in self.entries if structure_name(key) == structure.name]
        if len(keys) == 1:
            return keys[0]
        if keys:
            raise ConstraintError(
                f"{self.path}: {structure.name} may be {' or '.join(keys)}; expected one of them"
            )
        only = ": it is on an earlier line, and the last alone counts"
        raise ConstraintError(
            f"{self.path}: no entry for {structure.name}"
            f"{only if structure.name in self.superseded else ''}; it has "
            f"{shown_names(self.entries)}"
        )

    def chains(
        self, structure: Structure | str, path: str | None = None
    ) -> tuple[list[str], list[str]]:
        """Of a file of chains, those to design and those to keep, of a structure or its name."""
        if isinstance(structure, str):
            if structure not in self.entries:
                raise ConstraintError(
                    f"{self.path}: no entry for {structure}; it has {shown_names(self.entries)}"
                )
            designed, kept = self.entries[structure]
        else:
            designed, kept = self.entries[self.key(structure, path)]
        return list(designed), list(kept)

    def fields(
        self, structure: Structure, path: str | None = None, pssm: PSSMUse | None = None
    ) -> dict[str, Any]:
        """What the file says of a structure, as arguments of `Constraints`, by 0-based position.

        Parameters
        ----------
        path : the path under which a `_multi` file may have it, as given there; None goes by name
        pssm : how a file of PSSMs counts; None gives them no weight, as the original

        Raises
        ------
        ConstraintError
            The file has no entry for the structure, or names what it does not have: file, line,
            structure, chain and position are named.
        """
        key = self.key(structure, path)
        at = f"{self.path}: line {self.lines[key]}: {key}" if key else str(self.path)
        return _FIELDS[self.kind](self.entries[key], structure, at, pssm or PSSMUse())

    def parts(
        self, structure: Structure, path: str | None = None, pssm: PSSMUse | None = None
    ) -> list[Part]:
        """What the file says of a structure: one part."""
        return [Part(str(self.path), self.fields(structure, path, pssm))]


def read_constraint_file(path: str | os.PathLike[str], kind: str | None = None) -> ConstraintFile:
    """Read one of the originals' files.

    Of several lines the last counts, as in the original, but those of PSSMs are merged.

    Parameters
    ----------
    path : a JSON or JSONL file
    kind : one of `KINDS`; None recognises it by its content

    Raises
    ------
    ConstraintError
        The file cannot be read, or is not of the kind; the message has the line and the key.
    """
    file = Path(path)
    if kind is not None and kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of file; expected one of {', '.join(KINDS)}")
    return constraint_file(file, read_json_lines(file), kind)


def constraint_file(file: Path, lines: list[Line], kind: str | None = None) -> ConstraintFile:
    """The same, of lines that are read already."""
    for line in lines:
        if not isinstance(line.content, dict):
            raise ConstraintError(
                f"{file}: line {line.number}: {shown(line.content)}; expected an object, as in "
                f"{_EXPECTED[kind or 'fixed_positions']}"
            )
    if kind is None:
        kind = recognised(lines[-1].content)
        if kind is None:
            raise ConstraintError(
                f"{file}: line {lines[-1].number}: {shown(lines[-1].content)} is no form of "
                "constraints that is known; expected that of mpnn_core, of ProteinMPNN's JSONL or "
                "of LigandMPNN's JSON"
            )
    counting = lines if kind == "pssm" else lines[-1:]
    entries: dict[str, Any] = {}
    numbers: dict[str, int] = {}
    for number, content in counting:
        for name, entry in _by_structure(kind, content).items():
            at = f"{file}: line {number}" + (f": {name}" if name else "")
            _CHECKS[kind](entry, at)
            entries[name], numbers[name] = entry, number
    earlier = {name for line in lines for name in line.content} - set(entries)
    superseded = frozenset(earlier if kind not in FOR_ALL and "" not in entries else ())
    if superseded:
        warnings.warn(
            f"{file}: the last of {len(lines)} lines counts alone, as in ProteinMPNN; "
            f"{shown_names(sorted(superseded))} of earlier ones does not",
            ConstraintWarning,
            stacklevel=2,
        )
    return ConstraintFile(file, kind, entries, numbers, superseded)


def recognised(content: Mapping[str, Any]) -> str | None:
    """The kind of a file by its content; None where there is no such kind.

    LigandMPNN's fixed and redesigned residues have the same form, which is taken for
    "fixed_residues" here: who reads such a file must be told which it is.
    """
    values = list(content.values())
    if not values:
        return None
    first: Any = next((value for value in values if value), values[0])
    if isinstance(first, int | float):
        return "bias"
    if isinstance(first, str):
        labels = all(any(c.isdigit() for c in key) and "/" not in key for key in content)
        # Letters with no digit are no labels: what is omitted at them.
        omits = all(isinstance(v, str) and set(v.upper()) <= LETTERS for v in values)
        return "omit_residues" if labels and omits and any(values) else "fixed_residues"
    if isinstance(first, list):
        if first and all(isinstance(item, dict) for item in first):
            return "tied_positions"
        return "chain_ids"
    if not isinstance(first, dict):
        return None
    within = [v for entry in values if isinstance(entry, dict) for v in entry.values()]
    inner: Any = next((value for value in within if value), [])
    if isinstance(inner, dict):
        return "pssm" if any(str(key).startswith("pssm_") for key in inner) else "bias_residues"
    if isinstance(inner, int | float):
        return "bias_residues"
    if isinstance(inner, str):
        return "omit_residues"
    if isinstance(inner, list):
        item = inner[0] if inner else 1
        if not isinstance(item, list):
            return "fixed_positions"
        is_omitted = len(item) == 2 and isinstance(item[0], list)
        return "omit_positions" if is_omitted else "bias_by_residue"
    return None


def _by_structure(kind: str, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entries of a file; those that are for all structures have no name."""
    if kind in FOR_ALL:
        return {"": content}
    values = content.values()
    if kind == "omit_residues" and values and all(isinstance(v, str) for v in values):
        return {"": content}
    if kind == "bias_residues" and any(
        isinstance(v, dict) and v and all(isinstance(n, int | float) for n in v.values())
        for v in values
    ):
        return {"": content}
    return content


# Checks of entries, before there is a structure.


def _check_number(value: Any, at: str) -> None:
    if not is_number(value):
        raise ConstraintError(f"{at}: {shown(value)} is no finite number")


def _check_letter(letter: Any, at: str) -> None:
    if letter not in LETTERS:
        raise ConstraintError(f"{at}: {shown(letter)} is no residue; expected one of {ALPHABET}")


def _check_letters(letters: Any, at: str) -> None:
    if not isinstance(letters, str):
        raise ConstraintError(f"{at}: {shown(letters)}; expected letters of residues, such as GPL")
    for letter in letters:
        _check_letter(letter, at)


def _check_ints(values: Any, at: str) -> None:
    if not isinstance(values, list):
        raise ConstraintError(
            f"{at}: {shown(values)}; expected a list of positions, such as [1, 2]"
        )
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConstraintError(
                f"{at}: {shown(value)} is no position; expected whole numbers from 1, which count "
                "the residues of the chain, gaps included"
            )


def _object(value: Any, at: str, kind: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConstraintError(f"{at}: {shown(value)}; expected {_EXPECTED[kind]}")
    return value


def _check_bias(entry: Any, at: str) -> None:
    for letter, value in _object(entry, at, "bias").items():
        _check_letter(letter, at)
        _check_number(value, f"{at}: {letter}")


def _check_chain_ids(entry: Any, at: str) -> None:
    right = isinstance(entry, list) and len(entry) == 2 and all(isinstance(c, list) for c in entry)
    if not right or not all(isinstance(chain, str) for chains in entry for chain in chains):
        raise ConstraintError(f"{at}: {shown(entry)}; expected {_EXPECTED['chain_ids']}")
    both = set(entry[0]) & set(entry[1])
    if both:
        raise ConstraintError(
            f"{at}: chain {min(both)} is to be designed and to be kept; expected one of them"
        )


def _check_fixed(entry: Any, at: str) -> None:
    for chain, values in _object(entry, at, "fixed_positions").items():
        _check_ints(values, f"{at}: chain {chain}")


def _check_omit(entry: Any, at: str) -> None:
    for chain, items in _object(entry, at, "omit_positions").items():
        where = f"{at}: chain {chain}"
        if not isinstance(items, list):
            raise ConstraintError(
                f"{where}: {shown(items)}; expected {_EXPECTED['omit_positions']}"
            )
        for item in items:
            if not isinstance(item, list) or len(item) != 2:
                raise ConstraintError(
                    f'{where}: {shown(item)}; expected positions and letters, as in [[1, 2], "GPL"]'
                )
            _check_ints(item[0], where)
            _check_letters(item[1], where)


def _check_rows(rows: Any, width: int, at: str, length: int | None = None) -> None:
    """(n, width) numbers; of width 0, (n,)."""
    form = f"{'n' if length is None else length} rows of {width} numbers" if width else "numbers"
    if not isinstance(rows, list) or (length is not None and len(rows) != length):
        got = f"{len(rows)} rows" if isinstance(rows, list) else shown(rows)
        raise ConstraintError(f"{at}: {got}; expected {form}")
    for n, row in enumerate(rows, start=1):
        if not width:
            _check_number(row, f"{at}: position {n}")
            continue
        if not isinstance(row, list) or len(row) != width:
            got = f"{len(row)} numbers" if isinstance(row, list) else shown(row)
            raise ConstraintError(
                f"{at}: position {n}: {got}; expected {width} numbers, in the order {ALPHABET}"
            )
        for value in row:
            _check_number(value, f"{at}: position {n}")


def _check_bias_rows(entry: Any, at: str) -> None:
    for chain, rows in _object(entry, at, "bias_by_residue").items():
        _check_rows(rows, len(ALPHABET), f"{at}: chain {chain}")


def _check_tied(entry: Any, at: str) -> None:
    if not isinstance(entry, list):
        raise ConstraintError(f"{at}: {shown(entry)}; expected {_EXPECTED['tied_positions']}")
    for n, group in enumerate(entry, start=1):
        where = f"{at}: group {n}"
        for chain, values in _object(group, where, "tied_positions").items():
            of_chain = f"{where}: chain {chain}"
            if isinstance(values, list) and values and isinstance(values[0], list):
                if len(values) != 2 or not isinstance(values[1], list):
                    raise ConstraintError(
                        f"{of_chain}: {shown(values)}; expected positions and weights, as in "
                        "[[1], [0.5]]"
                    )
                _check_ints(values[0], of_chain)
                _check_rows(values[1], 0, of_chain)
                if len(values[0]) != len(values[1]):
                    raise ConstraintError(
                        f"{of_chain}: {len(values[0])} positions and {len(values[1])} weights; "
                        "expected as many"
                    )
            else:
                _check_ints(values, of_chain)


_PSSM_KEYS = {"pssm_coef": 0, "pssm_bias": len(ALPHABET), "pssm_log_odds": len(ALPHABET)}


def _check_pssm(entry: Any, at: str) -> None:
    for chain, profile in _object(entry, at, "pssm").items():
        where = f"{at}: chain {chain}"
        if not profile:  # of a chain that is not designed
            continue
        if set(_object(profile, where, "pssm")) != set(_PSSM_KEYS):
            raise ConstraintError(
                f"{where}: it has {shown_names(profile)}; expected {', '.join(_PSSM_KEYS)}"
            )
        for key, width in _PSSM_KEYS.items():
            _check_rows(profile[key], width, f"{where}: {key}")


def _check_labels(entry: Any, at: str) -> None:
    if not isinstance(entry, str):
        raise ConstraintError(f"{at}: {shown(entry)}; expected labels of residues: A12 A13 B2")


def _check_omit_residues(entry: Any, at: str) -> None:
    for label, letters in _object(entry, at, "omit_residues").items():
        _check_letters(letters, f"{at}: {label}")


def _check_bias_residues(entry: Any, at: str) -> None:
    for label, values in _object(entry, at, "bias_residues").items():
        for letter, value in _object(values, f"{at}: {label}", "bias_residues").items():
            _check_letter(letter, f"{at}: {label}")
            _check_number(value, f"{at}: {label}: {letter}")


_CHECKS: dict[str, Callable[[Any, str], None]] = {
    "bias": _check_bias,
    "chain_ids": _check_chain_ids,
    "fixed_positions": _check_fixed,
    "omit_positions": _check_omit,
    "bias_by_residue": _check_bias_rows,
    "tied_positions": _check_tied,
    "pssm": _check_pssm,
    "fixed_residues": _check_labels,
    "redesigned_residues": _check_labels,
    "omit_residues": _check_omit_residues,
    "bias_residues": _check_bias_residues,
}


# Arguments of Constraints, for a structure.


def _rows_at(
    structure: Structure,
    rows: Mapping[str, NDArray[np.int64]],
    chain: str,
    at: str,
    values: list[int],
) -> list[int]:
    """The rows of positions of a chain; a gap has none."""
    of_chain = _chain(structure, rows, chain, at)
    for value in values:
        if value > len(of_chain):
            raise ConstraintError(
                f"{at}: position {value} of chain {chain}; it has positions 1 to {len(of_chain)} "
                f"in {structure.name}, gaps included"
            )
    return [int(of_chain[value - 1]) for value in values if of_chain[value - 1] >= 0]


def _chain(
    structure: Structure, rows: Mapping[str, NDArray[np.int64]], chain: str, at: str
) -> NDArray[np.int64]:
    if chain not in rows:
        raise ConstraintError(
            f"{at}: {structure.name} has no chain {chain!r}; it has "
            f"{', '.join(map(shown_chain, rows))}"
        )
    return rows[chain]


def _chains_fields(entry: Any, structure: Structure, at: str, _: PSSMUse) -> dict[str, Any]:
    rows = dict.fromkeys(structure.chains, np.empty(0, np.int64))
    for chain in entry[0]:
        _chain(structure, rows, chain, at)
    absent = [chain for chain in entry[1] if chain not in rows]
    if absent:  # the originals read nucleic acids as chains of unknown residues
        warnings.warn(
            f"{at}: chain {', '.join(map(shown_chain, absent))} is to be kept, and "
            f"{structure.name} has no protein there; it has {', '.join(map(shown_chain, rows))}",
            ConstraintWarning,
            stacklevel=2,
        )
    unsaid = [chain for chain in structure.chains if chain not in {*entry[0], *entry[1]}]
    if unsaid:
        warnings.warn(
            f"{at}: chain {', '.join(map(shown_chain, unsaid))} of {structure.name} is neither to "
            "be designed nor to be kept; it is kept, and seen by the network",
            ConstraintWarning,
            stacklevel=2,
        )
    if not entry[0]:
        raise ConstraintError(f"{at}: no chain of {structure.name} is to be designed")
    return {"chains": list(entry[0])}


def _fixed_fields(entry: Any, structure: Structure, at: str, _: PSSMUse) -> dict[str, Any]:
    rows = ChainPositions.of(structure).rows
    return {
        "fixed": [
            row
            for chain, values in entry.items()
            if values
            for row in _rows_at(structure, rows, chain, at, values)
        ]
    }


def _omit_fields(entry: Any, structure: Structure, at: str, _: PSSMUse) -> dict[str, Any]:
    rows = ChainPositions.of(structure).rows
    omit_at: dict[int, str] = {}
    for chain, items in entry.items():
        for values, letters in items:
            for row in _rows_at(structure, rows, chain, at, values):
                omit_at[row] = ",".join([*filter(None, [omit_at.get(row)]), *letters])
    return {"omit_at": {row: letters for row, letters in omit_at.items() if letters}}


def _bias_rows_fields(entry: Any, structure: Structure, at: str, _: PSSMUse) -> dict[str, Any]:
    bias = np.zeros((len(structure), len(ALPHABET)), np.float32)
    for chain, values in entry.items():
        if values:
            of_chain = _whole_chain(structure, chain, f"{at}: chain {chain}", len(values))
            there = of_chain >= 0
            bias[of_chain[there]] = np.asarray(values, np.float32)[there]
    return {"bias_at": bias}


def _whole_chain(structure: Structure, chain: str, at: str, length: int) -> NDArray[np.int64]:
    """The rows of a chain, of which a file has as many as it has positions."""
    of_chain = _chain(structure, ChainPositions.of(structure).rows, chain, at)
    if length != len(of_chain):
        raise ConstraintError(
            f"{at}: {length} rows; {structure.name} needs {len(of_chain)}, one for each position "
            "of the chain, gaps included"
        )
    return of_chain


def _tied_fields(entry: Any, structure: Structure, at: str, _: PSSMUse) -> dict[str, Any]:
    rows = ChainPositions.of(structure).rows
    groups = []
    for n, tied in enumerate(entry, start=1):
        group: dict[int, float] = {}
        for chain, values in tied.items():
            if not values:
                continue
            where, weights = (values[0], values[1]) if isinstance(values[0], list) else (values, [])
            for position, weight in zip(where, weights or [1.0] * len(where), strict=True):
                for row in _rows_at(structure, rows, chain, f"{at}: group {n}", [position]):
                    group[row] = float(weight)
        if group:
            groups.append(group)
    return {"tied": groups}


def _pssm_fields(entry: Any, structure: Structure, at: str, use: PSSMUse) -> dict[str, Any]:
    if not (use.bias or use.log_odds):
        return {}
    shape = (len(structure), len(ALPHABET))
    coefficient = np.zeros(len(structure))
    bias, log_odds = np.zeros(shape), np.full(shape, NO_LIMIT)
    for chain, profile in entry.items():
        if not profile:
            continue
        for key, array in (
            ("pssm_coef", coefficient), ("pssm_bias", bias), ("pssm_log_odds", log_odds)
        ):  # fmt: skip
            where = f"{at}: chain {chain}: {key}"
            of_chain = _whole_chain(structure, chain, where, len(profile[key]))
            there = of_chain >= 0
            array[of_chain[there]] = np.asarray(profile[key], np.float64)[there]
    multiplier = use.multiplier if use.bias else 0.0
    odds = log_odds if use.log_odds else None
    return {"pssm": PSSM(bias, coefficient, multiplier, odds, use.threshold)}


def _labelled(structure: Structure, labels: Iterable[str], at: str) -> list[int]:
    rows: list[int] = []
    for label in labels:
        try:
            rows += positions(structure, label)
        except ConstraintError as error:
            raise ConstraintError(f"{at}: {error}") from None
    return rows


def _kept_fields(entry: str, structure: Structure, at: str, _: PSSMUse) -> dict[str, Any]:
    return {"fixed": _labelled(structure, entry.split(), at)}


def _redesigned_fields(entry: str, structure: Structure, at: str, _: PSSMUse) -> dict[str, Any]:
    return {"redesigned": _labelled(structure, entry.split(), at)} if entry.split() else {}


def _omit_residues_fields(entry: Any, structure: Structure, at: str, _: PSSMUse) -> dict[str, Any]:
    return {
        "omit_at": {
            row: ",".join(letters)
            for label, letters in entry.items()
            if letters
            for row in _labelled(structure, [label], at)
        }
    }


def _bias_residues_fields(entry: Any, structure: Structure, at: str, _: PSSMUse) -> dict[str, Any]:
    bias = np.zeros((len(structure), len(ALPHABET)), np.float32)
    for label, values in entry.items():
        for row in _labelled(structure, [label], at):
            for letter, value in values.items():
                bias[row, ALPHABET.index(letter)] = value
    return {"bias_at": bias}


_FIELDS: dict[str, Callable[[Any, Structure, str, PSSMUse], dict[str, Any]]] = {
    "bias": lambda entry, *_: {"bias": dict(entry)},
    "chain_ids": _chains_fields,
    "fixed_positions": _fixed_fields,
    "omit_positions": _omit_fields,
    "bias_by_residue": _bias_rows_fields,
    "tied_positions": _tied_fields,
    "pssm": _pssm_fields,
    "fixed_residues": _kept_fields,
    "redesigned_residues": _redesigned_fields,
    "omit_residues": _omit_residues_fields,
    "bias_residues": _bias_residues_fields,
}
