"""The arithmetic of verdicts: intervals, and what they mean for a claim and for a gate."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

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
from mpnn_core.gate.revisions.race import LOOKS
from mpnn_core.gate.verdicts import (
    PRECISION,
    VERDICTS,
    GateResult,
    Place,
    Verdict,
    judge_claim,
    judge_gate,
    shortfall,
)

CLAIMS_PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "claims.md"

QUIET = Interval(1.0, 0.99, 1.01)
HERE = "cpu-avx512"
SPEEDUP = Figure("T", "speed", 2.0, "x", "speedup", machine=HERE)  # half-way is 1.414
NO_CHANGE = Figure("T", "ratio", 0.99, "x", "about", margin=1.05, machine=HERE)  # to 1.0395
SLOWER = Figure("T", "slower", 0.9, "x", "about", margin=1.05, machine=HERE)
POINTS = Figure("T", "loss", 0.0, "points", "about", margin=1.0, machine="any")
SHARE = Figure("T", "share", 47.5, "%", "range", low=40, high=55, machine="any")
STACKED = Figure("T", "stacked", 18, "x", "range", low=16, high=20, machine=HERE)
COUNT = Figure("T", "files", 6, "files", "count", machine="any")
GOAL = Figure("T", "goal", 8.0, "x", "target", at_least=8.0)
LIMIT = Figure("T", "limit", 4.0, "points", "target", at_most=4.0)
RECORD = Figure("T", "kept", 2.0, "x", "record", machine=HERE)


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
        pytest.param(SPEEDUP, Interval(3.0, 2.9, 3.1), Verdict.DIRECTION_ONLY, id="exceeds it"),
        pytest.param(SPEEDUP, Interval(2.0, 1.7, 2.3), Verdict.INCONCLUSIVE, id="holds anything"),
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
        pytest.param(GOAL, Interval(9, 8.1, 10), Verdict.REACHED, id="goal reached"),
        pytest.param(GOAL, Interval(7, 6, 7.9), Verdict.SHORT, id="goal missed"),
        pytest.param(GOAL, Interval(8, 7, 9), Verdict.INCONCLUSIVE, id="goal near"),
        pytest.param(LIMIT, Interval(3, 2, 3.9), Verdict.REACHED, id="limit kept"),
        pytest.param(LIMIT, Interval(6, 5, 7), Verdict.SHORT, id="limit broken"),
        pytest.param(RECORD, None, Verdict.INCONCLUSIVE, id="nothing to keep"),
    ],
)
def test_verdict(figure, measured, verdict) -> None:
    control = QUIET if figure.unit == "x" else None
    assert judge_claim(figure, measured, control, HERE) is verdict


# An interval for each cell of the table in the docs: sense and place -> figure, interval. None
# where an interval of that sense cannot lie there.
EXAMPLES = {
    ("speedup", Place.HOLDS): (SPEEDUP, Interval(2.0, 1.85, 2.2)),
    ("speedup", Place.SAME_SIDE): (SPEEDUP, Interval(1.6, 1.5, 1.7)),
    ("speedup", Place.MISSES): (SPEEDUP, Interval(1.2, 1.1, 1.3)),
    ("speedup", Place.OPEN): (SPEEDUP, Interval(2.0, 1.5, 2.5)),
    ("about", Place.HOLDS): (SLOWER, Interval(0.9, 0.88, 0.92)),
    ("about", Place.SAME_SIDE): (SLOWER, Interval(0.2, 0.15, 0.25)),
    ("about", Place.MISSES): (SLOWER, Interval(1.4, 1.3, 1.5)),
    ("about", Place.OPEN): (SLOWER, Interval(0.9, 0.7, 1.1)),
    ("range", Place.HOLDS): (SHARE, Interval(47, 44, 50)),
    ("range", Place.SAME_SIDE): (STACKED, Interval(9, 8, 10)),
    ("range", Place.MISSES): (SHARE, Interval(30, 28, 32)),
    ("range", Place.OPEN): (SHARE, Interval(41, 38, 44)),
    ("count", Place.HOLDS): (COUNT, exactly(6)),
    ("count", Place.SAME_SIDE): None,
    ("count", Place.MISSES): (COUNT, exactly(5)),
    ("count", Place.OPEN): (COUNT, None),
    ("target", Place.HOLDS): (GOAL, Interval(9, 8.5, 9.5)),
    ("target", Place.SAME_SIDE): (GOAL, Interval(6, 5.5, 6.5)),
    ("target", Place.MISSES): (GOAL, Interval(1.1, 1.0, 1.2)),
    ("target", Place.OPEN): (GOAL, Interval(8, 7, 9)),
    ("record", Place.HOLDS): (RECORD, Interval(2, 1, 3)),
    ("record", Place.SAME_SIDE): (RECORD, Interval(1.5, 1.4, 1.6)),
    ("record", Place.MISSES): (RECORD, Interval(1, 0.9, 1.1)),
    ("record", Place.OPEN): (RECORD, None),
}


def test_the_table_in_the_docs_is_what_the_function_says() -> None:
    lines = CLAIMS_PAGE.read_text("utf-8").splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.startswith("| sense | "))
    heads, _, *rows = ([x.strip() for x in line.strip("| ").split("|")] for line in lines[at:])
    rows = rows[: len(VERDICTS)]
    assert heads[1:] == [str(place) for place in Place]
    assert [row[0].partition(":")[0] for row in rows] == list(VERDICTS)
    for first, *cells in rows:
        for place, cell in zip(Place, cells, strict=True):
            sense = first.partition(":")[0]
            example = EXAMPLES[sense, place]
            said = VERDICTS[sense][place] if example is None else judge_claim(*example, None, HERE)
            assert said == cell, f"{sense}, {place}: the docs say {cell}, the function {said}"


@pytest.mark.parametrize("figure", [SPEEDUP, NO_CHANGE, STACKED], ids=lambda f: f.sense)
@pytest.mark.parametrize("machine", ["h100", "cpu-avx2", ""])
def test_on_a_machine_of_another_class_nothing_is_confirmed(figure, machine) -> None:
    measured = Interval(figure.reported, 0.98 * figure.reported, 1.02 * figure.reported)
    assert judge_claim(figure, measured, QUIET, HERE) is Verdict.CONFIRMED
    assert judge_claim(figure, measured, QUIET, machine) is Verdict.COMPATIBLE
    # Nor is a reader told that the hardware is comparable where nobody says what it was.
    assert judge_claim(replace(figure, machine=""), measured, QUIET, HERE) is Verdict.COMPATIBLE


def test_accuracy_and_counts_are_comparable_everywhere() -> None:
    assert judge_claim(POINTS, exactly(0.1), None, "h100") is Verdict.CONFIRMED
    assert judge_claim(COUNT, exactly(6), None) is Verdict.CONFIRMED


@given(st.floats(1.1, 100), st.floats(1.0, 3.0), st.floats(0.0, 1.0))
@settings(max_examples=300, deadline=None)
def test_noise_confirms_no_speedup(reported, width, share) -> None:
    """However wide an interval is, what it holds is confirmed only where it is narrow."""
    low = reported / width**share
    measured = Interval(low * width**0.5, low, low * width)
    figure = replace(SPEEDUP, reported=reported)
    verdict = judge_claim(figure, measured, None, HERE)
    if width > PRECISION * 1.000001:
        assert verdict in (Verdict.INCONCLUSIVE, Verdict.DIRECTION_ONLY), (
            f"{measured} has ends {width:.2f} apart, and {verdict} {reported:.3g} x"
        )


@pytest.mark.parametrize(
    ("figure", "value", "words"),
    [(GOAL, 5.44, "by 32 %"), (LIMIT, 7.66, "by 3.7 points")],
)
def test_a_missed_target_is_short_by_how_much(figure, value, words) -> None:
    assert shortfall(figure, exactly(value)) == words


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
        (Gate("", at_most=1.25), Interval(1.6, 1.4, 1.8), GateResult.FAILED),
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
