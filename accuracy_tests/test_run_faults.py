"""Faults of a run, with real processes: what was done stays, and a rerun does the rest."""

from __future__ import annotations

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from proteins import protein, rows_of

from mpnn_core.runs.folder import read_done
from mpnn_core.runs.workers import Workers
from mpnn_core.structures.writers import write_structure

COMMAND = [sys.executable, "-c", "import sys; from mpnn_core.commands.main import main; sys.exit(main())"]  # fmt: skip  # noqa: E501
COUNT = 24
KILLS = 20

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


def backbones(folder: Path, count: int, length: int = 40) -> Path:
    """Pieces of 5L33, each jittered in its own way."""
    folder.mkdir()
    whole, noise = protein("5L33"), np.random.default_rng(0)
    for i in range(count):
        first = i % (len(whole) - length)
        piece = rows_of(whole, slice(first, first + length))
        write_structure(folder / f"b{i:05d}.pdb", jittered(piece, noise))
    return folder


def jittered(structure, noise):
    coords = structure.coords + noise.normal(0, 0.02, structure.coords.shape)
    return replace(structure, coords=coords.astype(structure.coords.dtype))


def call(inputs: Path, out: Path, *more: object) -> list[str]:
    return [*COMMAND, "design", str(inputs), "--seed", "3", "--out", str(out), *map(str, more)]


