"""The network in MLX, for the GPU of Apple silicon.

Features, encoder, decoder and the drawing of residues are `mlx.core` operations, reformulated as in
`network/mpnn.py`; the k-NN and the levels of a decoding order are the host's. Three tiers:

- exact: float32
- fast: float16 weights, tables and products; float32 distances, sums, norms and node states
- int8: as exact, with matrices of 8 bits in groups of 32

On a GPU one kernel, written in Metal, makes a node's whole message; elsewhere, and in the int8
tier, MLX's own operations do. MLX runs on Linux too, on the CPU: there the results are tested, and
nothing is said about speed, for MLX's CPU code is not meant to be fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from torch import Tensor, nn

from mpnn_core.backends.contract import Backend, require_known
from mpnn_core.constants import (
    ATOM_PAIRS,
    CA,
    FIRST_CENTRE,
    GAUSSIANS,
    LAST_CENTRE,
    LETTERS,
    MESSAGE_SCALE,
    OFFSET_WIDTH,
    SIGMA,
    VIRTUAL_CB,
    C,
    N,
)
from mpnn_core.network.encoding import CHANGED_STATES, INITIAL_STATES, Copies
from mpnn_core.network.features import offset_classes
from mpnn_core.network.graph import Backbones, Graph, nearest_neighbours
from mpnn_core.network.mpnn import MPNN, MessageLayer
from mpnn_core.sampling.sampler import Distribution, Samples, sample
from mpnn_core.sampling.schedule import wavefront

TIERS = ("exact", "fast", "int8")
BITS, GROUP = 8, 32  # of quantised weights
# Edges that MLX's own operations compute at a time: 64 MB of float32 at H = 128.
EDGES_AT_A_TIME = 1 << 17


def gelu(x: mx.array) -> mx.array:
    """The exact GELU, x Phi(x)."""
    return x * (1 + mx.erf(x * 2**-0.5)) / 2


def activated(edges: mx.array, own: mx.array, neighbours: mx.array) -> mx.array:
    """GELU of W1's output, from its parts on edges, on a node and on its neighbours: (n, K, H)."""
    return gelu(edges + own[:, None] + neighbours)


if mx.metal.is_available():
    # One kernel for each instead of one per operation. On a CPU each would wait for a C++ compiler.
    gelu = mx.compile(gelu, shapeless=True)
    activated = mx.compile(activated, shapeless=True)


# -------------------------------------------------------------------------------------- the kernel

# x Phi(x); Phi - 1/2 is an odd rational, to 7e-10, as in the native code. Metal has no erf.
KERNEL_HEADER = """
inline float mpnn_gelu(float x) {
  const float c = x < -5.6f ? -5.6f : (x > 5.6f ? 5.6f : x), z = c * c;
  float p = -7.467982237e-11f;
  p = p * z + 5.250569932e-08f;
  p = p * z + 8.433297011e-06f;
  p = p * z + 1.695495111e-04f;
  p = p * z + 4.800252630e-03f;
  p = p * z + 3.265251651e-02f;
  p = p * z + 3.989422855e-01f;
  float q = 1.991968734e-06f;
  q = q * z + 8.172256742e-05f;
  q = q * z + 1.930459937e-03f;
  q = q * z + 2.845129444e-02f;
  q = q * z + 2.485144899e-01f;
  q = q * z + 1.0f;
  return x * (c * p / q + 0.5f);
}
"""

