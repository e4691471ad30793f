"""The CA-only models against the original's own, on traces with gaps, several chains, no CA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import traces
from numpy.typing import NDArray

from mpnn_core import Model, Structure, load_model, read_structure
from mpnn_core.network.ca_only import CAOnlyMPNN, orientations
from mpnn_core.network.graph import nearest_neighbours

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
    backend: str, published_ca: Any, trace: Structure, tmp_path: Path
) -> None:
    ours = log_probs(load_model("ca/v_48_020", backend=backend), trace)
    expected = expected_log_probs(published_ca, trace, tmp_path)
    assert np.abs(ours - expected).max() <= LOG_PROBS
