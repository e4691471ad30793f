"""What `mpnn-core` offers of the gates: `claims`, `compare`, `history` and `report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mpnn_core.gate.budget import seconds

LEDGER = Path(".mpnn_core") / "ledger.json"
STORAGE = Path(".benchmarks")
ELSEWHERE = Path("fixtures") / "ledgers"


def add_commands(commands: Any) -> None:
    """Add the commands to the parsers of `mpnn-core`."""
    claims = commands.add_parser("claims", help="print the ledger of the last run of the gates")
    _ledger_option(claims)
    claims.set_defaults(run=run_claims)

    compare = commands.add_parser(
        "compare",
        help="time the working tree against another revision; exits with 1 on a regression",
    )
    compare.add_argument("revision", metavar="REV", help="what git calls the other revision")
    compare.add_argument(
        "--budget", type=seconds, default="5m", metavar="TIME",
        help="time for measuring, such as 90s (default: 5m)",
    )  # fmt: skip
    compare.add_argument(
        "--threshold", type=float, default=3.0, metavar="PERCENT",
        help="change of time below which nothing has changed (default: 3)",
    )  # fmt: skip
    compare.add_argument(
        "--threads", type=int, default=1, metavar="N", help="threads of each process (default: 1)"
    )
    compare.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="a benchmark; repeatable"
    )
    compare.set_defaults(run=run_compare)

    history = commands.add_parser(
        "history", help="figures over stored runs, and their steps; exits with 1 if one got slower"
    )
    _storage_option(history)
    history.add_argument("--claim", metavar="ID", help="of one claim alone")
    history.set_defaults(run=run_history)

    report = commands.add_parser("report", help="write ledger, history and comparison as one page")
    _ledger_option(report)
    _storage_option(report)
    report.add_argument(
        "--out", type=Path, default=Path(".mpnn_core/report.html"), metavar="FILE",
        help="the page (default: .mpnn_core/report.html)",
    )  # fmt: skip
    report.add_argument("--claims", type=Path, default=Path("claims.toml"), metavar="FILE")
    report.add_argument(
        "--source", metavar="URL",
        help="where the tests' files are, for links (default: the current folder)",
    )  # fmt: skip
    report.add_argument(
        "--elsewhere", type=Path, default=ELSEWHERE, metavar="DIR",
        help=f"ledgers of other machines, shown as well (default: {ELSEWHERE})",
    )  # fmt: skip
    report.add_argument(
        "--summary", type=Path, metavar="FILE", help="append a summary in Markdown to this file"
    )
    report.set_defaults(run=run_report)


def _ledger_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--ledger", type=Path, default=LEDGER, metavar="FILE",
        help=f"the ledger as JSON (default: {LEDGER})",
    )  # fmt: skip


def _storage_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--storage", type=Path, default=STORAGE, metavar="DIR",
        help=f"where pytest-benchmark stores runs (default: {STORAGE})",
    )  # fmt: skip


def run_claims(options: argparse.Namespace) -> int:
    """`mpnn-core claims`."""
    from rich.console import Console

    from mpnn_core.gate.ledger import Ledger, render
    from mpnn_core.gate.verdicts import GateResult

    ledger = Ledger.load(options.ledger)
    render(ledger, Console())
    return int(any(entry.gate is GateResult.FAILED for entry in ledger.entries))


def run_compare(options: argparse.Namespace) -> int:
    """`mpnn-core compare`."""
    from rich.console import Console

    from mpnn_core.gate.project import RESULT
    from mpnn_core.gate.revisions import builds, compare, comparison

    repository = builds.repository_root(Path.cwd())
    console = Console()
    progress = Console(stderr=True)
    found = compare.compare(
        options.revision,
        repository,
        options.budget,
        1 + options.threshold / 100,
        options.threads,
        options.only,
        told=lambda line: progress.print(line, markup=False, highlight=False),
    )
    found.save(repository / RESULT)
    comparison.render(found, console)
    return int(bool(found.regressions))


def run_history(options: argparse.Namespace) -> int:
    """`mpnn-core history`."""
    from rich.console import Console

    from mpnn_core.gate import history

    series = history.series(history.load_runs(options.storage), options.claim)
    history.render(series, Console())
    return int(any(s.is_slower for s in series))


def run_report(options: argparse.Namespace) -> int:
    """`mpnn-core report`."""
    from mpnn_core.gate import history, report
    from mpnn_core.gate.claims import load_claims
    from mpnn_core.gate.ledger import Ledger
    from mpnn_core.gate.project import RESULT
    from mpnn_core.gate.revisions.comparison import Comparison

    claims = load_claims(options.claims)
    ledger = Ledger.load(options.ledger) if options.ledger.exists() else Ledger([])
    content = report.Report(
        claims,
        ledger.completed(claims),
        history.series(history.load_runs(options.storage)),
        Comparison.load(RESULT),
        options.source or report.relative_source(options.out),
        [Ledger.load(path) for path in sorted(options.elsewhere.glob("*.json"))],
    )
    report.write(content, options.out)
    print(options.out)
    if options.summary:
        with options.summary.open("a", encoding="utf-8") as file:
            file.write(report.summary(content))
    return 0
