"""What a candidate may have besides the methods of `mpnn_core.peers.contract.Peer`.

Each method that it has unlocks the checks of it; without one they are not exercised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mpnn_core import Structure


class Neighbours(Protocol):
    """A candidate that tells its k-NN graph."""

    def neighbours(self, structure: Structure) -> NDArray[np.int64]:
        """The residues that each one hears from, itself among them: (L, k), in any order.

        -1 fills rows of residues without a complete backbone, and what is left of others.
        """


class Together(Protocol):
    """A candidate that computes several structures in one batch."""

    def log_probs_many(
        self,
        structures: Sequence[Structure],
        sequences: Sequence[str],
        orders: Sequence[NDArray[np.int64]],
    ) -> list[NDArray[np.float32]]:
        """`Peer.log_probs` of each, (L, 21) with its own L."""
