"""The CA-only models against the original's own, on traces with gaps, several chains, no CA."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import traces
from numpy.typing import NDArray

from mpnn_core import Model, Structure, StructureError, load_model, read_structure
from mpnn_core.constants import CA
from mpnn_core.network import ca_only
from mpnn_core.network.ca_only import CAOnlyMPNN, frames, has_frame, orientations, rows_around
from mpnn_core.network.graph import nearest_neighbours
from mpnn_core.network.reference import CAProteinFeatures, ReferenceMPNN
from mpnn_core.structures.structure import StructureWarning

STRUCTURES = Path(__file__).parent.parent / "fixtures" / "structures"
PDB = ("5L33", "6MRR", "3HTN", "4YOW", "6EHB")
MMCIF = ("1A8O", "2XHE", "4CUP", "2OFG", "4ZHL")
FILES = (*(f"{name}.pdb" for name in PDB), *(f"{name}.cif" for name in MMCIF))
FEATURES, LOG_PROBS = 1e-5, 1e-4

pytestmark = [
    pytest.mark.filterwarnings("ignore::mpnn_core.StructureWarning"),
    # Of the original: it opens the file once per letter, and closes none of them.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Using torch.cross without specifying the dim"),
]


@pytest.fixture(scope="module")
def ca_model() -> Model:
    return load_model("ca/v_48_020")


@pytest.fixture(scope="module")
def plain_model() -> Model:
    return load_model("ca/v_48_020", backend="torch")


@pytest.fixture(scope="module")
def published_ca() -> Any:
    return traces.load_original()


@pytest.fixture(scope="module", params=FILES)
def trace(request: pytest.FixtureRequest) -> Structure:
    return read_structure(STRUCTURES / request.param, ca_only=True)


def order_of(structure: Structure) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A random order of a structure's nodes, and the same of all its rows."""
    nodes = np.flatnonzero(structure.mask)
    of_nodes = np.random.default_rng(7).permutation(len(nodes))
    return of_nodes, np.concatenate([nodes[of_nodes], np.flatnonzero(~structure.mask)])


def expected_log_probs(published: Any, structure: Structure, folder: Path) -> NDArray[np.float32]:
    """The original's log-probabilities of a structure's nodes, (n, 21), under `order_of`."""
    read = traces.featurize(traces.write_trace(structure, folder / f"{structure.name}.pdb"))
    of_nodes, _ = order_of(structure)
    return traces.original.log_probs(published, read.inputs, read.order(of_nodes))[
        0, read.nodes
    ].numpy()


@pytest.fixture(scope="module")
def unrounded(published_ca: Any, trace: Structure, tmp_path_factory: Any) -> NDArray[np.float64]:
    """The original's log-probabilities of the nodes, (n, 21), from its own float32 features on in
    float64: rounding of its layers alone is up to 7e-5 nats on 6EHB."""
    path = traces.write_trace(trace, tmp_path_factory.mktemp("trace") / "trace.pdb")
    read, (of_nodes, _) = traces.featurize(path), order_of(trace)
    x = read.inputs
    with torch.inference_mode():
        E, E_idx = published_ca.features(x.X, x.mask, x.residue_idx, x.chain_encoding)
        precise = copy.deepcopy(published_ca).double()
        precise.features = Given(E.double(), E_idx)
        found = traces.original.log_probs(precise, x.to(torch.float64), read.order(of_nodes))
    array: NDArray[np.float64] = found[0, read.nodes].numpy()
    return array


def log_probs(model: Model, structure: Structure) -> NDArray[np.float32]:
    _, order = order_of(structure)
    of_residues: NDArray[np.float32] = model.log_probs(structure, decoding_order=order)[0]
    return of_residues[structure.mask]


