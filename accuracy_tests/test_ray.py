"""A run by the actors of a Ray cluster is the run without it; a node that dies costs nothing."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from proteins import protein

import mpnn_core as mpnn
from mpnn_core.commands.main import main
from mpnn_core.runs.folder import RunError
from mpnn_core.runs.ray import RayWorkers

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'mpnn-core[ray]'")
pytestmark = [pytest.mark.proof, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def importable(monkeypatch) -> None:
    """Actors import this file, as this process does."""
    here = Path(__file__).parent
    paths = [str(here), str(here.parent / "fixtures")]
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("inputs")
    structure = protein("6MRR")
    for i in range(24):
        noise = np.random.default_rng(i).normal(0, 0.02, structure.coords.shape)
        moved = mpnn.Structure.from_backbone(structure.coords + noise, structure.sequence)
        mpnn.write_structure(made / f"s{i:02d}.pdb", moved)
    return made


def design(folder: Path, out: Path, *options: str) -> int:
    return main(["design", str(folder), "-n", "2", "--seed", "7", *options, "--out", str(out)])


def fasta(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "seqs").glob("*.fa"))}


def test_a_run_with_ray_is_the_run_without(folder, tmp_path) -> None:
    assert design(folder, tmp_path / "whole") == 0
    bad = folder / "x.pdb"
    bad.write_text("no structure")
    try:
        out = tmp_path / "out"
        assert design(folder, out, "--cluster", "local", "--workers", "2") == 1
        assert str(bad) in (out / "failures.csv").read_text()
    finally:
        bad.unlink()
    assert fasta(tmp_path / "out") == fasta(tmp_path / "whole")
    assert design(folder, tmp_path / "out", "--cluster", "local") == 0, "nothing is left to do"


def squares(place: str):
    def compute(batch: list[int]) -> list[object]:
        if 13 in batch:
            os.kill(os.getpid(), signal.SIGKILL)
        return [n * n for n in batch]

    return compute


def lost(item: int, place: str, why: str) -> str:
    return f"lost {item}"


def test_what_an_actor_dies_of_twice_is_lost_alone() -> None:
    workers: RayWorkers[int, object] = RayWorkers("local", 2, "cpu", squares, lost)
    found = list(workers.results(iter(range(20)), 3))
    expected = {n * n for n in range(20) if n != 13} | {"lost 13"}
    assert len(found) == 20 and set(found) == expected


def unable(place: str):
    raise ValueError("no such weights")


def test_actors_that_cannot_start_are_an_error_and_lose_nothing() -> None:
    """Every structure would be lost for it, one after the other."""
    workers: RayWorkers[int, object] = RayWorkers("local", 2, "cpu", unable, lost)
    with pytest.raises(RunError, match=r"an actor cannot start: .*no such weights"):
        list(workers.results(iter(range(20)), 3))


@pytest.fixture
def cluster_of():
    """Clusters on this machine that say that they have so many cores and GPUs."""
    from ray.cluster_utils import Cluster

    made = []

    def of(cores: int, gpus: int) -> Cluster:
        made.append(
            Cluster(initialize_head=True, head_node_args={"num_cpus": cores, "num_gpus": gpus})
        )
        return made[-1]

    yield of
    ray.shutdown()
    for cluster in made:
        cluster.shutdown()


def test_actors_share_gpus(cluster_of) -> None:
    """The GPUs are no real ones, and nothing is computed on them: it is about who gets one."""
    address = cluster_of(6, 2).address
    shared: RayWorkers[int, int] = RayWorkers(address, None, "cuda", slow, lost, 8)
    assert (shared.count, shared.sharing) == (2, 1), "three cores for each, and two are for one"
    ray.shutdown()
    shared = RayWorkers(address, 5, "cuda", process, lost, 8)
    assert (shared.count, shared.sharing) == (5, 3)
    processes = set()
    for found in shared.results(iter(range(400)), 1):
        processes.add(found)
        if len(processes) == 5:
            break
    assert len(processes) == 5, "all have a place"
    ray.shutdown()
    with pytest.raises(RunError, match="6 cores, too few for 7 workers"):
        RayWorkers(address, 7, "cuda", slow, lost, 8)


def test_a_cluster_without_gpus_is_told(cluster_of) -> None:
    with pytest.raises(RunError, match="the cluster has no GPU"):
        RayWorkers(cluster_of(2, 0).address, None, "cuda", slow, lost, 8)


def process(place: str):
    import time

    def compute(batch: list[int]) -> list[int]:
        time.sleep(0.2)
        return [os.getpid() for _ in batch]

    return compute


def slow(place: str):
    import time

    def compute(batch: list[int]) -> list[int]:
        time.sleep(0.2)
        return [n * n for n in batch]

    return compute


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_node_that_dies_costs_nothing(is_replaced, cluster_of) -> None:
    """Where nobody replaces it, its actor has no place, and gets nothing to do."""
    cluster = cluster_of(1, 0)
    node = cluster.add_node(num_cpus=1)
    workers: RayWorkers[int, int] = RayWorkers(cluster.address, 2, "cpu", slow, lost)
    found = []
    for i, value in enumerate(workers.results(iter(range(60)), 2)):
        found.append(value)
        if i == 20:
            cluster.remove_node(node, allow_graceful=False)
            if is_replaced:
                cluster.add_node(num_cpus=1)
    assert sorted(found) == [n * n for n in range(60)]


def test_without_ray_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match=r"pip install 'mpnn-core\[ray\]'"):
        RayWorkers("local", 1, "cpu", squares, lost)
