"""LigandMPNN's memory is linear in residues and atoms: each size in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

RESIDUES, ATOMS = 50_000, 5_000
# A size against half of it: 2 where memory is linear, 4 where it is quadratic.
LINEAR = 2.3
LARGEST_GIB = 8.0

ENCODE = """
import resource
import sys

import numpy as np
from proteins import chain

import mpnn_core as mpnn
from mpnn_core.design.model import Model

residues, atoms, backend = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
CA = chain(residues)
rng = np.random.default_rng(0)
coords = np.stack([CA + rng.normal(0, 1, CA.shape) for _ in range(4)], 1).astype(np.float32)
coords[:, 1] = CA
xyz = CA[rng.integers(0, residues, atoms)] + rng.normal(0, 3, (atoms, 3))
structure = mpnn.Structure(
    "long", coords, "A" * residues, np.full(residues, "A"), np.arange(residues),
    np.arange(residues).astype(str),
    context=mpnn.ContextAtoms.of(xyz, rng.choice([6, 7, 8], atoms)),
)
model = mpnn.load_model("ligand/v_32_010_25", backend=backend)
small = mpnn.Structure(
    "short", coords[:50], "A" * 50, structure.chain_ids[:50], structure.residue_index[:50],
    structure.residue_numbers[:50], context=structure.context,
)
model.log_probs(small)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
before = peak()
log_probs = model.log_probs(structure)
assert log_probs.shape == (1, residues, 21) and np.isfinite(log_probs).all()
print(peak() - before)
"""


def peak_gib(residues: int, atoms: int, backend: str) -> float:
    """GiB that scoring a protein among atoms takes beyond a small one, on Linux."""
    arguments = [sys.executable, "-c", ENCODE, str(residues), str(atoms), backend]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout)


@pytest.mark.proof
@pytest.mark.skipif(sys.platform != "linux", reason="getrusage counts in other units")
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_memory_is_linear_in_residues_and_atoms(backend, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))
    half = peak_gib(RESIDUES // 2, ATOMS // 2, backend)
    whole = peak_gib(RESIDUES, ATOMS, backend)
    assert whole <= LINEAR * half, f"{half:.2f} GiB, and {whole:.2f} GiB at twice the size"
    assert whole <= LARGEST_GIB, f"{whole:.2f} GiB"
