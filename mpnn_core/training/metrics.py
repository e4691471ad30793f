"""What a model's accuracy is measured in, per structure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mpnn_core.constants import ALPHABET, CA, CB
from mpnn_core.network.features import with_virtual_cb
from mpnn_core.structures.structure import Structure

LETTERS = ALPHABET[:20]
# Side-chain neighbours from which on a residue is buried, and up to which it is exposed: the core
# and surface cutoffs of Rosetta's LayerSelector.
BURIED, EXPOSED = 5.2, 2.0


@dataclass(frozen=True, eq=False)
class Assessment:
    """What a model says of S structures.

    Attributes
    ----------
    log_probs : per structure (num_orders, L, 21), teacher-forced on the native sequence
    designs : per structure (num_sequences, L) int64
    """

    log_probs: list[NDArray[np.float32]]
    designs: list[NDArray[np.int64]]


def by_structure(
    metric: Callable[..., NDArray[np.float64]], structures: Sequence[Structure], *given: Any
) -> NDArray[np.float64]:
    """A metric of each structure, from one entry of each of `given`: (S, n)."""
    return np.stack([metric(*row) for row in zip(structures, *given, strict=True)])


def recovery(
    structure: Structure,
    log_probs: NDArray[np.float32],
    members: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Teacher-forced recovery, of all residues or of `members` (L,), from (n, L, 21): (n,)."""
    return _mean(structure, log_probs.argmax(-1) == structure.tokens, members)


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
    """How many residues surround each side chain: (L,), NaN where the backbone is incomplete.

    Neighbours are counted within a soft cone along CA-CB, as Rosetta's LayerSelector does
    (rosettacommons.org/docs, ResidueSelectors): residue j counts
    1 / (1 + exp(d - 9)) * (max(0, cos + 0.5) / 1.5)^2, d being the distance of the CB atoms in Å
    and cos that of the angle between CA-CB of i and the line from CB of i to CB of j. It needs no
    side chain: CB is the virtual one of the network's own features.
    """
    counted = np.full(len(structure), np.nan)
    atoms = with_virtual_cb(torch.from_numpy(structure.coords[structure.mask])).double().numpy()
    cb = atoms[:, CB]
    axis = cb - atoms[:, CA]
    axis /= np.linalg.norm(axis, axis=-1, keepdims=True)  # (N, 3)
    line = cb[None] - cb[:, None]  # (N, N, 3), from i to j
    distance = np.linalg.norm(line, axis=-1)
    np.fill_diagonal(distance, np.inf)
    cosine = np.einsum("ijc,ic->ij", line, axis) / distance
    near = 1 / (1 + np.exp(np.minimum(distance, 100.0) - 9))
    counted[structure.mask] = (near * (np.maximum(0, cosine + 0.5) / 1.5) ** 2).sum(1)
    return counted


def residue_classes(structure: Structure) -> dict[str, NDArray[np.bool_]]:
    """Which residues are buried, exposed and neither: (L,) bool each."""
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
"""What each metric is called, and its unit; those in % lose points."""


def metrics(
    structures: Sequence[Structure], assessed: Assessment, teacher: Assessment
) -> dict[str, NDArray[np.float64]]:
    """Every metric of `METRICS` by structure and order or design: name -> (S, n).

    NaN where a structure has no residue of a class.
    """
    found = {
        "recovery": 100 * by_structure(recovery, structures, assessed.log_probs),
        "designed": 100 * by_structure(designed_recovery, structures, assessed.designs),
        "nll": by_structure(native_nll, structures, assessed.log_probs),
        "kl": by_structure(divergence, structures, teacher.log_probs, assessed.log_probs),
    }
    classes = [residue_classes(s) for s in structures]
    for name in ("buried", "boundary", "exposed"):
        members = [of_structure[name] for of_structure in classes]
        found[name] = 100 * by_structure(recovery, structures, assessed.log_probs, members)
    return found


def losses(
    metric: str, values: NDArray[np.float64], teacher: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What a model loses by structure: positive is worse, whichever way the metric points."""
    if metric == "kl":
        return values
    return values - teacher if metric == "nll" else teacher - values


def composition(
    structures: Sequence[Structure], tokens: Sequence[NDArray[np.int64]]
) -> list[float]:
    """Share of each of `LETTERS` among all residues of sequences (n, L) per structure, in %."""
    letters = np.concatenate(
        [np.atleast_2d(t)[:, _known(s)].ravel() for s, t in zip(structures, tokens, strict=True)]
    )
    counts = np.bincount(letters, minlength=len(ALPHABET))[: len(LETTERS)]
    return [float(share) for share in 100 * counts / counts.sum()]


def _known(structure: Structure) -> NDArray[np.bool_]:
    """Residues with a complete backbone whose native letter is known."""
    return structure.mask & (structure.tokens != ALPHABET.index("X"))


def _mean(
    structure: Structure, values: NDArray[Any], members: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Mean over the known residues (among `members`) of values (n, L): (n,); NaN of none."""
    chosen = _known(structure) if members is None else _known(structure) & members
    if not chosen.any():
        return np.full(len(values), np.nan)
    return np.asarray(values[:, chosen].mean(1, dtype=np.float64))
