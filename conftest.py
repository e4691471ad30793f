"""For every test: the claims, the paired measurement and the ledger (mpnn_core/gate/plugin.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest_plugins = ["mpnn_core.gate.plugin", "pytester"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-packages", action="store_true",
        help="convert and check every Core ML package, on all of TS50, not one per bucket",
    )  # fmt: skip


@pytest.fixture
def mlx(find_device: Callable[[str], Any]) -> Any:
    """The module mlx.core; not exercised where it cannot be imported."""
    return find_device("mlx")


@pytest.fixture
def coreml(find_device: Callable[[str], Any]) -> Any:
    """The module coremltools; not exercised where it cannot be imported."""
    return find_device("coreml")
