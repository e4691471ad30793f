"""What `protein_mpnn_run.py` computes of a structure beside designs: noise and conditionals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mpnn_core.constants import LETTERS
from mpnn_core.design.model import Model
from mpnn_core.sampling.constraints import Constraints
from mpnn_core.structures.structure import Structure

POSITIONS_PER_CALL = 200_000
"""Positions of all orders of one call of the network."""


def noisy(structure: Structure, noise: float, seed: int, copies: int) -> list[Structure]:
    """Copies of a structure, each with its own Gaussian noise on all coordinates.

    Parameters
    ----------
    noise : its standard deviation, Å; 0 gives the structure itself
    """
    if not noise:
        return [structure] * copies
    drawn = np.random.default_rng([seed, 1])
    shape = structure.coords.shape
    return [
        replace(
            structure,
            coords=structure.coords + (noise * drawn.standard_normal(shape)).astype(np.float32),
        )
        for _ in range(copies)
    ]


def conditional_log_probs(
    model: Model,
    structure: Structure,
    designed: NDArray[np.bool_],
    seed: int,
    constraints: Constraints | None = None,
) -> NDArray[np.float32]:
    """Log-probabilities of each residue given all others: (L, 21), 0 where nothing is `designed`.

    Of one random order of the others, the residue is decoded last, so that it knows them all.
    """
    L = len(structure)
    log_probs = np.zeros((L, LETTERS), np.float32)
    order = np.random.default_rng([seed, 2]).permutation(L)
    rows = np.flatnonzero(designed)
    step = max(1, POSITIONS_PER_CALL // L)
    for start in range(0, len(rows), step):
        last = rows[start : start + step]
        orders = np.stack([np.append(order[order != i], i) for i in last])
        given = model.log_probs(structure, None, orders, constraints=constraints)
        log_probs[last] = given[np.arange(len(last)), last]
    return log_probs
