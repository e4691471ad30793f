"""Rosetta's resfiles: which amino acids each residue may be.

A line is a residue (`12 A PIKAA FYW`, `12B A NATAA`), a range (`10 - 20 A NOTAA C`) or a chain
(`* A POLAR`), with commands after it; the lines before `start` are the default of all other
residues. Where more than one speaks of a residue, the residue counts before the range, the range
before the chain. Commands on rotamers (EX, USE_INPUT_SC) say nothing of sequences and are passed
over; those that this does not know are refused.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from mpnn_core.constants import AMINO_ACIDS
from mpnn_core.sampling.labels import ConstraintError, label, positions
from mpnn_core.selecting.json_files import read_text
from mpnn_core.structures.structure import Structure

LARGEST = 1 << 26
"""Bytes of a file."""

SETS = {
    "ALLAA": AMINO_ACIDS,
    "ALLAAWC": AMINO_ACIDS,
    "ALLAAXC": AMINO_ACIDS.replace("C", ""),
    "POLAR": "DEHKNQRST",
    "APOLAR": "ACFGILMPVWY",
}
"""Commands -> the amino acids that they leave, as in Rosetta."""

NATIVE = ("NATRO", "NATAA")
"""The residue keeps its amino acid, with its rotamer or without."""

LISTS = ("PIKAA", "NOTAA")
"""The letters after it alone, or all others."""

ROTAMERS = {"USE_INPUT_SC": 0, "EX_CUTOFF": 1}
"""Commands that say nothing of sequences -> how many words follow."""

_NUMBER = re.compile(r"-?\d+[A-Za-z]?")


class _Rule(NamedTuple):
    """What commands allow: the native residue alone, or some amino acids."""

    native: bool
    letters: frozenset[str]


class _Line(NamedTuple):
    number: int
    words: list[str]


def resfile_fields(path: str | os.PathLike[str], structure: Structure) -> dict[str, Any]:
    """What a resfile says of a structure, as the arguments `fixed` and `omit_at` of `Constraints`.

    Raises
    ------
    ConstraintError
        It cannot be read, or names a residue or chain that the structure does not have, or the same
        one twice; the message has the line.
    """
    file = Path(path)
    header, body = _divided(file)
    default = _Rule(False, frozenset(AMINO_ACIDS))
    words = [word for line in header for word in line.words]
    if words:
        default = _rule(words, f"{file}: line {header[0].number}")
    rules: list[dict[int, _Rule]] = [{}, {}, {}]  # of chains, ranges and residues
    for line in body:
        at = f"{file}: line {line.number}"
        rank, rows, commands = _residues(line.words, structure, at)
        rule = _rule(commands, at)
        for row in rows:
            if row in rules[rank]:
                raise ConstraintError(
                    f"{at}: {label(structure, row)} has a line of this kind already; expected one"
                )
            rules[rank][row] = rule
    fixed: list[int] = []
    omit_at: dict[int, str] = {}
    for row in range(len(structure)):
        rule = next((of[row] for of in reversed(rules) if row in of), default)
        if rule.native:
            fixed.append(row)
        elif len(rule.letters) < len(AMINO_ACIDS):
            omit_at[row] = ",".join(a for a in AMINO_ACIDS if a not in rule.letters)
    return {"fixed": fixed, "omit_at": omit_at}


def _divided(file: Path) -> tuple[list[_Line], list[_Line]]:
    """The lines before `start` and after it, without comments."""
    lines = []
    for number, text in enumerate(read_text(file, LARGEST).splitlines(), start=1):
        words = text.partition("#")[0].split()
        if words:
            lines.append(_Line(number, words))
    starts = [n for n, line in enumerate(lines) if [w.lower() for w in line.words] == ["start"]]
    if not starts:
        raise ConstraintError(
            f"{file}: no line 'start' between the default and the residues; expected a resfile"
        )
    return lines[: starts[0]], lines[starts[0] + 1 :]


def _residues(words: list[str], structure: Structure, at: str) -> tuple[int, list[int], list[str]]:
    """How narrow a line is (0 chain, 1 range, 2 residue), its positions, and its commands."""
    forms = "expected 12 A, 10 - 20 A or * A, and commands"
    if words[0] == "*" and len(words) > 1:
        chain, commands = words[1], words[2:]
        named = "" if chain == "_" else chain
        rows = [i for i, c in enumerate(structure.chain_ids.tolist()) if c.strip() == named]
        if not rows:
            there = ", ".join(chain.strip() or "_" for chain in structure.chains)
            raise ConstraintError(f"{at}: {structure.name} has no chain {chain}; it has {there}")
        return 0, rows, commands
    if len(words) > 3 and words[1] == "-":
        first, last, chain, commands = words[0], words[2], words[3], words[4:]
        numbers = [first, last]
    elif len(words) > 1:
        first, last, chain, commands = words[0], "", words[1], words[2:]
        numbers = [first]
    else:
        raise ConstraintError(f"{at}: {' '.join(words)!r}; {forms}")
    for number in numbers:
        if not _NUMBER.fullmatch(number):
            raise ConstraintError(f"{at}: {number!r} is no residue number; {forms}")
    named = "" if chain == "_" else chain
    try:
        rows = positions(structure, f"{named}:{first}" + (f"-{last}" if last else ""))
    except ConstraintError as error:
        raise ConstraintError(f"{at}: {error}") from None
    return (1 if last else 2), rows, commands


def _rule(words: list[str], at: str) -> _Rule:
    """What commands allow together."""
    left = list(words)
    letters, native, spoken = set(AMINO_ACIDS), False, False
    while left:
        command = left.pop(0).upper()
        spoken = True
        if command in NATIVE:
            native = True
        elif command in SETS:
            letters &= set(SETS[command])
        elif command in LISTS:
            letters = _listed(command, left, letters, at)
        elif command == "EX":
            _pass_over_ex(left)
        elif command in ROTAMERS:
            del left[: ROTAMERS[command]]
        else:
            known = ", ".join([*NATIVE, *SETS, *LISTS])
            raise ConstraintError(f"{at}: {command!r} is no command that is read; expected {known}")
    if not spoken:
        raise ConstraintError(f"{at}: no command; expected one, such as NATAA")
    if not native and not letters:
        raise ConstraintError(f"{at}: {' '.join(words)} leaves no amino acid")
    return _Rule(native, frozenset(letters))


def _listed(command: str, left: list[str], letters: set[str], at: str) -> set[str]:
    if not left:
        raise ConstraintError(f"{at}: {command} names no amino acid; expected letters, as in FYW")
    named = left.pop(0).upper()
    wrong = [letter for letter in named if letter not in AMINO_ACIDS]
    if wrong:
        raise ConstraintError(
            f"{at}: {command} {named}: {wrong[0]!r} is no amino acid; expected letters of "
            f"{AMINO_ACIDS}"
        )
    return letters & set(named) if command == "PIKAA" else letters - set(named)


def _pass_over_ex(left: list[str]) -> None:
    """EX [ARO] n [LEVEL n]."""
    if left and left[0].upper() == "ARO":
        left.pop(0)
    if left and left[0].isdigit():
        left.pop(0)
    if left and left[0].upper() == "LEVEL":
        del left[:2]
