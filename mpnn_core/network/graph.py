"""Many structures as one disjoint graph: the complete residues end to end, and their neighbours.

There is no batch axis. A residue with an incomplete backbone is no node: in the original it adds
nothing to any complete residue that has k complete ones around it, and where there are fewer it
leaks in as padding does (docs/explanation/exactness.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpnn_core.constants import CA
from mpnn_core.structures.structure import Structure

# Pairwise distances are built in blocks of rows of at most this size, so memory stays O(L).
DISTANCE_BLOCK_BYTES = 64 << 20
# From so many residues on, not every distance is computed, and runs of so many are searched for.
SEARCHED, RUN = 2048, 64

# MKL, which takes torch's roots on x86, finds out at its first use how exactly it is to. Where two
# threads begin at once, one of them may get roots of 12 bits, and so wrong neighbours: begin alone.
torch.ones(1).sqrt_()


def upload(values: NDArray[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """An array on the device, in its own type unless given one; a GPU is not waited for."""
    return torch.from_numpy(values).to(
        device=device, dtype=dtype, non_blocking=device.type == "cuda"
    )


def run_of_each(counts: NDArray[np.int64], device: torch.device) -> Tensor:
    """0 counts[0] times, 1 counts[1] times, and so on: (sum of counts,) int64."""
    if device.type == "cpu":  # for which torch would start its threads, however short it is
        return torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    runs = torch.arange(len(counts), device=device)
    return torch.repeat_interleave(runs, upload(counts, device), output_size=int(counts.sum()))


@dataclass(frozen=True, eq=False)
class Backbones:
    """The complete residues of one or more structures, end to end.

    Attributes
    ----------
    coords : (N, 4, 3) float, Å: N, CA, C, O, all finite; or (N, 3, 3) of a CA-only model: the CA
        of the row before, its own, and that of the row after (network/ca_only.py)
    residue_index : (N,) int64, the original's `residue_idx`; only differences within a chain count
    chain : (N,) int64, equal for residues of the same chain of the same structure only
    offsets : S + 1 ints; structure s has the nodes offsets[s] to offsets[s + 1]
    frames : (N, 3, 3) float, of a CA-only model: a node's axes as rows, zeros where it has none
    rings : (N,) int64, the residues of a node's cyclic chain, 0 in an open one; None: all are open
    """

    coords: Tensor
    residue_index: Tensor
    chain: Tensor
    offsets: tuple[int, ...]
    frames: Tensor | None = None
    rings: Tensor | None = None

    @classmethod
    def from_structures(
        cls,
        structures: Sequence[Structure],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Backbones:
        """Lay the complete residues of `structures` end to end on `device`."""
        coords, residue_index, chain, offsets, chains = [], [], [], [0], 0
        for structure in structures:
            coords.append(structure.coords[structure.mask])
            residue_index.append(structure.residue_index[structure.mask])
            chain.append(structure.chain_numbers[structure.mask] + chains)
            chains += int(structure.chain_numbers.max()) + 1
            offsets.append(offsets[-1] + len(coords[-1]))
        place = torch.device(device)
        rings = None
        if any(structure.cyclic for structure in structures):
            of_each = [structure.rings[structure.mask] for structure in structures]
            rings = upload(np.concatenate(of_each), place)
        return cls(
            upload(np.concatenate(coords), place, dtype),
            upload(np.concatenate(residue_index), place),
            upload(np.concatenate(chain), place),
            tuple(offsets),
            rings=rings,
        )

    def __len__(self) -> int:
        return self.coords.shape[0]


@dataclass(frozen=True, eq=False)
class Graph:
    """The neighbours of every node.

    Attributes
    ----------
    neighbours : (N, K) int64, nearest first, the node itself included
    valid : (N, K) bool, False on the spare slots of a structure with fewer than K residues (they
        point at the node itself); None where there is no spare slot
    """

    neighbours: Tensor
    valid: Tensor | None

    @property
    def degree(self) -> Tensor:
        """How many neighbours each node really has: (N, 1) int64."""
        N, K = self.neighbours.shape
        if self.valid is None:
            return torch.full((N, 1), K, dtype=torch.int64, device=self.neighbours.device)
        return self.valid.sum(1, keepdim=True)

    @cached_property
    def for_kernels(self) -> tuple[Tensor, Tensor]:
        """`valid` as (N, K) uint8, and `degree` as (N,) float32."""
        (N, K), device = self.neighbours.shape, self.neighbours.device
        if self.valid is None:
            valid = torch.ones(N, K, dtype=torch.uint8, device=device)
            return valid, torch.full((N,), float(K), dtype=torch.float32, device=device)
        return self.valid.to(torch.uint8), self.degree[:, 0].float()

    def valid_of(self, nodes: Tensor | slice) -> Tensor | None:
        """`valid` of some nodes: (n, K) or None."""
        return None if self.valid is None else self.valid[nodes]

    def padded(self, nodes: int, slots: int) -> Graph:
        """The same graph in a fixed shape: (nodes, slots), everything added being invalid."""
        N, K = self.neighbours.shape
        if nodes < N or slots < K:
            raise ValueError(f"a graph of shape ({N}, {K}) does not fit into ({nodes}, {slots})")
        itself = torch.arange(nodes, device=self.neighbours.device)[:, None].repeat(1, slots)
        itself[:N, :K] = self.neighbours
        valid = torch.zeros(nodes, slots, dtype=torch.bool, device=itself.device)
        valid[:N, :K] = True if self.valid is None else self.valid
        return Graph(itself, None if bool(valid.all()) else valid)


def nearest_neighbours(backbones: Backbones, k: int) -> Graph:
    """The k nearest residues of every residue by CA distance, within its own structure.

    Ties are broken as in the original: the same float32 distances go through the same top-k, so
    symmetric assemblies give the same sets. K is the largest min(k, residues) of any structure.
    """
    offsets = backbones.offsets
    sizes = np.diff(offsets)
    K = int(min(k, sizes.max()))
    if backbones.coords.device.type == "cuda" and len(sizes) > 1:
        neighbours = _nearest_side_by_side(backbones, K)
    else:
        parts = []
        for start, stop in pairwise(offsets):
            size = stop - start
            nearest = start + _nearest(backbones.coords[start:stop, CA], min(K, size))
            if size < K:
                itself = torch.arange(start, stop, device=nearest.device)[:, None]
                nearest = torch.cat([nearest, itself.expand(-1, K - size)], 1)
            parts.append(nearest)  # (size, K)
        neighbours = torch.cat(parts)  # (N, K)
    if sizes.min() >= K:
        return Graph(neighbours, None)
    slots = upload(np.minimum(K, sizes).repeat(sizes), neighbours.device)
    return Graph(neighbours, torch.arange(K, device=neighbours.device) < slots[:, None])


def nearest_of_present(ca: Tensor, structure: Tensor, present: Tensor, k: int) -> Graph:
    """The graph of the nodes that are present, in a fixed shape, for batches that training draws.

    Parameters
    ----------
    ca : (N, 3) float, Å
    structure : (N,) int64; nodes of one structure share a number
    present : (N,) bool; only these are anyone's neighbours
    k : columns; spare ones are invalid and point at the node itself
    """
    N = len(ca)
    distances = _distances(ca, ca)  # (N, N)
    distances.masked_fill_((structure[:, None] != structure) | ~present, torch.inf)
    nearest, indices = distances.topk(min(k, N), largest=False)
    valid = nearest < torch.inf
    neighbours = torch.where(valid, indices, torch.arange(N, device=ca.device)[:, None])
    return Graph(neighbours, valid)


def _nearest(ca: Tensor, k: int) -> Tensor:
    """Indices (L, k) of the k nearest of (L, 3) points."""
    if ca.device.type == "cpu" and len(ca) >= SEARCHED and k < RUN:
        return torch.cat([_nearest_of_run(ca, i, k) for i in range(0, len(ca), RUN)])
    return _nearest_of_all(ca, ca, k)


def _nearest_of_run(ca: Tensor, start: int, k: int) -> Tensor:
    """`_nearest` for residues that follow each other: (at most RUN, k).

    The residues around them in the chain bound how far their neighbours can be, and so where to
    look. A row with equal distances is sorted among all residues, as the original sorts it.
    """
    points = ca[start : start + RUN]
    around = ca[max(0, start - RUN) : start + 2 * RUN]
    reach = 1e-3 + 1.001 * _distances(points, around).kthvalue(k + 1).values.max()  # over rounding
    inside = (ca >= points.amin(0) - reach) & (ca <= points.amax(0) + reach)
    candidates = inside.all(1).nonzero()[:, 0]
    distances, at = _distances(points, ca[candidates]).topk(k + 1, largest=False)
    nearest = candidates[at[:, :k]]
    equal = (distances.diff() == 0).any(1)
    if equal.any():
        nearest[equal] = _nearest_of_all(points[equal], ca, k)
    return nearest


def _nearest_of_all(points: Tensor, ca: Tensor, k: int) -> Tensor:
    """Indices (n, k) of the k nearest of (L, 3) to each of (n, 3), in blocks of rows."""
    block = max(1, DISTANCE_BLOCK_BYTES // (ca.element_size() * len(ca)))
    return torch.cat([_smallest(_distances(rows, ca), k) for rows in points.split(block)])


def _distances(points: Tensor, ca: Tensor) -> Tensor:
    """(n, 3), (L, 3) -> (n, L), the original's, bit for bit."""
    return squared_distances(points[:, None], ca).add_(1e-6).sqrt_()


