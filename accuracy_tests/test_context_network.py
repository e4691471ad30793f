"""The network on the atoms around a protein: sets, pairs, and the same numbers on every backend.

That it is the published one is tested in test_ligand_parity.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from proteins import protein
from torch import Tensor

from mpnn_core.backends.native import NativeBackend, instruction_sets
from mpnn_core.backends.plain import TorchBackend
from mpnn_core.network import context as room
from mpnn_core.network.context import LigandMPNN, Surroundings, context_sets, distinct_pairs
from mpnn_core.network.features import with_virtual_cb
from mpnn_core.network.graph import Backbones, nearest_neighbours
from mpnn_core.structures.context import ContextAtoms
from mpnn_core.structures.structure import Structure

HOST = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> LigandMPNN:
    """Random weights, as the original draws them, with norms that are not the identity."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = LigandMPNN()
        for name, p in network.named_parameters():
            if p.dim() > 1:
                torch.nn.init.xavier_uniform_(p)
            elif "norm" in name:
                p.data += 0.1 * torch.randn_like(p)
    return network.eval().requires_grad_(False)


def with_atoms(structure: Structure, count: int, seed: int = 0, spread: float = 8.0) -> Structure:
    """A structure with atoms of random elements around one of its residues."""
    rng = np.random.default_rng(seed)
    centre = structure.coords[structure.mask][len(structure) // 2, 1]
    atoms = ContextAtoms.of(
        centre + spread * rng.normal(size=(count, 3)), rng.choice([6, 7, 8, 15, 16, 26], count)
    )
    return replace(structure, context=atoms)


def seen(network: LigandMPNN, structures, fixed=None, most: int | None = None):
    backbones = Backbones.from_structures(structures)
    graph = nearest_neighbours(backbones, network.neighbours)
    context = Surroundings.of(structures, fixed)
    sets = context_sets(context, graph, backbones, most or network.context_atoms)
    return backbones, graph, context, sets


@pytest.mark.parametrize("count", [0, 1, 24, 25, 26, 200])
def test_a_node_sees_the_atoms_nearest_to_its_virtual_cb(network, count) -> None:
    structure = with_atoms(protein("6MRR"), count)
    backbones, _, context, sets = seen(network, [structure])
    cb = with_virtual_cb(backbones.coords)[:, -1].double()
    distances = torch.cdist(cb, context.xyz.double()) if count else torch.zeros(len(cb), 0)
    for i, distance in enumerate(distances):
        atoms = sets.atoms[sets.set_of_node[i]]
        assert sorted(distance.argsort()[:25].tolist()) == atoms[atoms >= 0].tolist()
    assert len(sets.atoms) == len(torch.unique(sets.atoms, dim=0))
    assert (len(sets.atoms) == 1) == (count <= 25)


def test_of_equal_distances_the_first_atom_is_seen(network) -> None:
    structure = protein("6MRR")
    xyz = np.repeat(structure.coords[structure.mask][:1, 1], 40, 0)
    _, _, _, sets = seen(network, [replace(structure, context=ContextAtoms.of(xyz, [6] * 40))])
    assert sets.atoms.tolist() == [list(range(25))]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sets(st.integers(0, 9), max_size=4), min_size=1, max_size=6))
def test_pairs_are_those_that_some_set_has(sets) -> None:
    atoms = torch.tensor([[*sorted(s), *[-1] * (4 - len(s))] for s in sets])
    pairs, pair_of = distinct_pairs(atoms)
    expected = {(a, b) for s in sets for a in s for b in s}
    assert len(pairs) == len(expected) and set(map(tuple, pairs.tolist())) == expected
    for row, of_set in zip(atoms.tolist(), pair_of.tolist(), strict=True):
        for a, of_atom in zip(row, of_set, strict=True):
            for b, pair in zip(row, of_atom, strict=True):
                if a >= 0 and b >= 0:
                    assert pairs[pair].tolist() == [a, b]
                else:
                    assert pair == len(pairs)


@torch.inference_mode()
def changed(network: LigandMPNN, structures, backend=None, fixed=None) -> Tensor:
    backbones, graph, context, _ = seen(network, structures, fixed)
    h_V = torch.randn(len(backbones), 128, generator=torch.Generator().manual_seed(1))
    if backend is None:
        return network.changed_states(h_V, graph, backbones, context)
    encoding = network.encode(backbones, graph)
    object.__setattr__(encoding, "h_V", h_V)
    return backend.changed_states(encoding, backbones, context)


