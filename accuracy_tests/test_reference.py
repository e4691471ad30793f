"""The plain network is the original's, from the same checkpoint."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from proteins import protein, random_order

from mpnn_core.network.checkpoints import load_checkpoint
from mpnn_core.network.graph import Backbones
from mpnn_core.network.reference import ReferenceMPNN
from mpnn_core.peers import original

MONOMERS = ("6MRR", "5L33")
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}


@pytest.fixture(scope="module")
def reference() -> ReferenceMPNN:
    network = ReferenceMPNN()
    network.load_state_dict(load_checkpoint("v_48_020").state, strict=True)
    return network.eval().requires_grad_(False)


def log_probs(network: ReferenceMPNN, name: str, order: np.ndarray, dtype: torch.dtype):
    """The reference on one protein: (L, 21)."""
    structure = protein(name)
    backbones = Backbones.from_structures([structure], dtype=dtype)
    return network.to(dtype)(
        backbones.coords,
        torch.tensor(structure.tokens),
        backbones.residue_index,
        backbones.chain,
        torch.tensor(order),
    )


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", MONOMERS)
def test_the_reference_is_the_original(name, dtype, reference, monkeypatch):
    order = random_order(len(protein(name)))
    # The original makes the centres of its Gaussians in float32 whatever the network is.
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, dtype=dtype))
    theirs = original.log_probs(
        original.load(dtype=dtype),
        original.inputs(protein(name)).to(dtype),
        torch.tensor(order)[None],
    )[0]
    farthest = (log_probs(reference, name, order, dtype) - theirs).abs().max().item()
    assert farthest <= TOLERANCE[dtype]


def test_the_reference_has_the_parameters_of_the_original(reference):
    theirs = {name: p.shape for name, p in original.load().named_parameters()}
    assert {name: p.shape for name, p in reference.named_parameters()} == theirs


def test_the_reference_is_another_on_another_order(reference):
    order = random_order(68)
    a = log_probs(reference, "6MRR", order, torch.float64)
    b = log_probs(reference, "6MRR", order[::-1].copy(), torch.float64)
    assert (a - b).abs().max().item() > 0.1
