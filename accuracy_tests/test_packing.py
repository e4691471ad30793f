"""Side chains of sequences on a backbone: what `Model.pack` gives, keeps, and says.

The network is tested in test_packer.py, the geometry of the atoms in test_side_chain_geometry.py.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import packer_goldens
import pytest
import torch
from proteins import protein, without_backbone

import mpnn_core as mpnn
from mpnn_core import Packed, SideChainPacker, Structure, StructureWarning, load_packer
from mpnn_core.constants import ALPHABET, CA
from mpnn_core.design.packing import KEPT_LOG_DENSITY
from mpnn_core.structures.context import NO_CONTEXT, SIDE_CHAIN_ATOMS
from mpnn_core.structures.errors import StructureError
from mpnn_core.structures.side_chains import (
    ATOM_COUNTS,
    ATOM_NAMES,
    CHI_COUNTS,
    coordinates,
    measured_chi,
)

ARRAYS = ("chi", "mean", "concentration", "weight", "log_densities", "coordinates")
QUICK = {"samples": 4, "steps": 2}


@cache
def packer(backend: str = "auto") -> SideChainPacker:
    return load_packer(backend=backend)


def small() -> Structure:
    return protein("6MRR")


def shuffled(structure: Structure, seed: int = 0) -> str:
    letters = list(structure.sequence)
    np.random.default_rng(seed).shuffle(letters)
    return "".join(letters)


def assert_equal_rows(a: Packed, b: Packed, rows_a: list[int], rows_b: list[int]) -> None:
    for name in ARRAYS:
        ours, theirs = getattr(a, name)[rows_a], getattr(b, name)[rows_b]
        assert np.array_equal(ours, theirs, equal_nan=True), name


def counted(structure: Structure, sequences: tuple[str, ...], counts) -> np.ndarray:
    tokens = np.array([[ALPHABET.index(letter) for letter in s] for s in sequences])
    return np.where(structure.mask, np.array(counts)[tokens], 0)


def test_what_there_is_follows_from_the_sequence():
    structure = without_backbone(small(), [3, 40])
    native = shuffled(structure)
    packed = packer().pack(structure, [native, native[::-1].replace("W", "X")], packs=2, **QUICK)
    n, L = 4, len(structure)
    assert len(packed) == n and packed.sequences[0] == packed.sequences[1] == native
    assert packed.chi.shape == packed.log_densities.shape == (n, L, 4)
    assert packed.mean.shape == packed.concentration.shape == packed.weight.shape == (n, L, 4, 3)
    assert packed.coordinates.shape == (n, L, 14, 3)
    assert {getattr(packed, name).dtype for name in ARRAYS} == {np.dtype(np.float32)}
    for values, counts in ((packed.chi, CHI_COUNTS), (packed.coordinates[..., 0], ATOM_COUNTS)):
        there = np.arange(values.shape[2]) < counted(structure, packed.sequences, counts)[..., None]
        assert np.array_equal(np.isfinite(values), there)
    assert np.nanmax(np.abs(packed.chi)) <= np.float32(np.pi)
    known = structure.mask
    assert np.isfinite(packed.log_densities[:, known]).all()
    assert np.isnan(packed.log_densities[:, ~known]).all()
    np.testing.assert_allclose(packed.weight[:, known].sum(-1), 1, atol=1e-6)
    assert (packed.concentration[:, known] >= 0.1).all()


def test_atoms_are_where_the_backbone_is():
    packed = packer().pack(small(), seed=1, **QUICK)
    off = packed.coordinates[0][:, :4] - small().coords
    assert np.abs(off[:, CA]).max() < 1e-5
    assert np.abs(off).max() < 0.3  # ideal bonds and angles


def test_the_density_is_that_of_the_angle_in_its_mixture():
    packed = packer().pack(small(), seed=1, **QUICK)
    there = np.isfinite(packed.chi)
    k, mean = (getattr(packed, n)[there].astype(float) for n in ("concentration", "mean"))
    cosine = np.cos(packed.chi[there].astype(float)[:, None] - mean)
    scale = torch.special.i0e(torch.from_numpy(k)).numpy()
    density = packed.weight[there] * np.exp(k * (cosine - 1)) / (2 * np.pi * scale)
    np.testing.assert_allclose(
        np.log(density.sum(-1)), packed.log_densities[there], atol=2e-3, rtol=1e-4
    )


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_model_is_the_same_alone_and_in_company(backend):
    structure, other = small(), shuffled(small())
    many = packer(backend).pack(structure, [structure.sequence, other], packs=2, seed=5, **QUICK)
    one = packer(backend).pack(structure, seed=5, **QUICK)
    assert_equal_rows(many, one, [0], [0])
    again = packer(backend).pack(structure, [other, other], packs=2, seed=5, **QUICK)
    assert_equal_rows(many, again, [2, 3], [2, 3])
    assert not np.array_equal(many.mean[2], many.mean[3])  # packs differ


def test_a_name_a_number_and_a_thread_change_nothing():
    structure = small()
    renamed = replace(
        structure, name="other", residue_numbers=np.arange(len(structure)).astype(np.str_)
    )
    threads = torch.get_num_threads()
    one = packer().pack(structure, seed=2, **QUICK)
    try:
        torch.set_num_threads(1)
        two = packer().pack(renamed, seed=2, **QUICK)
    finally:
        torch.set_num_threads(threads)
    assert_equal_rows(one, two, [0], [0])
    assert not np.array_equal(one.mean, packer().pack(structure, seed=3, **QUICK).mean)


def test_torch_and_native_code_draw_the_same_angles():
    structure = packer_goldens.structure_of("1hvr")
    a, b = (packer(name).pack(structure, seed=1, **QUICK) for name in ("auto", "torch"))
    apart = np.abs(a.chi - b.chi)
    apart = np.minimum(apart, 2 * np.pi - apart)
    # Of two samples that are equally likely, rounding chooses, and what is near follows.
    assert (apart[np.isfinite(apart)] < 1e-3).mean() > 0.98


def test_a_model_packs_with_the_packer_beside_it():
    model = mpnn.load_model("v_48_020")
    structure = small()
    designs = model.design(structure, num_sequences=2, seed=0)
    packed = model.pack(structure, designs.sequences, seed=1, **QUICK)
    assert_equal_rows(
        packed, packer().pack(structure, designs.sequences, seed=1, **QUICK), [0, 1], [0, 1]
    )
    assert packed.model_name == "packer/v_32_002_16" and model.packer is model.packer
    assert (packed.samples, packed.steps, packed.packs, packed.seed) == (4, 2, 1, 1)


def test_ligands_are_seen_unless_they_are_not():
    structure = packer_goldens.structure_of("1hvr")
    seen = packer().pack(structure, seed=1, **QUICK)
    unseen = packer().pack(structure, seed=1, ligands=False, **QUICK)
    alone = packer().pack(replace(structure, context=NO_CONTEXT), seed=1, **QUICK)
    assert_equal_rows(unseen, alone, [0], [0])
    assert not np.array_equal(seen.mean, unseen.mean)


# ------------------------------------------------------------------------------- where atoms are


def test_angles_that_are_measured_are_those_that_atoms_were_placed_by():
    structure = small()
    structure = replace(structure, sequence=(shuffled(structure) + "ACDEFGHIKLMNPQRSTVWY")[-68:])
    rng = np.random.default_rng(0)
    chi = rng.uniform(-np.pi, np.pi, (68, 4)).astype(np.float32)
    tokens = torch.tensor(structure.tokens)
    atoms = coordinates(torch.tensor(structure.coords), tokens[None], torch.from_numpy(chi)[None])
    sides = np.full((68, len(SIDE_CHAIN_ATOMS), 3), np.nan, np.float32)
    for i, token in enumerate(structure.tokens):
        for a, name in enumerate(ATOM_NAMES[token][5:], 5):
            sides[i, SIDE_CHAIN_ATOMS.index(name)] = atoms[0, i, a]
    ideal = replace(
        structure, coords=atoms[0, :, :4].numpy(), side_chains=sides, cb=atoms[0, :, 4].numpy()
    )
    found, known = measured_chi(ideal)
    assert np.array_equal(known.sum(1), np.array(CHI_COUNTS)[structure.tokens])
    apart = np.abs(found - chi)[known]
    assert np.minimum(apart, 2 * np.pi - apart).max() < 1e-4


# ------------------------------------------------------------------------------------------- keep


def test_what_is_kept_has_the_angles_of_the_structure():
    structure = protein("5L33")
    kept = np.zeros(len(structure), bool)
    kept[10:30] = True
    packed = packer().pack(structure, keep=kept, seed=1, **QUICK)
    chi, known = measured_chi(structure)
    assert np.array_equal(packed.kept, kept)
    there = np.isfinite(packed.chi[0]) & kept[:, None]
    assert (known | ~there).all()
    np.testing.assert_allclose(packed.chi[0][there], chi[there], atol=1e-6)
    assert (packed.log_densities[0, kept] == KEPT_LOG_DENSITY).all()
    assert not (packed.log_densities[0, ~kept] == KEPT_LOG_DENSITY).any()
    labels = (
        f"{structure.chain_ids[0]}{structure.residue_numbers[10]}-{structure.residue_numbers[29]}"
    )
    assert_equal_rows(packed, packer().pack(structure, keep=labels, seed=1, **QUICK), [0], [0])


def test_a_side_chain_of_another_letter_cannot_be_kept():
    structure = protein("5L33")
    letters = list(structure.sequence)
    letters[12] = "W" if letters[12] != "W" else "A"
    label = f"{structure.chain_ids[12]}{structure.residue_numbers[12]}"
    with pytest.raises(ValueError, match=f"residue {label} is to keep its side chain, of"):
        packer().pack(structure, "".join(letters), keep="all")


def test_an_incomplete_side_chain_is_packed_and_said():
    structure = protein("5L33")
    i = next(i for i, letter in enumerate(structure.sequence) if letter in "KREQ")
    side_chains = structure.side_chains.copy()
    side_chains[i] = np.nan
    label = f"{structure.chain_ids[i]}{structure.residue_numbers[i]}"
    with pytest.warns(StructureWarning, match=f"incomplete, and are packed: {label}"):
        packed = packer().pack(replace(structure, side_chains=side_chains), keep="all", **QUICK)
    assert not packed.kept[i] and packed.kept.sum() == structure.mask.sum() - 1


def test_keep_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\); expected bool of \(106,\)"):
        packer().pack(protein("5L33"), keep=np.ones(3, bool))


# ----------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"samples": 0}, "samples is 0; expected 1 to 1000"),
        ({"steps": -1}, "steps is -1; expected 1 to 1000"),
        ({"packs": 0}, "packs is 0; expected 1 to 1000"),
        ({"seed": -1}, "seed is -1"),
        ({"sequences": "ACD"}, "has 68 residues; a sequence of 3 was given"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        packer().pack(small(), **arguments)


def test_a_trace_is_refused():
    trace = replace(small(), ca_only=True)
    with pytest.raises(StructureError, match="is read as a trace of CA atoms; side chains are"):
        packer().pack(trace)
