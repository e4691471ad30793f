"""The network on a CUDA device: all levels of all sequences in one launch.

`kernels.py` holds the kernels, in Triton; the fast tier's levels are CUDA C++ where that can be
compiled, in `decode_levels.cu`. docs/cuda.md counts their bytes and operations. Two tiers:

- exact: float32; each product as three of float16 parts on the matrix units, which keeps its
  accuracy
- fast: float16 tables, weights and products, float32 sums, norms and node states

Where Triton is missing, plain torch computes the same.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mpnn_core.backends.contract import Backend
from mpnn_core.backends.cuda import compiled
from mpnn_core.backends.cuda.plan import (
    COMPILED,
    LEVELS_EXPECTED,
    NARROW,
    TUNINGS,
    Deal,
    Plan,
    Tuning,
)
from mpnn_core.backends.cuda.replays import Replays
from mpnn_core.backends.cuda.weights import Weights
from mpnn_core.backends.plain import TorchLevels
from mpnn_core.constants import ATOM_PAIRS, LETTERS, MAX_OFFSET, MESSAGE_SCALE
from mpnn_core.design.batches import sorted_within
from mpnn_core.network.encoding import Copies, Encoding
from mpnn_core.network.features import offset_classes, with_virtual_cb
from mpnn_core.network.graph import Backbones, Graph, nearest_neighbours
from mpnn_core.network.mpnn import MPNN, EncoderLayer
from mpnn_core.sampling.sampler import Distribution, Samples, sample
from mpnn_core.sampling.schedule import wavefront

PRECISIONS = ("exact", "fast")
# The encoder's edges are computed this many at a time: 256 MiB for each float32 tensor of them.
TILE_EDGES = 1 << 19
NODE_ROWS = 16  # of a product on the matrix units, at least
ENCODER_EDGES = 64  # of one tile of the encoder's kernels
POSITIONS = 128  # of a block that draws random numbers, or finds atoms
STATES = 1 + LETTERS  # of a neighbour in the first decoder layer: no residue, or a letter
# Messages of the first decoder layer are computed for every state of every edge where there are
# more rows than states of nodes; in the exact tier for so few nodes always, since there it is less
# than what the levels of one sequence save.
KNOWN_FROM = STATES  # sequences of a structure
MOST_ALWAYS_KNOWN = 1024
MOST_MESSAGE_BYTES = 2 << 30
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"


class CudaBackend(Backend):
    """The contract of `backends.Backend`, on the device of the network's weights.

    Parameters
    ----------
    network : whose weights are copied; on a CUDA device
    precision : "exact", float32, or "fast", float16 with float32 sums
    tuning : how Triton's kernels are cut; None takes what was measured best, and what is compiled
        from CUDA C++ where it can be

    Attributes
    ----------
    launch : launches the levels of the fast tier as `decode_levels.cu`; None where that cannot be
        compiled or does not fit the network, and Triton's serve

    Raises
    ------
    ValueError
        Unknown precision.
    """

    def __init__(
        self, network: MPNN, precision: str = "exact", tuning: Tuning | None = None
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
        self.network = network
        self.precision = precision
        self.name = f"cuda-{precision}"
        self.dtype = torch.float32 if precision == "exact" else torch.float16
        self.many, self.few, self.narrow = (tuning,) * 3 if tuning else TUNINGS[precision]
        self.weights = Weights(network, self.dtype)
        self.device = network.W_out.weight.device
        hidden = network.W_out.in_features
        # Block sizes of Triton are powers of two, and a matrix unit takes no fewer than 16.
        power_of_two = hidden >= 16 and hidden & (hidden - 1) == 0
        self.triton = find_spec("triton") is not None and power_of_two
        if self.device.type == "cuda":
            properties = torch.cuda.get_device_properties(self.device)
            self.multiprocessors = properties.multi_processor_count
            self.replays = Replays(self.device) if self.triton else None
        else:
            self.triton &= INTERPRETED
            self.multiprocessors = 1
        self.launch: compiled.Launch | None = None
        wanted = self.weights.packed and self.triton and tuning is None
        if wanted and compiled.available(self.device, network):
            self.launch = compiled.launch

    @torch.inference_mode()
    def encode(self, backbones: Backbones, graph: Graph | None = None) -> Encoding:
        """Features and encoder of any number of structures, edges in the tier's dtype."""
        graph = graph or nearest_neighbours(backbones, self.network.neighbours)
        if self.triton:
            return self._encoded(backbones, graph)
        w = self.weights
        N, K = graph.neighbours.shape
        step = max(1, TILE_EDGES // K)
        parts = [slice(i, min(i + step, N)) for i in range(0, N, step)]
        atoms = with_virtual_cb(backbones.coords)  # (N, 5, 3)
        h_E = torch.cat([self._features(backbones, atoms, graph, part) for part in parts])
        h_V = torch.zeros(N, h_E.shape[-1], device=h_E.device)  # (N, H) float32
        for layer, blocks in zip(w.encoder, w.encoder_blocks, strict=True):
            h_V, h_E = self._encoder_layer(layer, blocks, h_V, h_E, graph, parts)
        return Encoding(
            graph,
            h_V,
            edges=_of_layers(h_E.view(N * K, -1), w.B).view(-1, N, K, h_E.shape[-1]),
            undecoded=_of_layers(h_V.to(self.dtype), w.D),
        )

    def _encoded(self, backbones: Backbones, graph: Graph) -> Encoding:
        """`encode` in fused kernels: no tensor with an edge axis but h_E and the result."""
        from mpnn_core.backends.cuda import kernels

        w, dtype, exact = self.weights, self.dtype, self.precision == "exact"
        (N, K), H = graph.neighbours.shape, w.b_e.shape[0]
        neighbours, (valid, degree) = graph.neighbours, graph.for_kernels
        shape: dict[str, Any] = {"H": H, "K": K, "EXACT": exact, "num_warps": 8 if exact else 4}
        tiles = (-(-N * K // ENCODER_EDGES),)
        atoms = torch.empty(5, 3, N, device=neighbours.device)
        kernels.five_atoms[(-(-N // POSITIONS),)](atoms, backbones.coords, N, BLOCK=POSITIONS)
        norm = self.network.features.norm_edges
        h_E = torch.empty(N, K, H, dtype=dtype, device=atoms.device)
        kernels.edge_features[tiles](
            h_E, atoms, w.first, w.second, neighbours, backbones.residue_index, backbones.chain,
            w.offset_table, w.centres, *w.embedding, norm.weight, norm.bias, N * K, N,
            SCALE=1 / w.sigma, PAIRS=len(ATOM_PAIRS), GAUSSIANS=len(w.centres),
            MAX_OFFSET=MAX_OFFSET, EDGES=ENCODER_EDGES, **shape,
        )  # fmt: skip
        # Few nodes are spread over the multiprocessors, of many a block takes several at a time.
        R = 1
        while R < NODE_ROWS and 4 * R * self.multiprocessors <= N:
            R *= 2
        slots = max(2, min(ENCODER_EDGES // R, _power_of_two(K)), 16 // R)
        h_V = torch.zeros(N, H, device=atoms.device)
        for of_nodes, nodes, of_updated, edges in w.encoder_kernels:
            known, h_V_before = F.linear(h_V.to(dtype), *of_nodes), h_V
            h_V = torch.empty_like(h_V)
            kernels.encoder_nodes[(-(-N // R),)](
                h_V_before, h_V, known, h_E, neighbours, valid, degree, *nodes, N,
                KB=slots, R=R, WIDTH=min(64, 4 * H), WIDE_STAGES=2, **shape,
            )  # fmt: skip
            known = F.linear(h_V.to(dtype), *of_updated)
            kernels.encoder_edges[tiles](
                h_E, known, neighbours, *edges, N * K, EDGES=ENCODER_EDGES, **shape
            )
        found = _of_layers(h_E.view(-1, H), w.B).view(-1, N, K, H)
        return Encoding(graph, h_V, found, undecoded=_of_layers(h_V.to(dtype), w.D))

    def _features(self, backbones: Backbones, atoms: Tensor, graph: Graph, part: slice) -> Tensor:
        """W_e of the embedded, normalised features of some nodes' edges: (n, K, H)."""
        w = self.weights
        here, there = atoms[part][:, w.first], atoms[:, w.second]  # (n, 25, 3), (N, 25, 3)
        difference = here[:, None] - there[graph.neighbours[part]]  # (n, K, 25, 3)
        distances = (difference.square().sum(-1) + 1e-6).sqrt()  # (n, K, 25)
        scaled = (distances[..., None] - w.centres) * (1 / w.sigma)  # (n, K, 25, 16)
        rbf = torch.exp(-scaled.square()).flatten(-2)
        E = F.linear(rbf.to(self.dtype), w.W_rbf).float()
        E = E + w.offset_table[offset_classes(backbones, graph, part)]
        E = self.network.features.norm_edges(E)
        return F.linear(E.to(self.dtype), w.W_e, w.b_e)

    def _encoder_layer(
        self,
        layer: EncoderLayer,
        blocks: tuple[tuple[Tensor, ...], tuple[Tensor, ...]],
        h_V: Tensor,
        h_E: Tensor,
        graph: Graph,
        parts: list[slice],
    ) -> tuple[Tensor, Tensor]:
        """(N, H) float32, (N, K, H) -> the same, one layer on."""

        def hidden(part: slice, h: Tensor, A: Tensor, B: Tensor, C: Tensor, b: Tensor) -> Tensor:
            edge = F.linear(h_E[part], B)
            edge += F.linear(h[part], A, b)[:, None]
            edge += F.linear(h, C)[graph.neighbours[part]]
            return F.gelu(edge)

        (A, B, C, b1, W2, b2), (A2, B2, C2, b11, W12, b12, W13, b13) = blocks
        aggregated = []
        for part in parts:
            message = F.gelu(F.linear(hidden(part, h_V.to(self.dtype), A, B, C, b1), W2, b2))
            valid = graph.valid_of(part)
            if valid is not None:
                message *= valid[..., None]
            aggregated.append(message.sum(1, dtype=torch.float32))
        total = torch.cat(aggregated)
        message = F.linear(total, layer.W3.weight) + graph.degree * layer.W3.bias
        h_V = layer.norm1(h_V + message / MESSAGE_SCALE)
        h_V = layer.norm2(h_V + layer.dense(h_V))
        updated = []
        for part in parts:
            edge = F.gelu(F.linear(hidden(part, h_V.to(self.dtype), A2, B2, C2, b11), W12, b12))
            new = h_E[part].float() + F.linear(edge, W13, b13)
            updated.append(layer.norm3(new).to(self.dtype))
        return h_V, torch.cat(updated)

    @torch.inference_mode()
    def decode(self, encoding: Encoding, copies: Copies, tokens: Tensor, rank: Tensor) -> Tensor:
        """Logits (M, 21) float32 of given residues; see `MPNN.decode`."""
        if not self.triton:
            return self.network.decode(_float32(encoding), copies, tokens, rank)
        from mpnn_core.backends.cuda import kernels

        w, network = self.weights, self.network
        M, N = len(tokens), len(encoding.h_V)
        reads = network.rows(encoding, copies, rank).int()
        h_V = encoding.h_V[copies.nodes]  # (M, H)
        tuning = self.many if self.many.rows * self.multiprocessors <= M else self.few
        R = tuning.rows
        blocks = -(-M // R)
        here = torch.empty(blocks * R, h_V.shape[1], dtype=self.dtype, device=h_V.device)
        nodes, valid, degree = copies.nodes.int(), *encoding.graph.for_kernels
        tables = torch.cat([encoding.undecoded, w.residues[:, tokens].to(self.dtype)], 1)
        for i, table in enumerate(tables):  # (N + M, H)
            table[N:] += F.linear(h_V.to(self.dtype), w.D[i])
            next_states = torch.empty_like(h_V)
            kernels.layer_of_rows[(blocks,)](
                h_V, next_states, nodes, M, N,
                here, table, encoding.edges[i], reads, valid, degree,
                *(x[:, i] if x.dtype == torch.float16 else x[i] for x in w.decoder),
                **self._shape(encoding, tuning, R),
            )  # fmt: skip
            h_V = next_states
        return network.W_out(h_V)

    @torch.inference_mode()
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
        """Residues for the rows that are designed; see `sampler.sample`.

        What is more than temperature, bias and omissions, such as tied positions, is left to plain
        torch, in float32.
        """
        if not self.triton or not _plain(distribution):
            levels = TorchLevels(self.network, _float32(encoding), copies, rank)
            steps = wavefront(rank, copies.neighbours, distribution.group)
            return sample(levels, rank, steps, distribution, uniform, tokens, designed)
        from mpnn_core.backends.cuda import kernels

        w = self.weights
        M, (N, H), layers = len(tokens), encoding.h_V.shape, len(encoding.edges)
        plan = self.plan(encoding, copies, rank)
        table = encoding.undecoded.new_empty(layers, N + M, H)
        table[:, :N] = encoding.undecoded
        tokens = tokens.clone()
        logits = torch.empty(M, LETTERS, device=tokens.device)
        probabilities = torch.zeros_like(logits)
        valid, degree = encoding.graph.for_kernels
        messages = self.first_messages(encoding, M)
        temperature = distribution.temperature.float().contiguous()
        bias = distribution.bias.float().contiguous()
        omit = distribution.omit.to(torch.uint8).contiguous()
        uniform, drawn = uniform.double().contiguous(), designed.to(torch.uint8)
        if self.launch and w.packed:
            known, whole = messages is not None, encoding.graph.valid is None
            self.launch(
                plan.teams,
                compiled.Arguments.of(
                    order=plan.order, bounds=plan.bounds, depth=plan.depth, nodes=plan.nodes,
                    reads=plan.reads, encoded=encoding.h_V, table=table, edges=encoding.edges,
                    messages=table if messages is None else messages, valid=valid, degree=degree,
                    weights=w.packed.weights, vectors=w.packed.vectors, residues=w.residues,
                    b_letters=w.b_letters, temperature=temperature, bias=bias, omit=omit,
                    uniform=uniform, designed=drawn, tokens=tokens, logits=logits,
                    probabilities=probabilities, M=M, N=N, levels=plan.bounds.shape[1] - 1,
                ),
                compiled.Constants.of(layers, plan.reads.shape[1], plan.rows, known, whole),
                self.device,
            )  # fmt: skip
            return Samples(tokens, logits, probabilities)
        blocks = plan.teams * plan.members
        here = table.new_empty(blocks * plan.rows, H)
        counters = torch.zeros(plan.teams, dtype=torch.int32, device=tokens.device)
        options: dict[str, Any] = self._shape(encoding, plan.tuning, plan.rows)
        if plan.members > 1:
            options["launch_cooperative_grid"] = True
        slots = _power_of_two(plan.reads.shape[1])
        places = torch.empty(blocks, slots * plan.rows, dtype=torch.int32, device=tokens.device)
        kernels.decode_levels[(blocks,)](
            plan.order, plan.bounds, plan.depth, counters, plan.members,
            plan.nodes, encoding.h_V, here, table, encoding.edges,
            table if messages is None else messages, places, plan.reads, valid, degree, M, N,
            *w.decoder, w.residues, w.W_letters, w.b_letters,
            temperature, bias, omit, uniform, drawn, tokens, logits, probabilities,
            plan.bounds.shape[1] - 1,
            ALONE=plan.members == 1, KNOWN=messages is not None, SLOTS=slots,
            KNOWN_STAGES=plan.tuning.known_stages, **options,
        )  # fmt: skip
        return Samples(tokens, logits, probabilities)

    def first_messages(self, encoding: Encoding, rows: int) -> Tensor | None:
        """What every edge says in the first decoder layer: (N, K, STATES, H) in the tier's dtype.

        None where that is more work than the messages of `rows` rows, or takes too much memory.
        """
        from mpnn_core.backends.cuda import kernels

        w = self.weights
        (N, K), H = encoding.graph.neighbours.shape, encoding.h_V.shape[1]
        needed = N * K * STATES * H * encoding.edges.element_size()
        always = self.precision == "exact" and N <= MOST_ALWAYS_KNOWN
        if (rows < KNOWN_FROM * N and not always) or needed > MOST_MESSAGE_BYTES:
            return None
        messages = encoding.edges.new_empty(N, K, STATES, H)
        tiles = -(-N * K // self.many.edges)
        parts = max(1, min(STATES, 8 * self.multiprocessors // tiles))
        valid, _ = encoding.graph.for_kernels
        kernels.first_messages[(tiles, parts)](
            messages, F.linear(encoding.h_V, *w.first_node), encoding.undecoded[0], w.residues[0],
            encoding.edges[0], encoding.graph.neighbours, valid,
            w.decoder[2][:, 0], w.decoder[3][0], N * K,
            LAYERS=len(encoding.edges), H=H, K=K, EDGES=self.many.edges, PARTS=parts,
            EXACT=self.precision == "exact", num_warps=self.many.warps,
        )  # fmt: skip
        return messages

    def uniforms(self, keys: Tensor, stream: int, lengths: Sequence[int], starts: Tensor) -> Tensor:
        """Random numbers, drawn on the device; see `sampler.uniforms`."""
        if not self.triton:
            return super().uniforms(keys, stream, lengths, starts)
        from mpnn_core.backends.cuda import kernels

        drawn = torch.empty(sum(lengths), dtype=torch.float64, device=keys.device)
        blocks = -(-max(lengths) // POSITIONS)
        kernels.uniforms[(len(lengths), blocks)](drawn, keys, starts, stream, BLOCK=POSITIONS)
        return drawn

    def plan(self, encoding: Encoding, copies: Copies, rank: Tensor) -> Plan:
        """Who decodes which rows when; nothing waits for the device."""
        from mpnn_core.backends.cuda import kernels

        device = rank.device
        tuning = self.many if len(copies.starts) > self.multiprocessors else self.few
        if tuning is self.many and len(rank) < NARROW * LEVELS_EXPECTED * self.multiprocessors:
            tuning = self.narrow
        if self.launch:
            tuning = COMPILED
        dealt = (self.multiprocessors, tuning)
        if dealt not in copies.derived:
            copies.derived[dealt] = Deal.of(copies, *dealt)
        deal: Deal = copies.derived[dealt]
        M, (N, K) = len(rank), encoding.graph.neighbours.shape
        teams, longest, sequence = deal.teams, deal.longest, copies.sequence
        sequences = len(copies.starts) - 1
        by_rank = sorted_within(rank, sequence, copies.starts).int()
        reads = torch.empty(M, K, dtype=torch.int32, device=device)
        level = torch.empty(M, dtype=torch.int32, device=device)
        nodes = copies.nodes.int()
        kernels.find_levels[(sequences,)](
            by_rank, deal.starts, rank, encoding.graph.neighbours, nodes,
            reads, level, N, K=K, SLOTS=_power_of_two(K), ROWS=32, num_warps=8,
        )  # fmt: skip
        key = (deal.team[sequence] * longest + level).int()  # (M,)
        key, order = key.sort(stable=True)
        edges = torch.arange(teams * longest + 1, dtype=torch.int32, device=device)
        found = torch.searchsorted(key, edges, out_int32=True)
        at = torch.arange(teams, device=device)[:, None] * longest
        bounds = found[at + torch.arange(longest + 1, device=device)].contiguous()
        depth = (bounds[:, 1:] > bounds[:, :-1]).sum(1, dtype=torch.int32)
        return Plan(
            order.int(), bounds, depth, reads, nodes, teams, deal.members, deal.rows, deal.tuning
        )

    def _shape(self, encoding: Encoding, t: Tuning, rows: int) -> dict[str, Any]:
        H, K = encoding.h_V.shape[1], encoding.graph.neighbours.shape[1]
        slots = max(2, min(t.edges // rows, _power_of_two(K)), 16 // rows)
        return {
            "H": H, "K": K, "KB": slots, "R": rows,
            "EXACT": self.precision == "exact", "LAYERS": len(encoding.edges),
            "WHOLE": encoding.graph.valid is None and K % slots == 0,
            "STAGES": t.stages, "WIDTH": min(t.width, 4 * H), "WIDE_STAGES": t.wide_stages,
            "num_warps": t.warps,
        }  # fmt: skip


def _plain(distribution: Distribution) -> bool:
    """Whether there is nothing but temperature, bias and omissions."""
    known = {"temperature", "bias", "omit"}
    return all(value is None for name, value in vars(distribution).items() if name not in known)


def _of_layers(x: Tensor, weights: Tensor) -> Tensor:
    """x (n, H) times the matrix of each layer, (l, H, H) row-major by outputs: (l, n, H)."""
    return torch.bmm(x.expand(len(weights), -1, -1), weights.mT)


def _float32(encoding: Encoding) -> Encoding:
    return Encoding(
        encoding.graph, encoding.h_V, encoding.edges.float(), encoding.undecoded.float()
    )


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
