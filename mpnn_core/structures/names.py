"""Names of residues and atoms: which letter a residue has, and which atom is its oxygen."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

from mpnn_core.constants import AMINO_ACIDS, THREE_LETTER_NAMES

# Residue names of force fields, which the wwPDB does not define, or defines as another residue (its
# GLH is a modified glutamine); and the wwPDB's names of residues that have no letter of their own.
_FURTHER_NAMES = {
    "ASH": "D", "ASPH": "D", "GLH": "E", "GLUH": "E", "CYX": "C", "CYM": "C", "CYSH": "C",
    "CYS1": "C", "CYS2": "C", "CSH": "C", "CYH": "C", "LYN": "K", "LYSH": "K", "LYP": "K",
    "LYH": "K", "LSN": "K", "ARN": "R", "ARGN": "R", "TYM": "Y", "CPR": "P", "ILU": "I", "QLN": "Q",
    "HID": "H", "HIE": "H", "HIP": "H", "HSD": "H", "HSP": "H", "HISA": "H", "HISB": "H",
    "HISD": "H", "HISE": "H", "HISH": "H", "HISP": "H", "HIS1": "H", "HIS2": "H",
    "SEC": "C", "PYL": "K", "ASX": "X", "GLX": "X", "UNK": "X",
}  # fmt: skip

_AMBER = (
    *THREE_LETTER_NAMES, "ASH", "GLH", "CYX", "CYM", "LYN", "HID", "HIE", "HIP", "HYP", "ARN",
    "MSE", "SEP", "TPO", "PTR",
)  # fmt: skip
"""The residues to which Amber's force fields give an N or a C in front at an end of a chain."""

TERMINAL_OXYGENS = (
    "O",
    "OT1",
    "OC1",
    "O1",
    "OT",
    "OXT",
    "O'",
    "OT2",
    "OC2",
    "O2",
    "O''",
    "OCT1",
    "OCT2",
    "OC",
    "OTA",
)
"""Names of a carbonyl oxygen, best first: at the end of a chain, force fields and refinement
programs call one of the two equivalent oxygens otherwise."""


@lru_cache(maxsize=1)
def residue_letters() -> dict[str, str]:
    """The letter of every residue name that has one: the wwPDB's by parent, and force fields'."""
    table = (files("mpnn_core") / "data" / "residue_letters.txt").read_text(encoding="ascii")
    letters = {
        name: line[0]
        for line in table.splitlines()
        if not line.startswith("#")
        for name in line[2:].split()
    }
    letters |= _FURTHER_NAMES
    ends = {end + name: letters[name] for end in "NC" for name in _AMBER}
    return ends | letters


def letter_of_four(name: str) -> str | None:
    """The letter of a name of four letters: its own, or that of the first three, as in GLUP."""
    letters = residue_letters()
    return letters.get(name) or letters.get(name[:3].strip())


@lru_cache(maxsize=1)
def own_names() -> frozenset[str]:
    """Names that say nothing but the letter: the twenty, and what force fields call them."""
    letters = residue_letters()
    twenty = {*_AMBER} - {"HYP", "MSE", "SEP", "TPO", "PTR"}
    ends = {end + name for end in "NC" for name in twenty}
    return frozenset(
        n for n in twenty | ends | set(_FURTHER_NAMES) if letters[n] in AMINO_ACIDS
    ) - {"SEC", "PYL"}
