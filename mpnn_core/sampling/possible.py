"""Whether a residue is left to draw: where it can be said before a run, and where it cannot.

Every backend draws from softmax((logits + bias) / temperature), mixed with a position-specific
scoring matrix. Where that is no distribution, nothing may be drawn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mpnn_core.constants import ALPHABET
from mpnn_core.sampling.constraints import Resolved
from mpnn_core.sampling.labels import ConstraintError, label
from mpnn_core.structures.structure import Structure

# Beside a bias under this, float32 rounds a logit to a sixteenth, and beyond it to nothing.
LOWEST_BIAS = -1e6


class NothingLeftError(ConstraintError):
    """No residue could be drawn at a position of a sequence.

    Attributes
    ----------
    structure : its name
    sequence : the number of the sequence, from 0; None where no sequence could have one
    position : the 0-based position
    """

    def __init__(
        self, structure: Structure, position: int, why: str, sequence: int | None = None
    ) -> None:
        self.structure, self.sequence, self.position = structure.name, sequence, position
        of_sequence = "" if sequence is None else f" in sequence {sequence + 1}"
        super().__init__(
            f"{structure.name}: no residue is left to draw at "
            f"{label(structure, position)}{of_sequence}: {why}"
        )


def require_possible(
    structure: Structure, resolved: Resolved, temperatures: NDArray[np.float32]
) -> None:
    """Raise NothingLeftError where no logits whatever would leave a residue to draw.

    `temperatures` are (n, L), of the positions of n sequences.
    """
    plain = resolved.pssm is None and not resolved.groups and not resolved.biases.any()
    if plain and not resolved.omitted.all(1).any():
        return
    coldest = temperatures.min(0)
    bias, omitted = resolved.biases.copy(), resolved.omitted.copy()
    pssm = None if resolved.pssm is None else [values.copy() for values in resolved.pssm]
    for group in resolved.groups:  # drawn from the means of its members
        members = list(group)
        coldest[members] = coldest[members].min()
        omitted[members] = omitted[members].any(0)
        for values in (bias, *(pssm or ())):
            values[members] = values[members].mean(0, dtype=np.float64)
    with np.errstate(over="ignore", under="ignore"):
        scaled = bias / coldest[:, None]
        drawn = (scaled > -np.inf) & ~omitted
        left = drawn
        if pssm is not None:
            known, weight, factor = pssm
            weight = weight[:, None]
            left = (((1 - weight) * drawn + weight * known) * factor > 0) & ~omitted

    def first(where: NDArray[np.bool_]) -> int | None:
        found = np.flatnonzero(where & resolved.designed)
        return int(found[0]) if len(found) else None

    above = (scaled == np.inf) & ~omitted
    if (i := first(above.any(1))) is not None:
        letter = int(above[i].argmax())
        raise NothingLeftError(
            structure, i,
            f"the bias of {ALPHABET[letter]}, {bias[i, letter]:g}, is beyond float32 when the "
            f"temperature {coldest[i]:g} divides it; give a smaller one",
        )  # fmt: skip
    largest = np.where(omitted, -np.inf, bias).max(1)
    if (i := first(~drawn.any(1) | (largest < LOWEST_BIAS))) is not None:
        raise NothingLeftError(
            structure, i,
            f"no residue that is not omitted has a bias over {largest[i]:g}, beside which float32 "
            f"keeps nothing of the logits (temperature {coldest[i]:g}); biases count against each "
            "other alone, so leave one at 0",
        )  # fmt: skip
    if (i := first(~left.any(1))) is not None:
        raise NothingLeftError(
            structure, i,
            "pssm.coefficient times pssm.multiplier is 1, and pssm.bias is 0 for every residue "
            "that is not omitted; give one of them more, or take less of the PSSM",
        )  # fmt: skip


def is_distribution(probabilities: Tensor) -> Tensor:
    """Which rows of (M, 21) something could be drawn from: (M,) bool.

    Backends make of logits that are not finite NaN, 0 or infinity for each letter.
    """
    return (probabilities.sum(-1) - 1).abs() < 0.5
