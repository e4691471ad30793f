"""Fixed shapes for backends that compile one network per length: bucket choice and padding.

Everything else runs without padding. In a bucket the added nodes and neighbour slots are invalid:
they stay out of every message of encoder and decoder, and out of the k-NN of real residues, so a
padded structure has the log-probabilities of the unpadded one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor
from torch.nn import functional as F

from mpnn_core.network.graph import Backbones, Graph, nearest_neighbours

BUCKETS = (64, 128, 256, 512)


def choose_bucket(length: int, buckets: Sequence[int] = BUCKETS) -> int:
    """The smallest bucket that holds `length` residues.

    Raises
    ------
    ValueError
        Buckets are not positive and strictly increasing, or the length is not positive or over the
        largest bucket, which the message names.
    """
    if not buckets or buckets[0] < 1 or any(b <= a for a, b in pairwise(buckets)):
        raise ValueError(f"buckets must be positive and strictly increasing, got {tuple(buckets)}")
    if length < 1:
        raise ValueError(f"a structure has at least 1 residue, got {length}")
    if length > buckets[-1]:
        raise ValueError(
            f"{length} residues do not fit into the largest bucket, {buckets[-1]}; "
            "run it unpadded, on a backend without buckets"
        )
    return buckets[bisect_left(buckets, length)]


@dataclass(frozen=True, eq=False)
class Padded:
    """One structure in a fixed shape.

    Attributes
    ----------
    backbones : (B, ...); rows from `length` on hold coordinates of zero
    graph : neighbours and valid, (B, k)
    length : residues that are real
    """

    backbones: Backbones
    graph: Graph
    length: int


def pad(
    backbones: Backbones,
    k: int,
    buckets: Sequence[int] = BUCKETS,
    graph: Graph | None = None,
) -> Padded:
    """One structure's complete residues (N, ...) into the bucket that holds them.

    The graph is made before the padding, so no padded residue can be a neighbour; it has
    min(k, bucket) slots whatever the length. `graph` is one that is known already; None is
    the k-NN graph.
    """
    N = len(backbones)
    if len(backbones.offsets) != 2:
        raise ValueError(f"a bucket holds one structure, got {len(backbones.offsets) - 1}")
    bucket = choose_bucket(N, buckets)
    graph = (graph or nearest_neighbours(backbones, k)).padded(bucket, min(k, bucket))

    def rows(values: Tensor) -> Tensor:
        return F.pad(values, (0, 0) * (values.dim() - 1) + (0, bucket - N))

    padded = Backbones(
        rows(backbones.coords), rows(backbones.residue_index), rows(backbones.chain), (0, bucket)
    )
    return Padded(padded, graph, N)
