"""Residues and chains as a person names them, and the positions of a structure that are meant.

A label is a chain and an author number, "A52" or "A52B" with an insertion code; "A10-20" is a
range. Between the two a colon may stand, "A:52", and must where chains such as A and A1 leave it
open which residue "A12" is. A blank chain id is left out: "52" or ":52".
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from mpnn_core.structures.structure import Structure, shown_chain

Positions = int | str  # a 0-based position, or a label such as "A52", "A:52B", "A10-20"

_NUMBER = re.compile(r"(0|-?[1-9][0-9]{0,17})([A-Za-z]?)")


class ConstraintError(ValueError):
    """A constraint that does not fit its structure; the message names both, and what would fit."""


class ConstraintWarning(UserWarning):
    """A constraint that is met otherwise than one may think; the message says how."""


class Span(NamedTuple):
    """The residues that a label names.

    Attributes
    ----------
    label : as it was given
    positions : 0-based, in the order of the chain
    offsets : of each, the author number less that of the start of the range, and the insertion
        code; where that tells no residues apart, their order
    """

    label: Positions
    positions: list[int]
    offsets: list[tuple[int, str]]


def divided(selection: Positions | Iterable[Positions]) -> list[Positions]:
    """ "A10-20, B7" -> ["A10-20", "B7"]; in a list, each text is divided in the same way."""
    if isinstance(selection, str):
        return [part for part in re.split(r"[,\s]+", selection) if part]
    if isinstance(selection, int | np.integer):
        return [int(selection)]
    return [part for item in selection for part in divided(item)]


def positions(structure: Structure, selection: Positions) -> list[int]:
    """The 0-based positions that an index, a label or a range of labels names.

    Raises
    ------
    ConstraintError
        There is no such position, or the label may mean more than one residue.
    """
    return span(structure, selection).positions


def span(structure: Structure, selection: Positions) -> Span:
    """The same as `positions`, with what tells residues of ranges apart."""
    if isinstance(selection, str):
        return _numbering(structure).span(selection)
    if not 0 <= selection < len(structure):
        raise ConstraintError(
            f"{structure.name} has the positions 0 to {len(structure) - 1}, not {selection}"
        )
    return Span(selection, [int(selection)], [(0, "")])


def label(structure: Structure, position: int) -> str:
    """Chain and author number of a position, such as "A52B"; with a colon where it is needed."""
    return _numbering(structure).label(position)


def labels(structure: Structure) -> list[str]:
    """The label of every position."""
    return _numbering(structure).labels


def chains_named(structure: Structure, chains: str | Sequence[str]) -> list[str]:
    """Chains by id, "A,B" or one by one, in the structure's order."""
    names = split_chains(chains) if isinstance(chains, str) else list(chains)
    known = {chain.strip() for chain in structure.chains}
    absent = [name for name in names if name.strip() not in known]
    if absent:
        several = "; several are joined by commas, as in A,B" if len(known) > 1 else ""
        raise ConstraintError(
            f"{structure.name} has no chain {absent[0]!r}; it has "
            f"{', '.join(map(shown_chain, structure.chains))}{several}"
        )
    wanted = {name.strip() for name in names}
    return [chain for chain in structure.chains if chain.strip() in wanted]


def split_chains(text: str) -> list[str]:
    """ "A, B" -> ["A", "B"], and "A B" the same; " " is one chain, whose id is blank."""
    return re.split(r"\s*,\s*|\s+", text.strip()) if text.strip() else [text]


class _Reading(NamedTuple):
    """One of the things that a label may mean: a residue, or a range of a chain."""

    chain: str
    first: str
    last: str | None

    def __str__(self) -> str:
        return f"{self.chain}:{self.first}" + ("" if self.last is None else f"-{self.last}")


