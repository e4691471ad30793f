"""How often the interval of a mean over chains holds the true mean, counted on recorded losses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import mpnn_core as mpnn
from mpnn_core.gate.intervals import ERROR, paired_mean
from mpnn_core.training import evaluate

TIMES = 2000
# What 2,000 intervals at 99 % hold of a population that is not normal: one point less, and no less
# than that by chance (three standard deviations, 0.7 points).
LEAST = 0.98 - 0.007


def recorded_losses(student: str, metric: str) -> np.ndarray:
    """Teacher less student, chain by chain, on the larger recorded set."""
    evaluation = mpnn.VARIANTS[student].evaluation
    assert evaluation is not None
    by_chain = max(evaluation["sets"].values(), key=lambda s: s["chains"])["by_chain"][metric]
    return np.subtract(by_chain["teacher"], by_chain["model"])


def coverage(interval, population: np.ndarray, chains: int, times: int) -> float:
    """Share of the intervals, of so many chains each, that hold the mean of the population."""
    rng, truth = np.random.default_rng(chains), population.mean()
    held = 0
    for _ in range(times):
        low, high = interval(rng.choice(population, chains))
        held += low <= truth <= high
    return held / times


def ours(values: np.ndarray) -> tuple[float, float]:
    found = paired_mean(values)
    return found.low, found.high


def bootstrap(values: np.ndarray) -> tuple[float, float]:
    """BCa, which `paired_mean` was before."""
    rng = np.random.default_rng(0)
    found = stats.bootstrap((values,), np.mean, confidence_level=1 - ERROR, rng=rng)
    return found.confidence_interval.low, found.confidence_interval.high


@pytest.mark.parametrize("metric", ["recovery", "designed"])
@pytest.mark.parametrize("chains", [2, 5, 6, 12, 20, 50])
def test_an_interval_over_chains_holds_the_mean_as_often_as_it_says(chains, metric) -> None:
    for student in ("lean", "extreme-v2"):
        share = coverage(ours, recorded_losses(student, metric), chains, TIMES)
        assert share >= LEAST, (
            f"{100 * share:.1f} % of intervals over {chains} chains hold the mean loss of "
            f"{student} ({metric}); they say 99 %"
        )
        assert share <= 0.998, f"{100 * share:.1f} % at 99 %: the intervals are too wide"


def test_a_bootstrap_over_five_chains_does_not_hold_it() -> None:
    """Why `paired_mean` is none: the same count tells the two apart."""
    share = coverage(bootstrap, recorded_losses("lean", "recovery"), 5, 200)
    assert share < LEAST - 0.05, f"{100 * share:.1f} %"


@pytest.mark.parametrize("chains", [5, 12, 40])
def test_another_sample_of_chains_is_where_it_is_predicted(chains) -> None:
    """The second half of a draw, in the interval of the first, under one order each."""
    population = recorded_losses("minimal", "recovery")
    rng, inside = np.random.default_rng(0), 0
    for _ in range(TIMES):
        first, second = rng.choice(population, (2, chains))
        noise = rng.normal(0, 1.5, (2, chains, 4))  # of decoding orders, in one chain
        found = evaluate.loss_of_another_sample(first[:, None] + noise[0])
        inside += found.low <= (second + noise[1, :, 0]).mean() <= found.high
    assert inside / TIMES >= LEAST, f"{100 * inside / TIMES:.1f} % at 99 %"
