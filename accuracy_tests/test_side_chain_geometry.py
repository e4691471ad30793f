"""The ideal geometry of side chains: bonds, angles, chirality, and how good packed ones are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import packer_goldens
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import NEEDS, LigandOracle, python_of_oracle
from proteins import protein

from mpnn_core import Packed, Structure, load_packer
from mpnn_core.constants import ALPHABET, AMINO_ACIDS
from mpnn_core.design.packing_quality import (
    OVERLAP,
    RADII,
    _near_pairs,
    clashes,
    recovered,
    recovery,
)
from mpnn_core.structures.context import NO_CONTEXT, SIDE_CHAIN_ATOMS
from mpnn_core.structures.side_chains import (
    ATOM_NAMES,
    CHI_ATOMS,
    CHI_COUNTS,
    coordinates,
    dihedral,
    measured_chi,
)

# Bonds of side chains, beyond CA - CB, by letter.
BONDS = {
    "A": "", "G": "", "C": "CB-SG", "S": "CB-OG", "D": "CB-CG CG-OD1 CG-OD2",
    "E": "CB-CG CG-CD CD-OE1 CD-OE2", "N": "CB-CG CG-OD1 CG-ND2", "Q": "CB-CG CG-CD CD-OE1 CD-NE2",
    "F": "CB-CG CG-CD1 CG-CD2 CD1-CE1 CD2-CE2 CE1-CZ CE2-CZ",
    "Y": "CB-CG CG-CD1 CG-CD2 CD1-CE1 CD2-CE2 CE1-CZ CE2-CZ CZ-OH",
    "H": "CB-CG CG-ND1 CG-CD2 ND1-CE1 CD2-NE2 CE1-NE2", "I": "CB-CG1 CB-CG2 CG1-CD1",
    "K": "CB-CG CG-CD CD-CE CE-NZ", "L": "CB-CG CG-CD1 CG-CD2", "M": "CB-CG CG-SD SD-CE",
    "P": "CB-CG CG-CD CD-N", "R": "CB-CG CG-CD CD-NE NE-CZ CZ-NH1 CZ-NH2", "T": "CB-OG1 CB-CG2",
    "V": "CB-CG1 CB-CG2",
    "W": "CB-CG CG-CD1 CG-CD2 CD1-NE1 NE1-CE2 CD2-CE2 CD2-CE3 CE2-CZ2 CE3-CZ3 CZ2-CH2 CZ3-CH2",
}  # fmt: skip
# Å, the least and the most of a bond between two elements.
LENGTHS = {"CC": (1.33, 1.56), "CN": (1.30, 1.51), "CO": (1.20, 1.45), "CS": (1.75, 1.84)}


def ideal_backbone(L: int) -> torch.Tensor:
    """(L, 4, 3) Å, N, CA, C, O of one residue, turned and moved L times."""
    one = np.array([[-0.525, 1.363, 0], [0, 0, 0], [1.526, 0, 0], [2.153, -1.062, 0]])
    rng = np.random.default_rng(0)
    turns = np.linalg.qr(rng.normal(size=(L, 3, 3)))[0]
    turns *= np.sign(np.linalg.det(turns))[:, None, None]
    moved = one @ turns.swapaxes(1, 2) + rng.normal(scale=20, size=(L, 1, 3))
    return torch.from_numpy(moved.astype(np.float32))


def placed(letter: str, chi: np.ndarray) -> dict[str, np.ndarray]:
    """Atoms by name, (n, 3) each, for angles (n, 4)."""
    n = len(chi)
    tokens = torch.full((1, n), ALPHABET.index(letter))
    atoms = coordinates(ideal_backbone(n), tokens, torch.tensor(chi, dtype=torch.float32)[None])
    assert atoms.dtype == torch.float32
    names = ATOM_NAMES[ALPHABET.index(letter)]
    return dict(zip(names, atoms[0].numpy().astype(float).swapaxes(0, 1), strict=False))


def random_chi(n: int = 20) -> np.ndarray:
    return np.random.default_rng(1).uniform(-np.pi, np.pi, (n, 4))


def bonds(letter: str) -> list[tuple[str, str]]:
    backbone = ["N-CA", "CA-C", "C-O", *([] if letter == "G" else ["CA-CB"])]
    pairs = [tuple(text.split("-")) for text in [*backbone, *BONDS[letter].split()]]
    return [(a, b) for a, b in pairs]


def is_free(letter: str, a: str, b: str) -> bool:
    """Whether an ideal length says little: a proline's ring is closed only at some angles."""
    return letter == "P" and {a, b} == {"CD", "N"}


