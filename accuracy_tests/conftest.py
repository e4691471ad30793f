"""What the engine's tests share: our model, and the original in float32 and float64."""

from __future__ import annotations

import pytest
import torch

from mpnn_core import Model, load_model
from mpnn_core.peers import original


@pytest.fixture(scope="session")
def model() -> Model:
    """The published weights v_48_020. Never written to: sabotage works on a copy."""
    return load_model()


@pytest.fixture(scope="session")
def published() -> torch.nn.Module:
    """The original network with the same weights."""
    return original.load()


@pytest.fixture(scope="session")
def published_float64() -> torch.nn.Module:
    return original.load(dtype=torch.float64)
