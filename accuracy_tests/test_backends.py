"""The native backend against plain torch: the same function, whatever runs beside it."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from proteins import EXAMPLES, protein, random_order, rows_of
from strategies import NOISE, Layout, layouts

import mpnn_core as mpnn
from mpnn_core import Constraints, Model
from mpnn_core.backends import native as native_code
from mpnn_core.backends.native import INSTRUCTION_SETS, NativeBackend, cores, instruction_sets
from mpnn_core.backends.plain import TorchBackend
from mpnn_core.backends.registry import find_backend
from mpnn_core.network.architectures import random_network
from mpnn_core.network.encoding import Copies
from mpnn_core.network.graph import Backbones, nearest_neighbours
from mpnn_core.sampling.noise import order_noise
from mpnn_core.sampling.orders import draw_order, ranks

# Native is 1.1e-4 nats from float64, torch 1.8e-5, and so they differ by more than TOLERANCE.
FARTHEST = Layout(9, 592, chain_starts=(4, 7), gaps=((3, 12), (7, 36)), missing=(7, 8))
TOLERANCE = 1e-4  # docs/explanation/exactness.md; each is within about 3e-5 of float64
pytestmark = pytest.mark.skipif(not instruction_sets(), reason="no native code was built here")


@pytest.fixture(scope="module")
def plain() -> Model:
    return mpnn.load_model(backend="torch")


@pytest.fixture(scope="module", params=INSTRUCTION_SETS)
def native(request, plain) -> Model:
    """The native backend in each instruction set that this processor supports."""
    if request.param not in instruction_sets():
        pytest.skip(f"not exercised: needs a processor with {request.param}")
    model = mpnn.load_model(backend="native")
    model.backend = NativeBackend(model.network, request.param)
    return model


@pytest.fixture
def threads(monkeypatch):
    """Set how many threads torch, and so the native code, uses."""
    before = torch.get_num_threads()
    monkeypatch.setattr(native_code, "available_cores", lambda: 8)  # more threads than cores, too
    yield torch.set_num_threads
    torch.set_num_threads(before)


def farthest(ours, theirs) -> float:
    return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())


def assert_equal(native: Model, plain: Model, answer: Callable[[Model], np.ndarray]) -> None:
    """Within TOLERANCE; if not, which of the two gives something else when it is asked again."""
    ours, theirs = answer(native), answer(plain)
    difference = farthest(ours, theirs)
    assert difference <= TOLERANCE, (
        f"{difference:.1e} nats; asked again, native code differs from itself by "
        f"{farthest(answer(native), ours):.1e}, torch by {farthest(answer(plain), theirs):.1e}"
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_log_probabilities_are_those_of_torch(name, native, plain) -> None:
    structure = protein(name)
    order = random_order(len(structure))
    assert_equal(native, plain, lambda model: model.log_probs(structure, decoding_order=order))
    assert_equal(native, plain, lambda model: model.unconditional_log_probs(structure))


def test_structures_are_computed_as_many_at_a_time_as_stay_in_the_caches(plain) -> None:
    """A quarter of the time of TS50 x 8 (claim E6); plain torch takes all at once."""
    model, structures = mpnn.load_model(backend="native"), [protein("5L33")] * 12
    groups = [group for group, _ in model.executor.batches(structures, [1] * 12)]
    assert [s for group in groups for s in group] == list(range(12))
    most = model.backend.best_encoded_bytes / model.executor.encoding_bytes
    residues = [len(group) * len(protein("5L33")) for group in groups]
    assert max(residues) <= most, f"{max(residues)} residues at once, {most:.0f} fit"
    assert len(list(plain.executor.batches(structures, [1] * 12))) == 1


@pytest.mark.parametrize("name", EXAMPLES)
def test_sequences_are_those_of_torch(name, native, plain) -> None:
    structure = protein(name)
    constraints = Constraints(fixed=range(0, len(structure), 7), omit="CX", bias={"A": -1})
    arguments = {"num_sequences": 3, "temperature": 0.2, "seed": 5, "constraints": constraints}
    ours, theirs = native.design(structure, **arguments), plain.design(structure, **arguments)
    assert ours.sequences == theirs.sequences
    assert farthest(ours.log_probs, theirs.log_probs) <= TOLERANCE
    # Divided by the temperature, a difference of logits is five times as large.
    assert farthest(ours.probabilities, theirs.probabilities) <= 5 * TOLERANCE


@settings(max_examples=25, deadline=None)
@given(layouts(max_length=90), st.integers(1, 3), st.integers(0, 2**31))
@example(FARTHEST, 1, 0)
def test_any_layout_is_as_in_torch(plain, layout, n, seed) -> None:
    """Fewer residues than neighbours, chains, gaps and incomplete residues."""
    structure = layout.build()
    model = mpnn.load_model(backend="native")
    ours, theirs = (m.log_probs(structure, seed=seed) for m in (model, plain))
    assert farthest(ours, theirs) <= NOISE
    designs = model.design(structure, n, 1.0, seed=seed)
    again = model.log_probs(structure, designs.sequences, designs.decoding_order)
    assert farthest(again, designs.log_probs) <= 1e-5, "sampled is not teacher-forced"


def test_layouts_are_no_farther_from_float64_than_in_torch(plain) -> None:
    """The median over layouts: a single one may be six times as far by float32 alone."""
    model = mpnn.load_model(backend="native")
    errors = []
    for length in range(1, 91, 3):
        structure = Layout(length, start=10 * length).build()
        exact = log_probs_in_float64(plain, structure, 0)
        errors.append([farthest(m.log_probs(structure), exact) for m in (model, plain)])
    ours, theirs = np.median(errors, axis=0)
    assert ours <= 1.5 * theirs, f"{ours:.1e} against {theirs:.1e}"


def log_probs_in_float64(model: Model, structure: mpnn.Structure, seed: int) -> np.ndarray:
    network = copy.deepcopy(model.network).double()
    backbones = Backbones.from_structures([structure], dtype=torch.float64)
    graph = nearest_neighbours(Backbones.from_structures([structure]), network.neighbours)
    order = draw_order(order_noise(seed, 0, len(structure)), structure.mask)
    rank = torch.from_numpy(ranks(order)[structure.mask])
    tokens = torch.from_numpy(structure.tokens[structure.mask])
    with torch.inference_mode():
        encoding = network.encode(backbones, graph)
        copies = Copies.of(graph, backbones.offsets, [0])
        found = network.decode(encoding, copies, tokens, rank).log_softmax(-1)
    whole = network.W_out.bias.detach().log_softmax(-1).repeat(1, len(structure), 1).numpy()
    whole[0, structure.mask] = found
    return whole


@given(
    st.integers(2, 40).flatmap(
        lambda L: st.tuples(
            st.just(L),
            st.lists(st.integers(0, L - 1), unique=True),  # fixed
            st.lists(st.integers(0, L - 1), unique=True, min_size=2),  # tied, cut into groups
            st.integers(1, 5),
            st.integers(0, 2**31),
        )
    )
)
@settings(max_examples=40, deadline=None)
def test_any_constraint_is_as_in_torch(plain, case) -> None:
    L, fixed, tied, size, seed = case
    structure = rows_of(protein("6MRR"), slice(0, L))
    free = [i for i in tied if i not in fixed]
    groups = [free[i : i + size] for i in range(0, len(free), size)]
    constraints = Constraints(fixed=fixed, tied=[group for group in groups if group])
    if len(fixed) == L:
        return
    arguments = {"num_sequences": 2, "temperature": 0.5, "seed": seed, "constraints": constraints}
    ours = mpnn.load_model(backend="native").design(structure, **arguments)
    theirs = plain.design(structure, **arguments)
    np.testing.assert_array_equal(ours.decoding_order, theirs.decoding_order)
    assert farthest(ours.log_probs[0], theirs.log_probs[0]) <= TOLERANCE
    assert ours.sequences == theirs.sequences
    for sequence in ours.sequences:
        assert all(len({sequence[i] for i in group}) == 1 for group in groups if group)
        assert all(sequence[i] == structure.sequence[i] for i in fixed)


def test_the_same_bits_whatever_is_beside_it(threads) -> None:
    """Batch, threads, and the memory of first messages change no bit of a result."""
    model = mpnn.load_model(backend="native")
    structures = [protein("6MRR"), protein("5L33")]
    threads(1)
    [alone] = [model.design(structures[0], 1, 0.1, seed=3)]
    for count in (1, 2, 3):
        threads(count)
        many, other = model.design(structures, 40, 0.1, seed=3)
        assert many.sequences[0] == alone.sequences[0]
        np.testing.assert_array_equal(many.log_probs[:1], alone.log_probs)
        [one] = model.log_probs(structures[1:], [other.sequences[7]], [other.decoding_order[7]])
        np.testing.assert_array_equal(one[0], other.log_probs[7])


@settings(max_examples=40, deadline=None)
@given(layouts(max_length=60), st.integers(1, 3), st.integers(0, 2**31))
@example(Layout(31), 1, 0)
@example(Layout(47, missing=(3,)), 2, 0)
def test_a_small_structure_has_the_same_bits_beside_a_large_one(layout, n, seed) -> None:
    """Fewer residues than neighbours: beside a larger structure it has spare slots."""
    model = mpnn.load_model(backend="native")
    structures = [layout.build(), protein("6MRR")]
    constraints = [Constraints(), Constraints(fixed=range(30))]
    [alone] = model.design(structures[:1], n, 0.5, seed, constraints[:1])
    beside, _ = model.design(structures, n, 0.5, seed, constraints)
    assert beside.sequences == alone.sequences
    for name in ("log_probs", "probabilities", "scores"):
        np.testing.assert_array_equal(getattr(beside, name), getattr(alone, name), name)
    decoded = [model.log_probs(some, seed=seed)[0] for some in (structures, structures[:1])]
    np.testing.assert_array_equal(*decoded)


def test_ties_and_given_residues_are_the_same_on_any_number_of_threads(threads) -> None:
    """Whether sequences or the rows of a level are divided among them."""
    model = mpnn.load_model(backend="native")
    structures = [protein("6MRR"), protein("5L33")]
    constraints = [
        Constraints(fixed=tuple(range(20)), tied=[[20, 40, 60], [25, 35]]),
        Constraints(tied=[[0, 105], [50, 51, 52]]),
    ]
    found = []
    for count in (1, 2, 3, 8):
        threads(count)
        found.append(model.design(structures, 4, 0.5, seed=9, constraints=constraints))
    for other in found[1:]:
        for expected, designs in zip(found[0], other, strict=True):
            assert designs.sequences == expected.sequences
            np.testing.assert_array_equal(designs.log_probs, expected.log_probs)
            np.testing.assert_array_equal(designs.probabilities, expected.probabilities)


def test_one_network_is_used_from_many_threads(threads) -> None:
    from concurrent.futures import ThreadPoolExecutor

    model = mpnn.load_model(backend="native")
    structure = protein("6MRR")
    expected = [model.design(structure, 4, 0.1, seed=seed).sequences for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda seed: model.design(structure, 4, 0.1, seed=seed), range(8))
        assert [designs.sequences for designs in found] == expected


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_the_threads_of_torch_do_not_spin_beside_ours(threads) -> None:
    """They end before the native code starts, and torch starts them again when it needs them."""
    backend = mpnn.load_model(backend="native").backend
    backbones = Backbones.from_structures([protein("5L33")])
    graph = nearest_neighbours(backbones, 48)

    def ended() -> int:
        torch.rand(1 << 20).exp_()  # in parallel
        before = len(os.listdir("/proc/self/task"))
        backend.encode(backbones, graph)
        return before - len(os.listdir("/proc/self/task"))

    threads(2)
    ended()  # the native threads exist from here on
    assert [ended(), ended()] == [1, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_threads_of_its_own() -> None:
    code = """
