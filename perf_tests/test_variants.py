"""S1 to S6, S13, S18: what smaller networks, fewer neighbours and batches gain on the original."""

from __future__ import annotations

import math
import random
import time

import pytest

import mpnn_core as mpnn
from mpnn_core.gate.verdicts import ERROR, median_ratio

ROUNDS = 10  # at 10 pairs the interval is the smallest to the largest ratio, 99.8 %


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


@pytest.mark.parametrize("copies", [2, 4, 8])
@pytest.mark.claim("S6", "speed")
def test_batching_copies(original_forward, paired, copies) -> None:
    workload = f"forward() of {copies} copies of 5L33, per protein"
    # The study reports batches of 8; the smaller ones are kept beside it.
    paired(
        original_forward(),
        original_forward(copies=copies),
        work=copies,
        workload=workload,
        only_record=copies != 8,
    )


@pytest.mark.claim("S6", "minimal")
@pytest.mark.claim("S18", "whole")
def test_minimal_batched_is_faster(original_forward, paired) -> None:
    paired(original_forward(), original_forward("minimal", copies=8), work=8)


@pytest.mark.claim("S18", "product-over-whole")
def test_gains_multiply(original_forward, judge) -> None:
    """(pruning alone x batching alone) / both together, the four of them timed in each round."""
    sides = {
        (variant, copies): original_forward(variant, copies)
        for variant in ("baseline", "minimal")
        for copies in (1, 8)
    }
    for side in sides.values():
        side()
    order = random.Random(0)
    logs = []
    for _ in range(ROUNDS):
        took = {}
        for key in order.sample(list(sides), len(sides)):
            started = time.perf_counter()
            sides[key]()
            took[key] = math.log((time.perf_counter() - started) / key[1])  # per protein
        logs.append(took["minimal", 8] + took["baseline", 1] - took["minimal", 1]
                    - took["baseline", 8])  # fmt: skip
    judge(median_ratio(logs, ERROR), pairs=len(logs))


@pytest.mark.parametrize("variant", list(mpnn.VARIANTS))
def test_forward_per_variant(study_protein, benchmark, variant) -> None:
    """One entry per variant in pytest-benchmark's JSON: our engine's forward of 5L33."""
    trained = mpnn.VARIANTS[variant].accuracy != "unknown"
    model = mpnn.load_model("v_48_020" if trained else "random", variant=variant)
    batch = [study_protein] * mpnn.VARIANTS[variant].batch
    found = benchmark.pedantic(lambda: model.log_probs(batch), rounds=3, warmup_rounds=1)
    benchmark.extra_info.update(variant=variant, residues=sum(map(len, batch)))
    assert [lp.shape for lp in found] == [(1, len(study_protein), 21)] * len(batch)
