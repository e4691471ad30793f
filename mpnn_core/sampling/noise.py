"""Random numbers, keyed by seed, structure, sequence and position.

Never by step, batch or device: a sequence is the same whatever is designed beside it. Two
backbones have independent numbers, however alike they are, so that the chance in each averages out
over many; `COMMON` gives all of them the same numbers on purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from mpnn_core.constants import CA
from mpnn_core.structures.context import ContextAtoms
from mpnn_core.structures.structure import Structure

# What the random numbers are for: each use has its own stream of them.
ORDER, RESIDUE, COLOUR, COORDINATES, SIDE_CHAIN = 0, 1, 2, 3, 4

# The digest of every structure where all have the same random numbers.
COMMON = 0


def digest(structure: Structure) -> int:
    """63 bits that name a structure in the key of its random numbers.

    They are a hash of the backbone that the network is given: which residues are complete, their
    coordinates as float32, which of them share a chain, their offsets within the chain,
    and rings and states where there are any. So no name, no letter and no number of a file enters,
    nor what surrounds the backbone (one with and without its ligand has the same numbers), and
    every machine has the same digest.
    """
    complete = structure.mask
    _, first, chain = np.unique(
        structure.chain_numbers[complete], return_index=True, return_inverse=True
    )
    index = structure.residue_index[complete]
    atoms = [CA] if structure.ca_only else slice(None)
    hashed = blake2b(digest_size=8)
    for values, dtype in (
        (complete, "u1"),
        (structure.coords[complete][:, atoms] + np.float32(0), "<f4"),  # -0 is 0
        (first[chain], "<i8"),
        (index - index[first[chain]], "<i8"),
    ):
        hashed.update(np.ascontiguousarray(values, dtype).tobytes())
    if structure.rings.any():
        hashed.update(np.ascontiguousarray(structure.rings[complete], "<i8").tobytes())
    if structure.states:
        sizes = [int(state.mask.sum()) for state in structure.states]
        hashed.update(np.ascontiguousarray(sizes, "<i8").tobytes())
    return int.from_bytes(hashed.digest(), "little") >> 1


def order_noise(seed: int, sequence: int, length: int, digest: int = COMMON) -> np.ndarray:
    """|z| of a standard normal z per position, for the decoding order: (length,) float64."""
    return half_normal(torch.from_numpy(_philox(seed, digest, sequence, ORDER, length))).numpy()


def residue_noise(seed: int, sequence: int, length: int, digest: int = COMMON) -> np.ndarray:
    """The uniform number in [0, 1) that draws each position's residue: (length,) float64."""
    return _philox(seed, digest, sequence, RESIDUE, length)


def with_noise(
    structure: Structure, sigma: float, seed: int, sequence: int = 0, name: int | None = None
) -> Structure:
    """The same structure with Gaussian noise on every coordinate of its backbone and its context.

    The original's `--backbone_noise`, its `augment_eps`, is drawn at each forward pass, so for each
    sequence. Here it depends on seed, sequence and structure, as all random numbers do.

    Parameters
    ----------
    sigma : Å, the standard deviation
    seed, sequence : what the noise is of
    name : the digest of the structure, where that is known or is to be another one

    Raises
    ------
    ValueError
        `sigma` is negative or no number.
    """
    check_noise(sigma)
    atoms = [structure.context.coords] if not structure.states else []
    atoms += [state.context.coords for state in structure.states]
    sizes = [structure.coords.size, *(values.size for values in atoms)]
    uniform = _philox(
        seed, digest(structure) if name is None else name, sequence, COORDINATES, sum(sizes)
    )
    # In the middle of its step of 2**-53: none is 0 or 1.
    normal = torch.erfinv(torch.from_numpy(2 * uniform - 1 + 2**-53)).numpy() * 2**0.5 * sigma
    parts = np.split(normal, np.cumsum(sizes)[:-1])

    def moved(values: np.ndarray, by: np.ndarray) -> np.ndarray:
        return (values + by.reshape(values.shape)).astype(np.float32)

    def around(of: Structure, by: np.ndarray) -> ContextAtoms:
        return replace(of.context, coords=moved(of.context.coords, by)) if by.size else of.context

    coords = moved(structure.coords, parts[0])
    if not structure.states:
        return replace(structure, coords=coords, context=around(structure, parts[1]))
    cuts = np.cumsum([len(state) for state in structure.states])[:-1]
    states = tuple(
        replace(state, coords=own, context=around(state, by))
        for state, own, by in zip(structure.states, np.split(coords, cuts), parts[1:], strict=True)
    )
    return replace(structure, coords=coords, states=states)


def check_noise(sigma: float) -> None:
    """Raise ValueError unless that is a standard deviation in Å."""
    if not 0 <= sigma < np.inf:
        raise ValueError(f"backbone_noise is {sigma}; expected Å, at least 0, such as 0.02")


def half_normal(uniform: Tensor) -> Tensor:
    """|z| of a standard normal z, from uniform numbers in [0, 1)."""
    return torch.erfinv(uniform) * 2**0.5


def uniform_numbers(
    seed: int,
    stream: int,
    sequences: Sequence[int],
    lengths: Sequence[int],
    digests: Sequence[int],
) -> np.ndarray:
    """The uniform numbers in [0, 1) of many sequences, end to end: (sum of lengths,) float64.

    `Backend.uniforms` draws the same bits on a device.
    """
    names = list(zip(digests, sequences, strict=True))
    longest: dict[tuple[int, int], int] = {}
    for name, L in zip(names, lengths, strict=True):
        longest[name] = max(L, longest.get(name, 0))
    # Keyed by position, so a shorter sequence has the first numbers of a longer one.
    drawn = {name: _philox(seed, *name, stream, L) for name, L in longest.items()}
    return np.concatenate([drawn[name][:L] for name, L in zip(names, lengths, strict=True)])


def side_chain_noise(
    seed: int, sequence: int, draw: int, length: int, width: int, digest: int = COMMON
) -> np.ndarray:
    """`width` uniform numbers in [0, 1) for each position's side chain: (length, width) float64.

    Each `draw`, a number of any use of them, has its own.
    """
    numbers = _philox(seed, digest, sequence, SIDE_CHAIN, length * width, draw)
    return numbers.reshape(length, width)


def _philox(
    seed: int, digest: int, sequence: int, stream: int, length: int, draw: int = 0
) -> np.ndarray:
    """The uniform numbers in [0, 1) of one sequence and use: (length,) float64."""
    # Philox is a counter-based generator: a bijection of key and counter, and all words of both
    # name what a number is for. The first word of the counter is the position.
    counter = np.array([0, digest, draw, stream], dtype=np.uint64)
    key = np.array([seed, sequence], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key)).random(length)