# A group of H threads makes the message of one row; a thread has one of its H channels. TILE
# neighbours at a time, so that a weight is read once for all of them, and nothing that has an edge
# axis is written to memory.
KERNEL_BODY = """
  const uint row = threadgroup_position_in_grid.x, h = thread_position_in_threadgroup.x;
  const size_t node = nodes[row];
  const float from = float(here[row * H + h]);
  threadgroup float x[TILE * H];
  float sum = 0;
  for (int start = 0; start < K; start += TILE) {
    for (int t = 0; t < TILE; t++) {
      const int k = start + t;
      x[t * H + h] = k < K ? mpnn_gelu(float(edges[(node * K + k) * H + h]) + from +
                                  float(table[size_t(reads[row * K + k]) * H + h])) : 0;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float y[TILE];
    for (int t = 0; t < TILE; t++) y[t] = float(bias[h]);
    for (int c = 0; c < H; c++) {
      const float w = float(weight[c * H + h]);
      for (int t = 0; t < TILE; t++) y[t] += w * x[t * H + c];
    }
    for (int t = 0; t < TILE; t++) {
      const int k = start + t;
      if (k < K && valid[node * K + k]) sum += mpnn_gelu(y[t]);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  out[row * H + h] = sum;
"""
KERNEL_INPUTS = ("edges", "here", "table", "reads", "nodes", "valid", "weight", "bias")
KERNEL_TILE = 16  # neighbours


class FusedMessage:
    """The message of rows, up to W3, in one Metal kernel."""

    def __init__(self) -> None:
        self.kernel: Any = mx.fast.metal_kernel(
            name="mpnn_message",
            input_names=list(KERNEL_INPUTS),
            output_names=["out"],
            header=KERNEL_HEADER,
            source=KERNEL_BODY,
        )

    def __call__(
        self,
        edges: mx.array,
        here: mx.array,
        table: mx.array,
        reads: mx.array,
        nodes: mx.array,
        valid: mx.array,
        layer: Layer,
    ) -> mx.array:
        """See `plain_message`; weights of `layer` are not quantised."""
        n, H = here.shape
        K = reads.shape[1]
        [out] = self.kernel(
            inputs=[edges, here, table, reads, nodes, valid, layer.W2.weight, layer.W2.bias],
            template=[("H", H), ("K", K), ("TILE", KERNEL_TILE)],
            grid=(n * H, 1, 1),
            threadgroup=(H, 1, 1),
            output_shapes=[(n, H)],
            output_dtypes=[mx.float32],
        )
        return out


def plain_message(
    edges: mx.array,
    here: mx.array,
    table: mx.array,
    reads: mx.array,
    nodes: mx.array,
    valid: mx.array,
    layer: Layer,
) -> mx.array:
    """Sum of messages before W3, (n, H) float32, in MLX's own operations.

    Parameters
    ----------
    edges : (N, K, H), B h_E of the structures' edges
    here : (n, H), A h_i and the bias
    table, reads : (R, H) and (n, K) int32, what neighbours contribute, and which row of it
    nodes : (n,) int32, which of the N nodes each row is
    valid : (N, K) uint8, 0 for spare slots
    """
    sums = []
    for part in _tiles(*reads.shape):
        message = gelu(layer.W2(activated(edges[nodes[part]], here[part], table[reads[part]])))
        message = message * valid[nodes[part]][..., None].astype(message.dtype)
        sums.append(message.astype(mx.float32).sum(1))
    return mx.concatenate(sums)


