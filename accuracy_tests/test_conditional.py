"""Probabilities of a residue given all others, and noise on coordinates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from family_goldens import load_golden
from hypothesis import example, given, settings
from hypothesis import strategies as st
from proteins import protein, without_backbone
from strategies import NOISE, Layout, layouts

import mpnn_core as mpnn
from mpnn_core.backends.native import NativeBackend, instruction_sets
from mpnn_core.design.model import Model
from mpnn_core.design.states import States
from mpnn_core.network.architectures import random_network
from mpnn_core.network.encoding import Copies
from mpnn_core.network.graph import Backbones
from mpnn_core.sampling.noise import digest, with_noise
from mpnn_core.structures.context import ContextAtoms


def last(order: np.ndarray, i: int) -> np.ndarray:
    return np.append(order[order != i], i)


def by_passes(model: mpnn.Model, structure: mpnn.Structure, order: np.ndarray) -> np.ndarray:
    """(L, 21): a pass of the decoder for every residue, which comes last in it."""
    everyone = np.arange(len(structure))
    orders = np.stack([last(order, i) for i in everyone])
    return model.log_probs(structure, structure.sequence, orders)[everyone, everyone]


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_a_residue_is_decoded_after_all_others(backend) -> None:
    model = mpnn.load_model(backend=backend)
    structure = without_backbone(protein("6MRR"), [3, 30])
    order = np.random.default_rng(1).permutation(len(structure))
    found = model.conditional_log_probs(structure, decoding_order=order)
    assert found.shape == (1, len(structure), 21) and found.dtype == np.float32
    np.testing.assert_allclose(found[0], by_passes(model, structure, order), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["3HTN", "4GYT", pytest.param("6EHB", marks=pytest.mark.proof)])
def test_complexes_are_as_by_a_pass_for_each_residue(name, model) -> None:
    """Residues here and there, the two around each chain's end, and five without a backbone."""
    structure = without_backbone(protein(name), [7, 8, 50, 101, 160])
    L = len(structure)
    order = np.random.default_rng(5).permutation(L)
    found = model.conditional_log_probs(structure, decoding_order=order)[0]
    ends = np.flatnonzero(structure.chain_ids[1:] != structure.chain_ids[:-1])
    some = np.unique([*range(0, L, 29), *ends, *(ends + 1), order[0], order[-1], 8])
    orders = np.stack([last(order, i) for i in some])
    expected = model.log_probs(structure, structure.sequence, orders)[range(len(some)), some]
    np.testing.assert_allclose(found[some], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("decoder_layers", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_any_number_of_layers(backend, decoder_layers) -> None:
    """A chain with fewer residues than neighbours beside a longer one, so that slots are spare."""
    variant = mpnn.Variant("deep", hidden=64, decoder_layers=decoder_layers, neighbours=12)
    network = random_network(variant, seed=3)
    model = Model(network, "deep", variant, torch.device("cpu"), backend)
    structures = [Layout(9, 40).build(), Layout(60, 300, (20,), ((41, 7),), (30, 31)).build()]
    orders = [np.random.default_rng(6).permutation(len(s)) for s in structures]
    found = model.conditional_log_probs(structures, decoding_order=orders)
    for structure, order, log_probs in zip(structures, orders, found, strict=True):
        expected = by_passes(model, structure, order)
        np.testing.assert_allclose(log_probs[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("decoder_layers", [1, 2, 3, 4, 5])
def test_nothing_that_changes_is_left_out(decoder_layers) -> None:
    """In float64, where what is left out in a deep layer is no rounding."""
    variant = mpnn.Variant("deep", hidden=32, decoder_layers=decoder_layers, neighbours=6)
    network = random_network(variant, seed=3).double()
    structures = [Layout(4, 40).build(), Layout(40, 300, (20,)).build()]
    backbones = Backbones.from_structures(structures, torch.device("cpu"))
    backbones = replace(backbones, coords=backbones.coords.double())
    rng = np.random.default_rng(2)
    rank = torch.from_numpy(np.concatenate([rng.permutation(len(s)) for s in structures]))
    tokens = torch.from_numpy(rng.integers(0, 20, len(rank)))
    with torch.inference_mode():
        encoding = network.encode(backbones)
        copies = Copies.of(encoding.graph, backbones.offsets, [0, 1])
        found = network.condition(encoding, copies, tokens, rank)
        for i in range(len(rank)):
            last = rank.clone()
            last[i] = 1000
            expected = network.decode(encoding, copies, tokens, last)[i]
            torch.testing.assert_close(found[i], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", instruction_sets())
def test_every_instruction_set_conditions_as_torch_does(name) -> None:
    structure = without_backbone(protein("6MRR"), [3, 30])
    plain, native = mpnn.load_model(backend="torch"), mpnn.load_model(backend="native")
    native.backend = NativeBackend(native.network, name)
    ours, theirs = (m.conditional_log_probs(structure, seed=4) for m in (native, plain))
    np.testing.assert_allclose(ours, theirs, atol=5e-5, rtol=0)


@settings(max_examples=20, deadline=None)
@given(layouts(max_length=70), st.integers(0, 2**31))
@example(Layout(1), 0)
@example(Layout(2), 1)
def test_any_layout_is_as_by_a_pass_for_each_residue(model, layout, seed) -> None:
    structure = layout.build()
    order = np.random.default_rng(seed).permutation(len(structure))
    found = model.conditional_log_probs(structure, decoding_order=order)[0]
    np.testing.assert_allclose(found, by_passes(model, structure, order), atol=NOISE, rtol=0)


@pytest.mark.parametrize("weights", ["ligand", "membrane", "soluble", "ca"])
def test_the_family_conditions_as_by_a_pass_for_each_residue(weights) -> None:
    model = mpnn.load_model(weights)
    structure = load_golden("1pwc").structure if weights == "ligand" else protein("6MRR")
    if weights == "membrane":
        structure = structure.with_membrane(np.arange(len(structure)) % 3)
    order = np.random.default_rng(7).permutation(len(structure))
    found = model.conditional_log_probs(structure, decoding_order=order)[0]
    some = np.arange(0, len(structure), 23)
    orders = np.stack([last(order, i) for i in some])
    expected = model.log_probs(structure, structure.sequence, orders)[range(len(some)), some]
    np.testing.assert_allclose(found[some], expected, atol=1e-5, rtol=0)


def test_the_same_bits_alone_and_in_company_and_on_any_number_of_threads() -> None:
    model = mpnn.load_model(backend="native")
    structures = [protein("5L33"), protein("6MRR"), protein("5L33")]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = model.conditional_log_probs(structures, seed=3)
        torch.set_num_threads(1)
        for structure, found in zip(structures, together, strict=True):
            alone = model.conditional_log_probs(structure, seed=3)
            np.testing.assert_array_equal(found, alone)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("name", "every"), [("6MRR", 7), ("3HTN", 60)])
def test_the_original_gives_the_same(name, every, model, published) -> None:
    """Its own loop over some residues, under the same order of the others."""
    from mpnn_core.peers import original

    structure = protein(name)
    tensors = original.inputs(structure)
    some = torch.zeros_like(tensors.chain_M)
    some[:, ::every] = tensors.chain_M[:, ::every]
    noise = torch.randn(some.shape, generator=torch.Generator().manual_seed(2))
    expected = original.conditional_log_probs(published, replace(tensors, chain_M=some), noise)
    found = model.conditional_log_probs(structure, decoding_order=noise.abs().argsort()[0].numpy())
    rows = np.flatnonzero(some[0].numpy())
    assert len(rows) >= 7
    np.testing.assert_allclose(found[0, rows], expected[0, rows].numpy(), atol=1e-4, rtol=0)


def test_the_letter_itself_does_not_count(model) -> None:
    structure = protein("6MRR")
    other = structure.sequence[:20] + "W" + structure.sequence[21:]
    found = model.conditional_log_probs(structure, [structure.sequence, other], seed=4)
    order = np.random.default_rng(2).permutation(len(structure))
    one, two = model.conditional_log_probs(structure, [structure.sequence, other], order)
    np.testing.assert_allclose(one[20], two[20], atol=1e-5)
    assert np.abs(one[21] - two[21]).max() > 1e-3, "its neighbours see it"
    assert found.shape == (2, len(structure), 21)


def test_several_structures_are_as_each_alone(model, monkeypatch) -> None:
    structures = [protein("6MRR"), protein("5L33")]
    from mpnn_core.design import execution

    together = model.conditional_log_probs(structures, seed=3)
    monkeypatch.setattr(execution, "MEMORY_BUDGET_BYTES", 30_000_000)  # many batches
    for structure, found in zip(structures, together, strict=True):
        expected = model.conditional_log_probs(structure, seed=3)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_noise_is_gaussian_of_the_given_size() -> None:
    structure = protein("6EHB")
    noise = with_noise(structure, 0.2, seed=1).coords - structure.coords
    noise = noise[structure.mask].ravel() / 0.2
    assert abs(noise.mean()) < 4 / len(noise) ** 0.5
    assert noise.std() == pytest.approx(1, abs=4 / (2 * len(noise)) ** 0.5)
    assert (noise**4).mean() == pytest.approx(3, abs=4 * (96 / len(noise)) ** 0.5)
    again = with_noise(structure, 0.2, seed=1).coords
    np.testing.assert_array_equal(again, with_noise(structure, 0.2, seed=1).coords)
    for seed, sequence in ((2, 0), (1, 1)):
        other = with_noise(structure, 0.2, seed, sequence).coords - structure.coords
        correlation = np.corrcoef(other[structure.mask].ravel(), noise)[0, 1]
        assert abs(correlation) < 5 / len(noise) ** 0.5


def test_noise_is_on_ligands_and_states_too() -> None:
    structure = protein("6MRR")
    atoms = ContextAtoms.of(np.zeros((3, 3)), [6, 7, 8])
    structure = replace(structure, context=atoms)
    assert (with_noise(structure, 0.1, 1).context.coords != 0).all()
    joint = States.from_structures([structure, structure]).joint
    moved = with_noise(joint, 0.1, 1)
    L = len(structure)
    np.testing.assert_array_equal(moved.coords[:L], moved.states[0].coords)
    np.testing.assert_array_equal(moved.coords[L:], moved.states[1].coords)
    assert (moved.states[0].coords != moved.states[1].coords).any()
    assert (moved.states[1].context.coords != 0).all()


@pytest.mark.parametrize("temperature", [0.3, np.linspace(0.1, 1, 3)[:, None]])
def test_each_sequence_is_designed_on_its_own_noise(model, temperature) -> None:
    structure, order = protein("6MRR"), np.random.default_rng(1).permutation(68)
    found = model.design(
        structure, 3, temperature, seed=5, decoding_order=order, backbone_noise=0.3
    )
    for i, sequence in enumerate(found.sequences):
        noisy = with_noise(structure, 0.3, 5, i, digest(structure))
        expected = model.log_probs(noisy, sequence, order)[0]
        np.testing.assert_allclose(found.log_probs[i], expected, atol=5e-5)
    plain = model.design(structure, 3, temperature, seed=5, decoding_order=order)
    little = model.design(
        structure, 3, temperature, seed=5, decoding_order=order, backbone_noise=1e-6
    )
    assert little.sequences == plain.sequences != found.sequences, "the same random numbers"
    assert found.structure is structure


def test_several_temperatures_have_one_noise(model) -> None:
    structures = [protein("6MRR"), protein("5L33")]
    pairs = list(model.design_and_score(structures, 2, (0.1, 0.5), seed=1, backbone_noise=0.1))
    for structure, (at, native) in zip(structures, pairs, strict=True):
        for designs, temperature in zip(at, (0.1, 0.5), strict=True):
            expected = model.design(structure, 2, temperature, 1, backbone_noise=0.1)
            assert designs.sequences == expected.sequences
        assert native.score.shape == (1, 1)
        (_, plain), = model.design_and_score([structure], 2, (0.1,), seed=1)  # fmt: skip
        assert abs(native.score - plain.score).max() > 1e-4


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf")])
def test_noise_that_is_none_is_refused(model, noise) -> None:
    with pytest.raises(ValueError, match="backbone_noise is"):
        model.design(protein("6MRR"), backbone_noise=noise)
    with pytest.raises(ValueError, match="backbone_noise is"):
        model.design_and_score([protein("6MRR")], backbone_noise=noise)


def test_no_noise_is_infinite() -> None:
    ends = torch.tensor([2**-53 - 1, 1 - 2**-53], dtype=torch.float64)
    assert (ends.abs() < 1).all()
    assert torch.isfinite(torch.erfinv(ends)).all()


def test_tied_orders_are_those_by_which_a_list_is_halved(model) -> None:
    """Each residue after the others, those that are parted from it earlier first."""
    structures = [protein("6MRR"), Layout(17, 40).build(), Layout(1).build()]
    orders = [np.random.default_rng(8).permutation(len(s)) for s in structures]
    found = model.conditional_log_probs(structures, decoding_order=orders, tied=True)
    for structure, order, log_probs in zip(structures, orders, found, strict=True):
        L = len(structure)
        rank = np.argsort(order)
        # The highest bit in which two places of the order differ: the higher, the earlier parted.
        apart = np.array([[int(a ^ b).bit_length() for b in rank] for a in rank])
        own = np.stack([np.lexsort((rank, -apart[i])) for i in range(L)])
        assert (own[:, -1] == np.arange(L)).all()
        passes = model.log_probs(structure, structure.sequence, own)[range(L), range(L)]
        np.testing.assert_allclose(log_probs[0], passes, atol=5e-5, rtol=0)
    given = model.conditional_log_probs(structures[0], decoding_order=orders[0])
    assert np.abs(given - found[0]).max() > 1e-2, "another order of the others"
