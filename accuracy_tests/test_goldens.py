"""The committed goldens: ours and, where it is installed, the original's live."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from proteins import FIXTURES

from mpnn_core import ALPHABET, Structure
from mpnn_core.peers import original

GOLDENS = sorted((FIXTURES / "goldens").glob("*.npz"))
# The original's float32 runs on the larger ones are compared with them in test_parity.py.
SMALL = pytest.mark.parametrize(
    "golden", [path for path in GOLDENS if path.stem in ("5L33", "6MRR", "3HTN")],
    ids=lambda path: path.stem, indirect=True,
)  # fmt: skip
TOLERANCE = 1e-4


@pytest.fixture(params=GOLDENS, ids=lambda path: path.stem)
def golden(request) -> tuple[Structure, np.ndarray, np.ndarray]:
    """A structure, a decoding order, and the original's log-probabilities in float64."""
    with np.load(request.param) as stored:
        structure = Structure.from_backbone(
            stored["coords"],
            "".join(ALPHABET[token] for token in stored["tokens"]),
            stored["chain_ids"],
            stored["residue_index"],
            name=request.param.stem,
        )
        return structure, stored["decoding_order"].astype(np.int64), stored["log_probs"]


def test_there_are_monomers_and_complexes_with_gaps():
    assert {"5L33", "6MRR", "3HTN"} <= {path.stem for path in GOLDENS}


def test_our_log_probabilities_are_the_recorded_ones(golden, model):
    structure, order, recorded = golden
    found = np.abs(model.log_probs(structure, decoding_order=order)[0] - recorded).max()
    assert found <= TOLERANCE, f"{found:.1e}"


@SMALL
def test_the_installed_originals_are_the_recorded_ones(golden, published):
    structure, order, recorded = golden
    live = original.log_probs(published, original.inputs(structure), torch.tensor(order)[None])
    found = np.abs(live[0].numpy() - recorded).max()
    assert found <= TOLERANCE, f"{found:.1e}"


@SMALL
def test_a_golden_is_missed_by_the_wrong_order(golden, model):
    structure, order, recorded = golden
    wrong = model.log_probs(structure, decoding_order=order[::-1].copy())[0]
    assert np.abs(wrong - recorded).max() > TOLERANCE
