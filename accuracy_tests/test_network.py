"""The reformulated network is the reference, on any disjoint graph, whatever the frame."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from proteins import protein, random_order, rows_of
from strategies import ALONE_OR_TOGETHER, CAUGHT, NOISE, Layout, layouts

from mpnn_core import Model, Structure
from mpnn_core.backends.contract import Backend
from mpnn_core.network import graph as graph_module
from mpnn_core.network.checkpoints import load_checkpoint
from mpnn_core.network.encoding import Copies
from mpnn_core.network.graph import Backbones, Graph, nearest_neighbours
from mpnn_core.network.mpnn import MPNN
from mpnn_core.network.reference import ReferenceMPNN
from mpnn_core.sampling.orders import ranks

# In float64 nothing but the order of sums is left between two forms of the same function.
SAME = {torch.float32: 1e-4, torch.float64: 1e-10}
FARTHEST = Layout(19, 538, (6, 10, 14), ((7, 28), (15, 18)), (0, 1))
MOVED = {torch.float32: 1e-3, torch.float64: 1e-9}  # coordinates are rounded again


@pytest.fixture(scope="module")
def networks(model) -> dict[torch.dtype, MPNN]:
    return {torch.float32: model.network, torch.float64: copy.deepcopy(model.network).double()}


@pytest.fixture(scope="module")
def references() -> dict[torch.dtype, ReferenceMPNN]:
    found = {}
    for dtype in SAME:
        network = ReferenceMPNN()
        network.load_state_dict(load_checkpoint("v_48_020").state, strict=True)
        found[dtype] = network.to(dtype).eval().requires_grad_(False)
    return found


def forward(
    network: MPNN, structures: Sequence[Structure], orders: Sequence[np.ndarray], dtype: torch.dtype
) -> list[torch.Tensor]:
    """Log-probabilities of the complete residues of each structure, from one graph."""
    return run(network, Backbones.from_structures(structures, dtype=dtype), structures, orders)


def run(
    network: MPNN | Backend,
    backbones: Backbones,
    structures: Sequence[Structure],
    orders: Sequence[np.ndarray],
    graph: Graph | None = None,
) -> list[torch.Tensor]:
    encoding = network.encode(backbones, graph)
    copies = Copies.of(encoding.graph, backbones.offsets, range(len(structures)))
    tokens = np.concatenate([s.tokens[s.mask] for s in structures])
    rank = np.concatenate([ranks(o)[s.mask] for s, o in zip(structures, orders, strict=True)])
    logits = network.decode(encoding, copies, torch.tensor(tokens), torch.tensor(rank))
    return list(logits.log_softmax(-1).split(np.diff(backbones.offsets).tolist()))


def farthest(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.double() - b.double()).abs().max().item()


@pytest.mark.parametrize("dtype", SAME, ids=str)
@pytest.mark.parametrize("name", ["6MRR", "5L33", "4ZHL"])
def test_the_network_is_the_reference(name, dtype, networks, references):
    structure = protein(name)
    order = random_order(len(structure))
    backbones = Backbones.from_structures([structure], dtype=dtype)
    [ours] = forward(networks[dtype], [structure], [order], dtype)
    plain = references[dtype](
        backbones.coords,
        torch.tensor(structure.tokens),
        backbones.residue_index,
        backbones.chain,
        torch.tensor(order),
    )
    assert farthest(ours, plain) <= SAME[dtype]


@pytest.mark.parametrize("hidden, encoders, decoders, k", [(64, 2, 2, 12), (32, 1, 4, 5)])
def test_the_network_of_any_shape_is_the_reference_of_that_shape(hidden, encoders, decoders, k):
    torch.manual_seed(0)
    plain = ReferenceMPNN(hidden, encoders, decoders, k).double().requires_grad_(False)
    network = MPNN(hidden, encoders, decoders, k).double().requires_grad_(False)
    network.load_state_dict(plain.state_dict(), strict=True)
    structure = protein("6MRR")
    order = random_order(len(structure))
    backbones = Backbones.from_structures([structure], dtype=torch.float64)
    expected = plain(
        backbones.coords,
        torch.tensor(structure.tokens),
        backbones.residue_index,
        backbones.chain,
        torch.tensor(order),
    )
    [found] = forward(network, [structure], [order], torch.float64)
    assert farthest(found, expected) <= SAME[torch.float64]


# ----------------------------------------------------------------------------- disjoint graphs


@settings(max_examples=15, deadline=None)
@given(st.lists(layouts(max_length=90), min_size=2, max_size=4))
@example([Layout(9), Layout(8, chain_starts=(1, 2, 3))])  # 5.5e-5 nats, by float32 alone
@example([FARTHEST, Layout(57, 152, (10, 50), ((40, 34),), (12, 17, 32, 56))])  # 1.2e-4
def test_structures_together_are_as_each_alone(model, several):
    structures = [layout.build() for layout in several]
    together = model.log_probs(structures)
    for structure, found in zip(structures, together, strict=True):
        alone = model.log_probs(structure)
        assert np.abs(found - alone).max() <= NOISE, structure.name


def test_structures_together_are_exactly_as_each_alone_in_float64(networks):
    structures = [Layout(n, start=7 * n, missing=(0,)).build() for n in (2, 30, 48, 90)]
    orders = [random_order(len(s)) for s in structures]
    network = networks[torch.float64]
    together = forward(network, structures, orders, torch.float64)
    for structure, order, found in zip(structures, orders, together, strict=True):
        [alone] = forward(network, [structure], [order], torch.float64)
        assert farthest(found, alone) <= SAME[torch.float64], len(structure)


def one_neighbour_of_another_structure(graph: Graph, row: int) -> Graph:
    neighbours = graph.neighbours.clone()
    neighbours[row, -1] = len(neighbours) - 1 if row == 0 else 0
    return Graph(neighbours, graph.valid)


def one_spare_slot_used(graph: Graph, row: int) -> Graph:
    assert graph.valid is not None
    valid = graph.valid.clone()
    valid[row, graph.degree[row]] = True
    return Graph(graph.neighbours, valid)


@pytest.mark.parametrize(
    "bug, lengths, row",
    [
        (one_neighbour_of_another_structure, (9, 8), 0),
        (one_neighbour_of_another_structure, (60, 90), 0),
        (one_neighbour_of_another_structure, (60, 90), 149),
        (one_spare_slot_used, (9, 8), 16),
        (one_spare_slot_used, (47, 90), 0),
    ],
)
def test_the_smallest_leak_between_structures_is_caught(bug, lengths, row, model: Model):
    """The test above can fail: one wrong slot of one residue is more than float32."""
    structures = [Layout(n, start=7 * n).build() for n in lengths]
    orders = [random_order(len(s)) for s in structures]
    backbones = Backbones.from_structures(structures)
    right = nearest_neighbours(backbones, model.network.neighbours)
    wrong = bug(right, row)
    leaking = run(model.backend, backbones, structures, orders, wrong)
    alone = [
        model.log_probs(s, decoding_order=o)[0] for s, o in zip(structures, orders, strict=True)
    ]
    sound = run(model.backend, backbones, structures, orders, right)
    assert max(map(farthest, sound, map(torch.from_numpy, alone))) <= NOISE
    assert max(map(farthest, leaking, map(torch.from_numpy, alone))) > CAUGHT


def test_the_order_of_structures_does_not_count(model):
    structures = [protein("6MRR"), rows_of(protein("5L33"), slice(0, 30)), protein("1A8O")]
    there = model.log_probs(structures)
    back = model.log_probs(structures[::-1])[::-1]
    for structure, a, b in zip(structures, there, back, strict=True):
        assert np.abs(a - b).max() <= ALONE_OR_TOGETHER, structure.name


def test_neighbours_are_the_nearest_of_the_same_structure():
    structures = [protein("6MRR"), rows_of(protein("5L33"), slice(0, 9)), protein("5L33")]
    backbones = Backbones.from_structures(structures)
    graph = nearest_neighbours(backbones, 16)
    assert graph.neighbours.shape == (68 + 9 + 106, 16)
    assert graph.degree[:, 0].tolist() == [16] * 68 + [9] * 9 + [16] * 106
    for s, structure in enumerate(structures):
        first, last = backbones.offsets[s : s + 2]
        ca = torch.tensor(structure.coords[:, 1]).double()
        nearest = torch.cdist(ca, ca).argsort(1)[:, :16] + first
        found = graph.neighbours[first:last]
        if graph.valid is not None:
            found = torch.where(graph.valid[first:last], found, -1)[:, : nearest.shape[1]]
        torch.testing.assert_close(found.sort(1).values, nearest.sort(1).values)


def test_distances_in_small_blocks_give_the_same_neighbours(monkeypatch):
    backbones = Backbones.from_structures([protein("3HTN")])
    whole = nearest_neighbours(backbones, 48).neighbours
    monkeypatch.setattr(graph_module, "DISTANCE_BLOCK_BYTES", 4 * 425 * 7)
    torch.testing.assert_close(nearest_neighbours(backbones, 48).neighbours, whole)


@pytest.mark.parametrize("points", ["protein", "scattered", "lattice"])
def test_neighbours_that_are_searched_for_are_those_of_all(points, monkeypatch) -> None:
    """Bit for bit, where many distances are equal too."""
    if points == "protein":
        ca = torch.from_numpy(protein("4YOW").coords[protein("4YOW").mask, 1])
    elif points == "scattered":
        ca = 20 * torch.randn(900, 3, generator=torch.Generator().manual_seed(0))
    else:
        axes = [torch.arange(9.0)] * 3
        ca = 3.8 * torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    expected = graph_module._nearest_of_all(ca, ca, 48)
    monkeypatch.setattr(graph_module, "SEARCHED", 0)
    assert torch.equal(graph_module._nearest(ca, 48), expected)


# ------------------------------------------------------------------------------------ symmetry


@pytest.mark.parametrize("dtype", MOVED, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_a_rigid_motion_changes_nothing(seed, dtype, networks):
    structure = protein("4ZHL")
    order = random_order(len(structure))
    backbones = Backbones.from_structures([structure], dtype=dtype)
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    moved = backbones.coords.double() @ torch.tensor(rotation) + torch.tensor(
        rng.uniform(-50, 50, 3)
    )
    network = networks[dtype]
    [here] = run(network, backbones, [structure], [order])
    [there] = run(network, replace(backbones, coords=moved.to(dtype)), [structure], [order])
    assert farthest(here, there) <= MOVED[dtype]


def test_a_mirror_image_is_another_protein(networks):
    structure = protein("6MRR")
    order = random_order(len(structure))
    backbones = Backbones.from_structures([structure])
    mirrored = replace(backbones, coords=backbones.coords * torch.tensor([1.0, 1.0, -1.0]))
    network = networks[torch.float32]
    [here] = run(network, backbones, [structure], [order])
    [there] = run(network, mirrored, [structure], [order])
    assert farthest(here, there) > 0.1


def test_the_names_of_chains_do_not_count(model):
    structure = protein("3HTN")
    order = random_order(len(structure))
    renamed = replace(
        structure,
        chain_ids=np.array([{"A": "z", "B": "B", "C": "a"}[c] for c in structure.chain_ids]),
    )
    there = model.log_probs(renamed, decoding_order=order)
    assert np.abs(model.log_probs(structure, decoding_order=order) - there).max() <= 1e-6


def test_the_residues_of_a_structure_may_come_in_any_order(networks):
    structure = protein("6MRR")
    L = len(structure)
    order, shuffle = random_order(L), random_order(L, 1)
    network = networks[torch.float64]
    [here] = forward(network, [structure], [order], torch.float64)
    [there] = forward(
        network, [rows_of(structure, shuffle)], [np.argsort(shuffle)[order]], torch.float64
    )
    assert farthest(here[torch.tensor(shuffle)], there) <= SAME[torch.float64]
