"""The network in plain torch, on any torch device."""

from __future__ import annotations

import torch
from torch import Tensor

from mpnn_core.backends.contract import Backend, serves
from mpnn_core.network.encoding import Copies, Encoding
from mpnn_core.network.graph import Backbones, Graph
from mpnn_core.network.mpnn import MPNN
from mpnn_core.sampling.sampler import Distribution, Samples, sample
from mpnn_core.sampling.schedule import wavefront


class TorchBackend(Backend):
    """`network/mpnn.py` and `sampling/sampler.py` as they are: everything, on any torch device."""

    name = "torch"
    knows = None

    def __init__(self, network: MPNN) -> None:
        self.network = network

    def encode(
        self, backbones: Backbones, graph: Graph | None = None, h_V: Tensor | None = None
    ) -> Encoding:
        return self.network.encode(backbones, graph, h_V=h_V)

    def decode(self, encoding: Encoding, copies: Copies, tokens: Tensor, rank: Tensor) -> Tensor:
        return self.network.decode(encoding, copies, tokens, rank)

    def condition(self, encoding: Encoding, copies: Copies, tokens: Tensor, rank: Tensor) -> Tensor:
        return self.network.condition(encoding, copies, tokens, rank)

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
        levels = TorchLevels(self.network, encoding, copies, rank)
        steps = wavefront(rank, copies.neighbours, distribution.group)
        return sample(levels, rank, steps, distribution, uniform, tokens, designed)


def serving(backend: Backend, needs: frozenset[str]) -> Backend:
    """The backend that serves a job: the given one, or where it lacks something, plain torch.

    `needs` as in `serves`. All of a job is computed by one backend, its encoding too. Plain torch
    computes with the same network, so on the same device; it holds nothing else.
    """
    return backend if serves(backend, needs) else TorchBackend(backend.network)


class TorchLevels:
    """`sampler.Levels` in plain torch: a table (N + M, H) per decoder layer."""

    def __init__(self, network: MPNN, encoding: Encoding, copies: Copies, rank: Tensor) -> None:
        self.network, self.encoding, self.copies = network, encoding, copies
        self.rows = network.rows(encoding, copies, rank)  # (M, K)
        self.blocks = [layer.blocks() for layer in network.decoders]
        self.residues = [network.W_s.weight @ C.T for _, _, C, _ in self.blocks]  # (21, H) each
        spare = torch.empty_like(encoding.h_V[copies.nodes])  # (M, H)
        self.tables = [torch.cat([T, spare]) for T in encoding.undecoded]

    def decode(self, rows: Tensor) -> Tensor:
        nodes = self.copies.nodes[rows]  # (n,)
        h_V = self.encoding.h_V[nodes]  # (n, H)
        written = len(self.encoding.h_V) + rows
        graph, reads = self.encoding.graph, self.rows[rows]
        for layer, edges, table, (*_, D) in zip(
            self.network.decoders, self.encoding.edges, self.tables, self.blocks, strict=True
        ):
            table[written] = h_V @ D.T  # no row of a step reads what the step writes
            h_V = layer(h_V, edges, table, reads, nodes, graph)
        return self.network.W_out(h_V)

    def place(self, rows: Tensor, tokens: Tensor) -> None:
        for table, residues in zip(self.tables, self.residues, strict=True):
            table[len(self.encoding.h_V) + rows] += residues[tokens]
