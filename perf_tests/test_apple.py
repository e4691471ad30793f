"""S7, S8, S15, S16, and S10 to S12 in MLX: Apple silicon.

Without it, speeds are "not exercised", and the ledger notes how far the results are from plain
torch. The speed of MLX on a CPU is not claimed, and not measured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from models import plain_model
from proteins import protein, random_order, rows_of

import mpnn_core as mpnn
from mpnn_core.backends.coreml.buckets import pad
from mpnn_core.commands.main import main
from mpnn_core.network.graph import Backbones
from mpnn_core.sampling.orders import ranks

pytestmark = pytest.mark.times_on("mps")
BUCKETS = (64, 128, 256)  # the study's
ON_MAC = sys.platform == "darwin"
ANE = "Apple silicon (Neural Engine)"
METAL = "Apple silicon (Metal)"
# Share of a package's operations that Core ML must give to the Neural Engine. Set before any
# measurement: the layout is Apple's own for it, and holds no operation that it is known to lack.
LEAST_ON_NEURAL_ENGINE = 0.9
# Float16, of one protein; of many it is 0.99 (accuracy_tests/test_coreml.py).
AGREEMENT, KL = 0.97, 1e-3
# A protein for each bucket, cut to its length where it is longer.
PROTEINS = {64: ("6MRR", 64), 128: ("5L33", 106), 256: ("1bvyF", 152)}


def structure_of(bucket: int) -> mpnn.Structure:
    name, length = PROTEINS[bucket]
    return rows_of(protein(name), slice(0, length))


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> list[Path]:
    """What `mpnn-core export coreml` writes for the study's buckets."""
    pytest.importorskip("coremltools")
    out = tmp_path_factory.mktemp("exported")
    buckets = ",".join(map(str, BUCKETS))
    assert main(["export", "coreml", "--out", str(out), "--buckets", buckets]) == 0
    return sorted(out.glob("*.mlpackage"), key=lambda path: int(path.stem.split("-")[-2]))


class OnePass:
    """log_probs of a structure by one package of mode "forward"; features are in the time."""

    def __init__(
        self, model: mpnn.Model, structure: mpnn.Structure, path: Path, bucket: int
    ) -> None:
        from mpnn_core.backends.coreml import backend as coreml
        from mpnn_core.backends.coreml import packages

        if ON_MAC:
            self.package: Callable = packages.open_package(path, "float16")
        else:
            from mil_evaluator import Evaluator

            self.package = Evaluator(path)
        self.model, self.structure, self.bucket, self.coreml = model, structure, bucket, coreml
        self.path, self.packages = path, packages
        spare = bucket - int(structure.mask.sum())
        self.order = random_order(len(structure))
        self.tokens, self.rank = (
            torch.nn.functional.pad(torch.from_numpy(v[structure.mask]), (0, spare))
            for v in (structure.tokens, ranks(self.order))
        )

    def __call__(self) -> np.ndarray:
        network = self.model.network
        padded = pad(
            Backbones.from_structures([self.structure]), network.neighbours, (self.bucket,)
        )
        with torch.inference_mode():
            inputs = self.coreml.forward_inputs(network, padded, self.tokens, self.rank)
        logits = self.package({k: v.numpy().astype(np.float16) for k, v in inputs.items()})[
            "logits"
        ]
        found = torch.from_numpy(logits[0, :, 0, : padded.length].T.astype(np.float32))
        return found.log_softmax(-1).numpy()

    def checked(self, not_exercised: Callable[..., None]) -> str:
        """Assert parity, and the share of the Neural Engine where there is one: a note of both."""
        p = self.model.log_probs(self.structure, decoding_order=self.order)[0, self.structure.mask]
        q = self()
        kl = (np.exp(p) * (p - q)).sum(-1).mean()
        agreement = (p.argmax(-1) == q.argmax(-1)).mean()
        assert kl < KL
        # Random weights prefer no letter, so rounding changes the likeliest one.
        assert agreement >= AGREEMENT or self.model.name == "random"
        note = f"KL {kl:.0e}, argmax agreement {100 * agreement:.1f} %"
        if not ON_MAC:
            not_exercised(ANE, f"{note} as evaluated op by op")
        share = self.packages.neural_engine_share(self.path)
        assert share >= LEAST_ON_NEURAL_ENGINE, f"{100 * share:.0f} % of the operations"
        return f"{note}; {100 * share:.0f} % of the operations on the Neural Engine"


@pytest.mark.parametrize(
    "bucket", [pytest.param(b, marks=pytest.mark.claim("S7", f"bucket-{b}")) for b in BUCKETS]
)
def test_neural_engine_bucket(
    coreml, exported, original_forward, paired, not_exercised, bucket
) -> None:
    structure = structure_of(bucket)
    forward = OnePass(plain_model(), structure, exported[BUCKETS.index(bucket)], bucket)
    note = forward.checked(not_exercised)
    paired(
        original_forward(structure=structure, device="mps"), forward, device="mps", note=note,
        workload=f"{len(structure)} residues in a bucket of {bucket}",
    )  # fmt: skip


@pytest.mark.claim("S15", "speed")
def test_extreme_on_the_neural_engine(
    coreml, tmp_path, study_protein, original_forward, paired, not_exercised
) -> None:
    from mpnn_core.backends.coreml.packages import Export, convert

    extreme = plain_model("extreme-v2")
    path = convert(extreme.network, Export("forward", 128), tmp_path / "extreme.mlpackage")
    forward = OnePass(extreme, study_protein, path, 128)
    note = forward.checked(not_exercised)
    paired(
        original_forward(device="mps"),
        lambda: [forward() for _ in range(8)],
        device="mps", work=8, note=note,
    )  # fmt: skip


