"""LigandMPNN as its authors run it, the plain reference, and what the engine makes of it.

The goldens were computed by the authors' code in float64. The reference is tied to them, and the
engine to both, so that nothing here needs the authors' environment; with `--proof` their code is
asked live.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from math import sqrt
from pathlib import Path

import family_goldens
import numpy as np
import pytest
import torch
from family_goldens import ALONE, FILES, LIGAND, SETTINGS, SIDE_CHAINS, SMALL, WEIGHTS, Golden
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import NEEDS, LigandOracle, python_of_oracle
from oracles import given as given_of
from proteins import FIXTURES, protein, rows_of

from mpnn_core import ALPHABET, Constraints, Model, Structure, load_model, read_structure
from mpnn_core.acceptance.frequencies import DOUBT, excess, tempered
from mpnn_core.backends.contract import encoded
from mpnn_core.backends.native import NativeBackend, instruction_sets
from mpnn_core.network import context as room
from mpnn_core.network.checkpoints import load_checkpoint
from mpnn_core.network.context import context_sets
from mpnn_core.network.graph import Backbones, nearest_neighbours
from mpnn_core.network.reference import ReferenceLigandMPNN
from mpnn_core.structures.context import NO_CONTEXT, ContextAtoms

TOLERANCE = 1e-4  # nats
STATES = 1e-5  # of a state's length
# What the reference may be off by: states, and nats; goldens are rounded to 1e-5 nats.
REFERENCE = {torch.float32: (5e-6, 5e-5), torch.float64: (2e-7, 1e-5)}
ORACLES_NAME = "ligandmpnn_v_32_010_25"
# Mo, Nh, Mc, Ts and Og: the original's list of elements has other names for them.
UNSEEN = (42, 113, 115, 117, 118)
HOST = torch.device("cpu")
# What rounding may do to a run of a protein among any atoms, which is worse conditioned.
STATES_OF_ANY, NATS_OF_ANY = 1e-4, 5e-4
# Residues with alternate locations, of which the authors' parser takes those labelled A, and ours
# the likelier ones (docs/explanation/exactness.md).
READ_OTHERWISE = {
    "19hc": ["B191"],
    "1pwc": ["A118", "A147"],
    "pdb3hsy": ["B54", "B101"],
    "3HTN": ["C167"],
}
# Chains in the order in which theirs has them, where ours has another.
THEIR_CHAINS = {"7cth": "ABCFDEIMHL"}
BACKENDS = (*instruction_sets(), "torch")
FASTEST = BACKENDS[0]
CASES = [(name, s) for name in FILES for s in SETTINGS if s == LIGAND or name in SMALL]


@pytest.fixture(scope="module")
def reference() -> ReferenceLigandMPNN:
    network = ReferenceLigandMPNN()
    network.load_state_dict(load_checkpoint(WEIGHTS).state, strict=True)
    return network.eval().requires_grad_(False)


@cache
def model_of(backend: str, side_chains: bool = False) -> Model:
    """LigandMPNN on a backend: "torch", or native code for one instruction set."""
    model = load_model(WEIGHTS, backend="torch")
    model.network.side_chain_context = side_chains
    if backend != "torch":
        model.backend = NativeBackend(model.network, backend)
    return model


@cache
def golden_of(name: str) -> Golden:
    return family_goldens.load_golden(name)


def on_backends(some: Sequence[str]) -> pytest.MarkDecorator:
    """Every golden on every backend: the fastest one always, the others on `some` of the goldens,
    and on all with `--proof`."""
    return pytest.mark.parametrize(
        ("name", "setting", "backend"),
        [
            pytest.param(name, setting, backend, marks=[] if always else [pytest.mark.proof])
            for backend in BACKENDS
            for name, setting in CASES
            for always in [backend == FASTEST or name in some]
        ],
    )


def in_setting(golden: Golden, setting: str) -> tuple[Structure, np.ndarray]:
    """The structure that the network is given, and which of its residues are fixed."""
    structure = golden.structure
    if setting == ALONE:
        structure = replace(structure, context=NO_CONTEXT)
    return structure, golden.fixed & (setting == SIDE_CHAINS)


def constraints_of(fixed: np.ndarray) -> Constraints:
    return Constraints(fixed=np.flatnonzero(fixed).tolist())


@torch.inference_mode()
def states_of(model: Model, structure: Structure, fixed: np.ndarray) -> np.ndarray:
    """What decoding starts from, (L, H), NaN where a residue is no node."""
    backbones = model.network.backbones([structure], HOST)
    context = model.network.context([structure], [fixed], HOST)
    states = np.full((len(structure), 128), np.nan, np.float32)
    states[structure.mask] = encoded(model.backend, backbones, context=context).h_V.numpy()
    return states


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest error of a state over its length."""
    error = np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    return float(error.max())


