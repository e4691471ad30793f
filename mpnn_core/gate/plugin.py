"""The pytest plugin: binds tests to claims, measures, judges, and prints the ledger.

A test names the figures it settles, `@pytest.mark.claim("S2", "speed")`, and uses one fixture:
`paired` for a ratio of times, `timed` with `judge` where more than two sides are timed, `judge`
alone for everything else, `not_exercised` where the hardware is missing. What is timed is timed in
fresh processes (sessions.py). Entries travel with the test's report, so they arrive from
pytest-xdist's workers as well.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from math import exp
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

import pytest
from rich.console import Console

from mpnn_core.gate import GateError, devices
from mpnn_core.gate.budget import Budget, seconds
from mpnn_core.gate.claims import load_claims
from mpnn_core.gate.hardware import device_class, hardware_of
from mpnn_core.gate.intervals import FEWEST_PROCESSES, Interval
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
from mpnn_core.gate.pairing import Rounds
from mpnn_core.gate.printing import print_short, print_whole, print_words
from mpnn_core.gate.project import Project, load_project
from mpnn_core.gate.revisions.compare import compare_revisions
from mpnn_core.gate.revisions.comparison import Comparison, print_comparison
from mpnn_core.gate.sessions import (
    PROCESSES,
    WAIT_POLICY,
    Plan,
    Sessions,
    Test,
    Times,
    child_arguments,
    environment_of_child,
    measure,
    run_pytest,
)
from mpnn_core.gate.stored_times import Replayed
from mpnn_core.gate.timing import TIMING, Timing
from mpnn_core.gate.verdicts import GateResult, Verdict

BUDGET = pytest.StashKey[Budget]()
SESSIONS = pytest.StashKey[Sessions]()
REPLAYED = pytest.StashKey[Replayed]()
COMPARISON = pytest.StashKey[Comparison]()
# Of the budget, for costly tests that time nothing.
RESERVED_SHARE = 0.25
# Of the content that pytest-benchmark stores.
SCHEMA = 1


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("claims")
    group.addoption(
        "--acceptance", action="store_true", help="a gate that stays inconclusive fails as well"
    )
    group.addoption(
        "--budget", default="4m", metavar="TIME", type=seconds,
        help="time for all fresh processes of the run, such as 90s or 4m (default: 4m)",
    )  # fmt: skip
    group.addoption(
        "--processes", type=int, default=PROCESSES, metavar="N",
        help=f"fresh processes that time each test (default: {PROCESSES})",
    )  # fmt: skip
    group.addoption(
        "--timing", metavar="PLAN",
        help="time the tests of a plan and judge none; a run of pytest gives it to its processes",
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
        "costly(seconds): measured after all others, if so much of --budget is left by then; "
        "what is timed takes so many seconds in each fresh process",
        "times_on(device): the fresh processes time the test where this device is, and only there",
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
    if config.getoption("--processes") < 1:
        raise pytest.UsageError(
            f"--processes {config.getoption('--processes')}: expected 1 or more; "
            f"an interval takes {FEWEST_PROCESSES}"
        )
    config.pluginmanager.register(devices, devices.__name__)
    if plan := config.getoption("--timing"):
        timing = config.stash[TIMING] = Timing(Plan.load(Path(plan)))
        config.pluginmanager.register(timing, "mpnn_core.timing")
        return
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
    timed_items = [item for item in items if _is_timed(item)]
    for item in timed_items:
        replayed = item.stash[REPLAYED] = Replayed()
        own = item.get_closest_marker("benchmark")
        options = {**(own.kwargs if own else {}), "timer": replayed}
        item.add_marker(pytest.mark.benchmark(**options), append=False)
        # A test without a value of a fresh process has nothing to store.
        item.add_marker(pytest.mark.filterwarnings("ignore:Benchmark fixture was not used at all"))


def _cost(item: pytest.Item) -> float:
    mark = item.get_closest_marker("costly")
    return float(mark.args[0]) if mark else 0.0


def _is_timed(item: pytest.Item) -> bool:
    return "timed" in getattr(item, "fixturenames", ())


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[BUDGET] = Budget(session.config.getoption("--budget"))


def _sessions(request: pytest.FixtureRequest) -> Sessions:
    """The fresh processes of this run, which the first test that is timed starts."""
    config = request.config
    if SESSIONS not in config.stash:
        items = [item for item in request.session.items if _is_timed(item) and _is_here(item)]
        budget, all_items = config.stash[BUDGET], request.session.items
        arguments = child_arguments(
            list(dict.fromkeys(item.path for item in items)),
            config.rootpath,
            config.inipath,
            config.getoption("importmode"),
            *(x for name in config.getoption("plugins") for x in ("-p", name)),
            *(x for device in config.getoption("--device") or () for x in ("--device", device)),
            *(
                x
                for claims in [config.getoption("--claims")]
                if claims
                for x in ("--claims", claims)
            ),
        )
        environment = environment_of_child()
        config.stash[SESSIONS] = measure(
            [Test(item.nodeid, _cost(item), _is_headline(item)) for item in items],
            budget.left - _reserved(all_items, budget.left),
            config.getoption("--processes"),
            lambda plan: run_pytest(arguments, config.invocation_params.dir, plan, environment),
            lambda line: _say(config, line),
        )
        budget.left -= config.stash[SESSIONS].seconds
    return config.stash[SESSIONS]


def _is_here(item: pytest.Item) -> bool:
    """Whether the hardware is that the test is timed on."""
    mark = item.get_closest_marker("times_on")
    return mark is None or hardware_of(item.config.stash[PROJECT]).find(mark.args[0]) is not None


def _is_headline(item: pytest.Item) -> bool:
    """Whether the test is timed however short the budget is: a headline that is not costly."""
    claims = item.config.stash[CLAIMS]
    return not _cost(item) and any(
        claims[claim].figures[figure].headline for claim, figure in bindings(item)
    )


def _reserved(items: list[pytest.Item], budget_s: float) -> float:
    """Seconds for the costly tests that run in this process, up to a share of the budget."""
    costs = sorted(_cost(item) for item in items if _cost(item) and not _is_timed(item))
    reserved = 0.0
    for cost in costs:
        if reserved + cost <= RESERVED_SHARE * budget_s:
            reserved += cost
    return reserved


def _say(config: pytest.Config, line: str) -> None:
    """Print a line while a test runs, whose own output is captured."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if terminal is not None:
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            terminal.ensure_newline()
            terminal.write_line(line)


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
    if not cost or TIMING in request.config.stash:
        yield
        return
    note = ""
    if _is_timed(request.node) and request.getfixturevalue("benchmark").enabled:
        sessions = _sessions(request)
        if not sessions.errors(request.node.nodeid):
            note = sessions.left_out.get(request.node.nodeid, "")
        cost *= request.config.getoption("--processes")
    elif cost > budget.left:
        note = f"the budget has {max(0, budget.left):.0f} s left"
    if note:
        note = f"takes about {cost:.0f} s, {note}"
        Judge(request)(None, note=note)
        pytest.skip(note)
    left, started = budget.left, time.perf_counter()
    yield
    if not _is_timed(request.node):
        budget.left = left - (time.perf_counter() - started)


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Judge:
    """Judge an accuracy figure, a count, or a ratio measured elsewhere."""
    return Judge(request)


