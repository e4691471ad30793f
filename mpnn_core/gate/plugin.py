"""The pytest plugin: binds tests to claims, measures, judges, and prints the ledger.

A test names the figures it settles, `@pytest.mark.claim("S2", "speed")`, and uses one fixture:
`paired` for a ratio of times, `judge` for everything else, `not_exercised` where the hardware is
missing. Entries travel with the test's report, so they arrive from pytest-xdist's workers as well.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Generator
from shutil import get_terminal_size
from typing import Any

import pytest
from rich.console import Console

from mpnn_core.gate import GateError, devices
from mpnn_core.gate.budget import Budget, seconds
from mpnn_core.gate.claims import DEVICES, ClaimsError, load_claims
from mpnn_core.gate.devices import TORCH_DEVICES, synchroniser
from mpnn_core.gate.judging import (
    _CLAIMS,
    Judge,
    _entries,
    _record,
    _skip,
    _unmeasured,
    bindings,
    unbound,
)
from mpnn_core.gate.ledger import (
    DEFAULT_PATH,
    STORED,
    Entry,
    Ledger,
    now,
    render,
    this_machine,
)
from mpnn_core.gate.pairing import LOOKS, Pairing
from mpnn_core.gate.project import RESULT
from mpnn_core.gate.revisions import compare
from mpnn_core.gate.revisions import comparison as comparisons
from mpnn_core.gate.revisions.comparison import Comparison
from mpnn_core.gate.verdicts import GateResult, Verdict

_BUDGET = pytest.StashKey[Budget]()
_COMPARISON = pytest.StashKey[Comparison]()
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
        "--device", choices=DEVICES, action="append", metavar="DEVICE",
        help=f"of the tests for every device, those on this one: {', '.join(DEVICES)}; repeatable",
    )  # fmt: skip
    group.addoption(
        "--against", metavar="REV",
        help="time the benchmarks against this revision, within --budget, and run nothing else",
    )  # fmt: skip
    group.addoption(
        "--proof", action="store_true", help="also the proofs that the gates guard; takes minutes"
    )
    group.addoption("--claims", default="claims.toml", metavar="FILE", help="the claims")
    group.addoption(
        "--ledger", default=str(DEFAULT_PATH), metavar="FILE",
        help=f"where the ledger is written as JSON (default: {DEFAULT_PATH})",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "claim(id, figure): the test settles this figure of a claim in claims.toml"
    )
    config.addinivalue_line(
        "markers",
        "costly(seconds): measured after all others, if so much of --budget is left by then",
    )
    config.addinivalue_line("markers", "proof: takes minutes; runs with --proof, and only then")
    config.addinivalue_line("markers", "against: runs with --against REV, and only then")
    try:
        config.stash[_CLAIMS] = load_claims(config.rootpath / config.getoption("--claims"))
    except ClaimsError as error:
        raise pytest.UsageError(str(error)) from error
    config.pluginmanager.register(devices, devices.__name__)
    if not hasattr(config, "workerinput"):  # pytest-xdist's workers only send reports
        config.pluginmanager.register(LedgerKeeper(config), "mpnn_core.ledger")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marks = metafunc.definition.iter_markers("parametrize")
    if "device" in metafunc.fixturenames and all(mark.args[0] != "device" for mark in marks):
        asked = metafunc.config.getoption("--device") or DEVICES
        metafunc.parametrize("device", [d for d in TORCH_DEVICES if d in asked], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    claims = config.stash[_CLAIMS]
    for item in items:
        for claim, figure in bindings(item):
            if claim not in claims or figure not in claims[claim].figures:
                known = ", ".join(claims[claim].figures) if claim in claims else ", ".join(claims)
                raise pytest.UsageError(
                    f"{item.nodeid} names claim {claim!r}, figure {figure!r}, which claims.toml "
                    f"does not have; it has {known}"
                )
    against, proof = bool(config.getoption("--against")), config.getoption("--proof")
    others = [
        i
        for i in items
        if (i.get_closest_marker("against") is not None) is not against
        or (i.get_closest_marker("proof") is not None and not proof)
    ]
    if others:
        config.hook.pytest_deselected(items=others)
    items[:] = sorted((i for i in items if i not in others), key=_cost)


def _cost(item: pytest.Item) -> float:
    mark = item.get_closest_marker("costly")
    return float(mark.args[0]) if mark else 0.0


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    paired_tests = sum("paired" in getattr(i, "fixturenames", ()) for i in session.items)
    session.config.stash[_BUDGET] = Budget(session.config.getoption("--budget"), paired_tests)


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    if not session.config.getoption("--bindings"):
        return None
    if session.testsfailed:
        raise pytest.UsageError(f"{session.testsfailed} files could not be collected")
    bound = [(pair, item.nodeid) for item in session.items for pair in bindings(item)]
    for (claim, figure), test in bound:
        print("binding", claim, figure, test)
    missing = unbound(session.config.stash[_CLAIMS].values(), [pair for pair, _ in bound])
    if missing:
        names = ", ".join(" ".join(pair) for pair in missing)
        raise pytest.UsageError(f"no test settles {names}")
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """No bound test ends without a word: not one that passes, nor one that fails or is skipped."""
    report = yield
    if call.when == "teardown":
        if "paired" in getattr(item, "fixturenames", ()):
            item.config.stash[_BUDGET].tests -= 1
        return report
    claims = item.config.stash[_CLAIMS]
    told = {(e["claim"], e["figure"]) for e in _entries(item)}
    silent = [claims[c].figures[key] for c, key in bindings(item) if (c, key) not in told]
    if not silent or (call.when == "setup" and report.passed):
        return report
    if report.passed:
        names = ", ".join(f"{f.claim} {f.key}" for f in silent)
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} names {names}, and judged nothing of it"
    gate, note = GateResult.NONE, "the test of it was skipped"
    if report.failed:
        # What is asserted before a measurement is part of the gate: a wrong answer has no speed.
        gate, note = GateResult.FAILED, "the test of it failed before it was measured"
    for figure in silent:
        _record(item, _unmeasured(claims, figure, item, Verdict.NOT_RUN, gate, note))
    return report


@pytest.fixture(autouse=True)
def _affordable(request: pytest.FixtureRequest) -> Generator[None]:
    """Leave out a costly test that what is left of the budget does not pay for."""
    seconds, budget = _cost(request.node), request.config.stash[_BUDGET]
    if not seconds:
        yield
        return
    if seconds > budget.left:
        note = f"takes about {seconds:.0f} s, the budget has {max(0, budget.left):.0f} s left"
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
    share of `--budget` is spent. A first look that does not fit what is left of the budget, and a
    run without benchmarks, is one round: inconclusive.
    """

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
        """See `Pairing` and `Judge`; `synchronise` is the torch device's own unless given."""
        import torch

        device = getattr(device, "type", device)
        budget = request.config.stash[_BUDGET]
        pairing = Pairing(baseline, candidate, synchronise or synchroniser(device), work)
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
            entries = _entries(request.node)
            benchmark.extra_info.update(
                schema=SCHEMA,
                claim=[e["claim"] for e in entries],
                figure=[e["figure"] for e in entries],
                ratio=ratio and ratio.value,
                ci=ratio and [ratio.low, ratio.high],
                control_ci=control and [control.low, control.high],
                pairs=pairs,
                verdict=[e["verdict"] for e in entries],
                gate=[e["gate"] for e in entries],
                device=device,
                torch=torch.__version__,
                threads=torch.get_num_threads(),
                workload=entries[0]["workload"],
            )

    return measure