def arguments(structure: Structure, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """What the reference is given of a structure, without its residues that are no nodes."""
    keep = structure.mask
    known = ~np.isin(structure.context.elements, UNSEEN)
    return {
        "X": torch.tensor(structure.coords[keep], dtype=dtype),
        "residue_index": torch.tensor(structure.residue_index[keep]),
        "chain": torch.tensor(structure.chain_numbers[keep]),
        "Y": torch.tensor(structure.context.coords[known], dtype=dtype),
        "elements": torch.tensor(structure.context.elements[known]),
    }


def more_arguments(structure: Structure, fixed: np.ndarray, dtype: torch.dtype):
    """Its side chains, and those that are seen."""
    keep = structure.mask
    assert structure.side_chains is not None
    return {
        "side_chains": torch.tensor(structure.side_chains[keep], dtype=dtype),
        "fixed": torch.tensor(fixed[keep]),
    }


def order_of_nodes(structure: Structure, order: np.ndarray) -> torch.Tensor:
    """An order of all residues as one of the nodes among themselves."""
    rank = np.argsort(order)[structure.mask]
    return torch.tensor(np.argsort(rank))


# The plain network.


@pytest.mark.parametrize("dtype", REFERENCE, ids=str)
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["1hvr", "1pwc"])
def test_the_reference_is_the_original(name, setting, dtype, reference):
    golden = golden_of(name)
    structure, fixed = in_setting(golden, setting)
    given = arguments(structure, dtype)
    if setting == SIDE_CHAINS:
        given |= more_arguments(structure, fixed, dtype)
    network = reference.to(dtype)
    nodes = np.flatnonzero(structure.mask)
    answer = golden.answers[setting]
    with torch.inference_mode():
        h_V, h_E, E_idx = network.in_context(**given)
        tokens = torch.tensor(structure.tokens[nodes])
        order = order_of_nodes(structure, golden.order)
        log_probs = network.decode(h_V, h_E, E_idx, tokens, order).numpy()
    at = np.searchsorted(nodes, answer.states_of)
    of_states, of_log_probs = REFERENCE[dtype]
    assert relative(h_V.numpy()[at], answer.states) <= of_states
    found = np.abs(log_probs[np.searchsorted(nodes, answer.rows)] - answer.log_probs).max()
    assert found <= of_log_probs, f"{found:.1e}"


# The engine.


@pytest.mark.parametrize(("name", "setting"), CASES)
def test_every_residue_sees_the_atoms_that_it_sees_in_the_original(name, setting):
    golden = golden_of(name)
    structure, fixed = in_setting(golden, setting)
    backbones = Backbones.from_structures([structure])
    graph = nearest_neighbours(backbones, 32)
    shown = [fixed] if setting == SIDE_CHAINS else None
    context = room.Surroundings.of([structure], shown)
    sets = context_sets(context, graph, backbones, 25)
    assert digests_of(sets) == golden.answers[setting].digests[structure.mask].tolist()


def digests_of(sets: room.Sets) -> list[int]:
    """Of the atoms that each node sees."""
    xyz, element = sets.xyz.numpy(), sets.element.numpy()
    rows = (row[row >= 0] for row in sets.atoms.numpy())
    of_sets = np.array([family_goldens.digest(xyz[row], element[row]) for row in rows])
    return of_sets[sets.set_of_node.numpy()].tolist()


@on_backends(("1hvr",))
def test_states_after_the_context_are_the_originals(name, setting, backend):
    golden = golden_of(name)
    structure, fixed = in_setting(golden, setting)
    answer = golden.answers[setting]
    model = model_of(backend, setting == SIDE_CHAINS)
    states = states_of(model, structure, fixed)[answer.states_of]
    found = relative(states, answer.states)
    assert found <= STATES, f"{found:.1e}"


