"""Variants: sizes, which weights they take, and batches of structures of any lengths."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from proteins import protein, rows_of

from mpnn_core import VARIANTS, CheckpointError, load_model
from mpnn_core.variants import Variant, find_variant

PRETRAINED = [name for name, v in VARIANTS.items() if v.accuracy != "unknown"]
UNTRAINED = [name for name, v in VARIANTS.items() if v.accuracy == "unknown"]
ALONE_OR_TOGETHER = 5e-5  # float32 sums are blocked by shape


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def counted(variant: Variant) -> int:
    """Parameters of a variant, added up by hand."""
    H = variant.hidden
    norm, dense = 2 * H, linear(H, 4 * H) + linear(4 * H, H)
    encoder = 3 * norm + 2 * (linear(3 * H, H) + 2 * linear(H, H)) + dense
    decoder = 2 * norm + linear(4 * H, H) + 2 * linear(H, H) + dense
    features = linear(66, 16) + (16 + 400) * H + norm
    inputs_and_outputs = linear(H, H) + 21 * H + linear(H, 21)
    return (
        features
        + inputs_and_outputs
        + variant.encoder_layers * encoder
        + variant.decoder_layers * decoder
    )


def test_the_variants_are_those_of_the_study():
    assert {
        name: (v.encoder_layers, v.decoder_layers, v.hidden, v.neighbours, v.batch, v.accuracy)
        for name, v in VARIANTS.items()
    } == {
        "baseline": (3, 3, 128, 48, 1, "exact"),
        "fast": (3, 3, 128, 16, 1, "lossy"),
        "minimal": (2, 2, 64, 48, 1, "unknown"),
        "minimal-fast": (2, 2, 64, 16, 1, "unknown"),
        "extreme-v2": (2, 2, 64, 12, 8, "unknown"),
        "minimal-batched": (2, 2, 64, 48, 8, "unknown"),
    }
    assert all(v.name == name for name, v in VARIANTS.items())


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_has_the_parameters_it_should(name):
    network = load_model("random", variant=name).network
    expected = {128: 1_660_485, 64: 300_549}[VARIANTS[name].hidden]
    assert counted(VARIANTS[name]) == expected
    assert sum(p.numel() for p in network.parameters()) == expected


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_variant_with_pretrained_weights_designs(name):
    model = load_model("v_48_020", variant=name)
    assert model.network.neighbours == VARIANTS[name].neighbours
    [recovery] = model.design(protein("6MRR"), seed=0).recovery
    assert 0.2 < recovery < 0.9  # 68 letters at random: 0.05


def test_fewer_neighbours_are_another_model():
    baseline, fast = (load_model(variant=name) for name in ("baseline", "fast"))
    structure = protein("6MRR")
    assert np.abs(baseline.log_probs(structure) - fast.log_probs(structure)).max() > 0.1


@pytest.mark.parametrize("weights", ["v_48_020", "soluble/v_48_010"])
@pytest.mark.parametrize("name", UNTRAINED)
def test_a_variant_without_trained_weights_refuses_the_published_ones(name, weights):
    with pytest.raises(CheckpointError, match=f"'{name}' has no trained weights yet.*'random'"):
        load_model(weights, variant=name)


@pytest.mark.parametrize("name", UNTRAINED)
def test_a_variant_without_trained_weights_runs_on_random_ones(name):
    model = load_model("random", variant=name)
    designs = model.design(protein("6MRR"), 2, seed=0)
    assert model.name == "random"
    assert np.isfinite(designs.scores).all()
    np.testing.assert_allclose(designs.probabilities.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_batch_of_different_lengths_is_as_one_by_one(name):
    model = load_model("v_48_020" if name in PRETRAINED else "random", variant=name)
    structures = [
        protein("6MRR"),
        rows_of(protein("5L33"), slice(0, 9)),
        protein("4ZHL"),
        rows_of(protein("5L33"), slice(20, 60)),
    ]
    together = model.log_probs(structures)
    designed = model.design(structures, 2, 1.0, seed=1)
    for structure, lp, designs in zip(structures, together, designed, strict=True):
        farthest = np.abs(lp - model.log_probs(structure)).max()
        assert farthest <= ALONE_OR_TOGETHER, f"{structure.name}: {farthest:.1e}"
        assert designs.sequences == model.design(structure, 2, 1.0, seed=1).sequences


def test_an_unknown_variant_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=f"called 'tiny'; there are {', '.join(VARIANTS)}"):
        find_variant("tiny")
    with pytest.raises(ValueError, match="called 'tiny'"):
        load_model(variant="tiny")


def test_a_variant_is_data_that_is_copied_not_changed():
    with pytest.raises(FrozenInstanceError):
        VARIANTS["fast"].neighbours = 8
    assert replace(VARIANTS["fast"], neighbours=8).neighbours == 8
