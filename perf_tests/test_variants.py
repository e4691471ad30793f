"""S1 to S6, S13, S18: what smaller networks, fewer neighbours and batches gain on the original."""

from __future__ import annotations

import pytest
from proteins import path_of

import mpnn_core as mpnn
from mpnn_core.peers import original


@pytest.mark.claim("S1", "time")
def test_time_of_the_baseline(original_forward, timed, judge) -> None:
    """Kept beside the study's milliseconds, which are of other hardware; nothing is judged."""
    forward = original_forward()
    times = timed({"original": forward, "control": forward}, ours="original")
    judge(
        times.product({"original": 1}, 1e3),
        control=times.ratio("original", "control"),
        times=times,
        note="milliseconds of the original on this machine",
    )


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


@pytest.mark.costly(10)
@pytest.mark.claim("S6", "speed")
@pytest.mark.claim("S6", "minimal")
@pytest.mark.claim("S18", "whole")
@pytest.mark.claim("S18", "product-over-whole")
def test_batching_and_pruning(original_forward, timed, judge) -> None:
    """Copies of 5L33 in a batch, the smaller network, and both: all against the same runs."""
    baseline = original_forward()
    batches = {f"{n} copies": original_forward(copies=n) for n in (2, 4, 8)}
    small = {"minimal": original_forward("minimal"), "both": original_forward("minimal", 8)}
    times = timed(
        {"alone": baseline, "control": baseline, **batches, **small},
        ours="both",
        warm_up=lambda: (baseline(), small["minimal"]()),
    )
    shared = {
        "control": times.ratio("alone", "control"),
        "times": times,
    }
    for n in (2, 4, 8):  # the study reports batches of 8; the smaller ones are kept beside it
        judge(
            times.ratio("alone", f"{n} copies", n), claim="S6", key="speed", only_record=n != 8,
            workload=f"forward() of {n} copies of 5L33, per protein", **shared,
        )  # fmt: skip
    for claim, key in (("S6", "minimal"), ("S18", "whole")):
        judge(times.ratio("alone", "both", 8), claim=claim, key=key, **shared)
    # (pruning alone x batching alone) / both together
    product = {"alone": 1, "minimal": -1, "8 copies": -1, "both": 1}
    judge(times.product(product), claim="S18", key="product-over-whole", **shared)


@pytest.mark.costly(30)
@pytest.mark.claim("S6", "speed")
def test_batching_different_lengths(examples, timed, judge) -> None:
    """What the study never tried: the original pads a batch to its longest structure."""
    network, model = original.load(), mpnn.load_model()
    singles = [original.featurize(path_of(s.name)) for s in examples]
    together = original.featurize_together([path_of(s.name) for s in examples])

    def alone() -> None:
        for single in singles:
            original.log_probs(network, single)

    def ours_alone() -> None:
        for structure in examples:
            model.log_probs(structure)

    times = timed(
        {
            "alone": alone,
            "together": lambda: original.log_probs(network, together),
            "control": alone,
            "ours alone": ours_alone,
            "ours together": lambda: model.log_probs(examples),
            "ours control": ours_alone,
        },
        ours="ours together",
        warm_up=lambda: (original.log_probs(network, singles[0]), ours_alone()),
    )
    for engine, prefix in (("the original", ""), ("ours", "ours ")):
        judge(
            times.ratio(f"{prefix}alone", f"{prefix}together"),
            control=times.ratio(f"{prefix}alone", f"{prefix}control"),
            times=times,
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
