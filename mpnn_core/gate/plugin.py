"""The pytest plugin: binds tests to claims, measures, judges, and prints the ledger.

A test names the figures it settles, `@pytest.mark.claim("S2", "speed")`, and uses one fixture:
`paired` for a ratio of times, `judge` for everything else, `not_exercised` where the hardware is
missing. Entries travel with the test's report, so they arrive from pytest-xdist's workers as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, cast

import pytest
from rich.console import Console

from mpnn_core.gate.claims import Claim, ClaimsError, Figure, load_claims
from mpnn_core.gate.ledger import (
    DEFAULT_PATH,
    Entry,
    Ledger,
    now,
    render,
    this_machine,
)
from mpnn_core.gate.pairing import LOOKS, Pairing
from mpnn_core.gate.verdicts import (
    GateResult,
    Interval,
    Verdict,
    exactly,
    judge_claim,
    judge_gate,
)

_ENTRY = "mpnn_core.ledger.entry"
_CLAIMS = pytest.StashKey[dict[str, Claim]]()
_BUDGET = pytest.StashKey["Budget"]()
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
    group.addoption("--claims", default="claims.toml", metavar="FILE", help="the claims")
    group.addoption(
        "--ledger", default=str(DEFAULT_PATH), metavar="FILE",
        help=f"where the ledger is written as JSON (default: {DEFAULT_PATH})",
    )  # fmt: skip


def seconds(text: str) -> float:
    """ "90s", "4m" or "1.5h" in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not found:
        raise ValueError(f"{text!r} is no time; expected a number and s, m or h, such as 4m")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "claim(id, figure): the test settles this figure of a claim in claims.toml"
    )
    try:
        config.stash[_CLAIMS] = load_claims(config.rootpath / config.getoption("--claims"))
    except ClaimsError as error:
        raise pytest.UsageError(str(error)) from error
    if not hasattr(config, "workerinput"):  # pytest-xdist's workers only send reports
        config.pluginmanager.register(LedgerKeeper(config), "mpnn_core.ledger")


class Budget:
    """Seconds for paired measurements, shared evenly among the tests still to come."""

    def __init__(self, total: float, tests: int) -> None:
        self.left, self.tests = total, tests

    def share(self) -> float:
        return max(0.0, self.left) / max(1, self.tests)

    def spend(self, taken: float) -> None:
        self.left -= taken
        self.tests -= 1


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


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    paired_tests = sum("paired" in getattr(i, "fixturenames", ()) for i in session.items)
    session.config.stash[_BUDGET] = Budget(session.config.getoption("--budget"), paired_tests)


def bindings(item: pytest.Item) -> list[tuple[str, str]]:
    """The (claim, figure) pairs that a test names."""
    found = []
    for mark in item.iter_markers("claim"):
        if len(mark.args) != 2 or mark.kwargs:
            raise pytest.UsageError(f"{item.nodeid}: expected claim(id, figure), got {mark.args}")
        found.append((str(mark.args[0]), str(mark.args[1])))
    return found[::-1]


