"""From a decoding order to the steps that decode it.

A decoding order is everywhere the list of positions in the order in which they are decoded, as in
the original. A step decodes one set of rows at once, rows being the residues of all sequences
together (`encoding.Copies`).

A residue depends on those of its neighbours that are decoded before it, and on nothing else. So the
order is a directed acyclic graph, and all residues of one level of it can be decoded in one step,
with exactly the sequential result: `wavefront`. About 75 levels are enough however long the protein
is. `sequential`, one residue of every sequence per step, is the plain form it is tested against.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Step:
    """Rows (n,) that are decoded together, and rows (d,) whose residues are known thereafter.

    They are the same rows, unless some are tied: a tied residue is drawn once the last of its group
    has been decoded.
    """

    rows: Tensor
    drawn: Tensor


def sequential(rank: Tensor, starts: tuple[int, ...], group: Tensor | None = None) -> list[Step]:
    """Steps of one row per sequence, in decoding order.

    Parameters
    ----------
    rank : (M,) int64, when each row is decoded; comparable within a sequence
    starts : first row of every sequence, and M at the end
    group : (M,) int64, rows of equal number share one residue, -1 for none

    Returns
    -------
    Sequences that have ended take no part in a step.
    """
    step = torch.empty_like(rank)
    for first, last in pairwise(starts):
        step[first:last] = rank[first:last].argsort().argsort()
    return _steps(step, group)


def wavefront(rank: Tensor, neighbours: Tensor, group: Tensor | None = None) -> list[Step]:
    """The fewest steps in which no row waits for another one of the same step.

    The level of a row is one more than the highest level among its neighbours that are decoded
    before it; of a neighbour in another group, than the level of that group's last member. What a
    row reads of a neighbour decoded later is constant (`network/mpnn.py`, identity 4), so reads and
    writes within a level cannot meet.

    Parameters
    ----------
    rank : (M,) int64, when each row is decoded; comparable within a sequence
    neighbours : (M, K) int64, rows of the same sequence
    group : (M,) int64, rows of equal number share one residue, -1 for none
    """
    before = rank[neighbours] < rank[:, None]  # (M, K)
    if group is not None:
        mate = (group[neighbours] == group[:, None]) & (group[:, None] >= 0)  # (M, K)
    level = torch.zeros_like(rank)
    while True:
        known = _last_of_group(level, group)[neighbours]
        if group is not None:
            known = torch.where(mate, level[neighbours], known)
        deeper = torch.where(before, known + 1, 0).amax(1)
        if torch.equal(deeper, level):
            return _steps(level, group)
        level = deeper


def _last_of_group(level: Tensor, group: Tensor | None) -> Tensor:
    """The step (M,) after which a row's residue is known, from the step that decodes it."""
    if group is None:
        return level
    tied = group >= 0
    last = torch.zeros(int(group.max()) + 1, dtype=level.dtype, device=level.device)
    last.scatter_reduce_(0, group[tied], level[tied], "amax")
    return torch.where(tied, last[group.clamp(min=0)], level)


def _steps(level: Tensor, group: Tensor | None) -> list[Step]:
    """Rows by the step (M,) that decodes them, first step first."""
    rows = _by_number(level)
    if group is None:
        return [Step(decoded, decoded) for decoded in rows]
    drawn = _by_number(_last_of_group(level, group), len(rows))
    return [Step(*pair) for pair in zip(rows, drawn, strict=True)]


def _by_number(number: Tensor, count: int = 0) -> list[Tensor]:
    counts = number.bincount(minlength=count)
    return list(number.argsort(stable=True).split(counts.tolist()))
