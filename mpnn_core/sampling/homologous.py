"""Which residues of the chains of a homo-oligomer correspond, by alignment of their sequences.

Biopython aligns; it is an optional dependency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mpnn_core.sampling.labels import label
from mpnn_core.structures.structure import Structure, shown_items

# Chains correspond if so many residues are aligned, of so many kinds, and such a share is equal.
LEAST_ALIGNED, LEAST_KINDS, LEAST_EQUAL = 10, 5, 0.9
# Of residues of equal number, if a smaller share is equal, numbers do not say what corresponds.
EQUAL_BY_NUMBER = 0.5
# As BLAST's scores of proteins, but that a residue is like itself alone.
MATCH, MISMATCH, OPEN_GAP, EXTEND_GAP = 5.0, -4.0, -11.0, -1.0

HOW_TO_INSTALL = "pip install 'mpnn-core[align]'"


class NoAlignerError(Exception):
    """Biopython is not installed."""


def equal_share(structure: Structure, groups: Sequence[Sequence[int]]) -> float:
    """The share of residues that are that of the first member of their group; X counts for any. 1
    where they are too few to tell anything."""
    letters = structure.sequence
    pairs = [(letters[group[0]], letters[i]) for group in groups for i in group[1:]]
    equal = sum(a == b or "X" in (a, b) for a, b in pairs)
    return equal / len(pairs) if len(pairs) >= LEAST_ALIGNED else 1.0


def aligned(structure: Structure, chains: Mapping[str, list[int]]) -> list[list[int]] | None:
    """Groups of the residues of chains that correspond, each beginning with one of the first chain.

    None if the chains are not alike. A residue that corresponds to none is in no group.

    Raises
    ------
    NoAlignerError
        Biopython is not installed.
    """
    first, *others = chains.values()
    groups = {i: [i] for i in first}
    for other in others:
        pairs = _pairs(structure, first, other)
        kinds = {structure.sequence[i] for i, _ in pairs} - {"X"}
        if len(pairs) < max(LEAST_ALIGNED, min(len(first), len(other)) / 2):
            return None
        if len(kinds) < LEAST_KINDS or equal_share(structure, pairs) < LEAST_EQUAL:
            return None
        for i, j in pairs:
            groups[i].append(j)
    return [group for group in groups.values() if len(group) > 1]


def said_of(
    structure: Structure, chains: Mapping[str, list[int]], groups: Sequence[Sequence[int]]
) -> str:
    """What is tied by an alignment, range by range, and what is left out."""
    _, *others = chains.values()
    ranges = []
    for other in others:
        members = set(other)
        pairs = [(group[0], i) for group in groups for i in group[1:] if i in members]
        run: list[tuple[int, int]] = []
        for pair in pairs:
            if run and pair != (run[-1][0] + 1, run[-1][1] + 1):
                ranges.append(_range(structure, run))
                run = []
            run.append(pair)
        ranges += [_range(structure, run)] if run else []
    tied = {i for group in groups for i in group}
    alone = [label(structure, i) for rows in chains.values() for i in rows if i not in tied]
    left = f"; left out: {shown_items(alone)}" if alone else ""
    return f"{', '.join(ranges)}{left}"


def _range(structure: Structure, run: list[tuple[int, int]]) -> str:
    """ "A1-A20 with B101-B120"."""
    ends = []
    for side in (0, 1):
        names = [label(structure, pair[side]) for pair in (run[0], run[-1])]
        ends.append("-".join(dict.fromkeys(names)))
    return " with ".join(ends)


def _pairs(structure: Structure, one: list[int], other: list[int]) -> list[tuple[int, int]]:
    """Residues of two chains that an alignment puts in one column, gaps at the ends being free."""
    try:
        from Bio.Align import PairwiseAligner
    except ImportError:
        raise NoAlignerError from None
    aligner: Any = PairwiseAligner()
    aligner.mode = "global"
    aligner.wildcard = "X"
    aligner.match_score, aligner.mismatch_score = MATCH, MISMATCH
    aligner.open_gap_score, aligner.extend_gap_score = OPEN_GAP, EXTEND_GAP
    aligner.end_gap_score = 0.0
    texts = ["".join(structure.sequence[i] for i in rows) for rows in (one, other)]
    blocks = zip(*aligner.align(*texts)[0].aligned, strict=True)
    return [
        (one[a + k], other[b + k])
        for (a, stop), (b, _) in ((map(int, x), map(int, y)) for x, y in blocks)
        for k in range(stop - a)
    ]
