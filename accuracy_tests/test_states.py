"""One sequence for several states, and cyclic chains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from proteins import path_of, protein, rows_of

import mpnn_core as mpnn
from mpnn_core.commands.main import main
from mpnn_core.design.states import COMBINATIONS, States
from mpnn_core.network.features import offset_classes
from mpnn_core.network.graph import Backbones, Graph
from mpnn_core.sampling.noise import digest, residue_noise

RNG = np.random.default_rng(7)


def moved(structure: mpnn.Structure, sigma: float, name: str) -> mpnn.Structure:
    noise = RNG.normal(0, sigma, structure.coords.shape).astype(np.float32)
    return replace(structure, coords=structure.coords + noise, name=name)


def two_states() -> list[mpnn.Structure]:
    """A chain, and the same chain moved, without its first ten residues and one backbone, beside
    a chain of its own."""
    first = rows_of(protein("3HTN"), protein("3HTN").chain_ids == "A")
    second = protein("3HTN")
    keep = np.isin(second.chain_ids, ["A", "C"])
    keep[:10] = False
    second = moved(rows_of(second, keep), 0.3, "bound")
    coords = second.coords.copy()
    coords[20] = np.nan
    return [replace(first, name="free"), replace(second, coords=coords)]


def tokens_of(sequence: str) -> np.ndarray:
    return np.array([mpnn.ALPHABET.index(letter) for letter in sequence])


def alone(model, states: States, s: int, sequence: str, order: np.ndarray) -> np.ndarray:
    """Log-probabilities of a state by itself, in the order of the joint positions."""
    first, last = states.first[s : s + 2]
    own = order[(order >= first) & (order < last)] - first
    return model.log_probs(states.structures[s], sequence[first:last], own)[0]


# Plain torch divides its products by the number of rows, so float32 rounds them otherwise.
@pytest.mark.parametrize(("backend", "tolerance"), [("native", 1e-5), ("torch", 5e-5)])
def test_a_state_is_as_by_itself(backend, tolerance) -> None:
    model = mpnn.load_model(backend=backend)
    found = model.design_states(two_states(), 2, seed=1)
    for i, sequence in enumerate(found.joint.sequences):
        order = found.joint.decoding_order[i]
        for s in range(2):
            first, last = found.states.first[s : s + 2]
            expected = alone(model, found.states, s, sequence, order)
            np.testing.assert_allclose(
                found.joint.log_probs[i, first:last], expected, atol=tolerance, rtol=0
            )


@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, -0.4)])
def test_tied_sampling_is_that_of_a_plain_loop(model, combine, weights) -> None:
    T, seed = 0.5, 3
    structures = two_states()
    found = model.design_states(structures, 2, T, seed, combine=combine, weights=weights)
    states, joint = found.states, found.states.joint
    for i, sequence in enumerate(found.joint.sequences):
        order = found.joint.decoding_order[i]
        log_probs = np.concatenate([alone(model, states, s, sequence, order) for s in range(2)])
        uniform = residue_noise(seed, i, len(joint), digest(joint))
        rank = np.argsort(order)
        for row in range(len(states.labelled)):
            members = np.flatnonzero((states.of == row) & joint.mask)
            total = sum(weights[states.state_of[m]] * log_probs[m].astype(float) for m in members)
            logits = (total / len(members) if combine == "mean" else total) / T
            logits[mpnn.ALPHABET.index("X")] = -np.inf
            p = np.exp(logits - logits.max())
            p /= p.sum()
            np.testing.assert_allclose(
                found.joint.probabilities[i, members], np.stack([p] * len(members)), atol=2e-4
            )
            last = members[rank[members].argmax()]
            drawn = int((p.cumsum() <= uniform[last]).sum())
            near = np.abs(p.cumsum() - uniform[last]).min() < 1e-4
            assert near or mpnn.ALPHABET[drawn] == sequence[last]
            assert len({sequence[m] for m in members}) == 1
            assert found.sequences[i][row] == sequence[last]


def test_what_the_states_share_is_one_residue(model) -> None:
    free, bound = two_states()
    states = States.from_structures([free, bound])
    labelled = states.labelled
    names = list(zip(labelled.chain_ids, labelled.residue_numbers, strict=True))
    assert len(set(names)) == len(names) == len(free) + (bound.chain_ids == "C").sum()
    assert labelled.mask.all(), "the residue without backbone has one in the other state"
    np.testing.assert_array_equal(labelled.coords[: len(free)], free.coords)
    found = model.design_states([free, bound], 3, seed=2)
    assert found.scores.shape == found.global_scores.shape == found.recovery.shape == (3, 2)
    for s, structure in enumerate((free, bound)):
        sequences = found.of_state(s)
        assert {len(sequence) for sequence in sequences} == {len(structure)}
    assert [s[:10] for s in found.sequences] == [s[:10] for s in found.of_state(0)]


def test_the_scores_of_states_are_means_over_their_residues(model) -> None:
    found = model.design_states(two_states(), 1, seed=2)
    nll = -found.joint.log_probs[0][
        np.arange(len(found.states.joint)), tokens_of(found.joint.sequences[0])
    ]
    counted = found.joint.designed
    for s, (first, last) in enumerate(
        zip(found.states.first, found.states.first[1:], strict=False)
    ):
        own = np.arange(first, last)[counted[first:last]]
        assert found.scores[0, s] == pytest.approx(nll[own].mean(), abs=1e-5)
    weights = counted[: found.states.first[1]].sum(), counted[found.states.first[1] :].sum()
    assert found.joint.scores[0] == pytest.approx(
        np.average(found.scores[0], weights=weights), abs=1e-5
    )


def test_constraints_hold_in_all_states(model) -> None:
    constraints = mpnn.Constraints(
        chains="A", fixed="A60-80", omit_at={"A90-99": "DEKR"}, bias_at={"A110": {"W": 99}}
    )
    found = model.design_states(two_states(), 4, seed=5, constraints=constraints)
    labelled = found.structure
    numbers = labelled.residue_numbers.astype(int)
    of_a = labelled.chain_ids == "A"
    for sequence in found.sequences:
        letters, native = np.array(list(sequence)), np.array(list(labelled.sequence))
        kept = ~of_a | ((numbers >= 60) & (numbers <= 80))
        assert (letters[kept] == native[kept]).all()
        assert not np.isin(letters[of_a & (numbers >= 90) & (numbers <= 99)], list("DEKR")).any()
        assert (letters[of_a & (numbers == 110)] == "W").all()


def test_a_homo_oligomer_in_states_is_tied_in_all_of_them(model) -> None:
    trimer = protein("6EHB")
    pair = rows_of(trimer, np.isin(trimer.chain_ids, ["A", "B"]))
    single = rows_of(trimer, trimer.chain_ids == "A")
    with pytest.warns(UserWarning, match="tied"):
        found = model.design_states(
            [replace(pair, name="pair"), replace(single, name="single")], 1, seed=1,
            constraints=mpnn.Constraints(tied_chains="A,B"),
        )  # fmt: skip
    by_number: dict[str, set[str]] = {}
    for number, letter in zip(found.structure.residue_numbers, found.sequences[0], strict=True):
        by_number.setdefault(number, set()).add(letter)
    assert all(len(letters) == 1 for letters in by_number.values())


def test_an_order_of_the_residues_is_that_of_all_states(model) -> None:
    structures = two_states()
    states = States.from_structures(structures)
    order = np.random.default_rng(3).permutation(len(states.labelled))
    found = model.design_states(structures, 1, seed=1, decoding_order=order)
    visited = states.of[found.joint.decoding_order[0]]
    assert list(dict.fromkeys(visited.tolist())) == order.tolist()


def test_wrong_states_are_refused(model) -> None:
    free, bound = two_states()
    with pytest.raises(ValueError, match="combine is 'product'; expected 'mean' or 'sum'"):
        model.design_states([free, bound], combine="product")
    with pytest.raises(ValueError, match="1 weights for 2 states"):
        model.design_states([free, bound], weights=[1])
    mutant = replace(bound, sequence="W" * len(bound))
    with pytest.raises(mpnn.ConstraintError, match=r"A60 is kept, and is . in free and W"):
        model.design_states([free, mutant], constraints=mpnn.Constraints(fixed="A60"))
    with pytest.raises(mpnn.ConstraintError, match="no chain 'Q'"):
        model.design_states([free, bound], constraints=mpnn.Constraints(chains="Q"))


def test_one_state_is_the_structure_itself(model) -> None:
    structure = protein("6MRR")
    joint = States.from_structures([structure]).joint
    order = np.random.default_rng(1).permutation(len(structure))
    np.testing.assert_array_equal(
        model.log_probs(joint, structure.sequence, order),
        model.log_probs(structure, structure.sequence, order),
    )


def ring(start: int, length: int = 0) -> mpnn.Structure:
    """6MRR as if it were a ring (of its first `length` residues), opened at `start`."""
    structure = protein("6MRR")
    L = length or len(structure)
    rows = np.roll(np.arange(L), -start)
    letters = np.array(list(structure.sequence))[rows]
    return mpnn.Structure.from_backbone(structure.coords[rows], "".join(letters)).with_cyclic("A")


@pytest.mark.parametrize("length", [0, 67, 20, 9])
@pytest.mark.parametrize("weights", ["v_48_020", "ligand"])
def test_a_ring_may_be_opened_anywhere(length, weights) -> None:
    model = mpnn.load_model(weights)
    first, other = ring(0, length), ring(5, length)
    L = len(first)
    order = np.random.default_rng(2).permutation(L)
    expected = model.log_probs(first, None, order)[0]
    found = model.log_probs(other, None, (order - 5) % L)[0]
    np.testing.assert_allclose(np.roll(found, 5, 0), expected, atol=2e-5, rtol=0)
    is_open = model.log_probs(first.with_cyclic(()), None, order)[0]
    assert np.abs(is_open - expected).max() > 0.01, "closing the ring changes something"


@pytest.mark.parametrize("L", [9, 67, 101])
def test_offsets_of_a_ring_are_colabdesigns(L) -> None:
    i = np.arange(L)
    apart = np.stack([i, i + L], -1)
    offset = i[:, None] - i[None, :]
    cyclic = np.abs(apart[:, None, :, None] - apart[None, :, None, :]).min((2, 3))
    cyclic[cyclic < np.abs(offset)] *= -1
    expected = np.clip(cyclic * np.sign(offset) + 32, 0, 64)
    everyone = torch.arange(L).expand(L, L)
    backbones = Backbones(
        torch.zeros(L, 4, 3), torch.arange(L), torch.zeros(L, dtype=torch.int64), (0, L),
        rings=torch.full((L,), L),
    )  # fmt: skip
    found = offset_classes(backbones, Graph(everyone, None), slice(0, L))
    np.testing.assert_array_equal(found.numpy(), expected)


def test_only_a_cyclic_chain_is_read_as_one(model) -> None:
    structure = protein("6EHB")
    cyclic = structure.with_cyclic("B")
    assert (cyclic.rings > 0).sum() == (structure.chain_ids == "B").sum()
    assert digest(cyclic) != digest(structure)
    assert digest(cyclic.with_cyclic("")) == digest(structure)
    with pytest.raises(mpnn.StructureError, match="no chain 'Q' to be cyclic; it has A, B, C"):
        structure.with_cyclic("Q")
    with pytest.raises(mpnn.StructureError, match="has no chain 'Z' to be cyclic"):
        replace(structure, cyclic=("Z",))
    with pytest.raises(ValueError, match="read-only"):
        cyclic.rings[0] = 1
    with pytest.raises(mpnn.StructureError, match="cyclic chains, and the CA-only models"):
        mpnn.load_model("ca").design(cyclic)


def test_states_keep_their_own_membrane_labels() -> None:
    model = mpnn.load_model("membrane")
    first, second = (
        replace(s, membrane=np.full(len(s), v)) for s, v in zip(two_states(), (0, 2), strict=True)
    )
    found = model.design_states([first, second], 1, seed=1)
    assert [part.membrane[0] for part in found.states.joint.parts] == [0, 2]
    unlabelled = [s.with_membrane(np.zeros(len(s), int)) for s in (first, second)]
    other = model.design_states(unlabelled, 1, seed=1)
    assert (found.joint.log_probs != other.joint.log_probs).any()


@pytest.mark.parametrize(
    "given",
    [
        ("--constraints", "none.json"), ("--fixed-from", "none.trb"), ("--resfile", "none"),
        ("--top", "1"), ("--unique",), ("--max-mutations", "0"), ("--table", "t.csv"),
        ("--structures", "pdb"), ("--for", "boltz"), ("--save-probs",), ("--orders", "coloured"),
    ],
    ids=lambda given: given[0],
)  # fmt: skip
def test_an_option_that_states_do_not_read_is_refused(given, tmp_path, capsys) -> None:
    states = ["--state", str(path_of("6MRR")), "--state", str(path_of("5L33"))]
    assert main(["design", *states, *given, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"{given[0]}: not for several states" in said
    assert not (tmp_path / "out").exists()


def test_a_selection_is_kept_in_all_states(tmp_path) -> None:
    path = str(path_of("6MRR"))
    other = tmp_path / "other.pdb"
    other.write_bytes(path_of("6MRR").read_bytes())
    states = ["--state", path, "--state", str(other), "--fixed", "surface", "--seed", "1"]
    assert main(["design", *states, "--out", str(tmp_path)]) == 0
    (file,) = (tmp_path / "seqs").iterdir()
    native, design = (np.array(list(line)) for line in file.read_text().splitlines()[1::2])
    surface = mpnn.select(protein("6MRR"), "surface")
    assert (native == design)[surface].all() and not (native == design).all()
