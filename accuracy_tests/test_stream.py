"""Designs of a stream of structures over several workers."""

from __future__ import annotations

import os
import signal
from multiprocessing import active_children

import numpy as np
import pytest
from proteins import protein, rows_of

import mpnn_core as mpnn

STRUCTURES = [rows_of(protein("5L33"), slice(i, i + 20)) for i in range(8)]


@pytest.fixture(scope="module")
def expected():
    return mpnn.load_model().design(STRUCTURES, 2, 0.1, seed=5)


def stream(**options):
    return mpnn.design_stream(iter(STRUCTURES), ["cpu", "cpu"], 2, 0.1, 5, batch_size=2, **options)


def test_a_stream_has_the_designs_of_one_model_in_order(expected):
    found = list(stream(details=True))
    assert [d.structure.sequence for d in found] == [s.sequence for s in STRUCTURES]
    for a, b in zip(expected, found, strict=True):
        assert a.sequences == b.sequences
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-5)


def test_a_worker_that_dies_loses_its_own_batch_alone(expected):
    # Workers of the tests before may not have ended yet.
    others = {process.pid for process in active_children()}

    def killing():
        """Kills a worker while it still reads its weights, with two batches waiting for it."""
        for i, structure in enumerate(STRUCTURES):
            if i == 6:
                own = [p.pid for p in active_children() if p.pid not in others]
                os.kill(own[0], signal.SIGKILL)
            yield structure

    found = list(mpnn.design_stream(killing(), ["cpu", "cpu"], 2, 0.1, 5, batch_size=2))
    assert sum(isinstance(d, mpnn.Lost) for d in found) == 2
    for a, b in zip(expected, found, strict=True):
        assert b.structure.sequence == a.structure.sequence
        if isinstance(b, mpnn.Lost):
            assert b.device == "cpu" and "terminated abruptly" in b.reason
        else:
            assert a.sequences == b.sequences
            with pytest.raises(ValueError, match="details=True"):
                _ = b.log_probs


def test_what_is_wrong_with_the_model_is_told():
    with pytest.raises(ValueError, match="no variant is called"):
        list(stream(variant="nonsense"))


def test_no_device_is_refused():
    with pytest.raises(ValueError, match="no device"):
        list(mpnn.design_stream(STRUCTURES, []))
