"""Fresh processes that time the selected tests, one process after another.

What differs between two processes (where their memory lies, what ran before) is part of the error
of a ratio, so a process counts once: its value is the median of its rounds. Each process runs
pytest on the same tests, in a random order of its own, times a few rounds of each, judges nothing,
and writes down what it found (mpnn_core/gate/timing.py). The first one takes the tests in the order
of their weight instead, as it also finds out what they cost, and which of them the budget pays for.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from mpnn_core.gate.intervals import FEWEST_PROCESSES, Interval, fresh_process
from mpnn_core.gate.stored import typed

PROCESSES = 8
# For the rounds of a test: in the first process, which knows no costs, and the least in the others.
LEAST_ROUNDS_S = 0.2
# How a thread waits for the others. A spinning one holds the processor that a neighbour needs, and
# plain torch waits far more often than our engine: a busy machine would flatter our ratios.
WAIT_POLICY = {"OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True)
class Test:
    """A test to be timed.

    Attributes
    ----------
    id : pytest's own name of it
    cost : seconds that it takes in one process, where the test says so
    always : timed also where the budget is short, such as the figures that a reader sees first
    """

    __test__ = False  # for pytest, which collects classes of this name

    id: str
    cost: float = 0.0
    always: bool = False


@dataclass(frozen=True)
class Plan:
    """What one process is to do.

    Attributes
    ----------
    tests : id -> seconds for its rounds, in the order of the run
    costs : id -> what is known of its cost, in seconds
    always : ids that are not held to `until_s`
    until_s : a test that is over by then is begun; None for all of them
    started : when the process was started, in seconds of the system's clock
    """

    tests: Mapping[str, float]
    costs: Mapping[str, float] = field(default_factory=dict)
    always: list[str] = field(default_factory=list)
    until_s: float | None = None
    seed: int = 0
    started: float = 0.0
    output: str = ""

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), "utf-8")

    @classmethod
    def load(cls, path: Path) -> Plan:
        plan: Plan = typed(cls, json.loads(path.read_text("utf-8")), str(path))
        return plan


@dataclass(frozen=True)
class Record:
    """What a process wrote of one test: when it begins, and again when it is over.

    Attributes
    ----------
    seconds : of the whole test, its preparations and all; 0 as long as it is not over
    rounds_s : of the rounds alone
    log_seconds : side -> one value for each round; empty where nothing was timed
    error, skipped : why nothing was timed
    too_late : the test was not begun, since its process had no time left
    """

    test: str
    seconds: float = 0.0
    rounds_s: float = 0.0
    log_seconds: Mapping[str, list[float]] = field(default_factory=dict)
    error: str = ""
    skipped: str = ""
    too_late: bool = False

    @property
    def rounds(self) -> int:
        return min((len(values) for values in self.log_seconds.values()), default=0)

    @property
    def least_s(self) -> float:
        """What the test takes with one round."""
        rounds = max(1, self.rounds)
        return self.seconds - self.rounds_s * (rounds - 1) / rounds

    @property
    def round_s(self) -> float:
        return self.rounds_s / max(1, self.rounds)


@dataclass(frozen=True)
class Ended:
    """A process that is over: its records by test, what it took, and how it died, if it did."""

    records: Mapping[str, Record]
    seconds: float
    died: str = ""


@dataclass(frozen=True)
class Times:
    """The rounds of some sides in several processes.

    Attributes
    ----------
    processes : for each process, side -> log seconds of its rounds
    note : what a reader of the figure should know of the measurement
    """

    processes: Sequence[Mapping[str, Sequence[float]]]
    note: str = ""

    @property
    def pairs(self) -> int:
        """Rounds, of all processes together."""
        return sum(len(next(iter(sides.values()))) for sides in self.processes)

    def values(self, powers: Mapping[str, float]) -> list[float]:
        """One value for each process: the median over its rounds of the log of `product`."""
        return [
            float(np.median(sum(p * np.array(sides[side]) for side, p in powers.items())))
            for sides in self.processes
        ]

    def product(self, powers: Mapping[str, float], factor: float = 1.0) -> Interval | None:
        """The sides' seconds, each to its power, multiplied: where a fresh process will be."""
        return fresh_process([value + np.log(factor) for value in self.values(powers)])

    def ratio(self, slow: str, fast: str, factor: float = 1.0) -> Interval | None:
        """How many times one side takes the other's seconds; see `product`."""
        return self.product({slow: 1, fast: -1}, factor)

    def seconds(self, side: str) -> list[float]:
        """One value for each process."""
        return [float(np.exp(value)) for value in self.values({side: 1})]