import os, sys, warnings
import mpnn_core as mpnn, torch
torch.set_num_threads(1)  # torch's own threads do not survive a fork
torch.get_num_threads = lambda: 2
warnings.simplefilter("ignore")
structure, model = mpnn.read_structure(sys.argv[1]), mpnn.load_model(backend="native")
expected = model.design(structure, 2, seed=1).sequences
child = os.fork()
same = model.design(structure, 2, seed=1).sequences == expected
if not child:
    os._exit(0 if same else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or not same)
"""
    from proteins import path_of

    command = [sys.executable, "-c", code, str(path_of("6MRR"))]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_does_not_wait_for_threads_of_torch_that_it_lacks() -> None:
    code = """
import os, sys, warnings
import mpnn_core as mpnn, torch
from mpnn_core.network.graph import Backbones, nearest_neighbours
warnings.simplefilter("ignore")
torch.set_num_threads(2)
backbones = Backbones.from_structures([mpnn.read_structure(sys.argv[1])])
graph, backend = nearest_neighbours(backbones, 48), mpnn.load_model(backend="native").backend
expected = backend.encode(backbones, graph).h_V
torch.rand(1 << 20).exp_()  # in parallel: torch has threads
child = os.fork()
if not child:
    os._exit(0 if (backend.encode(backbones, graph).h_V == expected).numpy().all() else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    from proteins import path_of

    command = [sys.executable, "-c", code, str(path_of("6MRR"))]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_forked_while_a_thread_designs_can_design() -> None:
    """It finds no lock held by a thread that it lacks, and nothing that was half written."""
    code = """
import os, sys, threading, warnings
import mpnn_core as mpnn, torch
torch.set_num_threads(2)
warnings.simplefilter("ignore")
structure, model = mpnn.read_structure(sys.argv[1]), mpnn.load_model(backend="native")
expected = model.design(structure, 2, seed=1).sequences
done = threading.Event()

def designing():
    while not done.is_set():
        model.design(structure, 8, seed=2)

thread = threading.Thread(target=designing)
thread.start()
children = []
for _ in range(10):
    torch.rand(1 << 20).exp_()  # in parallel: torch has threads
    if not (child := os.fork()):
        same = model.design(structure, 2, seed=1).sequences == expected
        os._exit(0 if same else 1)
    children.append(child)
ends = [os.waitpid(child, 0)[1] for child in children]
done.set()
thread.join()
sys.exit(any(ends) or model.design(structure, 2, seed=1).sequences != expected)
"""
    from proteins import path_of

    command = [sys.executable, "-c", code, str(path_of("6MRR"))]
    assert subprocess.run(command, timeout=120, check=False).returncode == 0


def test_cores_are_those_that_the_process_has(tmp_path, monkeypatch) -> None:
    """Of its affinity and of its group's quota the smaller; a part of a core is worth a thread."""
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda pid: set(range(4)), raising=False)
    for quota, expected in ((math.inf, 4), (16, 4), (2, 2), (1.5, 2), (0.25, 1)):
        monkeypatch.setattr(cores, "cgroup_quota", lambda quota=quota: quota)
        assert cores.available_cores() == expected, f"of 4 cores and a quota of {quota}"


