"""How levels are dealt to a GPU's multiprocessors, and with which tile sizes.

Nothing here waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mpnn_core.backends.cuda import compiled
from mpnn_core.network.encoding import Copies, sorted_within
from mpnn_core.network.graph import Graph

MOST_ROWS = 16  # rows of a block at a time

LEVELS_EXPECTED = 70  # of any long protein; only speed depends on it


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


@dataclass(frozen=True)
class Tunings:
    """The tunings of a tier, of Triton's kernels.

    Attributes
    ----------
    many : with at least one sequence for every multiprocessor
    few : with fewer sequences
    narrow : with as many, whose levels have fewer than NARROW rows for each multiprocessor
    """

    many: Tuning
    few: Tuning
    narrow: Tuning

    def of(self, sequences: int, rows: int, multiprocessors: int) -> Tuning:
        """The one for so many sequences of so many rows together."""
        if sequences < multiprocessors:
            return self.few
        if rows < NARROW * LEVELS_EXPECTED * multiprocessors:
            return self.narrow
        return self.many


# The best of some twenty each on an H100 (docs/explanation/cuda.md).
TUNINGS = {
    "exact": Tunings(
        many=Tuning(edges=128, warps=8, rows=32, wide_stages=2),
        few=Tuning(edges=64, warps=8, rows=4, wide_stages=2),
        narrow=Tuning(edges=128, warps=8, rows=32, wide_stages=2),
    ),
    "fast": Tunings(
        many=Tuning(
            edges=64, warps=4, blocks_per_multiprocessor=2, stages=2, width=128, wide_stages=2
        ),
        few=Tuning(edges=64, warps=4, rows=4, wide_stages=3),
        narrow=Tuning(edges=64, warps=8, stages=2, wide_stages=3),
    ),
}


@dataclass(frozen=True, eq=False)
class Deal:
    """The sequences of each team.

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
    """The rows that each block decodes, level by level.

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

    @classmethod
    def of(
        cls, graph: Graph, copies: Copies, rank: Tensor, multiprocessors: int, tuning: Tuning
    ) -> Plan:
        """For the rows of `copies`, decoded in the order of `rank` (M,)."""
        from mpnn_core.backends.cuda import kernels

        dealt = (multiprocessors, tuning)
        if dealt not in copies.derived:
            copies.derived[dealt] = Deal.of(copies, *dealt)
        deal: Deal = copies.derived[dealt]
        M, (N, K), device = len(rank), graph.neighbours.shape, rank.device
        teams, longest, sequence = deal.teams, deal.longest, copies.sequence
        by_rank = sorted_within(rank, sequence, copies.starts).int()
        reads = torch.empty(M, K, dtype=torch.int32, device=device)
        level = torch.empty(M, dtype=torch.int32, device=device)
        nodes = copies.nodes.int()
        kernels.find_levels[(len(copies.starts) - 1,)](
            by_rank, deal.starts, rank, graph.neighbours, nodes,
            reads, level, N, K=K, SLOTS=next_power_of_two(K), ROWS=32, num_warps=8,
        )  # fmt: skip
        key = (deal.team[sequence] * longest + level).int()  # (M,)
        key, order = key.sort(stable=True)
        edges = torch.arange(teams * longest + 1, dtype=torch.int32, device=device)
        starts = torch.searchsorted(key, edges, out_int32=True)
        at = torch.arange(teams, device=device)[:, None] * longest
        bounds = starts[at + torch.arange(longest + 1, device=device)].contiguous()
        depth = (bounds[:, 1:] > bounds[:, :-1]).sum(1, dtype=torch.int32)
        return cls(
            order.int(), bounds, depth, reads, nodes, teams, deal.members, deal.rows, deal.tuning
        )


def next_power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()
