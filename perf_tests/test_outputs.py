"""S16: the files that a run writes for each variant, through the tools that users have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from proteins import path_of

import mpnn_core as mpnn
from mpnn_core.commands.main import main
from mpnn_core.network.architectures import random_network
from mpnn_core.network.checkpoints import Checkpoint

ROOT = Path(__file__).parents[1]
STUDY = mpnn.VARIANTS.keys() - {"lean"}  # lean is ours


@pytest.mark.claim("S16", "json")
def test_json_per_variant(tmp_path, judge) -> None:
    """pytest-benchmark's JSON has real rounds of every variant."""
    path = tmp_path / "variants.json"
    test = "perf_tests/test_variants.py::test_forward_per_variant"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", test, f"--benchmark-json={path}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    stored = json.loads(path.read_text("utf-8"))["benchmarks"]
    timed = [b["extra_info"]["variant"] for b in stored if b["stats"]["median"] > 0]
    assert set(timed) == set(mpnn.VARIANTS)
    judge(len(STUDY & set(timed)), note="pytest-benchmark --benchmark-json")


@pytest.mark.claim("S16", "fasta")
def test_fasta_per_variant(tmp_path, judge, capsys) -> None:
    """`mpnn-core design` writes a FASTA file for every variant; untrained ones from a file."""
    written = set()
    for name, variant in mpnn.VARIANTS.items():
        weights = "v_48_020"
        if variant.accuracy == "unknown":
            weights = str(tmp_path / f"{name}.safetensors")
            state = random_network(variant).state_dict()
            Checkpoint(name, state, variant.neighbours).save(weights)
        out = tmp_path / name
        arguments = ["--variant", name, "--weights", weights, "--out", str(out), "--seed", "37"]
        assert main(["design", str(path_of("6MRR")), "-n", "2", *arguments]) == 0
        warned = "is not exact" in capsys.readouterr().err
        assert warned == (name != "baseline")
        records = (out / "seqs" / "6MRR.fa").read_text("utf-8").split(">")[1:]
        assert [len(record.splitlines()[1]) for record in records] == [68, 68, 68]
        written.add(name)
    judge(
        len(STUDY & written), note="mpnn-core design; shapes without trained weights on random ones"
    )
