"""The job array of docs/how-to/clusters.md, with a stand-in that sets SLURM's variables."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from proteins import protein

import mpnn_core as mpnn
from mpnn_core.commands.main import main

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "clusters.md"


def submit(script: str, folder: Path, tasks: list[int]) -> None:
    """What `sbatch` does with a job array: the script for each task, with SLURM's variables."""
    for task in tasks:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(task),
            "SLURM_ARRAY_TASK_COUNT": str(len(tasks)), "SLURM_CPUS_PER_TASK": "1",
        }  # fmt: skip
        done = subprocess.run(
            ["bash", "-s"], input=script, cwd=folder, env=environment, capture_output=True,
            text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def fasta(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "seqs").glob("*.fa"))}


@pytest.mark.proof
def test_the_job_array_of_the_page_is_the_whole_run(tmp_path, monkeypatch, capsys) -> None:
    (script,) = re.findall(r'(?ms)^```bash title="design.sbatch"\n(.*?)^```$', PAGE.read_text())
    (first, last) = map(int, re.findall(r"--array=(\d+)-(\d+)", script)[0])
    assert f"parts={last} " in script
    structure = protein("6MRR")
    (tmp_path / "backbones").mkdir()
    for i in range(8):
        coords = structure.coords + np.random.default_rng(i).normal(0, 0.02, structure.coords.shape)
        moved = mpnn.Structure.from_backbone(coords[: 30 + i], structure.sequence[: 30 + i])
        mpnn.write_structure(tmp_path / "backbones" / f"s{i}.pdb", moved)
    monkeypatch.chdir(tmp_path)

    submit(script, tmp_path, [first, last])
    parts = [f"parts/{first}", f"parts/{last}"]
    assert main(["merge", *parts, "--out", "less"]) == 1
    assert "shard 2/3 is missing" in capsys.readouterr().err
    submit(script, tmp_path, [2])  # alone, as after a failure
    assert main(["merge", *parts, "parts/2", "--out", "designs"]) == 0

    assert main(["design", "backbones", "-n", "2", "--seed", "37", "--out", "whole"]) == 0
    whole = fasta(tmp_path / "whole")
    assert len(whole) == 8
    assert fasta(tmp_path / "designs") == whole
    each = [fasta(tmp_path / "parts" / str(task)).keys() for task in range(first, last + 1)]
    assert sum(map(len, each)) == 8