@pytest.mark.parametrize("letter", list(AMINO_ACIDS))
def test_bonds_have_the_lengths_of_their_elements(letter) -> None:
    atoms = placed(letter, random_chi())
    assert {name for pair in bonds(letter) for name in pair} == set(atoms)
    for a, b in bonds(letter):
        if is_free(letter, a, b):
            continue
        length = np.linalg.norm(atoms[a] - atoms[b], axis=1)
        least, most = LENGTHS["".join(sorted((a[0], b[0])))]
        assert ((least < length) & (length < most)).all(), (letter, a, b, length)
        assert np.ptp(length) < 1e-4  # whatever the angles


@pytest.mark.parametrize("letter", list(AMINO_ACIDS))
def test_angles_between_bonds_are_those_of_their_atoms_whatever_chi_is(letter) -> None:
    atoms, of = placed(letter, random_chi()), bonds(letter)
    ring = {"F", "Y", "H", "W"}
    for a, b in of:
        for c, d in of:
            shared = {a, b} & {c, d}
            if (a, b) >= (c, d) or len(shared) != 1:
                continue
            [middle] = shared
            [one], [other] = {a, b} - shared, {c, d} - shared
            if any(is_free(letter, x, middle) for x in (one, other)):
                continue
            u, v = atoms[one] - atoms[middle], atoms[other] - atoms[middle]
            cosine = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
            angle = np.rad2deg(np.arccos(cosine))
            # Five-membered rings go down to 104 degrees, and the bonds beside them up to 134.
            least, most = (99, 136) if letter in ring | {"M", "P"} else (105, 127)
            assert ((least < angle) & (angle < most)).all(), (letter, one, middle, other, angle)
            assert np.ptp(angle) < 0.05, (letter, one, middle, other)


def handedness(atoms: dict[str, np.ndarray], centre: str, *around: str) -> np.ndarray:
    a, b, c = (atoms[name] - atoms[centre] for name in around)
    return np.sign((np.cross(a, b) * c).sum(1))


@pytest.mark.parametrize("letter", [a for a in AMINO_ACIDS if a != "G"])
def test_every_residue_is_of_the_l_form(letter) -> None:
    assert (handedness(placed(letter, random_chi()), "CA", "N", "C", "CB") == 1).all()


def test_isoleucine_is_s_and_threonine_is_r_at_cb() -> None:
    """(2S,3S)-isoleucine and (2S,3R)-threonine, of which both have CG2 on the same side."""
    isoleucine, threonine = placed("I", random_chi()), placed("T", random_chi())
    assert (handedness(isoleucine, "CB", "CA", "CG1", "CG2") == 1).all()
    assert (handedness(threonine, "CB", "CA", "OG1", "CG2") == 1).all()


def test_rule_of_handedness_is_that_of_a_real_structure() -> None:
    structure = protein("5L33")
    number = {atom: i for i, atom in enumerate(SIDE_CHAIN_ATOMS)}
    cb = packed_as_it_is(structure).coordinates[0, :, 4]
    for letter, first in (("I", "CG1"), ("T", "OG1")):
        rows = [i for i, a in enumerate(structure.sequence) if a == letter]
        assert rows
        atoms = {name: structure.side_chains[rows, number[name]] for name in (first, "CG2")}
        atoms |= {"CA": structure.coords[rows, 1], "CB": cb[rows]}
        signs = handedness(atoms, "CB", "CA", first, "CG2")
        assert (signs[np.isfinite(signs)] == 1).all()


@pytest.mark.parametrize("letter", [a for a, n in zip(ALPHABET, CHI_COUNTS, strict=True) if n])
def test_chi_angles_are_the_dihedrals_of_their_atoms(letter) -> None:
    chi = random_chi()
    atoms = placed(letter, chi)
    chain = ["N", "CA", "CB", *CHI_ATOMS[ALPHABET.index(letter)]]
    for k in range(len(chain) - 3):
        found = dihedral(*(atoms[name] for name in chain[k : k + 4]))
        off = np.abs(found - chi[:, k])
        assert np.minimum(off, 2 * np.pi - off).max() < 2e-4


