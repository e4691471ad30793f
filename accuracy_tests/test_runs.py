"""A run is a folder: continued, divided, joined; each structure once, and what failed is listed."""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from proteins import TS50, path_of, protein

import mpnn_core as mpnn
from mpnn_core.commands import designing
from mpnn_core.commands.main import main
from mpnn_core.runs.folder import RunFolder, read_done
from mpnn_core.runs.inputs import InputError, Shard, list_items

SMALL = path_of("6MRR")
OPTIONS = ["-n", "2", "--seed", "7"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Six small structures, and one that is none."""
    made = tmp_path_factory.mktemp("inputs")
    structure = protein("6MRR")
    for i in range(6):
        coords = structure.coords + np.random.default_rng(i).normal(0, 0.02, structure.coords.shape)
        moved = mpnn.Structure.from_backbone(coords[: 30 + i], structure.sequence[: 30 + i])
        mpnn.write_structure(made / f"s{i}.pdb", moved)
    return made


def design(inputs: object, out: Path, *options: object) -> int:
    paths = inputs if isinstance(inputs, list) else [inputs]
    call = ["design", *paths, *OPTIONS, *options, "--out", out]
    return main([str(part) for part in call])


def fasta(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "seqs").glob("*.fa"))}


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory) -> dict[str, bytes]:
    """What an undisturbed run writes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert design(folder, out) == 0
    found = fasta(out)
    assert len(found) == 6
    return found


def test_a_run_is_continued(folder, whole, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert design(sorted(folder.glob("s[0-2].pdb")), out) == 0
    before = {name: (out / "seqs" / name).stat().st_mtime_ns for name in fasta(out)}
    capsys.readouterr()
    assert design(folder, out) == 0
    assert "continued, 3 of 6 structures are done" in capsys.readouterr().err
    assert fasta(out) == whole
    assert all((out / "seqs" / n).stat().st_mtime_ns == at for n, at in before.items())


def test_without_a_seed_a_run_keeps_the_one_it_drew(folder, tmp_path) -> None:
    call = ["design", str(folder), "--out", str(tmp_path / "out")]
    assert main(call) == 0
    first = fasta(tmp_path / "out")
    (tmp_path / "out" / "seqs" / "s3.fa").unlink()
    assert main(call) == 0
    assert fasta(tmp_path / "out") == first, "what was removed is designed again, from one seed"


def test_a_structure_that_has_changed_is_designed_again(folder, tmp_path) -> None:
    copy = tmp_path / "s.pdb"
    copy.write_bytes((folder / "s0.pdb").read_bytes())
    out = tmp_path / "out"
    assert design(copy, out) == 0
    first = fasta(out)
    copy.write_bytes((folder / "s5.pdb").read_bytes())
    assert design(copy, out) == 0
    assert fasta(out) != first and len(read_done(out / "run" / "done.jsonl")) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-T", "0.3"], "temperature was not given, is 0.3"),
        (["--weights", "soluble"], ", is soluble (sha256 "),
        (["--seed", "8"], "seed was 7, is 8"),
        (["--shard", "1/2"], "shard was , is 1/2"),
    ],
)
def test_another_run_is_refused(folder, tmp_path, capsys, options, said) -> None:
    out = tmp_path / "out"
    one = folder / "s0.pdb"
    assert design(one, out) == 0
    first = fasta(out)
    rest = ["-n", "2"] if "--seed" in options else OPTIONS
    assert main(["design", str(one), *rest, *options, "--out", str(out)]) == 2
    assert said in capsys.readouterr().err and fasta(out) == first


def test_the_content_of_files_that_options_name_counts(folder, tmp_path, capsys) -> None:
    (tmp_path / "r.resfile").write_text("ALLAA\nstart\n1 A NATAA\n")
    call = ["--resfile", tmp_path / "r.resfile"]
    out = tmp_path / "out"
    assert design(folder / "s0.pdb", out, *call) == 0
    assert design(folder / "s0.pdb", out, *call) == 0
    (tmp_path / "r.resfile").write_text("ALLAA\nstart\n2 A NATAA\n")
    assert design(folder / "s0.pdb", out, *call) == 2
    assert "resfile was" in capsys.readouterr().err


