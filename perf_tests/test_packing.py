"""E50 and E51: side chains against their authors' code, and of long proteins.

The original runs as in test_family.py, in an environment of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import family_goldens
import numpy as np
import packer_goldens
import pytest
from oracles import NEEDS, LigandOracle, python_of_oracle
from packer_goldens import given
from proteins import FIXTURES, path_of

import mpnn_core as mpnn

PACKS, SAMPLES, STEPS = 4, 16, 3
JITTER = 1e-3  # Å, by which coordinates differ between runs


@pytest.fixture(scope="session")
def packer() -> mpnn.SideChainPacker:
    return mpnn.load_packer()


@pytest.fixture(scope="session")
def oracle() -> Iterator[LigandOracle | None]:
    """The authors' code in a process of its own; None where there is none."""
    python = python_of_oracle()
    if python is None:
        yield None
        return
    with LigandOracle(python) as oracle:
        yield oracle


def agree(packer: mpnn.SideChainPacker) -> None:
    """A fast wrong answer has no speed."""
    structure = packer_goldens.structure_of("3mht")
    atoms, wanted = packer_goldens.load("3mht")
    found = packer_goldens.mixture(packer.computed_by, structure, atoms)
    for part in ("mean", "logits"):
        apart = np.abs(getattr(found, part).numpy() - wanted[part]).max((1, 2))
        assert apart.max() < 1e-4, (part, apart.max(), np.flatnonzero(apart > 1e-4).tolist())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.claim("E50", name), pytest.mark.costly(cost)])
        for name, cost in (("5L33", 20), ("3HTN", 80))
    ],
)
def test_side_chains_beat_the_original(name, packer, oracle, paired, not_exercised) -> None:
    if oracle is None:
        not_exercised(NEEDS)
    agree(packer)
    parsed = oracle.ask("parse", file=str(path_of(name)))
    structure = family_goldens.structure_of(parsed, name)
    arrays = given(structure)
    seeds = count()

    def moved() -> mpnn.Structure:
        noise = np.random.default_rng(next(seeds)).normal(0, JITTER, structure.coords.shape)
        return replace(structure, coords=structure.coords + noise.astype(np.float32))

    def theirs(packs: int = PACKS) -> None:
        oracle.ask("packs", arrays, packs=packs, steps=STEPS, samples=SAMPLES)

    def ours() -> None:
        packer.pack(moved(), samples=SAMPLES, steps=STEPS, packs=PACKS)

    def warm_up() -> None:
        theirs(1)
        ours()

    instructions = getattr(packer.computed_by, "instruction_set", "")
    paired(
        theirs,
        ours,
        workload=f"{PACKS} packs of {name}, {len(structure)} residues, "
        f"{len(structure.context)} atoms around",
        warm_up=warm_up,
        note=f"native {instructions}" if instructions else "torch",
        only_record=not instructions,
    )


LONG = """
import re, sys, time
from pathlib import Path
import numpy as np
from proteins import chain
import mpnn_core as mpnn

def walk(length):
    CA = chain(length)
    rng = np.random.default_rng(0)
    coords = np.stack([CA + rng.normal(0, 0.8, CA.shape) for _ in range(4)], 1)
    coords[:, 1] = CA
    letters = "".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), length))
    return mpnn.Structure(
        "walk", coords.astype(np.float32), letters, np.full(length, "A"), np.arange(length),
        np.arange(length).astype(str),
    )

packer = mpnn.load_packer()
times = {}
for length in (1_000, 10_000):
    structure = walk(length)
    packer.pack(walk(200), seed=0)
    start = time.perf_counter()
    packed = packer.pack(structure, seed=0)
    times[length] = time.perf_counter() - start
    assert np.isfinite(packed.log_densities).all()
print(times[10_000] / times[1_000])
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20)
"""


def of_long_proteins() -> tuple[float, float]:
    """The time of 10,000 residues over that of 1,000, and the process' largest memory, GiB."""
    environment = os.environ | {"PYTHONPATH": str(FIXTURES)}
    done = subprocess.run(
        [sys.executable, "-c", LONG], capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ratio, peak = map(float, done.stdout.split())
    return ratio, peak


@pytest.mark.costly(40)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "figure",
    [pytest.param(f, marks=pytest.mark.claim("E51", f)) for f in ("length", "memory")],
)
def test_long_proteins(figure, judge) -> None:
    ratio, peak = of_long_proteins()
    judge(ratio if figure == "length" else peak, workload="10,000 residues, one pack")
