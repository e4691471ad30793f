"""E8: the CUDA backend against the original's sample() on the same GPU."""

from __future__ import annotations

import pytest
import torch
from proteins import protein

from mpnn_core import load_model
from mpnn_core.backends.cuda import CudaBackend
from mpnn_core.gate import original
from mpnn_core.graph import Backbones
from mpnn_core.network import Copies
from mpnn_core.sampler import Distribution

# The largest batch of the original that fits into 80 GB, by powers of two; larger is faster.
BEST_BATCH = {"5L33": 1024, "3HTN": 256}


def ours(name: str, copies: int, precision: str):
    """A call from backbones on the GPU to residues on the host, own order per sequence."""
    device = torch.device("cuda")
    network = load_model("v_48_020", device="cuda", backend="torch").network
    backend = CudaBackend(network, precision)
    backbones = Backbones.from_structures([protein(name)], device)
    L = len(backbones)
    M = copies * L

    def run() -> torch.Tensor:
        encoding = backend.encode(backbones)
        rows = Copies.of(encoding.graph, backbones.offsets, [0] * copies)
        rank = torch.rand(copies, L, device=device).argsort(1).argsort(1).flatten()
        return backend.sample(
            encoding, rows, rank,
            Distribution(
                torch.full((M,), 0.1, device=device),
                torch.zeros(M, 21, device=device),
                (torch.arange(21, device=device) == 20).repeat(M, 1),
            ),
            torch.rand(M, dtype=torch.float64, device=device),
            torch.zeros(M, dtype=torch.int64, device=device),
            torch.ones(M, dtype=torch.bool, device=device),
        ).tokens.cpu()  # fmt: skip

    native = torch.from_numpy(protein(name).tokens[protein(name).mask])
    recovery = (run().view(copies, L) == native).float().mean().item()
    assert 0.3 < recovery < 0.7  # a fast wrong answer has no speed
    return run


@pytest.mark.parametrize(
    ("name", "copies", "precision"),
    [
        pytest.param("3HTN", 256, "fast", marks=pytest.mark.claim("E8", "many-fast"), id="fast"),
        pytest.param("3HTN", 256, "exact", marks=pytest.mark.claim("E8", "many-exact"), id="exact"),
        pytest.param("5L33", 1024, "fast", marks=pytest.mark.claim("E8", "small-fast"), id="small"),
        pytest.param("3HTN", 1, "fast", marks=pytest.mark.claim("E8", "one-fast"), id="latency"),
    ],
)
def test_cuda_beats_the_original(paired, not_exercised, name, copies, precision) -> None:
    if not torch.cuda.is_available():
        not_exercised("an NVIDIA GPU")
    batch = min(copies, BEST_BATCH[name])
    network = original.load().to("cuda")
    given = original.inputs(protein(name), copies=batch).to(torch.device("cuda"))

    def baseline() -> None:
        with torch.device("cuda"):  # it makes some of its tensors on the default device
            original.sample(network, given)

    run = ours(name, copies, precision)
    paired(baseline, run, device="cuda", workload=f"{copies} sequences of {name}, {precision}")
