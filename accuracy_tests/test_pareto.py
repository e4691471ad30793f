"""The picture of speed against loss: what is on its front, and that it is of what was measured."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

import mpnn_core as mpnn
from mpnn_core.backends.registry import BACKENDS
from mpnn_core.gate.report import front

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def pareto() -> ModuleType:
    """docs/make_pareto.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("make_pareto", DOCS / "make_pareto.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "points, expected",
    [
        ([(0, 1)], [(0, 1)]),
        ([(2, 9), (0, 5), (1, 7)], [(0, 5), (1, 7), (2, 9)]),
        ([(0, 5), (1, 4), (2, 5)], [(0, 5)]),
        ([(0, 5), (0, 8), (1, 8)], [(0, 8)]),
    ],
    ids=["one", "a trade", "beaten in both", "equal speed"],
)
def test_the_front_is_what_nothing_beats_in_both(points, expected):
    assert front(points) == expected


def test_what_is_drawn_has_a_loss_that_was_measured(pareto):
    losses = pareto.losses()
    assert losses["baseline"].high == 0
    assert set(losses) == {
        v.name for v in mpnn.VARIANTS.values()
        if v.name == "baseline" or (v.evaluation and v.name == v.student)
    }  # fmt: skip


def test_the_stored_speeds_are_ratios_with_intervals_and_a_quiet_control():
    path = DOCS / "pareto.json"
    if not path.is_file():
        pytest.skip("no speeds are stored")
    for device, of_device in json.loads(path.read_text("utf-8")).items():
        control = of_device["control"]
        assert control["low"] <= 1 <= control["high"], f"{device}: the control is off"
        assert of_device["machine"]["processor"]
        for point in of_device["points"]:
            assert point["variant"] in mpnn.VARIANTS
            assert point["backend"] in BACKENDS
            assert 0 < point["speed"]["low"] <= point["speed"]["value"] <= point["speed"]["high"]
