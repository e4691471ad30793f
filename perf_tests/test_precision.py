"""S10, S11, S12: reduced precision, torch.compile and int8 on the original, on the CPU and MPS.

On CUDA: test_cuda_study.py.
"""

from __future__ import annotations

import shutil
import warnings
from typing import Any

import pytest
import torch

import mpnn_core as mpnn
from mpnn_core.peers import original


def on(
    device: torch.device, structure: mpnn.Structure
) -> tuple[Any, original.Inputs, torch.Tensor]:
    """The original, a structure and an order on a device."""
    order = original.batched(range(len(structure))).to(device)
    return original.load().to(device), original.inputs(structure).to(device), order


devices = pytest.mark.parametrize("device", ["cpu", "mps"], indirect=True)


@devices
@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(torch.float16, id="fp16", marks=pytest.mark.claim("S10", "fp16")),
        pytest.param(torch.bfloat16, id="bf16", marks=pytest.mark.claim("S10", "bf16")),
    ],
)
def test_autocast(study_protein, original_forward, paired, device, dtype) -> None:
    forward = original_forward(device=device)

    def autocast() -> torch.Tensor:
        with torch.autocast(device.type, dtype=dtype):
            return forward()

    network, inputs, order = on(device, study_protein)
    exact = original.log_probs(network, inputs, order)
    with torch.autocast(device.type, dtype=dtype):
        lossy = original.log_probs(network, inputs, order)
    agreement = (exact.argmax(-1) == lossy.argmax(-1)).float().mean().item()
    assert agreement > 0.9
    paired(forward, autocast, device=device, note=f"argmax agreement {100 * agreement:.1f} %")


@devices
@pytest.mark.costly(60)
@pytest.mark.claim("S11", "speed")
def test_compile(study_protein, paired, not_exercised, device) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        not_exercised("a C++ compiler")
    network, inputs, order = on(device, study_protein)
    exact = original.log_probs(network, inputs, order)
    with warnings.catch_warnings():
        # Deprecations inside torch's own compiler.
        warnings.simplefilter("ignore")
        compiled = torch.compile(network)
        computed = original.log_probs(compiled, inputs, order)
        assert (computed - exact).abs().max() < 1e-3
        paired(
            lambda: original.log_probs(network, inputs, order),
            lambda: original.log_probs(compiled, inputs, order),
            device=device,
        )


@devices
@pytest.mark.claim("S12", "errors")
def test_int8(study_protein, judge, device) -> None:
    network, inputs, order = on(device, study_protein)
    exact = original.log_probs(network, inputs, order)
    errors, note = 0, ""
    with warnings.catch_warnings():
        # torch.ao's dynamic quantisation is deprecated in favour of torchao; the claim is older.
        warnings.simplefilter("ignore")
        try:
            quantised = torch.ao.quantization.quantize_dynamic(network, {torch.nn.Linear})
            computed = original.log_probs(quantised, inputs, order)
            agreement = (exact.argmax(-1) == computed.argmax(-1)).float().mean().item()
            note = f"argmax agreement {100 * agreement:.1f} %"
            assert agreement > 0.6
        except (RuntimeError, NotImplementedError) as error:
            errors, note = 1, str(error).splitlines()[0]
    judge(errors, device=device, note=note)