@on_backends(("1hvr",))
def test_log_probabilities_are_the_originals(name, setting, backend):
    golden = golden_of(name)
    structure, fixed = in_setting(golden, setting)
    answer = golden.answers[setting]
    found = model_of(backend, setting == SIDE_CHAINS).log_probs(
        structure, decoding_order=golden.order, constraints=constraints_of(fixed)
    )
    error = np.abs(found[0, answer.rows] - answer.log_probs).max()
    assert error <= TOLERANCE, f"{error:.1e}"


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_we_read_gives_the_originals_log_probabilities(name):
    """By our own reader: chains, numbers, atoms and all, where the two read a file alike."""
    golden, structure = golden_of(name), read_structure(FIXTURES / FILES[name])
    theirs, answer = golden.structure, golden.answers[LIGAND]
    chains = THEIR_CHAINS.get(name, structure.chains)
    at = np.concatenate([np.flatnonzero(structure.chain_ids == c) for c in chains])
    assert np.array_equal(structure.mask[at], theirs.mask)
    moved = at[(structure.coords[at] != theirs.coords).any((1, 2)) & theirs.mask]
    where = [f"{structure.chain_ids[i]}{structure.residue_numbers[i]}" for i in moved]
    assert where == READ_OTHERWISE.get(name, [])
    # They read a modified residue as X, and we as its parent.
    letters = np.array(list(structure.sequence))[at]
    as_theirs = np.array(list(theirs.sequence))
    assert ((letters == as_theirs) | (as_theirs == "X")).all()
    coords, sequence = structure.coords.copy(), np.empty_like(as_theirs)
    coords[at], sequence[at] = theirs.coords, as_theirs
    same = replace(structure, coords=coords, sequence="".join(sequence))
    found = model_of(FASTEST).log_probs(same, decoding_order=at[golden.order])
    error = np.abs(found[0, at[answer.rows]] - answer.log_probs).max()
    assert error <= TOLERANCE, f"{error:.1e}"


# Sampling.

SEQUENCES, TEMPERATURE = 96, 0.5  # those of the golden


def drawn(model: Model, golden: Golden, temperature: float = TEMPERATURE):
    """Sequences that we draw under the golden's order."""
    return model.design(
        golden.structure, SEQUENCES, temperature, seed=11, decoding_order=golden.order
    ).sequences


def tokens_of(sequences) -> np.ndarray:
    return np.array([[ALPHABET.index(letter) for letter in s] for s in sequences])