def _tiles(nodes: int, neighbours: int) -> Iterator[slice]:
    step = max(1, EDGES_AT_A_TIME // neighbours)
    return (slice(start, min(start + step, nodes)) for start in range(0, nodes, step))


# ------------------------------------------------------------------------------------- the network


def _mlx(tensor: Tensor, dtype: Any = None) -> mx.array:
    array = mx.array(np.ascontiguousarray(tensor.detach().cpu().numpy()))
    return array if dtype is None else array.astype(dtype)


def _torch(array: mx.array) -> Tensor:
    return torch.from_numpy(np.array(array))


def _precision(tier: str) -> mx.Dtype:
    """Of activations, tables and what is not quantised."""
    return mx.float16 if tier == "fast" else mx.float32


class Linear:
    """A linear layer in the tier's precision; weights are stored (in, out), or quantised."""

    def __init__(self, tier: str, weight: Tensor, bias: Tensor | None = None) -> None:
        self.dtype = _precision(tier)
        self.quantised = tier == "int8" and weight.shape[1] % GROUP == 0 and len(weight) > LETTERS
        self.bias = None if bias is None else _mlx(bias, self.dtype)
        if self.quantised:
            self.packed = mx.quantize(_mlx(weight, self.dtype), group_size=GROUP, bits=BITS)
        else:
            self.weight = _mlx(weight.T, self.dtype)

    def __call__(self, x: mx.array) -> mx.array:
        x = x.astype(self.dtype)
        if self.quantised:
            y = mx.quantized_matmul(x, *self.packed, transpose=True, group_size=GROUP, bits=BITS)
        else:
            y = x @ self.weight
        return y if self.bias is None else y + self.bias


class Norm:
    """LayerNorm in float32."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self.weight, self.bias, self.eps = _mlx(norm.weight), _mlx(norm.bias), norm.eps

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.layer_norm(x.astype(mx.float32), self.weight, self.bias, self.eps)


class Layer:
    """What encoder and decoder layers share; see `mpnn.MessageLayer`."""

    def __init__(self, tier: str, layer: MessageLayer, *inputs: Tensor) -> None:
        linear = partial(Linear, tier)
        self.A = linear(inputs[0], layer.W1.bias)
        self.B, self.C, *rest = map(linear, inputs[1:])
        self.D = rest[0] if rest else None
        self.W2 = linear(layer.W2.weight, layer.W2.bias)
        self.W3, self.b3 = linear(layer.W3.weight), _mlx(layer.W3.bias)
        self.norm1, self.norm2 = Norm(layer.norm1), Norm(layer.norm2)
        self.W_in = linear(layer.dense.W_in.weight, layer.dense.W_in.bias)
        self.W_out = linear(layer.dense.W_out.weight, layer.dense.W_out.bias)

    def update(self, h_V: mx.array, aggregated: mx.array, count: mx.array) -> mx.array:
        """New node states (n, H) float32 from the aggregate (n, H) of `count` (n, 1) messages."""
        # Scaled before the product: 48 messages are too much for float16.
        message = self.W3(aggregated / MESSAGE_SCALE) + count / MESSAGE_SCALE * self.b3
        h_V = self.norm1(h_V + message)
        return self.norm2(h_V + self.W_out(gelu(self.W_in(h_V))))


class EncoderLayer(Layer):
    def __init__(self, tier: str, layer: Any) -> None:
        super().__init__(tier, layer, *layer.W1.weight.chunk(3, 1))
        A, B, C = layer.W11.weight.chunk(3, 1)
        self.A11, self.B11, self.C11 = (
            Linear(tier, A, layer.W11.bias), Linear(tier, B), Linear(tier, C)
        )  # fmt: skip
        self.W12 = Linear(tier, layer.W12.weight, layer.W12.bias)
        self.W13 = Linear(tier, layer.W13.weight, layer.W13.bias)
        self.norm3 = Norm(layer.norm3)

    def updated_edges(self, h_V: mx.array, h_E: mx.array, neighbours: mx.array) -> mx.array:
        """(N, H), (N, K, H) -> (N, K, H)."""
        own, of_neighbours = self.A11(h_V), self.C11(h_V)
        tiles = []
        for part in _tiles(*neighbours.shape):
            edge = activated(self.B11(h_E[part]), own[part], of_neighbours[neighbours[part]])
            new = h_E[part].astype(mx.float32) + self.W13(gelu(self.W12(edge)))
            tiles.append(self.norm3(new).astype(h_E.dtype))
        return mx.concatenate(tiles)


@dataclass(frozen=True, eq=False)
class MLXEncoding:
    """`encoding.Encoding` in MLX's arrays.

    Attributes
    ----------
    graph : on the host
    neighbours : (N, K) int32
    valid : (N, K) uint8
    degree : (N, 1) float32
    h_V : (N, H) float32
    edges, undecoded : per decoder layer (N, K, H) and (N, H), in the tier's precision
    """

    graph: Graph
    neighbours: mx.array
    valid: mx.array
    degree: mx.array
    h_V: mx.array
    edges: list[mx.array]
    undecoded: list[mx.array]


class MLXBackend(Backend):
    """The contract of `backends.contract.Backend`, on the device that MLX computes on.

    Parameters
    ----------
    network : the network, on the CPU; its weights are copied
    tier : "exact", or "fast" or "int8", which are lossy

    Raises
    ------
    ValueError
        Unknown tier.
    """

    knows = frozenset({"profile", "group", "weight", INITIAL_STATES, CHANGED_STATES})

    def __init__(self, network: MPNN, tier: str = "exact") -> None:
        if tier not in TIERS:
            raise ValueError(f"tier {tier!r}: expected one of {', '.join(TIERS)}")
        self.name = "mlx" if tier == "exact" else f"mlx-{tier}"
        self.tier, self.dtype = tier, _precision(tier)
        self.network, self.neighbours = network, network.neighbours
        fused = mx.metal.is_available() and tier != "int8"
        self.message: Callable[..., mx.array] = FusedMessage() if fused else plain_message

        linear = partial(Linear, tier)
        features = network.features
        W = features.edge_embedding.weight
        W_offset, W_rbf = W.split([OFFSET_WIDTH, W.shape[1] - OFFSET_WIDTH], 1)
        self.offset_table = _mlx(features.embeddings.table() @ W_offset.T)  # (66, H)
        self.W_rbf, self.norm_edges = linear(W_rbf), Norm(features.norm_edges)
        self.W_e = linear(network.W_e.weight, network.W_e.bias)
        self.encoder = [EncoderLayer(tier, layer) for layer in network.encoder_layers]
        self.decoder = [Layer(tier, layer, *_decoder_blocks(layer)) for layer in network.decoders]
        embedding = network.W_s.weight
        self.residues = [
            _mlx(embedding @ layer.blocks()[2].T, self.dtype) for layer in network.decoders
        ]  # (21, H) each
        self.W_out = linear(network.W_out.weight, network.W_out.bias)

    # ------------------------------------------------------------------------------------- encoder

    def encode(
        self, backbones: Backbones, graph: Graph | None = None, h_V: Tensor | None = None
    ) -> MLXEncoding:
        """Features and encoder of any number of structures; arguments as in `MPNN.encode`."""
        graph = graph or nearest_neighbours(backbones, self.neighbours)
        neighbours = _mlx(graph.neighbours, mx.int32)
        nodes = mx.arange(len(neighbours))
        valid = (
            mx.ones(neighbours.shape, dtype=mx.uint8)
            if graph.valid is None
            else _mlx(graph.valid, mx.uint8)
        )
        degree = _mlx(graph.degree, mx.float32)
        h_E = self._features(backbones, graph, neighbours)  # (N, K, H)
        states = (
            mx.zeros((len(neighbours), h_E.shape[-1])) if h_V is None else _mlx(h_V, mx.float32)
        )  # (N, H)
        for layer in self.encoder:
            aggregated = self.message(
                layer.B(h_E), layer.A(states), layer.C(states), neighbours, nodes, valid, layer
            )
            states = layer.update(states, aggregated, degree)
            h_E = layer.updated_edges(states, h_E, neighbours)
        encoding = MLXEncoding(
            graph, neighbours, valid, degree, states,
            edges=[layer.B(h_E) for layer in self.decoder],
            undecoded=self._undecoded(states),
        )  # fmt: skip
        mx.eval(encoding.edges, encoding.undecoded)
        return encoding

    def states(self, encoding: MLXEncoding) -> Tensor:
        """The node states of an encoding, on the CPU: (N, H) float32."""
        return _torch(encoding.h_V)

    def with_states(self, encoding: MLXEncoding, h_V: Tensor) -> MLXEncoding:
        """The encoding with other node states (N, H)."""
        states = _mlx(h_V, mx.float32)
        return replace(encoding, h_V=states, undecoded=self._undecoded(states))

    def _undecoded(self, h_V: mx.array) -> list[mx.array]:
        """D h_V of each decoder layer: (N, H) each."""
        return [layer.D(h_V) for layer in self.decoder if layer.D is not None]

    def _features(self, backbones: Backbones, graph: Graph, neighbours: mx.array) -> mx.array:
        """W_e of the embedded, normalised features: (N, K, H)."""
        coords = _mlx(backbones.coords, mx.float32)  # (N, 4, 3)
        b, c = coords[:, CA] - coords[:, N], coords[:, C] - coords[:, CA]
        a = mx.linalg.cross(b, c)
        along_a, along_b, along_c = VIRTUAL_CB
        cb = along_a * a + along_b * b + along_c * c + coords[:, CA]
        atoms = mx.concatenate([coords, cb[:, None]], 1)  # (N, 5, 3)
        first, second = (mx.array(side) for side in zip(*ATOM_PAIRS, strict=True))
        own, of_neighbours = atoms[:, first], atoms[:, second]  # (N, 25, 3)
        centres = mx.array(np.linspace(FIRST_CENTRE, LAST_CENTRE, GAUSSIANS, dtype=np.float32))
        classes = _mlx(offset_classes(backbones, graph, slice(None)), mx.int32)  # (N, K)
        tiles = []
        for part in _tiles(*neighbours.shape):
            difference = own[part][:, None] - of_neighbours[neighbours[part]]  # (n, K, 25, 3)
            distances = mx.sqrt((difference * difference).sum(-1) + 1e-6)
            scaled = (distances[..., None] - centres) / SIGMA  # (n, K, 25, 16)
            rbf = mx.exp(-(scaled * scaled)).flatten(-2)
            E = self.W_rbf(rbf).astype(mx.float32) + self.offset_table[classes[part]]
            tiles.append(self.W_e(self.norm_edges(E)))
        return mx.concatenate(tiles)

    # ------------------------------------------------------------------------------------- decoder

    def decode(self, encoding: MLXEncoding, copies: Copies, tokens: Tensor, rank: Tensor) -> Tensor:
        """Logits (M, 21) of given residues; see `MPNN.decode`."""
        letters, nodes = _mlx(tokens, mx.int32), _mlx(copies.nodes, mx.int32)
        reads = _reads(encoding, copies, rank)
        h_V = encoding.h_V[nodes]  # (M, H)
        for i, layer in enumerate(self.decoder):
            assert layer.D is not None
            decoded = self.residues[i][letters] + layer.D(h_V)
            table = mx.concatenate([encoding.undecoded[i], decoded])  # (N + M, H)
            h_V = self._decoder_layer(i, h_V, encoding, table, reads, nodes)
        return _torch(self.W_out(h_V).astype(mx.float32))

    def _decoder_layer(
        self,
        i: int,
        h_V: mx.array,
        encoding: MLXEncoding,
        table: mx.array,
        reads: mx.array,
        nodes: mx.array,
    ) -> mx.array:
        """(n, H) -> (n, H), one layer on."""
        layer = self.decoder[i]
        aggregated = self.message(
            encoding.edges[i], layer.A(h_V), table, reads, nodes, encoding.valid, layer
        )
        return layer.update(h_V, aggregated, encoding.degree[nodes])

    def sample(
        self,
        encoding: MLXEncoding,
        copies: Copies,
        rank: Tensor,
        distribution: Distribution,
        uniform: Tensor,
        tokens: Tensor,
        designed: Tensor,
    ) -> Samples:
        """Residues for the rows that are designed; see `Backend.sample`.

        Drawn in float32, without waiting for the device; with tied positions or a PSSM, drawn on
        the host.
        """
        require_known(self, distribution.in_use)
        levels = MLXLevels(self, encoding, copies, rank)
        steps = wavefront(rank, copies.neighbours, distribution.group)
        if distribution.in_use:
            host = HostLevels(levels)
            return sample(host, rank, steps, distribution, uniform, tokens, designed)
        temperature, bias = _mlx(distribution.temperature), _mlx(distribution.bias)
        omit, numbers = _mlx(distribution.omit), _mlx(uniform.float())
        letters, is_designed = _mlx(tokens, mx.int32), _mlx(designed)
        results = []
        for step in steps:
            rows = _mlx(step.rows, mx.int32)
            logits = levels.decode(rows)  # (n, 21)
            warmth = temperature[rows][:, None]
            scaled = mx.where(omit[rows], -mx.inf, logits / warmth + bias[rows] / warmth)
            p = mx.softmax(scaled, -1, precise=True)
            drawn = mx.where(is_designed[rows], draw_float32(p, numbers[rows]), letters[rows])
            levels.place(rows, drawn)
            results.append((drawn, logits, mx.where(is_designed[rows][:, None], p, 0)))
            mx.async_eval(results[-1])
        order = torch.cat([step.rows for step in steps]).argsort()
        return Samples(
            *(_torch(mx.concatenate(list(parts)))[order] for parts in zip(*results, strict=True))
        )


def _decoder_blocks(layer: Any) -> tuple[Tensor, ...]:
    """A, B, C, D of W1. `Layer` calls them so in an encoder as well, where there is no D."""
    blocks: tuple[Tensor, ...] = layer.blocks()
    return blocks


def draw_float32(probabilities: mx.array, uniform: mx.array) -> mx.array:
    """`sampler.draw` on the device, which has no float64: (n, 21), (n,) -> (n,) int32."""
    cumulative = mx.cumsum(probabilities, -1)
    total = cumulative[:, -1:]
    drawn = (cumulative <= uniform[:, None] * total).sum(-1)
    last_possible = (cumulative < total).sum(-1)
    return mx.minimum(drawn, last_possible).astype(mx.int32)


def _reads(encoding: MLXEncoding, copies: Copies, rank: Tensor) -> mx.array:
    """Row of [undecoded; decoded] that each edge reads: (M, K) int32; see `MPNN.rows`."""
    N = len(encoding.graph.neighbours)
    before = rank[copies.neighbours] < rank[:, None]
    undecoded = encoding.graph.neighbours[copies.nodes]
    return _mlx(torch.where(before, copies.neighbours + N, undecoded), mx.int32)


class MLXLevels:
    """Rows of one level after the other, on MLX's arrays; see `sampler.Levels`."""

    def __init__(
        self, backend: MLXBackend, encoding: MLXEncoding, copies: Copies, rank: Tensor
    ) -> None:
        self.backend, self.encoding = backend, encoding
        self.reads, self.nodes = _reads(encoding, copies, rank), _mlx(copies.nodes, mx.int32)
        spare = mx.zeros((len(rank), encoding.h_V.shape[1]), dtype=backend.dtype)
        self.tables = [mx.concatenate([T, spare]) for T in encoding.undecoded]  # (N + M, H) each

    @cached_property
    def first(self) -> int:
        """Row of the tables that the first sequence's first residue has."""
        return len(self.encoding.h_V)

    def decode(self, rows: mx.array) -> mx.array:
        """Logits (n, 21) float32 of rows (n,) int32."""
        nodes, reads = self.nodes[rows], self.reads[rows]
        h_V = self.encoding.h_V[nodes]
        for i, (layer, table) in enumerate(zip(self.backend.decoder, self.tables, strict=True)):
            assert layer.D is not None
            state = layer.D(h_V)
            h_V = self.backend._decoder_layer(i, h_V, self.encoding, table, reads, nodes)
            table[self.first + rows] = state  # no row of a level reads what the level writes
        return self.backend.W_out(h_V).astype(mx.float32)

    def place(self, rows: mx.array, tokens: mx.array) -> None:
        for table, residues in zip(self.tables, self.backend.residues, strict=True):
            table[self.first + rows] = table[self.first + rows] + residues[tokens]


class HostLevels:
    """`sampler.Levels` of the host, which draws; the rows are decoded in MLX."""

    def __init__(self, levels: MLXLevels) -> None:
        self.levels = levels

    def decode(self, rows: Tensor) -> Tensor:
        return _torch(self.levels.decode(_mlx(rows, mx.int32)))

    def place(self, rows: Tensor, tokens: Tensor) -> None:
        if len(rows):
            self.levels.place(_mlx(rows, mx.int32), _mlx(tokens, mx.int32))
