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


@dataclass(frozen=True, eq=False)
class Encoding:
    """What decoding needs to know of the structures: computed once, shared by all sequences.

    Attributes
    ----------
    graph : who is whose neighbour
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
        """All but the graph, which a structure's shape does not tell."""
        chosen = np.asarray(structures)
        starts = np.concatenate([[0], np.diff(offsets)[chosen].cumsum()])
        shift = np.asarray(offsets)[chosen] - starts[:-1]  # from a row to its node
        sequence = run_of_each(np.diff(starts), device)  # (M,)
        nodes = torch.arange(len(sequence), device=device) + upload(shift, device)[sequence]
        return nodes, sequence, tuple(starts.tolist()), {}

    @cached_property
    def neighbours(self) -> Tensor:
        """The rows of each row's neighbours, in the same sequence: (M, K) int64."""
        shift = torch.arange(len(self.nodes), device=self.nodes.device) - self.nodes
        return self.graph.neighbours[self.nodes] + shift[:, None]
