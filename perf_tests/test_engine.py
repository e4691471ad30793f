"""E1, E2: our engine against the original, as its authors run it."""

from __future__ import annotations

import numpy as np
import pytest

import mpnn_core as mpnn
from mpnn_core.gate import original


@pytest.fixture(scope="session")
def model() -> mpnn.Model:
    return mpnn.load_model("v_48_020")


@pytest.mark.claim("E1", "speed")
def test_forward_beats_the_original(model, study_protein, original_forward, paired) -> None:
    order = np.random.default_rng(0).permutation(len(study_protein))
    theirs = original.log_probs(
        original.load(), original.inputs(study_protein), original.batched(order)
    )
    ours = model.log_probs(study_protein, decoding_order=order)
    assert np.abs(ours - theirs.numpy()).max() < 1e-4  # a fast wrong answer has no speed
    paired(original_forward(), lambda: model.log_probs(study_protein))


@pytest.mark.claim("E2", "speed")
def test_sampling_beats_the_original(model, study_protein, paired) -> None:
    network, given = original.load(), original.inputs(study_protein, copies=8)
    designs = model.design(study_protein, num_sequences=8, seed=37)
    assert 0.35 < designs.recovery.mean() < 0.60
    paired(
        lambda: original.sample(network, given),
        lambda: model.design(study_protein, num_sequences=8),
    )
