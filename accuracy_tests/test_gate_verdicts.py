"""The arithmetic of verdicts: intervals, and what they mean for a claim and for a gate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpnn_core.gate.claims import Figure, Gate
from mpnn_core.gate.intervals import (
    ERROR,
    Interval,
    exactly,
    median_ratio,
    order_index,
    paired_mean,
)
from mpnn_core.gate.pairing import LOOKS
from mpnn_core.gate.verdicts import GateResult, Verdict, judge_claim, judge_gate

QUIET = Interval(1.0, 0.99, 1.01)
SPEEDUP = Figure("T", "speed", 2.0, "x", "speedup")  # floor 1.414
NO_CHANGE = Figure("T", "ratio", 0.99, "x", "about", margin=1.05)  # 0.943 to 1.0395
SLOWER = Figure("T", "slower", 0.9, "x", "about", margin=1.05)
POINTS = Figure("T", "loss", 0.0, "points", "about", margin=1.0)


@pytest.mark.parametrize(
    ("pairs", "error", "index"),
    [
        pytest.param(61, 0.01, 20, id="61 pairs, one look"),
        pytest.param(61, 0.0025, 18, id="61 pairs, four looks"),
        pytest.param(10, 0.0025, 0, id="10 pairs: smallest to largest"),
        pytest.param(7, 0.01, None, id="7 pairs are too few"),
        pytest.param(1, 0.01, None, id="one pair"),
    ],
)
def test_order_statistics_bound_the_median(pairs, error, index) -> None:
    assert order_index(pairs, error) == index


def test_every_look_can_be_looked_at() -> None:
    assert all(order_index(look, ERROR / len(LOOKS)) is not None for look in LOOKS)


def test_the_interval_covers_the_median_at_its_stated_rate() -> None:
    rng, error, missed, trials = np.random.default_rng(0), 0.1, 0, 2000
    for _ in range(trials):
        found = median_ratio(rng.standard_t(1.5, 31).tolist(), error)
        assert found is not None
        missed += not found.low <= 1 <= found.high
    assert missed / trials <= error + 3 * math.sqrt(error / trials), f"missed {missed}"


@given(
    effect=st.floats(0.5, 3),
    noise=st.floats(0.001, 0.3),
    drift=st.floats(-2, 2),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_drift_and_outliers_do_not_move_the_ratio(effect, noise, drift, seed) -> None:
    """Both sides of a round share the machine's slowness, whatever course it takes."""
    rng, n = np.random.default_rng(seed), 61
    slowness = drift * np.linspace(0, 1, n) + np.cumsum(rng.normal(0, 0.1, n))
    slowness[rng.choice(n, 5, replace=False)] += 3  # five rounds beside something large
    baseline = slowness + rng.normal(0, noise, n) + math.log(effect)
    candidate = slowness + rng.normal(0, noise, n)
    candidate[rng.choice(n, 3, replace=False)] += 1  # and three disturbed on one side
    found = median_ratio((baseline - candidate).tolist(), 1e-6)
    assert found is not None
    assert found.low <= effect <= found.high, f"{found} misses {effect:.3f}"


