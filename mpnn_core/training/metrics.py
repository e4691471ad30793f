"""Metrics of accuracy: of each structure, one number per decoding order or design."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mpnn_core.constants import ALPHABET, AMINO_ACIDS, CA, CB, UNKNOWN
from mpnn_core.network.features import with_virtual_cb
from mpnn_core.structures.structure import Structure

# Numbers of side-chain neighbours: at least so many is buried, at most so many is exposed. The core
# and surface cutoffs of Rosetta's LayerSelector.
BURIED, EXPOSED = 5.2, 2.0


@dataclass(frozen=True, eq=False)
class Assessment:
    """The predictions of a model on S structures, which metrics are computed from.

    Attributes
    ----------
    log_probs : per structure (num_orders, L, 21), teacher-forced on the native sequence
    designs : per structure (num_sequences, L) int64
    """

    log_probs: list[NDArray[np.float32]]
    designs: list[NDArray[np.int64]]


def by_structure(
    metric: Callable[..., NDArray[np.float64]], structures: Sequence[Structure], *predictions: Any
) -> NDArray[np.float64]:
    """A metric of each structure: (S, n).

    The metric is called with each structure and its entry in each of `predictions`.
    """
    return np.stack([metric(*row) for row in zip(structures, *predictions, strict=True)])


def recovered(logits: Any, native: Any) -> Any:
    """Where the likeliest of all 21 letters is the native one: (..., 21), (...) -> (...) bool.

    The one definition of teacher-forced recovery, for tensors and arrays. X counts as a letter: a
    network that finds it likeliest has not recovered the residue.
    """
    return logits.argmax(-1) == native


def recovery(
    structure: Structure,
    log_probs: NDArray[np.float32],
    members: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Teacher-forced recovery, of all residues or of `members` (L,), from (n, L, 21): (n,)."""
    return _mean(structure, recovered(log_probs, structure.tokens), members)


def designed_recovery(structure: Structure, designs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Recovery of designs (n, L): (n,)."""
    return _mean(structure, designs == structure.tokens)


def native_nll(structure: Structure, log_probs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean negative log-probability of the native sequence, from (n, L, 21): (n,), nats."""
    tokens = np.broadcast_to(structure.tokens, log_probs.shape[:2])
    picked = np.take_along_axis(log_probs, tokens[..., None], -1)[..., 0]
    return _mean(structure, -picked)


def divergence(
    structure: Structure, teacher: NDArray[np.float32], log_probs: NDArray[np.float32]
) -> NDArray[np.float64]:
    """KL divergence of a model from its teacher, both (n, L, 21): mean per residue (n,), nats."""
    p = teacher.astype(np.float64)
    return _mean(structure, (np.exp(p) * (p - log_probs)).sum(-1))


def sidechain_neighbours(structure: Structure) -> NDArray[np.float64]:
    """Number of residues around each side chain: (L,), NaN where the backbone is incomplete.

    Neighbours are counted within a soft cone along CA-CB, as Rosetta's LayerSelector does
    (rosettacommons.org/docs, ResidueSelectors): residue j counts
    1 / (1 + exp(d - 9)) * (max(0, cos a + 0.5) / 1.5)^2, where d is the distance of the CB atoms in
    Å, and a the angle between CA-CB of i and the line from CB of i to CB of j. CB is the virtual
    one of the network's features, so no side chain is needed.
    """
    neighbours = np.full(len(structure), np.nan)
    atoms = with_virtual_cb(torch.from_numpy(structure.coords[structure.mask])).double().numpy()
    cb = atoms[:, CB]
    axis = cb - atoms[:, CA]
    axis /= np.linalg.norm(axis, axis=-1, keepdims=True)  # (N, 3)
    line = cb[None] - cb[:, None]  # (N, N, 3), from i to j
    distance = np.linalg.norm(line, axis=-1)
    np.fill_diagonal(distance, np.inf)
    cosine = np.einsum("ijc,ic->ij", line, axis) / distance
    near = 1 / (1 + np.exp(np.minimum(distance, 100.0) - 9))
    neighbours[structure.mask] = (near * (np.maximum(0, cosine + 0.5) / 1.5) ** 2).sum(1)
    return neighbours


def residue_classes(structure: Structure) -> dict[str, NDArray[np.bool_]]:
    """Masks of the buried, the exposed and the remaining residues: (L,) bool each."""
    count = sidechain_neighbours(structure)
    with np.errstate(invalid="ignore"):
        buried, exposed = count >= BURIED, count <= EXPOSED
    return {"buried": buried, "boundary": ~buried & ~exposed, "exposed": exposed}


METRICS = {
    "recovery": "teacher-forced recovery, %",
    "designed": "recovery of designs, %",
    "nll": "-log p of the native sequence, nats",
    "kl": "KL from the teacher, nats",
    "buried": "teacher-forced, buried, %",
    "boundary": "teacher-forced, boundary, %",
    "exposed": "teacher-forced, exposed, %",
}
"""Metric -> its name in tables, with its unit. A loss of a metric in % is in points."""


def metrics(
    structures: Sequence[Structure], assessed: Assessment, teacher: Assessment
) -> dict[str, NDArray[np.float64]]:
    """Every metric of `METRICS` by structure and order or design: name -> (S, n).

    NaN where a structure has no residue of a class.
    """
    values = {
        "recovery": 100 * by_structure(recovery, structures, assessed.log_probs),
        "designed": 100 * by_structure(designed_recovery, structures, assessed.designs),
        "nll": by_structure(native_nll, structures, assessed.log_probs),
        "kl": by_structure(divergence, structures, teacher.log_probs, assessed.log_probs),
    }
    classes = [residue_classes(s) for s in structures]
    for name in ("buried", "boundary", "exposed"):
        members = [of_structure[name] for of_structure in classes]
        values[name] = 100 * by_structure(recovery, structures, assessed.log_probs, members)
    return values


def losses(
    metric: str, values: NDArray[np.float64], teacher: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The loss of a model against its teacher by structure: positive is worse, in every metric."""
    if metric == "kl":
        return values
    return values - teacher if metric == "nll" else teacher - values


def composition(
    structures: Sequence[Structure], tokens: Sequence[NDArray[np.int64]]
) -> list[float]:
    """Share of each of the 20 amino acids in sequences (n, L) of each structure, in %."""
    letters = np.concatenate(
        [
            np.atleast_2d(t)[:, known_residues(s)].ravel()
            for s, t in zip(structures, tokens, strict=True)
        ]
    )
    counts = np.bincount(letters, minlength=len(ALPHABET))[: len(AMINO_ACIDS)]
    return [float(share) for share in 100 * counts / counts.sum()]


def known_residues(structure: Structure) -> NDArray[np.bool_]:
    """Residues with a complete backbone and a known native letter: (L,) bool."""
    return structure.mask & (structure.tokens != UNKNOWN)


def _mean(
    structure: Structure, values: NDArray[Any], members: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Mean over the known residues (among `members`) of values (n, L): (n,); NaN of none."""
    chosen = known_residues(structure) if members is None else known_residues(structure) & members
    if not chosen.any():
        return np.full(len(values), np.nan)
    return np.asarray(values[:, chosen].mean(1, dtype=np.float64))
