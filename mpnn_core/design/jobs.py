"""The two jobs that a batch can do: sample residues, or decode given ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mpnn_core.constants import LETTERS
from mpnn_core.design.arguments import _temperatures
from mpnn_core.design.batches import Batch
from mpnn_core.network.graph import upload
from mpnn_core.sampling.constraints import Resolved
from mpnn_core.sampling.sampler import Profile


def _temperature_rows(batch: Batch, given: NDArray[np.float32], n: int) -> Tensor:
    """The temperature of all rows () or of every row (M,), float32."""
    if given.ndim == 0:
        return upload(np.array(given), batch.device)
    per_structure = {s: _temperatures(batch.structures[s], given, n) for s in batch.group}
    return batch.of_rows(per_structure[s][i] for s, i in batch.jobs)


def _profile(batch: Batch, resolved: Sequence[Resolved]) -> Profile | None:
    """The PSSMs over a batch's nodes; structures that have none keep their probabilities."""
    if all(resolved[s].pssm is None for s in batch.group):
        return None
    parts = [
        (np.zeros((L, LETTERS), np.float32), np.zeros(L, np.float32),
         np.ones((L, LETTERS), np.float32))
        if r.pssm is None else r.pssm
        for r, L in zip(resolved, map(len, batch.structures), strict=True)
    ]  # fmt: skip
    return Profile(*(batch.of_nodes([values[part] for values in parts]) for part in range(3)))


def _ties(batch: Batch, resolved: Sequence[Resolved]) -> tuple[Tensor | None, Tensor | None]:
    """Group of every row, numbered over the whole batch, and its weight: (M,) int64, (M,) float."""
    if not any(resolved[s].groups for s in batch.group):
        return None, None
    numbers, weights, count = [], [], 0
    for s, _ in batch.jobs:
        number = np.full(len(batch.structures[s]), -1)
        weight = np.ones(len(batch.structures[s]), np.float32)
        for group in resolved[s].groups:
            number[list(group)] = count
            weight[list(group)] = list(group.values())
            count += 1
        numbers.append(number)
        weights.append(weight)
    return batch.of_rows(numbers), batch.of_rows(weights)
