"""A fresh process of pytest that times tests and judges none: `--timing PLAN`.

It is started by another run of pytest (mpnn_core/gate/sessions.py), which judges what it wrote.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from mpnn_core.gate.pairing import Rounds
from mpnn_core.gate.sessions import Plan, Record

TIMING = pytest.StashKey["Timing"]()
# The last characters of an error that the other run repeats.
LONGEST_ERROR = 2000


class Timing:
    """Runs the tests of a plan, in its order, and writes a record of each."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.record = Record("")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """The plan's tests alone, in its order."""
        order = {test: i for i, test in enumerate(self.plan.tests)}
        others = [item for item in items if item.nodeid not in order]
        config.hook.pytest_deselected(items=others)
        items[:] = sorted(
            (item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid]
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        started = time.perf_counter()
        self._write(Record(item.nodeid))
        done = yield
        self._write(replace(self.record, seconds=time.perf_counter() - started))
        return done

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """A test that would end too late is not begun."""
        plan, test = self.plan, item.nodeid
        if plan.until_s is None or test in plan.always:
            return
        if time.time() - plan.started + plan.costs.get(test, 0.0) > plan.until_s:
            self.record = replace(self.record, too_late=True)
            pytest.skip("no time left")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed:
            self.record = replace(
                self.record, log_seconds={}, error=report.longreprtext[-LONGEST_ERROR:]
            )
        elif report.skipped and not self.record.log_seconds and call.excinfo is not None:
            self.record = replace(self.record, skipped=str(call.excinfo.value))
        return report

    def time(
        self,
        sides: Mapping[str, Callable[[], Any]],
        synchronise: Callable[[], None],
        warm_up: Callable[[], Any] | None,
    ) -> None:
        """Time the sides of the test that runs, and end it."""
        test = self.record.test
        rounds = Rounds(sides, synchronise, warm_up, self.plan.seed)
        rounds.run(self.plan.tests[test])
        self.record = replace(self.record, rounds_s=rounds.seconds, log_seconds=rounds.log_seconds)
        pytest.skip("timed, and judged by the run that started this process")

    def _write(self, record: Record) -> None:
        self.record = record
        with Path(self.plan.output).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")
