"""A long run: what a process holds does not grow with what it has done.

`MPNN_CORE_SOAK=40000 pytest --proof accuracy_tests/test_run_soak.py -s` takes 40,000 backbones, at
least 20 minutes on two cores; without the variable there are a few hundred.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from proteins import TS50, protein, rows_of
from test_run_faults import call, designs, jittered

from mpnn_core.structures.writers import write_structure

COUNT = int(os.environ.get("MPNN_CORE_SOAK", "300"))
EVERY = 0.25 if COUNT < 2000 else 5.0
"""Seconds between two looks at the process."""

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system has no /proc"),
]


def backbones(folder: Path) -> Path:
    """The chains of TS50 and a half of each, jittered anew each time."""
    folder.mkdir()
    noise = np.random.default_rng(0)
    for i in range(COUNT):
        structure = protein(TS50[i % len(TS50)])
        if (i // len(TS50)) % 2:
            structure = rows_of(structure, slice(len(structure) // 2))
        write_structure(folder / f"b{i:05d}.pdb", jittered(structure, noise))
    return folder


def looked_at(process: int) -> tuple[float, int, int]:
    """Resident MB, open files and threads of a process."""
    about = Path(f"/proc/{process}")
    pages = int((about / "statm").read_text().split()[1])
    return (
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(list((about / "fd").iterdir())),
        len(list((about / "task").iterdir())),
    )


def test_memory_files_and_threads_are_flat(tmp_path):
    """After the first third, the median of the second half is at most 5 % and 20 MB above."""
    inputs, out = backbones(tmp_path / "in"), tmp_path / "out"
    looks, said = [], tmp_path / "said"
    with said.open("w") as file:  # a pipe that nobody reads would stop it
        options = ("-n", 2, "--format", "fasta")
        process = subprocess.Popen(call(inputs, out, *options), stderr=file)
    began = time.monotonic()
    while process.poll() is None:
        try:
            looks.append((time.monotonic() - began, *looked_at(process.pid)))
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            break
        time.sleep(EVERY)
    assert process.wait() == 0, said.read_text()[-2000:]
    assert len(designs(out)) == COUNT
    for look in looks[:: max(1, len(looks) // 40)]:
        print("| {:.0f} s | {:.0f} MB | {} | {} |".format(*look), file=sys.stderr)
    late = looks[len(looks) // 3 : -1]
    assert len(late) >= 8, "too short a run to tell; take a larger MPNN_CORE_SOAK"
    half = len(late) // 2
    for column, slack in ((1, 20.0), (2, 2), (3, 2)):
        first, second = (sorted(x[column] for x in part) for part in (late[:half], late[half:]))
        before, after = first[len(first) // 2], second[len(second) // 2]
        assert after <= before * 1.05 + slack, (column, before, after)