@pytest.mark.parametrize(
    ("kind", "files", "expected"),
    [
        ("2", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5),
        ("2", {"cpu.max": "50000 100000"}, 0.5),  # a container sees its own group as the root
        ("1", {"a/b/cpu.cfs_quota_us": "-1", "a/b/cpu.cfs_period_us": "100000"}, math.inf),
        ("1", {"a/b/cpu.cfs_quota_us": "300000", "a/b/cpu.cfs_period_us": "100000"}, 3),
        ("1", {}, math.inf),
    ],
)
def test_the_quota_of_a_control_group_is_the_least_around_it(
    tmp_path, kind, files, expected
) -> None:
    system = {
        "1": ("4:cpu,cpuacct:/a/b\n0::/\n", "cgroup cgroup rw,cpu,cpuacct"),
        "2": ("0::/a/b\n", "cgroup2 cgroup2 rw"),
    }[kind]
    files = {f"sys/fs/cgroup/cpu/{name}": text for name, text in files.items()} | {
        "proc/self/cgroup": "7:cpuset:/other\n" + system[0],
        "proc/self/mountinfo": f"34 31 0:31 / /sys/fs/cgroup/cpu rw,relatime - {system[1]}\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores.cgroup_quota(tmp_path) == expected


@pytest.mark.parametrize("first", [-(2**61), -33, -7, 2**53 + 1, 2**61])
def test_residue_indices_of_any_size_count_by_their_differences(native, plain, first) -> None:
    structure = rows_of(protein("6MRR"), slice(0, 40))
    apart = replace(structure, residue_index=np.r_[first, np.arange(-19, 20)])
    assert farthest(native.log_probs(apart), plain.log_probs(apart)) <= TOLERANCE
    if abs(first) < 2**60:
        moved = replace(structure, residue_index=structure.residue_index + first)
        np.testing.assert_array_equal(native.log_probs(moved), native.log_probs(structure))


@pytest.mark.parametrize("index", [2**61 + 1, -(2**61) - 1, 2**63 - 1, -(2**63), 2**64, 10**30])
def test_residue_indices_that_cannot_be_subtracted_are_refused(index) -> None:
    structure = protein("6MRR")
    with pytest.raises(mpnn.StructureError, match=r"residue_index is beyond 2\*\*61; .* subtract"):
        replace(structure, residue_index=[index, *range(1, len(structure))])


@pytest.mark.parametrize("name", ["fast", "minimal", "minimal-fast", "extreme-v2"])
def test_every_shape_of_the_network(name) -> None:
    network = random_network(mpnn.VARIANTS[name], seed=1)
    device = torch.device("cpu")
    variant = mpnn.VARIANTS[name]
    ours, theirs = (Model(network, "random", variant, device, b) for b in ("native", "torch"))
    structure = protein("6MRR")
    assert farthest(ours.log_probs(structure), theirs.log_probs(structure)) <= TOLERANCE


def test_spare_slots_are_as_in_torch(plain) -> None:
    """A graph in a fixed shape, as a backend of fixed shapes has it."""
    backbones = Backbones.from_structures([Layout(30).build(), protein("6MRR")])
    ours = NativeBackend(plain.network).encode(backbones)
    theirs = plain.network.encode(backbones, ours.graph)
    assert ours.graph.valid is not None
    valid = ours.graph.valid
    assert farthest(ours.h_V, theirs.h_V) <= 1e-5
    assert farthest(ours.edges[:, valid], theirs.edges[:, valid]) <= 2e-4
    copies = Copies.of(ours.graph, backbones.offsets, [1, 0, 1])
    tokens = torch.arange(len(copies.nodes)) % 21
    rank = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))
    found = NativeBackend(plain.network).decode(ours, copies, tokens, rank)
    assert farthest(found, plain.network.decode(ours, copies, tokens, rank)) <= 2 * TOLERANCE


