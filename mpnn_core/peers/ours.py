"""The engine of this package as a peer, by its public names alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

import mpnn_core
from mpnn_core import Structure
from mpnn_core.peers.contract import Backbone


class Ours:
    """`mpnn_core.Model` with published weights; `backend` and `device` as in `load_model`."""

    name = "mpnn_core"
    version = mpnn_core.__version__

    def __init__(
        self, weights: str = "v_48_020", device: str = "cpu", backend: str = "auto"
    ) -> None:
        self.model = mpnn_core.load_model(weights, device=device, backend=backend)

    def log_probs(
        self, structure: Backbone, sequence: str, order: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """See `Peer`."""
        log_probs: NDArray[np.float32] = self.model.log_probs(
            structure_of(structure), sequence, order
        )[0]
        return log_probs

    def design(
        self, structure: Backbone, n: int = 1, temperature: float = 0.1, seed: int = 0
    ) -> list[str]:
        """See `Peer`."""
        return self.design_many([structure], n, temperature, seed)[0]

    def design_many(
        self, structures: Sequence[Backbone], n: int = 1, temperature: float = 0.1, seed: int = 0
    ) -> list[list[str]]:
        """See contract.py."""
        designs = self.model.design(list(map(structure_of, structures)), n, temperature, seed)
        return [of_one.sequences for of_one in designs]


def peer() -> Ours:
    """The engine as it is loaded without further words."""
    return Ours()


def structure_of(backbone: Backbone) -> Structure:
    """A backbone with the public class of this package."""
    if isinstance(backbone, Structure):
        return backbone
    return Structure.from_backbone(
        backbone.coords, backbone.sequence, backbone.chain_ids, backbone.residue_index
    )
