"""The engine of this package as a peer, by its public names alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import mpnn_core
from mpnn_core import Structure


class Ours:
    """`mpnn_core.Model` with published weights; `backend` and `device` as in `load_model`."""

    name = "mpnn_core"
    version = mpnn_core.__version__

    def __init__(
        self, weights: str = "v_48_020", device: str = "cpu", backend: str = "auto"
    ) -> None:
        self.model = mpnn_core.load_model(weights, device=device, backend=backend)

    def log_probs(
        self, structure: Structure, sequence: str, order: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """See `Peer`."""
        log_probs: NDArray[np.float32] = self.model.log_probs(structure, sequence, order)[0]
        return log_probs

    def design(
        self, structure: Structure, n: int = 1, temperature: float = 0.1, seed: int = 0
    ) -> list[str]:
        """See `Peer`."""
        sequences: list[str] = self.model.design(structure, n, temperature, seed).sequences
        return sequences