def test_a_residue_does_not_depend_on_its_company() -> None:
    chi, backbone = torch.tensor(random_chi(40), dtype=torch.float32), ideal_backbone(40)
    tokens = torch.arange(40)[None] % 20
    together = coordinates(backbone, tokens, chi[None])
    some = torch.arange(7, 19)
    alone = coordinates(backbone[some], tokens[:, some], chi[None, some])
    assert torch.equal(alone, together[:, some])


# --------------------------------------------------------------------------------------- clashes


@cache
def packed_as_it_is(structure: Structure) -> Packed:
    """A model of the structure, with its own chi angles."""
    return load_packer().pack(structure, keep="all", samples=1, steps=1, seed=0)


@given(st.integers(0, 2**31), st.integers(1, 120), st.floats(0.5, 3))
@settings(max_examples=25, deadline=None)
def test_pairs_of_near_points_are_all_found_once(seed, n, distance) -> None:
    xyz = np.random.default_rng(seed).uniform(-3, 5, (n, 3))
    found = [pair for a, b, _ in _near_pairs(xyz, distance) for pair in zip(a, b, strict=True)]
    squares = ((xyz[:, None] - xyz) ** 2).sum(-1)
    i, j = np.nonzero(np.triu(squares <= distance**2, 1))
    pairs = sorted(tuple(sorted(map(int, pair))) for pair in found)
    assert pairs == sorted(zip(i.tolist(), j.tolist(), strict=True))


def slow_clashes(packed: Packed) -> int:
    """The definition, pair by pair, of the first model."""
    xyz, sequence = packed.coordinates[0].astype(float), packed.sequences[0]
    names = [ATOM_NAMES[ALPHABET.index(a)] for a in sequence]
    radius = {"C": 1.70, "N": 1.55, "O": 1.52, "S": 1.80}
    atoms = [(i, n, xyz[i, a]) for i, of in enumerate(names) for a, n in enumerate(of)]
    backbone = ("N", "CA", "C", "O")
    count = 0
    for at, (i, one, p) in enumerate(atoms):
        for j, other, q in atoms[at + 1 :]:
            distance = np.linalg.norm(p - q)
            if i == j or not distance < OVERLAP * (radius[one[0]] + radius[other[0]]):
                continue
            if one in backbone and other in backbone:
                continue
            if one == other == "SG" and distance < 2.5:
                continue
            if j == i + 1 and np.linalg.norm(xyz[i, 2] - xyz[j, 0]) < 2:
                roots = [(one, i, other), (other, j, one)]
                if any(
                    b in backbone and (a == "CB" or (a == "CD" and sequence[k] == "P"))
                    for a, k, b in roots
                ):
                    continue
            count += 1
    context = packed.structure.context
    for _, one, p in atoms:
        for q, element in zip(context.coords, context.elements, strict=True):
            if one not in backbone and int(element) in RADII:
                both = radius[one[0]] + RADII[int(element)]
                count += bool(np.linalg.norm(p - q) < OVERLAP * both)
    return count


def test_clashes_are_those_of_the_definition() -> None:
    structure = packer_goldens.structure_of("1hvr")
    packed = load_packer().pack(structure, seed=1, samples=1, steps=1)
    assert clashes(packed).tolist() == [slow_clashes(packed)] != [0]
    alone = replace(packed, structure=replace(structure, context=NO_CONTEXT))
    assert clashes(packed, ligands=False).tolist() == [slow_clashes(alone)]


def test_a_native_structure_hardly_clashes_and_random_angles_do() -> None:
    structure = protein("5L33")
    native = packed_as_it_is(structure)
    rng = np.random.default_rng(0)
    chi = torch.tensor(rng.uniform(-np.pi, np.pi, (1, len(structure), 4)))
    tokens = torch.tensor(structure.tokens)[None]
    atoms = coordinates(torch.tensor(structure.coords), tokens, chi).numpy()
    atoms[np.isnan(native.coordinates)] = np.nan
    [few], [many] = clashes(native), clashes(replace(native, coordinates=atoms))
    assert few <= 3 and many > 50


