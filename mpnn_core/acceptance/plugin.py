"""The plugin of pytest: the candidate, the judge, and one sentence at the end.

`pytest.ini` beside it loads it, so pytest on this folder needs no option but `--candidate`.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from mpnn_core.acceptance.candidate import (
    Candidate,
    DifferenceError,
    Judge,
)
from mpnn_core.peers.contract import PeerError
from mpnn_core.peers.opening import open_peer

_CANDIDATE = pytest.StashKey[Candidate]()
_JUDGE = pytest.StashKey[Judge]()
_SPEED = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("acceptance of a fork")
    group.addoption(
        "--candidate",
        metavar="FILE",
        help="FILE.py that defines peer(), or FILE.py:PYTHON; or a name, such as ours",
    )
    group.addoption(
        "--at-least", type=float, metavar="TIMES",
        help="fail unless designs are this many times as fast as the original's",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    spec = config.getoption("--candidate")
    if spec is None or config.getoption("help"):
        return
    opened = ExitStack()
    config.add_cleanup(opened.close)
    # Hypothesis keeps what it learns about Unicode and constants; not in the user's folder.
    storage = opened.enter_context(TemporaryDirectory())
    patch = opened.enter_context(pytest.MonkeyPatch.context())
    patch.setenv("HYPOTHESIS_STORAGE_DIRECTORY", storage)
    try:
        peer = opened.enter_context(open_peer(spec))
    except PeerError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[_CANDIDATE] = Candidate(peer)
    config.stash[_JUDGE] = Judge.here()
    config.stash[_SPEED] = []


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let go of both networks: what native code holds is freed before Python ends."""
    keys: list[pytest.StashKey[Any]] = [_CANDIDATE, _JUDGE]
    for key in keys:
        if key in config.stash:
            del config.stash[key]


@pytest.fixture(scope="session")
def candidate(request: pytest.FixtureRequest) -> Candidate:
    """The peer that `--candidate` names."""
    found = request.config.stash.get(_CANDIDATE, None)
    if found is None:
        pytest.skip("which candidate? pytest --candidate FILE.py, or -m mpnn_core.acceptance")
    return found


@pytest.fixture(scope="session")
def judge(request: pytest.FixtureRequest, candidate: Candidate) -> Judge:
    """The original where it is installed, else the engine of this package."""
    return request.config.stash[_JUDGE]


@pytest.fixture(scope="session")
def at_least(request: pytest.FixtureRequest) -> float | None:
    bound: float | None = request.config.getoption("--at-least")
    return bound


@pytest.fixture(scope="session")
def speed_lines(request: pytest.FixtureRequest) -> list[str]:
    """What was measured, for the summary."""
    return request.config.stash[_SPEED]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed check is told in its sentences, without the lines of the suite's code."""
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, DifferenceError):
        error = call.excinfo.value
        # Hypothesis adds the smallest layout that fails.
        report.longrepr = "\n".join([str(error), *getattr(error, "__notes__", [])])
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if _CANDIDATE not in config.stash:
        return
    judged = f"judged by stored answers of the original, and by {config.stash[_JUDGE]}"
    for line in (judged, *config.stash[_SPEED]):
        terminalreporter.write_line(line)
    terminalreporter.write_line(sentence(str(config.stash[_CANDIDATE]), terminalreporter.stats))


def sentence(name: str, stats: dict[str, list[Any]]) -> str:
    """ "fork 1.0 is exact: all 43 checks passed.", or how many failed, and which."""
    failed = [*stats.get("failed", []), *stats.get("error", [])]
    passed, skipped = len(stats.get("passed", [])), len(stats.get("skipped", []))
    deselected = len(stats.get("deselected", []))
    unseen = f" ({skipped} not exercised)" if skipped else ""
    if failed:
        return (
            f"{name} is not exact: {len(failed)} of {len(failed) + passed} checks failed{unseen}."
        )
    if deselected:
        chosen = f"{name} passed the {passed} checks that were chosen{unseen}"
        return f"{chosen}; {deselected} others did not run."
    if not passed:
        return f"{name} was not judged: no check ran{unseen}."
    return f"{name} is exact: all {passed} checks passed{unseen}."