# ----------------------------------------------------------------------------- where it cannot run


def without_native_code(monkeypatch, sets: Sequence[str] = INSTRUCTION_SETS) -> None:
    for name in sets:
        monkeypatch.setitem(sys.modules, f"mpnn_core.backends.native._{name}", None)


def test_without_native_code_torch_serves_and_says_so(monkeypatch, plain) -> None:
    without_native_code(monkeypatch)
    assert instruction_sets() == []
    with pytest.warns(UserWarning, match=r"plain torch, which is slower: (the|no) native code"):
        model = mpnn.load_model()
    assert isinstance(model.backend, TorchBackend)
    structure = protein("6MRR")
    assert farthest(model.log_probs(structure), plain.log_probs(structure)) == 0
    with pytest.raises(ValueError, match=r"'native' cannot be used here: (the|no) native code"):
        mpnn.load_model(backend="native")


def test_the_best_instruction_set_that_is_there_is_taken(monkeypatch) -> None:
    present = instruction_sets()
    network = mpnn.load_model(backend="torch").network
    assert NativeBackend(network).instruction_set == present[0]
    without_native_code(monkeypatch, present[:-1])
    assert NativeBackend(network).instruction_set == present[-1] == "generic"


def test_a_width_that_the_kernels_lack_is_named() -> None:
    from mpnn_core.network.mpnn import MPNN

    with pytest.raises(ValueError, match="hidden width is 48"):
        find_backend("native", MPNN(hidden=48), torch.device("cpu"))