@pytest.mark.parametrize("count", [0, 1, 24, 25, 26, 200])
@pytest.mark.parametrize("name", instruction_sets())
def test_native_code_gives_the_states_of_torch(network, name, count) -> None:
    structure = with_atoms(protein("6MRR"), count)
    ours = changed(network, [structure], NativeBackend(network, name))
    theirs = changed(network, [structure], TorchBackend(network))
    assert (ours - theirs).abs().max() <= 2e-5


@pytest.mark.parametrize("name", ["torch", "native"])
def test_states_are_the_same_bits_in_company(network, name) -> None:
    backend = NativeBackend(network) if name == "native" else TorchBackend(network)
    one, other = with_atoms(protein("6MRR"), 60), with_atoms(protein("5L33"), 90, seed=3)
    together = changed(network, [other, one], backend)
    n = int(other.mask.sum())
    backbones, graph, context, _ = seen(network, [one])
    encoding = network.encode(backbones, graph)
    h_V = torch.randn(n + len(backbones), 128, generator=torch.Generator().manual_seed(1))[n:]
    object.__setattr__(encoding, "h_V", h_V)
    alone = backend.changed_states(encoding, backbones, context)
    if name == "native":
        assert torch.equal(together[n:], alone)
    else:
        assert (together[n:] - alone).abs().max() <= 2e-6


@pytest.mark.parametrize("side_chains", [False, True])
def test_sets_that_are_not_shared_give_the_same(network, side_chains) -> None:
    """As a GPU computes few nodes, and records it."""
    structure = with_atoms(protein("6MRR"), 30)
    fixed = None
    if side_chains:
        side = np.repeat(structure.coords[:, 1:2] + 2, 32, 1)
        structure, fixed = replace(structure, side_chains=side), [np.arange(len(structure)) > 40]
    backbones, graph, context, sets = seen(network, [structure], fixed)
    apart = context_sets(context, graph, backbones, 25, shared=False)
    assert torch.equal(apart.atoms, sets.atoms[sets.set_of_node])
    w = network.folded()
    ours = network.atom_states(w, apart, slice(None), shared=False)
    theirs = network.atom_states(w, sets, slice(None))
    there = apart.atoms >= 0
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other[sets.set_of_node])[there].abs().max() <= 2e-6
    again = Surroundings.of_tensors(*context.tensors())
    same = context_sets(again, graph, backbones, 25)
    assert torch.equal(same.atoms, sets.atoms)


def test_tiles_of_sets_and_nodes_change_nothing(network, monkeypatch) -> None:
    structure = with_atoms(protein("6MRR"), 120)
    whole = changed(network, [structure])
    monkeypatch.setattr(room, "SETS_TOGETHER", 7)
    monkeypatch.setattr(room, "NODES_TOGETHER", 5)
    monkeypatch.setattr(room, "TILE_EDGES", 300)
    assert (changed(network, [structure]) - whole).abs().max() <= 2e-6


def test_side_chains_of_fixed_residues_are_seen(network) -> None:
    structure = protein("6MRR")
    rng = np.random.default_rng(0)
    side = np.full((len(structure), 32, 3), np.nan, np.float32)
    side[:, :3] = structure.coords[:, 1, None] + rng.normal(size=(len(structure), 3, 3))
    structure = replace(with_atoms(structure, 40), side_chains=side)
    fixed = np.arange(len(structure)) % 3 == 0
    backbones, graph, _, sets = seen(network, [structure], [fixed])
    xyz = np.concatenate([structure.context.coords, np.nan_to_num(side).reshape(-1, 3)])
    assert sets.xyz.numpy() == pytest.approx(xyz)
    cb = with_virtual_cb(backbones.coords)[:, -1].numpy()
    for i in range(len(cb)):
        near = [j for j in graph.neighbours[i, :16].tolist() if fixed[j]]
        can = np.array([*range(40), *(40 + 32 * j + k for j in near for k in range(3))])
        distance = ((xyz[can] - cb[i]) ** 2).sum(1)
        expected = sorted(can[distance.argsort()[:25]].tolist())
        atoms = sets.atoms[sets.set_of_node[i]]
        assert atoms[atoms >= 0].tolist() == expected
    none = seen(network, [structure], [np.zeros(len(structure), bool)])[3]
    assert torch.equal(none.atoms, seen(network, [structure])[3].atoms)


def test_elements_that_the_original_does_not_know_are_left_out(network) -> None:
    atoms = ContextAtoms.of(np.zeros((3, 3)), [6, 42, 118])
    context = Surroundings.of([replace(protein("6MRR"), context=atoms)], None)
    assert context.element.tolist() == [6]