@dataclass
class Sessions:
    """What all processes found.

    Attributes
    ----------
    records : test -> what each process says of it, in their order
    left_out : test -> why it was not timed in every process
    fatal : test -> how a process died in it
    deaths : how processes ended that did not end by themselves, a line each
    seconds : of all processes together
    """

    records: dict[str, list[Record]]
    left_out: dict[str, str] = field(default_factory=dict)
    fatal: dict[str, str] = field(default_factory=dict)
    deaths: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def errors(self, test: str) -> list[str]:
        """Why the test is red, whatever the other processes found."""
        fatal = [self.fatal[test]] if test in self.fatal else []
        return fatal + [r.error for r in self.records.get(test, ()) if r.error]

    def times(self, test: str) -> Times:
        """The rounds of a test; without a process where none timed it."""
        records = self.records.get(test, [])
        timed = [r.log_seconds for r in records if r.log_seconds]
        notes = [self.left_out[test]] if test in self.left_out else []
        if not notes and len(timed) < FEWEST_PROCESSES:
            why = next((r.skipped for r in records if r.skipped), "") or "; ".join(self.deaths)
            notes = [f"{len(timed)} fresh processes timed it, and it takes {FEWEST_PROCESSES}"]
            notes += [why] if why else []
        return Times(timed, "; ".join(notes))


def measure(
    tests: Sequence[Test],
    budget_s: float,
    processes: int,
    run: Callable[[Plan], Ended],
    progress: Callable[[str], None] = lambda line: None,
    seed: int = 0,
) -> Sessions:
    """Time the tests in so many fresh processes, within a budget.

    Parameters
    ----------
    budget_s : for all processes, their start included. The tests that are timed `always` may
        exceed it; of the others, those go first that are not costly
    run : starts a process with a plan, and returns when it is over
    progress : is told of each process in a line
    """
    ordered = sorted(tests, key=lambda test: (not test.always, test.cost))
    by_id = {test.id: test for test in ordered}
    found = Sessions({test.id: [] for test in ordered})
    if budget_s <= 0:
        found.left_out = dict.fromkeys(by_id, "the budget has 0 s left")
        return found
    shuffle = random.Random(seed)
    start_up = 0.0
    for number in range(1, processes + 1):
        share = (budget_s - found.seconds) / (processes - number + 1)
        known = {
            t: r[-1] for t, r in found.records.items()
            if r and r[-1].log_seconds and t not in found.left_out
        }  # fmt: skip
        unknown = [t for t, r in found.records.items() if not r and t not in found.left_out]
        wanted = _affordable([by_id[t] for t in known], known, share - start_up, found, number)
        spare = 0.0
        if wanted and not unknown:
            needed = start_up + sum(known[t].least_s for t in wanted)
            spare = max(0.0, share - needed) / len(wanted)
        shuffle.shuffle(wanted)
        rounds_s = {t: max(LEAST_ROUNDS_S, known[t].round_s + spare) for t in wanted}
        rounds_s |= dict.fromkeys(unknown, LEAST_ROUNDS_S)
        if not rounds_s:
            break
        plan = Plan(
            rounds_s,
            {t: by_id[t].cost for t in unknown},
            [t for t in rounds_s if t in known or by_id[t].always],
            share,
            seed + number,
            time.time(),
        )
        ended = run(plan)
        found.seconds += ended.seconds
        start_up = max(0.0, ended.seconds - sum(r.seconds for r in ended.records.values()))
        _note(ended, number, processes, by_id, found)
        timed = sum(bool(r.log_seconds) for r in ended.records.values())
        progress(
            f"process {number} of {processes}: {timed} tests timed in {ended.seconds:.0f} s"
            + (f"; {ended.died}" if ended.died else "")
        )
        if ended.died and not any(found.records.values()):
            break  # nothing is timed before it dies, and the next one would do the same
    return found


