"""S9: the k-NN graph by k-d trees of scikit-learn and SciPy, alone and inside the network."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from proteins import chain, same_sets
from scipy.spatial import KDTree
from sklearn.neighbors import NearestNeighbors

from mpnn_core.peers import original

K = 48


def scikit_learn(ca: np.ndarray) -> np.ndarray:
    return NearestNeighbors(n_neighbors=K, algorithm="kd_tree").fit(ca).kneighbors(ca)[1]


def scipy(ca: np.ndarray) -> np.ndarray:
    return KDTree(ca).query(ca, K)[1]


@pytest.fixture(scope="session")
def original_knn():
    network = original.load().features

    def knn(ca: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network._dist(torch.from_numpy(ca)[None], torch.ones(1, len(ca)))[1][0].numpy()

    return knn


@pytest.mark.parametrize("tree", [scikit_learn, scipy])
@pytest.mark.parametrize(
    "length",
    [
        pytest.param(106, marks=pytest.mark.claim("S9", "component")),
        pytest.param(500, marks=pytest.mark.claim("S9", "component-500")),
        pytest.param(2000, marks=pytest.mark.claim("S9", "component-2000")),
    ],
)
def test_tree_alone(original_knn, study_protein, paired, tree, length) -> None:
    ca = study_protein.coords[:, 1] if length == len(study_protein) else chain(length)
    ca = np.array(ca)
    agreement = same_sets(original_knn(ca), tree(ca))
    assert agreement > 0.999  # a tie in the last place may fall either way
    paired(
        lambda: original_knn(ca),
        lambda: tree(ca),
        workload=f"k-NN of {length} residues, {tree.__name__} against all pairs",
    )


@pytest.mark.costly(12)
@pytest.mark.claim("S9", "component-10000")
def test_trees_of_a_large_assembly(original_knn, timed, judge) -> None:
    """All pairs take seconds here, so both trees are held against the same runs of it."""
    ca = chain(10_000)
    trees = {tree.__name__: partial(tree, ca) for tree in (scikit_learn, scipy)}
    exact = original_knn(ca)
    for tree in trees.values():
        assert same_sets(exact, tree()) > 0.999

    def all_pairs() -> object:
        return original_knn(ca)

    times = timed(
        {"all pairs": all_pairs, "control": all_pairs, **trees},
        ours="scipy",
        warm_up=lambda: None,  # all three have run
    )
    for name in trees:
        judge(
            times.ratio("all pairs", name),
            control=times.ratio("all pairs", "control"),
            times=times,
            workload=f"k-NN of 10000 residues, {name} against all pairs",
        )


@pytest.mark.claim("S9", "model")
def test_tree_in_the_model(study_protein, paired) -> None:
    """The original's forward with its k-NN replaced by scikit-learn's."""
    network, patched = original.load(), original.load()
    inputs = original.inputs(study_protein)

    def tree_dist(X: torch.Tensor, mask: torch.Tensor, eps: float = 1e-6):
        ca = X[0].numpy()
        distance, index = (
            NearestNeighbors(n_neighbors=K, algorithm="kd_tree").fit(ca).kneighbors(ca)
        )
        squared = torch.from_numpy(distance)[None].float().square() + eps
        return squared.sqrt(), torch.from_numpy(index)[None]

    patched.features._dist = tree_dist
    order = original.batched(range(len(study_protein)))
    difference = original.log_probs(network, inputs, order) - original.log_probs(
        patched, inputs, order
    )
    assert difference.abs().max() < 1e-3
    paired(
        lambda: original.log_probs(network, inputs, order),
        lambda: original.log_probs(patched, inputs, order),
        workload="forward() of 5L33 with scikit-learn's k-NN",
    )