def test_failures_are_a_table_and_the_others_are_designed(folder, whole, tmp_path) -> None:
    bad = tmp_path / "bad.pdb"
    bad.write_text((folder / "s0.pdb").read_text().replace("  2.", "  x."))
    out = tmp_path / "out"
    assert design([folder, bad], out) == 1
    with (out / "failures.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["file"] == str(bad) and row["chain"] == "A" and row["residue"] and row["reason"]
    assert str(bad) not in row["reason"]
    assert fasta(out) == whole
    bad.write_bytes((folder / "s0.pdb").read_bytes())
    assert design([folder, bad], out) == 0
    assert not (out / "failures.csv").exists() and "bad.fa" in fasta(out)


def test_several_processes_write_the_same(folder, whole, tmp_path, capfd) -> None:
    out = tmp_path / "out"
    table = tmp_path / "t.csv"
    assert design(folder, out, "--workers", "2", "--table", table) == 0
    assert fasta(out) == whole
    assert len(table.read_text().splitlines()) == 1 + 12
    assert design(folder, out, "--workers", "2", "--table", table) == 0, "rows of earlier calls"
    assert len(table.read_text().splitlines()) == 1 + 12
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("cores", "structures", "processes"),
    [(2, 10_000, 1), (16, 10_000, 4), (16, 250, 2), (16, 99, 1), (64, 10_000, 16)],
)
def test_many_cores_get_several_processes_if_there_is_enough_to_do(
    cores, structures, processes, monkeypatch
) -> None:
    monkeypatch.setattr(designing, "_cores", lambda: cores)
    options = argparse.Namespace(device="cpu", workers=None, page=None, out=Path("out"))
    assert designing._places(options, structures) == ["cpu"] * processes
    options.out = designing.STANDARD_OUTPUT
    assert designing._places(options, structures) == ["cpu"], "what is printed has one writer"
    options.workers = 3
    assert designing._places(options, 2) == ["cpu"] * 2


def test_shards_are_joined(folder, whole, tmp_path, capsys) -> None:
    parts = [tmp_path / f"part{i}" for i in (1, 2, 3)]
    for i, part in enumerate(parts, 1):
        assert design(folder, part, "--shard", f"{i}/3") == 0
    names = [set(fasta(part)) for part in parts]
    assert set.union(*names) == set(whole) and sum(map(len, names)) == 6
    assert main(["merge", *map(str, parts), "--out", str(tmp_path / "all")]) == 0
    assert fasta(tmp_path / "all") == whole
    assert design(folder, tmp_path / "all") == 0, "the whole can be continued"
    capsys.readouterr()
    assert main(["merge", *map(str, parts[:2]), "--out", str(tmp_path / "less")]) == 1
    assert "shard 3/3 is missing" in capsys.readouterr().err
    assert main(["merge", str(parts[0]), str(parts[0]), "--out", str(tmp_path / "twice")]) == 2
    assert "shard 1/3 is given twice" in capsys.readouterr().err
    other = tmp_path / "other"
    assert design(folder, other, "--shard", "2/3", "-T", "0.4") == 0
    assert main(["merge", str(parts[0]), str(other), "--out", str(tmp_path / "mixed")]) == 2
    assert "temperature" in capsys.readouterr().err


def test_a_shard_does_not_change_when_inputs_are_added() -> None:
    digests = [f"{i:064x}" for i in range(1000, 5000, 7)]
    for of in (1, 3, 16):
        shards = [Shard(k + 1, of) for k in range(of)]
        assert all(sum(shard.holds(d) for shard in shards) == 1 for d in digests)
    with pytest.raises(InputError, match="expected NUMBER/OF, such as 3/16"):
        Shard.parse("0/4")