@pytest.fixture
def not_exercised(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Say in the ledger that the figures need hardware that is not here, and skip.

    A note says what was found without it.
    """
    return lambda needs, note="": _skip(request.node, needs, note)


@pytest.fixture(scope="session")
def comparison(request: pytest.FixtureRequest) -> Comparison:
    """The working tree against the revision of `--against`: measured once for all its tests."""
    config = request.config
    terminal = config.pluginmanager.get_plugin("terminalreporter")

    def told(line: str) -> None:
        if terminal is not None:
            terminal.ensure_newline()
            terminal.write_line(line)

    try:
        found = compare.compare(
            config.getoption("--against"),
            config.rootpath,
            config.getoption("--budget"),
            told=told,
        )
    except GateError as error:
        pytest.fail(str(error), pytrace=False)
    config.stash[_COMPARISON] = found
    found.save(config.rootpath / RESULT)
    return found


class LedgerKeeper:
    """Gathers the entries of all tests, writes the ledger, and prints it at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.ledger = Ledger(
            [], mode="acceptance" if config.getoption("--acceptance") else "default"
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":  # the one report that every test has, with all properties
            self.ledger.entries += map(Entry.from_json, _entries(report))

    @pytest.hookimpl(tryfirst=True)
    def pytest_benchmark_update_json(self, output_json: dict[str, Any]) -> None:
        """Into each stored run goes its whole ledger: the figures that nothing timed, too."""
        # May be called more than once for a run, and is the same each time.
        output_json[STORED] = {"schema": SCHEMA, "ledger": self._finished().to_json()}

    def _finished(self) -> Ledger:
        ledger = self.ledger.completed(self.config.stash[_CLAIMS])
        ledger.machine, ledger.date = this_machine(), now()
        return ledger

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        width = get_terminal_size().columns
        table = io.StringIO()
        console = Console(file=table, force_terminal=terminalreporter.hasmarkup, width=width)
        if _COMPARISON in self.config.stash:
            comparisons.render(self.config.stash[_COMPARISON], console)
            terminalreporter.write("\n" + table.getvalue())
        if not self.ledger.entries:
            return
        path = self.config.rootpath / self.config.getoption("--ledger")
        ledger = self._finished()
        ledger.save(path)
        render(ledger, console)
        terminalreporter.write("\n" + table.getvalue())
        terminalreporter.write_line(f"written to {path}")
