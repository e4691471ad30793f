"""From a decoding order to the steps that decode it.

A decoding order is everywhere the list of positions in the order in which they are decoded, as in
the original. A step decodes one set of rows at once, rows being the residues of all sequences
together (`network.Copies`).

A residue depends on those of its neighbours that are decoded before it, and on nothing else. So the
order is a directed acyclic graph, and all residues of one level of it can be decoded in one step,
with exactly the sequential result: `wavefront`. About 75 levels are enough however long the protein
is. `sequential`, one residue of every sequence per step, is the plain form it is tested against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, pairwise

import numpy as np
import torch
from torch import Tensor

# Added to the design mask before it multiplies the noise: fixed positions sort first almost always.
FIXED_WEIGHT = 1e-4


def draw_order(noise: np.ndarray, designed: np.ndarray) -> np.ndarray:
    """The original's random order: (L,) positions, those that are not designed mostly first.

    Parameters
    ----------
    noise : (L,) float, absolute values of standard normal draws
    designed : (L,) bool
    """
    return np.argsort((designed + FIXED_WEIGHT) * noise, kind="stable")


def draw_coloured_order(
    noise: np.ndarray,
    colour_noise: np.ndarray,
    designed: np.ndarray,
    linked: Sequence[Sequence[int]],
    group: np.ndarray,
) -> np.ndarray:
    """A random order that few levels decode: (L,) positions, those that are not designed first.

    Positions are coloured greedily in the order of their noise, none like one it is linked to. Then
    the colours follow each other in random order. Those of one colour do not see each other, so one
    level decodes them. This is not the original's distribution over orders (docs/engine.md).

    Parameters
    ----------
    noise : (L,) float, random
    colour_noise : (L,) float, random; what the colours are sorted by
    designed : (L,) bool
    linked, group : `links`
    """
    colour = np.full(len(noise), -1)
    for i in np.argsort(noise, kind="stable").tolist():
        if designed[i] and group[i] == i:
            taken = set(colour[linked[i]].tolist())
            colour[i] = next(c for c in count() if c not in taken)
    # A colour counts from 0; what is not designed comes before all of them.
    key = np.where(designed, colour_noise[colour[group]], -1)
    return np.lexsort((noise, key))


def links(
    neighbours: np.ndarray, length: int, groups: Sequence[Sequence[int]]
) -> tuple[list[list[int]], np.ndarray]:
    """Who must not share a colour with whom; tied positions are one, called by the first of them.

    Parameters
    ----------
    neighbours : (N, 1 + K) int64, positions, each followed by its neighbours
    length : positions
    groups : tied positions

    Returns
    -------
    For every position those that are its neighbours or have it as theirs; and (L,) int64, by which
    position each is called.
    """
    group = np.arange(length)
    for tied in groups:
        group[list(tied)] = tied[0]
    here, there = np.broadcast_arrays(group[neighbours[:, :1]], group[neighbours])
    apart = here != there
    pairs = np.concatenate(
        [here[apart] * length + there[apart], there[apart] * length + here[apart]]
    )
    first, second = np.divmod(np.unique(pairs), length)
    cuts = np.searchsorted(first, np.arange(1, length))
    return [part.tolist() for part in np.split(second, cuts)], group


def ranks(decoding_order: np.ndarray) -> np.ndarray:
    """When each position is decoded, from which is decoded when: the inverse permutation."""
    rank = np.empty_like(decoding_order)
    np.put_along_axis(rank, decoding_order, np.arange(decoding_order.shape[-1]), -1)
    return rank


@dataclass(frozen=True, eq=False)
class Step:
    """Rows (n,) that are decoded together, and rows (d,) whose residues are known thereafter.

    They are the same rows, unless some are tied: a tied residue is drawn once the last of its group
    has been decoded.
    """

    rows: Tensor
    drawn: Tensor


def visit_groups(order: np.ndarray, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """The order (L,) in which tied positions are visited: where the first of a group comes, all do.

    They follow each other in the order in which the group lists them, as in the original.
    """
    group_of = {position: group for group in groups for position in group}
    visited: dict[int, None] = {}
    for position in order.tolist():
        visited.update(dict.fromkeys(group_of.get(position, (position,))))
    return np.fromiter(visited, dtype=np.int64, count=len(visited))


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
    row reads of a neighbour decoded later is constant (`network.py`, identity 4), so reads and
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
        return [Step(found, found) for found in rows]
    drawn = _by_number(_last_of_group(level, group), len(rows))
    return [Step(*pair) for pair in zip(rows, drawn, strict=True)]


def _by_number(number: Tensor, count: int = 0) -> list[Tensor]:
    counts = number.bincount(minlength=count)
    return list(number.argsort(stable=True).split(counts.tolist()))
