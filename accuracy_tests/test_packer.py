"""The side-chain packer's network: its authors' numbers, the plain reference, every backend.

The goldens were computed by the authors' code (fixtures/make_packer_goldens.py), so that nothing
here needs it; with `--proof` it is asked live. What `Model.pack` makes of the network is tested in
test_packing.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import family_goldens
import numpy as np
import packer_goldens
import pytest
import torch
from oracles import NEEDS, LigandOracle, python_of_oracle
from packer_goldens import MIXTURE, NAMES, given, mixture, structure_of
from proteins import FIXTURES, protein
from scipy.stats import ks_1samp, vonmises

from mpnn_core import Structure, load_packer
from mpnn_core.backends.contract import UnavailableError
from mpnn_core.backends.native import instruction_sets
from mpnn_core.backends.native.packing import NativePacker
from mpnn_core.constants import ALPHABET, UNKNOWN
from mpnn_core.network.checkpoints import load_packer_network
from mpnn_core.network.families import PACKER
from mpnn_core.network.features import with_virtual_cb
from mpnn_core.network.packer import Mixture, Packer
from mpnn_core.network.packer_reference import ReferencePacker
from mpnn_core.sampling.angles import draw_angles, log_density
from mpnn_core.structures.context import ContextAtoms
from mpnn_core.structures.side_chains import ATOM_COUNTS, ATOMS, coordinates

TOLERANCE = 1e-4  # radians, logits, and of a concentration and FLOOR
# The layer that gives concentrations has outputs to 600, which float32 rounds: the original's own
# are off by 1.7e-3 from those that it gives in float64.
FLOOR = 10
BACKENDS = (*instruction_sets(), "torch")
LIVE = {
    "1pwc": "structures/1pwc.pdb",
    "3mht": "complexes/3mht.pdb.gz",
    "1hvr": "complexes/1hvr.pdb.gz",
    "5L33": "structures/5L33.pdb",
    "3HTN": "structures/3HTN.pdb",
}


@cache
def published() -> Packer:
    return load_packer_network(PACKER)[0]


def random_weights() -> Packer:
    """Random weights, as the original draws them, with norms that are not the identity."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = Packer()
        for name, p in network.named_parameters():
            if p.dim() > 1:
                torch.nn.init.xavier_uniform_(p)
            elif "norm" in name:
                p.data += 0.1 * torch.randn_like(p)
    return network.eval().requires_grad_(False)


def on(backend: str, network: Packer) -> Packer | NativePacker:
    return network if backend == "torch" else NativePacker(network, backend)


@torch.inference_mode()
def by_reference(network: Packer, structure: Structure, atoms: np.ndarray) -> Mixture:
    """The same, by the network as it was published; a complete structure."""
    reference = ReferencePacker()
    reference.load_state_dict(network.state_dict(), strict=True)
    coords = torch.tensor(structure.coords)
    tokens = torch.tensor(structure.tokens)
    there = torch.arange(ATOMS) < torch.tensor(ATOM_COUNTS)[tokens][:, None]
    Y = torch.tensor(structure.context.coords)
    kinds = torch.tensor(structure.context.elements)
    nearest = torch.cdist(with_virtual_cb(coords)[:, -1].double(), Y.double()).argsort(1)[:, :16]
    spare = 16 - nearest.shape[1]
    pad = torch.nn.functional.pad
    found = reference(
        torch.tensor(atoms), there, tokens, torch.tensor(structure.residue_index),
        torch.tensor(structure.chain_numbers), pad(Y[nearest], (0, 0, 0, spare)),
        pad(kinds[nearest], (0, spare)),
        pad(torch.ones_like(nearest, dtype=torch.bool), (0, spare)),
    )  # fmt: skip
    return Mixture(*found)


def assert_same(found: Mixture, wanted: Mixture, tolerance: float = TOLERANCE) -> None:
    for name in MIXTURE:
        ours, theirs = (np.asarray(getattr(of, name), np.float64) for of in (found, wanted))
        scale = theirs + FLOOR if name == "concentration" else 1.0
        apart = np.abs(ours - theirs) / scale
        assert apart.max() < tolerance, (name, apart.max())


