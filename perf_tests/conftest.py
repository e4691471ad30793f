"""The workloads: the study's protein and the example proteins, for the original and the engine."""

from __future__ import annotations

import pytest
import torch
from proteins import EXAMPLES, path_of, protein

import mpnn_core as mpnn
from mpnn_core.peers import original


@pytest.fixture(scope="session")
def examples() -> list[mpnn.Structure]:
    """The six example proteins of ProteinMPNN."""
    return [protein(name) for name in EXAMPLES]


@pytest.fixture(scope="session")
def model() -> mpnn.Model:
    """Our engine, exact."""
    return mpnn.load_model("v_48_020")


@pytest.fixture(scope="session")
def network() -> torch.nn.Module:
    """The original."""
    return original.load()


@pytest.fixture(scope="session")
def study_protein(examples: list[mpnn.Structure]) -> mpnn.Structure:
    """5L33, 106 residues, the protein of the study."""
    return examples[0]


@pytest.fixture(scope="session")
def original_forward():
    """(variant, copies) -> the original's forward() of 5L33 in that shape, featurised its own way.

    Or of another structure, and on another device.

    Its speed does not depend on the weights; the baseline's are the pretrained ones.
    """

    def forward(
        variant: str = "baseline",
        copies: int = 1,
        structure: mpnn.Structure | None = None,
        device: str = "cpu",
    ):
        v = mpnn.VARIANTS[variant]
        network = (
            original.load(neighbours=v.neighbours)
            if (v.hidden, v.encoder_layers, v.decoder_layers) == (128, 3, 3)
            else original.build(v.hidden, v.encoder_layers, v.decoder_layers, v.neighbours)
        )
        inputs = (
            original.featurize(path_of("5L33"), copies)
            if structure is None
            else original.inputs(structure, copies)
        )
        network, inputs = network.to(device), inputs.to(torch.device(device))
        return lambda: original.log_probs(network, inputs)

    return forward
