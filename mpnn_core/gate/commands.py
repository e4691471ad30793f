"""What `mpnn-core` offers of the gates: `claims`, `compare`, `history` and `report`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpnn_core.gate import GateError
from mpnn_core.gate.budget import seconds
from mpnn_core.gate.project import Project, find_project, load_project

if TYPE_CHECKING:
    from mpnn_core.gate.ledger import Ledger

PAGE = ".mpnn_core/report.html"
Number = Callable[..., Callable[[str], Any]]


def add_commands(commands: Any, number: Number) -> None:
    """Add the commands to the parsers of `mpnn-core`.

    number(kind, least, most) makes a reader of numbers within bounds, as other commands use it.
    """
    claims = commands.add_parser(
        "claims", help="print the ledger of the last run of the gates; exits with 1 on a red"
    )
    _add_path(claims, "--ledger", "FILE", "the ledger as JSON", Project.ledger)
    claims.add_argument(
        "--all", action="store_true",
        help="every figure, not the headline figures and the reds alone",
    )  # fmt: skip
    claims.add_argument(
        "--record", action="store_true",
        help="keep the timed figures as what this class of machine gives: bounds of later runs",
    )  # fmt: skip
    claims.set_defaults(run=run_claims)

    compare = commands.add_parser(
        "compare",
        help="time the working tree against another revision; exits with 1 on a regression, and "
        "with 3 if it could not tell",
    )
    compare.add_argument("revision", metavar="REV", help="git's name of the other revision")
    compare.add_argument(
        "--budget", type=seconds, default="5m", metavar="TIME",
        help="time for measuring, such as 90s (default: 5m)",
    )  # fmt: skip
    compare.add_argument(
        "--threshold", type=number(float, 0, 1000), default=3.0, metavar="PERCENT",
        help="change of time below which nothing has changed (default: 3)",
    )  # fmt: skip
    compare.add_argument(
        "--threads", type=number(int, 1, 1024), default=1, metavar="N",
        help="threads of each process (default: 1)",
    )  # fmt: skip
    compare.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="a benchmark; repeatable"
    )
    compare.add_argument(
        "--acceptance", action="store_true", help="exit with 1 if it could not tell, too"
    )
    compare.set_defaults(run=run_compare)

    history = commands.add_parser(
        "history", help="figures over stored runs, and their steps; exits with 1 if one got slower"
    )
    _add_path(history, "--storage", "DIR", "where pytest-benchmark stores runs", Project.storage)
    history.add_argument("--claim", metavar="ID", help="the figures of one claim alone")
    history.set_defaults(run=run_history)

    report = commands.add_parser("report", help="write ledger, history and comparison as one page")
    _add_path(report, "--ledger", "FILE", "the ledger as JSON", Project.ledger)
    _add_path(report, "--storage", "DIR", "where pytest-benchmark stores runs", Project.storage)
    _add_path(report, "--claims", "FILE", "the claims", Project.claims)
    _add_path(
        report, "--elsewhere", "DIR", "ledgers of other machines, shown as well", Project.ledgers
    )
    report.add_argument(
        "--out", type=Path, metavar="FILE", help=f"the page (default: the project's, {PAGE})"
    )
    report.add_argument(
        "--source", metavar="URL",
        help="where the tests' files are, for links: a folder, or an address of https "
        "(default: the project's folder)",
    )  # fmt: skip
    report.add_argument(
        "--summary", type=Path, metavar="FILE", help="append a summary in Markdown to this file"
    )
    report.set_defaults(run=run_report)


def _add_path(
    command: argparse.ArgumentParser, option: str, metavar: str, text: str, default: str
) -> None:
    """An option for a path; the project that holds the current folder has the default."""
    command.add_argument(
        option, type=Path, metavar=metavar, help=f"{text} (default: the project's, {default})"
    )


def run_claims(options: argparse.Namespace) -> int:
    """`mpnn-core claims`."""
    from rich.console import Console

    from mpnn_core.gate.ledger import Ledger
    from mpnn_core.gate.printing import print_short, print_whole
    from mpnn_core.gate.verdicts import GateResult

    project = find_project(Path.cwd())
    path = options.ledger or project.root / project.ledger
    ledger = Ledger.load(path)
    if options.record:
        return _record(ledger, project)
    (print_whole if options.all else print_short)(ledger, Console())
    if not options.all:
        print(f"the whole ledger is in {_shown(path)}; `mpnn-core claims --all` prints it")
    return int(any(entry.gate is GateResult.FAILED for entry in ledger.entries))


def _record(ledger: Ledger, project: Project) -> int:
    """`mpnn-core claims --record`; 1 if there was nothing to keep."""
    from mpnn_core.gate.claims import load_claims
    from mpnn_core.gate.records import record

    recording = record(ledger, load_claims(project.root / project.claims, project), project)
    for line in recording.refused:
        print(f"not recorded: {line}")
    for path, count in recording.files.items():
        print(f"timed figures of {path.parent.name} recorded in {_shown(path)}: {count}")
    if not recording.files:
        print('nothing was recorded; a run must time a figure that has gated = "recorded"')
    return int(not recording.files)


def run_compare(options: argparse.Namespace) -> int:
    """`mpnn-core compare`."""
    from rich.console import Console

    from mpnn_core.gate.revisions.builds import repository_root
    from mpnn_core.gate.revisions.compare import compare_revisions
    from mpnn_core.gate.revisions.comparison import print_comparison

    project = load_project(repository_root(Path.cwd()))
    progress = Console(stderr=True)
    comparison = compare_revisions(
        options.revision,
        project,
        options.budget,
        1 + options.threshold / 100,
        options.threads,
        options.only,
        progress=lambda line: progress.print(line, markup=False, highlight=False),
    )
    comparison.save(project.root / project.comparison)
    print_comparison(comparison, Console())
    return comparison.exit_code(options.acceptance)


def run_history(options: argparse.Namespace) -> int:
    """`mpnn-core history`."""
    from rich.console import Console

    from mpnn_core.gate import history

    project = find_project(Path.cwd())
    storage = options.storage or project.root / project.storage
    series = history.series(history.load_runs(storage), options.claim)
    history.print_history(series, Console())
    return int(any(s.is_slower for s in series))


def run_report(options: argparse.Namespace) -> int:
    """`mpnn-core report`."""
    from mpnn_core.gate import history, report
    from mpnn_core.gate.claims import load_claims
    from mpnn_core.gate.ledger import Ledger
    from mpnn_core.gate.revisions.comparison import Comparison

    project = find_project(Path.cwd())
    root, out = project.root, options.out or project.root / PAGE
    report.check_place("--out", out)
    if options.summary:
        report.check_place("--summary", options.summary)
    claims = load_claims(options.claims or root / project.claims)
    path = options.ledger or root / project.ledger
    ledger = Ledger.load(path) if options.ledger or path.exists() else Ledger([])
    if options.elsewhere and not options.elsewhere.is_dir():
        raise GateError(f"there is no folder {options.elsewhere}; expected one with ledgers")
    elsewhere = options.elsewhere or root / project.ledgers
    content = report.Report(
        claims,
        ledger.completed(claims),
        history.series(history.load_runs(options.storage or root / project.storage)),
        Comparison.load(root / project.comparison),
        options.source or report.relative_source(root, out),
        [Ledger.load(path) for path in sorted(elsewhere.glob("*.json"))],
    )
    report.write(content, out)
    print(_shown(out))
    if options.summary:
        with options.summary.open("a", encoding="utf-8") as file:
            file.write(report.summary(content))
    return 0


def _shown(path: Path) -> Path:
    """A path as a reader in the current folder knows it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
