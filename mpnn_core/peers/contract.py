"""The contract of peers: any implementation of ProteinMPNN that is to be compared with others.

A peer has the pretrained weights v_48_020 unless its name says otherwise. Structures and sequences
go in and out as NumPy arrays and strings, so that a peer may live in another environment.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mpnn_core import Structure


class Peer(Protocol):
    """One implementation. `name` and `version` are those that its authors gave it."""

    name: str
    version: str

    def log_probs(
        self, structure: Structure, sequence: str, order: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Teacher-forced log-probabilities (L, 21) in nats, columns as in `ALPHABET`.

        Parameters
        ----------
        structure : L residues
        sequence : L letters of `ALPHABET`
        order : (L,) positions, in the order in which they are decoded
        """

    def design(
        self, structure: Structure, n: int = 1, temperature: float = 0.1, seed: int = 0
    ) -> list[str]:
        """n sequences of L letters for all residues, each under a random decoding order.

        The same seed gives the same sequences. A residue without a complete backbone is not
        designed, and its letter means nothing.
        """
