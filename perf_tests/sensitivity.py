"""What the comparison of revisions catches, and how often it raises a false alarm. Measured.

Slowdowns of known size are planted in copies of the project, and all of them run in the same
sessions beside the unchanged project: `record` appends sessions to a file until its time is over,
and `table` cuts them into runs of the real procedure (`race`, on recorded times) and counts its
verdicts. `run` is the procedure itself, run after run with restarts of its own, on an unchanged
tree or on a slower copy; its verdicts are appended to docs/guard-runs.jsonl, and `verdicts` counts
them. From the repository's root::

    python perf_tests/sensitivity.py record --minutes 4 --condition idle
    python perf_tests/sensitivity.py record --minutes 4 --condition busy
    python perf_tests/sensitivity.py table
    python perf_tests/sensitivity.py run --runs 20 --condition idle
    python perf_tests/sensitivity.py run --runs 20 --condition busy
    python perf_tests/sensitivity.py run --runs 3 --slower 10 --restarts 22
    python perf_tests/sensitivity.py verdicts
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "accuracy_tests"))

from plants import copy_of_project, plant, slower  # noqa: E402

from mpnn_core.gate.ledger import now, this_machine  # noqa: E402
from mpnn_core.gate.project import load_project  # noqa: E402
from mpnn_core.gate.revisions import builds  # noqa: E402
from mpnn_core.gate.revisions.processes import Processes  # noqa: E402
from mpnn_core.gate.revisions.race import FEWEST_ROUNDS, LOOKS, THRESHOLD, race  # noqa: E402
from mpnn_core.gate.verdicts import Change  # noqa: E402

PROJECT = load_project(ROOT)
BENCHMARK = "design_eight"
SLOWDOWNS = (0, 5, 10, 30)  # percent; 0 is the same tree in a process of its own
ROUNDS = 5
STORE = ROOT / ".mpnn_core" / "sensitivity.jsonl"
RUNS = ROOT / "docs" / "guard-runs.jsonl"
DRAWN = 1000


def _spin() -> None:
    while True:
        pass


@contextmanager
def neighbour(condition: str) -> Iterator[None]:
    """One core kept busy by another process, or none."""
    if condition != "busy":
        yield
        return
    process = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def record(minutes: float, condition: str, slowdowns: Sequence[int] = SLOWDOWNS) -> None:
    """Append sessions to STORE until the time is over: log seconds by side and round."""
    until = time.monotonic() + 60 * minutes
    copies = {}
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_of_project(ROOT, Path(folder) / "copy")
        for percent in slowdowns:
            plant(copy, slower(percent) if percent else None)
            copies[percent] = builds.build(copy, builds.tree_of(copy), PROJECT)
    base = copies[0]
    sides = {"base": base, "control": base, **{str(p): b for p, b in copies.items()}}
    order = random.Random()
    STORE.parent.mkdir(exist_ok=True)
    with neighbour(condition), STORE.open("a") as file:
        while time.monotonic() < until:
            load = os.getloadavg()[0]
            with Processes(sides, base, PROJECT) as processes:
                for process in processes.values():
                    process.prepare(BENCHMARK)
                rounds = [
                    {
                        side: processes[side].time(BENCHMARK)
                        for side in order.sample(list(sides), len(sides))
                    }
                    for _ in range(ROUNDS)
                ]
            line = {"condition": condition, "load": load, "rounds": rounds}
            file.write(json.dumps(line) + "\n")
            file.flush()


class Recorded:
    """A side of a session that happened: gives the seconds of its rounds, one after the other."""

    def __init__(self, rounds: Sequence[Mapping[str, float]], side: str) -> None:
        self._seconds = iter([r[side] for r in rounds])

    def prepare(self, name: str) -> float:
        return 0.0

    def time(self, name: str) -> float:
        return next(self._seconds)


def verdict(
    sessions: Sequence[dict[str, Any]], head: str, base: str = "base", control: str = "control"
) -> tuple[Change, float | None]:
    """The comparison on recorded sessions: its verdict, and the slowdown that it would catch."""
    waiting = iter(sessions)

    @contextmanager
    def replay() -> Iterator[dict[str, Recorded]]:
        rounds = next(waiting)["rounds"]
        sides = {"base": base, "control": control, "head": head}
        yield {side: Recorded(rounds, name) for side, name in sides.items()}

    outcome = race(replay, [BENCHMARK], budget_s=1e9, rounds=ROUNDS, most=len(sessions))[0]
    return outcome.change, outcome.sensitivity(THRESHOLD)


def table() -> None:
    """Print, per condition, slowdown and number of restarts, how often a run called it slower.

    Runs are cut from what was recorded one after the other; and, for the rates, drawn from it at
    random, `DRAWN` times.
    """
    found = [json.loads(line) for line in STORE.read_text().splitlines()]
    for condition in dict.fromkeys(s["condition"] for s in found):
        of_it = [s for s in found if s["condition"] == condition]
        loads = sorted(s["load"] for s in of_it)
        print(f"{condition}: {len(of_it)} restarts, load {loads[0]:.1f} to {loads[-1]:.1f}")
        for head in map(str, SLOWDOWNS):
            sessions = [s for s in of_it if head in s["rounds"][0]]
            for most in LOOKS:
                if len(sessions) < most:
                    continue
                cut = [sessions[i : i + most] for i in range(0, len(sessions) - most + 1, most)]
                print(f"  {head} %, {most} restarts: cut {_rates(cut, head)}")
                if len(sessions) >= 2 * most:  # else they would be nearly the same ones
                    chance = random.Random(0)
                    drawn = [chance.sample(sessions, most) for _ in range(DRAWN)]
                    print(f"  {head} %, {most} restarts: drawn {_rates(drawn, head)}")


def run(runs: int, condition: str, percent: int = 0, restarts: int = LOOKS[0]) -> None:
    """Race the tree against itself, or a copy slower by `percent`: append the verdict of each run.

    `runs` more of `condition`; a run has `restarts` at most.
    """
    kind = condition, percent, restarts
    before = sum(_kind(line) == kind for line in _runs())
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_of_project(ROOT, Path(folder) / "copy")
        base = builds.build(copy, builds.tree_of(copy), PROJECT)
        plant(copy, slower(percent) if percent else None)
        head = builds.build(copy, builds.tree_of(copy), PROJECT)
    sides = {"base": base, "head": head, "control": base}
    with neighbour(condition), RUNS.open("a") as file:
        for seed in range(before, before + runs):
            load, began = os.getloadavg()[0], time.perf_counter()
            (found,) = race(
                lambda: Processes(sides, base, PROJECT),
                [BENCHMARK],
                budget_s=1e9,
                seed=seed,
                rounds=FEWEST_ROUNDS,
                most=restarts,
            )
            assert found.sessions >= LOOKS[0] and found.ratio and found.control, found
            line = {
                "condition": condition, "slower": percent, "at_most": restarts, "seed": seed,
                "verdict": found.change, "time": found.time,
                "would_catch": found.sensitivity(THRESHOLD), "control": asdict(found.control),
                "restarts": found.sessions, "rounds": found.rounds, "load": load, "date": now(),
                "seconds": time.perf_counter() - began, "tree": base.tree,
                "processor": this_machine(PROJECT)["processor"],
            }  # fmt: skip
            file.write(json.dumps(line) + "\n")
            file.flush()
            print(f"{kind} {seed}: {found.change}, time {found.time}", flush=True)


def _runs() -> list[dict[str, Any]]:
    lines = RUNS.read_text().splitlines() if RUNS.is_file() else []
    return [json.loads(line) for line in lines]


def _kind(line: Mapping[str, Any]) -> tuple[str, int, int]:
    return line["condition"], line["slower"], line["at_most"]


def verdicts() -> None:
    """Print, per condition, slowdown and number of restarts, how the runs came out."""
    found = _runs()
    for kind in dict.fromkeys(map(_kind, found)):
        of_it = [line for line in found if _kind(line) == kind]
        counts = ", ".join(
            f"{n} {change}"
            for change in Change
            if (n := sum(line["verdict"] == change for line in of_it))
        )
        load, caught = (sorted(line[key] for line in of_it) for key in ("load", "would_catch"))
        low, middle, high = (100 * (caught[i] - 1) for i in (0, len(caught) // 2, -1))
        print(
            f"{kind[0]}, {kind[1]} %, {kind[2]} restarts: {len(of_it)} runs: {counts}; would catch "
            f"{low:.1f} to {high:.1f} %, median {middle:.1f}; load {load[0]:.1f} to {load[-1]:.1f}"
        )


def _rates(runs: Sequence[Sequence[dict[str, Any]]], head: str) -> str:
    casts = [(head, "base", "control")]
    if head == "0":  # three processes of one tree: each is the head once
        casts += [("base", "control", "0"), ("control", "0", "base")]
    verdicts = [verdict(run, *cast) for run in runs for cast in casts]
    counts = {c: sum(v[0] is c for v in verdicts) for c in Change}
    said = ", ".join(f"{n} {c}" for c, n in counts.items() if n)
    caught = sorted(v[1] for v in verdicts if v[1] is not None)
    return f"{len(verdicts)}: {said} (would catch {100 * (caught[len(caught) // 2] - 1):.0f} %)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    recorder = commands.add_parser("record")
    recorder.add_argument("--minutes", type=float, default=4)
    recorder.add_argument("--condition", default="idle", help="idle, busy, or another name")
    recorder.add_argument("--slowdowns", type=int, nargs="+", default=SLOWDOWNS, metavar="PERCENT")
    recorder.set_defaults(run=lambda o: record(o.minutes, o.condition, o.slowdowns))
    runner = commands.add_parser("run")
    runner.add_argument("--runs", type=int, default=20)
    runner.add_argument("--condition", default="idle", help="idle, busy, or another name")
    runner.add_argument("--slower", type=int, default=0, metavar="PERCENT")
    runner.add_argument("--restarts", type=int, default=LOOKS[0], choices=LOOKS)
    runner.set_defaults(run=lambda o: run(o.runs, o.condition, o.slower, o.restarts))
    commands.add_parser("verdicts").set_defaults(run=lambda o: verdicts())
    commands.add_parser("table").set_defaults(run=lambda o: table())
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