def started(*arguments: object) -> subprocess.Popen[str]:
    """A run in a session of its own, so that nothing else gets its signals."""
    return subprocess.Popen(
        call(*arguments), stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(call(*arguments), capture_output=True, text=True, timeout=300)


def designs(out: Path) -> dict[str, bytes]:
    """Everything that a run wrote for structures, by name; none is half a file."""
    return {file.name: file.read_bytes() for file in sorted((out / "seqs").glob("*.fa"))}


def until(holds, process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Wait until something holds; fail if the process ends before."""
    end = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return backbones(tmp_path_factory.mktemp("faults") / "in", COUNT)


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    done = run(inputs, out, "-n", 2)
    assert done.returncode == 0, done.stderr
    assert len(designs(out)) == COUNT
    return designs(out)


@pytest.mark.proof
def test_a_full_file_system_loses_nothing_that_was_written(inputs, undisturbed, tmp_path):
    with _mounted(tmp_path / "small", "300k") as small:
        out = small / "out"
        full = run(inputs, out, "-n", 200)
        assert full.returncode in (1, 2), full.stderr
        assert "No space left" in full.stderr and "Traceback" not in full.stderr
        whole = designs(out)
        assert all(text.count(b">") == 201 for text in whole.values())


@contextmanager
def _mounted(folder: Path, size: str):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.proof
def test_a_folder_that_goes_away_is_said(inputs, undisturbed, tmp_path):
    """What is left is no run that looks complete: a rerun makes all of it."""
    out = tmp_path / "out"
    process = started(inputs, out, "-n", 200)
    until((out / "run" / "run.json").exists, process)
    shutil.rmtree(out, ignore_errors=True)
    said = process.communicate(timeout=300)[1]
    assert process.returncode != 0, said
    assert str(out) in said and "Traceback" not in said
    shutil.rmtree(out, ignore_errors=True)
    assert run(inputs, out, "-n", 2).returncode == 0
    assert designs(out) == undisturbed


@pytest.mark.proof
def test_a_structure_that_kills_its_worker_is_set_aside(inputs, undisturbed, tmp_path):
    """A module that Python loads at its start ends a process that reads one of the files."""
    out, poison = tmp_path / "out", tmp_path / "poison"
    poison.mkdir()
    before = os.environ.get("PYTHONPATH", "")
    (poison / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def killing(event, arguments):\n"
        "    if (event == 'open' and 'spawn_main' in ' '.join(sys.orig_argv)\n"
        "            and str(arguments[0]).endswith('b00005.pdb')):\n"
        "        os.kill(os.getpid(), 9)\n"
        "sys.addaudithook(killing)\n"
    )
    paths = os.pathsep.join(filter(None, [str(poison), before]))
    environment = os.environ | {"PYTHONPATH": paths}
    found = subprocess.run(
        call(inputs, out, "-n", 2, "--workers", 2), capture_output=True, text=True, timeout=300,
        env=environment,
    )  # fmt: skip
    assert found.returncode == 1, found.stderr
    with (out / "failures.csv").open(newline="") as file:
        (failure,) = csv.DictReader(file)
    assert failure["file"].endswith("b00005.pdb") and failure["reason"]
    assert designs(out) == {n: t for n, t in undisturbed.items() if n != "b00005.fa"}
    assert run(inputs, out, "-n", 2).returncode == 0
    assert designs(out) == undisturbed and not (out / "failures.csv").exists()


KILLERS = {4, 7, 8, 15}


def killing(place: str):
    def compute(batch: list[int]) -> list[str]:
        if KILLERS & set(batch):
            os.kill(os.getpid(), signal.SIGKILL)
        return [str(n) for n in batch]

    return compute


@pytest.mark.parametrize("count", [1, 2])
def test_killers_in_neighbouring_batches_take_nobody_along(count):
    places = ["cpu"] * count
    workers = Workers(places, killing, lambda item, place, why: f"lost {item}", "test")
    found = list(workers.results(iter(range(24)), 3))
    assert found == [f"lost {n}" if n in KILLERS else str(n) for n in range(24)]


def kill_while_it_sends() -> None:
    """End this process in the middle of a message."""
    main = threading.main_thread().ident
    while sys._current_frames()[main].f_code.co_name != "_send":
        time.sleep(0.001)
    time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)


def sending(place: str):
    """Computes what takes long to send, and is killed meanwhile."""

    def compute(batch: list[int]) -> list[bytes]:
        if 3 in batch:
            threading.Thread(target=kill_while_it_sends, daemon=True).start()
        return [bytes(300_000_000) if n == 3 else b"" for n in batch]

    return compute


def test_a_worker_that_dies_in_the_middle_of_a_message_is_missed():
    workers = Workers(["cpu"], sending, lambda item, place, why: f"lost {item}", "test")
    found = list(workers.results(iter(range(6)), 2))
    assert found == [b"", b"", b"", "lost 3", b"", b""]


@pytest.mark.proof
def test_no_clock_says_what_is_done(inputs, undisturbed, tmp_path):
    """Times of files from the future, and from 1970: neither is done again, or left out."""
    out = tmp_path / "out"
    assert run(inputs, out, "-n", 2).returncode == 0
    for i, file in enumerate(sorted(out.rglob("*"))):
        os.utime(file, (0, 0) if i % 2 else (4e9, 4e9))
    gone = out / "seqs" / "b00003.fa"
    gone.unlink()
    kept = {f.name: f.stat().st_ino for f in (out / "seqs").iterdir()}
    again = run(inputs, out, "-n", 2)
    assert again.returncode == 0, again.stderr
    assert designs(out) == undisturbed
    assert {f.name: f.stat().st_ino for f in (out / "seqs").iterdir() if f != gone} == kept


def _rows(out: Path) -> list[dict[str, object]]:
    """The rows of all parts, sorted."""
    parquet = pytest.importorskip("pyarrow.parquet")
    parts = sorted((out / "designs").glob("part-*.parquet"))
    return sorted((row for p in parts for row in parquet.read_table(p).to_pylist()), key=repr)


@pytest.mark.proof
def test_a_part_without_its_lines_in_the_log_is_no_second_copy(inputs, tmp_path):
    """The state of a run killed between its part and the lines that say what is in it."""
    out = tmp_path / "out"
    assert run(inputs, out, "-n", 2, "--format", "parquet").returncode == 0
    whole = _rows(out)
    assert len(whole) >= 2 * COUNT
    log = out / "run" / "done.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:5]))
    assert run(inputs, out, "-n", 2, "--format", "parquet").returncode == 0
    assert _rows(out) == whole


@pytest.mark.proof
def test_twenty_kills_leave_what_an_undisturbed_run_leaves(tmp_path):
    """One process and two in turn, killed a moment after one more structure was written.

    The kill table is printed: the moment, what was on disk, what the log had of it.
    """
    count, draws = 400, random.Random(0)
    inputs, out = backbones(tmp_path / "in", count, length=100), tmp_path / "out"
    assert run(inputs, tmp_path / "whole", "-n", 2).returncode == 0
    whole = designs(tmp_path / "whole")
    assert len(whole) == count
    table = []
    for kill in range(KILLS):
        before = len(designs(out))
        process = started(inputs, out, "-n", 2, "--workers", 1 + kill % 2)
        until(lambda before=before: len(designs(out)) > before, process)
        moment = draws.uniform(0, 0.6)
        time.sleep(moment)
        process.kill()
        process.communicate()
        found = designs(out)
        assert found.items() <= whole.items()
        table.append((kill + 1, moment, len(found), len(read_done(out / "run" / "done.jsonl"))))
    for row in table:
        print("| {} | {:.2f} s | {} | {} |".format(*row))
    assert table[-1][2] < count, "the last kill came after the end"
    last = run(inputs, out, "-n", 2)
    assert last.returncode == 0, last.stderr
    assert designs(out) == whole
    assert not list(out.rglob(".*.part"))
