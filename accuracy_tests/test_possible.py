"""Where no residue is left to draw: an error before the run, or one that names the sequence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from proteins import protein, rows_of

import mpnn_core as mpnn
from mpnn_core import PSSM, Constraints
from mpnn_core.backends.native import instruction_sets
from mpnn_core.sampling.possible import NothingLeftError, is_distribution

NINE = rows_of(protein("5L33"), slice(0, 9))


def only(letters: str, rows: slice = slice(None)) -> PSSM:
    """Follows nothing but the PSSM, which knows these letters alone in some rows."""
    bias = np.full((9, 21), 1 / 21)
    bias[rows] = [letter in letters for letter in mpnn.ALPHABET]
    return PSSM(bias, np.ones(9), 1.0)


ALL_LOW = dict.fromkeys(mpnn.ALPHABET, -3e38)
IMPOSSIBLE = {
    "no bias is left": (Constraints(bias=ALL_LOW), "A-1", "bias"),
    "no bias is left beside the omitted": (
        Constraints(omit="AX", bias_at={4: {**ALL_LOW, "A": 0.0}}), "A3", "bias",
    ),
    "logits are nothing beside the bias": (
        Constraints(bias_at={4: dict.fromkeys(mpnn.ALPHABET, -1e9)}), "A3", "bias",
    ),
    "a bias is too large": (Constraints(bias_at={4: {"G": 3e38}}), "A3", "bias of G"),
    "a tied position has no bias left": (
        Constraints(tied=[[2, 4]], bias_at={2: ALL_LOW, 4: ALL_LOW}), "A1", "bias",
    ),
    "a row of the PSSM is zeros": (Constraints(pssm=only("", slice(4, 5))), "A3", "pssm.bias"),
    "the PSSM knows what is omitted": (Constraints(omit="AX", pssm=only("A")), "A-1", "pssm.bias"),
    "tied positions know what another omits": (
        Constraints(tied=[[2, 4]], omit_at={2: "A"}, pssm=only("A", slice(2, 5))), "A1", "pssm",
    ),
}  # fmt: skip


@pytest.mark.parametrize("backend", ["torch", *(["native"] if instruction_sets() else [])])
@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_where_no_residue_is_left_the_run_does_not_begin(backend, kind, monkeypatch) -> None:
    constraints, where, why = IMPOSSIBLE[kind]
    model = mpnn.load_model(backend=backend)
    monkeypatch.setattr(model.executor, "run", lambda *_: pytest.fail("it began"))
    with pytest.raises(NothingLeftError, match=rf"to draw at {where}: .*{why}") as error:
        model.design(NINE, constraints=constraints)
    assert error.value.sequence is None


POSSIBLE = {
    "one bias is left": Constraints(bias={**ALL_LOW, "G": 0.0}),
    "the PSSM is followed in part": Constraints(
        pssm=PSSM(np.zeros((9, 21)), np.full(9, 0.99), 1.0)
    ),
    "elsewhere than where it designs": Constraints(fixed=[4], pssm=only("", slice(4, 5))),
}


@pytest.mark.parametrize("kind", POSSIBLE)
def test_where_a_residue_is_left_it_is_drawn(kind) -> None:
    designs = mpnn.load_model(backend="torch").design(NINE, 2, seed=1, constraints=POSSIBLE[kind])
    assert np.isfinite(designs.probabilities).all()
    assert np.isfinite(designs.scores).all()


def unlucky(name: str) -> mpnn.Model:
    """A model whose logits overflow at some positions of some sequences, in a backend by name."""
    if name == "mlx":
        pytest.importorskip("mlx.core")
    if name == "native" and not instruction_sets():
        pytest.skip("no native code was built here")
    if name != "cuda":
        return mpnn.load_model(backend=name)
    from mpnn_core.backends.cuda import CudaBackend

    model = mpnn.load_model(backend="torch")
    model.backend = CudaBackend(model.network)
    model.backend.triton = False
    return model


@pytest.mark.parametrize("backend", ["torch", "native", "mlx", "cuda"])
@pytest.mark.parametrize("weights", [(1e38, 1e38), (3e38, -3e38), (-1e38, 1e30)])
def test_a_sequence_that_loses_its_distribution_is_named(backend, weights) -> None:
    """And nothing that is omitted is drawn instead."""
    constraints = Constraints(omit="AX", tied=[dict(zip((2, 4), weights, strict=True))])
    match = r"to draw at A1 in sequence 1: the weights .* beyond float32; give smaller ones"
    with pytest.raises(NothingLeftError, match=match) as error:
        unlucky(backend).design(NINE, 3, seed=1, constraints=constraints)
    assert (error.value.sequence, error.value.position) == (0, 2)


@pytest.mark.parametrize(
    "p", [[np.nan] * 21, [0] * 21, [np.inf] + [0] * 20, [1] + [np.nan] * 20, [np.inf] * 21]
)
def test_what_is_no_distribution_is_seen(p) -> None:
    rows = torch.tensor([p, [1 / 21] * 21, [0] * 20 + [1]], dtype=torch.float32)
    assert is_distribution(rows).tolist() == [False, True, True]
