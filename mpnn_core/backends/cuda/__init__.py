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
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpnn_core.backends import Backend
from mpnn_core.backends.cuda import compiled
from mpnn_core.backends.cuda.replays import Replays
from mpnn_core.batches import sorted_within
from mpnn_core.constants import ATOM_PAIRS, LETTERS, MAX_OFFSET, MESSAGE_SCALE
from mpnn_core.network.encoding import Copies, Encoding
from mpnn_core.network.features import offset_classes, with_virtual_cb
from mpnn_core.network.graph import Backbones, Graph, nearest_neighbours
from mpnn_core.network.mpnn import MPNN, EncoderLayer
from mpnn_core.sampling.sampler import Distribution, Samples, TorchLevels, sample
from mpnn_core.sampling.schedule import wavefront

PRECISIONS = ("exact", "fast")
# The encoder's edges are computed this many at a time: 256 MiB for each float32 tensor of them.
TILE_EDGES = 1 << 19
COLUMNS = 32  # letters, up to a power of two
MOST_ROWS = 16  # rows of a block at a time
NODE_ROWS = 16  # of a product on the matrix units, at least
ENCODER_EDGES = 64  # of one tile of the encoder's kernels
POSITIONS = 128  # of a block that draws random numbers, or finds atoms
LEVELS_EXPECTED = 70  # of any long protein; only speed depends on it
STATES = 1 + LETTERS  # of a neighbour in the first decoder layer: no residue, or a letter
# Messages of the first decoder layer are computed for every state of every edge where there are
# more rows than states of nodes; in the exact tier for so few nodes always, since there it is less
# than what the levels of one sequence save.
KNOWN_FROM = STATES  # sequences of a structure
MOST_ALWAYS_KNOWN = 1024
MOST_MESSAGE_BYTES = 2 << 30
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"


@dataclass(frozen=True)
class Tuning:
    """How the decoder is cut into blocks. Results do not depend on it, beyond rounding.

    Attributes
    ----------
    edges : of one tile
    warps : of one block
    blocks_per_multiprocessor : that fit at the same time; more would deadlock a team
    rows : of a block at a time, at most
    stages : tiles of edges in flight; each takes shared memory
    width : columns of the feed-forward network's hidden layer at a time
    wide_stages : of those in flight
    known_stages : tiles in flight of the first layer's messages, where they are known
    fewest_rows : of a block at a time
    alone : a block never shares a sequence with another
    """

    edges: int
    warps: int
    blocks_per_multiprocessor: int = 1
    rows: int = MOST_ROWS
    stages: int = 1
    width: int = 64
    wide_stages: int = 1
    known_stages: int = 3
    fewest_rows: int = 1
    alone: bool = False


# Of `decode_levels.cu`, where edges and warps are as they are.
COMPILED = Tuning(
    edges=compiled.EDGE_TILE,
    warps=compiled.THREADS // 32,
    rows=compiled.BATCH_ROWS,
    fewest_rows=compiled.ROW_TILE,
    alone=True,
)
NARROW = 8  # rows that a level has on each multiprocessor

# With at least one sequence for every multiprocessor, with fewer, and with as many whose levels
# are NARROW: the best of some twenty each on an H100 (docs/cuda.md), of Triton's kernels.
TUNINGS = {
    "exact": (
        Tuning(edges=128, warps=8, rows=32, wide_stages=2),
        Tuning(edges=64, warps=8, rows=4, wide_stages=2),
        Tuning(edges=128, warps=8, rows=32, wide_stages=2),
    ),
    "fast": (
        Tuning(edges=64, warps=4, blocks_per_multiprocessor=2, stages=2, width=128, wide_stages=2),
        Tuning(edges=64, warps=4, rows=4, wide_stages=3),
        Tuning(edges=64, warps=8, stages=2, wide_stages=3),
    ),
}


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


