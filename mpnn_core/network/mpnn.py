"""ProteinMPNN, reformulated: the same function of the same weights, with far less arithmetic.

`network/reference.py` is the network as the paper writes it. Four identities lead from there to
here, none of them an approximation; they only reorder floating-point sums (derivation:
docs/explanation/engine.md).

1. A linear layer on a concatenation is a sum of linear layers: W1 [h_i, h_E, h_j] =
   A h_i + B h_E + C h_j. A h_i and C h_j cost per node, and only B h_E per edge.
2. The sum over neighbours commutes with the last linear layer of a message, so W3 acts per node.
3. In the decoder B h_E depends on the structure alone: computed once, shared by all sequences.
4. What a decoder layer reads of a neighbour j is a row of one of two tables: D h_enc_j while j is
   undecoded (constant), C emb(s_j) + D h_j once it is decoded. The order picks the row.

Nodes are the complete residues of any number of structures, end to end: (N, H); edges (N, K, H).
What has an edge axis is computed in tiles of nodes, so memory stays bounded at any size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mpnn_core.constants import LETTERS, MESSAGE_SCALE
from mpnn_core.network.conditional import Layers, last_states, tied_last_states
from mpnn_core.network.encoding import OWN_FEATURES, Copies, Encoding
from mpnn_core.network.features import EdgeFeatures
from mpnn_core.network.graph import Backbones, Graph, nearest_neighbours
from mpnn_core.network.layers import Embedding, LayerNorm, Linear
from mpnn_core.structures.structure import Structure, StructureError

# Edges that plain torch computes at a time, so that they stay in a processor's cache: those of 48
# nodes with 48 neighbours, 1.2 MB at H = 128 in float32.
TILE_EDGES = 2304


def tiles(nodes: int, neighbours: int) -> Iterator[slice]:
    """Slices that cover `nodes` rows, each of about TILE_EDGES edges.

    With gradients on it is one slice: training keeps every activation, so tiles would save nothing.
    """
    step = nodes if torch.is_grad_enabled() else max(1, TILE_EDGES // neighbours)
    return (slice(start, min(start + step, nodes)) for start in range(0, nodes, step))


class FeedForward(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.W_in = Linear(hidden, 4 * hidden)
        self.W_out = Linear(4 * hidden, hidden)

    def forward(self, h_V: Tensor) -> Tensor:
        return self.W_out(F.gelu(self.W_in(h_V)))


class MessageLayer(nn.Module):
    """What encoder and decoder layers share: the message MLP and the node update."""

    def __init__(self, hidden: int, inputs: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(hidden)
        self.norm2 = LayerNorm(hidden)
        self.W1 = Linear(inputs * hidden, hidden)
        self.W2 = Linear(hidden, hidden)
        self.W3 = Linear(hidden, hidden)
        self.dense = FeedForward(hidden)

    def aggregate(self, edge_input: Tensor, valid: Tensor | None) -> Tensor:
        """Sum of messages before W3, from W1's output (n, K, H): (n, H)."""
        message = F.gelu(self.W2(F.gelu(edge_input)))  # (n, K, H)
        if valid is not None:
            message = message * valid[..., None]
        return message.sum(1)

    def update(self, h_V: Tensor, aggregated: Tensor, count: Tensor) -> Tensor:
        """New node states (n, H) from the aggregate (n, H) of `count` (n, 1) messages."""
        message = F.linear(aggregated, self.W3.weight) + count * self.W3.bias
        h_V = self.norm1(h_V + message / MESSAGE_SCALE)
        return self.norm2(h_V + self.dense(h_V))


