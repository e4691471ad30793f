"""E8: the CUDA backend against the original on the same GPU, through the whole API."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from proteins import protein

import mpnn_core as mpnn
from mpnn_core.peers import original

pytestmark = pytest.mark.times_on("cuda")
# The largest batch of the original that fits into 80 GB, by powers of two; larger is faster.
BEST_BATCH = {"5L33": 1024, "3HTN": 256}
BACKENDS = {"exact": "cuda", "fast": "cuda-fast"}


@pytest.mark.parametrize(
    ("name", "copies", "precision"),
    [
        pytest.param("3HTN", 256, "fast", marks=pytest.mark.claim("E8", "many-fast"), id="fast"),
        pytest.param("3HTN", 256, "exact", marks=pytest.mark.claim("E8", "many-exact"), id="exact"),
        pytest.param("5L33", 1024, "fast", marks=pytest.mark.claim("E8", "small-fast"), id="small"),
        pytest.param("3HTN", 1, "fast", marks=pytest.mark.claim("E8", "one-fast"), id="latency"),
    ],
)
def test_designs_on_cuda(paired, not_exercised, name, copies, precision) -> None:
    """From a parsed structure to sequences and scores, an own decoding order each."""
    if not torch.cuda.is_available():
        not_exercised("an NVIDIA GPU")
    model = mpnn.load_model(device="cuda", backend=BACKENDS[precision])
    network = original.load().to("cuda")
    batch, few = (
        original.inputs(protein(name), min(copies, n)).to(torch.device("cuda"))
        for n in (BEST_BATCH[name], 8)
    )

    def sample(inputs: original.Inputs) -> None:
        with torch.device("cuda"):  # it makes some of its tensors on the default device
            original.sample(network, inputs)

    recovery = [model.design(protein(name), copies, 0.1, seed).recovery for seed in range(3)]
    assert 0.3 < np.mean(recovery) < 0.7  # a fast wrong answer has no speed
    paired(
        lambda: sample(batch),
        lambda: model.design(protein(name), copies, 0.1),
        device="cuda",
        warm_up=lambda: sample(few),  # ours has run three times
        workload=f"{copies} sequences of {name}, {precision}",
    )


@pytest.mark.claim("E8", "log-probs")
def test_log_probabilities_on_cuda(paired, not_exercised) -> None:
    if not torch.cuda.is_available():
        not_exercised("an NVIDIA GPU")
    structure, model = protein("5L33"), mpnn.load_model(device="cuda")
    network = original.load().to("cuda")
    inputs = original.inputs(structure).to(torch.device("cuda"))
    order = torch.arange(len(structure), device="cuda")[None]

    def baseline() -> np.ndarray:
        with torch.device("cuda"):
            return original.log_probs(network, inputs, order).cpu().numpy()

    def ours() -> np.ndarray:
        return model.log_probs(structure, decoding_order=np.arange(len(structure)))

    for _ in range(3):  # the third time is a replay
        assert np.abs(baseline() - ours()).max() < 1e-4
    paired(baseline, ours, device="cuda", workload="log_probs of 5L33, exact")
