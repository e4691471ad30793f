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

from itertools import pairwise

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


def ranks(decoding_order: np.ndarray) -> np.ndarray:
    """When each position is decoded, from which is decoded when: the inverse permutation."""
    rank = np.empty_like(decoding_order)
    np.put_along_axis(rank, decoding_order, np.arange(decoding_order.shape[-1]), -1)
    return rank


def sequential(rank: Tensor, starts: tuple[int, ...]) -> list[Tensor]:
    """Steps of one row per sequence, in decoding order.

    Parameters
    ----------
    rank : (M,) int64, when each row is decoded; comparable within a sequence
    starts : first row of every sequence, and M at the end

    Returns
    -------
    Row indices (n_t,) of each step; sequences that have ended take no part.
    """
    step = torch.empty_like(rank)
    for first, last in pairwise(starts):
        step[first:last] = rank[first:last].argsort().argsort()
    return group(step)


def wavefront(rank: Tensor, neighbours: Tensor) -> list[Tensor]:
    """Steps of all rows of one level: the fewest steps that keep every dependency.

    level(i) = 1 + the largest level of a neighbour that is decoded before i; 0 if there is none.
    What a row reads of a neighbour decoded later is constant (`network.py`, identity 4), so reads
    and writes within a level cannot meet.

    Parameters
    ----------
    rank : (M,) int64, when each row is decoded; comparable within a sequence
    neighbours : (M, K) int64, rows of the same sequence
    """
    before = rank[neighbours] < rank[:, None]  # (M, K)
    level = torch.zeros_like(rank)
    while True:
        deeper = torch.where(before, level[neighbours] + 1, 0).amax(1)
        if torch.equal(deeper, level):
            return group(level)
        level = deeper


def group(step: Tensor) -> list[Tensor]:
    """Rows by the step (M,) that decodes them, first step first."""
    _, counts = step.unique(return_counts=True)
    return list(step.argsort(stable=True).split(counts.tolist()))
