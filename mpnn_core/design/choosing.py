"""Which designs of a structure are kept: unique ones, near ones, the best."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from mpnn_core.design.results import Designs


def unique(designs: Sequence[Designs]) -> list[Designs]:
    """The designs without those whose sequence another one has, of which the best score stays.

    `designs` are of one structure, such as those at each temperature; so are those of the
    functions that follow.
    """
    best: dict[str, tuple[float, int, int]] = {}
    for d, of in enumerate(designs):
        for i, sequence in enumerate(of.sequences):
            found = (float(of.scores[i]), d, i)
            best[sequence] = min(best.get(sequence, found), found)
    keep = {(d, i) for _, d, i in best.values()}
    return [of.rows([i for i in range(len(of)) if (d, i) in keep]) for d, of in enumerate(designs)]


def within_mutations(designs: Sequence[Designs], most: int) -> list[Designs]:
    """The designs that differ from the native sequence in at most `most` residues.

    Nothing is drawn anew, and a residue whose native is unknown counts as no difference.
    """
    return [
        of.rows([i for i, design in enumerate(of) if len(design.mutations) <= most])
        for of in designs
    ]


def top(designs: Sequence[Designs], count: int) -> list[Designs]:
    """The `count` designs of the lowest score, best first; of equals, the first stays first.

    Those of one temperature that follow each other come together; temperatures of which none is
    kept come last, without designs.
    """
    ranked = sorted(
        (float(score), d, i) for d, of in enumerate(designs) for i, score in enumerate(of.scores)
    )[:count]
    kept = [
        designs[d].rows([i for _, _, i in group])
        for d, group in groupby(ranked, key=lambda found: found[1])
    ]
    without = set(range(len(designs))) - {d for _, d, _ in ranked}
    return kept + [designs[d].rows([]) for d in sorted(without)]