def unbound(claims: Iterable[Claim], bound: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The (claim, figure) pairs that no test names."""
    named = set(bound)
    return [(c.id, key) for c in claims for key in c.figures if (c.id, key) not in named]


class Judge:
    """Holds measurements against the figures that a test names, and writes the ledger."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.request = request
        claims: dict[str, Claim] = request.config.stash[_CLAIMS]
        self.figures = [claims[c].figures[key] for c, key in bindings(request.node)]
        if not self.figures:
            raise pytest.UsageError(f"{request.node.nodeid} measures, but names no claim")
        self.workloads = {c.id: c.workload for c in claims.values()}

    def __call__(
        self,
        measured: Interval | float | None,
        *,
        key: str | None = None,
        claim: str | None = None,
        workload: str = "",
        device: str = "cpu",
        control: Interval | None = None,
        pairs: int = 0,
        note: str = "",
        only_record: bool = False,
    ) -> list[Entry]:
        """Judge, record, and fail the test if a gate fails.

        Parameters
        ----------
        measured : an interval; a number that was counted; or None if there was too little
        key, claim : which of the figures that the test names; all of them if None
        only_record : it is another workload than the claim's, kept beside it and not judged
        """
        interval = exactly(measured) if isinstance(measured, int | float) else measured
        chosen = [
            f
            for f in self.figures
            if (key is None or f.key == key) and (claim is None or f.claim == claim)
        ]
        assert chosen, f"{self.request.node.nodeid} names no figure {key!r} of claim {claim!r}"
        entries = []
        for figure in chosen:
            gate = None if only_record else figure.gates.get(device)
            entry = Entry(
                claim=figure.claim,
                figure=figure.key,
                reported=str(figure),
                workload=workload or self.workloads[figure.claim],
                device=device,
                verdict=(
                    Verdict.RECORDED if only_record else judge_claim(figure, interval, control)
                ),
                gate=judge_gate(gate, interval, control),
                bound=str(gate) if gate else "",
                unit=figure.unit,
                value=None if interval is None else float(interval.value),
                low=None if interval is None else float(interval.low),
                high=None if interval is None else float(interval.high),
                control=None if control is None else (float(control.low), float(control.high)),
                pairs=pairs,
                test=self.request.node.nodeid,
                note=note,
            )
            self.record(entry)
            entries.append(entry)
        acceptance = self.request.config.getoption("--acceptance")
        reds = [e for e in entries if _is_red(e, acceptance)]
        if reds:
            pytest.fail("\n".join(map(sentence, reds)), pytrace=False)
        return entries

    def record(self, entry: Entry) -> None:
        self.request.node.user_properties.append((_ENTRY, asdict(entry)))

    def settled(self, interval: Interval | None, control: Interval | None, device: str) -> bool:
        """Whether more measuring could change no verdict and no gate."""
        return all(
            judge_claim(f, interval, control) is not Verdict.INCONCLUSIVE
            and judge_gate(f.gates.get(device), interval, control) is not GateResult.INCONCLUSIVE
            for f in self.figures
        )


def _is_red(entry: Entry, acceptance: bool) -> bool:
    return entry.gate is GateResult.FAILED or (acceptance and entry.gate is GateResult.INCONCLUSIVE)


def sentence(entry: Entry) -> str:
    """What a red says."""
    text = (
        f"claim {entry.claim}, {entry.figure}, on {entry.device} ({entry.workload}): the gate is "
        f"{entry.bound}, measured {entry.measured}: {entry.gate}"
    )
    if entry.pairs:
        text += f"; {entry.pairs} pairs"
    if entry.control:
        text += f", the baseline against itself [{entry.control[0]:.3g}, {entry.control[1]:.3g}]"
    return text


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
    share of `--budget` is spent.
    """

    def measure(
        baseline: Callable[[], Any],
        candidate: Callable[[], Any],
        *,
        workload: str = "",
        device: str = "cpu",
        synchronise: Callable[[], None] = lambda: None,
        work: int = 1,
        note: str = "",
        only_record: bool = False,
    ) -> list[Entry]:
        import torch

        budget: Budget = request.config.stash[_BUDGET]
        pairing = Pairing(baseline, candidate, synchronise, work)
        pairing.warm_up()
        benchmark.pedantic(pairing.round, rounds=LOOKS[0], iterations=1, warmup_rounds=0)
        if benchmark.enabled:
            pairing.look_again(
                lambda: only_record or judge.settled(pairing.ratio(), pairing.control(), device),
                budget.share(),
            )
        budget.spend(pairing.seconds)
        ratio, control, pairs = pairing.ratio(), pairing.control(), len(pairing.log_ratios)
        if ratio is not None and control is not None:
            benchmark.extra_info.update(
                schema=SCHEMA,
                claim=[f"{f.claim}.{f.key}" for f in judge.figures],
                ratio=ratio.value,
                ci=[ratio.low, ratio.high],
                control_ci=[control.low, control.high],
                pairs=pairs,
                verdict=[str(judge_claim(f, ratio, control)) for f in judge.figures],
                device=device,
                torch=torch.__version__,
                threads=torch.get_num_threads(),
                workload=workload,
            )
        return judge(
            ratio,
            workload=workload,
            device=device,
            control=control,
            pairs=pairs,
            note=note,
            only_record=only_record,
        )

    return measure


@pytest.fixture
def not_exercised(judge: Judge) -> Callable[[str], None]:
    """Say in the ledger that the figures need hardware that is not here, and skip."""

    def skip(needs: str) -> None:
        for figure in judge.figures:
            judge.record(_not_exercised(figure, judge.workloads[figure.claim], needs))
        pytest.skip(f"not exercised: needs {needs}")

    return skip


def _not_exercised(figure: Figure, workload: str, needs: str) -> Entry:
    return Entry(
        figure.claim, figure.key, str(figure), workload, "-", Verdict.NOT_EXERCISED,
        GateResult.NONE, note=f"needs {needs}",
    )  # fmt: skip


@pytest.fixture(scope="session", params=["cpu", "cuda", "mps"])
def device(request: pytest.FixtureRequest) -> Any:
    """Each torch device that is present."""
    import torch

    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present[request.param]:
        hardware = {"cuda": "an NVIDIA GPU", "mps": "Apple silicon"}[request.param]
        pytest.skip(f"not exercised: needs {hardware}")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def synchronise(device: Any) -> Callable[[], None]:
    """Wait until `device` has done what it was given."""
    import torch

    waits: dict[str, Callable[[], None]] = {
        "cuda": torch.cuda.synchronize,
        "mps": torch.mps.synchronize,
    }
    return waits.get(device.type, lambda: None)


class LedgerKeeper:
    """Gathers the entries of all tests, writes the ledger, and prints it at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.ledger = Ledger(
            [], mode="acceptance" if config.getoption("--acceptance") else "default"
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.ledger.entries += [
                Entry.from_json(cast("Mapping[str, Any]", value))
                for key, value in report.user_properties
                if key == _ENTRY
            ]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.ledger.entries:
            return
        path = self.config.rootpath / self.config.getoption("--ledger")
        ledger = self.ledger.completed(self.config.stash[_CLAIMS])
        ledger.machine, ledger.date = this_machine(), now()
        ledger.save(path)
        out = terminalreporter._tw._file  # where pytest itself writes
        render(ledger, Console(file=out, force_terminal=terminalreporter.hasmarkup or None))
        terminalreporter.write_line(f"written to {path}")