@dataclass(frozen=True, eq=False)
class Deal:
    """Which team takes which sequences.

    Attributes
    ----------
    team : (sequences,) int64
    starts : (sequences + 1,) int32, the first row of each, and M
    teams, members : of blocks, and blocks in each
    rows : that a block takes at a time
    tuning : of the blocks
    longest : rows of a sequence
    """

    team: Tensor
    starts: Tensor
    teams: int
    members: int
    rows: int
    tuning: Tuning
    longest: int

    @classmethod
    def of(cls, copies: Copies, multiprocessors: int, tuning: Tuning) -> Deal:
        """Sequences dealt to blocks that run at the same time."""
        blocks = multiprocessors * tuning.blocks_per_multiprocessor
        starts, device = np.asarray(copies.starts), copies.nodes.device
        lengths = np.diff(starts)
        teams = min(len(lengths), blocks)
        # How many rows a level of a team has, and so how they are shared among its members.
        width = starts[-1] / teams / LEVELS_EXPECTED
        members = 1 if tuning.alone else max(1, min(blocks // teams, round(2 * width)))
        # Half of the levels are wider than the mean. What a block has alone that does not fit into
        # a batch takes another one, with all weights.
        expected = 2 * width if tuning.alone else width
        rows = tuning.fewest_rows
        while rows < tuning.rows and rows * members < expected:
            rows *= 2
        # Long sequences first, back and forth over the teams, so that teams have equal work.
        dealt = np.arange(len(lengths))
        turn, seat = dealt // teams, dealt % teams
        team = np.empty(len(lengths), np.int64)
        team[np.argsort(-lengths, kind="stable")] = np.where(turn % 2, teams - 1 - seat, seat)
        return cls(
            torch.from_numpy(team).to(device),
            torch.from_numpy(starts.astype(np.int32)).to(device),
            teams,
            members,
            rows,
            tuning,
            int(lengths.max()),
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """Which block decodes which rows, and when.

    Attributes
    ----------
    order : (M,) int32, rows by team and level
    bounds : (teams, levels + 1) int32, where each level of a team starts in `order`
    depth : (teams,) int32, how many levels there are
    reads : (M, K) int32, the row of [undecoded; decoded] that each edge reads
    nodes : (M,) int32, the graph's node of each row
    teams, members : of blocks, and blocks in each
    rows : that a block takes at a time
    tuning : of the blocks
    """

    order: Tensor
    bounds: Tensor
    depth: Tensor
    reads: Tensor
    nodes: Tensor
    teams: int
    members: int
    rows: int
    tuning: Tuning


class Weights:
    """The network's weights as the kernels take them: stacked over layers, in the tier's dtype."""

    def __init__(self, network: MPNN, dtype: torch.dtype) -> None:
        decoders = network.decoders

        def stack(*parts: Tensor, matrix: bool = True) -> Tensor:
            """(layers, ...) float32, or what the kernels take of a matrix."""
            stacked = torch.stack(parts).detach().float().contiguous()
            return halves(stacked) if matrix else stacked

        def halves(weight: Tensor) -> Tensor:
            """(1, ...) float16; in the exact tier (2, ...), the second what the first leaves."""
            high = weight.half()
            if dtype == torch.float16:
                return high[None]
            return torch.stack([high, ((weight - high.float()) * 2**11).half()])

        def linear(name: str) -> tuple[Tensor, Tensor]:
            found: list[nn.Linear] = [layer.get_submodule(name) for layer in decoders]  # type: ignore[misc]
            return stack(*(x.weight for x in found)), stack(*(x.bias for x in found), matrix=False)

        def norm(name: str) -> tuple[Tensor, Tensor]:
            found: list[nn.LayerNorm] = [layer.get_submodule(name) for layer in decoders]  # type: ignore[misc]
            weights = stack(*(x.weight for x in found), matrix=False)
            return weights, stack(*(x.bias for x in found), matrix=False)

        A, B, C, D = zip(*(layer.blocks() for layer in decoders), strict=True)
        self.decoder = (
            stack(*(torch.stack([d, a], 1).flatten(0, 1) for d, a in zip(D, A, strict=True))),
            stack(*(layer.W1.bias for layer in decoders), matrix=False),
            *linear("W2"), *linear("W3"), *norm("norm1"),
            *linear("dense.W_in"), *linear("dense.W_out"), *norm("norm2"),
        )  # fmt: skip
        fits = dtype == torch.float16 and compiled.fits(network)
        self.packed = compiled.Packed(network) if fits else None
        self.first_node = (A[0].detach().contiguous(), decoders[0].W1.bias.detach())
        emb = network.W_s.weight.detach()
        self.residues = torch.stack([emb @ c.detach().T for c in C]).contiguous()  # (l, 21, H)
        W, b = network.W_out.weight.detach(), network.W_out.bias.detach()
        self.W_letters = halves(F.pad(W, (0, 0, 0, COLUMNS - LETTERS)).float())
        self.b_letters = F.pad(b, (0, COLUMNS - LETTERS), value=-torch.inf).float()

        self.encoder: list[EncoderLayer] = list(network.encoder_layers)  # type: ignore[arg-type]

        def cast(*parts: Tensor) -> tuple[Tensor, ...]:
            return tuple(x.detach().to(dtype).contiguous() for x in parts)

        self.B, self.D = cast(torch.stack(B), torch.stack(D))  # (l, H, H)
        self.encoder_blocks = [
            (
                cast(*x.W1.weight.chunk(3, 1), x.W1.bias, x.W2.weight, x.W2.bias),
                cast(
                    *x.W11.weight.chunk(3, 1), x.W11.bias, x.W12.weight, x.W12.bias,
                    x.W13.weight, x.W13.bias,
                ),
            )
            for x in self.encoder
        ]  # fmt: skip

        def of_layer(x: EncoderLayer) -> tuple[tuple[Tensor, ...], ...]:
            """What the fused kernels of a layer take: nodes' terms, weights; the same of edges."""

            def terms(W: nn.Linear) -> tuple[Tensor, Tensor, Tensor]:
                A, B, C = W.weight.chunk(3, 1)
                bias = F.pad(W.bias, (0, len(W.bias)))
                own, bias = cast(torch.cat([A, C]), bias)
                return own, bias, halves(B.detach().float().contiguous())

            def layers(*found: nn.Module) -> tuple[Tensor, ...]:
                given: list[Tensor] = []
                for x in found:
                    weight, bias = (p.detach().float() for p in x.parameters())
                    given += [halves(weight) if weight.ndim == 2 else weight, bias]
                return tuple(given)

            A, b, B = terms(x.W1)
            A2, b11, B2 = terms(x.W11)
            nodes = layers(x.W2, x.W3, x.norm1, x.dense.W_in, x.dense.W_out, x.norm2)
            return (A, b), (B, *nodes), (A2, b11), (B2, *layers(x.W12, x.W13, x.norm3))

        self.encoder_kernels = [of_layer(x) for x in self.encoder]
        features = network.features
        self.first, self.second = torch.tensor(ATOM_PAIRS, device=emb.device).T.contiguous()
        self.centres = torch.linspace(2.0, 22.0, 16, device=emb.device)
        self.sigma = 1.25
        W_offset, W_rbf = features.edge_embedding.weight.detach().split([16, 400], 1)
        self.offset_table = F.linear(features.embeddings.table().detach(), W_offset)  # (66, H)
        self.embedding = (
            halves(W_rbf.float().contiguous()),
            halves(network.W_e.weight.detach().float().contiguous()),
            network.W_e.bias.detach().float(),
        )
        self.W_rbf, self.W_e, self.b_e = cast(W_rbf, network.W_e.weight, network.W_e.bias)


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
