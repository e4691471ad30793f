"""Architectures by name: the network's class, and what it reads of a structure.

A further architecture that designs is a subclass of `MPNN` and one more row of `ARCHITECTURES`; no
backend has to know of it (`MPNN.requires`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mpnn_core.network.ca_only import CAOnlyMPNN
from mpnn_core.network.context import LigandMPNN
from mpnn_core.network.families import (
    CA_ONLY,
    LIGAND_MPNN,
    MEMBRANE_MPNN,
    PROTEIN_MPNN,
    SIDE_CHAIN_PACKER,
    published_names,
)
from mpnn_core.network.membrane import MembraneMPNN
from mpnn_core.network.mpnn import MPNN
from mpnn_core.network.packer import Packer
from mpnn_core.network.variants import Variant


@dataclass(frozen=True)
class Architecture:
    """One kind of network.

    Attributes
    ----------
    network : its class, made of hidden width, encoder layers, decoder layers and k, and then of
        `takes`
    needs : what it reads of a structure: "backbone" is the four backbone atoms of every residue,
        "CA" one of them, "context" the atoms around them, "membrane" the labels of residues
    marks : tensors that tell its checkpoints from those of the other architectures: name -> shape,
        or None where any shape does
    takes : attributes of a `Checkpoint` that the class is made of besides
    designs : whether it gives sequences for backbones; `load_model` makes a `Model` of those alone
    """

    network: type[Any]
    needs: frozenset[str]
    marks: Mapping[str, tuple[int, ...] | None] = field(default_factory=dict)
    takes: tuple[str, ...] = ()
    designs: bool = True

    def fits(self, state: Mapping[str, Tensor]) -> bool:
        """Whether a checkpoint's tensors have its marks."""
        return all(
            name in state and shape in (None, tuple(state[name].shape))
            for name, shape in self.marks.items()
        )


# CA-only and membrane checkpoints have tensors of the same names: the widths of the edges differ.
ARCHITECTURES: dict[str, Architecture] = {
    PROTEIN_MPNN: Architecture(MPNN, frozenset({"backbone"})),
    CA_ONLY: Architecture(
        CAOnlyMPNN,
        frozenset({"CA"}),
        {"features.node_embedding.weight": None, "features.edge_embedding.weight": (128, 167)},
    ),
    MEMBRANE_MPNN: Architecture(
        MembraneMPNN,
        frozenset({"backbone", "membrane"}),
        {"features.node_embedding.weight": (128, 3), "features.edge_embedding.weight": (128, 416)},
        ("name",),
    ),
    LIGAND_MPNN: Architecture(
        LigandMPNN,
        frozenset({"backbone", "context"}),
        {"W_c.weight": None, "y_context_encoder_layers.0.W1.weight": None},
        ("context_atoms",),
    ),
    SIDE_CHAIN_PACKER: Architecture(
        Packer,
        frozenset({"backbone", "context"}),
        {"W_c.weight": None, "W_torsions.weight": None, "W_v_sc.weight": None},
        ("context_atoms",),
        designs=False,
    ),
}


def recognise(state: Mapping[str, Tensor]) -> str:
    """The architecture of a checkpoint, by its tensors: of those that fit, the one with most marks.

    One without any mark is ProteinMPNN's.
    """
    fitting = [name for name, architecture in ARCHITECTURES.items() if architecture.fits(state)]
    return max(fitting, key=lambda name: len(ARCHITECTURES[name].marks))


def models_that_read(need: str) -> tuple[str, ...]:
    """Names of the published models that design, and read `need`, one of `Architecture.needs`."""
    return tuple(
        name
        for architecture, kind in ARCHITECTURES.items()
        if need in kind.needs and kind.designs
        for name in published_names(architecture)
    )


def random_network(variant: Variant, seed: int = 0) -> MPNN:
    """`variant` with random weights, Xavier-uniform matrices as the original initialises them.

    For measurements of speed, and for showing what random weights are worth: nothing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MPNN(
            variant.hidden, variant.encoder_layers, variant.decoder_layers, variant.neighbours
        )
        for parameter in network.parameters():
            if parameter.dim() > 1:
                torch.nn.init.xavier_uniform_(parameter)
    return network.eval().requires_grad_(False)
