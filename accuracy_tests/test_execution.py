"""What runs where: a job that needs what a backend does not know runs in plain torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from proteins import protein
from torch import Tensor

import mpnn_core as mpnn
from mpnn_core.constants import ALPHABET
from mpnn_core.design.arguments import design_arguments
from mpnn_core.design.batches import Batch
from mpnn_core.design.jobs import Sampled, Sampling
from mpnn_core.design.results import design_results
from mpnn_core.sampling.sampler import Distribution

PROLINE = ALPHABET.index("P")


@dataclass(frozen=True, eq=False)
class Capped(Distribution):
    """A distribution in which no proline is likelier than `cap`, (M,) float."""

    cap: Tensor | None = None

    def probabilities(self, logits: Tensor) -> Tensor:
        p = super().probabilities(logits)
        p[:, PROLINE] = p[:, PROLINE].minimum(self.cap)
        return p / p.sum(-1, keepdim=True)


class CappedSampling(Sampling):
    def distribution(self, batch: Batch) -> Capped:
        plain = super().distribution(batch)
        return Capped(**vars(plain), cap=torch.full_like(plain.bias[:, 0], 1e-6))


def capped(model: mpnn.Model, kind: type[Sampling] = CappedSampling) -> mpnn.Designs:
    """Eight sequences of 6MRR, in which proline would be likely."""
    constraints = mpnn.Constraints(bias={"P": 3.0})
    asked = (protein("6MRR"), 8, 0.5, 37, constraints, None, model.network.neighbours)
    arguments = design_arguments(*asked)
    job = kind(arguments, model.executor.letters)
    batches = [(batch, Sampled(*outputs)) for _, batch, outputs in model.executor.run(job)]
    return design_results(arguments, batches, 0.5, model.name, model.executor.blank)[0]


def test_a_field_that_no_fast_backend_knows_is_served_by_plain_torch() -> None:
    fast, plain = mpnn.load_model(), mpnn.load_model(backend="torch")
    designs = capped(fast)
    assert designs.sequences == capped(plain).sequences
    assert not any("P" in sequence for sequence in designs.sequences)
    assert any("P" in sequence for sequence in capped(fast, Sampling).sequences)


class Recorder:
    """Stands where CUDA graphs are recorded: notes what is recorded, and computes it."""

    def __init__(self) -> None:
        self.keys: list[tuple[object, ...]] = []

    def __call__(self, key, function, tensors, fetched):
        self.keys.append(key)
        return function(*tensors)


@pytest.mark.parametrize("kind", [Sampling, CappedSampling])
def test_what_a_recording_would_leave_out_is_not_recorded(kind) -> None:
    model = mpnn.load_model(backend="torch")
    expected = capped(model, kind)
    model.backend.replays = Recorder()
    found = capped(model, kind)
    assert found.sequences == expected.sequences
    assert len(model.backend.replays.keys) == (kind is Sampling)


def test_a_recording_serves_both_jobs_and_gives_the_same() -> None:
    model = mpnn.load_model(backend="torch")
    structures = [protein("6MRR"), protein("6MRR")]
    expected = [model.design(s, 2, seed=5) for s in structures]
    log_probs = model.log_probs(structures[0], seed=5), model.unconditional_log_probs(structures[0])
    model.backend.replays = Recorder()
    for designs, s in zip(expected, structures, strict=True):
        found = model.design(s, 2, seed=5)
        assert found.sequences == designs.sequences
        assert np.array_equal(found.log_probs, designs.log_probs)
    assert np.array_equal(model.log_probs(structures[0], seed=5), log_probs[0])
    assert np.array_equal(model.unconditional_log_probs(structures[0]), log_probs[1])
    sampling, again, decoding, unconditional = model.backend.replays.keys
    assert sampling == again != decoding == unconditional
    assert torch.is_inference_mode_enabled() is False


def test_jobs_that_run_together_are_recorded_as_one() -> None:
    """Encoded once, on a GPU too; the outputs of each job are its own again."""
    model = mpnn.load_model(backend="torch")
    asked = ([protein("6MRR")], 2, [0.1, 0.5], 5)
    [(expected, scores)] = model.design_and_score(*asked)
    model.backend.replays = Recorder()
    [(found, again)] = model.design_and_score(*asked)
    assert len(model.backend.replays.keys) == 1
    assert np.array_equal(again.score, scores.score)
    for a, b in zip(expected, found, strict=True):
        assert a.sequences == b.sequences
        assert np.array_equal(a.scores, b.scores)
        assert np.array_equal(a.log_probs, b.log_probs)
        assert np.array_equal(a.probabilities, b.probabilities)
        assert np.array_equal(a.decoding_order, b.decoding_order)
