"""The CA-only models: edges are read by the CA atoms of three successive rows, and their frames.

The original's `CA_ProteinFeatures`. Everything after the edge features is ProteinMPNN.

Its rows are those of its `tied_featurize`, in which a residue number that a chain lacks is a row of
zeros, and so is a residue without CA; between chains there is nothing. What precedes a residue and
what follows it are the rows before and after: the end of the chain before, at a chain's start, and
the origin (0, 0, 0) beside a gap and at both ends of a structure. A residue there is read by its
distances to the origin, so results change as a structure is moved (docs/explanation/exactness.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mpnn_core.constants import (
    CA,
    CA_PAIRS,
    GAUSSIANS,
    LONGEST_STEP,
    ORIENTATION_WIDTH,
    OWN,
    SHORTEST_STEP,
)
from mpnn_core.network.encoding import OWN_FEATURES
from mpnn_core.network.features import EdgeFeatures, gaussians
from mpnn_core.network.graph import Backbones, Graph, upload
from mpnn_core.network.layers import LayerNorm, Linear
from mpnn_core.network.mpnn import MPNN
from mpnn_core.structures.structure import Structure, StructureError

UNUSED_WIDTH = 3
"""Inputs of `node_embedding`."""


class CAFeatures(EdgeFeatures):
    """9 distances between CA atoms in 16 Gaussians each, a direction and a quaternion.

    `node_embedding` and `norm_nodes` are in the checkpoints; nothing reads them.
    """

    width: ClassVar[int] = GAUSSIANS * len(CA_PAIRS) + ORIENTATION_WIDTH

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden)
        self.node_embedding = Linear(UNUSED_WIDTH, hidden, bias=False)
        self.norm_nodes = LayerNorm(hidden)

    def of_edges(self, backbones: Backbones, graph: Graph, nodes: slice) -> Tensor:
        """(n, K, 151)."""
        distances = ca_distances(backbones, graph, nodes)  # (n, K, 9)
        return torch.cat([gaussians(distances), orientations(backbones, graph, nodes)], -1)


class CAOnlyMPNN(MPNN):
    """The network of the CA-only models. It reads a structure as a trace (`Structure.ca_only`)."""

    requires: ClassVar[frozenset[str]] = frozenset({OWN_FEATURES})
    edges: ClassVar[type[EdgeFeatures]] = CAFeatures
    ca_only: ClassVar[bool] = True

    def __init__(
        self,
        hidden: int = 128,
        encoder_layers: int = 3,
        decoder_layers: int = 3,
        neighbours: int = 48,
    ) -> None:
        super().__init__(hidden, encoder_layers, decoder_layers, neighbours)
        self.W_v = Linear(hidden, hidden)  # in the checkpoints; nothing reads it

    def readable(self, structure: Structure) -> Structure:
        """Its trace."""
        if any(part.cyclic for part in structure.parts):
            raise StructureError(
                f"{structure.name} has cyclic chains, and the CA-only models read the residue "
                "before the first one in the file; expected a model that reads N, CA, C and O"
            )
        return structure.as_trace()

    def backbones(self, structures: Sequence[Structure], device: torch.device) -> Backbones:
        """The nodes of structures, with the CA atoms around each and its frame."""
        of_residues = Backbones.from_structures(structures, "cpu")
        around = np.concatenate([rows_around(s)[s.mask] for s in structures])
        framed = np.concatenate([has_frame(s)[s.mask] for s in structures])
        coords = torch.from_numpy(around)
        axes = frames(coords) * torch.from_numpy(framed)[:, None, None]
        return Backbones(
            upload(coords.numpy(), device),
            upload(of_residues.residue_index.numpy(), device),
            upload(of_residues.chain.numpy(), device),
            of_residues.offsets,
            upload(axes.numpy(), device),
        )


def gaps(structure: Structure) -> NDArray[np.bool_]:
    """(L - 1,) bool: whether residue numbers are missing between a residue and the next."""
    same_chain = structure.chain_ids[1:] == structure.chain_ids[:-1]
    return same_chain & (np.diff(structure.residue_index) > 1)


def rows_around(structure: Structure) -> NDArray[np.float32]:
    """(L, 3, 3) Å: the CA of the row before each residue, its own, and that of the row after;
    zeros where there is none."""
    ca = structure.coords[:, CA]
    own = np.where(np.isfinite(ca).all(1, keepdims=True), ca, np.float32(0))  # (L, 3)
    beside = ~gaps(structure)[:, None]
    nowhere = np.zeros((1, 3), np.float32)
    before = np.concatenate([nowhere, own[:-1] * beside])
    after = np.concatenate([own[1:] * beside, nowhere])
    return np.stack([before, own, after], 1)


def has_frame(structure: Structure) -> NDArray[np.bool_]:
    """(L,) bool: those with at least one row before them and two after, gaps counted."""
    L = len(structure)
    framed = np.arange(L) < L - 2
    framed[-2:-1] = gaps(structure)[-1:]  # of two residues with a gap between, there are two rows
    framed[0] = False
    return framed


def frames(around: Tensor) -> Tensor:
    """Axes of each node, as rows, from the CA atoms (N, 3, 3) around it: (N, 3, 3).

    The difference of the two directions along the chain, their normal, and what is at right angles
    to both. A step that is not between successive residues has no direction: zero.
    """
    steps = around.diff(dim=1)  # (N, 2, 3)
    lengths = torch.linalg.vector_norm(steps, dim=-1, keepdim=True)
    steps = steps * ((lengths > SHORTEST_STEP) & (lengths < LONGEST_STEP))
    to_here, from_here = F.normalize(steps, dim=-1).unbind(1)  # (N, 3) each
    along = F.normalize(to_here - from_here, dim=-1)
    normal = F.normalize(torch.linalg.cross(to_here, from_here), dim=-1)
    return torch.stack([along, normal, torch.linalg.cross(along, normal)], 1)


def ca_distances(backbones: Backbones, graph: Graph, nodes: slice) -> Tensor:
    """Distances of `CA_PAIRS` along the edges of `nodes`: (n, K, 9), Å."""
    own = backbones.coords[nodes].unbind(-1)  # 3 x (n, 3)
    other = backbones.coords[graph.neighbours[nodes]].unbind(-1)  # 3 x (n, K, 3)
    squared = _sum(
        (a[:, None, :, None] - b[:, :, None, :]).square() for a, b in zip(own, other, strict=True)
    )
    distances = (squared + 1e-6).sqrt()  # (n, K, 3, 3)
    return torch.stack([distances[..., first, second] for first, second in CA_PAIRS], -1)


def orientations(backbones: Backbones, graph: Graph, nodes: slice) -> Tensor:
    """The direction of each neighbour in the node's frame, and the quaternion (x, y, z, w) of the
    rotation between their frames: (n, K, 7)."""
    assert backbones.frames is not None
    neighbours = graph.neighbours[nodes]  # (n, K)
    ca = backbones.coords[:, OWN]
    own, other = backbones.frames[nodes, None], backbones.frames[neighbours]  # (n, 1 or K, 3, 3)
    apart = ca[neighbours] - ca[nodes, None]  # (n, K, 3)
    along = _sum(own[..., axis] * apart[..., axis, None] for axis in range(3))  # (n, K, 3)
    # Term by term: signs below are those of differences that rounding decides where frames are
    # symmetric, and these are the original's roundings.
    rotation = _sum(own[..., k, :, None] * other[..., k, None, :] for k in range(3))
    return torch.cat([F.normalize(along, dim=-1), quaternions(rotation)], -1)


def _sum(terms: Iterable[Tensor]) -> Tensor:
    first, *others = terms
    return sum(others, first)


def quaternions(rotations: Tensor) -> Tensor:
    """Rotations (..., 3, 3) as unit quaternions (x, y, z, w): (..., 4); zeros give (0, 0, 0, 1)."""
    R = rotations
    x, y, z = R.diagonal(dim1=-2, dim2=-1).unbind(-1)
    squares = torch.stack([x - y - z, -x + y - z, -x - y + z], -1)  # (..., 3)
    signs = torch.stack(
        [R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], -1
    ).sign()
    vector = signs * (0.5 * (1 + squares).abs().sqrt())
    scalar = (1 + (x + y + z)).relu().sqrt()[..., None] / 2
    return F.normalize(torch.cat([vector, scalar], -1), dim=-1)
