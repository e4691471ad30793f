"""Our log-probabilities are the original's, on every fixture; and what is wrong is seen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from proteins import (
    ALL,
    EXAMPLES,
    FIXTURES,
    path_of,
    protein,
    random_order,
    rows_of,
    without_backbone,
)

from mpnn_core import ALPHABET, Model, Structure
from mpnn_core.network.graph import Backbones, nearest_neighbours
from mpnn_core.network.mpnn import MPNN
from mpnn_core.peers import original

TOLERANCE = 1e-4  # log-probability
# Our distance from the original in float64, in units of the original's own in float32.
ROUNDING = 2.0
# Above this many residues the float64 run takes 4 to 12 s, and is read from fixtures/goldens.
LARGE = 600


@dataclass(frozen=True)
class Parity:
    """How far a model is from the original on one structure, under one decoding order.

    Attributes
    ----------
    log_probs, unconditional : largest absolute difference of log-probabilities
    neighbours : residues whose k-NN set is another
    theirs : the original's log-probabilities, (L, 21)
    """

    log_probs: float
    unconditional: float
    neighbours: int
    theirs: np.ndarray = field(repr=False)

    @property
    def holds(self) -> bool:
        return max(self.log_probs, self.unconditional) <= TOLERANCE and self.neighbours == 0


def parity(
    model: Model,
    structure: Structure,
    published: torch.nn.Module,
    order: np.ndarray,
    judged: Structure | None = None,
) -> Parity:
    """Compare `model` on `structure` with the original on the same; `judged` is what the original
    gets where a test feeds the two different ones on purpose."""
    given = original.inputs(judged or structure)
    seen: list[torch.Tensor] = []
    hook = published.features.register_forward_hook(lambda *call: seen.append(call[-1][1]))
    try:
        theirs = original.log_probs(published, given, torch.tensor(order)[None])[0]
        their_unconditional = original.unconditional_log_probs(published, given)[0]
    finally:
        hook.remove()

    rows = np.flatnonzero(structure.mask)
    backbones = Backbones.from_structures([structure])
    graph = nearest_neighbours(backbones, model.network.neighbours)
    ours = torch.from_numpy(rows)[graph.neighbours].sort(1).values
    original_sets = seen[0][0, rows].sort(1).values
    if ours.shape == original_sets.shape:
        differing = int((ours != original_sets).any(1).sum())
    else:
        differing = len(rows)
    return Parity(
        _farthest(model.log_probs(structure, decoding_order=order)[0], theirs),
        _farthest(model.unconditional_log_probs(structure), their_unconditional),
        differing,
        theirs.numpy(),
    )


def _farthest(a: np.ndarray | torch.Tensor, b: np.ndarray | torch.Tensor) -> float:
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())


# ------------------------------------------------------------------------------ every fixture


@pytest.mark.parametrize("name", ALL)
def test_log_probabilities_and_neighbours_are_the_originals(
    name, model, published, published_float64
):
    """And rounding takes us no farther than twice as far from float64 as the original."""
    structure = protein(name)
    order = random_order(len(structure))
    found = parity(model, structure, published, order)
    assert found.holds, found

    if len(structure) > LARGE:
        with np.load(FIXTURES / "goldens" / f"{name}.npz") as golden:
            np.testing.assert_array_equal(golden["coords"], structure.coords)
            np.testing.assert_array_equal(golden["decoding_order"], order)
            exact = golden["log_probs"]
    else:
        given = original.inputs(structure).to(torch.float64)
        exact = original.log_probs(published_float64, given, torch.tensor(order)[None])[0]
    theirs = _farthest(found.theirs, exact)
    ours = _farthest(model.log_probs(structure, decoding_order=order)[0], exact)
    assert ours <= ROUNDING * theirs, f"{ours:.1e} from float64; the original {theirs:.1e}"


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_originals_own_parser_with_its_gap_residues_changes_nothing(name, model, published):
    given = original.featurize(path_of(name))
    there = given.mask[0].bool().numpy()
    structure = protein(name)
    assert there.sum() == len(structure)
    # It mixes conformers of a few residues, so its coordinates are taken for those.
    structure = replace(structure, coords=given.X[0, there].numpy())
    assert structure.tokens.tolist() == given.S[0, there].tolist()

    order = random_order(len(there))
    position = there.cumsum() - 1  # of its residues among ours
    theirs = original.log_probs(published, given, torch.tensor(order)[None])[0, there]
    ours = model.log_probs(structure, decoding_order=position[order[there[order]]])[0]
    assert _farthest(ours, theirs) <= TOLERANCE


def test_padded_to_one_batch_the_originals_structures_are_what_they_are_alone(published) -> None:
    """The other side of the claim about batches of different lengths."""
    paths = [path_of(name) for name in ("5L33", "6MRR", "4GYT")]
    together = original.featurize_together(paths)
    orders = torch.arange(together.S.shape[1])[None].repeat(len(paths), 1)
    found = original.log_probs(published, together, orders)
    for path, padded in zip(paths, found, strict=True):
        alone = original.featurize(path)
        L = alone.S.shape[1]
        expected = original.log_probs(published, alone, torch.arange(L)[None])[0]
        assert (padded[:L] - expected).abs().max() < TOLERANCE


# ----------------------------------------------------------------------- incomplete backbones


@pytest.mark.parametrize("name", ["2XHE"])
def test_dropping_an_incomplete_residue_is_masking_it(name, model, published):
    structure = protein(name)
    assert not structure.mask.all()
    order = random_order(len(structure))
    kept = structure.mask[order]
    position = structure.mask.cumsum() - 1
    dropped = rows_of(structure, structure.mask)
    theirs = original.log_probs(
        published, original.inputs(dropped), torch.tensor(position[order[kept]])[None]
    )[0]
    ours = model.log_probs(structure, decoding_order=order)[0]
    assert _farthest(ours[structure.mask], theirs) <= TOLERANCE


@pytest.mark.parametrize("complete, missing", [(40, 6), (47, 1), (48, 6), (10, 20), (1, 3)])
def test_with_few_complete_residues_the_others_are_as_if_dropped(
    complete, missing, model, published
):
    whole = rows_of(protein("6MRR"), slice(0, complete + missing))
    absent = np.linspace(0, len(whole) - 1, missing).round().astype(int)
    structure = without_backbone(whole, absent)
    dropped = rows_of(structure, structure.mask)
    order = random_order(len(structure))
    position = structure.mask.cumsum() - 1
    theirs = original.log_probs(
        published,
        original.inputs(dropped),
        torch.tensor(position[order[structure.mask[order]]])[None],
    )[0]
    ours = model.log_probs(structure, decoding_order=order)[0]
    assert _farthest(ours[structure.mask], theirs) <= TOLERANCE
    assert (
        _farthest(
            model.unconditional_log_probs(structure)[structure.mask],
            original.unconditional_log_probs(published, original.inputs(dropped))[0],
        )
        <= TOLERANCE
    )


def test_an_incomplete_residue_has_the_log_probabilities_the_original_gives_it(model, published):
    structure = without_backbone(protein("5L33"), [0, 50, 105])
    order = random_order(len(structure))
    theirs = original.log_probs(published, original.inputs(structure), torch.tensor(order)[None])
    ours = model.log_probs(structure, decoding_order=order)[0]
    assert _farthest(ours[~structure.mask], theirs[0, ~structure.mask]) <= TOLERANCE


# ---------------------------------------------------------------------------------- sequences


def test_other_sequences_and_orders_in_one_call_are_the_originals(model, published):
    structure = protein("5L33")
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 21, (3, len(structure)))
    orders = np.stack([random_order(len(structure), seed) for seed in range(3)])
    theirs = original.log_probs(
        published, original.inputs(structure, 3, tokens), torch.tensor(orders)
    )
    assert _farthest(model.log_probs(structure, tokens, orders), theirs) <= TOLERANCE


# ---------------------------------------------------------------------- broken on purpose: red


def broken_copy(model: Model, sabotage: Callable[[MPNN], None]) -> Model:
    network = copy.deepcopy(model.network)
    sabotage(network)
    return Model(network, model.name, model.variant, model.device)


def _scaled(name: str) -> Callable[[MPNN], None]:
    """Every other value of one parameter 1 % larger (all of them: a LayerNorm may undo that)."""

    def sabotage(network: MPNN) -> None:
        parameter = network.get_parameter(name)
        parameter.view(-1)[::2] *= 1.01

    return sabotage


def _fewer_neighbours(network: MPNN) -> None:
    network.neighbours -= 1


def _no_message_bias(network: MPNN) -> None:
    network.get_parameter("encoder_layers.1.W3.bias").zero_()


def _swapped_letters(network: MPNN) -> None:
    embedding = network.W_s.weight
    D, E = ALPHABET.index("D"), ALPHABET.index("E")
    embedding[[D, E]] = embedding[[E, D]]


@pytest.mark.parametrize("sabotage", [_fewer_neighbours, _no_message_bias, _swapped_letters])
def test_a_broken_network_is_seen(sabotage, model, published):
    structure = protein("6MRR")
    order = random_order(len(structure))
    assert parity(model, structure, published, order).holds
    broken = broken_copy(model, sabotage)
    found = parity(broken, structure, published, order)
    assert found.log_probs > TOLERANCE, found


def test_every_parameter_matters(model, published):
    structure = protein("6MRR")
    order = random_order(len(structure))
    theirs = original.log_probs(published, original.inputs(structure), torch.tensor(order)[None])[0]
    unseen = {}
    for name, _ in model.network.named_parameters():
        broken = broken_copy(model, _scaled(name))
        found = _farthest(broken.log_probs(structure, decoding_order=order)[0], theirs)
        if found <= TOLERANCE:
            unseen[name] = found
    assert not unseen


def _n_and_c_swapped(structure: Structure) -> Structure:
    return replace(structure, coords=structure.coords[:, [2, 1, 0, 3]])


def _one_atom_moved(structure: Structure) -> Structure:
    coords = structure.coords.copy()
    coords[30, 1] += 0.1  # Å
    return replace(structure, coords=coords)


def _chains_merged(structure: Structure) -> Structure:
    return replace(structure, chain_ids=np.full(len(structure), "A"))


def _gaps_closed(structure: Structure) -> Structure:
    return replace(structure, residue_index=np.arange(len(structure)))


def _one_letter_changed(structure: Structure) -> Structure:
    letter = "A" if structure.sequence[0] != "A" else "G"
    return replace(structure, sequence=letter + structure.sequence[1:])


@pytest.mark.parametrize(
    "sabotage",
    [_n_and_c_swapped, _one_atom_moved, _chains_merged, _gaps_closed, _one_letter_changed],
)
def test_a_broken_structure_is_seen(sabotage, model, published):
    structure = rows_of(protein("3HTN"), slice(110, 220))  # two chains, and a gap in the second
    # The first residue first: its letter has to reach the others.
    order = np.concatenate([[0], 1 + random_order(len(structure) - 1)])
    assert parity(model, structure, published, order).holds
    found = parity(model, sabotage(structure), published, order, judged=structure)
    assert found.log_probs > TOLERANCE, found


def test_another_decoding_order_is_seen(model, published):
    structure = protein("6MRR")
    order = random_order(len(structure))
    theirs = original.log_probs(published, original.inputs(structure), torch.tensor(order)[None])[0]
    swapped = order.copy()
    swapped[[10, 11]] = order[[11, 10]]
    for wrong in (swapped, np.argsort(order)):
        found = _farthest(model.log_probs(structure, decoding_order=wrong)[0], theirs)
        assert found > TOLERANCE, f"{found:.1e}"
