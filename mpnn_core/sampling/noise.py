"""Random numbers, keyed by seed, sequence and position.

Never by step, batch or device: a sequence is the same whatever is designed beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# What the random numbers are for: each use has its own stream of them.
ORDER, RESIDUE, COLOUR = 0, 1, 2


def order_noise(seed: int, sequence: int, length: int) -> np.ndarray:
    """|z| of a standard normal z per position, for the decoding order: (length,) float64."""
    return half_normal(torch.from_numpy(_philox(seed, sequence, ORDER, length))).numpy()


def residue_noise(seed: int, sequence: int, length: int) -> np.ndarray:
    """The uniform number in [0, 1) that draws each position's residue: (length,) float64."""
    return _philox(seed, sequence, RESIDUE, length)


def half_normal(uniform: Tensor) -> Tensor:
    """|z| of a standard normal z, from uniform numbers in [0, 1)."""
    return torch.erfinv(uniform) * 2**0.5


def uniform_numbers(
    seed: int, stream: int, sequences: Sequence[int], lengths: Sequence[int]
) -> np.ndarray:
    """The uniform numbers in [0, 1) of many sequences, end to end: (sum of lengths,) float64.

    `Backend.uniforms` draws the same bits on a device.
    """
    longest: dict[int, int] = {}
    for i, L in zip(sequences, lengths, strict=True):
        longest[i] = max(L, longest.get(i, 0))
    # Keyed by position, so a shorter sequence has the first numbers of a longer one.
    drawn = {i: _philox(seed, i, stream, L) for i, L in longest.items()}
    return np.concatenate([drawn[i][:L] for i, L in zip(sequences, lengths, strict=True)])


def _philox(seed: int, sequence: int, stream: int, length: int) -> np.ndarray:
    """The uniform numbers in [0, 1) of one sequence and use: (length,) float64."""
    # Philox is a counter-based generator: the key names the sequence, the counter the position.
    counter = np.array([0, 0, 0, stream], dtype=np.uint64)
    key = np.array([seed, sequence], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key)).random(length)
