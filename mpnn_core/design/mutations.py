"""How designs differ from the native sequence, and what looks odd in them."""

from __future__ import annotations

import re
from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING

from mpnn_core.constants import AMINO_ACIDS
from mpnn_core.sampling.labels import label, labels
from mpnn_core.structures.structure import Structure

if TYPE_CHECKING:
    from mpnn_core.design.results import Designs

LONG_RUN = 6
"""Equal letters in a row from which on a run is told of."""
_EQUAL = re.compile(rf"(.)\1{{{LONG_RUN - 1},}}")

LARGE_SHARE, FEWEST_LETTERS = 0.35, 20
"""The share of one letter above which it is told of, among at least so many designed residues."""


def mutations(structure: Structure, sequence: str) -> tuple[str, ...]:
    """What differs from the native sequence, as "A12:K>R", in the structure's order.

    Numbers are the author's, with insertion codes. A native residue that is unknown (X) cannot be
    mutated, and is not listed.
    """
    pairs = zip(labels(structure), structure.sequence, sequence, strict=True)
    return tuple(
        f"{named}:{native}>{letter}"
        for named, native, letter in pairs
        if native != letter and native in AMINO_ACIDS
    )


def runs_of_one_residue(designs: Designs, sequence: str) -> list[tuple[int, int]]:
    """(first, last) position of each run of `LONG_RUN` or more equal letters of a chain, of which
    at least one was designed."""
    chains = designs.structure.chain_ids
    found = []
    for equal in _EQUAL.finditer(sequence):
        for _, of_chain in groupby(range(*equal.span()), lambda i: chains[i]):
            run = list(of_chain)
            if len(run) >= LONG_RUN and designs.designed[run].any():
                found.append((run[0], run[-1]))
    return found


def frequent_letter(designs: Designs, sequence: str) -> tuple[str, float] | None:
    """The letter that more than `LARGE_SHARE` of the designed residues have, and its share."""
    letters = [sequence[i] for i in designs.designed.nonzero()[0].tolist()]
    if len(letters) < FEWEST_LETTERS:
        return None
    letter, times = Counter(letters).most_common(1)[0]
    share = times / len(letters)
    return (letter, share) if share > LARGE_SHARE else None


def odd_composition(designs: list[Designs]) -> str:
    """One sentence on runs and frequent letters in designs of one structure; "" if there are none.

    As "2 of 8 designs have a run of one residue (6 or more), such as AAAAAA at A12 to A17; 1 is
    more than 35 % one residue, such as 41 % E".
    """
    structure = designs[0].structure
    count, with_runs, with_letter = 0, 0, 0
    longest, most = "", ("", 0.0)
    for of in designs:
        for sequence in of.sequences:
            count += 1
            runs = runs_of_one_residue(of, sequence)
            with_runs += bool(runs)
            for first, last in runs:
                if last - first + 1 > len(longest.partition(" ")[0]):
                    ends = f"{label(structure, first)} to {label(structure, last)}"
                    longest = f"{sequence[first : last + 1]} at {ends}"
            frequent = frequent_letter(of, sequence)
            if frequent is not None:
                with_letter += 1
                most = max(most, frequent, key=lambda found: found[1])
    said = []
    if with_runs:
        said.append(
            f"{with_runs} of {count} designs have a run of one residue ({LONG_RUN} or more), "
            f"such as {longest}"
        )
    if with_letter:
        said.append(
            f"{with_letter} of {count} designs are more than {LARGE_SHARE:.0%} one residue, "
            f"such as {most[1]:.0%} {most[0]}"
        )
    return "; ".join(said)
