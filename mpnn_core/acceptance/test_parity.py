"""Log-probabilities and neighbours are the original's, on real proteins."""

from __future__ import annotations

import numpy as np
import pytest

from mpnn_core.acceptance.candidate import Candidate, DifferenceError, Judge
from mpnn_core.acceptance.cases import Case, stored
from mpnn_core.acceptance.comparing import PARITY, demand, wrong_neighbours

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
    found = candidate.neighbours(question.structure)
    if wrong := wrong_neighbours(question.structure, found):
        raise DifferenceError(f"{candidate}: {wrong}")