def with_random_atoms(structure: Structure, seed: int = 0) -> tuple[Structure, np.ndarray]:
    """A structure of any letters among ligand atoms, and where its atoms are, about its CA."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 20, len(structure))
    structure = replace(structure, sequence="".join(ALPHABET[t] for t in tokens))
    atoms = structure.coords[:, [1]] + rng.normal(size=(len(structure), ATOMS, 3)) * 2.5
    atoms[:, :4] = structure.coords
    atoms[np.arange(ATOMS) >= np.array(ATOM_COUNTS)[tokens][:, None]] = 0
    return structure, atoms.astype(np.float32)


def test_the_packaged_network_is_the_published_one():
    network, name = load_packer_network(PACKER)
    assert name == "packer/v_32_002_16"
    assert sum(p.numel() for p in network.parameters()) == 3_571_556
    assert (network.neighbours, network.context_atoms) == (32, 16)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_goldens(name, backend):
    structure = structure_of(name)
    atoms, wanted = packer_goldens.load(name)
    assert (name == "3mht") == (UNKNOWN not in structure.tokens)  # 1hvr has two of X
    wanted = Mixture(*(wanted[part][structure.mask] for part in MIXTURE))
    assert_same(mixture(on(backend, published()), structure, atoms), wanted)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [0, 5, 40])
def test_the_plain_reference_among_any_atoms(count, backend):
    structure, atoms = with_random_atoms(protein("6MRR"), count)
    rng = np.random.default_rng(count)
    around = structure.coords[20, 1] + rng.normal(size=(count, 3)) * 6
    elements = rng.choice([1, 6, 7, 8, 26, 116], count)
    structure = replace(structure, context=ContextAtoms.of(around, elements))
    network = random_weights()
    assert_same(
        mixture(on(backend, network), structure, atoms),
        by_reference(network, structure, atoms),
        2e-5,
    )


@pytest.mark.parametrize("length", [1, 2, 31])
@pytest.mark.parametrize("backend", BACKENDS)
def test_structures_of_fewer_residues_than_neighbours(backend, length):
    whole = protein("6MRR")
    part = Structure(
        "short", whole.coords[:length], whole.sequence[:length], whole.chain_ids[:length],
        whole.residue_index[:length], whole.residue_numbers[:length],
    )  # fmt: skip
    structure, atoms = with_random_atoms(part)
    network = random_weights()
    assert_same(
        mixture(on(backend, network), structure, atoms),
        by_reference(network, structure, atoms),
        2e-5,
    )


def test_atoms_beyond_all_gaussians_add_nothing():
    structure, atoms = with_random_atoms(protein("6MRR"))
    far = atoms.copy()
    i = int((structure.tokens == ALPHABET.index("K")).argmax())
    far[i, 8] += 1e4
    network = random_weights()
    assert_same(
        mixture(on(BACKENDS[0], network), structure, far),
        by_reference(network, structure, far),
        2e-5,
    )


def test_a_width_that_the_kernels_lack_is_refused():
    with pytest.raises(UnavailableError, match="hidden width is 96"):
        NativePacker(Packer(hidden=96))


def test_a_backend_that_is_none_is_refused():
    with pytest.raises(ValueError, match="backend is 'fast'; the packer has auto, torch, native"):
        load_packer(backend="fast")


# ------------------------------------------------------------------------------------------ angles


def uniforms(seed: int, rows: int):
    rng = np.random.default_rng(seed)
    return lambda drawn, width: torch.from_numpy(rng.random((rows, width)))


@pytest.mark.parametrize("concentration", [0.1, 2.0, 600.0])
def test_angles_have_the_von_mises_distribution(concentration):
    mean = torch.full((400, 4, 3), 2.5)
    k = torch.full_like(mean, concentration)
    angles = draw_angles(mean, k, torch.zeros_like(mean), 8, uniforms(1, 400)).flatten()
    assert float(angles.abs().max()) <= np.pi
    centred = (angles - 2.5 + np.pi).remainder(2 * np.pi) - np.pi
    assert ks_1samp(centred.numpy(), vonmises(concentration).cdf).pvalue > 1e-3


def test_components_have_their_weights():
    mean = torch.tensor([-2.0, 0.0, 2.0]).expand(2000, 4, 3)
    logits = torch.tensor([0.0, 1.0, -1.0]).expand_as(mean)
    angles = draw_angles(mean, torch.full_like(mean, 300), logits, 4, uniforms(2, 2000))
    shares = [float((angles - m).abs().lt(1).double().mean()) for m in (-2, 0, 2)]
    np.testing.assert_allclose(shares, torch.softmax(logits[0, 0], -1), atol=0.012)


def test_densities_are_those_of_torchs_mixtures():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mean, logits = torch.randn(50, 4, 3).double(), torch.randn(50, 4, 3).double()
        k = torch.rand(50, 4, 3).double() * 100 + 0.1
    angles = torch.linspace(-3, 3, 50).double()[:, None].expand(50, 4)
    distributions = torch.distributions
    mixed = distributions.MixtureSameFamily(
        distributions.Categorical(logits=logits), distributions.VonMises(mean, k)
    )
    wanted = mixed.log_prob(angles)
    torch.testing.assert_close(log_density(mean, k, logits, angles), wanted, atol=2e-6, rtol=2e-6)


def test_angles_depend_on_their_own_numbers_alone():
    mean, k = torch.randn(30, 4, 3), torch.full((30, 4, 3), 3.0)
    table = np.random.default_rng(0).random((5, 30, 2000))

    def of_rows(rows):
        return lambda drawn, width: torch.from_numpy(table[drawn, rows, :width].copy())

    all_of_them = draw_angles(mean, k, mean, 8, of_rows(slice(None)))
    some = draw_angles(mean[7:12], k[7:12], mean[7:12], 8, of_rows(slice(7, 12)))
    assert torch.equal(all_of_them[:, 7:12], some)


# -------------------------------------------------------------------------------------------- live


@pytest.fixture(scope="module")
def oracle() -> Iterator[LigandOracle]:
    python = python_of_oracle(build=True)
    if python is None:
        pytest.skip(f"not exercised: {NEEDS}")
    with LigandOracle(python) as running:
        yield running


@pytest.mark.proof
@pytest.mark.parametrize("name", LIVE)
def test_every_step_of_the_original_live(name, oracle):
    parsed = oracle.ask("parse", file=str(FIXTURES / LIVE[name]))
    structure = family_goldens.structure_of(parsed, name)
    packed = oracle.ask("pack", given(structure), steps=3, samples=16, seed=1)
    whole = structure.mask & (structure.tokens != UNKNOWN)
    tokens, chi = (torch.tensor(a[whole])[None] for a in (structure.tokens, packed["sample"]))
    placed = coordinates(torch.tensor(structure.coords[whole]), tokens, chi)[0]
    there = torch.arange(ATOMS) < torch.tensor(ATOM_COUNTS)[tokens[0]][:, None]
    apart = placed - torch.from_numpy(packed["atoms"][-1][whole])
    assert float(apart[there].abs().max()) < 1e-3
    for network in (published(), NativePacker(published())):
        for step in range(3):
            wanted = Mixture(*(packed[part][step][structure.mask] for part in MIXTURE))
            assert_same(mixture(network, structure, packed["atoms"][step]), wanted)
