"""The network on a CUDA device: all levels of all sequences in one launch.

`kernels.py` holds the kernels, in Triton; the fast tier's levels are CUDA C++ where that can be
compiled, in `decode_levels.cu`. docs/notes/cuda.md counts their bytes and operations. Two tiers:

- exact: float32; each product as three of float16 parts on the matrix units, which keeps its
  accuracy
- fast: float16 tables, weights and products, float32 sums, norms and node states

Where Triton is missing, plain torch computes the same.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mpnn_core.backends.contract import Backend, require_known
from mpnn_core.backends.cuda import compiled
from mpnn_core.backends.cuda.plan import COMPILED, TUNINGS, Plan, Tuning, Tunings, next_power_of_two
from mpnn_core.backends.cuda.replays import Replays
from mpnn_core.backends.cuda.unfused import Unfused, of_layers, parts_of
from mpnn_core.backends.cuda.weights import Weights
from mpnn_core.constants import ATOM_PAIRS, LETTERS, MAX_OFFSET
from mpnn_core.network.conditional import Layers, last_states
from mpnn_core.network.encoding import (
    CHANGED_STATES,
    CONDITIONING,
    INITIAL_STATES,
    OWN_FEATURES,
    Copies,
    Encoding,
)
from mpnn_core.network.graph import Backbones, Graph, nearest_neighbours
from mpnn_core.network.mpnn import MPNN
from mpnn_core.sampling.sampler import Distribution, Samples

PRECISIONS = ("exact", "fast")
NODE_ROWS = 16  # of a product on the matrix units, at least
ENCODER_EDGES = 64  # of one tile of the encoder's kernels
POSITIONS = 128  # of a block that draws random numbers, or finds atoms
STATES = 1 + LETTERS  # of a neighbour in the first decoder layer: no residue, or a letter
# Messages of the first decoder layer are computed for every state of every edge where there are
# more rows than states of nodes. In the exact tier they always are for up to MOST_ALWAYS_KNOWN
# nodes: that costs less than the levels of a single sequence save.
KNOWN_FROM = STATES  # sequences of a structure
MOST_ALWAYS_KNOWN = 1024
MOST_MESSAGE_BYTES = 2 << 30
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"


class CudaBackend(Backend):
    """The contract of `backends.contract.Backend`, on the device of the network's weights.

    Parameters
    ----------
    network : the network, on a CUDA device; its weights are copied
    precision : "exact", float32, or "fast", float16 with float32 sums
    tuning : how Triton's kernels are cut; None takes the tunings measured best, and levels compiled
        from CUDA C++ where they can be

    Attributes
    ----------
    launch : launches the levels of the fast tier as `decode_levels.cu`; None where that cannot be
        compiled or does not fit the network, and Triton's serve

    Raises
    ------
    ValueError
        Unknown precision.
    """

    knows = frozenset(
        {"profile", "group", "weight", INITIAL_STATES, CHANGED_STATES, OWN_FEATURES, CONDITIONING}
    )

    def __init__(
        self, network: MPNN, precision: str = "exact", tuning: Tuning | None = None
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
        self.network = network
        self.precision = precision
        self.name = f"cuda-{precision}"
        self.dtype = torch.float32 if precision == "exact" else torch.float16
        self.tunings = Tunings(tuning, tuning, tuning) if tuning else TUNINGS[precision]
        self.weights = Weights(network, self.dtype)
        self.device = network.W_out.weight.device
        hidden = network.W_out.in_features
        # Block sizes of Triton are powers of two, and a matrix unit takes no fewer than 16.
        fits_triton = hidden >= 16 and hidden & (hidden - 1) == 0
        self.triton = find_spec("triton") is not None and fits_triton
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

    @cached_property
    def unfused(self) -> Unfused:
        """The same in plain torch."""
        return Unfused(self.network, self.dtype)

    @torch.inference_mode()
    def encode(
        self, backbones: Backbones, graph: Graph | None = None, h_V: Tensor | None = None
    ) -> Encoding:
        """Features and encoder of any number of structures, edges in the tier's dtype."""
        graph = graph or nearest_neighbours(backbones, self.network.neighbours)
        (N, _), H = graph.neighbours.shape, self.network.W_out.in_features
        if h_V is None:
            h_V = torch.zeros(N, H, dtype=torch.float32, device=graph.neighbours.device)
        h_V = h_V.float().contiguous()
        if not self.triton:
            return self.unfused.encode(backbones, graph, h_V)
        return self._encoded(backbones, graph, h_V)

    @torch.inference_mode()
    def with_states(self, encoding: Encoding, h_V: Tensor) -> Encoding:
        """The encoding with other node states (N, H), tables in the tier's dtype."""
        h_V = h_V.float().contiguous()
        undecoded = of_layers(h_V.to(self.dtype), self.weights.D)
        return replace(encoding, h_V=h_V, undecoded=undecoded)

    def _encoded(self, backbones: Backbones, graph: Graph, h_V: Tensor) -> Encoding:
        """`encode` in fused kernels: no tensor with an edge axis but h_E and the result."""
        from mpnn_core.backends.cuda import kernels

        w, dtype, exact = self.weights, self.dtype, self.precision == "exact"
        (N, K), H = graph.neighbours.shape, h_V.shape[1]
        neighbours, (valid, degree) = graph.neighbours, graph.for_kernels
        shape: dict[str, Any] = {"H": H, "K": K, "EXACT": exact, "num_warps": 8 if exact else 4}
        tiles = (-(-N * K // ENCODER_EDGES),)
        h_E = self._edge_features(backbones, graph, tiles, shape)
        # Few nodes are spread over the multiprocessors, of many a block takes several at a time.
        R = 1
        while R < NODE_ROWS and 4 * R * self.multiprocessors <= N:
            R *= 2
        slots = max(2, min(ENCODER_EDGES // R, next_power_of_two(K)), 16 // R)
        for layer in w.encoder:
            of_nodes, h_V_before = F.linear(h_V.to(dtype), *layer.node_terms), h_V
            h_V = torch.empty_like(h_V)
            kernels.encoder_nodes[(-(-N // R),)](
                h_V_before, h_V, of_nodes, h_E, neighbours, valid, degree,
                *layer.message.arguments, N,
                KB=slots, R=R, WIDTH=min(64, 4 * H), WIDE_STAGES=2, **shape,
            )  # fmt: skip
            of_nodes = F.linear(h_V.to(dtype), *layer.updated_terms)
            kernels.encoder_edges[tiles](
                h_E, of_nodes, neighbours, *layer.edge.arguments, N * K,
                EDGES=ENCODER_EDGES, **shape,
            )  # fmt: skip
        edges = of_layers(h_E.view(-1, H), w.B).view(-1, N, K, H)
        return Encoding(graph, h_V, edges, undecoded=of_layers(h_V.to(dtype), w.D))

    def _edge_features(
        self, backbones: Backbones, graph: Graph, tiles: tuple[int], shape: dict[str, Any]
    ) -> Tensor:
        """The edges' states before the first layer: (N, K, H) in the tier's dtype."""
        from mpnn_core.backends.cuda import kernels

        features = self.weights.features
        if features is None:
            return self.unfused.edge_features(backbones, graph, parts_of(graph))
        N, K = graph.neighbours.shape
        atoms = torch.empty(5, 3, N, dtype=torch.float32, device=graph.neighbours.device)
        kernels.five_atoms[(-(-N // POSITIONS),)](atoms, backbones.coords, N, BLOCK=POSITIONS)
        h_E = torch.empty(N, K, shape["H"], dtype=self.dtype, device=atoms.device)
        kernels.edge_features[tiles](
            h_E, atoms, features.first, features.second, graph.neighbours,
            backbones.residue_index, backbones.chain, features.offset_table, features.centres,
            features.W_rbf.parts, features.W_e.parts, features.b_e, features.norm, features.bias,
            N * K, N,
            SCALE=features.inverse_sigma, PAIRS=len(ATOM_PAIRS), GAUSSIANS=len(features.centres),
            MAX_OFFSET=MAX_OFFSET, EDGES=ENCODER_EDGES, **shape,
        )  # fmt: skip
        return h_E

    @torch.inference_mode()
    def decode(self, encoding: Encoding, copies: Copies, tokens: Tensor, rank: Tensor) -> Tensor:
        """Logits (M, 21) float32 of given residues; see `MPNN.decode`."""
        if not self.triton:
            return self.unfused.decode(encoding, copies, tokens, rank)
        layers, network = self._layers(encoding), self.network
        reads = network.rows(encoding, copies, rank).int()
        h_V = encoding.h_V[copies.nodes]  # (M, H)
        nodes = copies.nodes.int()
        for i, undecoded in enumerate(encoding.undecoded):
            table = torch.cat([undecoded, layers.decoded(i, tokens, h_V)])  # (N + M, H)
            h_V = layers.advance(i, h_V, table, reads, nodes)
        return network.W_out(h_V)

    @torch.inference_mode()
    def condition(self, encoding: Encoding, copies: Copies, tokens: Tensor, rank: Tensor) -> Tensor:
        """Logits (M, 21) float32 of given residues, each after all others; see `MPNN.condition`."""
        if not self.triton:
            return self.unfused.condition(encoding, copies, tokens, rank)
        states = last_states(encoding, copies, tokens, rank, self._layers(encoding))
        return self.network.W_out(states)

    def _layers(self, encoding: Encoding) -> Layers:
        """The decoder's layers on any rows, in fused kernels; states float32, tables in the tier's
        dtype."""
        from mpnn_core.backends.cuda import kernels

        w, N = self.weights, len(encoding.h_V)
        valid, degree = encoding.graph.for_kernels

        def decoded(l: int, tokens: Tensor, h_V: Tensor) -> Tensor:
            return w.residues[l][tokens].to(self.dtype) + F.linear(h_V.to(self.dtype), w.D[l])

        def advance(l: int, h_V: Tensor, table: Tensor, reads: Tensor, nodes: Tensor) -> Tensor:
            n = len(h_V)
            many, few = self.tunings.many, self.tunings.few
            tuning = many if many.rows * self.multiprocessors <= n else few
            blocks = -(-n // tuning.rows)
            here = table.new_empty(blocks * tuning.rows, h_V.shape[1])
            next_states = torch.empty_like(h_V)
            kernels.layer_of_rows[(blocks,)](
                h_V.contiguous(), next_states, nodes.int(), n, N,
                here, table, encoding.edges[l], reads.int(), valid, degree,
                *w.decoder.layers[l],
                **self._shape(encoding, tuning, tuning.rows),
            )  # fmt: skip
            return next_states

        return Layers(len(encoding.edges), decoded, advance)

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
        """Residues for the rows that are designed; see `Backend.sample`.

        Tied positions and position-specific scoring matrices are sampled in plain torch, in
        float32.
        """
        require_known(self, distribution.in_use)
        if not self.triton or distribution.in_use:
            return self.unfused.sample(
                encoding, copies, rank, distribution, uniform, tokens, designed
            )
        from mpnn_core.backends.cuda import kernels

        w = self.weights
        M, (N, H), layers = len(tokens), encoding.h_V.shape, len(encoding.edges)
        plan = self.plan(encoding, copies, rank)
        table = encoding.undecoded.new_empty(layers, N + M, H)
        table[:, :N] = encoding.undecoded
        tokens = tokens.clone()
        logits = torch.empty(M, LETTERS, dtype=torch.float32, device=tokens.device)
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
        slots = next_power_of_two(plan.reads.shape[1])
        places = torch.empty(blocks, slots * plan.rows, dtype=torch.int32, device=tokens.device)
        kernels.decode_levels[(blocks,)](
            plan.order, plan.bounds, plan.depth, counters, plan.members,
            plan.nodes, encoding.h_V, here, table, encoding.edges,
            table if messages is None else messages, places, plan.reads, valid, degree, M, N,
            *w.decoder.arguments, w.residues, w.W_letters.parts, w.b_letters,
            temperature, bias, omit, uniform, drawn, tokens, logits, probabilities,
            plan.bounds.shape[1] - 1,
            ALONE=plan.members == 1, KNOWN=messages is not None, SLOTS=slots,
            KNOWN_STAGES=plan.tuning.known_stages, **options,
        )  # fmt: skip
        return Samples(tokens, logits, probabilities)

    def first_messages(self, encoding: Encoding, rows: int) -> Tensor | None:
        """The messages of the first decoder layer, of every edge: (N, K, STATES, H) in the tier's
        dtype, for each state that the neighbour can have.

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
        many = self.tunings.many
        tiles = -(-N * K // many.edges)
        parts = max(1, min(STATES, 8 * self.multiprocessors // tiles))
        valid, _ = encoding.graph.for_kernels
        kernels.first_messages[(tiles, parts)](
            messages, F.linear(encoding.h_V, w.first_A, w.first_b1), encoding.undecoded[0],
            w.residues[0], encoding.edges[0], encoding.graph.neighbours, valid,
            w.decoder.W2.of_layer(0), w.decoder.b2[0], N * K,
            LAYERS=len(encoding.edges), H=H, K=K, EDGES=many.edges, PARTS=parts,
            EXACT=self.precision == "exact", num_warps=many.warps,
        )  # fmt: skip
        return messages

    def uniforms(self, keys: Tensor, stream: int, lengths: Sequence[int], starts: Tensor) -> Tensor:
        """Random numbers, drawn on the device; see `Backend.uniforms`."""
        if not self.triton:
            return super().uniforms(keys, stream, lengths, starts)
        from mpnn_core.backends.cuda import kernels

        drawn = torch.empty(sum(lengths), dtype=torch.float64, device=keys.device)
        blocks = -(-max(lengths) // POSITIONS)
        kernels.philox_uniforms[(len(lengths), blocks)](
            drawn, keys, starts, stream, BLOCK=POSITIONS
        )
        return drawn

    def plan(self, encoding: Encoding, copies: Copies, rank: Tensor) -> Plan:
        """The rows that each block decodes, level by level; nothing waits for the device."""
        sequences = len(copies.starts) - 1
        tuning = self.tunings.of(sequences, len(rank), self.multiprocessors)
        return Plan.of(
            encoding.graph, copies, rank, self.multiprocessors, COMPILED if self.launch else tuning
        )

    def _shape(self, encoding: Encoding, t: Tuning, rows: int) -> dict[str, Any]:
        H, K = encoding.h_V.shape[1], encoding.graph.neighbours.shape[1]
        slots = max(2, min(t.edges // rows, next_power_of_two(K)), 16 // rows)
        return {
            "H": H, "K": K, "KB": slots, "R": rows,
            "EXACT": self.precision == "exact", "LAYERS": len(encoding.edges),
            "WHOLE": encoding.graph.valid is None and K % slots == 0,
            "STAGES": t.stages, "WIDTH": min(t.width, 4 * H), "WIDE_STAGES": t.wide_stages,
            "num_warps": t.warps,
        }  # fmt: skip