@pytest.fixture
def timed(request: pytest.FixtureRequest, benchmark: Any) -> Callable[..., Times]:
    """Time several sides in fresh processes.

    A fresh process times a few rounds of the sides, and ends the test there. The run that started
    it, and that a user sees, goes on with what all processes found; nothing, if the budget pays for
    none. With `--benchmark-disable` it times one round by itself, which has no interval.
    """
    config, test = request.config, request.node.nodeid
    if hasattr(config, "workerinput"):
        pytest.fail(
            f"{test} is timed, and pytest-xdist's workers would disturb each other; leave out -n, "
            "or the timed tests", pytrace=False,
        )  # fmt: skip
    hardware = hardware_of(config.stash[PROJECT])

    def measure_sides(
        sides: Mapping[str, Callable[[], Any]],
        *,
        ours: str,
        device: Any = "cpu",
        synchronise: Callable[[], None] | None = None,
        warm_up: Callable[[], Any] | None = None,
    ) -> Times:
        """Time the sides; see `Rounds`.

        `ours` is the side whose seconds pytest-benchmark stores, and `synchronise` the device's own
        unless given.
        """
        waits = synchronise or hardware.synchroniser(device_class(device))
        if TIMING in config.stash:
            config.stash[TIMING].time(sides, waits, warm_up)
        if not benchmark.enabled:
            rounds = Rounds(sides, waits, warm_up)
            rounds.round()
            return Times([rounds.log_seconds], "benchmarks are disabled")
        sessions = _sessions(request)
        if errors := sessions.errors(test):
            pytest.fail(f"{test}, in a fresh process: {errors[0]}", pytrace=False)
        times = sessions.times(test)
        if not times.processes:
            return times
        replayed = request.node.stash[REPLAYED]
        replayed.seconds = times.seconds(ours)
        benchmark.pedantic(replayed.run, rounds=len(times.processes), iterations=1)
        medians = {f"{side}_s": times.seconds(side) for side in sides}
        benchmark.extra_info.update(medians, processes=len(times.processes))
        return times

    return measure_sides


