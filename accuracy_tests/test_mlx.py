"""The MLX backend against plain torch, and its Metal kernel as C++. Nothing here says how fast."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from models import plain_model
from proteins import TS50, protein, random_order, rows_of
from strategies import Layout

import mpnn_core as mpnn
from mpnn_core import Constraints, Model
from mpnn_core.network.encoding import Copies
from mpnn_core.network.graph import Backbones, nearest_neighbours
from mpnn_core.network.mpnn import MPNN
from mpnn_core.sampling.sampler import draw

mx = pytest.importorskip("mlx.core")
import metal_shim  # noqa: E402  needs MLX

from mpnn_core.backends import mlx  # noqa: E402
from mpnn_core.backends.mlx import FusedMessage, MLXBackend, plain_message  # noqa: E402

TOLERANCE = 1e-4  # nats, any log-probability, exact tier
# KL in nats and argmax agreement, means over residues, of the lossy tiers.
LOSSES = {"fast": (1e-4, 0.99), "int8": (1e-3, 0.95)}
needs_compiler = pytest.mark.skipif(metal_shim.COMPILER is None, reason="no C++ compiler")


def in_mlx(model: Model, tier: str = "exact") -> Model:
    backend = "mlx" if tier == "exact" else f"mlx-{tier}"
    return Model(model.network, model.name, model.variant, model.device, backend)


def farthest(ours, theirs) -> float:
    return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())


@pytest.mark.parametrize("variant", list(mpnn.VARIANTS))
def test_log_probabilities_are_those_of_torch(variant) -> None:
    theirs = plain_model(variant)
    ours = in_mlx(theirs)
    structures = [protein("6MRR"), Layout(9, chain_starts=(4,), gaps=((6, 3),)).build()]
    orders = [random_order(len(s)) for s in structures]
    for found, expected in zip(
        ours.log_probs(structures, decoding_order=orders),
        theirs.log_probs(structures, decoding_order=orders),
        strict=True,
    ):
        assert farthest(found, expected) <= TOLERANCE
    found = ours.unconditional_log_probs(structures[0])
    assert farthest(found, theirs.unconditional_log_probs(structures[0])) <= TOLERANCE


@pytest.mark.parametrize("tied", [False, True], ids=["plain", "tied"])
def test_sequences_are_those_of_torch(tied) -> None:
    """Drawn by MLX; with tied positions, on the host."""
    theirs = plain_model()
    structures = [rows_of(protein("6MRR"), slice(0, n)) for n in (50, 20)]
    constraints = Constraints(
        fixed=[0, 7, 8], omit="CX", bias={"A": -1}, tied=[[2, 12, 15]] if tied else []
    )
    arguments = {"num_sequences": 2, "temperature": 0.3, "seed": 5, "constraints": constraints}
    for found, expected in zip(
        in_mlx(theirs).design(structures, **arguments),
        theirs.design(structures, **arguments),
        strict=True,
    ):
        assert found.sequences == expected.sequences
        assert farthest(found.log_probs, expected.log_probs) <= TOLERANCE
        # Divided by the temperature, a difference of logits is three times as large.
        assert farthest(found.probabilities, expected.probabilities) <= 4 * TOLERANCE


@pytest.mark.parametrize(("tier", "chains"), [("fast", TS50[:3]), ("int8", TS50[:2])])
def test_what_a_lossy_tier_loses(tier, chains) -> None:
    theirs = plain_model()
    ours = in_mlx(theirs, tier)
    structures = [protein(name) for name in chains]
    sides = ([lp[0] for lp in m.log_probs(structures)] for m in (theirs, ours))
    p, q = (np.concatenate(side) for side in sides)
    kl = (np.exp(p) * (p - q)).sum(-1).mean()
    agreement = (p.argmax(-1) == q.argmax(-1)).mean()
    print(f"{tier}: KL {kl:.1e}, argmax {100 * agreement:.2f} % of {len(p)}")
    most, least = LOSSES[tier]
    assert kl < most, f"{kl:.1e} nats"
    assert agreement >= least, f"{100 * agreement:.1f} % of {len(p)} residues"
    assert kl > 1e-9, "is it the tier that was asked for?"


def test_spare_slots_are_as_in_torch() -> None:
    """A graph in a fixed shape; what is in the spare slots does not count."""
    network = plain_model().network
    backbones = Backbones.from_structures([Layout(12).build()])
    graph = nearest_neighbours(backbones, 48).padded(12, 16)
    backend = MLXBackend(network)
    copies = Copies.of(graph, backbones.offsets, [0, 0])
    tokens, rank = torch.arange(24) % 21, torch.arange(24) % 12
    ours = backend.decode(backend.encode(backbones, graph), copies, tokens, rank)
    theirs = network.decode(network.encode(backbones, graph), copies, tokens, rank)
    assert farthest(ours, theirs) <= TOLERANCE


def test_draws_are_those_of_the_sampler() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(21, 0.3), 500).astype(np.float32)
    p[:, [0, 7, 20]] = 0  # what is omitted, at both ends as well
    u = rng.random(500).astype(np.float32)
    u[:3] = 0, np.nextafter(np.float32(1), 0), 1  # a float64 just under 1 rounds to 1
    found = np.array(mlx.draw_float32(mx.array(p), mx.array(u)))
    expected = draw(torch.from_numpy(p).double(), torch.from_numpy(u).double()).numpy()
    assert (found == expected).mean() > 0.995
    assert not np.isin(found, [0, 7, 20]).any()


def test_compiled_operations_are_the_same() -> None:
    """`mx.compile` fuses them on a GPU; here it makes C++ of them, or leaves them as they are."""
    x = mx.array(np.linspace(-8, 8, 600, dtype=np.float32).reshape(5, 4, 30))
    for call, arguments in ((mlx.gelu, (x,)), (mlx.activated, (x, x[:, 0], x * 0.5))):
        compiled = mx.compile(call, shapeless=True)
        assert farthest(compiled(*arguments), call(*arguments)) <= 1e-6
    exact = torch.nn.functional.gelu(torch.from_numpy(np.array(x)).double())
    assert farthest(mlx.gelu(x), exact) <= 1e-6


# -------------------------------------------------------------------------------- the Metal kernel


@pytest.fixture
def kernel(monkeypatch) -> FusedMessage:
    """The fused kernel as C++; on a Mac it is Metal."""
    if not mx.metal.is_available():
        monkeypatch.setattr(mx.fast, "metal_kernel", metal_shim.metal_kernel)
    return FusedMessage()


@needs_compiler
@pytest.mark.parametrize(
    ("H", "K", "tier"), [(64, 12, "exact"), (128, 48, "exact"), (128, 20, "fast")]
)
def test_the_kernel_makes_the_plain_message(kernel, H, K, tier) -> None:
    """More rows than nodes, spare slots, and a number of neighbours that is no multiple of 16."""
    network = MPNN(H, 1, 1, K).eval().requires_grad_(False)
    layer = MLXBackend(network, tier).decoder[0]
    rng = np.random.default_rng(K)
    N, n, R = 5, 7, 11

    def array(*shape: int) -> mx.array:
        return mx.array(rng.normal(size=shape).astype(np.float32)).astype(layer.W2.dtype)

    arguments = (
        array(N, K, H), array(n, H), array(R, H),
        mx.array(rng.integers(0, R, (n, K)).astype(np.int32)),
        mx.array(rng.integers(0, N, n).astype(np.int32)),
        mx.array((rng.random((N, K)) < 0.8).astype(np.uint8)),
        layer,
    )  # fmt: skip
    found, expected = kernel(*arguments), plain_message(*arguments)
    assert found.dtype == mx.float32
    # The plain path rounds each activation to float16, the kernel none.
    assert farthest(found, expected) <= (2e-5 if tier == "exact" else 0.1)


@needs_compiler
def test_the_network_runs_through_the_kernel(kernel) -> None:
    """Encoder, decoder and sampling, every message made by the kernel."""
    theirs = plain_model("minimal")
    ours = in_mlx(theirs)
    ours.backend.message = kernel
    structure = rows_of(protein("6MRR"), slice(0, 14))
    found, expected = (m.design(structure, 2, 0.5, seed=3) for m in (ours, theirs))
    assert found.sequences == expected.sequences
    assert farthest(found.log_probs, expected.log_probs) <= TOLERANCE


@needs_compiler
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("y[t] += w * x[t * H + c]", "y[t] += w * x[t * H + h]"),
        ("&& valid[node * K + k]", ""),
        ("k < K ? mpnn_gelu(", "k < K ? ("),
    ],
    ids=["product", "mask", "activation"],
)
def test_a_wrong_kernel_is_caught(monkeypatch, kernel, right, wrong) -> None:
    assert right in mlx.KERNEL_BODY
    monkeypatch.setattr(mlx, "KERNEL_BODY", mlx.KERNEL_BODY.replace(right, wrong))
    with pytest.raises(AssertionError, match=r"<= 2e-05"):
        test_the_kernel_makes_the_plain_message(FusedMessage(), 64, 12, "exact")


# ----------------------------------------------------------------------------- where it cannot run


def test_without_mlx_it_says_what_to_install(monkeypatch) -> None:
    for name in ("mlx", "mlx.core", "mpnn_core.backends.mlx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"'mlx' cannot be used here: .*pip install mlx, or"):
        mpnn.load_model(backend="mlx")
    assert mpnn.load_model().log_probs(protein("6MRR")).shape == (1, 68, 21)


def test_an_unknown_tier_is_refused() -> None:
    with pytest.raises(ValueError, match="tier 'bf16': expected one of exact, fast, int8"):
        MLXBackend(plain_model().network, "bf16")
