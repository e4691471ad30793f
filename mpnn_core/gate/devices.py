"""Fixtures for the devices that a test may run on.

Where the hardware of a device is missing, the ledger has the figure as not exercised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mpnn_core.gate.hardware import device_class, hardware_of
from mpnn_core.gate.judging import PROJECT, not_exercised_here


@pytest.fixture
def find_device(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """find_device(name): a class of device of the project, as its module of hardware gives it.

    The test is skipped where `--device` names others, and not exercised where the hardware is
    missing.
    """
    project = request.config.stash[PROJECT]
    chosen = request.config.getoption("--device")

    def find(name: str) -> Any:
        if chosen and name not in chosen:
            pytest.skip(f"--device {' '.join(chosen)}")
        device = hardware_of(project).find(name)
        if device is None:
            not_exercised_here(request.node, project.classes[name])
        return device

    return find


@pytest.fixture
def device(request: pytest.FixtureRequest, find_device: Callable[[str], Any]) -> Any:
    """Each device of the project, or those that a test is parametrised with."""
    return find_device(request.param)


@pytest.fixture
def synchronise(request: pytest.FixtureRequest, device: Any) -> Callable[[], None]:
    """A function that returns when `device` has finished all work that it was given."""
    return hardware_of(request.config.stash[PROJECT]).synchroniser(device_class(device))
