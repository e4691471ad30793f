"""S10, S11, S12: reduced precision, torch.compile and int8, tried on the original."""

from __future__ import annotations

import shutil
import warnings

import pytest
import torch

from mpnn_core.gate import original


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(torch.float16, id="fp16", marks=pytest.mark.claim("S10", "fp16")),
        pytest.param(torch.bfloat16, id="bf16", marks=pytest.mark.claim("S10", "bf16")),
    ],
)
def test_autocast(study_protein, original_forward, paired, dtype) -> None:
    forward = original_forward()

    def autocast() -> torch.Tensor:
        with torch.autocast("cpu", dtype=dtype):
            return forward()

    network, given = original.load(), original.inputs(study_protein)
    order = original.batched(range(len(study_protein)))
    exact = original.log_probs(network, given, order)
    with torch.autocast("cpu", dtype=dtype):
        lossy = original.log_probs(network, given, order)
    agreement = (exact.argmax(-1) == lossy.argmax(-1)).float().mean().item()
    assert agreement > 0.9
    paired(forward, autocast, note=f"argmax agreement {100 * agreement:.1f} %")


@pytest.mark.costly(80)
@pytest.mark.claim("S11", "speed")
def test_compile(study_protein, original_forward, paired, not_exercised) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        not_exercised("a C++ compiler")
    network, given = original.load(), original.inputs(study_protein)
    order = original.batched(range(len(study_protein)))
    exact = original.log_probs(network, given, order)
    with warnings.catch_warnings():
        # Deprecations inside torch's own compiler.
        warnings.simplefilter("ignore")
        compiled = torch.compile(network)
        found = original.log_probs(compiled, given, order)
        assert (found - exact).abs().max() < 1e-3
        paired(
            lambda: original.log_probs(network, given, order),
            lambda: original.log_probs(compiled, given, order),
        )


@pytest.mark.claim("S12", "errors")
def test_int8(study_protein, judge) -> None:
    network, given = original.load(), original.inputs(study_protein)
    order = original.batched(range(len(study_protein)))
    exact = original.log_probs(network, given, order)
    errors, note = 0, ""
    with warnings.catch_warnings():
        # torch.ao's dynamic quantisation is deprecated in favour of torchao; the claim is older.
        warnings.simplefilter("ignore")
        try:
            quantised = torch.ao.quantization.quantize_dynamic(network, {torch.nn.Linear})
            found = original.log_probs(quantised, given, order)
            agreement = (exact.argmax(-1) == found.argmax(-1)).float().mean().item()
            note = f"argmax agreement {100 * agreement:.1f} %"
            assert agreement > 0.6
        except (RuntimeError, NotImplementedError) as error:
            errors, note = 1, str(error).splitlines()[0]
    judge(errors, note=note)
