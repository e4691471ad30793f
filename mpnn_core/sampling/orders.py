"""Decoding orders: the positions in the order in which they are decoded, as in the original."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray

from mpnn_core.network.graph import Backbones, nearest_neighbours
from mpnn_core.sampling.constraints import Resolved
from mpnn_core.sampling.noise import COLOUR, ORDER, order_noise, uniform_numbers
from mpnn_core.structures.structure import Structure

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
    level decodes them. This is not the original's distribution over orders:
    docs/explanation/engine.md.

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
    """Which positions must not share a colour; tied positions are one, with the first one's number.

    Parameters
    ----------
    neighbours : (N, 1 + K) int64, positions, each followed by its neighbours
    length : positions
    groups : tied positions

    Returns
    -------
    For every position, the positions that are its neighbours or have it as a neighbour; and (L,)
    int64, the first position of each one's group, itself where it is tied to none.
    """
    group = np.arange(length)
    for tied in groups:
        group[list(tied)] = tied[0]
    own, neighbour = np.broadcast_arrays(group[neighbours[:, :1]], group[neighbours])
    apart = own != neighbour
    pairs = np.concatenate(
        [own[apart] * length + neighbour[apart], neighbour[apart] * length + own[apart]]
    )
    first, second = np.divmod(np.unique(pairs), length)
    cuts = np.searchsorted(first, np.arange(1, length))
    return [part.tolist() for part in np.split(second, cuts)], group


def ranks(decoding_order: np.ndarray) -> np.ndarray:
    """When each position is decoded, from a decoding order: the inverse permutation."""
    rank = np.empty_like(decoding_order)
    np.put_along_axis(rank, decoding_order, np.arange(decoding_order.shape[-1]), -1)
    return rank


def visit_groups(order: np.ndarray, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """The order (L,) in which tied positions are visited: where the first of a group comes, all do.

    They follow each other in the order in which the group lists them, as in the original.
    """
    group_of = {position: group for group in groups for position in group}
    visited: dict[int, None] = {}
    for position in order.tolist():
        visited.update(dict.fromkeys(group_of.get(position, (position,))))
    return np.fromiter(visited, dtype=np.int64, count=len(visited))


COLOURED = "coloured"


def drawn_orders(seed: int, n: int, designed: NDArray[np.bool_], digest: int) -> NDArray[np.int64]:
    """The original's random orders of n sequences: (n, L); `digest` as in `noise.digest`."""
    L = len(designed)
    return np.stack([draw_order(order_noise(seed, i, L, digest), designed) for i in range(n)])


def coloured_orders(
    structure: Structure, resolved: Resolved, neighbours: int, n: int, seed: int, digest: int
) -> NDArray[np.int64]:
    """Random orders of few levels, for n sequences: (n, L); `digest` as in `noise.digest`."""
    graph = nearest_neighbours(Backbones.from_structures(structure.parts), neighbours)
    complete = np.flatnonzero(structure.mask)
    neighbours_of = np.column_stack([complete, complete[graph.neighbours.numpy()]])
    L = len(structure)
    linked, group = links(neighbours_of, L, [list(tied) for tied in resolved.groups])
    return np.stack([
        draw_coloured_order(
            uniform_numbers(seed, ORDER, [i], [L], [digest]),
            uniform_numbers(seed, COLOUR, [i], [L], [digest]),
            resolved.designed, linked, group,
        )
        for i in range(n)
    ])  # fmt: skip
