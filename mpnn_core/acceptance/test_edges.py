"""Lengths and layouts at which padding, buckets and k-NN graphs go wrong."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from mpnn_core.acceptance.candidate import Candidate, Judge
from mpnn_core.acceptance.cases import EDGES, Cut, cuts
from mpnn_core.acceptance.comparing import EDGE, demand

EXAMPLES = 20


@pytest.mark.parametrize("length", EDGES)
def test_a_chain_of_this_length(length: int, candidate: Candidate, judge: Judge) -> None:
    question = Cut(length, chain=length, start=length).build()
    expected = judge.log_probs(question)
    found = candidate.log_probs(question)
    demand(candidate, question, found, expected, EDGE, judge.whose, judge)


@pytest.mark.parametrize(
    "cut",
    [
        Cut(2, chain_starts=(1,)),
        Cut(49, chain_starts=(1, 48)),
        Cut(65, chain_starts=(20, 45), gaps=((10, 3), (50, 40))),
        Cut(70, chain=2, missing=(0, 30, 69)),
        Cut(64, chain=5, missing=tuple(range(0, 60, 2))),
    ],
    ids=["two-chains-of-one", "ends-of-one", "gaps", "masked-ends", "half-masked"],
)
def test_a_layout(cut: Cut, candidate: Candidate, judge: Judge) -> None:
    question = cut.build()
    expected = judge.log_probs(question)
    found = candidate.log_probs(question)
    demand(candidate, question, found, expected, EDGE, judge.whose, judge)


def test_any_layout(candidate: Candidate, judge: Judge) -> None:
    """Hypothesis draws layouts, the same in every run, and shrinks one that fails."""

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
        phases=[Phase.generate, Phase.shrink], report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(cuts())
    def check(cut: Cut) -> None:
        question = cut.build()
        expected = judge.log_probs(question)
        demand(candidate, question, candidate.log_probs(question), expected, EDGE, judge.whose)

    check()
