"""Logits of every residue as if it were decoded last, from one pass and what that changes.

With residue i last and the others in their order, few states are not those of a pass in that order.
Residues before i never depended on it. In the first layer i itself changes, which sees all others
now, and every later residue that has i as a neighbour, which no longer sees its letter. In the
layers up to the last but two, the later residues that see one of those. In the last but one only
what the last reads is wanted, i and its later neighbours; in the last, i. So of three layers some
25, 25 and 1 nodes are computed for a residue, where a pass computes 3 L.

A *task* is a row that is computed anew for the sake of another one, its target; its *key* is
target * M + row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mpnn_core.network.encoding import Copies, Encoding
from mpnn_core.network.graph import Graph

# Targets whose tasks are computed together: on a CPU some 50 MB of places of neighbours.
TARGETS = 1024
GPU_TARGETS = 8192


class Layers(NamedTuple):
    """The decoder's layers, as a backend computes them on any rows.

    Attributes
    ----------
    depth : how many there are
    decoded : (layer, tokens (n,), states (n, H)) -> (n, H), what a decoded neighbour contributes
    advance : (layer, states (n, H), table (R, H), reads (n, K), nodes (n,)) -> (n, H), the states
        one layer on; reads are rows of the table
    """

    depth: int
    decoded: Callable[[int, Tensor, Tensor], Tensor]
    advance: Callable[[int, Tensor, Tensor, Tensor, Tensor], Tensor]


class Tasks(NamedTuple):
    """What is computed anew in a layer: (n,) keys, ascending, and each task's target and row."""

    keys: Tensor
    target: Tensor
    row: Tensor

    @classmethod
    def of(cls, target: Tensor, row: Tensor, rows: int) -> Tasks:
        """The tasks of pairs, each once."""
        keys = torch.unique(target * rows + row)
        return cls(keys, keys // rows, keys % rows)

    def find(self, target: Tensor, row: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Where each pair is among the tasks, and whether it is: int64 and bool."""
        wanted = target * rows + row
        place = torch.searchsorted(self.keys, wanted).clamp_(max=len(self.keys) - 1)
        return place, self.keys[place] == wanted


class Order(NamedTuple):
    """The edges of all rows, and which of their ends comes first.

    Attributes
    ----------
    rank : (M,) int64
    neighbours : (M, K) int64, rows
    valid : (M, K) bool, False in spare slots; None where there are none
    source : (E,) int64, the rows that have a row as a neighbour, one row's after the other's
    starts : (M + 1,) int64, where those of each row start
    """

    rank: Tensor
    neighbours: Tensor
    valid: Tensor | None
    source: Tensor
    starts: Tensor

    @classmethod
    def of(cls, graph: Graph, copies: Copies, rank: Tensor) -> Order:
        neighbours = copies.neighbours
        M, K = neighbours.shape
        valid = None if graph.valid is None else graph.valid[copies.nodes]
        seen, row = neighbours.reshape(-1), torch.arange(M, device=rank.device).repeat_interleave(K)
        if valid is not None:
            seen, row = seen[valid.reshape(-1)], row[valid.reshape(-1)]
        counts = torch.bincount(seen, minlength=M)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(rank, neighbours, valid, row[seen.argsort(stable=True)], starts)

    def later_neighbours(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Each target with each of its neighbours that come after it: (n,) targets and rows."""
        row = self.neighbours[targets]
        later = self.rank[row] > self.rank[targets][:, None]
        if self.valid is not None:
            later &= self.valid[targets]
        return targets[:, None].expand_as(row)[later], row[later]

    def later_sources(self, target: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Each target with the rows after `row` that have that as a neighbour: (n,) both."""
        counts = self.starts[row + 1] - self.starts[row]
        pair = torch.arange(len(row), device=row.device).repeat_interleave(counts)
        first = self.starts[row] - (counts.cumsum(0) - counts)
        source = self.source[first[pair] + torch.arange(len(pair), device=row.device)]
        later = self.rank[source] > self.rank[row[pair]]
        return target[pair][later], source[later]


def last_states(
    encoding: Encoding, copies: Copies, tokens: Tensor, rank: Tensor, layers: Layers
) -> Tensor:
    """The last layer's state of every row, decoded after all others of its sequence.

    Parameters
    ----------
    tokens, rank : (M,) int64, as in `MPNN.decode`; no two ranks of a sequence are equal

    Returns
    -------
    (M, H), from which the logits follow.
    """
    graph, nodes = encoding.graph, copies.nodes
    M, N = len(nodes), len(encoding.h_V)
    order = Order.of(graph, copies, rank)
    seen = rank[order.neighbours] < rank[:, None]  # (M, K)

    # One pass in the given order, up to the last layer.
    states, tables = [encoding.h_V[nodes]], []  # (M, H); (N + M, H)
    undecoded = graph.neighbours[nodes]  # (M, K) nodes
    reads = torch.where(seen, order.neighbours + N, undecoded)
    for l in range(layers.depth):
        decoded = layers.decoded(l, tokens, states[l])
        tables.append(torch.cat([encoding.undecoded[l], decoded]))
        if l + 1 < layers.depth:
            states.append(layers.advance(l, states[l], tables[l], reads, nodes))

    step = TARGETS if nodes.device.type == "cpu" else GPU_TARGETS
    found = []
    for first in range(0, M, step):
        targets = torch.arange(first, min(first + step, M), device=nodes.device)
        h = states[0][targets]  # from here on of the tasks of the layer before
        before: Tasks | None = None
        for l in range(layers.depth):
            tasks = tasks_of(l, layers.depth, targets, before, order)
            there = order.neighbours[tasks.row]  # (n, K)
            is_last = (tasks.row == tasks.target)[:, None]
            known = (is_last | seen[tasks.row]) & (there != tasks.target[:, None])
            own, table, decoded = states[l][tasks.row], tables[l], there + N
            if before is not None:
                place, is_new = before.find(tasks.target, tasks.row, M)
                own = torch.where(is_new[:, None], h[place], own)
                table = torch.cat([table, layers.decoded(l, tokens[before.row], h)])
                place, is_new = before.find(tasks.target[:, None], there, M)
                decoded = torch.where(is_new, place + N + M, decoded)
            reads = torch.where(known, decoded, undecoded[tasks.row])
            h = layers.advance(l, own, table, reads, nodes[tasks.row])
            before = tasks
        found.append(h)  # the last layer's tasks are the targets, in order
    return torch.cat(found)


def tasks_of(l: int, layers: int, targets: Tensor, before: Tasks | None, order: Order) -> Tasks:
    """What is computed anew in layer l of so many, from the tasks of the layer before."""
    pairs = [(targets, targets)]
    if l == layers - 1:
        pass
    elif l == layers - 2:  # the last layer reads no others that can have changed
        pairs.append(order.later_neighbours(targets))
    elif before is None:  # those that no longer see the target's letter
        pairs.append(order.later_sources(targets, targets))
    else:  # those, and those that see what has changed; of the target they see nothing
        others = before.row != before.target
        pairs.append((before.target, before.row))
        pairs.append(order.later_sources(before.target[others], before.row[others]))
    target, row = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return Tasks.of(target, row, len(order.rank))


def tied_last_states(
    encoding: Encoding, copies: Copies, tokens: Tensor, rank: Tensor, layers: Layers
) -> Tensor:
    """As `last_states`, each row after all others in an order of its own; rows share parts of it.

    The scheme of proteinmpnn_ddg (Dutton et al. 2024, doi:10.1101/2024.06.15.599145): the given
    order is halved again and again. A row comes last of its half, which comes after the other half;
    the other half's states are the same for the whole half, and are computed once. So a row sees
    the others sorted by how early they were parted from it, and then by the given order. That takes
    1 + log2 L passes. Arguments and result as in `last_states`.
    """
    graph, nodes = encoding.graph, copies.nodes
    M, N = len(nodes), len(encoding.h_V)
    neighbours, place = copies.neighbours, rank
    most = max(b - a for a, b in zip(copies.starts, copies.starts[1:], strict=False))
    halvings = max(1, (most - 1).bit_length())  # after so many each is alone
    # In which halving two rows are parted: (M, K), from 0; `halvings` for a row and itself.
    apart = place[neighbours] ^ place[:, None]
    parted = halvings - torch.frexp(apart.double()).exponent.long()
    before = place[neighbours] < place[:, None]
    undecoded = graph.neighbours[nodes]  # (M, K) nodes
    tables = [
        torch.cat([first, first.new_empty((halvings + 1) * M, first.shape[1])])
        for first in encoding.undecoded
    ]
    h = encoding.h_V[nodes]  # (M, H)
    for i in range(halvings + 1):
        # Those parted earlier have come, those parted now will come, of the others those before.
        known = (parted < i) | ((parted > i) & before)
        reads = torch.where(known, N + parted.clamp(max=i) * M + neighbours, undecoded)
        h = encoding.h_V[nodes]
        for l, table in enumerate(tables):
            table[N + i * M : N + (i + 1) * M] = layers.decoded(l, tokens, h)
            h = layers.advance(l, h, table, reads, nodes)
    return h
