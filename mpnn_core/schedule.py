"""From a decoding order to the steps that decode it.

A decoding order is everywhere the list of positions in the order in which they are decoded, as in
the original. A step decodes one set of rows at once, rows being the residues of all sequences
together (`network.Copies`). `sequential` takes one residue of every sequence per step.
"""

from __future__ import annotations

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
    for first, last in zip(starts[:-1], starts[1:], strict=True):
        step[first:last] = rank[first:last].argsort().argsort()
    return group(step)


def group(step: Tensor) -> list[Tensor]:
    """Rows by the step (M,) that decodes them, first step first."""
    _, counts = step.unique(return_counts=True)
    return list(step.argsort(stable=True).split(counts.tolist()))