def _affordable(
    tests: Sequence[Test],
    known: Mapping[str, Record],
    share: float,
    found: Sessions,
    number: int,
) -> list[str]:
    """The tests that fit into a share; what does not is left out from here on."""
    kept = [test.id for test in tests if test.always]
    left = share - sum(known[test].least_s for test in kept)
    for test in (test for test in tests if not test.always):
        if known[test.id].least_s <= left:
            kept.append(test.id)
            left -= known[test.id].least_s
        else:
            times = "one fresh process" if number == 2 else f"{number - 1} fresh processes"
            found.left_out[test.id] = f"the budget paid for {times}"
    return kept


def _note(
    ended: Ended, number: int, processes: int, tests: Mapping[str, Test], found: Sessions
) -> None:
    """Put what a process wrote where it belongs."""
    if ended.died:
        found.deaths.append(f"fresh process {number} of {processes} died: {ended.died}")
    for test, record in ended.records.items():
        if record.too_late:
            # A second chance: what proved dear in the first process has been left out by then.
            if number > 1 or tests[test].cost:
                found.left_out[test] = "the budget did not pay for it"
        elif record.seconds == 0:  # begun, and not over
            found.fatal[test] = found.left_out[test] = found.deaths[-1]
        else:
            found.records[test].append(record)


def child_arguments(
    files: Sequence[Path],
    root: Path,
    settings: Path | None,
    import_mode: str,
    *options: str,
) -> list[str]:
    """How pytest is called in a fresh process: these files, the same project, nothing written.

    What the project's settings add to the command line is left out, as it may name a file to write.
    """
    return [
        *map(str, files), "--quiet", "--tb=short", "--rootdir", str(root),
        *(("-c", str(settings)) if settings else ()), "-o", "addopts=",
        f"--import-mode={import_mode}", *options, "-p", "no:cacheprovider",
    ]  # fmt: skip


def environment_of_child() -> dict[str, str]:
    """This process's environment, its modules, and the rule of waiting, unless it sets its own."""
    own = {k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"}
    # What this process measures and judges is what a fresh one must find.
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    return {**WAIT_POLICY, **own, "PYTHONPATH": path}


def run_pytest(
    arguments: Sequence[str],
    folder: Path,
    plan: Plan,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run a fresh process of pytest, in `folder`, with a plan."""
    with tempfile.TemporaryDirectory() as temporary:
        plan_path, output = Path(temporary, "plan.json"), Path(temporary, "records.jsonl")
        log = Path(temporary, "log")
        Plan(**{**vars(plan), "output": str(output)}).save(plan_path)
        started = time.perf_counter()
        with log.open("wb") as file:
            # -P: as in this process, the current folder is searched only if PYTHONPATH names it.
            done = subprocess.run(
                [sys.executable, "-P", "-m", "pytest", *arguments, "--timing", str(plan_path)],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env=dict(environment or environment_of_child()), check=False,
            )  # fmt: skip
        seconds = time.perf_counter() - started
        records = read_records(output)
        died = ""
        # 0 and 1: all tests ran, and passed or failed.
        if done.returncode not in (0, 1):
            said = " ".join(log.read_text("utf-8", "replace").split())[-300:] or "without a word"
            died = f"exit status {done.returncode}: {said}"
        return Ended(records, seconds, died)


def read_records(path: Path) -> dict[str, Record]:
    """The last record of each test; a line that a process did not live to finish is dropped."""
    records: dict[str, Record] = {}
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        try:
            record: Record = typed(Record, json.loads(line), "a record")
        except ValueError:
            continue
        records[record.test] = record
    return records