def counts_of(tokens: np.ndarray, classes: int = 21) -> np.ndarray:
    """How often each position has each letter: (n, L) -> (L, classes)."""
    return (tokens[..., None] == np.arange(classes)).sum(0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_letters_are_drawn_from_the_tempered_log_probabilities(backend):
    golden, model = golden_of("1hvr"), model_of(backend)
    sequences = drawn(model, golden)
    log_probs = model.log_probs(golden.structure, list(sequences), golden.order)
    p = tempered(log_probs.astype(np.float64), TEMPERATURE)  # (n, L, 20), each after its own prefix
    counts = counts_of(tokens_of(sequences), 20)
    worst = max(excess(c, q) for c, q in zip(counts, p.mean(0), strict=True))
    assert worst <= 1, f"{worst:.2f}"


def two_samples(first: np.ndarray, second: np.ndarray) -> float:
    """Chi-square of two samples (n, L) of as many sequences, over the largest that is chance."""
    a, b = counts_of(first), counts_of(second)
    frequent = a + b >= 10
    square = ((a - b)[frequent] ** 2 / (a + b)[frequent]).sum()
    d = max(int(frequent.sum() - len(a)), 1)
    return float(square / (d + 2 * sqrt(d * DOUBT) + 2 * DOUBT))


def their_samples() -> np.ndarray:
    """1hvr's, (n, L) tokens."""
    with np.load(family_goldens.FOLDER / "1hvr.npz") as stored:
        return stored["samples"].astype(int)


@pytest.mark.parametrize("backend", BACKENDS)
def test_our_samples_are_like_the_originals(backend):
    ours = tokens_of(drawn(model_of(backend), golden_of("1hvr")))
    assert two_samples(ours, their_samples()) <= 1


def test_samples_at_another_temperature_are_unlike_the_originals():
    ours = tokens_of(drawn(model_of(FASTEST), golden_of("1hvr"), 2 * TEMPERATURE))
    assert two_samples(ours, their_samples()) > 1


# Any atoms.


@st.composite
def complexes(draw: st.DrawFn, longest: int = 60) -> tuple[Structure, np.ndarray]:
    """A run of a protein among atoms, with side chains, and which residues are fixed."""
    length = draw(st.integers(1, longest))
    start = draw(st.integers(0, len(protein("6EHB")) - longest))
    structure = rows_of(protein("6EHB"), slice(start, start + length))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    coords = structure.coords + rng.normal(0, 0.05, structure.coords.shape).astype(np.float32)
    count = draw(st.sampled_from([0, 1, 24, 25, 26, 200]))
    where = draw(st.sampled_from(["near", "coincident", "far"]))
    spread = {"near": 8.0, "coincident": 8.0, "far": 60.0}[where]
    xyz = coords[rng.integers(length), 1] + spread * rng.normal(size=(count, 3))
    elements = rng.integers(1, 119, count)
    if where == "coincident":  # of the same element: which of two is seen is chance
        of = rng.integers(0, max(count, 1), count) // 3
        xyz, elements = xyz[of], elements[of]
    side_chains = np.full((length, 32, 3), np.nan, np.float32)
    there = rng.random((length, 32)) < 0.2
    around = coords[:, 1, None] + rng.normal(0, 2.5, side_chains.shape)
    side_chains[there] = around[there]
    fixed = rng.random(length) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    atoms = ContextAtoms.of(xyz, elements)
    return replace(structure, coords=coords, context=atoms, side_chains=side_chains), fixed


@pytest.mark.parametrize("backend", sorted({FASTEST, "torch"}))
@settings(deadline=None, max_examples=20)
@given(case=complexes(), seen=st.booleans(), random=st.randoms(use_true_random=False))
def test_any_atoms_give_what_the_reference_gives(reference, backend, case, seen, random):
    structure, fixed = case
    model = model_of(backend, seen)
    order = np.array(random.sample(range(len(structure)), len(structure)))
    expected_states, expected = by_reference(reference, structure, fixed, seen, order)
    found = states_of(model, structure, fixed)[structure.mask]
    assert relative(found, expected_states) <= STATES_OF_ANY
    log_probs = model.log_probs(structure, decoding_order=order, constraints=constraints_of(fixed))[
        0
    ][structure.mask]
    error = np.abs(log_probs - expected).max()
    assert error <= NATS_OF_ANY, f"{error:.1e}"


def by_reference(reference, structure, fixed, seen, order):
    """States (N, H) and log-probabilities (N, 21) of the plain network in float64."""
    dtype = torch.float64
    given = arguments(structure, dtype)
    if seen:
        given |= more_arguments(structure, fixed, dtype)
    with torch.inference_mode():
        h_V, h_E, E_idx = reference.to(dtype).in_context(**given)
        tokens = torch.tensor(structure.tokens[structure.mask])
        log_probs = reference.decode(h_V, h_E, E_idx, tokens, order_of_nodes(structure, order))
    return h_V.numpy(), log_probs.numpy()


# The authors' code itself.


@pytest.fixture(scope="module")
def oracle() -> Iterator[LigandOracle]:
    python = python_of_oracle(build=True)
    if python is None:
        pytest.skip(f"needs {NEEDS}")
    with LigandOracle(python, float64=True) as oracle:
        yield oracle


@pytest.mark.proof
@settings(deadline=None, max_examples=25)
@given(complexes(longest=60), st.booleans())
def test_the_reference_gives_what_the_original_gives_live(reference, oracle, case, seen):
    structure, fixed = case
    order = np.random.default_rng(0).permutation(len(structure))
    # The original's parser drops them, and its network would take them.
    known = ~np.isin(structure.context.elements, UNSEEN)
    arrays = {
        "X": structure.coords,
        "S": structure.tokens,
        "R_idx": structure.residue_index,
        "chain_labels": structure.chain_numbers,
        "mask": structure.mask,
        "Y": structure.context.coords[known],
        "Y_t": structure.context.elements[known],
        "side_chains": structure.side_chains,
        "fixed": fixed,
        "order": order,
    }
    oracle.ask(
        "give", arrays, weights=ORACLES_NAME, model_type="ligand_mpnn", side_chain_context=seen
    )
    states, log_probs = by_reference(reference, structure, fixed, seen, order)
    assert relative(states, oracle.ask("encode")["h_V"]) <= STATES
    assert np.abs(log_probs - oracle.ask("score")["log_probs"]).max() <= TOLERANCE


@pytest.mark.proof
@pytest.mark.parametrize("name", ["1hvr", "1pwc"])
def test_goldens_are_what_the_original_says_live(name, oracle):
    golden = golden_of(name)
    parsed = oracle.ask("parse", file=str(FIXTURES / FILES[name]))
    oracle.ask(
        "give", given_of(parsed, order=golden.order), weights=ORACLES_NAME, model_type="ligand_mpnn"
    )
    answer = golden.answers[LIGAND]
    error = np.abs(oracle.ask("score")["log_probs"][answer.rows] - answer.log_probs).max()
    assert error <= 1e-5


@pytest.mark.proof
@pytest.mark.parametrize("checkpoint", ["005", "010", "020", "030"])
def test_every_checkpoint_is_the_originals_live(checkpoint, oracle):
    golden, name = golden_of("1hvr"), f"ligandmpnn_v_32_{checkpoint}_25"
    parsed = oracle.ask("parse", file=str(FIXTURES / FILES["1hvr"]))
    oracle.ask("give", given_of(parsed, order=golden.order), weights=name, model_type="ligand_mpnn")
    model = load_model(Path(oracle.ask("weights")["folder"]) / f"{name}.pt")
    ours = model.log_probs(golden.structure, decoding_order=golden.order)[0]
    assert np.abs(ours - oracle.ask("score")["log_probs"]).max() <= TOLERANCE


# Broken on purpose.


def element_off_by_one(monkeypatch):
    of = room.Surroundings.of

    def broken(*args, **kwargs):
        right = of(*args, **kwargs)
        return replace(right, element=right.element + 1)

    monkeypatch.setattr(room.Surroundings, "of", broken)


def forgotten_atom(monkeypatch):
    def broken(*args, **kwargs):
        right = context_sets(*args, **kwargs)
        atoms = right.atoms.clone()
        atoms[:, 0] = -1
        return replace(right, atoms=atoms)

    monkeypatch.setattr(room, "context_sets", broken)


def transposed_pairs(monkeypatch):
    right = room.distinct_pairs

    def broken(atoms, *more):
        pairs, pair_of = right(atoms, *more)
        return pairs.flip(1), pair_of

    monkeypatch.setattr(room, "distinct_pairs", broken)


def no_message_to_itself(monkeypatch):
    right = room.distinct_pairs

    def broken(atoms, *more):
        pairs, pair_of = right(atoms, *more)
        own = torch.eye(atoms.shape[1], dtype=torch.bool)
        return pairs, torch.where(own, len(pairs), pair_of)

    monkeypatch.setattr(room, "distinct_pairs", broken)


def side_chain_of_another(monkeypatch):
    of = room.Surroundings.of

    def broken(*args, **kwargs):
        right = of(*args, **kwargs)
        assert right.shown is not None
        return replace(right, shown=right.shown.roll(1, 0))

    monkeypatch.setattr(room.Surroundings, "of", broken)


FAULTS = {
    element_off_by_one: LIGAND,
    forgotten_atom: LIGAND,
    transposed_pairs: LIGAND,
    no_message_to_itself: LIGAND,
    side_chain_of_another: SIDE_CHAINS,
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_seen(fault, monkeypatch):
    golden = golden_of("1hvr")
    structure, fixed = in_setting(golden, FAULTS[fault])
    answer = golden.answers[FAULTS[fault]]
    model = model_of("torch", FAULTS[fault] == SIDE_CHAINS)
    fault(monkeypatch)
    states = states_of(model, structure, fixed)[answer.states_of]
    assert relative(states, answer.states) > 10 * STATES
    found = model.log_probs(
        structure, decoding_order=golden.order, constraints=constraints_of(fixed)
    )
    assert np.abs(found[0, answer.rows] - answer.log_probs).max() > 10 * TOLERANCE
