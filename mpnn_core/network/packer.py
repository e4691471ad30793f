"""LigandMPNN's side-chain packer, reformulated: side chains for a backbone and a sequence.

`ReferencePacker` in `network/packer_reference.py` is the network as it was published. It encodes
backbone, sequence and the atoms around once for every pack; then, at each step, it reads where all
atoms are, and says of each chi angle a mixture of three von Mises distributions. What leads from
there to here only reorders sums (docs/explanation/engine.md):

1. The encoder reads atoms that no chi moves, so one encoding serves all steps, packs and samples.
2. A linear layer on what is read of 14 x 14 pairs of atoms is a sum over pairs. N, CA, C, O and CB
   are where they are at every step: their 25 pairs, the letters of both residues and the elements
   of the atoms around are summed once, and of the other 171 pairs only those that both residues
   have: a residue's atoms are the first of its 14.
3. The other identities are those of `network/mpnn.py`: B h_E is computed once, C h_F is one matrix
   (H, H) on normalised features, and A h_i and D h_j cost per node.

Nothing has an (L, L) axis. The nodes are the complete residues of one structure that have a letter.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpnn_core.constants import (
    ATOM_PAIRS,
    GAUSSIANS,
    LETTERS,
    OFFSET_WIDTH,
    OTHER_CHAIN,
)
from mpnn_core.network.context import BACKBONE_ATOMS, ELEMENTS, SeenFeatures, SeesAtoms, Sets
from mpnn_core.network.features import (
    OffsetEmbedding,
    gaussians,
    offset_classes,
    pair_distances,
)
from mpnn_core.network.graph import Backbones, Graph, squared_distances
from mpnn_core.network.layers import LayerNorm, Linear
from mpnn_core.network.mpnn import DecoderLayer, EncoderLayer, tiles
from mpnn_core.structures.side_chains import ATOM_COUNTS, ATOMS, CHIS

STILL = 5
"""The first so many atoms are moved by no chi."""
COMPONENTS = 3
PACKED_BYTES = 32 << 20  # of Gaussians that plain torch holds at a time


@dataclass(frozen=True, eq=False)
class Mixture:
    """What the network says of the chi angles of N residues.

    Attributes
    ----------
    mean : (N, 4, 3), radians, of each component; not reduced to a turn
    concentration : (N, 4, 3), at least 0.1
    logits : (N, 4, 3), the components' weights are their softmax
    """

    mean: Tensor
    concentration: Tensor
    logits: Tensor


@dataclass(frozen=True, eq=False)
class Pairs:
    """Edges whose residues have equally many atoms, and the pairs of atoms that move in them.

    Attributes
    ----------
    edges : (E,) int64, of the N K edges end to end
    own, other : (P,) int64, atoms of the residue and of its neighbour
    weight : (H, 16 P)
    """

    edges: Tensor
    own: Tensor
    other: Tensor
    weight: Tensor


@dataclass(frozen=True, eq=False)
class PackerEncoding:
    """What the steps need to know of a backbone and a sequence: computed once.

    Attributes
    ----------
    graph : the neighbours of every node
    tokens : (N,) int64
    h_V : (N, H), the states after the encoder and the atoms around
    edges : (3, N, K, H), B h_E of each decoder layer, and what of C h_F is constant
    edge_base : (N, K, H), what does not move of the edges' features, before their norm
    node_base : (N, H), what does not move of the nodes' features, before their norm
    around : (N, M, 3) float, Å, the atoms around, nearest first; None where there is none at all
    filled : (N, M) bool, which of them there are
    pairs : what moves
    """

    graph: Graph
    tokens: Tensor
    h_V: Tensor
    edges: Tensor
    edge_base: Tensor
    node_base: Tensor
    around: Tensor | None
    filled: Tensor
    pairs: list[Pairs]


@dataclass(frozen=True, eq=False)
class FoldedPacker:
    """The decoder's weights, multiplied out.

    Attributes
    ----------
    edge_pairs : (H, 14, 14, 16), what the Gaussians of a pair of atoms add to an edge's features
    own_letter, other_letter : (21, H)
    node_pairs : (H, 14, M, 16), what those of an atom and one around add to a node's features
    slot_elements : (M, 119, H), what an element adds in each place
    features : (3, H, H), C h_F of each decoder layer from the normalised features of an edge
    features_bias : (3, H)
    encoder_pairs : (H, 400), of the encoder's features, in the order of `ATOM_PAIRS`
    states : (21, H), what the encoder starts from
    """

    edge_pairs: Tensor
    own_letter: Tensor
    other_letter: Tensor
    node_pairs: Tensor
    slot_elements: Tensor
    features: Tensor
    features_bias: Tensor
    encoder_pairs: Tensor
    states: Tensor


class PackerFeatures(SeenFeatures):
    """The features' modules, under the checkpoint's names."""

    def __init__(self, hidden: int, context_atoms: int) -> None:
        super().__init__()
        self.positional_embeddings = OffsetEmbedding()
        width = OFFSET_WIDTH + GAUSSIANS * len(ATOM_PAIRS)
        self.enc_edge_embedding = Linear(width, hidden, bias=False)
        self.enc_norm_edges = LayerNorm(hidden)
        self.enc_node_embedding = Linear(LETTERS, hidden, bias=False)
        self.enc_norm_nodes = LayerNorm(hidden)
        self.W_XY_project_down1 = Linear(GAUSSIANS + ELEMENTS, GAUSSIANS)
        pairs = ATOMS * ATOMS * GAUSSIANS
        self.dec_edge_embedding1 = Linear(pairs + 2 * LETTERS, hidden, bias=False)
        self.dec_norm_edges1 = LayerNorm(hidden)
        self.dec_node_embedding1 = Linear(ATOMS * context_atoms * GAUSSIANS, hidden, bias=False)
        self.dec_norm_nodes1 = LayerNorm(hidden)
        self.add_modules(hidden)


class Packer(SeesAtoms):
    """The reformulated network. Parameter names are the published checkpoint's.

    Parameters
    ----------
    hidden, encoder_layers, decoder_layers, neighbours, context_atoms
        The published one is 128, 3, 3, 32, 16.
    """

    first_centre: ClassVar[float] = 0.0

    def __init__(
        self,
        hidden: int = 128,
        encoder_layers: int = 3,
        decoder_layers: int = 3,
        neighbours: int = 32,
        context_atoms: int = 16,
    ) -> None:
        super().__init__()
        self.neighbours, self.context_atoms = neighbours, context_atoms
        self.features: PackerFeatures = PackerFeatures(hidden, context_atoms)
        self.W_e = Linear(hidden, hidden)
        self.W_v = Linear(hidden, hidden)
        self.W_f = Linear(hidden, hidden)
        self.W_v_sc = Linear(hidden, hidden)
        self.W_e_context = Linear(hidden, hidden)
        self.linear_down = Linear(2 * hidden, hidden)
        self.W_torsions = Linear(hidden, CHIS * COMPONENTS * 3)
        self.encoder_layers = nn.ModuleList(EncoderLayer(hidden) for _ in range(encoder_layers))
        self.decoder_layers = nn.ModuleList(DecoderLayer(hidden) for _ in range(decoder_layers))
        self.add_layers(hidden)

    @property
    def of_features(self) -> nn.Linear:
        return self.W_e_context

    @property
    def decoders(self) -> list[DecoderLayer]:
        return list(self.decoder_layers)  # type: ignore[arg-type]

    def computing(self) -> AbstractContextManager[None]:
        """What holds while side chains are packed."""
        return nullcontext()

    def encode(
        self,
        backbones: Backbones,
        graph: Graph,
        sets: Sets,
        slots: Tensor,
        tokens: Tensor,
        atoms: Tensor,
    ) -> PackerEncoding:
        """What the steps need to know of one structure and one sequence.

        Parameters
        ----------
        backbones : with the coordinates of the first four of `atoms`, not those of the file
        graph : the `neighbours` nearest by CA
        sets : the atoms that each node sees, chosen by the file's backbones
        slots : (N, M) int64, the same atoms, nearest first, -1 where there is none (`slots_of`)
        tokens : (N,) int64
        atoms : (N, 14, 3) float, Å, at any chi angles; zeros where a residue has none, and so all
            of X, which the original places at the origin
        """
        w = self.packer_weights()
        h_V = w.states[tokens]
        h_E = self.first_edges(backbones, graph)
        for layer in self.encoder_layers:
            h_V, h_E = layer(h_V, h_E, graph)
        h_V = self.seen_states(h_V, backbones.coords, sets)
        edges = torch.stack([
            F.linear(h_E, layer.blocks()[1], bias)
            for layer, bias in zip(self.decoders, w.features_bias, strict=True)
        ])  # fmt: skip
        there = slots >= 0  # (N, M)
        at = slots.clamp(min=0)
        some = len(sets.xyz) > 0
        encoding = PackerEncoding(
            graph,
            tokens,
            h_V,
            edges,
            w.own_letter[tokens][:, None] + w.other_letter[tokens[graph.neighbours]],
            first_node_base(w, sets, slots),
            sets.xyz[at] if some else None,
            there,
            self.pairs(graph, tokens, still=False),
        )
        self._add_pairs(encoding.edge_base, graph, atoms, self.pairs(graph, tokens, still=True))
        encoding.node_base.add_(self.of_around(encoding, atoms, slice(0, STILL)))
        return encoding

    def first_edges(self, backbones: Backbones, graph: Graph) -> Tensor:
        """The edges' states before the first layer: (N, K, H)."""
        f, w = self.features, self.packer_weights()
        table = F.linear(
            f.positional_embeddings.table(), f.enc_edge_embedding.weight[:, :OFFSET_WIDTH]
        )  # (66, H)
        assert len(table) == OTHER_CHAIN + 1
        parts = []
        for part in tiles(*graph.neighbours.shape):
            g = gaussians(pair_distances(backbones, graph, part), self.first_centre)
            E = F.linear(g, w.encoder_pairs) + table[offset_classes(backbones, graph, part)]
            parts.append(self.W_e(f.enc_norm_edges(E)))
        return torch.cat(parts)

    def pairs(self, graph: Graph, tokens: Tensor, still: bool) -> list[Pairs]:
        """The pairs of atoms that chi angles do not move, or those that they do."""
        w = self.packer_weights()
        counts = torch.tensor(ATOM_COUNTS, device=tokens.device)[tokens]  # (N,)
        kind = counts[:, None] * (ATOMS + 1) + counts[graph.neighbours]  # (N, K)
        order = kind.flatten().argsort(stable=True)
        kinds, sizes = kind.flatten()[order].unique_consecutive(return_counts=True)
        found = []
        for number, edges in zip(kinds.tolist(), order.split(sizes.tolist()), strict=True):
            n, m = divmod(number, ATOMS + 1)
            own, other = torch.cartesian_prod(torch.arange(n), torch.arange(m)).T.to(tokens.device)
            here = ((own < STILL) & (other < STILL)) == still
            own, other = own[here], other[here]
            if len(own):
                weight = w.edge_pairs[:, own, other].flatten(1)  # (H, 16 P)
                found.append(Pairs(edges, own, other, weight))
        return found

    def _add_pairs(self, to: Tensor, graph: Graph, atoms: Tensor, pairs: list[Pairs]) -> None:
        """Add what pairs of atoms (N, 14, 3) give to the edges' features (N, K, H)."""
        K = graph.neighbours.shape[1]
        flat, neighbours = to.view(-1, to.shape[-1]), graph.neighbours.flatten()
        for group in pairs:
            step = max(1, PACKED_BYTES // (4 * GAUSSIANS * len(group.own)))
            for edges in group.edges.split(step):
                own = atoms[edges // K][:, group.own]  # (e, P, 3)
                other = atoms[neighbours[edges]][:, group.other]
                distances = (squared_distances(own, other) + 1e-6).sqrt()
                flat[edges] += F.linear(gaussians(distances, self.first_centre), group.weight)

    def of_around(self, encoding: PackerEncoding, atoms: Tensor, some: slice) -> Tensor:
        """What the distances of some of the atoms (N, 14, 3) to those around add: (N, H)."""
        e, w = encoding, self.packer_weights()
        if e.around is None:
            return torch.zeros_like(e.node_base)
        own = torch.arange(ATOMS, device=atoms.device)[some]
        counts = torch.tensor(ATOM_COUNTS, device=atoms.device)[e.tokens]
        weight = w.node_pairs[:, some].flatten(1)  # (H, A M 16)
        both = (own < counts[:, None])[:, :, None] & e.filled[:, None]  # (N, A, M)
        parts = []
        for part in tiles(len(atoms), both[0].numel()):
            squared = squared_distances(atoms[part, some, None], e.around[part, None])
            g = gaussians((squared + 1e-6).sqrt(), self.first_centre)  # (n, A, 16 M)
            g = g.unflatten(-1, (-1, GAUSSIANS)) * both[part, ..., None]
            parts.append(F.linear(g.flatten(1), weight))
        return torch.cat(parts)

    def decode(self, encoding: PackerEncoding, atoms: Tensor) -> Mixture:
        """The mixtures of the chi angles, from where the atoms (N, 14, 3) are, Å."""
        e, w, f = encoding, self.packer_weights(), self.features
        edges = e.edge_base.clone()
        self._add_pairs(edges, e.graph, atoms, e.pairs)
        edges = F.layer_norm(edges, edges.shape[-1:], eps=f.dec_norm_edges1.eps)  # (N, K, H)
        nodes = e.node_base + self.of_around(e, atoms, slice(STILL, ATOMS))
        h_V = self.start(e.h_V, nodes)
        for layer, constant, weight in zip(self.decoders, e.edges, w.features, strict=True):
            A, _, _, D = layer.blocks()
            own, other = F.linear(h_V, A, layer.W1.bias), F.linear(h_V, D)
            totals = []
            for part in tiles(*e.graph.neighbours.shape):
                edge_input = F.linear(edges[part], weight) + constant[part]
                edge_input += own[part, None]
                edge_input += other[e.graph.neighbours[part]]
                totals.append(layer.aggregate(edge_input, e.graph.valid_of(part)))
            h_V = layer.update(h_V, torch.cat(totals), e.graph.degree)
        return mixture_of(self.W_torsions(h_V))

    def start(self, h_V: Tensor, nodes: Tensor) -> Tensor:
        """What decoding starts from: the encoder's states and the nodes' features, (N, H) each."""
        of_atoms = self.W_v_sc(self.features.dec_norm_nodes1(nodes))
        return self.linear_down(torch.cat([h_V, of_atoms], -1))

    def packer_weights(self) -> FoldedPacker:
        """The decoder's weights, multiplied out in float64 once: they are not to change."""
        key = self.W_c.weight.device, self.W_c.weight.dtype
        if getattr(self, "_packer_for", None) != key:
            self._packer, self._packer_for = _fold(self), key
        return self._packer


def slots_of(sets: Sets, cb: Tensor) -> Tensor:
    """The atoms that each node sees, those nearest to its virtual CB (N, 3) first: (N, M) int64,
    -1 where there are fewer. Of equal distances, the first atom is first."""
    atoms = sets.atoms[sets.set_of_node]  # (N, M), ascending
    if not len(sets.xyz):
        return atoms
    squared = squared_distances(cb[:, None], sets.xyz[atoms.clamp(min=0)])
    squared = squared.masked_fill(atoms < 0, torch.inf)
    return atoms.gather(1, squared.argsort(dim=1, stable=True))


def first_node_base(w: FoldedPacker, sets: Sets, slots: Tensor) -> Tensor:
    """What the elements of the atoms around (N, M) add to the nodes' features: (N, H)."""
    element = torch.zeros_like(slots)
    if len(sets.xyz):
        element = torch.where(slots >= 0, sets.element[slots.clamp(min=0)], 0)
    base = w.slot_elements[0, element[:, 0]].clone()  # (N, H)
    for m in range(1, slots.shape[1]):  # place by place: (N, M, H) is large
        base += w.slot_elements[m, element[:, m]]
    return base


def mixture_of(torsions: Tensor) -> Mixture:
    """The mixtures, of the last layer's output (N, 36)."""
    mean, concentration, logits = torsions.view(-1, CHIS, COMPONENTS, 3).unbind(-1)
    return Mixture(mean, 0.1 + F.softplus(concentration), logits)


@torch.no_grad()
def _fold(network: Packer) -> FoldedPacker:
    dtype, device = network.W_c.weight.dtype, network.W_c.weight.device
    f, M = network.features, network.context_atoms

    def wide(tensor: Tensor) -> Tensor:
        return tensor.detach().cpu().double()

    edge = wide(f.dec_edge_embedding1.weight)
    pairs, own, other = edge.split([ATOMS * ATOMS * GAUSSIANS, LETTERS, LETTERS], 1)
    down = wide(f.W_XY_project_down1.weight)  # (16, 136)
    of_distance, of_element = down.split([GAUSSIANS, ELEMENTS], 1)
    nodes = wide(f.dec_node_embedding1.weight).view(-1, ATOMS, M, GAUSSIANS)  # (H, 14, M, 16)
    everywhere = nodes.sum(1)  # (H, M, 16): an element adds the same beside each of 14 atoms
    elements = of_element[:, : ELEMENTS - 1] + wide(f.W_XY_project_down1.bias)[:, None]  # (16, 119)

    norm, W_f = f.dec_norm_edges1, wide(network.W_f.weight)
    always = W_f @ wide(norm.bias) + wide(network.W_f.bias)
    blocks = [wide(layer.blocks()[2]) for layer in network.decoders]

    encoder = wide(f.enc_edge_embedding.weight)[:, OFFSET_WIDTH:].unflatten(1, (-1, GAUSSIANS))
    order = [a * BACKBONE_ATOMS + b for a, b in ATOM_PAIRS]  # row by row, in the checkpoint
    letters = F.layer_norm(
        wide(f.enc_node_embedding.weight).T, (f.enc_norm_nodes.weight.numel(),),
        wide(f.enc_norm_nodes.weight), wide(f.enc_norm_nodes.bias), f.enc_norm_nodes.eps,
    )  # fmt: skip
    values = FoldedPacker(
        edge_pairs=pairs.view(-1, ATOMS, ATOMS, GAUSSIANS),
        own_letter=own.T,
        other_letter=other.T,
        node_pairs=nodes @ of_distance,
        slot_elements=torch.einsum("hmg,gz->mzh", everywhere, elements),
        features=torch.stack([C @ (W_f * wide(norm.weight)) for C in blocks]),
        features_bias=torch.stack([C @ always for C in blocks]),
        encoder_pairs=encoder[:, order].flatten(1),
        states=letters @ wide(network.W_v.weight).T + wide(network.W_v.bias),
    )
    return FoldedPacker(**{
        name: value.to(device, dtype).contiguous() for name, value in vars(values).items()
    })  # fmt: skip
