"""Variants: sizes, which weights they take, and batches of structures of any lengths."""

from __future__ import annotations

import json
import shutil
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from proteins import protein, rows_of
from strategies import ALONE_OR_TOGETHER

from mpnn_core import VARIANTS, CheckpointError, load_model
from mpnn_core.commands.main import main
from mpnn_core.network import variants
from mpnn_core.network.architectures import random_network
from mpnn_core.network.checkpoints import UNMEASURED, Checkpoint, file_sha256, resolve, weights_file
from mpnn_core.network.families import PACKAGED
from mpnn_core.network.variants import Variant, find_variant

WITH_WEIGHTS = [name for name, v in VARIANTS.items() if v.accuracy != "unknown"]
OF_ANOTHER_SHAPE = [name for name, v in VARIANTS.items() if v.untrained == "unknown"]
LOSS = {"value": 1.25, "low": 0.5, "high": 2.04}
SHOWN = "1.2 [0.5, 2.0] points of teacher-forced recovery on TS50, 50 chains"


@pytest.fixture
def none_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package without any student: the folder of its weights."""
    folder = tmp_path / "weights"
    folder.mkdir()
    shutil.copy(variants.WEIGHTS / f"{PACKAGED}.safetensors", folder)
    monkeypatch.setattr(variants, "WEIGHTS", folder)
    return folder


def ship(folder: Path, name: str) -> Checkpoint:
    """Put a student into the package as one is shipped: the weights and their evaluation."""
    variant = VARIANTS[name]
    student = Checkpoint(
        f"{name} student", random_network(variant, 5).state_dict(), variant.neighbours
    )
    student.save(folder / f"{name}.safetensors")
    sha256 = file_sha256(folder / f"{name}.safetensors")
    of_set = {"chains": 50, "metrics": {"recovery": {"loss_of_another_sample": LOSS}}}
    evaluation = {"model": {"sha256": sha256}, "sets": {"TS50": of_set}}
    (folder / f"{name}.json").write_text(json.dumps(evaluation))
    return student


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


def test_the_variants_are_those_of_the_study_and_lean():
    assert {
        name: (v.encoder_layers, v.decoder_layers, v.hidden, v.neighbours, v.batch, v.untrained)
        for name, v in VARIANTS.items()
    } == {
        "baseline": (3, 3, 128, 48, 1, "exact"),
        "fast": (3, 3, 128, 16, 1, "lossy"),
        "lean": (2, 2, 128, 32, 1, "unknown"),
        "minimal": (2, 2, 64, 48, 1, "unknown"),
        "minimal-fast": (2, 2, 64, 16, 1, "unknown"),
        "extreme-v2": (2, 2, 64, 12, 8, "unknown"),
        "minimal-batched": (2, 2, 64, 48, 8, "unknown"),
    }
    assert all(v.name == name for name, v in VARIANTS.items())


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_has_the_parameters_it_should(name):
    network = load_model("random", variant=name).network
    shape = VARIANTS[name].hidden, VARIANTS[name].encoder_layers
    expected = {(128, 3): 1_660_485, (128, 2): 1_132_485, (64, 2): 300_549}[shape]
    assert counted(VARIANTS[name]) == expected
    assert sum(p.numel() for p in network.parameters()) == expected


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_a_variant_with_weights_designs(name):
    model = load_model("v_48_020", variant=name)
    assert model.network.neighbours == VARIANTS[name].neighbours
    assert bool(model.loss) == (name != "baseline")
    [recovery] = model.design(protein("6MRR"), seed=0).recovery
    assert 0.2 < recovery < 0.9  # 68 letters at random: 0.05


def test_fewer_neighbours_are_another_model():
    baseline, fast = (load_model(variant=name) for name in ("baseline", "fast"))
    structure = protein("6MRR")
    assert np.abs(baseline.log_probs(structure) - fast.log_probs(structure)).max() > 0.1


# ------------------------------------------------------------------------------ students


@pytest.mark.parametrize("weights", ["v_48_020", "soluble/v_48_010"])
@pytest.mark.parametrize("name", OF_ANOTHER_SHAPE)
def test_without_a_student_published_weights_of_another_shape_are_refused(
    none_trained, name, weights
):
    assert VARIANTS[name].accuracy == "unknown"
    with pytest.raises(CheckpointError, match=f"'{name}' has no trained weights yet.*'random'"):
        load_model(weights, variant=name)


def test_without_a_student_fast_is_the_published_model_with_fewer_neighbours(none_trained):
    fast = load_model(variant="fast")
    assert fast.name == PACKAGED
    assert fast.loss == VARIANTS["fast"].loss == VARIANTS["fast"].untrained_loss
    assert fast.loss.startswith("9.0")


@pytest.mark.parametrize("name", ["fast", "lean", "minimal", "minimal-fast", "extreme-v2"])
def test_weights_and_their_evaluation_make_a_variant_a_trained_one(none_trained, name):
    student = ship(none_trained, name)
    model = load_model("v_48_020", variant=name)
    assert VARIANTS[name].accuracy == "lossy"
    assert (model.name, model.loss, VARIANTS[name].loss) == (student.name, SHOWN, SHOWN)
    assert f"{name} (loses {SHOWN})" in repr(model)
    for key, value in student.state.items():
        assert np.array_equal(model.network.state_dict()[key], value), key


@pytest.mark.parametrize(
    "weights, variant, shipped, file, loss",
    [
        ("random", "minimal", True, None, "everything: random"),
        (PACKAGED, "minimal", True, "minimal.safetensors", SHOWN),
        (PACKAGED, "baseline", True, "v_48_020.safetensors", ""),
        (PACKAGED, "fast", False, "v_48_020.safetensors", VARIANTS["fast"].untrained_loss),
        (PACKAGED, "minimal", False, CheckpointError, "no trained weights yet"),
        ("v_48_010", "baseline", False, "v_48_010.pt", ""),
        ("v_48_010", "fast", True, "v_48_010.pt", UNMEASURED),
        ("v_48_010", "minimal", True, CheckpointError, "no trained weights of v_48_010 yet"),
        ("ca/v_48_010", "baseline", False, "v_48_010.pt", ""),
        ("ca/v_48_010", "fast", False, CheckpointError, "of another size, and ca/v_48_010 is a CA"),
        ("membrane", "baseline", False, "per_residue_v_48_020.safetensors", ""),
        ("soluble", "fast", True, "v_48_020.safetensors", UNMEASURED),
        ("v_48_999", "baseline", False, CheckpointError, "neither a published checkpoint nor a"),
    ],
)
def test_each_row_of_the_table_of_weights(none_trained, weights, variant, shipped, file, loss):
    if shipped and variant != "baseline":
        ship(none_trained, variant)
    if file is CheckpointError:
        with pytest.raises(CheckpointError, match=loss):
            resolve(weights, VARIANTS[variant])
        return
    choice = resolve(weights, VARIANTS[variant])
    assert (choice.path and choice.path.name, choice.loss) == (file, loss)
    if file is not None:
        assert weights_file(weights, VARIANTS[variant]) == choice.path


def test_a_path_is_that_file_for_every_variant(none_trained):
    path = none_trained / f"{PACKAGED}.safetensors"
    for name, variant in VARIANTS.items():
        choice = resolve(path, variant)
        assert (choice.path, choice.sha256) == (path, None)
        assert bool(choice.loss) == (name != "baseline")


def test_what_is_shipped_for_minimal_serves_its_batched_form(none_trained):
    student = ship(none_trained, "minimal")
    assert load_model(variant="minimal-batched").name == student.name
    assert VARIANTS["minimal-fast"].accuracy == "unknown"


def test_a_path_is_taken_as_it_is_beside_a_student(none_trained):
    """What the published weights lose with fewer neighbours can still be measured."""
    path = none_trained / f"{PACKAGED}.safetensors"
    untrained = load_model(path, variant="fast").log_probs(protein("6MRR"))
    ship(none_trained, "fast")
    again = load_model(path, variant="fast")
    assert np.array_equal(again.log_probs(protein("6MRR")), untrained)
    assert "not measured" in again.loss


def test_a_student_of_one_model_is_not_given_for_another(none_trained):
    ship(none_trained, "minimal")
    with pytest.raises(CheckpointError, match="no trained weights of v_48_010 yet"):
        load_model("v_48_010", variant="minimal")


@pytest.mark.parametrize("damage", ["other weights", "no weights"])
def test_weights_that_were_not_evaluated_are_refused(none_trained, damage):
    ship(none_trained, "minimal")
    path = none_trained / "minimal.safetensors"
    if damage == "no weights":
        path.unlink()
    else:
        other = random_network(VARIANTS["minimal"], 6).state_dict()
        Checkpoint("minimal", other, 48).save(path)
    expected = "is missing" if damage == "no weights" else r"is damaged: sha256 .*expected"
    with pytest.raises(CheckpointError, match=rf"minimal\.safetensors {expected}"):
        load_model(variant="minimal")


def test_weights_without_an_evaluation_are_no_student(none_trained):
    ship(none_trained, "minimal")
    (none_trained / "minimal.json").unlink()
    assert VARIANTS["minimal"].accuracy == "unknown"


def test_the_command_line_names_the_loss_of_a_student(none_trained, capsys, tmp_path, monkeypatch):
    ship(none_trained, "minimal")
    monkeypatch.setenv("COLUMNS", "1000")  # or a line may end within a word
    file = tmp_path / "6MRR.pdb"
    shutil.copy(Path(__file__).parents[1] / "fixtures" / "structures" / "6MRR.pdb", file)
    assert main(["design", str(file), "--variant", "minimal", "--out", str(tmp_path)]) == 0
    assert f"variant minimal is not exact: it loses {SHOWN}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["design", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"minimal (loses {SHOWN})" in shown
    assert "lean (no trained weights)" in shown


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_runs_on_random_weights(name):
    model = load_model("random", variant=name)
    designs = model.design(protein("6MRR"), 2, seed=0)
    assert model.name == "random"
    assert "random" in model.loss
    assert np.isfinite(designs.scores).all()
    np.testing.assert_allclose(designs.probabilities.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_batch_of_different_lengths_is_as_one_by_one(name):
    model = load_model("v_48_020" if name in WITH_WEIGHTS else "random", variant=name)
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
