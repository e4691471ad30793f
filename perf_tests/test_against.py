"""With `--against REV`: no benchmark is slower than in that revision, no answer less exact."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpnn_core.gate.revisions.compare import benchmark_names

pytestmark = pytest.mark.against


@pytest.mark.parametrize("name", benchmark_names(Path(__file__).parent / "benchmarks.py"))
def test_is_no_slower(comparison, name, request) -> None:
    regressions = [line for line in comparison.regressions if line.startswith(f"{name} ")]
    if regressions:
        pytest.fail(regressions[0], pytrace=False)
    (outcome,) = (o for o in comparison.outcomes if o.benchmark == name)
    untold = outcome.may_be_slower(comparison.threshold)
    if untold and request.config.getoption("--acceptance"):
        pytest.fail(f"{name}: could not tell, time {outcome.time}; {outcome.note}", pytrace=False)


def test_answers_are_as_exact(comparison) -> None:
    worse = [line for line in comparison.regressions if "less exact" in line]
    if worse:
        pytest.fail("\n".join(worse), pytrace=False)
    assert comparison.answers, "nothing was answered"
