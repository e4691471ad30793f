"""S1 to S6, S13, S18: what smaller networks, fewer neighbours and batches gain on the original."""

from __future__ import annotations

import math

import numpy as np
import pytest
from proteins import path_of

import mpnn_core as mpnn
from mpnn_core.gate.intervals import ERROR, Interval, median_ratio
from mpnn_core.gate.pairing import interleaved
from mpnn_core.peers import original

ROUNDS = 8  # the fewest for an interval: the smallest to the largest ratio, 99.2 %


@pytest.mark.claim("S1", "time")
def test_time_of_the_baseline(original_forward, benchmark, judge) -> None:
    """Kept beside the study's milliseconds, which are of other hardware; nothing is judged."""
    forward = original_forward()
    benchmark.pedantic(forward, rounds=ROUNDS, warmup_rounds=1)
    milliseconds = 1e3 * benchmark.stats.stats.median if benchmark.enabled else None
    judge(milliseconds, note="the original on this machine")


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param("minimal", marks=pytest.mark.claim("S2", "speed")),
        pytest.param("minimal-fast", marks=pytest.mark.claim("S3", "speed")),
        pytest.param(
            "fast", marks=[pytest.mark.claim("S4", "speed"), pytest.mark.claim("S13", "speed")]
        ),
    ],
)
def test_smaller_network_is_faster(original_forward, paired, variant) -> None:
    paired(original_forward(), original_forward(variant))


@pytest.mark.claim("S5", "speed")
def test_extreme_batch_is_faster(original_forward, paired) -> None:
    paired(original_forward(), original_forward("extreme-v2", copies=8), work=8)


@pytest.fixture(scope="module")
def batches(original_forward) -> dict[tuple[str, int], np.ndarray]:
    """Log seconds per protein of (variant, copies of 5L33): (ROUNDS,) each, all in each round."""
    sizes = [("baseline", 1), ("baseline", 2), ("baseline", 4), ("baseline", 8)]
    sides = {side: original_forward(*side) for side in [*sizes, ("minimal", 1), ("minimal", 8)]}
    logs = interleaved({**sides, ("control", 1): sides["baseline", 1]}, ROUNDS)
    return {side: np.array(logs[side]) - math.log(side[1]) for side in logs}


def gain(batches, side: tuple[str, int]) -> Interval | None:
    return median_ratio(batches["baseline", 1] - batches[side], ERROR)


@pytest.mark.parametrize("copies", [2, 4, 8])
@pytest.mark.claim("S6", "speed")
def test_batching_copies(batches, judge, copies) -> None:
    # The study reports batches of 8; the smaller ones are kept beside it.
    judge(
        gain(batches, ("baseline", copies)),
        control=gain(batches, ("control", 1)),
        pairs=ROUNDS,
        workload=f"forward() of {copies} copies of 5L33, per protein",
        only_record=copies != 8,
    )


@pytest.mark.claim("S6", "minimal")
@pytest.mark.claim("S18", "whole")
def test_minimal_batched_is_faster(batches, judge) -> None:
    judge(gain(batches, ("minimal", 8)), control=gain(batches, ("control", 1)), pairs=ROUNDS)


@pytest.mark.claim("S18", "product-over-whole")
def test_gains_multiply(batches, judge) -> None:
    """(pruning alone x batching alone) / both together."""
    product = 2 * batches["baseline", 1] - batches["minimal", 1] - batches["baseline", 8]
    whole = batches["baseline", 1] - batches["minimal", 8]
    judge(median_ratio(product - whole, ERROR), control=gain(batches, ("control", 1)), pairs=ROUNDS)


@pytest.mark.costly(150)
@pytest.mark.claim("S6", "speed")
def test_batching_different_lengths(examples, judge) -> None:
    """What the study never tried: the original pads a batch to its longest structure."""
    network, model = original.load(), mpnn.load_model()
    singles = [original.featurize(path_of(s.name)) for s in examples]
    together = original.featurize_together([path_of(s.name) for s in examples])
    logs = interleaved(
        {
            "alone": lambda: [original.log_probs(network, single) for single in singles],
            "together": lambda: original.log_probs(network, together),
            "ours alone": lambda: [model.log_probs(s) for s in examples],
            "ours together": lambda: model.log_probs(examples),
        },
        ROUNDS,
    )
    log_seconds = {side: np.array(values) for side, values in logs.items()}
    for engine, before, after in (
        ("the original", "alone", "together"),
        ("ours", "ours alone", "ours together"),
    ):
        judge(
            median_ratio(log_seconds[before] - log_seconds[after], ERROR),
            pairs=ROUNDS,
            workload=f"the six example proteins together, {engine}",
            only_record=True,
        )


@pytest.mark.parametrize("variant", list(mpnn.VARIANTS))
def test_forward_per_variant(study_protein, benchmark, variant) -> None:
    """One entry per variant in pytest-benchmark's JSON: our engine's forward of 5L33."""
    trained = mpnn.VARIANTS[variant].accuracy != "unknown"
    model = mpnn.load_model("v_48_020" if trained else "random", variant=variant)
    batch = [study_protein] * mpnn.VARIANTS[variant].batch
    log_probs = benchmark.pedantic(lambda: model.log_probs(batch), rounds=3, warmup_rounds=1)
    benchmark.extra_info.update(variant=variant, residues=sum(map(len, batch)))
    assert [lp.shape for lp in log_probs] == [(1, len(study_protein), 21)] * len(batch)