class EncoderLayer(MessageLayer):
    def __init__(self, hidden: int) -> None:
        super().__init__(hidden, inputs=3)  # h_i, h_E, h_j
        self.norm3 = LayerNorm(hidden)
        self.W11 = Linear(3 * hidden, hidden)
        self.W12 = Linear(hidden, hidden)
        self.W13 = Linear(hidden, hidden)

    def forward(self, h_V: Tensor, h_E: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """(N, H), (N, K, H) -> the same, one layer on."""
        parts = list(tiles(*graph.neighbours.shape))
        edge_input = split_encoder_input(self.W1, h_V, h_E, graph)
        aggregated = [self.aggregate(edge_input(part), graph.valid_of(part)) for part in parts]
        h_V = self.update(h_V, torch.cat(aggregated), graph.degree)  # (N, H)
        edge_input = split_encoder_input(self.W11, h_V, h_E, graph)
        updated = [self.norm3(h_E[part] + self.edge_update(edge_input(part))) for part in parts]
        return h_V, torch.cat(updated)

    def edge_update(self, edge_input: Tensor) -> Tensor:
        """What is added to h_E, from W11's output: (n, K, H) -> (n, K, H)."""
        return self.W13(F.gelu(self.W12(F.gelu(edge_input))))


def split_encoder_input(
    W1: nn.Linear, h_V: Tensor, h_E: Tensor, graph: Graph
) -> Callable[[slice], Tensor]:
    """W1 [h_i, h_E, h_j] for the edges of any tile of nodes: slice -> (n, K, H)."""
    A, B, C = W1.weight.chunk(3, 1)  # (H, H) each
    own, neighbours = F.linear(h_V, A, W1.bias), F.linear(h_V, C)  # (N, H), (N, H)
    # Under autocast too: the gradients of a gather sum up in its dtype.
    neighbours = neighbours.to(W1.weight.dtype)

    def edge_input(part: slice) -> Tensor:
        return F.linear(h_E[part], B) + own[part, None] + neighbours[graph.neighbours[part]]

    return edge_input


class DecoderLayer(MessageLayer):
    def __init__(self, hidden: int) -> None:
        super().__init__(hidden, inputs=4)  # h_i, h_E, emb(s_j), h_j

    def blocks(self) -> tuple[Tensor, ...]:
        """W1 by what it acts on: A on h_i, B on h_E, C on emb(s_j), D on h_j; (H, H) each."""
        return self.W1.weight.chunk(4, 1)

    def forward(
        self,
        h_V: Tensor,
        edges: Tensor,
        table: Tensor,
        rows: Tensor,
        nodes: Tensor | None,
        graph: Graph,
    ) -> Tensor:
        """New states of any n nodes of any sequences, from their states h_V: (n, H) -> (n, H).

        Parameters
        ----------
        edges : (N, K, H), B h_E of the structures' edges
        table : (R, H), what a neighbour contributes: D h_enc_j, and C emb(s_j) + D h_j
        rows : (n, K) int64, the row of `table` that each edge reads
        nodes : (n,) int64, which of the graph's N nodes each one is; None where n is N, in order
        """
        A, *_ = self.blocks()
        own = F.linear(h_V, A, self.W1.bias)  # (n, H)
        aggregated = []
        for part in tiles(*rows.shape):
            of_part = part if nodes is None else nodes[part]
            edge_input = table[rows[part]]  # (t, K, H)
            edge_input += edges[of_part]
            edge_input += own[part, None]
            aggregated.append(self.aggregate(edge_input, graph.valid_of(of_part)))
        degree = graph.degree if nodes is None else graph.degree[nodes]
        return self.update(h_V, torch.cat(aggregated), degree)


def undecoded(h_V: Tensor, blocks: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """What an undecoded neighbour contributes, D h_V of each layer: (decoder layers, N, H).

    `blocks` are `DecoderLayer.blocks` of each layer.
    """
    return torch.stack([F.linear(h_V, D) for _, _, _, D in blocks])


class MPNN(nn.Module):
    """The reformulated network. Parameter names are the published checkpoints'.

    Parameters
    ----------
    hidden, encoder_layers, decoder_layers, neighbours
        Width, depths and k of the k-NN graph; the published models are 128, 3, 3, 48.

    Attributes
    ----------
    requires : what an architecture that derives from this one requires of a backend besides:
        `INITIAL_STATES`, `CHANGED_STATES`, for which it has a method each, and `OWN_FEATURES`
    edges : the class of its edge features
    ca_only : whether it reads structures as traces of CA atoms (`Structure.ca_only`)
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    edges: ClassVar[type[EdgeFeatures]] = EdgeFeatures
    ca_only: ClassVar[bool] = False

    def __init__(
        self,
        hidden: int = 128,
        encoder_layers: int = 3,
        decoder_layers: int = 3,
        neighbours: int = 48,
    ) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.features = self.edges(hidden)
        self.W_e = Linear(hidden, hidden)
        self.W_s = Embedding(LETTERS, hidden)
        self.encoder_layers = nn.ModuleList(EncoderLayer(hidden) for _ in range(encoder_layers))
        self.decoder_layers = nn.ModuleList(DecoderLayer(hidden) for _ in range(decoder_layers))
        self.W_out = Linear(hidden, LETTERS)

    @property
    def decoders(self) -> list[DecoderLayer]:
        return cast("list[DecoderLayer]", list(self.decoder_layers))

    def encode(
        self,
        backbones: Backbones,
        graph: Graph | None = None,
        states: list[Tensor] | None = None,
        h_V: Tensor | None = None,
    ) -> Encoding:
        """Features and encoder, for any number of structures at once.

        Parameters
        ----------
        graph : one that is known already, for instance in a fixed shape with spare slots; None is
            the k-NN graph
        states : gets the nodes' states (N, H) after every layer
        h_V : (N, H), the node states to start from; None is zeros
        """
        graph = graph or nearest_neighbours(backbones, self.neighbours)
        h_E = self.edge_features(backbones, graph)  # (N, K, H)
        if h_V is None:
            h_V = torch.zeros_like(h_E[:, 0])  # (N, H)
        for layer in self.encoder_layers:
            h_V, h_E = layer(h_V, h_E, graph)
            if states is not None:
                states.append(h_V)
        blocks = [layer.blocks() for layer in self.decoders]
        edges = torch.stack([F.linear(h_E, B) for _, B, _, _ in blocks])
        return Encoding(graph, h_V, edges, undecoded(h_V, blocks))

    def edge_features(self, backbones: Backbones, graph: Graph) -> Tensor:
        """The edges' states before the first layer: (N, K, H)."""
        parts = tiles(*graph.neighbours.shape)
        return torch.cat([self.W_e(self.features(backbones, graph, part)) for part in parts])

    def with_states(self, encoding: Encoding, h_V: Tensor) -> Encoding:
        """The encoding with the node states h_V (N, H) instead of the encoder's."""
        blocks = [layer.blocks() for layer in self.decoders]
        return replace(encoding, h_V=h_V, undecoded=undecoded(h_V, blocks))

    def readable(self, structure: Structure) -> Structure:
        """The structure as the network reads it.

        Raises
        ------
        StructureError
            It lacks what the network reads of every residue.
        """
        if structure.ca_only:
            raise StructureError(
                f"{structure.name} is read as a trace of CA atoms, and this model reads N, CA, C "
                "and O; the CA-only models read traces: weights='ca/v_48_020'"
            )
        return structure

    def backbones(self, structures: Sequence[Structure], device: torch.device) -> Backbones:
        """The residues of the structures that are nodes, end to end on the device."""
        return Backbones.from_structures(structures, device)

    def context(
        self,
        structures: Sequence[Structure],
        fixed: Sequence[NDArray[np.bool_]],
        device: torch.device,
    ) -> Any:
        """What the architecture reads of the structures besides their backbones, on the device.

        fixed (L,) bool, of each structure: the residues whose letters are given.
        """
        return None

    @property
    def recordable(self) -> bool:
        """Whether a GPU can record all that it computes of one structure: no part waits for the
        device, and its context is that of `context_tensors`."""
        return not self.requires - {OWN_FEATURES}

    def context_tensors(self, context: Any) -> tuple[Tensor, ...]:
        """What a recording is given of the context of one structure."""
        return ()

    def context_of(self, *tensors: Tensor) -> Any:
        """The context that `context_tensors` gave."""
        return None

    def initial_states(self, backbones: Backbones, context: Any) -> Tensor:
        """The node states (N, H) that the encoder starts from, if `requires` has INITIAL_STATES.

        `context` is what the architecture reads of the structures besides their backbones.
        """
        raise NotImplementedError(f"{type(self).__name__} starts from zeros")

    def changed_states(
        self, h_V: Tensor, graph: Graph, backbones: Backbones, context: Any
    ) -> Tensor:
        """What decoding starts from, of the encoder's states (N, H), if `requires` has
        CHANGED_STATES: (N, H)."""
        raise NotImplementedError(f"{type(self).__name__} decodes from the encoder's states")

    def decode(
        self,
        encoding: Encoding,
        copies: Copies | None,
        tokens: Tensor,
        rank: Tensor,
        states: list[Tensor] | None = None,
    ) -> Tensor:
        """Logits of given sequences, every position seeing those decoded before it.

        Parameters
        ----------
        copies : which sequences; None is one sequence on every structure, M is N
        tokens, rank : (M,) int64
            Residue of every row, and when it is decoded; only the order of ranks within a
            sequence counts, and rows of equal rank do not see each other.
        states : gets the states (M, H) after every layer

        Returns
        -------
        (M, 21) logits.
        """
        rows = self.rows(encoding, copies, rank)
        nodes = None if copies is None else copies.nodes
        h_V = encoding.h_V if nodes is None else encoding.h_V[nodes]  # (M, H)
        for layer, edges, undecoded in zip(
            self.decoders, encoding.edges, encoding.undecoded, strict=True
        ):
            _, _, C, D = layer.blocks()
            decoded = F.linear(self.W_s.weight, C)[tokens] + F.linear(h_V, D)  # (M, H)
            table = torch.cat([undecoded, decoded]).to(C.dtype)  # (N + M, H)
            h_V = layer(h_V, edges, table, rows, nodes, encoding.graph)
            if states is not None:
                states.append(h_V)
        return self.W_out(h_V)

    def condition(
        self,
        encoding: Encoding,
        copies: Copies,
        tokens: Tensor,
        rank: Tensor,
        tied: bool = False,
    ) -> Tensor:
        """Logits of every residue as if it were decoded last, the others in their order.

        Arguments as in `decode`; the ranks of a sequence are 0, 1, 2, ... in any order. If `tied`,
        the others are in an order that `conditional.tied_last_states` makes of the given one.
        Returns (M, 21).
        """
        last = tied_last_states if tied else last_states
        graph, blocks = encoding.graph, [layer.blocks() for layer in self.decoders]
        residues = [F.linear(self.W_s.weight, C) for _, _, C, _ in blocks]  # (21, H) each

        def decoded(l: int, tokens: Tensor, h_V: Tensor) -> Tensor:
            *_, D = blocks[l]
            return residues[l][tokens] + F.linear(h_V, D)

        def advance(l: int, h_V: Tensor, table: Tensor, reads: Tensor, nodes: Tensor) -> Tensor:
            return self.decoders[l](h_V, encoding.edges[l], table, reads, nodes, graph)

        layers = Layers(len(blocks), decoded, advance)
        return self.W_out(last(encoding, copies, tokens, rank, layers))

    @staticmethod
    def rows(encoding: Encoding, copies: Copies | None, rank: Tensor) -> Tensor:
        """Row of [undecoded; decoded] that each edge reads under `rank`: (M, K) int64."""
        N = encoding.h_V.shape[0]
        neighbours = encoding.graph.neighbours
        decoded = neighbours if copies is None else copies.neighbours
        undecoded = neighbours if copies is None else neighbours[copies.nodes]
        return torch.where(rank[decoded] < rank[:, None], decoded + N, undecoded)
