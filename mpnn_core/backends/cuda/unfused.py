"""The CUDA backend in plain torch, in the tier's dtype: what the fused kernels do not do.

All of it where Triton is missing; and the sampling of tied positions and position-specific scoring
matrices everywhere.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from mpnn_core.backends.cuda.weights import in_dtype, split_embedding
from mpnn_core.backends.plain import TorchLevels
from mpnn_core.constants import (
    ATOM_PAIRS,
    FIRST_CENTRE,
    GAUSSIANS,
    LAST_CENTRE,
    MESSAGE_SCALE,
    SIGMA,
)
from mpnn_core.network.encoding import OWN_FEATURES, Copies, Encoding
from mpnn_core.network.features import offset_classes, with_virtual_cb
from mpnn_core.network.graph import Backbones, Graph
from mpnn_core.network.mpnn import MPNN, EncoderLayer
from mpnn_core.sampling.sampler import Distribution, Samples, sample
from mpnn_core.sampling.schedule import wavefront

# Edges of the encoder that are computed at a time: 256 MiB for each float32 tensor of them.
EDGES_AT_A_TIME = 1 << 19


class Unfused:
    """`CudaBackend` without its kernels.

    Parameters
    ----------
    network : on the device
    dtype : of tables, edges and products
    """

    def __init__(self, network: MPNN, dtype: torch.dtype) -> None:
        self.network, self.dtype = network, dtype

    def encode(self, backbones: Backbones, graph: Graph, h_V: Tensor) -> Encoding:
        """Features and encoder, from the node states h_V (N, H) float32."""
        N, K = graph.neighbours.shape
        parts = parts_of(graph)
        h_E = self.edge_features(backbones, graph, parts)  # (N, K, H)
        for layer in self.encoder:
            h_V, h_E = layer(h_V, h_E, graph, parts)
        B, D = self.decoder_blocks
        edges = of_layers(h_E.view(N * K, -1), B).view(-1, N, K, h_E.shape[-1])
        return Encoding(graph, h_V, edges, undecoded=of_layers(h_V.to(self.dtype), D))

    def edge_features(self, backbones: Backbones, graph: Graph, parts: list[slice]) -> Tensor:
        """The edges' states before the first layer, in the tier's dtype: (N, K, H)."""
        if OWN_FEATURES not in self.network.requires:
            return self.features.embedded(backbones, graph, parts)
        E = (self.network.features(backbones, graph, part) for part in parts)  # float32
        return torch.cat([self.network.W_e(x).to(self.dtype) for x in E])

    def decode(self, encoding: Encoding, copies: Copies, tokens: Tensor, rank: Tensor) -> Tensor:
        """Logits (M, 21) of given residues, in float32."""
        return self.network.decode(in_float32(encoding), copies, tokens, rank)

    def condition(self, encoding: Encoding, copies: Copies, tokens: Tensor, rank: Tensor) -> Tensor:
        """Logits (M, 21) of given residues, each after all others, in float32."""
        return self.network.condition(in_float32(encoding), copies, tokens, rank)

    def sample(
        self,
        encoding: Encoding,
        copies: Copies,
        rank: Tensor,
        distribution: Distribution,
        uniform: Tensor,
        tokens: Tensor,
        designed: Tensor,
    ) -> Samples:
        """Residues for the rows that are designed, in float32, by any distribution."""
        levels = TorchLevels(self.network, in_float32(encoding), copies, rank)
        steps = wavefront(rank, copies.neighbours, distribution.group)
        return sample(levels, rank, steps, distribution, uniform, tokens, designed)

    @cached_property
    def features(self) -> UnfusedFeatures:
        return UnfusedFeatures(self.network, self.dtype)

    @cached_property
    def decoder_blocks(self) -> tuple[Tensor, Tensor]:
        """B and D of each decoder layer: (layers, H, H) each."""
        _, B, _, D = zip(*(layer.blocks() for layer in self.network.decoders), strict=True)
        return in_dtype(torch.stack(B), self.dtype), in_dtype(torch.stack(D), self.dtype)

    @cached_property
    def encoder(self) -> list[UnfusedEncoderLayer]:
        layers: list[EncoderLayer] = list(self.network.encoder_layers)  # type: ignore[arg-type]
        return [UnfusedEncoderLayer(layer, self.dtype) for layer in layers]


def parts_of(graph: Graph) -> list[slice]:
    """Nodes of which the edges are computed at a time."""
    N, K = graph.neighbours.shape
    step = max(1, EDGES_AT_A_TIME // K)
    return [slice(i, min(i + step, N)) for i in range(0, N, step)]


class UnfusedFeatures:
    """`features.EdgeFeatures` and W_e, with products in the tier's dtype."""

    def __init__(self, network: MPNN, dtype: torch.dtype) -> None:
        self.dtype, self.norm_edges = dtype, network.features.norm_edges
        W_offset, W_rbf = split_embedding(network)
        device = W_rbf.device
        self.first, self.second = torch.tensor(ATOM_PAIRS, device=device).T.contiguous()
        self.centres = torch.linspace(
            FIRST_CENTRE, LAST_CENTRE, GAUSSIANS, dtype=torch.float32, device=device
        )
        self.offset_table = F.linear(network.features.embeddings.table().detach(), W_offset)
        self.W_rbf = in_dtype(W_rbf, dtype)
        self.W_e, self.b_e = (in_dtype(x, dtype) for x in (network.W_e.weight, network.W_e.bias))

    def embedded(self, backbones: Backbones, graph: Graph, parts: list[slice]) -> Tensor:
        """The edges' states before the first layer: (N, K, H)."""
        atoms = with_virtual_cb(backbones.coords)  # (N, 5, 3)
        own, of_neighbours = atoms[:, self.first], atoms[:, self.second]  # (N, 25, 3) each
        tiles = []
        for part in parts:
            difference = own[part][:, None] - of_neighbours[graph.neighbours[part]]
            distances = (difference.square().sum(-1) + 1e-6).sqrt()  # (n, K, 25)
            scaled = (distances[..., None] - self.centres) * (1 / SIGMA)  # (n, K, 25, 16)
            rbf = torch.exp(-scaled.square()).flatten(-2)
            E = F.linear(rbf.to(self.dtype), self.W_rbf).float()
            E = self.norm_edges(E + self.offset_table[offset_classes(backbones, graph, part)])
            tiles.append(F.linear(E.to(self.dtype), self.W_e, self.b_e))
        return torch.cat(tiles)


