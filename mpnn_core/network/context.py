"""LigandMPNN: the atoms around a protein, reformulated over distinct atoms, pairs and sets.

`ReferenceLigandMPNN` in `network/reference.py` is the network as it was published: 25 context atoms
for every residue, and a small network on the 25 x 25 pairs of each. Four identities lead from there
to here, none of them an approximation (derivation: docs/explanation/engine.md):

1. The atoms never see the protein. All residues with the same *set* of context atoms share what is
   computed of it; where there are no more than 25 atoms, there is one set.
2. In the first layer on atoms, the message from b to a depends on the element of a and on the
   distance of the two alone: one row for each ordered *pair* of distinct atoms.
3. In the second layer, what the edge contributes is again one row a pair.
4. An edge's state is a normalised linear function of 16 Gaussians of its distance: one matrix
   (H, 16), divided by a standard deviation that is the length of a vector of 16. What an element
   contributes is a row of a table of 119.

The rest is that of `network/mpnn.py`. What has an edge axis is computed in tiles of sets and nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mpnn_core.constants import CA, FIRST_CENTRE, GAUSSIANS, C, N
from mpnn_core.network.encoding import CHANGED_STATES, MOST_RECORDED_NODES
from mpnn_core.network.features import EdgeFeatures, gaussians, with_virtual_cb
from mpnn_core.network.graph import (
    Backbones,
    Graph,
    first_smallest,
    squared_distances,
    upload,
)
from mpnn_core.network.layers import LayerNorm, Linear
from mpnn_core.network.mpnn import MPNN, TILE_EDGES, MessageLayer
from mpnn_core.structures.context import NOT_IN_ORIGINAL, SIDE_CHAIN_ELEMENTS
from mpnn_core.structures.structure import Structure

ELEMENTS, GROUPS, PERIODS = 120, 19, 8
"""Widths of the one-hot vectors of an atom: atomic numbers, groups and periods, with 0 each. The
last atomic number is 118, so tables by element have 119 rows."""
TYPE_WIDTH = 64
ANGLES = 4
BACKBONE_ATOMS = 5  # N, CA, C, O and the virtual CB, from which an atom's distances are taken

SIDE_CHAIN_NEIGHBOURS = 16
"""Fixed residues among so many nearest ones show their side chains."""
FARTHEST = 100.0**2
"""Å². With side chains, the original's empty slots stand before atoms that are farther away."""

