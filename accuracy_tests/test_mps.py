"""Plain torch on MPS, as far as it can be held to without one: precisions, operations, devices."""

from __future__ import annotations

from pathlib import Path

import fake_mps
import numpy as np
import pytest
import torch
import torchgen
import yaml
from fake_mps import FakeMPS
from hardware import synchroniser
from proteins import protein, rows_of

import mpnn_core as mpnn
from mpnn_core import Constraints
from mpnn_core.design import batches

TOLERANCE = 1e-4  # nats
# Every operation that runs on the device, as torch calls it.
OPERATIONS = {
    f"aten::{name}"
    for name in """
    _local_scalar_dense _log_softmax _softmax _to_copy _unique2 _unsafe_view add add_ addmm alias
    abs amax arange bincount bitwise_and bitwise_not cat clamp clone cumsum detach div
    empty_like eq equal exp expand full gather ge gelu gt index index_add_ index_put_
    index_select le linalg_cross linspace lt masked_fill max minimum mm mul native_layer_norm
    neg new_empty new_zeros permute pow pow_ reciprocal repeat_interleave rsub scalar_tensor
    scatter_reduce_ select slice sort split split_with_sizes sqrt sqrt_ stack sub sum t topk
    unbind unsqueeze view where zeros zeros_like
""".split()  # noqa: SIM905  a list of 75 strings is no easier to read
}


def run(model: mpnn.Model) -> list[np.ndarray]:
    """What a model does: given, unconditional, designed; fixed and tied positions, a PSSM."""
    structures = [rows_of(protein("6MRR"), slice(0, n)) for n in (20, 50)]
    arguments = {"num_sequences": 1, "temperature": 0.3, "seed": 1}
    rng = np.random.default_rng(0)
    pssm = mpnn.PSSM(rng.dirichlet(np.ones(21), 20), np.full(20, 0.5), 0.5)
    designs = [
        *model.design(structures, **arguments),
        *model.design(
            structures, **arguments, constraints=Constraints(tied=[[1, 2, 5]], fixed=[7])
        ),
        model.design(structures[0], **arguments, constraints=Constraints(pssm=pssm)),
    ]
    scores = model.score(structures[0], num_orders=2)
    found = [*model.log_probs(structures), *model.unconditional_log_probs(structures)]
    found += [x for d in designs for x in (d.log_probs, d.scores, d.recovery, d.probabilities / 4)]
    return [*found, scores.score, scores.global_score]


@pytest.fixture(scope="module")
def watched():
    """What a model on the device gave, and the operations that it used there."""
    with pytest.MonkeyPatch.context() as patch, FakeMPS() as device:
        patch.setattr(batches, "WITHOUT_FLOAT64", (*batches.WITHOUT_FLOAT64, fake_mps.NAME))
        # Tensors that hold others cannot be made in inference mode.
        patch.setattr(torch, "inference_mode", torch.no_grad)
        model = mpnn.load_model(device=fake_mps.NAME)
        assert model.backend.name == "torch"
        return run(model), device.operations


def test_a_device_without_float64_gives_the_same(watched) -> None:
    """No float64 reaches it, no operand is elsewhere, and the residues drawn are the CPU's."""
    for found, expected in zip(watched[0], run(mpnn.load_model(backend="torch")), strict=True):
        assert np.abs(found - expected).max() <= TOLERANCE


def test_every_operation_is_in_the_list(watched) -> None:
    assert {name.partition(".")[0] for name in watched[1]} == OPERATIONS


def test_torch_has_a_kernel_for_every_operation(watched, declared) -> None:
    """As torch's own table declares them: on MPS, on every device, or composed of such."""
    assert declared("aten::topk.values") and declared("aten::gelu")
    assert not declared("aten::segment_reduce"), "does the table still say what has no kernel?"
    missing = sorted(name for name in watched[1] if not declared(name))
    assert not missing, missing


@pytest.fixture(scope="module")
def declared():
    """Whether torch declares an operation, such as "aten::add.Tensor", for MPS."""
    [table] = Path(torchgen.__file__).parent.rglob("native/native_functions.yaml")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entries = {
        "aten::" + entry["func"].split("(")[0]: entry
        for entry in yaml.load(table.read_text("utf-8"), loader)
    }

    def has_kernel(name: str) -> bool:
        entry = entries[name]
        if "structured_delegate" in entry:
            return has_kernel("aten::" + entry["structured_delegate"])
        keys = {key.strip() for keys in entry.get("dispatch", {}) for key in keys.split(",")}
        return not keys or "MPS" in keys or any(key.startswith("Composite") for key in keys)

    return has_kernel


# ------------------------------------------------------------------------------- tests of the above


def test_float64_on_the_device_is_caught() -> None:
    with FakeMPS(), pytest.raises(AssertionError, match="MPS has no float64"):
        torch.zeros(3, dtype=torch.float64).to(fake_mps.NAME)


def test_operands_on_two_devices_are_caught() -> None:
    with FakeMPS(), pytest.raises(AssertionError, match="operands on MPS and on the CPU"):
        torch.zeros(3, device=fake_mps.NAME) + torch.zeros(3)


def test_measurements_wait_for_the_device() -> None:
    assert synchroniser("mps") is torch.mps.synchronize
