"""E40 and E41: a run, from files on disk to files on disk.

Against a loop over the original, which parses, samples and writes each file, and against one call
of `Model.design` on structures that are read. On a CPU all in one process, so that none pays for
importing torch; the run loads the weights in its time. On a GPU the run starts several processes,
in its time too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch
from proteins import TS50, protein
from timing import computed_by, jittered

import mpnn_core as mpnn
from mpnn_core.commands.main import main
from mpnn_core.peers import original
from mpnn_core.structures.writers import write_structure

EACH = 8
LETTERS = "ACDEFGHIKLMNPQRSTVWYX"


def write(path: Path, structure: mpnn.Structure) -> Path:
    """A structure as a PDB file that is not compressed, for the original reads no other."""
    write_structure(path, structure)
    return path


def running(files: list[Path], folder: Path, device: str = "cpu") -> Callable[[], Path]:
    """The command, into a folder of its own at each call."""
    folders = (folder / str(i) for i in count())

    def run() -> Path:
        out = next(folders)
        options = ["-n", str(EACH), "--seed", "37", "--device", device, "--out", str(out)]
        assert main(["design", *map(str, files), *options]) == 0
        return out

    return run


def looping(network: torch.nn.Module, files: list[Path], folder: Path) -> Callable[[], None]:
    """Each file through the original's parser, featuriser and sampler, to a FASTA file."""

    def run() -> None:
        for file in files:
            sampled = original.sample(network, original.featurize(file, EACH))
            rows = ("".join(LETTERS[i] for i in row) for row in sampled["S"].tolist())
            text = "".join(f">{file.stem}, sample={i}\n{row}\n" for i, row in enumerate(rows, 1))
            (folder / f"{file.stem}.fa").write_text(text)

    return run


@pytest.mark.costly(25)
@pytest.mark.claim("E40", "speed")
def test_a_run_beats_a_loop_over_the_original(model, network, timed, judge, tmp_path) -> None:
    files = [write(tmp_path / f"{name}.pdb", protein(name)) for name in TS50[::10]]
    run = running(files, tmp_path / "runs")
    out = run()
    assert len(list((out / "seqs").glob("*.fa"))) == len(files)
    looping(network, files[:1], tmp_path)()
    written = (tmp_path / f"{files[0].stem}.fa").read_text().splitlines()
    assert [len(row) for row in written[1::2]] == [len(protein(TS50[0]))] * EACH
    times = timed(
        {"original": looping(network, files, tmp_path), "run": run, "control": run},
        ours="run",
        warm_up=lambda: None,  # both have run
    )
    how = computed_by(model)
    judge(
        times.ratio("original", "run"),
        control=times.ratio("run", "control"),
        times=times,
        note=str(how["note"]),
        only_record=how["only_record"],
    )


def overhead(
    model: mpnn.Model, copies: int, links: int, folder: Path, timed, judge, device: str = "cpu"
) -> None:
    """The time of a run over that of one call of the model, a structure.

    The call is of TS50 and jittered copies of it, and the run of all of these under `links` names
    each.
    """
    (folder / "in").mkdir()
    files = []
    for name in TS50:
        move = jittered(protein(name))
        for i in range(copies):
            files.append(write(folder / "in" / f"{name}_{i}.pdb", move()))
    structures = [mpnn.read_structure(file) for file in files]
    for file in files:
        for i in range(1, links):
            os.link(file, file.with_name(f"{file.stem}_{i}.pdb"))

    def designed() -> list[mpnn.Designs]:
        designs: list[mpnn.Designs] = model.design(structures, EACH, seed=37)
        return designs

    out = running(files[: len(TS50)], folder / "checked", device)()
    for designs in designed()[: len(TS50)]:  # the same designs, before anything is timed
        written = (out / "seqs" / f"{designs.structure.name}.fa").read_text().splitlines()
        if device == "cpu":  # elsewhere the last bits depend on the batch
            assert written[3::2] == designs.sequences
        assert [len(row) for row in written[3::2]] == [len(row) for row in designs.sequences]
    run = running([folder / "in"], folder / "runs", device)
    times = timed(
        {"run": run, "model": designed, "control": designed},
        ours="run",
        device=device,
        warm_up=lambda: None,
    )
    by = computed_by(model)
    judge(
        times.ratio("run", "model", 1 / links),
        control=times.ratio("model", "control"),
        times=times,
        workload=f"{len(files) * links:,} files, {EACH} designs each",
        note=str(by["note"]),
        device=device,
        only_record=by["only_record"] and device == "cpu",
    )


@pytest.mark.costly(25)
@pytest.mark.claim("E41", "overhead")
def test_a_run_costs_little_more_than_the_model(model, timed, judge, tmp_path) -> None:
    overhead(model, 2, 1, tmp_path, timed, judge)


@pytest.mark.claim("E41", "overhead-h100")
@pytest.mark.times_on("cuda")
@pytest.mark.costly(70)
def test_a_run_costs_little_more_than_the_model_on_cuda(
    timed, judge, tmp_path, not_exercised
) -> None:
    if not torch.cuda.is_available():
        not_exercised("an NVIDIA GPU")
    fast = mpnn.load_model(device="cuda")
    overhead(fast, 20, 12, tmp_path, timed, judge, "cuda")
