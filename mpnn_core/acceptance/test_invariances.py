"""What must not change an answer: motion, the order of chains, company, what was asked before."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mpnn_core.acceptance.candidate import Candidate, DifferenceError, Judge, described
from mpnn_core.acceptance.cases import Cut, Question, stored
from mpnn_core.acceptance.comparing import PARITY, demand

# Two answers, each of which may be this far from the truth.
ALIKE = 2 * PARITY


@pytest.mark.parametrize("name", ["5L33", "3HTN-three-chains", "5L33-five-masked"])
def test_a_rigid_motion_changes_nothing(name: str, candidate: Candidate, judge: Judge) -> None:
    case = stored()[name]
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    coords = case.question.structure.coords.astype(np.float64) @ rotation + rng.normal(0, 30, 3)
    moved = case.question.asked_of(coords=coords)
    found = candidate.log_probs(moved)
    whose = "the original's before a rotation and a shift"
    demand(candidate, moved, found, case.answer, ALIKE, whose, judge)


def test_the_order_of_chains_changes_nothing(candidate: Candidate, judge: Judge) -> None:
    case = stored()["3HTN-three-chains"]
    chain = case.question.structure.chain_ids
    rows = np.concatenate([np.flatnonzero(chain == c) for c in ("B", "C", "A")])
    turned = case.question.of_rows(rows)
    found = candidate.log_probs(turned)
    whose = "the original's with the chains in another order"
    demand(candidate, turned, found, case.answer[rows], ALIKE, whose, judge)


def test_residues_decoded_later_are_not_heard(candidate: Candidate) -> None:
    """The letters of the second half of the order are others: the first half must not see it."""
    case = stored()["5L33"]
    question = case.question
    half = len(question.order) // 2
    letters = list(question.sequence)
    for i in question.order[half:].tolist():
        letters[i] = "W" if letters[i] != "W" else "G"
    early = np.sort(question.order[: half + 1])
    after = candidate.log_probs(question.asked_of(sequence="".join(letters)))[early]
    apart = np.abs(after - case.answer[early])
    if not apart.max() <= ALIKE:
        raise DifferenceError(
            f"{candidate}: other letters of residues that are decoded later change those decoded "
            f"before by up to {apart.max():.1e} nats (bound {ALIKE:.0e}), at row "
            f"{early[apart.max(-1).argmax()]} of {described(question.structure)}.\n  Likely cause: "
            "the mask of the decoder lets them through, or the decoding order is another"
        )


def test_company_in_a_batch_changes_nothing(candidate: Candidate, judge: Judge) -> None:
    """A short chain, a longer one, a complex and a chain with masked residues, in one call."""
    if not candidate.offers("log_probs_many"):
        pytest.skip("not exercised: the candidate has no method log_probs_many(structures, ...)")
    short = Cut(20).build()
    cases = [stored()[f"5L33{n}"] for n in ("", "-without-a-loop", "-five-masked")]
    cases.append(stored()["3HTN-three-chains"])
    questions = [short, *(case.question for case in cases)]
    answers: list[NDArray[np.floating]] = [judge.log_probs(short)]
    answers += [case.answer for case in cases]
    together = candidate.log_probs_many(questions)
    for question, found, expected in zip(questions, together, answers, strict=True):
        demand(
            candidate, question, found, expected, ALIKE,
            f"{judge.whose} where it is asked alone", judge,
        )  # fmt: skip


# ----------------------------------------------------------------- what was asked before: no state

SAME_LENGTH = [Cut(60, chain, seed=1) for chain in (0, 3, 7)]


def test_what_was_asked_before_changes_nothing(candidate: Candidate, judge: Judge) -> None:
    """Structures of one length and name, in turn, and the first one again."""
    first, second, third = (cut.build() for cut in SAME_LENGTH)
    for question in (first, second, first, third, second):
        expected = judge.log_probs(question)
        found = candidate.log_probs(question)
        demand(candidate, question, found, expected, ALIKE, judge.whose, judge)


def test_another_sequence_and_order_of_one_structure_are_computed_anew(
    candidate: Candidate, judge: Judge
) -> None:
    first = SAME_LENGTH[0].build()
    questions: list[Question] = [
        first,
        first.asked_of(order=first.order[::-1].copy()),
        first.asked_of(sequence=first.sequence[::-1]),
        first,
    ]
    for question in questions:
        expected = judge.log_probs(question)
        found = candidate.log_probs(question)
        demand(candidate, question, found, expected, ALIKE, judge.whose, judge)
