"""The membrane models, and the soluble ones, against the original's own code (goldens)."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from proteins import FIXTURES, protein, without_backbone

from mpnn_core import ALPHABET, Model, Structure, StructureError, StructureWarning, load_model
from mpnn_core.backends.native import instruction_sets
from mpnn_core.commands.main import main
from mpnn_core.network.checkpoints import published_choice
from mpnn_core.network.membrane import MembraneMPNN
from mpnn_core.network.reference import MembraneStates, ReferenceMPNN
from mpnn_core.training.corpus import corpus_of
from mpnn_core.training.recipes import DistillError, Lessons, Recipe
from mpnn_core.training.run import Run

GOLDENS = sorted((FIXTURES / "goldens" / "membrane").glob("*.npz"))
TOLERANCE = 1e-4  # nats, any log-probability, against the original in float32
SHIFTED = 1e-2  # nats; labels that count move some log-probability by more
BACKENDS = ["torch", "native", "mlx"]
# The array of a golden, the model, and the labels: those of the golden, or the same one everywhere.
RUNS = {
    "per_residue_mixed": ("membrane", "mixed"),
    "per_residue_none": ("membrane", 0),
    "global_soluble": ("membrane-global", 0),
    "global_membrane": ("membrane-global", 1),
    "soluble_002": ("soluble/v_48_002", None),
    "soluble_020": ("soluble", None),
}


class Golden:
    """A structure, a decoding order, labels, and what the original says."""

    def __init__(self, name: str) -> None:
        with np.load(FIXTURES / "goldens" / "membrane" / f"{name}.npz") as stored:
            self.arrays = dict(stored)
        self.structure = Structure.from_backbone(
            self.arrays["coords"],
            "".join(ALPHABET[token] for token in self.arrays["tokens"]),
            self.arrays["chain_ids"],
            self.arrays["residue_index"],
            name=name,
        )
        self.order = self.arrays["decoding_order"].astype(np.int64)
        self.labels = self.arrays["labels"].astype(np.int64)

    def labelled(self, labels) -> Structure:
        if labels is None:
            return self.structure
        values = self.labels if isinstance(labels, str) else np.full(len(self.structure), labels)
        return replace(self.structure, membrane=values.astype(np.int64))

    def difference(self, model: Model, run: str, structure: Structure) -> float:
        found = model.log_probs(structure, decoding_order=self.order)[0]
        return float(np.abs(found - self.arrays[run]).max())


@pytest.fixture(params=[path.stem for path in GOLDENS])
def golden(request) -> Golden:
    return Golden(request.param)


def model_of(weights: str, backend: str) -> Model:
    if backend == "native" and not instruction_sets():
        pytest.skip("not exercised: no native code was built here")
    if backend == "mlx":
        pytest.importorskip("mlx.core")
    return load_model(weights, backend=backend)


def test_there_are_a_soluble_protein_and_a_membrane_protein():
    assert [path.stem for path in GOLDENS] == ["2nwl", "5L33"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("run", RUNS)
def test_log_probabilities_are_the_originals(run, backend, golden):
    weights, labels = RUNS[run]
    model = model_of(weights, backend)
    found = golden.difference(model, run, golden.labelled(labels))
    assert found <= TOLERANCE, f"{found:.1e}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_swapped_labels_are_seen(backend, golden):
    model = model_of("membrane", backend)
    swapped = replace(golden.structure, membrane=np.array([0, 2, 1])[golden.labels])
    assert golden.difference(model, "per_residue_mixed", swapped) > SHIFTED
    # Of a single residue too.
    one = golden.labels.copy()
    one[50] = (one[50] + 1) % 3
    changed = replace(golden.structure, membrane=one)
    assert golden.difference(model, "per_residue_mixed", changed) > SHIFTED


def test_the_two_models_and_their_labels_differ(golden):
    stored = [golden.arrays[run] for run in RUNS]
    for i, first in enumerate(stored):
        assert all(np.abs(first - other).max() > SHIFTED for other in stored[:i])


def test_the_models_are_what_the_reference_says(golden):
    model = model_of("membrane", "torch")
    assert isinstance(model.network, MembraneMPNN)
    state = published_choice("membrane/per_residue_v_48_020").read().state
    states, network = MembraneStates(), ReferenceMPNN()
    of_states = {
        name: state.pop(f"features.{name}")
        for name in ("node_embedding.weight", "norm_nodes.weight", "norm_nodes.bias")
    }
    of_states |= {name: state.pop(name) for name in ("W_v.weight", "W_v.bias")}
    states.load_state_dict(of_states)
    network.load_state_dict(state)
    s = golden.structure
    with torch.inference_mode():
        expected = network(
            *map(torch.tensor, (s.coords, s.tokens, s.residue_index, s.chain_numbers)),
            torch.tensor(golden.order), states(torch.tensor(golden.labels)),
        ).numpy()  # fmt: skip
    found = model.log_probs(golden.labelled("mixed"), decoding_order=golden.order)[0]
    assert np.abs(found - expected).max() <= TOLERANCE


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_labels_follow_their_residues_past_gaps_and_other_structures(backend, golden):
    """A residue without a backbone is no node; labels of many structures lie end to end."""
    model = model_of("membrane", backend)
    gap = without_backbone(golden.structure, [0, 30, 31])
    kept = np.ones(len(gap), bool)
    kept[[0, 30, 31]] = False
    labels = golden.labels.copy()
    labels[~kept] = 2
    gap = replace(gap, membrane=labels)
    # The order of the others alone.
    without = Structure.from_backbone(
        golden.structure.coords[kept],
        "".join(np.array(list(golden.structure.sequence))[kept]),
        golden.structure.chain_ids[kept],
        golden.structure.residue_index[kept],
    )
    without = replace(without, membrane=golden.labels[kept])
    order = np.argsort(np.argsort(golden.order)[kept])
    alone = model.log_probs(without, decoding_order=order)[0]
    other = replace(protein("6MRR"), membrane=np.zeros(68, np.int64))
    _, among = model.log_probs([other, gap], decoding_order=[None, golden.order])
    assert np.abs(among[0][kept] - alone).max() <= 1e-5
    by_itself = model.log_probs(gap, decoding_order=golden.order)
    assert np.array_equal(among, by_itself)


# --------------------------------------------------------------------------- what labels may be


def test_without_labels_the_model_says_so_and_takes_zeros(golden):
    for weights, run, words in (
        ("membrane", "per_residue_none", "outside of the membrane, 0"),
        ("membrane-global", "global_soluble", "soluble, 0"),
    ):
        model = load_model(weights)
        with pytest.warns(StructureWarning, match=f"reads membrane labels.*{words}") as said:
            found = golden.difference(model, run, golden.structure)
        assert found <= TOLERANCE
        assert len(said) == 1


def test_with_labels_nothing_is_said(golden):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model("membrane").design(golden.labelled("mixed"), 2, seed=1)
        load_model("soluble").design(golden.labelled("mixed"), 2, seed=1)


def test_the_global_model_refuses_more_than_one_label(golden):
    model = load_model("membrane-global")
    for labels, seen in (("mixed", "0, 1, 2"), (2, "2")):
        with pytest.raises(
            StructureError,
            match=rf"membrane/global_v_48_020 takes one membrane label .*; got {seen}\. memb",
        ):
            model.design(golden.labelled(labels))
    assert len(model.design(golden.labelled(1), seed=1).sequences[0]) == len(golden.structure)


# -------------------------------------------------------------- what knows no labels refuses them


def test_no_student_learns_from_a_membrane_model():
    corpus = corpus_of("one", [protein("6MRR")])
    with pytest.raises(DistillError, match="teacher 'membrane/per_residue_v_48_020' is a Membrane"):
        Run({"extreme-v2": Recipe()}, Lessons(teacher="membrane"), corpus)


def test_no_core_ml_package_is_made_of_a_membrane_model(tmp_path, capsys):
    assert main(["export", "coreml", "--weights", "membrane", "--out", str(tmp_path)]) == 2
    assert "membrane/per_residue_v_48_020 has another one; expected" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
