"""The study of how often a published interval holds what a later process finds."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import numpy as np
import pytest

from mpnn_core.gate.coverage import CoverageError, Covered, Study
from mpnn_core.gate.intervals import fresh_process

PERF_TESTS = Path(__file__).parents[1] / "perf_tests"
PUBLISHED = [2.0, 2.1, 1.9, 2.05, 1.95, 2.0, 2.02, 1.98]


def study(*figures: Covered) -> Study:
    machine = {"processor": "a processor", "cores": "2"}
    return Study("cpu-avx2", machine, "busy", 0.5, "2026-01-01", list(figures))


def test_later_processes_are_counted_where_the_interval_ends() -> None:
    interval = fresh_process([math.log(ratio) for ratio in PUBLISHED])
    fresh = [interval.low, interval.high, 2.0, interval.low * 0.999, interval.high * 1.001]
    found = Covered("E1 speed", PUBLISHED, fresh)
    assert found.interval == interval and found.inside == 3


def test_a_figure_of_too_few_processes_covers_nothing_and_says_so() -> None:
    found = Covered("E1 speed", PUBLISHED[:5], [2.0, 2.0])
    assert found.interval is None and found.inside == 0
    row, _ = study(found).rows()
    assert row[:3] == ("E1 speed", "too few processes", "0 of 2")


def test_the_rates_are_counts_with_exact_intervals() -> None:
    rows = study(
        Covered("E1 speed", PUBLISHED, [2.0] * 19 + [9.0]), Covered("E2 speed", PUBLISHED, [2.0])
    ).rows()
    assert [row[2:] for row in rows] == [
        ("19 of 20", "95 % [75, 100]"),  # Clopper and Pearson's 0.7513 to 0.9987
        ("1 of 1", "100 % [3, 100]"),
        ("20 of 21", "95 % [76, 100]"),
    ]
    assert study(Covered("E1 speed", PUBLISHED, [])).rows()[-1][2:] == ("0 of 0", "-")


def test_a_study_survives_its_file(tmp_path) -> None:
    written = study(Covered("E1 speed", PUBLISHED, [2.0]))
    path = written.save(tmp_path / "coverage")
    assert path.name == "cpu-avx2-busy.json" and Study.load_from(path) == written


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"figures": 1}'])
def test_what_is_no_study_is_told_with_its_file(tmp_path, content) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(CoverageError, match="is no study of coverage") as error:
        Study.load_from(path)
    assert str(path) in str(error.value)


def test_the_studied_tests_exist() -> None:
    """A test that was renamed would be studied no more, in silence."""
    tree = ast.parse((PERF_TESTS / "coverage_study.py").read_text("utf-8"))
    (figures,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "FIGURES"
    )
    studied = ast.literal_eval(figures)
    assert len({figure for figure, _, _ in studied}) == 6
    for _, test, work in studied:
        file, _, name = test.partition("::")
        function, _, case = name.partition("[")
        text = (PERF_TESTS / file).read_text("utf-8")
        assert f"def {function}(" in text, test
        assert not case or f'"{case.rstrip("]")}"' in text, test
        assert work == 1 or f"work={work}" in text, test


def test_an_interval_without_what_differs_between_processes_covers_too_little() -> None:
    """What this study would have found before: rounds of one process say nothing of the next."""
    rng, inside = np.random.default_rng(5), 0
    for _ in range(200):
        process, later = 0.05 * rng.normal(size=2)  # what differs between two processes
        rounds = process + 0.01 * rng.normal(size=8)
        inside += Covered("x", np.exp(rounds).tolist(), [math.exp(later)]).inside
    assert inside < 100, inside
