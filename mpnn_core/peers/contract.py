"""The contract of peers: any implementation of ProteinMPNN that is to be compared with others.

A peer has the pretrained weights v_48_020 unless its name says otherwise. Structures and sequences
go in and out as NumPy arrays and strings, so that a peer may live in another environment.

A candidate is a file of Python with a function `peer()`, without arguments, that returns a `Peer`.
The file needs NumPy and what the implementation itself needs, and does not import mpnn_core. What
a peer need not have:

takes_order : bool, an attribute
    False where the implementation cannot decode in an order that is given. `log_probs` then gets
    None, decodes in an order of its own, and is not compared with the original's.
weights : str, an attribute
    Names the weights where they are not v_48_020; log-probabilities are then not compared.
batch : int, an attribute
    How many sequences of one structure go through the network together, where one may choose. It
    is set before `design` is called; the fastest of a few is what is timed.
neighbours(structure) -> (L, k) integers
    For each residue the k nearest ones that the network sees, itself among them; any order. -1
    fills rows of residues without a complete backbone, and what is left of others.
log_probs_many(structures, sequences, orders) -> list of (L, 21) float32
    `log_probs` of several structures in one batch, each with its own L.
design_many(structures, n, temperature, seed) -> list of lists of sequences
    Designs for several structures in one call; without it they are designed one after the other.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class PeerError(Exception):
    """A peer that cannot be opened, or fails; the message names it and ends with its own words."""


class Backbone(Protocol):
    """A structure as a peer gets it; `mpnn_core.Structure` has these attributes, and others.

    Attributes
    ----------
    coords : (L, 4, 3) float32, Å: the atoms N, CA, C, O; NaN where missing
    sequence : L letters of `ALPHABET`, the native ones
    chain_ids : (L,) str
    residue_index : (L,) int64, the original's `residue_idx`: it jumps by 100 between chains
    mask : (L,) bool, True where all of N, CA, C, O are known
    """

    @property
    def coords(self) -> NDArray[np.float32]: ...

    @property
    def sequence(self) -> str: ...

    @property
    def chain_ids(self) -> NDArray[np.str_]: ...

    @property
    def residue_index(self) -> NDArray[np.int64]: ...

    @property
    def mask(self) -> NDArray[np.bool_]: ...

    def __len__(self) -> int: ...


class Peer(Protocol):
    """One implementation. `name` and `version` are those that its authors gave it."""

    name: str
    version: str

    def log_probs(
        self, structure: Backbone, sequence: str, order: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Teacher-forced log-probabilities (L, 21) in nats, columns as in `ALPHABET`.

        Parameters
        ----------
        structure : L residues
        sequence : L letters of `ALPHABET`, "ACDEFGHIKLMNPQRSTVWYX"
        order : (L,) positions, in the order in which they are decoded
        """

    def design(
        self, structure: Backbone, n: int = 1, temperature: float = 0.1, seed: int = 0
    ) -> list[str]:
        """n sequences of L letters for all residues, each under a random decoding order.

        The same seed gives the same sequences. A residue without a complete backbone is not
        designed, and its letter means nothing.
        """