def test_parquet_parts_have_all_rows_and_are_continued(folder, whole, tmp_path) -> None:
    pandas = pytest.importorskip("pandas")
    out = tmp_path / "out"
    assert design(sorted(folder.glob("s[0-2].pdb")), out, "--format", "parquet") == 0
    assert design(folder, out, "--format", "parquet") == 0
    parts = sorted((out / "designs").glob("part-*.parquet"))
    assert len(parts) == 2
    rows = pandas.concat([pandas.read_parquet(part) for part in parts])
    assert sorted(rows["structure"]) == sorted(f"s{i}" for i in range(6) for _ in range(2))
    text = whole["s1.fa"].decode().splitlines()[3::2]
    assert rows[rows["structure"] == "s1"]["sequence"].tolist() == text
    assert not (out / "seqs").exists()


def rows_of_parts(out: Path) -> list[dict[str, object]]:
    parquet = pytest.importorskip("pyarrow.parquet")
    parts = sorted((out / "designs").glob("part-*.parquet"))
    return [row for part in parts for row in parquet.read_table(part).to_pylist()]


def test_a_structure_that_has_changed_has_its_new_rows_alone(folder, tmp_path) -> None:
    """A row of the old content beside one of the new would count a structure twice."""
    copies = [tmp_path / f"c{i}.pdb" for i in range(3)]
    for i, copy in enumerate(copies):
        copy.write_bytes((folder / f"s{i}.pdb").read_bytes())
    out = tmp_path / "out"
    assert design(copies, out, "--format", "parquet") == 0
    first = {str(row["name"]): row["sequence"] for row in rows_of_parts(out)}
    copies[1].write_bytes((folder / "s5.pdb").read_bytes())
    assert design(copies, out, "--format", "parquet") == 0
    rows = rows_of_parts(out)
    assert sorted(str(row["name"]) for row in rows) == sorted(first)
    changed = {str(row["name"]) for row in rows if row["sequence"] != first[str(row["name"])]}
    assert changed == {"c1_1", "c1_2"}


def test_a_change_that_was_cut_short_is_made_up_for(folder, tmp_path) -> None:
    """Killed after the log took back a structure, and before its rows went."""
    out = tmp_path / "out"
    assert design(folder, out, "--format", "parquet") == 0
    whole = rows_of_parts(out)
    with RunFolder(
        out, json.loads((out / "run/run.json").read_text())["settings"], "", 7, 7
    ) as run:
        run.forget(["s2"])
        assert "s2" not in run.lines
    assert "s2" not in read_done(out / "run" / "done.jsonl")
    assert design(folder, out, "--format", "parquet") == 0
    assert rows_of_parts(out) == whole


