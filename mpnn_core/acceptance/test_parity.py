"""Log-probabilities and neighbours are the original's, on real proteins."""

from __future__ import annotations

import numpy as np
import pytest

from mpnn_core.acceptance.candidate import Candidate, DifferenceError, Judge, described, residue
from mpnn_core.acceptance.cases import Case, K, Question, stored
from mpnn_core.acceptance.comparing import PARITY, demand

TIE = 1e-3  # Å: of two residues that are as far as this alike, either may be the nearer one


FEW = ["5L33", "3HTN-three-chains", "5L33-five-masked"]


@pytest.mark.parametrize("name", FEW)
def test_the_judge_gives_the_stored_answers(name: str, judge: Judge) -> None:
    """Where it does not, this installation is at fault, and not the candidate."""
    case = stored()[name]
    apart = float(np.nanmax(np.abs(judge.log_probs(case.question) - case.answer)))
    if not apart <= PARITY:
        raise DifferenceError(
            f"{judge}, which judges here, differs from the original's stored answers to "
            f"{case.name} by {apart:.1e} nats: look at this installation before the candidate"
        )


@pytest.mark.parametrize("case", stored().values(), ids=stored())
def test_log_probabilities_are_the_originals(case: Case, candidate: Candidate, judge: Judge
) -> None:  # fmt: skip
    found = candidate.log_probs(case.question)
    demand(candidate, case.question, found, case.answer, PARITY, "the original's", judge)


@pytest.mark.parametrize("name", FEW)
def test_neighbours_are_the_nearest_residues(name: str, candidate: Candidate) -> None:
    if not candidate.offers("neighbours"):
        pytest.skip("not exercised: the candidate has no method neighbours(structure)")
    question = stored()[name].question
    demand_nearest(candidate, question, candidate.neighbours(question.structure))


def demand_nearest(candidate: Candidate, question: Question, found: np.ndarray) -> None:
    """Raise `DifferenceError` unless every row holds the k nearest residues, up to ties."""
    structure = question.structure
    rows = np.flatnonzero(structure.mask)
    k = min(K, len(rows))
    CA = structure.coords[:, 1].astype(np.float64)
    for i in rows.tolist():
        distance = np.linalg.norm(CA[rows] - CA[i], axis=-1)
        # The least that a set must hold, and the most that it may.
        farthest = np.sort(distance)[k - 1]
        must, may = set(rows[distance < farthest - TIE]), set(rows[distance <= farthest + TIE])
        got = set(found[i].tolist()) - {-1}
        if len(got) != k or not must <= got <= may:
            missing = sorted(must - got, key=lambda j: np.linalg.norm(CA[j] - CA[i]))
            raise DifferenceError(
                f"{candidate}: {residue(structure, i)} of {described(structure)} has {len(got)} "
                f"neighbours; expected the {k} nearest by CA, itself among them. Missing rows: "
                f"{[int(j) for j in missing] or 'none'}; too many: {sorted(got - may) or 'none'}"
            )
