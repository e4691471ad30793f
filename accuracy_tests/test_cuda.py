"""The CUDA backend against the plain network: on a GPU, in Triton's interpreter, without Triton."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from proteins import protein, rows_of, without_backbone

import mpnn_core as mpnn
from mpnn_core.backends.plain import TorchLevels
from mpnn_core.network import graph
from mpnn_core.network.architectures import random_network
from mpnn_core.network.encoding import Copies
from mpnn_core.network.graph import Backbones
from mpnn_core.network.variants import find_variant
from mpnn_core.sampling.noise import ORDER, RESIDUE, digest, uniform_numbers
from mpnn_core.sampling.sampler import Distribution, sample
from mpnn_core.sampling.schedule import wavefront

GPU = torch.cuda.is_available()
NVCC = shutil.which("nvcc")
if not GPU:
    # Read when the kernels are first imported: without a GPU, numpy runs them.
    os.environ.setdefault("TRITON_INTERPRET", "1")

import cuda_shim  # noqa: E402  after the line above

from mpnn_core.backends import cuda  # noqa: E402
from mpnn_core.backends.cuda import compiled, replays  # noqa: E402
from mpnn_core.backends.cuda import plan as plans  # noqa: E402

EXACT = 1e-4  # nats, of any log-probability
KL = 1e-3  # nats, mean over residues, of the fast tier
ROUNDING_KL = 6e-5  # what float16 makes of it: 2e-5 here and on a GPU; edges too many make 2e-4
RESIDUES = 106 if GPU else 9  # the interpreter takes seconds for what a GPU does at once

pytestmark = [
    # Triton's interpreter computes sigmoid(-100) as 1 / (1 + inf), which is right.
    pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning"),
]
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
needs_gpu = pytest.mark.skipif(not GPU, reason="there is no CUDA device")
DEVICE = torch.device("cuda" if GPU else "cpu")


class Case:
    """Sequences of two structures, some residues fixed, and what plain torch makes of them."""

    def __init__(self, copies: int = 2, residues: int = RESIDUES) -> None:
        self.network = mpnn.load_model("v_48_020", backend="torch", device=str(DEVICE)).network
        whole = Backbones.from_structures([protein("5L33")], DEVICE)
        # The second structure is short of neighbours, so it has spare slots.
        cuts = [slice(0, residues), slice(0, max(6, residues // 3))]
        lengths = [cut.stop for cut in cuts]
        self.backbones = Backbones(
            torch.cat([whole.coords[cut] for cut in cuts]),
            torch.cat([whole.residue_index[cut] for cut in cuts]),
            torch.cat([whole.chain[cut] + i for i, cut in enumerate(cuts)]),
            (0, *np.cumsum(lengths).tolist()),
        )
        rng = np.random.default_rng(3)
        structures = [0] * copies + [1] * copies
        rank = np.concatenate([rng.permutation(lengths[s]) for s in structures])
        M = len(rank)

        def there(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values).to(DEVICE)

        self.rank, self.uniform = there(rank), there(rng.random(M))
        self.tokens, self.designed = there(rng.integers(0, 20, M)), there(rng.random(M) < 0.8)
        self.distribution = Distribution(
            there(rng.uniform(0.1, 1.0, M)).float(),
            there(rng.normal(size=(M, 21))).float(),
            there(rng.random((M, 21)) < 0.2),
        )
        self.encoding = self.network.encode(self.backbones)
        self.copies = Copies.of(self.encoding.graph, self.backbones.offsets, structures)
        self.logits = self.network.decode(self.encoding, self.copies, self.tokens, self.rank)
        self.samples = sample(
            TorchLevels(self.network, self.encoding, self.copies, self.rank),
            self.rank, wavefront(self.rank, self.copies.neighbours),
            self.distribution, self.uniform, self.tokens, self.designed,
        )  # fmt: skip

    def sampled(self, backend: cuda.CudaBackend, designed: torch.Tensor | None = None):
        return backend.sample(
            backend.encode(self.backbones), self.copies, self.rank, self.distribution,
            self.uniform, self.tokens, self.designed if designed is None else designed,
        )  # fmt: skip


@pytest.fixture(scope="module")
def case() -> Case:
    with torch.inference_mode():
        return Case()


def difference(logits: torch.Tensor, reference: torch.Tensor) -> float:
    return (logits.log_softmax(-1) - reference.log_softmax(-1)).abs().max().item()


@needs_triton
def test_exact_log_probabilities_are_the_plain_networks(case: Case) -> None:
    backend = cuda.CudaBackend(case.network)
    assert backend.triton
    logits = backend.decode(backend.encode(case.backbones), case.copies, case.tokens, case.rank)
    assert difference(logits, case.logits) < EXACT


@needs_triton
@torch.inference_mode()
def test_conditional_logits_are_the_plain_networks(case: Case) -> None:
    backend = cuda.CudaBackend(case.network)
    given = case.copies, case.tokens, case.rank
    ours = backend.condition(backend.encode(case.backbones), *given)
    theirs = case.network.condition(case.encoding, *given)
    assert difference(ours, theirs) < EXACT
    assert difference(ours, case.logits) > 0.1, "are the residues last?"


@needs_triton
@torch.inference_mode()
def test_node_states_that_are_given_and_changed_are_those_of_the_plain_network(case: Case) -> None:
    """The encoder starts from some, and the decoder from others."""
    generator = torch.Generator().manual_seed(4)
    start, changed = torch.randn(2, len(case.backbones), 128, generator=generator).to(DEVICE)
    backend = cuda.CudaBackend(case.network)
    ours = backend.encode(case.backbones, h_V=start)
    theirs = case.network.encode(case.backbones, ours.graph, h_V=start)
    assert (ours.h_V - theirs.h_V).abs().max() < EXACT
    assert (ours.h_V - case.encoding.h_V).abs().max() > 0.1, "do the given states count?"
    logits = [
        b.decode(b.with_states(encoding, changed), case.copies, case.tokens, case.rank)
        for b, encoding in ((backend, ours), (case.network, theirs))
    ]
    assert difference(*logits) < EXACT
    assert difference(logits[0], case.logits) > 0.1, "do the changed states count?"


@needs_triton
@pytest.mark.parametrize("blocks", [1, 3, 132])
def test_exact_samples_are_the_plain_networks_however_work_is_dealt(case: Case, blocks) -> None:
    if not GPU and blocks == 132:
        pytest.skip("blocks of one team wait for each other; the interpreter runs them in turn")
    if not GPU and blocks == 1:
        pytest.skip("the interpreter takes half a minute, and three blocks test the same")
    backend = cuda.CudaBackend(case.network)
    backend.multiprocessors = blocks
    found = case.sampled(backend)
    assert torch.equal(found.tokens, case.samples.tokens)
    assert difference(found.logits, case.samples.logits) < EXACT
    assert (found.probabilities - case.samples.probabilities).abs().max() < EXACT


def compiled_levels(backend: cuda.CudaBackend) -> cuda.CudaBackend:
    """With `decode_levels.cu`: compiled for the GPU, or as C++ where there is none."""
    if not GPU:
        if cuda_shim.COMPILER is None:
            pytest.skip("needs a C++ compiler")
        backend.launch = cuda_shim.launch
    if backend.launch is None:
        pytest.skip("needs a GPU of compute capability 9.0 or later, and NVRTC")
    return backend


@needs_triton
@pytest.mark.parametrize("known", [False, True])
def test_compiled_levels_are_near_the_plain_networks(case: Case, known, monkeypatch) -> None:
    backend = compiled_levels(cuda.CudaBackend(case.network, "fast"))
    backend.multiprocessors = 3
    monkeypatch.setattr(cuda, "KNOWN_FROM", 1 if known else 10**9)
    found = case.sampled(backend, case.designed & False)
    assert torch.equal(found.tokens, case.tokens)
    assert not found.probabilities.any()
    p, q = case.logits.log_softmax(-1), found.logits.log_softmax(-1)
    assert (p.exp() * (p - q)).sum(-1).mean() < ROUNDING_KL
    drawn = case.sampled(backend)
    assert torch.equal(drawn.tokens[~case.designed], case.tokens[~case.designed])
    # A difference of rounding can draw another residue, and all that follow.
    assert (drawn.tokens == case.samples.tokens).float().mean() > 0.9
    again = case.sampled(backend)
    for name, value in vars(drawn).items():
        assert torch.equal(value, getattr(again, name)), name


@needs_triton
@pytest.mark.skipif(GPU, reason="a GPU's warps have no turns")
@pytest.mark.parametrize("known", [False, True])
def test_compiled_levels_do_not_depend_on_which_warp_is_ahead(case, known, monkeypatch) -> None:
    backend = compiled_levels(cuda.CudaBackend(case.network, "fast"))
    backend.multiprocessors = 3
    monkeypatch.setattr(cuda, "KNOWN_FROM", 1 if known else 10**9)
    expected = case.sampled(backend)
    for seed in (1, 2, 3):
        backend.launch = partial(cuda_shim.launch, seed=seed)
        for name, value in vars(case.sampled(backend)).items():
            assert torch.equal(value, getattr(expected, name)), name


@needs_triton
def test_compiled_levels_of_many_rows_take_several_batches(monkeypatch) -> None:
    """Of up to 32 rows, of all sequences, in one block."""
    with torch.inference_mode():
        many = Case(copies=300 if GPU else 20)
    backend = compiled_levels(cuda.CudaBackend(many.network, "fast"))
    backend.multiprocessors = 1
    monkeypatch.setattr(plans, "LEVELS_EXPECTED", 8)
    plan = backend.plan(backend.encode(many.backbones), many.copies, many.rank)
    assert plan.rows == compiled.BATCH_ROWS
    assert plan.bounds.diff().max() > compiled.BATCH_ROWS
    found = many.sampled(backend, many.designed & False)
    p, q = many.logits.log_softmax(-1), found.logits.log_softmax(-1)
    assert (p.exp() * (p - q)).sum(-1).mean() < ROUNDING_KL


@needs_triton
@pytest.mark.parametrize("neighbours", [16, 30])
def test_compiled_levels_of_other_shapes(case: Case, neighbours) -> None:
    shape = replace(find_variant("baseline"), neighbours=neighbours, decoder_layers=2)
    network = random_network(shape).to(DEVICE)
    backend = compiled_levels(cuda.CudaBackend(network, "fast"))
    structure = rows_of(protein("5L33"), slice(0, RESIDUES))
    backbones = Backbones.from_structures([structure], DEVICE)
    encoding = network.encode(backbones)
    copies = Copies.of(encoding.graph, backbones.offsets, [0])
    rank = torch.arange(RESIDUES, device=DEVICE)
    tokens = rank % 20
    logits = network.decode(encoding, copies, tokens, rank)
    n = RESIDUES
    free = Distribution(
        torch.ones(n, device=DEVICE), torch.zeros(n, 21, device=DEVICE),
        torch.zeros(n, 21, dtype=torch.bool, device=DEVICE),
    )  # fmt: skip
    uniform = torch.full((n,), 0.5, device=DEVICE)
    found = backend.sample(
        backend.encode(backbones), copies, rank, free, uniform, tokens, tokens < 0
    )
    p, q = logits.log_softmax(-1), found.logits.log_softmax(-1)
    assert (p - q).abs().max() < 0.02  # 0.003, the weights being random


@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
@pytest.mark.parametrize("rows, known", [(8, False), (16, True), (32, True)])
def test_levels_compile_for_a_gpu(rows, known, tmp_path) -> None:
    """By NVIDIA's compiler, without a warning; 16 warps have 128 registers a thread."""
    constants = compiled.Constants.of(3, 48, rows, known, whole=True)
    file = tmp_path / "decode_levels.cu"
    file.write_text(compiled.source())
    built = subprocess.run(
        [NVCC, "-arch=sm_90", "-cubin", "-std=c++17", "-Werror", "all-warnings", "-Xptxas", "-v",
         *constants.definitions, str(file),
         "-o", str(tmp_path / "levels.cubin")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    [registers] = re.findall(r"Used (\d+) registers", built.stderr)
    [spilled] = re.findall(r"(\d+) bytes spill stores", built.stderr)
    assert int(registers) <= 128
    assert int(spilled) <= 200, "what is spilled goes through the L1 cache, as gathers do"


def test_what_the_compiled_levels_are_not_for_is_left_to_triton(case: Case) -> None:
    assert cuda.CudaBackend(case.network, "exact").launch is None
    for changed in ({"hidden": 64}, {"neighbours": 64}):
        network = random_network(replace(find_variant("baseline"), **changed)).to(DEVICE)
        assert cuda.CudaBackend(network, "fast").launch is None


@needs_triton
def test_levels_that_cannot_be_compiled_are_left_to_triton(case: Case, monkeypatch) -> None:
    monkeypatch.setattr(compiled, "_suitable", lambda device: True)
    monkeypatch.setattr(compiled, "load", lambda device, constants: None)
    assert cuda.CudaBackend(case.network, "fast").launch is compiled.launch
    assert cuda.CudaBackend(case.network, "fast", cuda.TUNINGS["fast"].many).launch is None

    def refused(device, constants):
        raise RuntimeError("decode_levels.cu does not compile for sm_90: no such target")

    monkeypatch.setattr(compiled, "load", refused)
    with pytest.warns(UserWarning, match="left to Triton.*no such target"):
        assert cuda.CudaBackend(case.network, "fast").launch is None


@needs_triton
@pytest.mark.proof  # half a minute each in Triton's interpreter
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_messages_read_from_a_table_are_those_computed(case: Case, precision, monkeypatch) -> None:
    backend = cuda.CudaBackend(case.network, precision)
    backend.launch = None
    backend.multiprocessors = 3
    monkeypatch.setattr(cuda, "KNOWN_FROM", 1)
    # No residue is drawn: in float16 a difference of rounding can draw another one.
    known = case.sampled(backend, case.designed & False)
    monkeypatch.setattr(cuda, "MOST_MESSAGE_BYTES", 0)
    computed = case.sampled(backend, case.designed & False)
    p, q = computed.logits.log_softmax(-1), known.logits.log_softmax(-1)
    if precision == "exact":
        assert (p - q).abs().max() < EXACT
    else:
        assert (p.exp() * (p - q)).sum(-1).mean() < KL


@needs_triton
def test_levels_are_the_fewest(case: Case) -> None:
    backend = cuda.CudaBackend(case.network)
    backend.multiprocessors = 1
    plan = backend.plan(backend.encode(case.backbones), case.copies, case.rank)
    steps = wavefront(case.rank, case.copies.neighbours)
    sizes = plan.bounds[0].diff()[: int(plan.depth[0])]
    assert sizes.tolist() == [len(step.rows) for step in steps]


@needs_triton
def test_fast_log_probabilities_are_near_the_exact(case: Case) -> None:
    backend = cuda.CudaBackend(case.network, "fast")
    logits = backend.decode(backend.encode(case.backbones), case.copies, case.tokens, case.rank)
    p, q = case.logits.log_softmax(-1), logits.log_softmax(-1)
    assert (p.exp() * (p - q)).sum(-1).mean() < KL


@needs_gpu
@needs_triton
def test_a_sequence_does_not_depend_on_what_is_designed_beside_it() -> None:
    with torch.inference_mode():
        many = Case(copies=300)
    backend = cuda.CudaBackend(many.network)
    encoding = backend.encode(many.backbones)
    alone = Copies.of(encoding.graph, many.backbones.offsets, [0])
    rows = slice(0, alone.starts[1])
    d = many.distribution
    found = backend.sample(
        encoding, alone, many.rank[rows],
        Distribution(d.temperature[rows], d.bias[rows], d.omit[rows]),
        many.uniform[rows], many.tokens[rows], many.designed[rows],
    )  # fmt: skip
    assert torch.equal(found.tokens, many.sampled(backend).tokens[rows])


@needs_triton
@pytest.mark.parametrize("seed", [0, 37, 2**31, 2**40 + 1, 2**63 - 1])
@pytest.mark.parametrize("stream", [ORDER, RESIDUE])
def test_random_numbers_are_the_hosts_bit_for_bit(case: Case, seed, stream) -> None:
    sequences, lengths = [0, 1, 5, 10**6], [1, 7, 300, 4]
    digests = [0, digest(protein("5L33")), 2**63 - 1, 1]
    keys = torch.tensor([seed, *sequences, *digests], device=DEVICE)
    starts = torch.tensor(np.cumsum([0, *lengths]), device=DEVICE)
    found = cuda.CudaBackend(case.network).uniforms(keys, stream, lengths, starts)
    expected = uniform_numbers(seed, stream, sequences, lengths, digests)
    assert np.array_equal(found.cpu().numpy(), expected)


@needs_triton
def test_designs_are_the_plain_networks(case: Case) -> None:
    """Through the whole API: random numbers, orders, scores, what is fetched later."""
    plain = mpnn.load_model("v_48_020", backend="torch", device=str(DEVICE))
    model = mpnn.load_model("v_48_020", backend="torch", device=str(DEVICE))
    model.backend = cuda.CudaBackend(case.network)
    n = RESIDUES
    whole = rows_of(protein("5L33"), slice(0, n))
    short = without_backbone(rows_of(protein("6MRR"), slice(3, n)), [2])
    constraints = mpnn.Constraints(fixed=["A4-6"], bias={"A": 1.0})
    # A single structure is recorded the second time, and replayed the third.
    for given, seeds in (([whole, short], 1), ([whole], 4 if GPU else 1)):
        for seed in range(seeds):
            expected = plain.design(given, 2, 0.5, seed, constraints)
            found = model.design(given, 2, 0.5, seed, constraints)
            for a, b in zip(expected, found, strict=True):
                assert a.sequences == b.sequences
                assert (a.decoding_order == b.decoding_order).all()
                assert (a.recovery == b.recovery).all()
                for name in ("scores", "global_scores", "log_probs", "probabilities"):
                    assert np.abs(getattr(a, name) - getattr(b, name)).max() < EXACT
            log_probs = plain.log_probs(given, seed=seed), model.log_probs(given, seed=seed)
            for a, b in zip(*log_probs, strict=True):
                assert np.abs(a - b).max() < EXACT
        if not GPU:
            break  # the interpreter takes half a minute for each


@needs_gpu
@needs_triton
def test_recordings_that_have_all_been_dropped_are_made_again(monkeypatch) -> None:
    monkeypatch.setattr(replays, "RECORDINGS", 1)
    model = mpnn.load_model("v_48_020", device="cuda", backend="cuda")
    first, second = (rows_of(protein("5L33"), slice(0, n)) for n in (60, 70))
    for structure in (first, first, second, first, first, first):
        found = model.log_probs(structure)
        alone = mpnn.load_model("v_48_020", device="cuda", backend="cuda").log_probs(structure)
        assert np.array_equal(found, alone)


@needs_gpu
@needs_triton
def test_designs_and_scores_of_one_recording_are_those_made_apart() -> None:
    model = mpnn.load_model("v_48_020", device="cuda", backend="cuda")
    structures = [rows_of(protein("5L33"), slice(0, 60)), rows_of(protein("5L33"), slice(20, 80))]
    for structure in structures * 3:  # computed, recorded, replayed
        [(designs, native)] = model.design_and_score([structure], 2, [0.1, 0.5], 37)
        for at, temperature in zip(designs, (0.1, 0.5), strict=True):
            apart = model.design(structure, 2, temperature, 37)
            assert at.sequences == apart.sequences
            assert np.abs(at.log_probs - apart.log_probs).max() < EXACT
            np.testing.assert_array_equal(at.decoding_order, apart.decoding_order)
        score = model.score(structure, seed=37)
        assert np.abs(native.score - score.score).max() < EXACT


def test_plain_torch_serves_where_triton_is_missing(case: Case, monkeypatch) -> None:
    monkeypatch.setattr(cuda, "find_spec", lambda name: None)
    backend = cuda.CudaBackend(case.network)
    assert not backend.triton
    found = case.sampled(backend)
    assert torch.equal(found.tokens, case.samples.tokens)
    assert difference(found.logits, case.samples.logits) < EXACT


@pytest.mark.parametrize("fused", [pytest.param(True, marks=needs_triton), False])
@pytest.mark.parametrize("precision, most", [("exact", EXACT), ("fast", 0.05)])
@torch.inference_mode()
def test_ca_only_networks_are_the_plain_ones(fused, precision, most, monkeypatch) -> None:
    """Plain torch makes their features, the kernels all the rest."""
    network = mpnn.load_model("ca/v_48_020", backend="torch", device=str(DEVICE)).network
    whole = protein("5L33").as_trace()
    lengths = (RESIDUES, 6)
    backbones = network.backbones([rows_of(whole, slice(0, n)) for n in lengths], DEVICE)
    encoding = network.encode(backbones)
    copies = Copies.of(encoding.graph, backbones.offsets, [0, 1])
    rank = torch.arange(len(backbones), device=DEVICE)
    tokens = rank % 20
    expected = network.decode(encoding, copies, tokens, rank)
    if not fused:
        monkeypatch.setattr(cuda, "find_spec", lambda name: None)
    backend = cuda.CudaBackend(network, precision)
    assert backend.triton == fused
    found = backend.decode(backend.encode(backbones), copies, tokens, rank)
    assert difference(found, expected) < most


@needs_gpu
def test_a_recording_of_a_ca_only_network_is_not_that_of_its_first_structure() -> None:
    model = mpnn.load_model("ca/v_48_020", device="cuda", backend="cuda")
    plain = mpnn.load_model("ca/v_48_020", backend="torch")
    for start in (0, 20, 40, 20):
        structure = rows_of(protein("5L33"), slice(start, start + 60))
        found, expected = (m.log_probs(structure, decoding_order=range(60)) for m in (model, plain))
        assert np.abs(found - expected).max() < EXACT


@pytest.mark.parametrize("block", [64 << 20, 1 << 17])
def test_neighbours_found_side_by_side_are_those_found_alone(block, monkeypatch) -> None:
    """What a GPU does for many structures, some with fewer residues than neighbours."""
    monkeypatch.setattr(graph, "DISTANCE_BLOCK_BYTES", block)
    lengths = (30, 48, 60, 5, 106)
    structures = [rows_of(protein("5L33"), slice(0, n)) for n in lengths] + [protein("6EHB")]
    backbones = Backbones.from_structures(structures, DEVICE)
    alone = [
        graph.nearest_neighbours(Backbones.from_structures([s], DEVICE), 48).neighbours
        for s in structures
    ]
    found = graph._nearest_side_by_side(backbones, 48)
    for first, here in zip(backbones.offsets, alone, strict=False):
        rows = found[first : first + len(here)]
        assert torch.equal(rows[:, : here.shape[1]], here + first)
        itself = torch.arange(first, first + len(here), device=DEVICE)[:, None]
        assert (rows[:, here.shape[1] :] == itself).all()


def test_an_unknown_precision_is_refused(case: Case) -> None:
    with pytest.raises(ValueError, match="expected one of exact, fast"):
        cuda.CudaBackend(case.network, "bf16")