def test_a_run_that_is_begun_again_has_no_rows_of_before(folder, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    parquet = ("--format", "parquet")
    assert design(folder, out, *parquet) == 0
    first = rows_of_parts(out)
    assert design(folder, out, *parquet, "--restart", "-T", "0.9") == 0
    assert "1 parts of an earlier run are removed" in capsys.readouterr().err
    again = rows_of_parts(out)
    assert len(again) == len(first) and again != first
    assert {row["temperature"] for row in again} == {0.9}
    (out / "run" / "run.json").unlink()
    assert design(folder, out, *parquet) == 2, "rows of which nobody knows how they were made"
    assert "part-00000.parquet is of a run of which nothing else is" in capsys.readouterr().err
    assert rows_of_parts(out) == again


def test_a_shard_that_has_not_ended_is_missing(folder, tmp_path, capsys) -> None:
    """What a task that ran out of time left is no whole shard."""
    parts = [tmp_path / "a" / "designs", tmp_path / "b" / "designs"]
    for i, part in enumerate(parts, 1):
        assert design(folder, part, "--format", "parquet", "--shard", f"{i}/2") == 0
    (parts[1] / "run" / "ended").unlink()
    capsys.readouterr()
    assert main(["merge", *map(str, parts), "--out", str(tmp_path / "all")]) == 1
    assert f"shard 2/2 has not ended: continue it in {parts[1]}" in capsys.readouterr().err
    assert not (tmp_path / "all" / "run" / "ended").exists()
    assert design(folder, parts[1], "--format", "parquet", "--shard", "2/2") == 0
    assert main(["merge", *map(str, parts), "--out", str(tmp_path / "all")]) == 0
    assert len(rows_of_parts(tmp_path / "all")) == 12


def test_a_structure_that_changes_its_shard_is_in_one(folder, tmp_path, capsys) -> None:
    inputs = tmp_path / "in"
    inputs.mkdir()
    for file in sorted(folder.glob("s?.pdb")):
        (inputs / file.name).write_bytes(file.read_bytes())
    shards = [tmp_path / f"shard{i}" for i in (1, 2)]

    def designed() -> None:
        for i, shard in enumerate(shards, 1):
            assert design(inputs, shard, "--shard", f"{i}/2") == 0

    designed()
    moving = next(iter(fasta(shards[0]))).removesuffix(".fa")
    text = (inputs / f"{moving}.pdb").read_text()
    for i in range(64):  # until the content is of the other shard
        (inputs / f"{moving}.pdb").write_text(f"REMARK {i}\n{text}")
        if Shard(2, 2).holds(list_items([inputs / f"{moving}.pdb"], print)[0].digest()):
            break
    capsys.readouterr()
    designed()
    assert f"{moving} has changed, and is of another shard now" in capsys.readouterr().err
    assert f"{moving}.fa" not in fasta(shards[0]) and f"{moving}.fa" in fasta(shards[1])
    assert main(["merge", *map(str, shards), "--out", str(tmp_path / "all")]) == 0
    assert len(fasta(tmp_path / "all")) == 6


def test_rows_are_written_once_if_the_log_cannot_be(folder, tmp_path, monkeypatch) -> None:
    """SIGTERM, or a full disk, while the structures of a part are logged."""
    out, add = tmp_path / "out", RunFolder.add

    def failing(run, done) -> None:
        if done.name == "s2":
            raise OSError(28, "No space left on device")
        add(run, done)

    monkeypatch.setattr(RunFolder, "add", failing)
    monkeypatch.setattr(designing, "STRUCTURES_A_PART", 3)
    assert design(folder, out, "--format", "parquet") != 0
    assert len(rows_of_parts(out)) == 6
    monkeypatch.undo()
    assert design(folder, out, "--format", "parquet") == 0
    assert len(rows_of_parts(out)) == 12


def test_content_that_comes_back_is_not_taken_for_done(folder, tmp_path) -> None:
    """Killed after the results of the other content were written, and before they were logged."""
    copy, out = tmp_path / "s.pdb", tmp_path / "out"
    contents = [(folder / f"s{i}.pdb").read_bytes() for i in (0, 1)]
    copy.write_bytes(contents[0])
    assert design(copy, out) == 0
    first = fasta(out)
    copy.write_bytes(contents[1])
    with pytest.MonkeyPatch.context() as patch:
        add = RunFolder.add
        patch.setattr(RunFolder, "add", lambda run, done: done.digest or add(run, done))
        assert design(copy, out) == 0
    assert fasta(out) != first
    copy.write_bytes(contents[0])
    assert design(copy, out) == 0
    assert fasta(out) == first


def test_a_name_that_cannot_be_printed_has_its_rows_once(folder, tmp_path, capsys) -> None:
    copy, out = tmp_path / "a\u00a0b.pdb", tmp_path / "out"
    copy.write_bytes((folder / "s0.pdb").read_bytes())
    for _ in range(2):
        assert design(copy, out, "--format", "parquet") == 0
    assert "continued, 1 of 1 structures are done" in capsys.readouterr().err
    assert len(rows_of_parts(out)) == 2


def test_a_table_without_rows_is_made_too(folder, tmp_path, capsys) -> None:
    out, table = tmp_path / "out", ("--table", tmp_path / "t.csv", "--max-mutations", "0")
    for _ in range(2):
        assert design(folder, out, *table) == 0
    assert "continued, 6 of 6 structures are done" in capsys.readouterr().err


def test_parts_of_shards_are_joined(folder, tmp_path, capsys) -> None:
    parquet = ("--format", "parquet")
    assert design(folder, tmp_path / "whole", *parquet) == 0
    shards = [tmp_path / f"shard{i}" for i in (1, 2)]
    for i, shard in enumerate(shards, 1):
        assert design(folder, shard, *parquet, "--shard", f"{i}/2") == 0
    assert main(["merge", *map(str, shards), "--out", str(tmp_path / "all")]) == 0
    joined = rows_of_parts(tmp_path / "all")
    assert sorted(joined, key=repr) == sorted(rows_of_parts(tmp_path / "whole"), key=repr)
    capsys.readouterr()
    assert design(folder, tmp_path / "all", *parquet) == 0
    assert "continued, 6 of 6 structures are done" in capsys.readouterr().err


def test_a_part_that_was_removed_is_designed_again(folder, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    parquet = ("--format", "parquet")
    assert design(sorted(folder.glob("s[0-2].pdb")), out, *parquet) == 0
    assert design(folder, out, *parquet) == 0
    whole = sorted(rows_of_parts(out), key=repr)
    (out / "designs" / "part-00000.parquet").unlink()
    capsys.readouterr()
    assert design(folder, out, *parquet) == 0
    assert "continued, 3 of 6 structures are done" in capsys.readouterr().err
    assert sorted(rows_of_parts(out), key=repr) == whole


def test_a_structure_without_rows_is_done_too(folder, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    none = ("--format", "parquet", "--max-mutations", "0")
    assert design(folder, out, *none) == 0
    assert design(folder, out, *none) == 0
    assert "continued, 6 of 6 structures are done" in capsys.readouterr().err


def test_a_run_of_many_ends_with_what_it_did(folder, tmp_path, capsys) -> None:
    for i in range(6):
        (tmp_path / f"t{i}.pdb").write_bytes((folder / f"s{i}.pdb").read_bytes())
    (tmp_path / "bad.pdb").write_text("no structure")
    out = tmp_path / "out"
    assert design([folder, tmp_path], out) == 1
    *_, done, failed = capsys.readouterr().err.splitlines()
    assert f"{out}: 12 structures designed in " in done and done.endswith(" a second")
    assert failed == "mpnn-core: 1 of 13 files failed"


# -------------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "list", "pattern", "parquet"])
def test_inputs_of_every_kind_are_the_same(kind, folder, whole, tmp_path) -> None:
    files = sorted(folder.glob("*.pdb"))
    given = tmp_path / f"in.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(given, "w") as archive:
            for file in files:
                archive.write(file, f"deep/{file.name}")
    elif kind.startswith("tar"):
        with tarfile.open(given, "w:gz" if kind.endswith("gz") else "w") as archive:
            for file in files:
                archive.add(file, f"../{file.name}")
    elif kind == "list":
        given = tmp_path / "in.txt"
        given.write_text("# all\n" + "".join(f"{file}\n" for file in files))
    elif kind == "pattern":
        given = folder / "s*.pdb"
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        structures = [mpnn.read_structure(file) for file in files]
        parquet.write_table(pyarrow.table({
            "name": [s.name for s in structures],
            "coords": [s.coords.ravel().tolist() for s in structures],
            "sequence": [s.sequence for s in structures],
        }), given)  # fmt: skip
    out = tmp_path / "out"
    assert design(given, out) == 0
    if kind == "parquet":  # whose residue numbers begin elsewhere
        assert set(fasta(out)) == set(whole)
        return
    assert fasta(out) == whole
    assert not list(tmp_path.glob("*.pdb")), "nothing is unpacked beside the archive"


def test_an_npz_of_backbones_is_an_input(tmp_path) -> None:
    chains = [protein(name) for name in TS50[:2]]
    tokens = [s.tokens.astype(np.int8) for s in chains]
    lengths = np.array([len(s) for s in chains])
    np.savez(
        tmp_path / "b.npz", coords=np.concatenate([s.coords for s in chains]),
        aa=np.concatenate(tokens), resnum=np.concatenate([np.arange(n) for n in lengths]),
        offsets=np.concatenate([[0], lengths.cumsum()]), ids=np.array(TS50[:2]),
        alphabet=np.array(mpnn.ALPHABET),
    )  # fmt: skip
    assert design(tmp_path / "b.npz", tmp_path / "out") == 0
    assert set(fasta(tmp_path / "out")) == {f"{name}.fa" for name in TS50[:2]}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: (p / "a.zip").write_bytes(b"PK no"), "an archive that cannot be read"),
        (lambda p: (p / "a.tar.gz").write_bytes(gzip.compress(b"no")), "an archive that cannot be"),
        (lambda p: (p / "a.txt").write_text("# nothing\n"), "a list with no path"),
        (lambda p: (p / "a.npz").write_bytes(b"no"), "backbones that cannot be read"),
        (lambda p: (p / "a.parquet").write_bytes(b"no"), "backbones that cannot be read"),
        (lambda p: (p / "a.d").mkdir(), "holds no structure"),
    ],
    ids=["zip", "tar", "list", "npz", "parquet", "folder"],
)
def test_inputs_that_cannot_be_listed_are_named(make, said, tmp_path, capsys) -> None:
    make(tmp_path)
    (given,) = tmp_path.iterdir()
    assert design(given, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert said in error and str(given) in error and not (tmp_path / "out").exists()


def test_two_of_one_name_are_refused(folder, tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(folder / "s0.pdb", "s0.pdb")
    with pytest.raises(InputError, match=r"a\.zip!s0\.pdb are both called s0"):
        list_items([folder / "s0.pdb", tmp_path / "a.zip"], print)


def test_members_that_fail_are_named_by_their_archive(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/bad.pdb", "no structure")
        archive.writestr("readme.md", "text")
    assert design(tmp_path / "a.zip", tmp_path / "out") == 1
    row = (tmp_path / "out" / "failures.csv").read_text()
    assert f"{tmp_path}/a.zip!x/bad.pdb" in row and "/mpnn_core-" not in row


# -------------------------------------------------------------------------------------- faults


def started(
    inputs: Path, out: Path, *more: str, options: Sequence[str] = OPTIONS
) -> subprocess.Popen[str]:
    code = "import sys; from mpnn_core.commands.main import main; sys.exit(main(sys.argv[1:]))"
    call = [sys.executable, "-c", code, "design", str(inputs), *options, *more, "--out", str(out)]
    return subprocess.Popen(call, stderr=subprocess.PIPE, text=True)


def many(folder: Path, count: int) -> Path:
    """A folder of more structures, so that a run takes a while."""
    structure = protein("5L33")
    folder.mkdir()
    for i in range(count):
        rng = np.random.default_rng(i)
        coords = structure.coords + rng.normal(0, 0.02, structure.coords.shape)
        moved = mpnn.Structure.from_backbone(coords, structure.sequence)
        mpnn.write_structure(folder / f"m{i:03d}.pdb", moved)
    return folder


def wait_for(out: Path, structures: int, process: subprocess.Popen[str]) -> None:
    for _ in range(6000):
        if len(list((out / "seqs").glob("*.fa"))) >= structures or process.poll() is not None:
            return
        time.sleep(0.01)
    raise AssertionError("nothing is written")


def test_sigterm_ends_a_run_that_can_be_continued(tmp_path) -> None:
    inputs, out = many(tmp_path / "in", 240), tmp_path / "out"
    process = started(inputs, out)
    wait_for(out, 1, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 143 and "ended by SIGTERM; all files written so far" in said
    assert design(inputs, out) == 0
    assert len(fasta(out)) == 240


def test_sigterm_does_not_wait_for_what_processes_compute(tmp_path) -> None:
    """A batch of theirs would take minutes, and a scheduler kills what has not ended by then."""
    inputs, out = many(tmp_path / "in", 16), tmp_path / "out"
    process = started(inputs, out, "--workers", "2", options=["-n", "20000"])
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.parent.exists():
        process.kill()
        pytest.skip("needs the list of a process's children, as Linux has it")
    workers: list[int] = []
    while len(workers) < 2:
        assert process.poll() is None
        found = [int(child) for child in children.read_text().split()]
        workers = [c for c in found if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text()]
        time.sleep(0.1)
    while not all(busy(worker) for worker in workers):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143 and "ended by SIGTERM" in said
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def busy(process: int) -> bool:
    """Whether a process has had more of a processor than its start takes."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) > 8 * os.sysconf("SC_CLK_TCK")


def test_a_second_run_into_a_folder_is_told(folder, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    with RunFolder(out, {}, "0", 1, 1):
        assert design(folder, out) == 2
    assert f"{out}: process {os.getpid()} is writing to it" in capsys.readouterr().err


def test_a_lock_of_a_process_that_is_dead_is_none(folder, whole, tmp_path) -> None:
    out = tmp_path / "out"
    process = started(folder, out)
    wait_for(out, 1, process)
    process.kill()
    process.communicate()
    assert (out / "run" / "lock").read_text() == str(process.pid)
    assert design(folder, out) == 0 and fasta(out) == whole


def test_a_worker_that_is_killed_costs_nothing(tmp_path) -> None:
    inputs, out = many(tmp_path / "in", 60), tmp_path / "out"
    process = started(inputs, out, "--workers", "2")
    wait_for(out, 1, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("needs the list of a process's children, as Linux has it")
    workers = [
        int(child)
        for child in children.read_text().split()
        if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()
    ]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert len(fasta(out)) == 60 and not (out / "failures.csv").exists()


@pytest.mark.skipif(os.name != "posix", reason="needs limits of a Unix")
def test_a_full_disk_loses_nothing_that_was_done(folder, whole, tmp_path) -> None:
    """Files are limited to less than one FASTA file after three structures."""
    out = tmp_path / "out"
    assert design(sorted(folder.glob("s[0-2].pdb")), out) == 0
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100));"
        "from mpnn_core.commands.main import main; sys.exit(main(sys.argv[1:]))"
    )
    call = [sys.executable, "-c", code, "design", str(folder), *OPTIONS, "--out", str(out)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert fasta(out) == {name: whole[name] for name in ("s0.fa", "s1.fa", "s2.fa")}
    assert design(folder, out) == 0
    assert fasta(out) == whole and not list(out.rglob("*.part"))


def test_a_line_that_was_cut_does_not_count(folder, whole, tmp_path) -> None:
    out = tmp_path / "out"
    assert design(folder, out) == 0
    log = out / "run" / "done.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    assert len(read_done(log)) == 5
    assert design(folder, out) == 0
    assert fasta(out) == whole and len(read_done(log)) == 6


def test_a_manifest_that_is_none_is_refused(folder, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert design(folder, out) == 0
    (out / "run" / "run.json").write_text("{")
    assert design(folder, out) == 2
    assert "no manifest of a run" in capsys.readouterr().err
    assert design(folder, out, "--restart") == 0
    assert json.loads((out / "run" / "run.json").read_text())["seed"] == 7
