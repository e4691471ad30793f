"""Sequences that are computed together: their rows and positions, on a device.

A *node* is a residue with a complete backbone in one of the structures; a *row* is a copy of a node
in one sequence; a *position* is any residue, complete or not, in one sequence. N nodes, M rows and
P positions: docs/explanation/engine.md draws two structures with three and two sequences. What a
batch holds depends on the shapes of its structures alone, so that work on it can be recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpnn_core.network.encoding import MOST_RECORDED_NODES, Copies, sorted_within
from mpnn_core.network.graph import Graph, run_of_each, upload
from mpnn_core.structures.structure import Structure

WITHOUT_FLOAT64 = ("mps",)  # devices that cannot hold it

# What is larger keeps a GPU busy for longer than it takes to launch it.
MOST_RECORDED_ROWS = 1 << 19

Run = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences decoded together.

    Attributes
    ----------
    structures : all structures of the job
    group : the structures that are encoded together, as indices into that list
    runs : (structure, first, count): sequences first to first + count of that structure
    device : where the rows are
    """

    structures: list[Structure]
    group: list[int]
    runs: list[Run]
    device: torch.device

    @cached_property
    def wide(self) -> torch.device:
        """Where float64 is computed: the device, or the host for one that has none."""
        return torch.device("cpu") if self.device.type in WITHOUT_FLOAT64 else self.device

    @cached_property
    def sequences(self) -> list[tuple[int, int]]:
        """(structure, number of the sequence) of every sequence."""
        return [(s, first + i) for s, first, count in self.runs for i in range(count)]

    @cached_property
    def lengths(self) -> list[int]:
        """Positions of every sequence."""
        return [len(self.structures[s]) for s, _, count in self.runs for _ in range(count)]

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The first node of each structure of the group, and their number at the end."""
        counts = [0, *(int(self.structures[s].mask.sum()) for s in self.group)]
        return tuple(np.cumsum(counts).tolist())

    @property
    def recordable(self) -> bool:
        """Whether recording pays and can be done: few rows, which launches bound, of one structure,
        whose graph has no spare slots. A recording knows nothing of states and of rings."""
        structure = self.structures[self.group[0]]
        if structure.states or structure.cyclic:
            return False
        rows = sum(count for *_, count in self.runs) * self.offsets[-1]
        small = self.offsets[-1] <= MOST_RECORDED_NODES and rows <= MOST_RECORDED_ROWS
        return small and len(self.group) == 1

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """The shapes in the batch; a recording of one batch serves all batches of equal keys."""
        missing = [tuple(np.flatnonzero(~self.structures[s].mask)) for s in self.group]
        counts = [(s - self.group[0], count) for s, _, count in self.runs]
        return (self.offsets, tuple(missing), tuple(counts), str(self.device))

    @cached_property
    def _places(self) -> tuple[Any, ...]:
        copied = [s - self.group[0] for s, _, count in self.runs for _ in range(count)]
        return Copies.places(self.offsets, copied, self.device)

    def copies(self, graph: Graph) -> Copies:
        """The rows, with their neighbours in the structures' graph."""
        return Copies(graph, *self._places)

    @cached_property
    def position_starts(self) -> Tensor:
        """Where each sequence starts among the P positions of all, and P: int64."""
        return upload(np.cumsum([0, *self.lengths]), self.wide)

    @cached_property
    def sequence_of_position(self) -> Tensor:
        """(P,) int64."""
        return run_of_each(np.array(self.lengths), self.wide)

    @cached_property
    def position(self) -> Tensor:
        """Of every row, which of the P positions it is: (M,) int64."""
        nodes, sequence = (x.to(self.wide) for x in self._places[:2])
        if all(self.structures[s].mask.all() for s in self.group):
            return torch.arange(len(nodes), device=self.wide)
        complete = np.concatenate([np.flatnonzero(self.structures[s].mask) for s in self.group])
        return upload(complete, self.wide)[nodes] + self.position_starts[sequence]

    @cached_property
    def structure_position(self) -> Tensor:
        """Of every position, which of the group's structures' positions it is: (P,) int64."""
        first = np.cumsum([0, *(len(self.structures[s]) for s in self.group)])
        of_sequence = first[[s - self.group[0] for s, _ in self.sequences]]
        shift = upload(of_sequence, self.wide) - self.position_starts[:-1]
        sequence = self.sequence_of_position
        return torch.arange(len(sequence), device=self.wide) + shift[sequence]

    @cached_property
    def row_starts(self) -> list[int]:
        """Where each sequence starts among the rows of all, and M."""
        of_structure = dict(zip(self.group, np.diff(self.offsets).tolist(), strict=True))
        return np.cumsum([0, *(of_structure[s] for s, _ in self.sequences)]).tolist()

    @cached_property
    def rows_of_sequences(self) -> Tensor:
        """(sequences,) int64."""
        return upload(np.diff(self.row_starts), self.wide)

    def of_nodes(self, per_structure: Sequence[NDArray[Any]]) -> Tensor:
        """One array (L, ...) per structure of the job -> (N, ...) over the group's nodes."""
        parts = [per_structure[s][self.structures[s].mask] for s in self.group]
        return upload(np.concatenate(parts), self.device)

    def of_positions(self, per_structure: Sequence[NDArray[Any]]) -> Tensor:
        """One array (L, ...) per structure of the job -> over the positions of the group."""
        return upload(np.concatenate([per_structure[s] for s in self.group]), self.wide)

    def of_rows(self, per_sequence: Iterable[NDArray[Any]]) -> Tensor:
        """One array (L, ...) per sequence -> (M, ...) over the rows."""
        parts = [
            values[self.structures[s].mask]
            for values, (s, _) in zip(per_sequence, self.sequences, strict=True)
        ]
        return upload(np.concatenate(parts), self.device)

    def drawn(self, uniform: Tensor) -> Tensor:
        """Random numbers (P,) -> (M,), in the device's widest precision."""
        of_rows = uniform.to(self.wide)[self.position]
        if self.device.type in WITHOUT_FLOAT64:
            of_rows = of_rows.float()
        return of_rows.to(self.device)

    def order(self, key: Tensor) -> Tensor:
        """Positions of every sequence by their key, (P,) -> (P,) int64."""
        if key.device.type == "cpu":  # where a sort of all at once takes longer than many
            keys = np.split(key.numpy(), np.cumsum(self.lengths)[:-1])
            orders = [np.argsort(part, kind="stable") for part in keys]
            return torch.from_numpy(np.concatenate(orders))
        sequence = self.sequence_of_position
        order = sorted_within(key, sequence, np.cumsum([0, *self.lengths]).tolist())
        return order - self.position_starts[sequence]

    def rank(self, order: Tensor) -> Tensor:
        """When each row is decoded within its sequence, from the orders (P,): (M,) int64."""
        first = self.position_starts[self.sequence_of_position]
        rank = torch.empty_like(order)
        rank[order + first] = torch.arange(len(order), device=order.device) - first
        return rank[self.position].to(self.device)

    def sums(self, values: Tensor) -> Tensor:
        """Sums over each sequence's rows in float64: (M, ...) -> (sequences, ...)."""
        values = values.to(self.wide).double()
        # One thread per sum, so it is the same in any company; `unsafe` leaves out a wait.
        return torch.segment_reduce(values, "sum", lengths=self.rows_of_sequences, unsafe=True)

    def parts(self, rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """(M, ...) over the rows -> the part of each sequence, over its complete residues."""
        return (rows[first:last] for first, last in pairwise(self.row_starts))


def groups_within(budget: int, sizes: Sequence[int]) -> Iterator[list[int]]:
    """Consecutive indices, grouped so that their sizes add up to at most `budget`.

    A size that is larger than the budget is a group of its own.
    """
    group: list[int] = []
    total = 0
    for index, size in enumerate(sizes):
        if group and total + size > budget:
            yield group
            group, total = [], 0
        group.append(index)
        total += size
    if group:
        yield group


def runs_within(budget: int, runs: Sequence[Run], lengths: Sequence[int]) -> Iterator[list[Run]]:
    """Runs divided into lists of at most `budget` rows, or of one sequence."""
    part: list[Run] = []
    room = budget
    for s, first, count in runs:
        while count:
            fits = min(count, room // lengths[s])
            if not fits and part:
                yield part
                part, room = [], budget
                continue
            fits = max(1, fits)
            part.append((s, first, fits))
            first, count, room = first + fits, count - fits, room - fits * lengths[s]
    if part:
        yield part