def squared_distances(points: Tensor, others: Tensor) -> Tensor:
    """(..., 3), (..., 3) that broadcast -> (...): the original's sum over the last axis, bit for
    bit, term by term and without its differences (..., 3)."""
    (a, b, c), (x, y, z) = points.unbind(-1), others.unbind(-1)
    return (a - x).square_().add_((b - y).square_()).add_((c - z).square_())


def _smallest(distances: Tensor, k: int) -> Tensor:
    """Indices (..., k) of the k smallest of (..., L).

    On a GPU top-k breaks ties by how it divides its work, which depends on the shape; there the
    first of equals is taken, so that a structure has the same neighbours in any company.
    """
    if distances.device.type != "cuda":
        return distances.topk(k, largest=False).indices
    return first_smallest(distances, k)


def first_smallest(values: Tensor, k: int) -> Tensor:
    """Indices (..., k) of the k smallest of (..., L), none negative; of equals the first."""
    # Positive floats are in the order of their bits.
    key = values.float().view(torch.int32).long() << 32
    key |= torch.arange(key.shape[-1], device=key.device)
    return key.topk(k, largest=False).indices


def _nearest_side_by_side(backbones: Backbones, K: int) -> Tensor:
    """The neighbours (N, K) of many structures at once: on a GPU, each alone is all launches."""
    starts, sizes = np.array(backbones.offsets[:-1]), np.diff(backbones.offsets)
    ca = backbones.coords[:, CA]  # (N, 3)
    neighbours = torch.arange(len(ca), device=ca.device)[:, None].repeat(1, K)
    by_size, first = np.argsort(-sizes, kind="stable"), 0
    while first < len(by_size):
        L = int(sizes[by_size[first]])
        fit = max(1, DISTANCE_BLOCK_BYTES // (ca.element_size() * L * L))
        together = by_size[first : first + fit]
        first += fit
        lengths = sizes[together]
        inside = np.arange(L) < lengths[:, None]  # (S, L)
        at = starts[together][:, None] + np.minimum(np.arange(L), lengths[:, None] - 1)
        node, pad = upload(np.stack([at, ~inside]), ca.device)
        points = ca[node]  # (S, L, 3)
        squared = squared_distances(points[:, :, None], points[:, None])  # (S, L, L)
        distances = squared.add_(1e-6).sqrt_().masked_fill_(pad.bool()[:, None], torch.inf)
        nearest = _smallest(distances, min(K, L))  # (S, L, K)
        # Of a structure with fewer than K residues, the spare slots point at the node itself.
        real = nearest < upload(lengths, ca.device)[:, None, None]
        nearest = torch.where(real, nearest + node[:, :1, None], node[:, :, None])
        flat = upload(np.flatnonzero(inside), ca.device)
        neighbours[node.flatten()[flat], : min(K, L)] = nearest.flatten(0, 1)[flat]
    return neighbours