class _Numbering:
    """The labels of a structure, indexed once."""

    def __init__(self, structure: Structure) -> None:
        self.name = structure.name
        self.chains = [chain.strip() for chain in structure.chain_ids.tolist()]
        self.numbers = [number.strip() for number in structure.residue_numbers.tolist()]
        self.residues: dict[tuple[str, str], list[int]] = {}
        self.members: dict[str, list[int]] = {}
        for i, residue in enumerate(zip(self.chains, self.numbers, strict=True)):
            self.residues.setdefault(residue, []).append(i)
            self.members.setdefault(residue[0], []).append(i)
        # Labels that mean one residue, whatever else there is: they come by the thousand as well.
        self.plain: dict[str, int] = {}
        times = Counter(map("".join, self.residues))
        for (chain, number), found in self.residues.items():
            if len(found) == 1 and not {*"-:"} & {*chain, *number}:
                self.plain[f"{chain}:{number}"] = found[0]
                if times[chain + number] == 1:
                    self.plain[chain + number] = found[0]

    @cached_property
    def labels(self) -> list[str]:
        return [self.label(position) for position in range(len(self.chains))]

    def label(self, position: int) -> str:
        chain, number = self.chains[position], self.numbers[position]
        joined = f"{chain}{number}"
        if chain and self.plain.get(joined) == position:
            return joined
        clear = self._readings(joined) == [_Reading(chain, number, None)]
        return joined if chain and clear else f"{chain}:{number}"

    def span(self, text: str) -> Span:
        if text in self.plain:
            return Span(text, [self.plain[text]], [(0, "")])
        readings = {reading: self._positions(reading) for reading in self._readings(text.strip())}
        meant = [r for r in readings if readings[r] or self._runs_backwards(r)]
        if len(meant) > 1:
            raise ConstraintError(
                f"{self.name}: {text!r} may mean {' or '.join(map(str, meant))}; write the one "
                "that is meant, with the colon"
            )
        if not meant or not readings[meant[0]]:
            why = f", for {meant[0].first} comes after {meant[0].last} there" if meant else ""
            raise ConstraintError(
                f"{self.name} has no residue {text!r}{why}; it has {self._extent()}. "
                "Expected chain and number, as in A52, A52B, A:52 or A10-20"
            )
        reading, found = meant[0], readings[meant[0]]
        self._say_what_is_missing(text, reading, found)
        start, _ = _parsed(reading.first) or (0, "")
        numbers = [_parsed(self.numbers[i]) for i in found]
        offsets = [(n[0] - start, n[1]) for n in numbers if n is not None]
        if len(set(offsets)) < len(found):  # what is no number, or comes again
            offsets = [(n, "") for n in range(len(found))]
        return Span(text, found, offsets)

    def _readings(self, text: str) -> list[_Reading]:
        """All that a label may mean. What is divided by a colon is not looked for elsewhere."""
        for split in (self._with_colon, self._joined):
            readings = [_Reading(*end, None) for end in split(text) if end in self.residues]
            for cut, character in enumerate(text):
                if character == "-":
                    for chain, first in split(text[:cut]):
                        last = self._last(chain, text[cut + 1 :])
                        if self._is_number(chain, first) and last is not None:
                            readings.append(_Reading(chain, first, last))
            if readings:
                return readings
        return []

    def _with_colon(self, text: str) -> list[tuple[str, str]]:
        """ "A:52" -> ("A", "52")."""
        cuts = [cut for cut, character in enumerate(text) if character == ":"]
        ends = [(text[:cut].strip(), text[cut + 1 :].strip()) for cut in cuts]
        return [(chain, number) for chain, number in ends if chain in self.members]

    def _joined(self, text: str) -> list[tuple[str, str]]:
        """ "A52" -> ("A", "52"), and ("A5", "2") if there is a chain A5."""
        return [(text[:k], text[k:]) for k in range(len(text)) if text[:k] in self.members]

    def _last(self, chain: str, text: str) -> str | None:
        """The number at the end of a range, "20" in A10-20, A10-A20 and A:10-A:20."""
        for number in (text, text.removeprefix(f"{chain}:"), text.removeprefix(chain)):
            if self._is_number(chain, number):
                return number
        return None

    def _is_number(self, chain: str, text: str) -> bool:
        return (chain, text) in self.residues or _NUMBER.fullmatch(text) is not None

    def _positions(self, reading: _Reading) -> list[int]:
        """The positions of a residue or a range; none if there is no such residue."""
        chain, first, last = reading
        if last is None:
            return [self._only(chain, first)]
        if {(chain, first), (chain, last)} <= self.residues.keys():
            start, end = self._only(chain, first), self._only(chain, last)
            return [i for i in self.members[chain] if start <= i <= end]
        # An end is missing: those of the range that there are, by their numbers.
        low, high = _parsed(first), _parsed(last)
        numbers = {i: _parsed(self.numbers[i]) for i in self.members[chain]}
        return [i for i, n in numbers.items() if n and low and high and low <= n <= high]

    def _only(self, chain: str, number: str) -> int:
        found = self.residues[chain, number]
        if len(found) > 1:
            raise ConstraintError(
                f"{self.name}: {chain + number!r} names more than one residue; in Python, name one "
                f"by its 0-based position: {' or '.join(map(str, found))}"
            )
        return found[0]

    def _runs_backwards(self, reading: _Reading) -> bool:
        ends = [(reading.chain, number) for number in reading[1:] if number is not None]
        places = [self.residues[end][0] for end in ends if end in self.residues]
        return len(places) == 2 and places[0] > places[1]

    def _say_what_is_missing(self, text: str, reading: _Reading, found: list[int]) -> None:
        chain, *ends = reading
        missing = [f"{chain}{n}" for n in ends if n is not None and (chain, n) not in self.residues]
        if missing:
            there = " to ".join(dict.fromkeys(self.label(i) for i in (found[0], found[-1])))
            warnings.warn(
                f"{self.name} has no residue {' and no '.join(missing)}; of {text}, it has {there}",
                ConstraintWarning,
                stacklevel=2,
            )

    def _extent(self) -> str:
        """The first and the last residue of each chain."""
        ends = [(members[0], members[-1]) for members in self.members.values()]
        return ", ".join(f"{self.label(first)} to {self.label(last)}" for first, last in ends)


_NUMBERINGS: WeakKeyDictionary[Structure, _Numbering] = WeakKeyDictionary()


def _numbering(structure: Structure) -> _Numbering:
    numbering = _NUMBERINGS.get(structure)
    if numbering is None:
        numbering = _NUMBERINGS[structure] = _Numbering(structure)
    return numbering


def _parsed(number: str) -> tuple[int, str] | None:
    """ "52A" -> (52, "A"); None for what is no number."""
    match = _NUMBER.fullmatch(number)
    return (int(match[1]), match[2]) if match else None
