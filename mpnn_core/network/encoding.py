"""What the encoder leaves for the decoder, and the rows that are decoded.

Every architecture of the network ends here, and every backend begins here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpnn_core.network.graph import Graph, run_of_each, upload

# What an architecture may require of a backend beyond ProteinMPNN, and a backend may know.
INITIAL_STATES = "initial states"  # the encoder starts from given node states, not from zeros
CHANGED_STATES = "changed states"  # node states change between encoder and decoder
OWN_FEATURES = "own features"  # edges are read by features other than the 25 distances

# What a job may require of a backend.
CONDITIONING = "conditioning"  # every residue is decoded after all others (`MPNN.condition`)
TIED = "tied conditioning"  # the same in tied orders, which plain torch alone does

MOST_RECORDED_NODES = 1024
"""A GPU records the work on so many nodes, and what is computed of so many must not wait for it."""

# What structures may require of a backend.
RINGS = "rings"  # residue offsets are counted around cyclic chains


@dataclass(frozen=True, eq=False)
class Encoding:
    """What decoding needs to know of the structures: computed once, shared by all sequences.

    Attributes
    ----------
    graph : the neighbours of every node
    h_V : (N, H), the encoder's node states
    edges : (decoder layers, N, K, H), B h_E
    undecoded : (decoder layers, N, H), D h_V: what an undecoded neighbour contributes
    """

    graph: Graph
    h_V: Tensor
    edges: Tensor
    undecoded: Tensor


@dataclass(frozen=True, eq=False)
class Copies:
    """The nodes of many sequences on the same structures: M rows, one per residue and sequence.

    Attributes
    ----------
    graph : of the structures
    nodes : (M,) int64, the graph's node that each row is a copy of
    sequence : (M,) int64, the sequence that each row belongs to
    starts : first row of every sequence, and M at the end
    derived : what a backend works out from the rows' places alone, and keeps with them
    """

    graph: Graph
    nodes: Tensor
    sequence: Tensor
    starts: tuple[int, ...]
    derived: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph, offsets: tuple[int, ...], structures: Sequence[int]) -> Copies:
        """One copy per entry of `structures`, an index of a structure each, repeats allowed."""
        return cls(graph, *cls.places(offsets, structures, graph.neighbours.device))

    @staticmethod
    def places(
        offsets: tuple[int, ...], structures: Sequence[int], device: torch.device
    ) -> tuple[Tensor, Tensor, tuple[int, ...], dict[Any, Any]]:
        """All fields but the graph: they follow from the structures' lengths."""
        of_each = np.asarray(structures)
        starts = np.concatenate([[0], np.diff(offsets)[of_each].cumsum()])
        shift = np.asarray(offsets)[of_each] - starts[:-1]  # from a row to its node
        sequence = run_of_each(np.diff(starts), device)  # (M,)
        nodes = torch.arange(len(sequence), device=device) + upload(shift, device)[sequence]
        return nodes, sequence, tuple(starts.tolist()), {}

    @cached_property
    def neighbours(self) -> Tensor:
        """The rows of each row's neighbours, in the same sequence: (M, K) int64."""
        shift = torch.arange(len(self.nodes), device=self.nodes.device) - self.nodes
        return self.graph.neighbours[self.nodes] + shift[:, None]


def sorted_within(key: Tensor, sequence: Tensor, starts: Sequence[int]) -> Tensor:
    """Indices that sort `key` (n,) stably within each sequence, one sequence after the other.

    sequence (n,) int64 numbers the sequence of each entry; starts are where each starts, and n.
    """
    lengths = np.diff(starts)
    if (lengths == lengths[0]).all():  # side by side, which takes a single pass
        by_key = key.view(len(lengths), -1).argsort(dim=1, stable=True)
        first = torch.arange(0, len(key), lengths[0], device=key.device)
        return (by_key + first[:, None]).view(-1)
    by_key = key.argsort(stable=True)
    return by_key[sequence[by_key].argsort(stable=True)]
