"""How good a model is: three metrics, never mixed, each one number per structure.

*Teacher-forced recovery*: share of residues whose likeliest letter, given the native residues that
are decoded before it, is the native one. *Designed recovery*: share of residues that a designed
sequence has in common with the native one. *Native perplexity*: exp of the mean negative
log-probability of the native sequence. Papers quote all three as "recovery" or "perplexity".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mpnn_core.design import Model, mean_nll
from mpnn_core.structure import ALPHABET, Structure

# A model that recovers less than this of TS50 has no trained weights; it is no reference.
LEAST_REFERENCE_RECOVERY = 0.35


def teacher_forced_recovery(
    model: Model, structures: Sequence[Structure], seed: int = 0
) -> NDArray[np.float64]:
    """Per structure, under one random decoding order drawn from `seed`: (S,)."""
    return np.array(
        [
            (lp[0].argmax(-1) == s.tokens)[_known(s)].mean()
            for s, lp in zip(structures, model.log_probs(list(structures), seed=seed), strict=True)
        ]
    )


def designed_recovery(
    model: Model,
    structures: Sequence[Structure],
    num_sequences: int = 8,
    temperature: float = 0.1,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Per structure, the mean over `num_sequences` designs: (S,)."""
    found = model.design(list(structures), num_sequences, temperature, seed)
    native = [np.array(list(s.sequence)) for s in structures]
    return np.array(
        [
            np.mean([(np.array(list(q)) == n)[_known(s)].mean() for q in d.sequences])
            for s, n, d in zip(structures, native, found, strict=True)
        ]
    )


def native_perplexity(
    model: Model, structures: Sequence[Structure], seed: int = 0
) -> NDArray[np.float64]:
    """Per structure, under one random decoding order drawn from `seed`: (S,)."""
    return np.array(
        [
            np.exp(mean_nll(lp, s.tokens, _known(s))[0])
            for s, lp in zip(structures, model.log_probs(list(structures), seed=seed), strict=True)
        ]
    )


def _known(structure: Structure) -> NDArray[np.bool_]:
    """Residues with a complete backbone whose native letter is known."""
    return structure.mask & (structure.tokens != ALPHABET.index("X"))
