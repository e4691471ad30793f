"""Fixtures for what a test may run on; what is not here is in the ledger as not exercised."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest

from mpnn_core.gate.judging import _skip

_HARDWARE = {
    "cuda": "an NVIDIA GPU",
    "mps": "Apple silicon",
    "mlx": "MLX",
    "coreml": "Core ML (coremltools)",
}
TORCH_DEVICES = ("cpu", "cuda", "mps")


def synchroniser(device: str) -> Callable[[], None]:
    """What waits until a torch device has done what it was given; the CPU has when it returns."""
    import torch

    waits = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}
    return waits.get(device, lambda: None)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Any:
    """Each torch device, or those a test is parametrised with.

    One that is not here is in the ledger as not exercised.
    """
    import torch

    asked = request.config.getoption("--device")
    if asked and request.param not in asked:
        pytest.skip(f"--device {' '.join(asked)}")

    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present[request.param]:
        _skip(request.node, _HARDWARE[request.param])
    return torch.device(request.param)


@pytest.fixture
def synchronise(device: Any) -> Callable[[], None]:
    """Wait until `device` has done what it was given."""
    return synchroniser(device.type)


@pytest.fixture
def mlx(request: pytest.FixtureRequest) -> Any:
    """The module mlx.core; not exercised where it cannot be imported."""
    return _module(request, "mlx", "mlx.core")


@pytest.fixture
def coreml(request: pytest.FixtureRequest) -> Any:
    """The module coremltools; not exercised where it cannot be imported."""
    return _module(request, "coreml", "coremltools")


def _module(request: pytest.FixtureRequest, device: str, name: str) -> Any:
    asked = request.config.getoption("--device")
    if asked and device not in asked:
        pytest.skip(f"--device {' '.join(asked)}")
    try:
        return importlib.import_module(name)
    except ImportError:
        return _skip(request.node, _HARDWARE[device])
