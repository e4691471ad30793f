"""Does the published interval of a figure hold what a fresh process finds? A study to repeat.

    python perf_tests/coverage_study.py --condition idle
    python perf_tests/coverage_study.py --condition busy

The first processes make the interval of each of six headline figures, as `pytest -m claim` does;
the later ones are counted: how many lie inside. With "busy", another process keeps one core busy
all the while. Writes fixtures/coverage/CLASS-CONDITION.json, from which docs/make_pages.py makes
the table in docs/explanation/claims.md. It takes about ten minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "fixtures")]

from mpnn_core.gate.coverage import Covered, Study  # noqa: E402
from mpnn_core.gate.hardware import hardware_of  # noqa: E402
from mpnn_core.gate.ledger import now, this_machine  # noqa: E402
from mpnn_core.gate.project import load_project  # noqa: E402
from mpnn_core.gate.sessions import (  # noqa: E402
    PROCESSES,
    Ended,
    Plan,
    Times,
    child_arguments,
    environment_of_child,
    run_pytest,
)

# Figure, its test in perf_tests, and how many times the baseline's work the candidate does.
FIGURES = (
    ("S2 speed", "test_variants.py::test_smaller_network_is_faster[minimal]", 1),
    ("S5 speed", "test_variants.py::test_extreme_batch_is_faster", 8),
    ("E1 speed", "test_engine.py::test_forward_beats_the_original", 1),
    ("E2 speed", "test_engine.py::test_sampling_beats_the_original", 1),
    ("E4 one", "test_engine.py::test_sampling_of[one]", 1),
    ("E5 speed", "test_engine.py::test_forward_of_a_large_complex", 1),
)
TESTS = {figure: (f"perf_tests/{test}", work) for figure, test, work in FIGURES}
FOLDER = ROOT / "fixtures" / "coverage"


def timed(number: int, tests: list[str], rounds_s: float, environment: dict[str, str]) -> Ended:
    """One fresh process, which takes the tests in an order of its own."""
    order = random.Random(number).sample(tests, len(tests))
    files = list(dict.fromkeys(ROOT / test.partition("::")[0] for test in tests))
    arguments = child_arguments(files, ROOT, ROOT / "pyproject.toml", "importlib")
    plan = Plan(dict.fromkeys(order, rounds_s), seed=number, started=time.time())
    return run_pytest(arguments, ROOT, plan, environment)


@contextmanager
def busy_core() -> Iterator[None]:
    """One core that another process keeps busy: the last of those that this process may use."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        yield
    finally:
        process.kill()
        process.wait()


def ratios(processes: list[Ended], figure: str) -> list[float]:
    """Of one figure, from each process that measured it."""
    test, work = TESTS[figure]
    records = [ended.records[test] for ended in processes if test in ended.records]
    times = Times([r.log_seconds for r in records if r.log_seconds])
    return [work * math.exp(v) for v in times.values({"baseline": 1, "candidate": -1})]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--condition", choices=("idle", "busy"), required=True)
    parser.add_argument(
        "--processes", type=int, default=20, help="fresh ones, after the interval's"
    )
    parser.add_argument("--published", type=int, default=PROCESSES, help="of the interval")
    parser.add_argument("--rounds", type=float, default=1.0, metavar="S", help="seconds for each")
    parser.add_argument("--only", choices=list(TESTS), action="append", help="repeatable")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="FOLDER")
    options = parser.parse_args()
    figures = options.only or list(TESTS)
    tests = [TESTS[figure][0] for figure in figures]
    project, load = load_project(ROOT), os.getloadavg()[0]
    machine_class = hardware_of(project).machine_class("cpu")
    environment, total = environment_of_child(), options.published + options.processes
    machine = {**this_machine(project), "OMP_WAIT_POLICY": environment["OMP_WAIT_POLICY"]}
    processes: list[Ended] = []

    def run() -> None:
        for number in range(1, total + 1):
            ended = timed(number, tests, options.rounds, environment)
            processes.append(ended)
            print(f"process {number} of {total}: {ended.seconds:.0f} s {ended.died}", flush=True)
            for record in ended.records.values():
                if not record.log_seconds:
                    print(f"  {record.test}: {record.error or record.skipped or 'not over'}")

    if options.condition == "busy":
        with busy_core():
            run()
    else:
        run()
    first, later = processes[: options.published], processes[options.published :]
    study = Study(
        machine_class,
        machine,
        options.condition,
        load,
        now(),
        [Covered(figure, ratios(first, figure), ratios(later, figure)) for figure in figures],
    )
    path = study.save(options.out)
    for row in study.rows():
        print("{:10} {:28} {:10} {}".format(*row))
    print(path)


if __name__ == "__main__":
    main()
