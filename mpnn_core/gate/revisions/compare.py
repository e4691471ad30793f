"""Two revisions timed against each other: is this change slower, or less exact?

Every benchmark runs in three long-lived processes, one run at a time, in random order: the base,
the head, and the base once more as the control. A process has a memory layout, drawn at its start,
which makes it faster or slower than its like by a few percent for as long as it lives; so they are
started anew, session by session, and the *sessions* are what is counted. The value of one is the
median of its rounds' log ratios; the interval over sessions is that of exact binomial order
statistics, as everywhere in the gates. What is settled is not measured any further: what the budget
has left goes to what is not.
"""

from __future__ import annotations

import ast
import json
import math
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mpnn_core.gate import GateError
from mpnn_core.gate.ledger import COLUMNS, now, this_machine
from mpnn_core.gate.revisions import builds, worker
from mpnn_core.gate.verdicts import ERROR, Change, Interval, judge_change, median_ratio

# Sessions after which the intervals are looked at; the error is shared among the looks.
LOOKS = (10, 15, 22, 33)
# A change of less than this factor is none: what a rebuild alone may do.
THRESHOLD = 1.03
BUDGET_S = 300.0
# The first look's share of the budget; the rest goes to what that look leaves open.
FIRST_LOOK = 0.6
FEWEST_ROUNDS, MOST_ROUNDS = 3, 15
# Exact is within this of the original in float64 (docs/exactness.md), in nats.
EXACT = 1e-4
# Half a digit; rounding alone moves the largest error by less.
LOST_DIGITS = math.sqrt(10)
# Below this, an error is the last bits of float32.
ROUNDING = 2e-6
SIDES = ("base", "head", "control")
RESULT = Path(".mpnn_core") / "comparison.json"
CACHE = Path(".mpnn_core") / "builds"
BENCHMARKS = Path("perf_tests") / "benchmarks.py"
SCHEMA = 1


class CompareError(GateError):
    """The comparison cannot be made; the message says what is missing."""


class Side(Protocol):
    """What times a benchmark in one revision."""

    def prepare(self, name: str) -> float:
        """Warm up: seconds of a run. BenchmarkError if the revision cannot run it."""

    def time(self, name: str) -> float:
        """Seconds of a run."""


class BenchmarkError(GateError):
    """What a revision raised in a benchmark."""


Session = Callable[[], AbstractContextManager[Mapping[str, Side]]]


@dataclass
class Outcome:
    """What became of one benchmark.

    ratio and control are base over head, and base over itself: over 1 is faster.
    """

    benchmark: str
    change: Change
    ratio: Interval | None = None
    control: Interval | None = None
    sessions: int = 0
    rounds: int = 0
    note: str = ""

    @property
    def time(self) -> str:
        """The change of the time that a run takes, in percent, with its interval."""
        if self.ratio is None:
            return "-"
        value, low, high = (
            100 * (1 / r - 1) for r in (self.ratio.value, self.ratio.high, self.ratio.low)
        )
        return f"{value:+.1f} % [{low:+.1f}, {high:+.1f}]"

    def sensitivity(self, threshold: float) -> float | None:
        """The slowdown, as a factor of time, that an interval of this width would have caught."""
        if self.ratio is None:
            return None
        return threshold * self.ratio.high / self.ratio.value


@dataclass
class Answer:
    """Largest error of some log-probabilities against the original in float64, in nats."""

    name: str
    base: float | None
    head: float | None
    note: str = ""

    @property
    def is_worse(self) -> bool:
        """Over what exact means, or half a digit less exact than the base."""
        if self.head is None:
            return self.base is not None
        allowed = EXACT
        if self.base is not None:
            allowed = min(EXACT, LOST_DIGITS * max(self.base, ROUNDING))
        return not self.head <= allowed


