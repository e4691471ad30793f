"""Probabilities of a residue given all others, and noise on coordinates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from proteins import path_of, protein, without_backbone

import mpnn_core as mpnn
from mpnn_core.design.states import States
from mpnn_core.sampling.noise import digest, with_noise
from mpnn_core.structures.context import ContextAtoms


def last(order: np.ndarray, i: int) -> np.ndarray:
    return np.append(order[order != i], i)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_a_residue_is_decoded_after_all_others(backend) -> None:
    model = mpnn.load_model(backend=backend)
    structure = without_backbone(protein("6MRR"), [3, 30])
    order = np.random.default_rng(1).permutation(len(structure))
    found = model.conditional_log_probs(structure, decoding_order=order)
    assert found.shape == (1, len(structure), 21) and found.dtype == np.float32
    orders = np.stack([last(order, i) for i in range(len(structure))])
    passes = model.log_probs(structure, structure.sequence, orders)
    expected = passes[np.arange(len(structure)), np.arange(len(structure))]
    np.testing.assert_allclose(found[0], expected, atol=5e-5, rtol=0)


def test_the_original_gives_the_same(model, published) -> None:
    """Against plain passes of the original's forward, the residue last."""
    from mpnn_core.peers import original

    structure = protein("6MRR")
    tensors = original.featurize(path_of("6MRR"))
    order = np.random.default_rng(2).permutation(len(structure))
    found = model.conditional_log_probs(structure, decoding_order=order)[0]
    for i in (0, 17, 67):
        expected = original.log_probs(published, tensors, original.batched(last(order, i).tolist()))
        np.testing.assert_allclose(found[i], expected[0, i].numpy(), atol=1e-4)


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