@pytest.mark.claim("S16", "packages")
def test_package_per_bucket(coreml, exported, judge) -> None:
    """Each opens again, and says which bucket it is for."""
    rows = []
    for path in exported:
        spec = coreml.models.MLModel(str(path), skip_model_load=True).get_spec()
        metadata = spec.description.metadata.userDefined
        assert metadata["mpnn_core.mode"] == "forward"
        rows.append(int(metadata["mpnn_core.rows"]))
    assert tuple(rows) == BUCKETS
    judge(len(rows), note="mpnn-core export coreml; 512 is a fourth")


@pytest.mark.claim("S8", "speed")
def test_fused_message(mlx, paired, not_exercised, monkeypatch) -> None:
    """One layer's messages, hidden 64, k = 12, 106 residues: one kernel against MLX's own."""
    import metal_shim

    from mpnn_core.backends.mlx import FusedMessage, MLXBackend, plain_message
    from mpnn_core.network.mpnn import MPNN

    N, K, H = (106, 12, 64) if mlx.metal.is_available() else (12, 12, 64)
    layer = MLXBackend(MPNN(H, 1, 1, K).eval().requires_grad_(False)).encoder[0]
    rng = np.random.default_rng(0)
    edges, here, there = (
        mlx.array(rng.normal(size=shape).astype(np.float32))
        for shape in ((N, K, H), (N, H), (N, H))
    )
    reads = mlx.array(rng.integers(0, N, (N, K)).astype(np.int32))
    arguments = edges, here, there, reads, mlx.arange(N), mlx.ones((N, K), dtype=mlx.uint8), layer
    if not mlx.metal.is_available():
        if metal_shim.COMPILER is None:
            not_exercised(METAL)
        monkeypatch.setattr(mlx.fast, "metal_kernel", metal_shim.metal_kernel)
    fused = FusedMessage()
    difference = np.abs(np.array(fused(*arguments)) - np.array(plain_message(*arguments))).max()
    assert difference <= 2e-5
    if not mlx.metal.is_available():
        not_exercised(METAL, f"the kernel as C++ is within {difference:.0e} of MLX's operations")
    paired(
        lambda: mlx.eval(plain_message(*arguments)),
        lambda: mlx.eval(fused(*arguments)),
        device="mlx", synchronise=mlx.synchronize,
        note=f"within {difference:.0e}",
    )  # fmt: skip


def in_mlx(tier: str) -> mpnn.Model:
    return mpnn.load_model(backend="mlx" if tier == "exact" else f"mlx-{tier}")


def agreement(tier: str, structure: mpnn.Structure) -> str:
    """Assert that a tier agrees with plain torch in the likeliest letters, for a note."""
    p = plain_model().log_probs(structure)[0]
    q = in_mlx(tier).log_probs(structure)[0]
    share = (p.argmax(-1) == q.argmax(-1)).mean()
    assert share > 0.9
    return f"MLX, argmax agreement {100 * share:.1f} %"


@pytest.mark.claim("S10", "fp16")
def test_float16_in_mlx(mlx, study_protein, paired, not_exercised) -> None:
    note = agreement("fast", study_protein)
    if not mlx.metal.is_available():
        not_exercised(METAL, note)
    exact, fast = in_mlx("exact"), in_mlx("fast")
    paired(
        lambda: exact.log_probs(study_protein), lambda: fast.log_probs(study_protein),
        device="mlx", synchronise=mlx.synchronize, note=note,
        workload="log_probs of 5L33 in MLX, float16 against float32", only_record=True,
    )  # fmt: skip


@pytest.mark.claim("S11", "speed")
def test_compile_in_mlx(mlx, paired, not_exercised) -> None:
    """The elementwise operations of a message, as one kernel each and as many."""
    from mpnn_core.backends import mlx as backend

    if not mlx.metal.is_available():
        not_exercised(METAL)

    def eager(edges, here, there):
        x = edges + here[:, None] + there
        return x * (1 + mlx.erf(x * 2**-0.5)) / 2

    edges, here = mlx.random.normal((106, 48, 128)), mlx.random.normal((106, 128))
    paired(
        lambda: mlx.eval(eager(edges, here, edges)),
        lambda: mlx.eval(backend.activated(edges, here, edges)),
        device="mlx", synchronise=mlx.synchronize,
        workload="GELU of W1's output in MLX, compiled", only_record=True,
    )  # fmt: skip


@pytest.mark.claim("S12", "errors")
def test_int8_in_mlx(mlx, judge) -> None:
    """Weights of 8 bits in groups of 32: it works, on any device."""
    note = agreement("int8", rows_of(protein("5L33"), slice(0, 60)))
    judge(
        0, device="mlx", note=note, workload="log_probs of 60 residues of 5L33 in MLX",
        only_record=True,
    )  # fmt: skip


@pytest.mark.claim("S8", "speed")
def test_mlx_against_torch_on_mps(
    mlx, study_protein, original_forward, paired, not_exercised
) -> None:
    """The whole forward pass, which the study did not move to MLX."""
    if not (mlx.metal.is_available() and torch.backends.mps.is_available()):
        not_exercised(METAL)
    model = in_mlx("exact")
    paired(
        original_forward(device="mps"), lambda: model.log_probs(study_protein), device="mps",
        workload="log_probs of 5L33, MLX against the original on MPS", only_record=True,
    )  # fmt: skip
