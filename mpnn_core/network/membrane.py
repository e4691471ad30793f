"""MembraneMPNN: ProteinMPNN that starts from a label of every residue.

Source: the original's `ProteinFeaturesMembrane` (LigandMPNN). Node states start at
W_v LN(node_embedding(one-hot of the label)), a constant row for each label; nothing else differs.
Labels are 0, other; 1, at the interface; 2, buried in the membrane. The model of one label for a
whole structure is the same network: 0, soluble, or 1, in a membrane.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpnn_core.network.encoding import INITIAL_STATES
from mpnn_core.network.families import GLOBAL_MEMBRANE
from mpnn_core.network.features import EdgeFeatures
from mpnn_core.network.graph import Backbones, upload
from mpnn_core.network.layers import LayerNorm, Linear
from mpnn_core.network.mpnn import MPNN
from mpnn_core.structures.structure import Structure, StructureError, StructureWarning

LABELS = 3


class MembraneFeatures(EdgeFeatures):
    """The features of ProteinMPNN's edges, and those of the nodes' labels."""

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden)
        self.node_embedding = Linear(LABELS, hidden, bias=False)
        self.norm_nodes = LayerNorm(hidden)

    def of_labels(self) -> Tensor:
        """A row for each label: (3, H)."""
        # The column of a label is what the layer makes of its one-hot vector.
        rows: Tensor = self.norm_nodes(self.node_embedding.weight.T)
        return rows


class MembraneMPNN(MPNN):
    """The network of both membrane models.

    Parameters
    ----------
    hidden, encoder_layers, decoder_layers, neighbours
        As of `MPNN`.
    name : of the checkpoint; `GLOBAL_MEMBRANE` was trained with one label for a whole structure,
        and is given no others
    """

    requires: ClassVar[frozenset[str]] = frozenset({INITIAL_STATES})
    edges: ClassVar[type[EdgeFeatures]] = MembraneFeatures
    features: MembraneFeatures

    def __init__(
        self,
        hidden: int = 128,
        encoder_layers: int = 3,
        decoder_layers: int = 3,
        neighbours: int = 48,
        name: str = "",
    ) -> None:
        super().__init__(hidden, encoder_layers, decoder_layers, neighbours)
        self.name = name
        self.W_v = Linear(hidden, hidden)

    @property
    def one_label(self) -> bool:
        """Whether the model takes one label for a whole structure."""
        return self.name == GLOBAL_MEMBRANE

    def context(
        self,
        structures: Sequence[Structure],
        fixed: Sequence[NDArray[np.bool_]],
        device: torch.device,
    ) -> Tensor:
        """The labels of the nodes: (N,) int64. A structure without labels has 0 everywhere.

        Raises
        ------
        StructureError
            The model takes one label for a whole structure, 0 or 1, and a structure has others.
        """
        if any(structure.membrane is None for structure in structures):
            warnings.warn(
                "the model reads membrane labels, and a structure has none: all of its residues "
                f"are taken as {'soluble' if self.one_label else 'outside of the membrane'}, 0 "
                "(Structure.with_membrane gives it labels)",
                StructureWarning,
                stacklevel=2,
            )
        return upload(np.concatenate([self._labels(s)[s.mask] for s in structures]), device)

    def _labels(self, structure: Structure) -> NDArray[np.int64]:
        """The labels of a structure's residues, checked: (L,) int64."""
        labels = structure.membrane
        if labels is None:
            return np.zeros(len(structure), np.int64)
        seen = np.unique(labels).tolist()
        if self.one_label and seen not in ([0], [1]):
            raise StructureError(
                f"{structure.name}: {self.name} takes one membrane label for the whole structure, "
                f"0 (soluble) or 1 (in a membrane); got {', '.join(map(str, seen))}. "
                "membrane/per_residue_v_48_020 takes one for each residue"
            )
        return labels

    def context_tensors(self, context: Tensor) -> tuple[Tensor, ...]:
        return (context,)

    def context_of(self, *tensors: Tensor) -> Tensor:
        return tensors[0]

    @property
    def recordable(self) -> bool:
        return True

    def initial_states(self, backbones: Backbones, context: Any) -> Tensor:
        """The row of each node's label, of the three that there are: (N, H)."""
        rows: Tensor = self.W_v(self.features.of_labels())  # (3, H)
        return rows[context]