class UnfusedEncoderLayer:
    """`mpnn.EncoderLayer` with edges and their products in the tier's dtype, nodes in float32."""

    def __init__(self, layer: EncoderLayer, dtype: torch.dtype) -> None:
        self.layer, self.dtype = layer, dtype

        def cast(*parts: Tensor) -> tuple[Tensor, ...]:
            return tuple(in_dtype(x, dtype) for x in parts)

        self.W1 = cast(*layer.W1.weight.chunk(3, 1), layer.W1.bias)
        self.W2 = cast(layer.W2.weight, layer.W2.bias)
        self.W11 = cast(*layer.W11.weight.chunk(3, 1), layer.W11.bias)
        self.W12 = cast(layer.W12.weight, layer.W12.bias)
        self.W13 = cast(layer.W13.weight, layer.W13.bias)

    def __call__(
        self, h_V: Tensor, h_E: Tensor, graph: Graph, parts: list[slice]
    ) -> tuple[Tensor, Tensor]:
        """(N, H) float32, (N, K, H) -> the same, one layer on."""
        layer, aggregated, updated = self.layer, [], []
        for part in parts:
            hidden = self._hidden(self.W1, h_V, h_E, graph, part)
            message = F.gelu(F.linear(hidden, *self.W2))
            valid = graph.valid_of(part)
            if valid is not None:
                message *= valid[..., None]
            aggregated.append(message.sum(1, dtype=torch.float32))
        message = F.linear(torch.cat(aggregated), layer.W3.weight)
        message = message + graph.degree * layer.W3.bias
        h_V = layer.norm1(h_V + message / MESSAGE_SCALE)
        h_V = layer.norm2(h_V + layer.dense(h_V))
        for part in parts:
            hidden = self._hidden(self.W11, h_V, h_E, graph, part)
            update = F.linear(F.gelu(F.linear(hidden, *self.W12)), *self.W13)
            updated.append(layer.norm3(h_E[part].float() + update).to(self.dtype))
        return h_V, torch.cat(updated)

    def _hidden(
        self, W1: tuple[Tensor, ...], h_V: Tensor, h_E: Tensor, graph: Graph, part: slice
    ) -> Tensor:
        """GELU of W1 [h_i, h_E, h_j] for some nodes' edges: (n, K, H)."""
        A, B, C, bias = W1
        h = h_V.to(self.dtype)
        edge = F.linear(h_E[part], B)
        edge += F.linear(h[part], A, bias)[:, None]
        edge += F.linear(h, C)[graph.neighbours[part]]
        return F.gelu(edge)


def of_layers(x: Tensor, weights: Tensor) -> Tensor:
    """x (n, H) times the matrix of each layer, (l, H, H) row-major by outputs: (l, n, H)."""
    return torch.bmm(x.expand(len(weights), -1, -1), weights.mT)


def in_float32(encoding: Encoding) -> Encoding:
    """The encoding with its tables in float32."""
    return replace(encoding, edges=encoding.edges.float(), undecoded=encoding.undecoded.float())