@dataclass
class Comparison:
    """Two revisions, benchmark by benchmark."""

    base: str
    head: str
    outcomes: list[Outcome]
    answers: list[Answer]
    threshold: float
    seconds: float
    machine: Mapping[str, str] = field(default_factory=dict)
    date: str = ""

    @property
    def regressions(self) -> list[str]:
        """Each named regression with its size and confidence; none is a green comparison."""
        found = []
        for o in self.outcomes:
            if o.change is Change.SLOWER:
                found.append(
                    f"{o.benchmark} is slower than {self.base}: time {o.time}, "
                    f"{100 * (1 - ERROR):.0f} % interval, {o.sessions} restarts of "
                    f"{o.rounds // o.sessions} rounds"
                )
            elif o.change is Change.BROKEN:
                found.append(f"{o.benchmark} does not run here: {o.note}")
        found += [
            f"{a.name} is less exact than {self.base}: "
            + (f"{a.head:.1e} against {a.base or 0:.1e} nats" if a.head is not None else a.note)
            for a in self.answers
            if a.is_worse
        ]
        return found

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1)
        path.write_text(content + "\n", "utf-8")

    @classmethod
    def load(cls, path: Path) -> Comparison | None:
        """What the last comparison left at `path`; None where there is none of this version."""
        try:
            content = json.loads(path.read_text("utf-8"))
            if content.pop("schema") != SCHEMA:
                return None
            outcomes = [
                Outcome(
                    **{
                        **o,
                        "change": Change(o["change"]),
                        "ratio": o["ratio"] and Interval(**o["ratio"]),
                        "control": o["control"] and Interval(**o["control"]),
                    }
                )
                for o in content.pop("outcomes")
            ]
            answers = [Answer(**a) for a in content.pop("answers")]
            return cls(outcomes=outcomes, answers=answers, **content)
        except FileNotFoundError:
            return None
        except (KeyError, TypeError, ValueError) as error:
            raise CompareError(f"{path} is not a comparison: {error!r}") from None


def race(
    start: Session,
    names: Iterable[str],
    budget_s: float = BUDGET_S,
    threshold: float = THRESHOLD,
    clock: Callable[[], float] = time.perf_counter,
    seed: int = 0,
    told: Callable[[str], None] = lambda line: None,
    rounds: int | None = None,
    most: int = LOOKS[-1],
) -> list[Outcome]:
    """Measure benchmarks session by session until each is settled or the budget is spent.

    Parameters
    ----------
    start : opens a session: fresh processes by the names of SIDES
    names : benchmarks
    budget_s : seconds in all; a session that would not fit is not begun
    threshold : see `verdicts.judge_change`
    told : gets a line of progress after every session
    rounds : of each session; None fits them to the budget
    most : sessions
    """
    began, order = clock(), random.Random(seed)
    outcomes = {name: Outcome(name, Change.INCONCLUSIVE) for name in names}
    ratios: dict[str, list[float]] = {name: [] for name in outcomes}
    controls: dict[str, list[float]] = {name: [] for name in outcomes}
    open_names, longest = list(outcomes), 0.0
    for session in range(most):
        started = clock()
        if not open_names or started - began + longest > budget_s:
            break
        with start() as sides:
            starting = clock() - started
            costs = {}
            for name in list(open_names):
                try:
                    costs[name] = sum(sides[side].prepare(name) for side in SIDES)
                except BenchmarkError as error:
                    outcomes[name].change, outcomes[name].note = _broken(sides, name, error)
                    open_names.remove(name)
            if session == 0:
                for name in _unaffordable(costs, budget_s / LOOKS[0] - starting):
                    outcomes[name].note = "left out: the budget does not pay for it"
                    open_names.remove(name)
                    del costs[name]
            ready = clock() - started
            spare = FIRST_LOOK * budget_s / LOOKS[0] - ready
            if session >= LOOKS[0]:  # what is still open gets what is left of the next look
                until = next(look for look in LOOKS if look > session)
                spare = (budget_s - (started - began)) / (until - session) - ready
            fitting = int(spare / max(sum(costs.values()), 1e-9))
            count = rounds or min(max(fitting, FEWEST_ROUNDS), MOST_ROUNDS)
            logs: dict[str, list[dict[str, float]]] = {name: [] for name in open_names}
            for _ in range(count):
                for name in order.sample(open_names, len(open_names)):
                    took = {side: sides[side].time(name) for side in order.sample(SIDES, 3)}
                    logs[name].append({side: math.log(s) for side, s in took.items()})
        for name, found in logs.items():
            ratios[name].append(float(np.median([r["base"] - r["head"] for r in found])))
            controls[name].append(float(np.median([r["base"] - r["control"] for r in found])))
            o = outcomes[name]
            o.sessions, o.rounds = o.sessions + 1, o.rounds + count
            o.ratio = median_ratio(ratios[name], ERROR / len(LOOKS))
            o.control = median_ratio(controls[name], ERROR / len(LOOKS))
            if session + 1 in LOOKS:
                o.change = judge_change(o.ratio, o.control, threshold)
        open_names = [n for n in open_names if outcomes[n].change is Change.INCONCLUSIVE]
        longest = max(longest, clock() - started)
        told(f"restart {session + 1}: {len(open_names)} of {len(outcomes)} benchmarks are open")
    for o in outcomes.values():
        if o.sessions and o.change is Change.INCONCLUSIVE and o.ratio is None:
            o.note = f"the budget paid for {o.sessions} restarts; the first look is at {LOOKS[0]}"
    return list(outcomes.values())


