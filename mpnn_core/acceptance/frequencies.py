"""Do drawn letters follow a distribution? Pearson's chi-square, with a bound of its own."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

RARE = 5.0
"""Outcomes that are expected less often are counted with others, until all of them are."""

DOUBT = 18.0
"""Right draws are called wrong with a chance of exp(-DOUBT) at most: 1.5e-8."""


def excess(counts: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Chi-square of counts over the largest that chance explains: above 1 is wrong.

    For a chi-square variable X of d degrees of freedom, P(X >= d + 2 sqrt(d x) + 2 x) <= exp(-x)
    (Laurent and Massart 2000, lemma 1).
    """
    expected = probabilities / probabilities.sum() * counts.sum()
    falling = expected.argsort()[::-1]
    groups: list[tuple[float, float]] = []  # (expected, seen)
    rest, seen = 0.0, 0.0
    for e, o in zip(expected[falling].tolist(), counts[falling].tolist(), strict=True):
        rest, seen = rest + e, seen + o
        if rest >= RARE:
            groups.append((rest, seen))
            rest, seen = 0.0, 0.0
    if groups:
        groups[-1] = (groups[-1][0] + rest, groups[-1][1] + seen)
    square = sum((o - e) ** 2 / e for e, o in groups)
    d = max(len(groups) - 1, 1)
    return float(square / (d + 2 * sqrt(d * DOUBT) + 2 * DOUBT))


def tempered(log_probs: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Probabilities (..., 20) at a temperature, X left out, from log-probabilities (..., 21)."""
    scaled = log_probs[..., :20] / temperature
    p: NDArray[np.float64] = np.exp(scaled - scaled.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)
