"""Archives of structures: what their files are, within bounds, and a sentence for what is not."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
from proteins import path_of

from mpnn_core.commands.main import main
from mpnn_core.runs import inputs
from mpnn_core.runs.inputs import InputError, Item, Shard, list_items
from mpnn_core.structures.structure import StructureError

FILES = [path_of("5L33"), path_of("6MRR")]
FORMS = ["tar", "tar.gz", "tar.bz2", "tar.xz", "zip"]


def packed(path: Path, members: dict[str, bytes]) -> Path:
    """An archive, by the ending of its name."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path
    kind = path.name.partition(".tar")[2].removeprefix(".")
    with tarfile.open(path, f"w:{kind}") as archive:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


@pytest.fixture
def structures() -> dict[str, bytes]:
    return {f"inner/{file.name}": file.read_bytes() for file in FILES}


@pytest.mark.parametrize("form", FORMS)
def test_members_are_read_in_any_order_and_elsewhere(tmp_path, structures, form) -> None:
    items = list_items([packed(tmp_path / f"set.{form}", structures)], pytest.fail)
    assert [item.member for item in items] == list(structures)
    for item in [*items, *items[::-1]]:
        content = structures[item.member]
        assert item.digest() == hashlib.sha256(content).hexdigest()
        with pickle.loads(pickle.dumps(item)).file() as file:
            assert file.read_bytes() == content


def test_a_name_that_leads_out_leads_nowhere(tmp_path, structures) -> None:
    content = next(iter(structures.values()))
    inside = tmp_path / "in"
    inside.mkdir()
    path = packed(inside / "set.tar", {"../../out.pdb": content, "/abs.pdb": content})
    before = sorted(tmp_path.rglob("*"))
    for item in list_items([path], pytest.fail):
        with item.file() as file:
            assert file.name in ("out.pdb", "abs.pdb")
            assert file.read_bytes() == content
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/abs.pdb").exists()


@pytest.mark.parametrize("form", ["tar.gz", "tar.xz", "zip"])
def test_what_unpacks_to_much_more_than_itself_is_refused(tmp_path, monkeypatch, form) -> None:
    monkeypatch.setattr(inputs, "ALWAYS_UNPACKED", 1 << 20)
    path = packed(tmp_path / f"set.{form}", {"5L33.pdb": bytes(8 << 20)})
    with pytest.raises(InputError, match="unpacks to"):
        list_items([path], print)


def test_a_promise_of_many_bytes_is_not_unpacked(tmp_path) -> None:
    """A header of 64 GB alone: refused before one byte of it is looked for."""
    about = tarfile.TarInfo("5L33.pdb")
    about.size = 64 << 30
    (tmp_path / "a.tar").write_bytes(about.tobuf() + bytes(1024))
    with pytest.raises(InputError, match=r"a\.tar: .* unpacks to more than 64 MB"):
        list_items([tmp_path / "a.tar"], print)


@pytest.mark.parametrize("form", ["tar.gz", "tar.bz2", "tar.xz", "zip"])
def test_an_archive_that_was_cut_is_refused(tmp_path, structures, form) -> None:
    whole = packed(tmp_path / f"set.{form}", structures)
    cut = tmp_path / f"cut.{form}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"cut\.{form}: an archive that cannot be read"):
        list_items([cut], print)


def test_a_damaged_member_is_named_and_the_others_are_read(tmp_path, structures) -> None:
    path = packed(tmp_path / "set.zip", structures)
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    first, second = list_items([path], pytest.fail)
    for use in (Item.digest, lambda item: item.file().__enter__()):
        with pytest.raises(StructureError, match=r"set\.zip!inner/5L33\.pdb: cannot be read"):
            use(first)
    assert second.digest() == hashlib.sha256(structures[second.member]).hexdigest()


def test_links_and_encrypted_members_are_refused(tmp_path, structures) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("link.pdb")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(InputError, match=r"a\.tar!link\.pdb: it is a link"):
        list_items([tmp_path / "a.tar"], print)
    path = packed(tmp_path / "a.zip", structures)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1  # the flag, in the directory at the end
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.zip!inner/5L33\.pdb: it is encrypted"):
        list_items([path], print)


def test_two_members_of_one_path_are_refused(tmp_path, structures) -> None:
    content = next(iter(structures.values()))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for _ in range(2):
            about = tarfile.TarInfo("a.pdb")
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    with pytest.raises(InputError, match=r"two members are called a\.pdb"):
        list_items([tmp_path / "a.tar"], print)


def test_a_shard_is_parsed_or_refused() -> None:
    assert Shard.parse("3/16") == Shard(3, 16)
    for text in ("0/16", "17/16", "3", "/4", "3/", "-1/4", "a/b", "1/0", ""):
        with pytest.raises(InputError, match="expected NUMBER/OF"):
            Shard.parse(text)


@pytest.mark.parametrize("command", ["score", "scan"])
def test_other_commands_take_lists_and_refuse_archives(command, tmp_path, capsys):
    (tmp_path / "in.txt").write_text(f"{path_of('6MRR')}\n")
    assert main([command, str(tmp_path / "in.txt")]) == 0
    assert "6MRR" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path_of("6MRR"), "6MRR.pdb")
    assert main([command, str(tmp_path / "a.zip")]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path}/a.zip: archives" in said and "give the structures as files" in said