def _unaffordable(costs: Mapping[str, float], session_s: float) -> list[str]:
    """The costliest benchmarks, as many as must go for a session to fit; never all of them."""
    dearest_first = sorted(costs, key=lambda name: costs[name], reverse=True)
    left = sum(costs.values())
    gone: list[str] = []
    for name in dearest_first[:-1]:
        # Each prepares with two runs, and then has its rounds.
        if (2 + FEWEST_ROUNDS) * left <= session_s:
            break
        gone.append(name)
        left -= costs[name]
    return gone


def _broken(sides: Mapping[str, Side], name: str, error: BenchmarkError) -> tuple[Change, str]:
    """Which side cannot run a benchmark."""
    fails = {}
    for side in ("base", "head"):
        try:
            sides[side].prepare(name)
        except BenchmarkError as found:
            fails[side] = str(found)
    if fails.keys() == {"base", "head"}:
        return Change.BROKEN, f"{fails['head']}; nor does it in the other revision"
    if "base" in fails:
        return Change.ONLY_HERE, fails["base"]
    return Change.BROKEN, fails.get("head", str(error))


class Process:
    """A worker process (worker.py) in the environment of a build."""

    def __init__(self, build: builds.Build, head: builds.Build, threads: int, cpus: str) -> None:
        # Both sides run the head's benchmarks on the head's structures.
        paths = [str(head.source / folder) for folder in ("fixtures", "perf_tests")]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        benchmarks = str(head.source / BENCHMARKS)
        # A pipe could fill up. Closed with the process.
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [str(build.python), worker.__file__, benchmarks, str(threads), cpus, *paths],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True,
            env={**environment, "OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        self._build = build

    def wait(self) -> None:
        """Until it is ready; its package must be the build's own."""
        package = Path(self._reply()["package"])
        if self._build.python.parents[1].resolve() not in package.resolve().parents:
            raise CompareError(f"{self._build.python} runs {package}, not what was built")

    def prepare(self, name: str) -> float:
        return float(self._ask("prepare", name)["seconds"])

    def time(self, name: str) -> float:
        return float(self._ask("time", name)["seconds"])

    def errors(self) -> dict[str, float]:
        """See `Worker.errors`."""
        return dict(self._ask("errors")["errors"])

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate()
        self._said.close()

    def _ask(self, *order: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        reply = self._reply()
        if "error" in reply:
            raise BenchmarkError(reply["error"])
        return reply

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._said.seek(0)
            said = self._said.read().strip()[-500:] or "without a word"
            raise BenchmarkError(f"a process of tree {self._build.tree[:12]} ended: {said}")
        reply: dict[str, Any] = json.loads(line)
        return reply


class Processes(ExitStack):
    """A session: one process per side, all on the same processors."""

    def __init__(self, sides: Mapping[str, builds.Build], head: builds.Build, threads: int) -> None:
        super().__init__()
        self._start = sides, head, threads

    def __enter__(self) -> Any:
        super().__enter__()
        sides, head, threads = self._start
        cpus = ",".join(map(str, idlest_cpus(threads)))
        found = {name: Process(build, head, threads, cpus) for name, build in sides.items()}
        for process in found.values():
            self.callback(process.close)
        for process in found.values():
            process.wait()
        return found


def idlest_cpus(count: int, over_s: float = 0.2) -> list[int]:
    """The processors that did least within a moment; [] where the system does not say, or pin."""
    stat = Path("/proc/stat")
    if not stat.is_file() or not hasattr(os, "sched_getaffinity"):
        return []

    def idle() -> dict[int, int]:
        lines = (line.split() for line in stat.read_text("ascii").splitlines())
        return {int(x[0][3:]): int(x[4]) for x in lines if x[0][:3] == "cpu" and x[0] != "cpu"}

    before = idle()
    time.sleep(over_s)
    after = idle()
    allowed = os.sched_getaffinity(0) & after.keys() & before.keys()
    return sorted(allowed, key=lambda cpu: before[cpu] - after[cpu])[:count]


def benchmark_names(source: Path) -> dict[str, str]:
    """Benchmarks of a revision's files by name, with the code of each; {} if it has none."""
    path = source / BENCHMARKS
    if not path.is_file():
        return {}
    module = ast.parse(path.read_text("utf-8"))
    code = {f.name: ast.dump(f) for f in module.body if isinstance(f, ast.FunctionDef)}
    for statement in module.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "BENCHMARKS":
            assert isinstance(statement.value, ast.Tuple)
            names = [ast.unparse(element) for element in statement.value.elts]
            return {name: code[name] for name in names}
    raise CompareError(f"{path} has no BENCHMARKS")


def compare(
    revision: str,
    repository: Path,
    budget_s: float = BUDGET_S,
    threshold: float = THRESHOLD,
    threads: int = 1,
    only: Sequence[str] = (),
    told: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Build both revisions, and time the files as they are against `revision`.

    Parameters
    ----------
    revision : what git calls the base
    repository : the root of the checkout
    budget_s : seconds of measuring; building comes before, and `told` says at what cost
    threshold : factor of time within which nothing has changed
    threads : of each process; one by default, so that a busy neighbour costs time and not answers
    only : benchmarks to time; all if empty

    Raises
    ------
    CompareError, BuildError
        No benchmark of that name, no such revision, or one that does not install.
    """
    names = benchmark_names(repository)
    for name in only:
        if name not in names:
            raise CompareError(f"no benchmark is called {name!r}; there are {', '.join(names)}")
    cache = repository / CACHE
    trees = {"base": builds.tree_of(repository, revision), "head": builds.tree_of(repository)}
    compiling = {t for t in trees.values() if builds.needs_compiling(repository, t, cache)}
    told(
        f"{len(set(trees.values()))} trees to have ({len(compiling)} to compile, about a minute "
        f"each; a change of Python alone takes seconds), then at most {budget_s:.0f} s of measuring"
        f" {len(only or names)} benchmarks in {LOOKS[0]} to {LOOKS[-1]} restarts of 3 processes"
    )
    built = {name: builds.build(repository, tree, cache) for name, tree in trees.items()}
    there = benchmark_names(built["base"].source)
    started = time.perf_counter()
    sides = {"base": built["base"], "head": built["head"], "control": built["base"]}
    outcomes = race(
        lambda: Processes(sides, built["head"], threads),
        only or names,
        budget_s,
        threshold,
        told=told,
    )
    for o in outcomes:
        ran = o.change not in (Change.BROKEN, Change.ONLY_HERE)
        if ran and there.get(o.benchmark, names[o.benchmark]) != names[o.benchmark]:
            o.note = f"its code differs from {revision}'s; both ran the new one"
    gone = [] if only else [name for name in there if name not in names]
    outcomes += [Outcome(name, Change.ONLY_THERE) for name in gone]
    with Processes({s: sides[s] for s in ("base", "head")}, built["head"], threads) as found:
        answers = _answers(found)
    spent = time.perf_counter() - started
    return Comparison(
        revision, trees["head"][:12], outcomes, answers, threshold, spent, this_machine(), now()
    )


def _answers(sides: Mapping[str, Process]) -> list[Answer]:
    errors: dict[str, dict[str, float]] = {}
    notes = {}
    for side, process in sides.items():
        try:
            errors[side] = process.errors()
        except BenchmarkError as error:
            errors[side], notes[side] = {}, str(error)
    names = dict.fromkeys([*errors["head"], *errors["base"]])
    found = [
        Answer(n, errors["base"].get(n), errors["head"].get(n), notes.get("head", ""))
        for n in names
    ]
    if not names:  # neither side answers: that cannot pass for unchanged
        found.append(Answer("answers", 0.0, None, notes.get("head", "there are none")))
    return found


_STYLE = {
    Change.SLOWER: "bold red",
    Change.BROKEN: "bold red",
    Change.FASTER: "green",
    Change.NONE: "green",
    Change.INCONCLUSIVE: "yellow",
}


def render(comparison: Comparison, console: Console) -> None:
    """Print the table, the answers and the verdict."""
    c = comparison
    console.width = max(console.width, COLUMNS)
    table = Table(title=f"{c.head} against {c.base}", title_justify="left", box=None)
    for column in ("benchmark", "time", "verdict", "would catch", "base against itself"):
        table.add_column(column, no_wrap=True)
    table.add_column("")
    for o in c.outcomes:
        caught, control = o.sensitivity(c.threshold), "-"
        if o.control is not None:
            control = f"[{o.control.low:.3f}, {o.control.high:.3f}]"
        table.add_row(
            Text(o.benchmark),
            Text(o.time),
            Text(o.change, _STYLE.get(o.change, "")),
            Text("-" if caught is None else f"{100 * (caught - 1):.1f} %"),
            Text(control),
            Text(o.note),
        )
    console.print(table)
    for a in c.answers:
        base, head = ("-" if x is None else f"{x:.1e}" for x in (a.base, a.head))
        style = "bold red" if a.is_worse else ""
        console.print(Text(f"{a.name}: largest error {head} nats, in {c.base} {base}", style))
    for regression in c.regressions:
        console.print(Text(regression, "bold red"))
    open_ = sum(o.change is Change.INCONCLUSIVE for o in c.outcomes)
    verdict = f"{len(c.regressions)} regressions" if c.regressions else "no regression"
    left = f", {open_} inconclusive" if open_ else ""
    console.print(Text(f"{verdict}{left}; threshold {100 * (c.threshold - 1):.0f} %, "
                       f"{c.seconds:.0f} s of measuring"))  # fmt: skip