def test_features_are_the_originals(
    plain_model: Model, published_ca: Any, trace: Structure, tmp_path: Path
) -> None:
    read = traces.featurize(traces.write_trace(trace, tmp_path / f"{trace.name}.pdb"))
    x = read.inputs
    network = plain_model.network
    assert isinstance(network, CAOnlyMPNN)
    backbones = network.backbones([trace], torch.device("cpu"))
    graph = nearest_neighbours(backbones, network.neighbours)
    everything = slice(0, len(backbones))
    with torch.inference_mode():
        E, E_idx = published_ca.features(x.X, x.mask, x.residue_idx, x.chain_encoding)
        _, turns = published_ca.features._orientations_coarse(x.X, E_idx)
        ours = network.features(backbones, graph, everything)
    K = graph.neighbours.shape[1]
    node_of = torch.from_numpy(np.cumsum(read.nodes) - 1)
    of_nodes = torch.from_numpy(read.nodes)
    assert torch.equal(node_of[E_idx[0, of_nodes, :K]], graph.neighbours)
    apart = orientations(backbones, graph, everything) - turns[0, of_nodes, :K]
    assert apart.abs().max() <= FEATURES
    assert (ours - E[0, of_nodes, :K]).abs().max() <= FEATURES


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_log_probabilities_are_the_originals(
    backend: str, unrounded: NDArray[np.float64], trace: Structure
) -> None:
    ours = log_probs(load_model("ca/v_48_020", backend=backend), trace)
    assert np.abs(ours - unrounded).max() <= LOG_PROBS


def test_a_file_of_the_trace_alone_gives_the_same(
    plain_model: Model, trace: Structure, tmp_path: Path
) -> None:
    """Its atoms N, C and O are not read, its numbers only by their differences."""
    written = read_structure(
        traces.write_trace(trace, tmp_path / f"{trace.name}.pdb"), ca_only=True
    )
    assert np.array_equal(written.mask, trace.mask)
    assert np.array_equal(log_probs(plain_model, written), log_probs(plain_model, trace))


