"""Edge features: 25 interatomic distances in 16 Gaussians each, and the residue offset."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpnn_core.constants import (
    ATOM_PAIRS,
    CA,
    FIRST_CENTRE,
    GAUSSIANS,
    LAST_CENTRE,
    MAX_OFFSET,
    OFFSET_WIDTH,
    OTHER_CHAIN,
    SIGMA,
    VIRTUAL_CB,
    C,
    N,
)
from mpnn_core.network.graph import Backbones, Graph
from mpnn_core.network.layers import LayerNorm, Linear


class OffsetEmbedding(nn.Module):
    """66 classes of residue offset, as the linear layer on one-hot labels that was trained."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = Linear(OTHER_CHAIN + 1, OFFSET_WIDTH)

    def table(self) -> Tensor:
        """The embedding of every class: (66, 16)."""
        return self.linear.weight.T + self.linear.bias


class EdgeFeatures(nn.Module):
    """The embedded features of edges; an architecture that reads others derives from it.

    Attributes
    ----------
    width : how many numbers `of_edges` gives for an edge
    """

    width: ClassVar[int] = GAUSSIANS * len(ATOM_PAIRS)

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embeddings = OffsetEmbedding()
        self.edge_embedding = Linear(OFFSET_WIDTH + self.width, hidden, bias=False)
        self.norm_edges = LayerNorm(hidden)

    def of_edges(self, backbones: Backbones, graph: Graph, nodes: slice) -> Tensor:
        """What is read of the edges of `nodes` besides the residue offset: (n, K, width)."""
        return gaussians(pair_distances(backbones, graph, nodes))

    def forward(self, backbones: Backbones, graph: Graph, nodes: slice) -> Tensor:
        """Embedded, normalised features of the edges of `nodes`: (n, K, H)."""
        W_offset, W_rbf = self.edge_embedding.weight.split([OFFSET_WIDTH, self.width], 1)
        # The embedding of the offset is linear in its class: one (66, H) table, one gather.
        table = F.linear(self.embeddings.table(), W_offset)  # (66, H)
        E = F.linear(self.of_edges(backbones, graph, nodes), W_rbf)  # (n, K, H)
        classes = offset_classes(backbones, graph, nodes)
        if table.requires_grad:
            # The gradient of a gather from so few rows is a queue of additions to the same ones.
            E = E + F.one_hot(classes, len(table)).to(E.dtype) @ table
        else:
            E = E + table[classes]
        return self.norm_edges(E)


def with_virtual_cb(coords: Tensor) -> Tensor:
    """N, CA, C, O (N, 4, 3) and the CB of an idealised residue: (N, 5, 3), Å."""
    b, c = coords[:, CA] - coords[:, N], coords[:, C] - coords[:, CA]
    along_a, along_b, along_c = VIRTUAL_CB
    cb = along_a * torch.linalg.cross(b, c) + along_b * b + along_c * c + coords[:, CA]
    return torch.cat([coords, cb[:, None]], 1)


def pair_distances(backbones: Backbones, graph: Graph, nodes: slice) -> Tensor:
    """Distances of the 25 atom pairs along the edges of `nodes`: (n, K, 25), Å."""
    atoms = with_virtual_cb(backbones.coords).permute(2, 0, 1).contiguous()  # (3, N, 5)
    own, other = torch.tensor(ATOM_PAIRS, device=atoms.device).T  # (25,), (25,)
    first = atoms[:, nodes][:, :, own]  # (3, n, 25)
    second = atoms[:, :, other]  # (3, N, 25)
    neighbours = graph.neighbours[nodes]  # (n, K)
    squared: Tensor | float = 1e-6
    for axis in range(3):
        squared = squared + (first[axis][:, None] - second[axis][neighbours]).square()
    assert isinstance(squared, Tensor)
    return squared.sqrt()


def gaussians(distances: Tensor, first: float = FIRST_CENTRE) -> Tensor:
    """(n, K, P) Å -> (n, K, 16 P): each distance in 16 Gaussians of width 1.25 Å, whose centres
    are from `first` to 20 Å above it."""
    last = first + LAST_CENTRE - FIRST_CENTRE
    centres = torch.linspace(first, last, GAUSSIANS, dtype=distances.dtype, device=distances.device)
    scaled = (distances[..., None] - centres) / SIGMA  # (n, K, P, 16)
    return torch.exp(-scaled.square()).flatten(-2)


def offset_classes(backbones: Backbones, graph: Graph, nodes: slice) -> Tensor:
    """Class 0 to 65 of every edge's residue offset: (n, K) int64.

    Along a ring the offset is counted the shorter way, as ColabDesign's cyclic "offset" (and so
    RFpeptides) does. At equal ways, in a ring of an even number, it is positive from both ends:
    there ColabDesign's sign depends on the residue at which the file opens the ring.
    """
    neighbours = graph.neighbours[nodes]  # (n, K)
    index, chain = backbones.residue_index, backbones.chain
    offset = index[nodes, None] - index[neighbours]
    if backbones.rings is not None:
        ring = backbones.rings[nodes, None]
        back = (ring - 1).div(2, rounding_mode="floor")  # the furthest that is shorter backwards
        offset = torch.where(ring > 0, (offset + back) % ring.clamp(min=1) - back, offset)
    offset = (offset + MAX_OFFSET).clamp(0, 2 * MAX_OFFSET)
    return torch.where(chain[nodes, None] == chain[neighbours], offset, OTHER_CHAIN)
