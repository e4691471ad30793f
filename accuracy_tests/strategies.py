"""Hypothesis strategies: backbones of any length, chain layout, gaps and missing residues."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from proteins import protein

from mpnn_core.constants import CHAIN_GAP
from mpnn_core.structures.structure import Structure

POOL = "6EHB"  # 955 real residues; a layout takes a run of them, so distances are a protein's
JITTER = 0.05  # Å, standard deviation: no two layouts share a distance
# Nats that float32 may move a log-probability of a layout by. Seen: 1.2e-4 where sums are blocked
# by another shape, 1.6e-4 between backends. The least that one neighbour slot of another structure
# was seen to move is 1.7e-2.
NOISE, CAUGHT = 5e-4, 1e-2
# The same of real proteins computed together with others, which are better conditioned.
ALONE_OR_TOGETHER = 5e-5


@dataclass(frozen=True)
class Layout:
    """How a backbone is laid out; `build` makes it.

    Attributes
    ----------
    length : residues
    start : the first of them in the pool's protein
    chain_starts : positions where a further chain begins
    gaps : position -> how many residue numbers are missing before it
    missing : positions without a backbone; at least one other is complete
    """

    length: int
    start: int = 0
    chain_starts: tuple[int, ...] = ()
    gaps: tuple[tuple[int, int], ...] = ()
    missing: tuple[int, ...] = ()

    def build(self) -> Structure:
        pool = protein(POOL)
        at = (self.start + np.arange(self.length)) % len(pool)
        noise = np.random.default_rng(self.start).normal(0, JITTER, (self.length, 4, 3))
        coords = pool.coords[at] + noise
        coords[list(self.missing)] = np.nan
        steps = np.ones(self.length, dtype=np.int64)
        steps[0] = 0
        for position, residues in self.gaps:
            steps[position] += residues
        chain = np.zeros(self.length, dtype=np.int64)
        for position in self.chain_starts:
            chain[position:] += 1
            steps[position] += CHAIN_GAP
        return Structure.from_backbone(
            coords,
            "".join(pool.sequence[i] for i in at),
            np.array(list("ABCDEF"))[chain],
            steps.cumsum(),
            name=f"{POOL}[{self.start}:{self.start + self.length}]",
        )


@st.composite
def layouts(draw: st.DrawFn, max_length: int = 256) -> Layout:
    """Backbones of 1 to `max_length` residues."""
    length = draw(st.integers(1, max_length))
    inner = st.integers(1, max(1, length - 1))
    few = min(length - 1, 3)
    missing = draw(st.sets(st.integers(0, length - 1), max_size=min(length - 1, 8)))
    return Layout(
        length,
        start=draw(st.integers(0, 900)),
        chain_starts=tuple(sorted(draw(st.sets(inner, max_size=few)))),
        gaps=tuple(sorted(draw(st.dictionaries(inner, st.integers(1, 40), max_size=few)).items())),
        missing=tuple(sorted(missing)),
    )