@pytest.fixture
def paired(
    request: pytest.FixtureRequest, benchmark: Any, judge: Judge, timed: Callable[..., Times]
) -> Callable[..., list[Entry]]:
    """Time a candidate against a baseline in fresh processes, and judge the ratio.

    pytest-benchmark stores the candidate's seconds, one value for each process, so that its own
    comparison is of the candidate; the baseline's and the control's are in `extra_info`.
    """
    hardware = hardware_of(request.config.stash[PROJECT])

    def measure_pair(
        baseline: Callable[[], Any],
        candidate: Callable[[], Any],
        *,
        workload: str = "",
        device: Any = "cpu",
        synchronise: Callable[[], None] | None = None,
        work: int = 1,
        warm_up: Callable[[], Any] | None = None,
        note: str = "",
        only_record: bool = False,
    ) -> list[Entry]:
        """See `timed` and `Judge`.

        `work` says how many times the baseline's work one call of the candidate does, as a batch of
        8 does.
        """
        device = device_class(device)
        sides = {"baseline": baseline, "candidate": candidate, "control": baseline}
        times = timed(
            sides, ours="candidate", device=device, synchronise=synchronise, warm_up=warm_up
        )
        ratio = times.ratio("baseline", "candidate", work)
        control = times.ratio("baseline", "control")
        try:
            return judge(
                ratio,
                workload=workload,
                device=device,
                control=control,
                times=times,
                note=note,
                only_record=only_record,
            )
        finally:  # a red is stored as well
            entries = [Entry.from_json(e) for e in recorded(request.node)]
            ratios = [work * exp(v) for v in times.values({"baseline": 1, "candidate": -1})]
            benchmark.extra_info.update(
                _extra_info(entries, ratio, control), ratios=ratios, **hardware.machine()
            )

    return measure_pair


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
        "processes": entries[0].processes,
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
    try:
        comparison = compare_revisions(
            config.getoption("--against"),
            project,
            config.getoption("--budget"),
            progress=lambda line: _say(config, line),
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
        if SESSIONS in self.config.stash:
            policy = {name: environment_of_child()[name] for name in WAIT_POLICY}
            ledger.machine = {**ledger.machine, **policy}
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
