"""Output files: their names, and what is there already or in the way."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proteins import path_of

from mpnn_core.commands.main import main
from mpnn_core.structures.fasta import title_line
from mpnn_core.structures.files import NAME_BYTES, output_name, write_atomically

SMALL = path_of("6MRR")  # 68 residues


def written(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "seqs").iterdir())


@given(st.binary(min_size=1, max_size=600).map(os.fsdecode))
def test_every_name_has_a_name_in_the_output(name):
    found = output_name(name)
    assert found.isprintable() and "/" not in found
    assert len(found.encode()) <= NAME_BYTES
    assert output_name(found) == found, "it is itself a name for outputs"


@pytest.mark.parametrize(
    "name", ["5L33", "émile", "a b", "x" * NAME_BYTES, "é" * (NAME_BYTES // 2)]
)
def test_an_ordinary_name_is_kept(name):
    assert output_name(name) == name


def test_names_that_look_the_same_stay_two():
    names = [os.fsdecode(b"caf\xe9"), os.fsdecode(b"caf\xe8"), "caf\n", "caf\r", "caf_"]
    assert len({output_name(name) for name in names}) == len(names)
    long = ["x" * 251 + end for end in "ab"]
    assert len({output_name(name) for name in long}) == 2


@pytest.mark.parametrize(
    "name",
    [b"caf\xe9.pdb", b"two\nlines\n>injected.pdb", b"tab\there.pdb", b"x" * 251 + b".pdb",
     b"y" * 255, b"u\xe2\x80\xa8v.pdb"],
    ids=["no UTF-8", "line break", "tab", "255 bytes", "no ending", "line separator"],
)  # fmt: skip
def test_a_name_that_cannot_be_written_spoils_nothing(tmp_path, capsys, name) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    odd.write_bytes(SMALL.read_bytes())
    out = tmp_path / "out"
    assert main(["design", str(SMALL), str(odd), "--save-probs", "--out", str(out)]) == 0
    files = written(out)
    assert len(files) == 2 and "6MRR.fa" in files
    assert len(list((out / "probs").iterdir())) == 2
    (other,) = set(files) - {"6MRR.fa"}
    text = (out / "seqs" / other).read_text("utf-8")
    assert text.count(">") == 2 + text.count(">injected"), "the native sequence and one design"
    assert len(text.splitlines()) == 4
    assert text.startswith(f">{other.removesuffix('.fa')}, score=")
    said = capsys.readouterr().err
    if other.removesuffix(".fa") != odd.stem:
        assert f"called {other.removesuffix('.fa')} in the output" in said
        assert len(said.splitlines()) == 1
    assert main(["score", str(odd)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2, "a head and a row"


def test_a_title_is_one_line() -> None:
    for character in map(chr, [*range(32), 127, 0x85, 0x2028, 0x2029, 0xDC80]):
        assert title_line(f"a{character}>b") == ">a_>b"


def test_what_is_replaced_is_said(tmp_path, capsys) -> None:
    arguments = ["design", str(SMALL), "--out", str(tmp_path), "--save-probs", "-T"]
    assert main([*arguments, "0.1"]) == 0
    assert capsys.readouterr().err == ""
    assert main([*arguments, "0.3"]) == 2
    said = capsys.readouterr().err
    assert "other settings: temperature was 0.1, is 0.3" in said and "--restart" in said
    assert "T=0.1" in (tmp_path / "seqs" / "6MRR.fa").read_text()
    assert main([*arguments, "0.3", "--restart"]) == 0
    files = [tmp_path / "seqs" / "6MRR.fa", tmp_path / "probs" / "6MRR.npz"]
    assert capsys.readouterr().err == f"mpnn-core: warning: replaced: {files[0]}, {files[1]}\n"
    assert "T=0.3" in files[0].read_text()


@pytest.mark.parametrize("in_the_way", ["out", "out/seqs", "out/seqs/6MRR.fa/x", "out/probs"])
def test_what_cannot_be_written_is_said_before_any_work(
    tmp_path, capsys, monkeypatch, in_the_way
) -> None:
    monkeypatch.setattr("mpnn_core.design.model.Model.design", lambda *_: pytest.fail("it works"))
    place = tmp_path / in_the_way
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("in the way")
    out = tmp_path / "out"
    assert main(["design", str(SMALL), "--save-probs", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mpnn-core: --out: ") and str(out) in said


@pytest.mark.parametrize("command", ["distill", "eval", "export", "report"])
@pytest.mark.parametrize("option", ["--out", "--summary"])
def test_every_command_looks_at_its_output_first(
    tmp_path, capsys, monkeypatch, command, option
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    for work in (
        "training.run.Run", "training.evaluate.compare_with_teacher",
        "backends.coreml.packages.convert", "gate.history.load_runs",
    ):  # fmt: skip
        monkeypatch.setattr(f"mpnn_core.{work}", lambda *_: pytest.fail("it works"))
    arguments = {
        "distill": [str(SMALL.parent), "--student", "minimal"],
        "eval": [],
        "export": ["coreml"],
        "report": ["--claims", str(Path(__file__).parents[1] / "claims.toml")],
    }[command]
    if option == "--summary" and command != "report":
        return
    assert main([command, *arguments, option, "file/under"]) == 2
    assert f"mpnn-core: {option}" in capsys.readouterr().err
    if command in ("eval", "report"):
        (tmp_path / "folder").mkdir()
        assert main([command, *arguments, option, "folder"]) == 2
        assert "folder" in capsys.readouterr().err


def test_a_planted_link_is_not_followed(tmp_path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("x.fa.part", "x.fa"):
        (tmp_path / name).symlink_to(victim)
    write_atomically(tmp_path / "x.fa", lambda file: file.write(b"new"))
    assert victim.read_text() == "mine"
    assert (tmp_path / "x.fa").read_bytes() == b"new" and not (tmp_path / "x.fa").is_symlink()


def test_two_runs_at_once_each_write_a_whole_file(tmp_path) -> None:
    """Both are half written when the first is done: neither may hold a piece of the other."""
    path = tmp_path / "x.fa"
    both_open, first_done = threading.Barrier(2, timeout=20), threading.Event()

    def slow(file) -> None:
        file.write(b"slow " * 10)
        both_open.wait()
        assert first_done.wait(20)
        file.write(b"slow " * 10)

    def quick(file) -> None:
        file.write(b"quick " * 10)
        both_open.wait()

    thread = threading.Thread(target=write_atomically, args=(path, slow))
    thread.start()
    write_atomically(path, quick)
    assert path.read_bytes() == b"quick " * 10
    first_done.set()
    thread.join()
    assert path.read_bytes() == b"slow " * 20
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_file_may_be_read_by_whom_the_umask_says(tmp_path, umask) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "x", lambda file: file.write(b"new"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o666 & ~umask


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path) -> None:
    (tmp_path / "x").write_text("old")

    def fail(file) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "x", fail)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_a_device_is_written_to_and_stays(tmp_path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, lambda file: file.write(b"through"))
    assert os.read(reader, 100) == b"through" and pipe.is_fifo()
    os.close(reader)