def test_designs_of_a_file_are_those_of_its_trace(plain_model: Model, tmp_path: Path) -> None:
    whole = read_structure(STRUCTURES / "6MRR.pdb")
    trace = read_structure(traces.write_trace(whole, tmp_path / "6MRR.pdb"), ca_only=True)
    assert not np.isfinite(trace.coords[:, 0]).any()
    designs = [plain_model.design(s, 2, seed=3).sequences for s in (whole, trace)]
    assert designs[0] == designs[1]
    scores = [plain_model.score(s, seed=3).global_score for s in (whole, trace)]
    assert np.array_equal(*scores)
    unconditional = [plain_model.unconditional_log_probs(s) for s in (whole, trace)]
    assert np.array_equal(*unconditional)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_the_plain_reference_agrees(backend: str, ca_model: Model, trace: Structure) -> None:
    features, reference = CAProteinFeatures(128, 48), ReferenceMPNN()
    state = ca_model.network.state_dict()
    features.load_state_dict(
        {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
    )
    nodes, (rows, known) = trace.mask, layout(trace)
    of_nodes, _ = order_of(trace)
    index, chain, tokens, order = map(
        torch.from_numpy,
        (trace.residue_index[nodes], trace.chain_numbers[nodes], trace.tokens[nodes], of_nodes),
    )
    with torch.inference_mode():
        given = features(torch.from_numpy(rows), torch.from_numpy(known), index, chain)
        reference.features = Given(*(x.double() if x.is_floating_point() else x for x in given))  # type: ignore[assignment]
        del state["W_v.weight"], state["W_v.bias"]
        reference.load_state_dict({k: v for k, v in state.items() if k[:9] != "features."})
        # Two float32 forwards of 6EHB are each 8e-5 from this, on either side.
        expected = reference.double()(torch.zeros(0), tokens, index, chain, order)
    ours = log_probs(load_model("ca/v_48_020", backend=backend), trace)
    assert np.abs(ours - expected.numpy()).max() <= LOG_PROBS


class Given(torch.nn.Module):
    """Features that are computed already, for layers in float64."""

    def __init__(self, *features: torch.Tensor) -> None:
        super().__init__()
        self.given = features

    def forward(self, *_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.given


def layout(structure: Structure) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Every row of the original's array, and which are nodes: a row of zeros for every number that
    is missing."""
    rows, known = [], []
    for i in range(len(structure)):
        if i and structure.chain_ids[i] == structure.chain_ids[i - 1]:
            missing = int(structure.residue_index[i] - structure.residue_index[i - 1]) - 1
            rows += [np.zeros(3, np.float32)] * missing
            known += [False] * missing
        ca = structure.coords[i, CA]
        known.append(bool(np.isfinite(ca).all()))
        rows.append(ca if known[-1] else np.zeros(3, np.float32))
    return np.array(rows), np.array(known)


# ------------------------------------------------------------------------------- rows and frames


def line(n: int, residue_index: list[int] | None = None, chains: str | None = None) -> Structure:
    """A helix of n CA atoms, 3.8 Å apart."""
    turn = np.arange(n) * np.deg2rad(100)
    ca = np.stack([2.3 * np.cos(turn), 2.3 * np.sin(turn), 1.5 * np.arange(n)], 1) + 20
    coords = np.full((n, 4, 3), np.nan)
    coords[:, CA] = ca
    return Structure.from_backbone(coords, "A" * n, chains, residue_index, ca_only=True)


@pytest.mark.parametrize(
    "residue_index, framed",
    [
        ([0, 1, 2, 3, 4], [False, True, True, False, False]),
        ([0, 1, 5, 6, 7], [False, True, True, False, False]),
        # The gap is the second row after; of six rows the original takes a wrong axis.
        ([0, 1, 2, 3, 4, 6], [False, True, True, True, True, False]),
        ([0, 2, 4, 6, 8], [False, True, True, True, False]),
    ],
)
def test_rows_with_one_before_and_two_after_have_a_frame(
    residue_index: list[int], framed: list[bool], published_ca: Any
) -> None:
    n = len(residue_index)
    structure = line(n, residue_index)
    assert has_frame(structure).tolist() == framed
    rows, known = layout(structure)
    X = torch.from_numpy(rows)[None]
    everyone = torch.arange(len(rows))[None, None].repeat(1, len(rows), 1)
    with torch.inference_mode():
        _, turns = published_ca.features._orientations_coarse(X, everyone)
    backbones = CAOnlyMPNN().backbones([structure], torch.device("cpu"))
    assert backbones.frames is not None
    graph = nearest_neighbours(backbones, n)
    at = graph.neighbours
    ours = orientations(backbones, graph, slice(0, n))
    theirs = turns[0][np.flatnonzero(known)][:, np.flatnonzero(known)]
    assert (ours - theirs.gather(1, at[..., None].expand(-1, -1, 7))).abs().max() < 1e-6


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_shortest_traces_have_no_frame(n: int, ca_model: Model, plain_model: Model) -> None:
    """Of these the original's tensors do not fit together, or it takes a wrong axis."""
    found = [model.log_probs(line(n), decoding_order=range(n)) for model in (ca_model, plain_model)]
    assert not has_frame(line(n)).any()
    assert np.abs(found[0] - found[1]).max() <= LOG_PROBS


def test_the_row_before_a_chain_is_the_end_of_the_one_before() -> None:
    structure = line(6, chains="AAABBB")
    around = rows_around(structure)
    ca = structure.coords[:, CA]
    assert np.array_equal(around[3, 0], ca[2]) and np.array_equal(around[2, 2], ca[3])
    assert not around[0, 0].any() and not around[-1, 2].any()


def test_a_residue_without_ca_is_a_row_of_zeros(tmp_path: Path) -> None:
    structure = line(5)
    coords = structure.coords.copy()
    coords[2, CA] = np.nan
    broken = Structure.from_backbone(coords, "AAAAA", ca_only=True)
    assert broken.mask.tolist() == [True, True, False, True, True]
    around = rows_around(broken)
    assert not around[1, 2].any() and not around[3, 0].any()
    with pytest.warns(StructureWarning, match=r"1 of 5 residues keep their letters .* no CA: 3"):
        read_structure(traces.write_trace(broken, tmp_path / "broken.pdb"), ca_only=True)


# --------------------------------------------------------------------------------------- company


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_results_alone_and_in_company_are_equal_to_the_last_bit(backend: str) -> None:
    model = load_model("ca/v_48_020", backend=backend)
    together = [read_structure(STRUCTURES / f) for f in ("6MRR.pdb", "1A8O.cif", "5L33.pdb")]
    short = line(9)
    together.insert(1, short)
    for structure, found in zip(together, model.log_probs(together), strict=True):
        alone = model.log_probs(structure)
        if backend == "native":
            assert np.array_equal(alone, found)
        else:
            assert np.abs(alone - found).max() < LOG_PROBS  # torch's products round by their size


def test_native_and_torch_draw_the_same(ca_model: Model, plain_model: Model) -> None:
    structure = read_structure(STRUCTURES / "5L33.pdb")
    ours, theirs = (m.design(structure, 4, seed=5) for m in (ca_model, plain_model))
    assert ca_model.backend.name == "native"
    assert ours.sequences == theirs.sequences


@pytest.mark.parametrize("backend", ["mlx", "coreml"])
def test_other_backends_leave_it_to_plain_torch(backend: str, plain_model: Model) -> None:
    try:
        model = load_model("ca/v_48_020", backend=backend)
    except ValueError as error:
        pytest.skip(str(error))
    structure = read_structure(STRUCTURES / "6MRR.pdb")
    assert np.array_equal(model.log_probs(structure), plain_model.log_probs(structure))


# ------------------------------------------------------------------------- which structures serve


def test_a_full_backbone_model_refuses_a_trace(model: Model) -> None:
    trace = read_structure(STRUCTURES / "6MRR.pdb", ca_only=True)
    for read in (model.design, model.score, model.log_probs, model.unconditional_log_probs):
        with pytest.raises(StructureError, match=r"6MRR is read as a trace .* CA-only models read"):
            read(trace)


def test_a_trace_read_as_a_backbone_says_what_reads_traces(tmp_path: Path) -> None:
    path = traces.write_trace(line(5), tmp_path / "trace.pdb")
    with pytest.raises(StructureError, match=r"missing: N, C, O; a trace .* ca_only=True"):
        read_structure(path)
    assert read_structure(path, ca_only=True).mask.all()


# -------------------------------------------------------------------------- where it is, and how


def moved(structure: Structure, shift: float) -> Structure:
    return replace(structure, coords=structure.coords + np.float32(shift))


def turned(structure: Structure) -> Structure:
    """By a third of a turn about the diagonal: the axes change places."""
    return replace(structure, coords=structure.coords[..., [1, 2, 0]])


def test_a_motion_changes_results_as_the_originals(
    plain_model: Model, published_ca: Any, tmp_path: Path
) -> None:
    """The ends of a structure are read by their distances to the origin, and the rotations between
    frames turn with it."""
    structure = read_structure(STRUCTURES / "6MRR.pdb", ca_only=True)
    coords = structure.coords - structure.coords[:, CA].mean(0).round(1)
    near = replace(structure, coords=coords)
    motions = (near, moved(near, 100), turned(near))
    ours = [log_probs(plain_model, s) for s in motions]
    theirs = [expected_log_probs(published_ca, s, tmp_path) for s in motions]
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(a - b).max() <= LOG_PROBS
    assert np.abs(ours[0] - ours[1]).max() > 0.1
    assert np.abs(ours[0] - ours[2]).max() > 0.01


# ------------------------------------------------------------------------- broken on purpose


def mirrored_frames(around: torch.Tensor) -> torch.Tensor:
    return frames(around) * torch.tensor([1.0, 1.0, -1.0])[:, None]


def swapped_rows(structure: Structure) -> NDArray[np.float32]:
    return np.ascontiguousarray(rows_around(structure)[:, ::-1])


def no_gaps(structure: Structure) -> NDArray[np.bool_]:
    return np.zeros(len(structure) - 1, np.bool_)


def off_by_one(structure: Structure) -> NDArray[np.bool_]:
    return np.arange(len(structure)) < len(structure) - 1


@pytest.mark.parametrize(
    "name, fault",
    [
        ("frames", mirrored_frames),
        ("rows_around", swapped_rows),
        ("gaps", no_gaps),
        ("has_frame", off_by_one),
    ],
)
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_a_fault_shows(
    backend: str, name: str, fault: Any, published_ca: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    structure = read_structure(STRUCTURES / "2XHE.cif", ca_only=True)
    assert ca_only.gaps(structure).any()
    expected = expected_log_probs(published_ca, structure, tmp_path)
    model = load_model("ca/v_48_020", backend=backend)
    assert np.abs(log_probs(model, structure) - expected).max() <= LOG_PROBS
    monkeypatch.setattr(ca_only, name, fault)
    assert np.abs(log_probs(model, structure) - expected).max() > 10 * LOG_PROBS
