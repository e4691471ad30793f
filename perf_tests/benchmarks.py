"""The benchmarks that two revisions are timed on, and the answers that must stay as exact.

Each function prepares one workload and returns the function that is timed. This file uses the
public interface alone: both revisions run it, and the older one may be of any age.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from proteins import FIXTURES, TS50, path_of, protein

import mpnn_core as mpnn

model = cache(mpnn.load_model)


def design_one() -> Callable[[], Any]:
    """One sequence of 5L33, 106 residues: latency."""
    network, structure = model(), protein("5L33")
    return lambda: network.design(structure, seed=37)


def design_eight() -> Callable[[], Any]:
    """Eight sequences of 5L33: throughput."""
    network, structure = model(), protein("5L33")
    return lambda: network.design(structure, num_sequences=8, seed=37)


def design_complex() -> Callable[[], Any]:
    """One sequence of 3HTN, 429 residues in three chains."""
    network, structure = model(), protein("3HTN")
    return lambda: network.design(structure, seed=37)


def design_in_torch() -> Callable[[], Any]:
    """One sequence of 6MRR, 68 residues, without native code."""
    network, structure = model(backend="torch"), protein("6MRR")
    return lambda: network.design(structure, seed=37)


def log_probs() -> Callable[[], Any]:
    """Teacher-forced log-probabilities of 5L33."""
    network, structure = model(), protein("5L33")
    return lambda: network.log_probs(structure, seed=37)


def design_command() -> Callable[[], Any]:
    """Eight sequences of each of ten chains of TS50 by the command, from files to files."""
    from mpnn_core.commands.main import main  # an older revision may lack it, and runs the others

    files = [str(path_of(name)) for name in TS50[::5]]
    folder = Path(tempfile.mkdtemp(prefix="mpnn_core"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folders = (folder / str(i) for i in count())
    options = ["-n", "8", "--seed", "37", "--out"]
    return lambda: main(["design", *files, *options, str(next(folders))])


def read_structure() -> Callable[[], Any]:
    """5L33 from its PDB file."""
    path = path_of("5L33")
    return lambda: mpnn.read_structure(path)


def read_mmcif() -> Callable[[], Any]:
    """3O21, 1,489 residues in four chains, from its mmCIF file."""
    path = path_of("mmcif_3o21")
    return lambda: mpnn.read_structure(path)


BENCHMARKS = (
    design_one,
    design_eight,
    design_complex,
    design_in_torch,
    log_probs,
    design_command,
    read_structure,
    read_mmcif,
)


def answers() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Log-probabilities (L, 21) by name, and beside them the original's in float64."""
    for name in ("5L33", "3HTN"):
        structure = protein(name)
        with np.load(FIXTURES / "goldens" / f"{name}.npz") as golden:
            order, truth = golden["decoding_order"].astype(np.int64), golden["log_probs"]
        for backend in ("auto", "torch"):
            answer = model(backend=backend).log_probs(structure, decoding_order=order)[0]
            yield f"{name}, {backend}", answer[structure.mask], truth[structure.mask]
