"""Two answers to one question: how far apart, where, and what the likely cause is.

A cause is looked for by experiment: the judge is asked what a fork would see that makes a common
mistake, and the mistake whose answers are the candidate's is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mpnn_core import ALPHABET, Structure
from mpnn_core.acceptance.candidate import Candidate, DifferenceError, Judge, described, residue
from mpnn_core.acceptance.cases import Cut, K, Question

PARITY = 1e-4
"""Nats by which log-probabilities of real proteins may differ."""

EDGE = 5e-4
"""The same of cuts of any layout, which are worse conditioned than whole proteins."""

SHORT, LONG = 40, 100  # residues: fewer than k, where each one hears from all; and more
TIE = 1e-3  # Å: of two residues as far away as this alike, either may be the nearer one
SMALL = 0.3  # nats, what rounding to half precision may do
EXPERIMENTS = 3  # failures of a run that are explained by experiment; a cause explains the rest
ATOMS = ("N", "CA", "C", "O")
Array = NDArray[np.float64]


def demand(
    candidate: Candidate,
    question: Question,
    found: Array,
    expected: NDArray[np.floating],
    bound: float,
    whose: str,
    judge: Judge | None = None,
) -> None:
    """Raise `DifferenceError` if two answers (L, 21) to a question differ by more than `bound`.

    `whose` the expected ones are is said in the message. A cause is looked for with `judge`.
    """
    apart = np.abs(found - expected)
    seen = question.structure.mask
    if np.isfinite(found[seen]).all() and apart[seen].max() <= bound:
        return
    raise DifferenceError(
        f"{candidate}: log-probabilities of {described(question.structure)} "
        f"{_difference(question, found, apart, whose, bound)}"
        f"{'' if judge is None else _likely(candidate, question, found, apart, judge)}"
    )


def _difference(question: Question, found: Array, apart: Array, whose: str, bound: float) -> str:
    seen = question.structure.mask
    strange = seen & ~np.isfinite(found).all(-1)
    if strange.any():
        i = int(strange.argmax())
        return (
            f"are not finite at {int(strange.sum())} of {int(seen.sum())} residues, the first "
            f"{residue(question.structure, i)}."
        )
    row, letter = divmod(int(np.nanargmax(apart)), apart.shape[1])
    wrong = int((apart[seen] > bound).any(-1).sum())
    return (
        f"differ from {whose} by up to {np.nanmax(apart):.1e} nats (bound {bound:.0e}), at "
        f"{residue(question.structure, row)}, letter {ALPHABET[letter]}; {wrong} of "
        f"{int(seen.sum())} residues differ."
    )


def _likely(candidate: Candidate, question: Question, found: Array, apart: Array, judge: Judge
) -> str:  # fmt: skip
    if candidate.explained >= EXPERIMENTS:
        return ""
    candidate.explained += 1
    return f"\n  Likely cause: {cause(candidate, question, found, apart, judge)}."


def cause(
    candidate: Candidate, question: Question, found: Array, apart: Array, judge: Judge
) -> str:
    """What a fork does whose answers to a question are these."""
    seen = question.structure.mask
    if not np.isfinite(found[seen]).all():
        return "missing coordinates (NaN) enter the arithmetic; or a division by zero"
    largest = float(np.nanmax(apart))
    for sentence, mistaken in mistakes(candidate, question):
        theirs = judge.log_probs(mistaken)
        if np.nanmax(np.abs(theirs[seen] - found[seen])) < min(10 * EDGE, largest / 10):
            return sentence
    rows = np.flatnonzero(seen)
    if candidate.offers("neighbours"):
        found_neighbours = candidate.neighbours(question.structure)
        if wrong := wrong_neighbours(question.structure, found_neighbours):
            return f"the choice of the nearest residues (k-NN): {wrong}"
    if len(rows) > K and _agrees(candidate, question.of_rows(rows[:SHORT]), judge):
        return (
            f"the choice of the {K} nearest residues (k-NN), or something else that depends on "
            f"the length: its first {SHORT} residues alone, where each hears from all, are right"
        )
    if len(rows) <= K and _agrees(candidate, Cut(LONG).build(), judge):
        return (
            f"in a chain of fewer than {K} residues, what stands in the places of absent "
            f"neighbours (padding) is heard: a chain of {LONG} residues is right"
        )
    if largest < SMALL and (apart[seen] > PARITY).any(-1).mean() > 0.5:
        return (
            "a small error nearly everywhere: numbers of lower precision (half), or another "
            "constant in the features"
        )
    return "none of the common mistakes that this suite knows; compare layer by layer"


def wrong_neighbours(structure: Structure, found: NDArray[np.int64]) -> str:
    """Where rows (L, k) do not hold the nearest residues, in a sentence; "" where all do.

    Of two residues that are as far away, either may be the nearer one.
    """
    rows = np.flatnonzero(structure.mask)
    k = min(K, len(rows))
    CA = structure.coords[:, 1].astype(np.float64)
    for i in rows.tolist():
        distance = np.linalg.norm(CA[rows] - CA[i], axis=-1)
        farthest = np.sort(distance)[k - 1]
        must = set(rows[distance < farthest - TIE].tolist())
        may = set(rows[distance <= farthest + TIE].tolist())
        got = set(found[i].tolist()) - {-1}
        if len(got) == k and must <= got <= may:
            continue
        lacking = sorted((may if len(got) < k else must) - got)
        return (
            f"{residue(structure, i)} of {described(structure)} has {len(got)} neighbours; "
            f"expected the {k} nearest by CA, itself among them; rows that are missing: "
            f"{lacking or 'none'}, rows too many: {sorted(got - may) or 'none'}"
        )
    return ""


def _agrees(candidate: Candidate, question: Question, judge: Judge) -> bool:
    apart = np.abs(candidate.log_probs(question) - judge.log_probs(question))
    return bool(np.nanmax(apart) <= EDGE)


def mistakes(candidate: Candidate, question: Question) -> Iterator[tuple[str, Question]]:
    """Common mistakes, each with the question that a fork that makes it answers instead."""
    s, order = question.structure, question.order
    L = len(s)
    asked = list(candidate.asked)
    for a, b in combinations(range(4), 2):
        swapped = list(range(4))
        swapped[a], swapped[b] = b, a
        sentence = f"the atoms {ATOMS[a]} and {ATOMS[b]} are exchanged"
        yield sentence, question.asked_of(coords=s.coords[:, swapped])
    yield (
        "the decoding order is read as ranks: position order[t] is decoded at step t, and not "
        "position t at step order[t]",
        question.asked_of(order=order.argsort()),
    )
    yield "the decoding order is read from its end", question.asked_of(order=order[::-1].copy())
    yield "the decoding order is ignored: left to right", question.asked_of(order=np.arange(L))
    if len(s.chains) > 1:
        one = np.full(L, "A")
        yield "chains are not told apart", question.asked_of(chain_ids=one)
        yield (
            "chains are not told apart, and residues are numbered without the gap between chains",
            question.asked_of(chain_ids=one, residue_index=np.arange(L)),
        )
    if (np.diff(s.residue_index) > 1).any():
        yield (
            "residues are numbered without the gaps (missing residue numbers)",
            question.asked_of(residue_index=np.arange(L)),
        )
    if not s.mask.all():
        yield (
            "the mask is omitted: residues without a backbone take part, with their atoms at 0",
            question.asked_of(coords=np.nan_to_num(s.coords)),
        )
    if "X" in question.sequence:
        other = question.sequence.replace("X", "A")
        yield "the letter X is read as A", question.asked_of(sequence=other)
    yield "the sequence is not heard: all X", question.asked_of(sequence="X" * L)
    if question.sequence != s.sequence:
        native = question.asked_of(sequence=s.sequence)
        yield "the structure's own sequence is heard, not the one that was given", native
    for earlier in reversed(asked):
        if len(earlier.order) == L and earlier.structure.mask.sum() == s.mask.sum():
            if not np.array_equal(earlier.structure.coords, s.coords, equal_nan=True):
                yield (
                    "something is kept from an earlier call with another structure of the same "
                    "length (a stale cache)",
                    Question(earlier.structure, question.sequence, order),
                )
            elif earlier.sequence != question.sequence or (earlier.order != order).any():
                yield "the answer of an earlier call is given again (a stale cache)", earlier
