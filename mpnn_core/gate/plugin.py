"""The pytest plugin: binds tests to claims, measures, judges, and prints the ledger.

A test names the figures it settles, `@pytest.mark.claim("S2", "speed")`, and uses one fixture:
`paired` for a ratio of times, `judge` for everything else, `not_exercised` where the hardware is
missing. Entries travel with the test's report, so they arrive from pytest-xdist's workers as well.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from shutil import get_terminal_size
from typing import Any

import pytest
from rich.console import Console

from mpnn_core.gate import GateError, devices
from mpnn_core.gate.budget import Budget, seconds
from mpnn_core.gate.claims import load_claims
from mpnn_core.gate.hardware import device_class, hardware_of
from mpnn_core.gate.intervals import Interval
from mpnn_core.gate.judging import (
    CLAIMS,
    PROJECT,
    Judge,
    bindings,
    not_exercised_here,
    record_unmeasured,
    recorded,
    unbound,
)
from mpnn_core.gate.ledger import STORED, Entry, Ledger, now, this_machine
from mpnn_core.gate.merging import onto_earlier
from mpnn_core.gate.pairing import LOOKS, Pairing
from mpnn_core.gate.printing import print_short, print_whole, print_words
from mpnn_core.gate.project import Project, load_project
from mpnn_core.gate.revisions.compare import compare_revisions
from mpnn_core.gate.revisions.comparison import Comparison, print_comparison
from mpnn_core.gate.verdicts import GateResult, Verdict

BUDGET = pytest.StashKey[Budget]()
COMPARISON = pytest.StashKey[Comparison]()
# Of the content that pytest-benchmark stores.
SCHEMA = 1


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("claims")
    group.addoption(
        "--acceptance", action="store_true", help="a gate that stays inconclusive fails as well"
    )
    group.addoption(
        "--budget", default="4m", metavar="TIME", type=seconds,
        help="time for all paired measurements of the run, such as 90s or 4m (default: 4m)",
    )  # fmt: skip
    group.addoption(
        "--bindings", action="store_true",
        help="print which test settles which figure, run nothing, and fail if one has no test",
    )  # fmt: skip
    group.addoption(
        "--device", action="append", metavar="DEVICE",
        help="of the tests for every device, those on this one alone; repeatable",
    )  # fmt: skip
    group.addoption(
        "--against", metavar="REV",
        help="time the benchmarks against this revision, within --budget, and run nothing else",
    )  # fmt: skip
    group.addoption(
        "--proof", action="store_true", help="also the proofs that the gates guard; takes minutes"
    )
    group.addoption(
        "--claims", metavar="FILE", help=f"the claims (default: the project's, {Project.claims})"
    )
    group.addoption(
        "--ledger", metavar="FILE",
        help=f"where the ledger is written as JSON (default: the project's, {Project.ledger})",
    )  # fmt: skip
    group.addoption(
        "--ledger-all", action="store_true",
        help="print the whole ledger, not the headline figures and the reds alone",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "claim(id, figure): the test settles this figure of a claim in claims.toml",
        "costly(seconds): measured after all others, if so much of --budget is left by then",
        "proof: takes minutes; runs with --proof, and only then",
        "against: runs with --against REV, and only then",
    ):
        config.addinivalue_line("markers", line)
    try:
        project = config.stash[PROJECT] = load_project(config.rootpath)
        path = config.rootpath / (config.getoption("--claims") or project.claims)
        config.stash[CLAIMS] = load_claims(path, project)
    except GateError as error:
        raise pytest.UsageError(str(error)) from error
    ledger = config.getoption("--ledger")
    if ledger and (config.rootpath / ledger).is_dir():
        raise pytest.UsageError(f"--ledger {ledger} is a folder; expected a file to write")
    for device in config.getoption("--device") or ():
        if device not in project.classes:
            names = ", ".join(project.classes)
            raise pytest.UsageError(f"--device {device}: expected one of {names}")
    config.pluginmanager.register(devices, devices.__name__)
    if not hasattr(config, "workerinput"):  # pytest-xdist's workers only send reports
        config.pluginmanager.register(LedgerKeeper(config), "mpnn_core.ledger")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `device` runs on each device of the project, unless it names its own."""
    marks = metafunc.definition.iter_markers("parametrize")
    if "device" in metafunc.fixturenames and all(mark.args[0] != "device" for mark in marks):
        all_devices = metafunc.config.stash[PROJECT].devices
        chosen = metafunc.config.getoption("--device") or all_devices
        metafunc.parametrize("device", [d for d in all_devices if d in chosen], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    claims = config.stash[CLAIMS]
    for item in items:
        for claim, figure in bindings(item):
            if claim not in claims or figure not in claims[claim].figures:
                known = ", ".join(claims[claim].figures) if claim in claims else ", ".join(claims)
                raise pytest.UsageError(
                    f"{item.nodeid} names claim {claim!r}, figure {figure!r}, which claims.toml "
                    f"does not have; it has {known}"
                )
    against, proof = config.getoption("--against") is not None, config.getoption("--proof")
    deselected = [
        i
        for i in items
        if (i.get_closest_marker("against") is not None) is not against
        or (i.get_closest_marker("proof") is not None and not proof)
    ]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
    items[:] = sorted((i for i in items if i not in deselected), key=_cost)


def _cost(item: pytest.Item) -> float:
    mark = item.get_closest_marker("costly")
    return float(mark.args[0]) if mark else 0.0


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    paired_tests = sum("paired" in getattr(i, "fixturenames", ()) for i in session.items)
    session.config.stash[BUDGET] = Budget(session.config.getoption("--budget"), paired_tests)


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """With --bindings: print what is bound, and run nothing."""
    if not session.config.getoption("--bindings"):
        return None
    if session.testsfailed:
        raise pytest.UsageError(f"{session.testsfailed} files could not be collected")
    bound = [(pair, item.nodeid) for item in session.items for pair in bindings(item)]
    for (claim, figure), test in bound:
        print("binding", claim, figure, test)
    missing = unbound(session.config.stash[CLAIMS].values(), [pair for pair, _ in bound])
    if missing:
        names = ", ".join(" ".join(pair) for pair in missing)
        raise pytest.UsageError(f"no test settles {names}")
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Every figure that a test names gets an entry, also where the test fails or is skipped."""
    report = yield
    if call.when == "teardown":
        if "paired" in getattr(item, "fixturenames", ()):
            item.config.stash[BUDGET].tests -= 1
        return report
    judged = {(e["claim"], e["figure"]) for e in recorded(item)}
    silent = [pair for pair in bindings(item) if pair not in judged]
    if not silent or (call.when == "setup" and report.passed):
        return report
    if report.passed:
        names = ", ".join(" ".join(pair) for pair in silent)
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} names {names}, and judged nothing of it"
    gate, note = GateResult.NONE, "the test of it was skipped"
    if report.failed:
        # What is asserted before a measurement is part of the gate: a wrong answer has no speed.
        gate, note = GateResult.FAILED, "the test of it failed before it was measured"
    record_unmeasured(item, silent, Verdict.NOT_RUN, gate, note)
    return report


@pytest.fixture(autouse=True)
def _affordable(request: pytest.FixtureRequest) -> Generator[None]:
    """Leave out a costly test that is longer than the rest of the budget."""
    cost, budget = _cost(request.node), request.config.stash[BUDGET]
    if not cost:
        yield
        return
    if cost > budget.left:
        note = f"takes about {cost:.0f} s, the budget has {max(0, budget.left):.0f} s left"
        Judge(request)(None, note=note)
        pytest.skip(note)
    left, started = budget.left, time.perf_counter()
    yield
    budget.left = left - (time.perf_counter() - started)


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Judge:
    """Judge an accuracy figure, a count, or a ratio measured elsewhere."""
    return Judge(request)


@pytest.fixture
def paired(
    request: pytest.FixtureRequest, benchmark: Any, judge: Judge
) -> Callable[..., list[Entry]]:
    """Time a candidate against a baseline, and judge the ratio.

    The first look's rounds run under pytest-benchmark, so its storage and its statistics are those
    of real rounds; further looks follow until the verdict and the gate are settled, or the test's
    share of `--budget` is spent. If the first look does not fit the rest of the budget, or if
    benchmarks are disabled, one round is run, and the result is inconclusive.
    """
    hardware = hardware_of(request.config.stash[PROJECT])

    def measure(
        baseline: Callable[[], Any],
        candidate: Callable[[], Any],
        *,
        workload: str = "",
        device: Any = "cpu",
        synchronise: Callable[[], None] | None = None,
        work: int = 1,
        note: str = "",
        only_record: bool = False,
    ) -> list[Entry]:
        """See `Pairing` and `Judge`; `synchronise` is the device's own unless given."""
        device = device_class(device)
        budget = request.config.stash[BUDGET]
        waits = synchronise or hardware.synchroniser(device)
        pairing = Pairing(baseline, candidate, waits, work)
        needed = pairing.seconds + LOOKS[0] * pairing.seconds_per_round
        fits = needed <= budget.left
        if benchmark.enabled and not fits:
            cause = f"{LOOKS[0]} pairs take {needed:.0f} s, the budget has {budget.left:.0f} s left"
            note = "; ".join(filter(None, (note, cause)))
        benchmark.pedantic(pairing.round, rounds=LOOKS[0] if fits else 1, iterations=1)
        if benchmark.enabled and fits:
            pairing.look_again(
                lambda: only_record or judge.settled(pairing.ratio(), pairing.control(), device),
                budget.share(),
            )
        budget.left -= pairing.seconds
        ratio, control, pairs = pairing.ratio(), pairing.control(), len(pairing.log_ratios)
        try:
            return judge(
                ratio,
                workload=workload,
                device=device,
                control=control,
                pairs=pairs,
                note=note,
                only_record=only_record,
            )
        finally:  # a red is stored as well
            entries = [Entry.from_json(e) for e in recorded(request.node)]
            benchmark.extra_info.update(_extra_info(entries, ratio, control), **hardware.machine())

    return measure


def _extra_info(
    entries: list[Entry], ratio: Interval | None, control: Interval | None
) -> dict[str, Any]:
    """What pytest-benchmark stores beside the times of a pair: built-in types only."""
    return {
        "schema": SCHEMA,
        "claim": [e.claim for e in entries],
        "figure": [e.figure for e in entries],
        "ratio": ratio and ratio.value,
        "ci": ratio and [ratio.low, ratio.high],
        "control_ci": control and [control.low, control.high],
        "pairs": entries[0].pairs,
        "verdict": [str(e.verdict) for e in entries],
        "gate": [str(e.gate) for e in entries],
        "device": entries[0].device,
        "workload": entries[0].workload,
    }


@pytest.fixture
def not_exercised(request: pytest.FixtureRequest) -> Callable[..., None]:
    """not_exercised(needs, note): skip, and record that the figures need hardware that is missing.

    The note adds what was measured without that hardware.
    """
    return lambda needs, note="": not_exercised_here(request.node, needs, note)


@pytest.fixture(scope="session")
def comparison(request: pytest.FixtureRequest) -> Comparison:
    """The working tree against the revision of `--against`: measured once for all its tests."""
    config = request.config
    project = config.stash[PROJECT]
    terminal = config.pluginmanager.get_plugin("terminalreporter")

    def progress(line: str) -> None:
        if terminal is not None:
            terminal.ensure_newline()
            terminal.write_line(line)

    try:
        comparison = compare_revisions(
            config.getoption("--against"),
            project,
            config.getoption("--budget"),
            progress=progress,
        )
    except GateError as error:
        pytest.fail(str(error), pytrace=False)
    config.stash[COMPARISON] = comparison
    comparison.save(project.root / project.comparison)
    return comparison


class LedgerKeeper:
    """Gathers the entries of all tests, writes the ledger, and prints it at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.project = config.stash[PROJECT]
        self.started = now()
        self.ledger = Ledger(
            [], mode="acceptance" if config.getoption("--acceptance") else "default"
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":  # the one report that every test has, with all properties
            self.ledger.entries += map(Entry.from_json, recorded(report))

    @pytest.hookimpl(tryfirst=True)
    def pytest_benchmark_update_json(self, output_json: dict[str, Any]) -> None:
        """Store the whole ledger with each run, also figures that were not timed."""
        # May be called more than once for a run, and is the same each time.
        output_json[STORED] = {"schema": SCHEMA, "ledger": self._completed().to_json()}

    def _completed(self) -> Ledger:
        ledger = self.ledger.completed(self.config.stash[CLAIMS])
        ledger.machine, ledger.date = this_machine(self.project), now()
        return ledger

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None]:
        """Save the ledger, and print it below everything else that pytest prints."""
        yield
        text = io.StringIO()
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        colour = terminal is not None and terminal.hasmarkup
        console = Console(file=text, force_terminal=colour, width=get_terminal_size().columns)
        if COMPARISON in self.config.stash:
            print_comparison(self.config.stash[COMPARISON], console)
        if self.ledger.entries:
            path = self.config.rootpath / (self.config.getoption("--ledger") or self.project.ledger)
            latest = replace(self._completed(), started=self.started)
            ledger, lines = onto_earlier(path, latest, self.config.stash[CLAIMS])
            ledger.save(path)
            whole = self.config.getoption("--ledger-all")
            (print_whole if whole else print_short)(ledger, console)
            for line in lines:
                print_words(line, console)
            if path.is_relative_to(self.config.rootpath):
                path = path.relative_to(self.config.rootpath)
            how = "" if whole else "; `mpnn-core claims --all` prints it"
            text.write(f"the whole ledger is in {path}{how}\n")
        if text.getvalue() and terminal is not None:
            terminal.ensure_newline()
            terminal.write("\n" + text.getvalue())
