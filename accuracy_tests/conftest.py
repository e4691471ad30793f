"""What the engine's tests share: our model, and the original in float32 and float64."""

from __future__ import annotations

import os
import sys

import pytest

# Torch's threads wait for each other by spinning, which beside other work takes ten times as long.
# The performance tests leave that as it is: a baseline runs as its authors run it.
if any("accuracy_tests" in argument for argument in sys.argv[1:]) and not any(
    "perf_tests" in argument or argument == "claim" for argument in sys.argv[1:]
):
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded

# What the user of this machine added is no part of any test.
os.environ["MPNN_CORE_WEIGHTS"] = os.path.join(os.sep, "nowhere", "mpnn_core")

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