SETS_TOGETHER = 512  # so that their distinct pairs stay below some hundred MB
NODES_TOGETHER = 4096  # however many share a set
GPU_EDGES = 1 << 19  # of a tile on a GPU, which has no cache to keep them in
DISTANCE_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class Surroundings:
    """The atoms around the nodes of one or more structures, end to end.

    Attributes
    ----------
    xyz : (A, 3) float, Å
    element : (A,) int64, atomic numbers
    offsets : S + 1 ints; structure s has the atoms offsets[s] to offsets[s + 1]
    side_chains : (N, 32, 3) float, Å, of the nodes; None where they are not looked at
    shown : (N, 32) bool, the atoms of `side_chains` that are there and of fixed residues
    side_elements : (32,) int64, their atomic numbers
    """

    xyz: Tensor
    element: Tensor
    offsets: tuple[int, ...]
    side_chains: Tensor | None = None
    shown: Tensor | None = None
    side_elements: Tensor | None = None

    @classmethod
    def of(
        cls,
        structures: Sequence[Structure],
        fixed: Sequence[NDArray[np.bool_]] | None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Surroundings:
        """The context atoms of structures, and with `fixed` (L,) bool of each the side chains of
        these residues."""
        place = torch.device(device)
        atoms = [s.context for s in structures]
        seen = [~np.isin(a.elements, list(NOT_IN_ORIGINAL)) for a in atoms]
        xyz = np.concatenate([a.coords[k] for a, k in zip(atoms, seen, strict=True)])
        element = np.concatenate([a.elements[k] for a, k in zip(atoms, seen, strict=True)])
        offsets = tuple(np.cumsum([0, *(int(k.sum()) for k in seen)]).tolist())
        of_nodes: tuple[Tensor, ...] = ()
        if fixed is not None:
            parts = [_side_chains(s)[s.mask] for s in structures]
            given = np.concatenate([f[s.mask] for f, s in zip(fixed, structures, strict=True)])
            coords = np.concatenate(parts)  # (N, 32, 3)
            shown = np.isfinite(coords).all(2) & given[:, None]
            of_nodes = (
                upload(np.nan_to_num(coords), place, dtype),
                upload(shown, place),
                upload(SIDE_CHAIN_ELEMENTS, place),
            )
        return cls(upload(xyz, place, dtype), upload(element, place), offsets, *of_nodes)

    def tensors(self) -> tuple[Tensor, ...]:
        """All that is known of the surroundings of one structure."""
        return tuple(x for x in vars(self).values() if isinstance(x, Tensor))

    @classmethod
    def of_tensors(cls, xyz: Tensor, element: Tensor, *side_chains: Tensor) -> Surroundings:
        """The surroundings that `tensors` gave."""
        return cls(xyz, element, (0, len(xyz)), *side_chains)


def _side_chains(structure: Structure) -> NDArray[np.float32]:
    """The side chains of a structure, (L, 32, 3), NaN where none is known."""
    if structure.side_chains is not None:
        return structure.side_chains
    return np.full((len(structure), len(SIDE_CHAIN_ELEMENTS), 3), np.nan, np.float32)


@dataclass(frozen=True, eq=False)
class Sets:
    """Which atoms each node sees: the distinct sets of them.

    Attributes
    ----------
    xyz : (A, 3) float, Å: all atoms that may be seen, those of side chains too
    element : (A,) int64
    atoms : (S, M) int64, the atoms of each set in ascending order, -1 in what is left of its M
    set_of_node : (N,) int64
    """

    xyz: Tensor
    element: Tensor
    atoms: Tensor
    set_of_node: Tensor

    @property
    def count(self) -> Tensor:
        """How many atoms each set has: (S, 1) int64."""
        return (self.atoms >= 0).sum(1, keepdim=True)


def context_sets(
    context: Surroundings, graph: Graph, backbones: Backbones, most: int, shared: bool = True
) -> Sets:
    """The `most` atoms that are nearest to each node's virtual CB, by the sets that they form; a
    set for each node where they are not to be `shared`.

    Of equal distances the first atom is taken, as in the original: float32, term by term.
    """
    cb = with_virtual_cb(backbones.coords)[:, -1]  # (N, 3)
    xyz, element = context.xyz, context.element
    parts = []
    for s, (start, stop) in enumerate(pairwise(backbones.offsets)):
        first, last = context.offsets[s : s + 2]
        parts.append(_nearest_atoms(cb[start:stop], xyz[first:last], most, first))
    ids = torch.cat(parts)  # (N, M), NONE where there are fewer
    if context.side_chains is not None and context.side_elements is not None:
        ids = _with_side_chains(ids, cb, context, graph, most)
        xyz = torch.cat([xyz, context.side_chains.flatten(0, 1)])
        element = torch.cat([element, context.side_elements.repeat(len(cb))])
    ids = ids.sort(1).values
    if shared:
        atoms, set_of_node = _distinct_rows(ids)
    else:
        atoms, set_of_node = ids, torch.arange(len(ids), device=ids.device)
    return Sets(xyz, element, torch.where(atoms == NONE, -1, atoms), set_of_node)


NONE = torch.iinfo(torch.int64).max
"""In place of the number of an atom, in rows that are to be sorted: no atom."""


def _nearest_atoms(cb: Tensor, xyz: Tensor, most: int, first: int) -> Tensor:
    """The atoms nearest to (n, 3), of (a, 3) that are numbered from `first`: (n, most) int64."""
    near = torch.full((len(cb), most), NONE, device=cb.device)
    if not len(xyz):
        return near
    k = min(most, len(xyz))
    if k == len(xyz):
        near[:, :k] = torch.arange(first, first + k, device=cb.device)
        return near
    block = max(1, DISTANCE_BYTES // (8 * len(xyz)))
    for start in range(0, len(cb), block):
        squared = squared_distances(cb[start : start + block, None], xyz)  # (n, a)
        near[start : start + block, :k] = first + first_smallest(squared, k)
    return near


def _with_side_chains(
    ids: Tensor, cb: Tensor, context: Surroundings, graph: Graph, most: int
) -> Tensor:
    """The nearest of (N, M) atoms and of the side chains that are shown around each node.

    The atoms of side chains are numbered after all others, node by node.
    """
    assert context.side_chains is not None and context.shown is not None
    A = len(context.xyz)
    number = A + torch.arange(context.shown.numel(), device=ids.device).view(context.shown.shape)
    number = torch.where(context.shown, number, NONE)  # (N, 32)
    around = graph.neighbours[:, :SIDE_CHAIN_NEIGHBOURS]  # (N, 16)
    valid = graph.valid_of(slice(None))
    found = []
    block = max(1, DISTANCE_BYTES // (16 * SIDE_CHAIN_NEIGHBOURS * 32 * 4))
    for start in range(0, len(ids), block):
        part = slice(start, start + block)
        numbers = number[around[part]]  # (n, 16, 32)
        if valid is not None:
            numbers = numbers.masked_fill(~valid[part, : around.shape[1], None], NONE)
        candidates = torch.cat([numbers.flatten(1), ids[part]], 1)  # (n, 512 + M)
        of_atoms = (
            context.xyz[ids[part].clamp(max=max(0, A - 1))]
            if A
            else cb[part, None].expand(-1, ids.shape[1], -1)
        )
        xyz = torch.cat([context.side_chains[around[part]].flatten(1, 2), of_atoms], 1)
        squared = squared_distances(cb[part, None], xyz)
        out = (candidates == NONE) | (squared > FARTHEST)
        squared = squared.masked_fill_(out, torch.inf)
        candidates = candidates.masked_fill(out, NONE)
        found.append(candidates.gather(1, first_smallest(squared, most)))
    return torch.cat(found)


def _distinct_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct ones of (N, M) int64 in the order of their first, and which each is: (N,)."""
    # Equal rows have equal digests; that those of equal digests are equal is checked.
    weights = torch.arange(1, rows.shape[1] + 1, device=rows.device) * 0x9E3779B97F4A7C1 | 1
    mixed = (rows ^ (rows >> 7)) * 0x2545F4914F6CDD1D
    digest = ((mixed ^ (mixed >> 29)) * weights).sum(1)
    _, inverse = torch.unique(digest, return_inverse=True)
    count = int(inverse.max()) + 1
    place = torch.arange(len(rows), device=rows.device)
    first = torch.full((count,), len(rows), device=rows.device)
    first.scatter_reduce_(0, inverse, place, "amin")
    order = first.argsort()
    distinct = rows[first[order]]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(count, device=rows.device)
    which = rank[inverse]
    if not torch.equal(distinct[which], rows):
        distinct, which = torch.unique(rows, dim=0, return_inverse=True)
    return distinct, which


def distinct_pairs(atoms: Tensor, shared: bool = True) -> tuple[Tensor, Tensor]:
    """The ordered pairs of atoms that some of the sets (S, M) have: (P, 2), and which pair each two
    of a set are, (S, M, M) int64: P where one of them is no atom.

    Those of each set by themselves where they are not to be `shared`.
    """
    there = atoms >= 0
    both = there[:, :, None] & there[:, None]  # (S, M, M)
    if not shared:
        a, b = torch.broadcast_tensors(atoms[:, :, None], atoms[:, None])
        every = torch.arange(both.numel(), device=atoms.device).view(both.shape)
        pairs = torch.stack([a, b], -1).clamp_(min=0).view(-1, 2)
        return pairs, torch.where(both, every, len(pairs))
    A = max(1, int(atoms.max()) + 1)
    keys, place = torch.unique((atoms[:, :, None] * A + atoms[:, None])[both], return_inverse=True)
    pair_of = torch.full(both.shape, len(keys), device=atoms.device)
    pair_of[both] = place
    return torch.stack([keys // A, keys % A], 1), pair_of


class SeenFeatures(nn.Module):
    """The modules of what is known of the atoms around residues."""

    node_project_down: nn.Linear
    norm_nodes: nn.LayerNorm
    type_linear: nn.Linear
    y_nodes: nn.Linear
    y_edges: nn.Linear
    norm_y_edges: nn.LayerNorm
    norm_y_nodes: nn.LayerNorm

    def add_modules(self, hidden: int) -> None:
        kinds = ELEMENTS + GROUPS + PERIODS
        width = BACKBONE_ATOMS * GAUSSIANS + TYPE_WIDTH + ANGLES
        self.node_project_down = Linear(width, hidden)
        self.norm_nodes = LayerNorm(hidden)
        self.type_linear = Linear(kinds, TYPE_WIDTH)
        self.y_nodes = Linear(kinds, hidden, bias=False)
        self.y_edges = Linear(GAUSSIANS, hidden, bias=False)
        self.norm_y_edges = LayerNorm(hidden)
        self.norm_y_nodes = LayerNorm(hidden)


class AtomFeatures(SeenFeatures, EdgeFeatures):
    """Edge features, and what is known of context atoms."""

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden)
        self.add_modules(hidden)


class ContextLayer(MessageLayer):
    """A layer whose messages come from `inputs` vectors, the receiver's state the first."""

    def blocks(self) -> tuple[Tensor, ...]:
        """W1 by what it acts on: (H, H) each."""
        hidden = self.W1.out_features
        return self.W1.weight.split(hidden, 1)


@dataclass(frozen=True, eq=False)
class Folded:
    """The weights of the context, multiplied out: identity 4, and constants into biases.

    Attributes
    ----------
    node_table : (119, H), what an atom's element adds to its features, seen from a residue
    node_inputs : (H, 84), what distances and angles add
    atom_table : (119, H), the state of an atom by its element
    length : (16, 16); the standard deviation of an edge's state is |length g|
    first_edge, second_edge : (H, 16), what g over that deviation adds in each layer on atoms
    first_table : (119, H), what the element of the receiver adds in the first one, biases included
    second_bias : (H,)
    second_own : (H, H), what the receiver's state adds in the second
    own, node, atom : (2, H, H), of each layer on residues: what the residue's state, the
        features of an atom and the state of an atom add
    bias : (2, H)
    """

    node_table: Tensor
    node_inputs: Tensor
    atom_table: Tensor
    length: Tensor
    first_edge: Tensor
    second_edge: Tensor
    first_table: Tensor
    second_bias: Tensor
    second_own: Tensor
    own: Tensor
    node: Tensor
    atom: Tensor
    bias: Tensor


class SeesAtoms(nn.Module):
    """The layers on the atoms around residues, which LigandMPNN and the side-chain packer share.

    A class that derives from it has the modules that these methods name, under the names that the
    checkpoints give them.

    Attributes
    ----------
    first_centre : Å, of the 16 Gaussians of distances to atoms and between them
    """

    first_centre: ClassVar[float] = FIRST_CENTRE
    features: SeenFeatures
    W_c: nn.Linear
    W_nodes_y: nn.Linear
    W_edges_y: nn.Linear
    V_C: nn.Linear
    V_C_norm: nn.LayerNorm
    context_encoder_layers: nn.ModuleList
    y_context_encoder_layers: nn.ModuleList

    @property
    def of_features(self) -> nn.Linear:
        """What the features of an atom go through, the checkpoint's W_v or W_e_context."""
        raise NotImplementedError

    def add_layers(self, hidden: int) -> None:
        """Make the modules that the methods need, besides `features` and `of_features`."""
        self.W_c = Linear(hidden, hidden)
        self.W_nodes_y = Linear(hidden, hidden)
        self.W_edges_y = Linear(hidden, hidden)
        self.V_C = Linear(hidden, hidden, bias=False)
        self.V_C_norm = LayerNorm(hidden)
        self.context_encoder_layers = nn.ModuleList(ContextLayer(hidden, 3) for _ in range(2))
        self.y_context_encoder_layers = nn.ModuleList(ContextLayer(hidden, 2) for _ in range(2))

    @property
    def on_nodes(self) -> list[ContextLayer]:
        return cast("list[ContextLayer]", list(self.context_encoder_layers))

    @property
    def on_atoms(self) -> list[ContextLayer]:
        return cast("list[ContextLayer]", list(self.y_context_encoder_layers))

    def seen_states(self, h_V: Tensor, coords: Tensor, sets: Sets, shared: bool = True) -> Tensor:
        """The states of nodes with backbones (N, 4, 3), and what they see: (N, H) -> (N, H)."""
        w = self.folded()
        if not shared:
            states = self.atom_states(w, sets, slice(None), shared)
            return self.node_states(w, h_V, coords, sets, states, sets.set_of_node, 0)
        nodes_of_sets = sets.set_of_node.argsort(stable=True)
        changed = torch.empty_like(h_V)
        bounds = torch.searchsorted(
            sets.set_of_node[nodes_of_sets],
            torch.arange(0, len(sets.atoms) + SETS_TOGETHER, SETS_TOGETHER, device=h_V.device),
        ).tolist()
        for t, (start, stop) in enumerate(pairwise(bounds)):
            first = t * SETS_TOGETHER
            states = self.atom_states(w, sets, slice(first, first + SETS_TOGETHER))
            for nodes in nodes_of_sets[start:stop].split(NODES_TOGETHER):
                own = sets.set_of_node[nodes]
                changed[nodes] = self.node_states(
                    w, h_V[nodes], coords[nodes], sets, states, own, first
                )
        return changed

    def atom_states(self, w: Folded, sets: Sets, some: slice, shared: bool = True) -> list[Tensor]:
        """The states of the atoms of some sets after each layer: (S, M, H), twice."""
        atoms = sets.atoms[some]  # (S, M)
        count = sets.count[some, None]  # (S, 1, 1)
        first, second = self.on_atoms
        if not len(sets.element):  # nothing is there to be seen
            return [w.bias.new_zeros(*atoms.shape, w.bias.shape[1])] * 2
        pairs, pair_of = distinct_pairs(atoms, shared)  # (P, 2), (S, M, M)
        element = sets.element[atoms.clamp(min=0)]
        messages, edges = [], []
        for part in pairs.split(_rows_of_tile(pairs.device, 1)):
            a, b = part.unbind(1)
            g = self.normalised_edge(w, sets.xyz[a], sets.xyz[b])  # (p, 16)
            x = F.gelu(w.first_table[sets.element[a]] + F.linear(g, w.first_edge))
            messages.append(F.gelu(first.W2(x)))  # (p, H)
            edges.append(F.linear(g, w.second_edge, w.second_bias))
        spare = w.bias.new_zeros(1, w.bias.shape[1])  # of a pair that is none
        message, edge = torch.cat([*messages, spare]), torch.cat([*edges, spare])  # (P + 1, H)
        states = w.atom_table[element]  # (S, M, H)
        S, M, H = states.shape
        total = F.embedding_bag(pair_of.view(S * M, M), message, mode="sum").view(S, M, H)
        states = first.update(states, total, count)
        after = [states]
        own = F.linear(states, w.second_own)  # (S, M, H)
        totals = [
            second.aggregate(
                (own[part, :, None] + edge[pair_of[part]]).flatten(0, 1),  # (s M, M, H)
                (atoms[part, None] >= 0).expand(-1, M, -1).flatten(0, 1),
            ).view(-1, M, H)
            for part in _tiles(S, M * M, states.device)
        ]
        after.append(second.update(states, torch.cat(totals), count))
        return after

    def normalised_edge(self, w: Folded, a: Tensor, b: Tensor) -> Tensor:
        """The Gaussians of distances over the deviations of the edges' states: (p, 16)."""
        g = gaussians((squared_distances(a, b) + 1e-6).sqrt()[:, None], self.first_centre)
        variance = F.linear(g, w.length).square().sum(1, keepdim=True)
        return g / (variance + LAYER_NORM_EPS).sqrt()

    def node_states(
        self,
        w: Folded,
        h_V: Tensor,
        coords: Tensor,
        sets: Sets,
        states: list[Tensor],
        set_of_node: Tensor,
        first: int,
    ) -> Tensor:
        """New states (n, H) of nodes that see the sets from `first` on, with these atom states."""
        h_C = self.W_c(h_V)
        local = set_of_node - first
        of_atoms = [
            F.linear(s, block) for s, block in zip(states, w.atom, strict=True)
        ]  # (S, M, H), twice
        seen = sets.atoms[set_of_node]  # (n, M)
        M = seen.shape[1]
        features = [  # (n, M, H)
            self.seen_from(w, coords[part], sets, seen[part])
            for part in _tiles(len(h_V), M, h_V.device)
        ]
        count = sets.count[set_of_node]  # (n, 1)
        for l, layer in enumerate(self.on_nodes):
            own = F.linear(h_C, w.own[l], w.bias[l])  # (n, H)
            totals = [
                layer.aggregate(
                    own[part, None] + F.linear(V, w.node[l]) + of_atoms[l][local[part]],
                    seen[part] >= 0,
                )
                for part, V in zip(_tiles(len(h_V), M, h_V.device), features, strict=True)
            ]
            h_C = layer.update(h_C, torch.cat(totals), count)
        return h_V + self.V_C_norm(self.V_C(h_C))

    def seen_from(self, w: Folded, coords: Tensor, sets: Sets, seen: Tensor) -> Tensor:
        """What each of n residues (n, 4, 3) knows of the atoms that it sees (n, M): (n, M, H)."""
        at = seen.clamp(min=0)
        if not len(sets.xyz):
            return w.bias.new_zeros(*seen.shape, w.bias.shape[1])
        xyz = sets.xyz[at]  # (n, M, 3)
        backbone = with_virtual_cb(coords)  # (n, 5, 3)
        squared = squared_distances(backbone[:, None], xyz[:, :, None])  # (n, M, 5)
        distances = (squared + 1e-6).sqrt()
        inputs = torch.cat([gaussians(distances, self.first_centre), angles(coords, xyz)], -1)
        # (n, M, 84)
        V = F.linear(inputs, w.node_inputs) + w.node_table[sets.element[at]]
        return self.features.norm_nodes(V)

    def folded(self) -> Folded:
        """The weights of the context, multiplied out in float64 once: they are not to change."""
        key = self.W_c.weight.device, self.W_c.weight.dtype
        if getattr(self, "_folded_for", None) != key:
            self._folded, self._folded_for = _fold(self), key
        return self._folded


class LigandMPNN(SeesAtoms, MPNN):
    """MPNN that sees up to `context_atoms` atoms around each residue.

    Attributes
    ----------
    side_chain_context : whether it sees the side chains of fixed residues too, as the original
        with `--ligand_mpnn_use_side_chain_context 1`
    """

    requires: ClassVar[frozenset[str]] = frozenset({CHANGED_STATES})
    edges: ClassVar[type[EdgeFeatures]] = AtomFeatures
    features: AtomFeatures

    def __init__(
        self,
        hidden: int = 128,
        encoder_layers: int = 3,
        decoder_layers: int = 3,
        neighbours: int = 32,
        context_atoms: int = 25,
    ) -> None:
        super().__init__(hidden, encoder_layers, decoder_layers, neighbours)
        self.context_atoms = context_atoms
        self.side_chain_context = False
        self.W_v = Linear(hidden, hidden)
        self.add_layers(hidden)

    @property
    def of_features(self) -> nn.Linear:
        return self.W_v

    def context(
        self,
        structures: Sequence[Structure],
        fixed: Sequence[NDArray[np.bool_]],
        device: torch.device,
    ) -> Surroundings:
        """The atoms around the structures, and the side chains of what is `fixed` if asked for."""
        shown = fixed if self.side_chain_context else None
        return Surroundings.of(structures, shown, device, self.W_c.weight.dtype)

    def context_tensors(self, context: Surroundings) -> tuple[Tensor, ...]:
        return context.tensors()

    def context_of(self, *tensors: Tensor) -> Surroundings:
        return Surroundings.of_tensors(*tensors)

    @property
    def recordable(self) -> bool:
        return True

    def changed_states(
        self, h_V: Tensor, graph: Graph, backbones: Backbones, context: Surroundings
    ) -> Tensor:
        """The encoder's states, with what each node sees around it: (N, H) -> (N, H)."""
        # A GPU computes few of them sooner than it finds those that are alike, and need not wait.
        shared = h_V.device.type != "cuda" or len(h_V) > MOST_RECORDED_NODES
        sets = context_sets(context, graph, backbones, self.context_atoms, shared)
        return self.seen_states(h_V, backbones.coords, sets, shared)


LAYER_NORM_EPS = 1e-5


def _rows_of_tile(device: torch.device, edges: int) -> int:
    return max(1, (GPU_EDGES if device.type == "cuda" else TILE_EDGES) // edges)


def _tiles(rows: int, edges: int, device: torch.device) -> list[slice]:
    """Slices that cover `rows` rows of so many edges each."""
    step = _rows_of_tile(device, edges)
    return [slice(start, start + step) for start in range(0, max(rows, 1), step)]


def angles(coords: Tensor, xyz: Tensor) -> Tensor:
    """Where atoms (n, M, 3) are, in the frames of N, CA and C of residues (n, 4, 3): (n, M, 4)."""
    n, ca, c = coords[:, N], coords[:, CA], coords[:, C]
    e1 = F.normalize(n - ca, dim=-1)
    v2 = c - ca
    e2 = F.normalize(v2 - e1 * (e1 * v2).sum(-1, keepdim=True), dim=-1)
    e3 = torch.linalg.cross(e1, e2)
    frame = torch.stack([e1, e2, e3], 2)  # (n, 3, 3), a column for each axis
    x, y, z = ((xyz - ca[:, None]) @ frame).unbind(-1)  # (n, M) each
    across = (x.square() + y.square() + 1e-8).sqrt()
    length = (x.square() + y.square() + z.square()).sqrt() + 1e-8
    return torch.stack([x / across, y / across, across / length, z / length], -1)


def groups_and_periods() -> tuple[list[int], list[int]]:
    """Group and period of each atomic number, 0 to 118; lanthanides and actinides are group 3."""
    groups, periods = [0], [0]
    for period, size in enumerate((2, 8, 8, 18, 18, 32, 32), 1):
        for i in range(size):
            from_end = size - 1 - i
            if i < 2 and size > 2:
                group = i + 1
            elif size == 2:
                group = (1, 18)[i]
            else:
                group = max(18 - from_end, 3)
            groups.append(group)
            periods.append(period)
    return groups, periods


def element_one_hots() -> Tensor:
    """Element, group and period of each atomic number: (119, 147) float64."""
    groups, periods = map(torch.tensor, groups_and_periods())
    return torch.cat(
        [
            F.one_hot(torch.arange(len(groups)), ELEMENTS),
            F.one_hot(groups, GROUPS),
            F.one_hot(periods, PERIODS),
        ],
        1,
    ).double()


@torch.no_grad()
def _fold(network: SeesAtoms) -> Folded:
    dtype, device = network.W_c.weight.dtype, network.W_c.weight.device

    def wide(tensor: Tensor) -> Tensor:
        return tensor.detach().cpu().double()

    f = network.features
    kinds = element_one_hots()  # (119, 147)
    rbf, types, turned = wide(f.node_project_down.weight).split(
        [BACKBONE_ATOMS * GAUSSIANS, TYPE_WIDTH, ANGLES], 1
    )
    node_types = kinds @ wide(f.type_linear.weight).T + wide(f.type_linear.bias)
    node_table = node_types @ types.T + wide(f.node_project_down.bias)

    def normalised(x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], wide(norm.weight), wide(norm.bias), norm.eps)

    atoms = normalised(kinds @ wide(f.y_nodes.weight).T, f.norm_y_nodes)
    atom_table = atoms @ wide(network.W_nodes_y.weight).T + wide(network.W_nodes_y.bias)

    # LN(y g) = norm.weight * (centred g) / deviation + norm.bias.
    y = wide(f.y_edges.weight)
    centred = y - y.mean(0)  # (H, 16)
    length = torch.linalg.qr(centred / len(centred) ** 0.5, mode="r").R  # |length g| = deviation
    W = wide(network.W_edges_y.weight)
    edge = W @ (wide(f.norm_y_edges.weight)[:, None] * centred)  # (H, 16)
    always = W @ wide(f.norm_y_edges.bias) + wide(network.W_edges_y.bias)  # (H,)
    (A1, B1), (A2, B2) = (map(wide, layer.blocks()) for layer in network.on_atoms)
    b1, b2 = (wide(layer.W1.bias) for layer in network.on_atoms)

    W_v, b_v = wide(network.of_features.weight), wide(network.of_features.bias)
    of_nodes = [[wide(block) for block in layer.blocks()] for layer in network.on_nodes]
    values = Folded(
        node_table=node_table,
        node_inputs=torch.cat([rbf, turned], 1),
        atom_table=atom_table,
        length=length,
        first_edge=B1 @ edge,
        second_edge=B2 @ edge,
        first_table=atom_table @ A1.T + b1 + B1 @ always,
        second_bias=b2 + B2 @ always,
        second_own=A2,
        own=torch.stack([own for own, _, _ in of_nodes]),
        node=torch.stack([node @ W_v for _, node, _ in of_nodes]),
        atom=torch.stack([atom for _, _, atom in of_nodes]),
        bias=torch.stack([
            wide(layer.W1.bias) + node @ b_v
            for layer, (_, node, _) in zip(network.on_nodes, of_nodes, strict=True)
        ]),
    )  # fmt: skip
    return Folded(**{
        field.name: getattr(values, field.name).to(device, dtype).contiguous()
        for field in fields(Folded)
    })  # fmt: skip
