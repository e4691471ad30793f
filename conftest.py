"""What every test has: the claims, the paired measurement and the ledger (mpnn_core/gate/)."""

from __future__ import annotations

import pytest

pytest_plugins = ["mpnn_core.gate.plugin", "pytester"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-packages", action="store_true",
        help="convert and check every Core ML package, on all of TS50, not one per bucket",
    )  # fmt: skip