# -------------------------------------------------------------------------------------- recovery


def test_angles_are_recovered_within_twenty_degrees_and_symmetric_ones_after_half_a_turn() -> None:
    structure = protein("5L33")
    native, known = measured_chi(structure)
    for degrees, right in ((0, 1), (19, 1), (-19, 1), (21, 0), (341, 1), (180, 0)):
        found = recovered(structure, (native + np.float32(np.deg2rad(degrees)))[None])[0]
        assert np.array_equal(np.isfinite(found), known)
        halves = np.zeros_like(known)
        for i, letter in enumerate(structure.sequence):
            if letter in "DFYE":
                halves[i, 2 if letter == "E" else 1] = True
        assert (found[known & ~halves] == right).all()
        assert (found[known & halves] == (1 if degrees == 180 else right)).all()


def test_recovery_is_of_letters_and_places_and_of_what_was_packed() -> None:
    structure = protein("5L33")
    packed = load_packer().pack(structure, seed=1, samples=4, steps=2)
    rows = {(row.letter, row.place): row for row in recovery(packed)}
    whole = rows["all", "all"]
    assert [sum(row.of[k] for (a, place), row in rows.items() if a != "all" and place == "all")
            for k in range(4)] == list(whole.of)  # fmt: skip
    assert whole.of[0] == measured_chi(structure)[1][:, 0].sum()
    assert whole.right[0] / whole.of[0] > 0.7
    assert recovery(packed_as_it_is(structure)) == []
    with pytest.raises(ValueError, match="another sequence than the structure"):
        recovery(replace(packed, sequences=("A" * len(structure),)))


# ------------------------------------------------------------------------- beside the original


@pytest.fixture(scope="module")
def oracle() -> Iterator[LigandOracle]:
    python = python_of_oracle()
    if python is None:
        pytest.skip(NEEDS)
    with LigandOracle(python) as process:
        yield process


PROTEINS = ("5L33", "6MRR", "1hvr", "1pwc")


@pytest.mark.proof
def test_chi1_is_recovered_as_often_as_by_the_original_and_atoms_overlap_as_seldom(oracle) -> None:
    """Over proteins at hand, five packs each: rates of chi1 within three standard errors of their
    difference, and clashes within as many of theirs, counted by protein and pack."""
    packs, right, of, overlaps = 5, np.zeros(2), np.zeros(2), [[], []]
    for name in PROTEINS:
        golden = name in ("1hvr",)
        structure = packer_goldens.structure_of(name) if golden else protein(name)
        ours = load_packer().pack(structure, packs=packs, seed=1)
        arrays = packer_goldens.given(structure)
        theirs = [
            oracle.ask("pack", arrays, steps=3, samples=16, seed=seed) for seed in range(packs)
        ]
        chi = np.stack([answer["sample"] for answer in theirs])
        atoms = np.stack([answer["atoms"][-1] for answer in theirs])
        atoms[np.isnan(ours.coordinates)] = np.nan
        original = replace(ours, chi=chi, coordinates=atoms)
        for which, packed in enumerate((ours, original)):
            found = recovered(structure, packed.chi)[..., 0]
            right[which] += np.nansum(found)
            of[which] += np.isfinite(found).sum()
            overlaps[which] += clashes(packed).tolist()
    rates = right / of
    print(f"chi1 recovered: {rates[0]:.4f} here, {rates[1]:.4f} by the original, of {of[0]:.0f}")
    # Packs of one residue are alike: a residue counts once.
    error = np.sqrt((rates * (1 - rates) * packs / of).sum())
    assert abs(rates[0] - rates[1]) < 3 * error
    ours, theirs = (np.array(counts).reshape(len(PROTEINS), packs) for counts in overlaps)
    print(f"clashes in {ours.size} models: {ours.sum()} here, {theirs.sum()} by the original")
    spread = np.sqrt((ours.var(1, ddof=1) + theirs.var(1, ddof=1)).sum() / packs)
    assert abs((ours.mean(1) - theirs.mean(1)).sum()) < 3 * spread + 1
