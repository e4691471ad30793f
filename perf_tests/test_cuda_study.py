"""S6 and S9 to S12 on CUDA: what the study tried on MPS, tried on the original on an NVIDIA GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from proteins import chain, protein, same_sets
from sklearn.neighbors import NearestNeighbors

from mpnn_core.peers import original

pytestmark = pytest.mark.times_on("cuda")
K = 48


@pytest.fixture(autouse=True)
def gpu(not_exercised) -> None:
    if not torch.cuda.is_available():
        not_exercised("an NVIDIA GPU")


def forward(copies: int = 1, network: torch.nn.Module | None = None) -> Callable[[], torch.Tensor]:
    """The original's forward() of copies of 5L33, in order, on the GPU."""
    network = (original.load() if network is None else network).to("cuda")
    inputs = original.inputs(protein("5L33"), copies).to(torch.device("cuda"))
    order = torch.arange(inputs.S.shape[1], device="cuda")[None].repeat(copies, 1)

    def run() -> torch.Tensor:
        with torch.device("cuda"):  # it makes some of its tensors on the default device
            return original.log_probs(network, inputs, order)

    return run


@pytest.mark.claim("S6", "speed")
def test_batching_on_cuda(paired) -> None:
    paired(forward(), forward(8), work=8, device="cuda")


@pytest.mark.claim("S6", "minimal")
def test_minimal_batched_on_cuda(paired) -> None:
    minimal = original.build(hidden=64, encoder_layers=2, decoder_layers=2)
    paired(forward(), forward(8, minimal), work=8, device="cuda")


@pytest.mark.claim("S6", "loss")
def test_batching_on_cuda_loses_nothing(judge) -> None:
    native = torch.from_numpy(protein("5L33").tokens).cuda()
    alone, together = (forward(n)().argmax(-1) == native for n in (1, 8))
    lost = 100 * (alone.float().mean() - together.float().mean()).item()
    judge(lost, device="cuda", note="points of teacher-forced recovery")


@pytest.mark.parametrize(
    "length",
    [
        pytest.param(106, marks=pytest.mark.claim("S9", "component")),
        pytest.param(500, marks=pytest.mark.claim("S9", "component-500")),
        pytest.param(2000, marks=pytest.mark.claim("S9", "component-2000")),
        pytest.param(10000, marks=pytest.mark.claim("S9", "component-10000")),
    ],
)
def test_tree_on_the_host(paired, length) -> None:
    """All pairs on the GPU against scikit-learn on the CPU, both ways over the bus included."""
    ca = torch.from_numpy(chain(length)).cuda()
    features, mask = original.load().features.cuda(), torch.ones(1, length, device="cuda")

    def pairs() -> torch.Tensor:
        with torch.inference_mode():
            return features._dist(ca[None], mask)[1][0]

    def tree() -> torch.Tensor:
        host = ca.cpu().numpy()
        found = NearestNeighbors(n_neighbors=K, algorithm="kd_tree").fit(host).kneighbors(host)[1]
        return torch.from_numpy(found).cuda()

    assert same_sets(pairs().cpu().numpy(), tree().cpu().numpy()) > 0.999
    paired(pairs, tree, device="cuda", workload=f"k-NN of {length} residues, scikit-learn")


@pytest.mark.claim("S9", "model")
def test_tree_in_the_model_on_cuda(paired) -> None:
    network = original.load().to("cuda")

    def tree_dist(X: torch.Tensor, mask: torch.Tensor, eps: float = 1e-6):
        ca = X[0].cpu().numpy()
        near = NearestNeighbors(n_neighbors=K, algorithm="kd_tree").fit(ca).kneighbors(ca)
        distance, index = (torch.from_numpy(np.ascontiguousarray(x)).cuda()[None] for x in near)
        return (distance.float().square() + eps).sqrt(), index

    network.features._dist = tree_dist
    plain, patched = forward(), forward(network=network)
    assert (plain() - patched()).abs().max() < 1e-3
    paired(plain, patched, device="cuda", workload="forward() of 5L33 with scikit-learn's k-NN")


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(torch.float16, id="fp16", marks=pytest.mark.claim("S10", "fp16")),
        pytest.param(torch.bfloat16, id="bf16", marks=pytest.mark.claim("S10", "bf16")),
    ],
)
def test_autocast_on_cuda(paired, dtype) -> None:
    run = forward()

    def autocast() -> torch.Tensor:
        with torch.autocast("cuda", dtype=dtype):
            return run()

    agreement = (run().argmax(-1) == autocast().argmax(-1)).float().mean().item()
    assert agreement > 0.9
    paired(run, autocast, device="cuda", note=f"argmax agreement {100 * agreement:.1f} %")


@pytest.mark.claim("S11", "speed")
def test_cuda_graph(paired) -> None:
    """What torch.compile's reduce-overhead mode does with the launches, and nothing else of it."""
    run = forward()
    exact = run()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    graph.replay()
    assert (found - exact).abs().max() < 1e-3
    workload = "forward() of 5L33 in a CUDA graph, not compiled"
    paired(run, graph.replay, device="cuda", workload=workload, only_record=True)


@pytest.mark.costly(90)
@pytest.mark.claim("S11", "speed")
def test_compile_on_cuda(paired) -> None:
    network = original.load()
    run = forward()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch's own compiler
        compiled = forward(network=torch.compile(network.to("cuda")))
        assert (compiled() - run()).abs().max() < 1e-3
        paired(run, compiled, device="cuda")


@pytest.mark.claim("S12", "errors")
def test_int8_on_cuda(judge) -> None:
    errors, note = 0, "computed"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao's quantisation is deprecated
        quantised = torch.ao.quantization.quantize_dynamic(original.load(), {torch.nn.Linear})
        try:
            forward(network=quantised)()
        except (RuntimeError, NotImplementedError) as error:
            errors, note = 1, str(error).splitlines()[0]
    judge(errors, device="cuda", note=note)