@pytest.mark.parametrize(
    ("figure", "measured", "verdict"),
    [
        pytest.param(SPEEDUP, Interval(2.0, 1.8, 2.2), Verdict.CONFIRMED, id="reaches it"),
        pytest.param(SPEEDUP, Interval(3.0, 2.9, 3.1), Verdict.CONFIRMED, id="exceeds it"),
        pytest.param(SPEEDUP, Interval(1.6, 1.5, 1.7), Verdict.DIRECTION_ONLY, id="short of it"),
        pytest.param(SPEEDUP, Interval(1.2, 1.1, 1.4), Verdict.REFUTED, id="under the floor"),
        pytest.param(SPEEDUP, Interval(1.5, 1.3, 1.7), Verdict.INCONCLUSIVE, id="on the floor"),
        pytest.param(SPEEDUP, Interval(1.5, 0.5, 4.0), Verdict.INCONCLUSIVE, id="too wide"),
        pytest.param(SPEEDUP, None, Verdict.INCONCLUSIVE, id="too few pairs"),
        pytest.param(NO_CHANGE, Interval(1.0, 0.95, 1.03), Verdict.CONFIRMED, id="no change"),
        pytest.param(NO_CHANGE, Interval(1.2, 1.1, 1.3), Verdict.REFUTED, id="a change"),
        pytest.param(NO_CHANGE, Interval(1.0, 0.9, 1.1), Verdict.INCONCLUSIVE, id="unknown"),
        pytest.param(SLOWER, Interval(0.2, 0.17, 0.21), Verdict.DIRECTION_ONLY, id="far slower"),
        pytest.param(SLOWER, Interval(0.91, 0.88, 0.93), Verdict.CONFIRMED, id="as much slower"),
        pytest.param(SLOWER, Interval(1.4, 1.3, 1.5), Verdict.REFUTED, id="faster, not slower"),
        pytest.param(SLOWER, Interval(0.98, 0.97, 0.99), Verdict.REFUTED, id="hardly slower"),
        pytest.param(POINTS, exactly(0.0), Verdict.CONFIRMED, id="no loss, counted"),
        pytest.param(POINTS, Interval(9, 8, 10), Verdict.REFUTED, id="a loss"),
        pytest.param(POINTS, Interval(0.5, -1, 2), Verdict.INCONCLUSIVE, id="loss unknown"),
    ],
)
def test_verdict(figure, measured, verdict) -> None:
    control = QUIET if figure.unit == "x" else None
    assert judge_claim(figure, measured, control) is verdict


@pytest.mark.parametrize(
    "control",
    [
        pytest.param(Interval(1.05, 1.02, 1.08), id="excludes 1"),
        pytest.param(Interval(1.0, 0.7, 1.5), id="wider than the claim's margin"),
    ],
)
def test_a_control_that_is_off_settles_nothing(control) -> None:
    assert judge_claim(SPEEDUP, Interval(3.0, 2.9, 3.1), control) is Verdict.INCONCLUSIVE
    gate = judge_gate(Gate("", at_least=2.0), Interval(1.0, 0.9, 1.1), control)
    assert gate is (GateResult.INCONCLUSIVE if control.low > 1 else GateResult.FAILED)


def test_a_noisy_control_confirms_no_equality_and_hides_no_large_difference() -> None:
    noisy = Interval(1.0, 0.85, 1.2)
    assert judge_claim(NO_CHANGE, Interval(1.0, 0.97, 1.03), noisy) is Verdict.INCONCLUSIVE
    assert judge_claim(NO_CHANGE, Interval(0.85, 0.8, 0.9), noisy) is Verdict.INCONCLUSIVE
    assert judge_claim(NO_CHANGE, Interval(0.2, 0.17, 0.22), noisy) is Verdict.REFUTED
    assert judge_claim(SLOWER, Interval(0.2, 0.17, 0.22), noisy) is Verdict.DIRECTION_ONLY


@pytest.mark.parametrize(
    ("gate", "measured", "result"),
    [
        (Gate("", at_least=1.8), Interval(2.0, 1.9, 2.1), GateResult.PASSED),
        (Gate("", at_least=1.8), Interval(1.5, 1.4, 1.6), GateResult.FAILED),
        (Gate("", at_least=1.8), Interval(1.8, 1.7, 1.9), GateResult.INCONCLUSIVE),
        (Gate("", at_least=1.8), None, GateResult.INCONCLUSIVE),
        (Gate("", at_most=0), exactly(0), GateResult.PASSED),
        (Gate("", at_most=0), exactly(1), GateResult.FAILED),
        (Gate("", at_least=5, at_most=13), Interval(9, 8, 14), GateResult.INCONCLUSIVE),
        (Gate("", at_least=5, at_most=13), Interval(15, 14, 16), GateResult.FAILED),
        (None, Interval(1, 1, 1), GateResult.NONE),
    ],
)
def test_gate(gate, measured, result) -> None:
    assert judge_gate(gate, measured, QUIET) is result


def test_the_interval_of_a_paired_difference_covers_it() -> None:
    rng, missed = np.random.default_rng(1), 0
    for _ in range(100):
        found = paired_mean(rng.normal(2.0, 1.0, 50), error=0.05)
        missed += not found.low <= 2.0 <= found.high
    assert missed <= 14, f"{missed} of 100 intervals at 95 % miss the mean"
