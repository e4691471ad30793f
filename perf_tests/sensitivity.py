"""What the comparison of revisions catches, and how often it raises a false alarm. Measured.

A slowdown of known size is planted in a copy of the package, and the real procedure (`race`, in
processes of its own) compares it with the unchanged package; 0 % is the unchanged package against
itself. Every run is independent: it starts its own processes, and nothing is drawn from a
recording. On a machine of many cores runs go side by side, each on two processors of its own.
From the repository's root::

    python perf_tests/sensitivity.py build builds
    python perf_tests/sensitivity.py run --built builds --unchanged 20 --each 10
    python perf_tests/sensitivity.py run --built builds --condition busy
    python perf_tests/sensitivity.py run --built builds --parallel 30 --unchanged 40 --each 15
    python perf_tests/sensitivity.py verdicts

`build` needs git, and a compiler unless `--so` names a folder of compiled modules. Where neither
is, nor a network, `run` works from the folder that `build` made elsewhere. Each verdict is a line
of docs/guard-runs.jsonl, and docs/make_pages.py shows the rates.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "accuracy_tests"))

from plants import append, slower  # noqa: E402

from mpnn_core.gate import GateError  # noqa: E402
from mpnn_core.gate.ledger import now, this_machine  # noqa: E402
from mpnn_core.gate.project import load_project  # noqa: E402
from mpnn_core.gate.revisions import builds  # noqa: E402
from mpnn_core.gate.revisions.processes import Processes  # noqa: E402
from mpnn_core.gate.revisions.race import LOOKS, MOST_ROUNDS, THRESHOLD, race  # noqa: E402
from mpnn_core.gate.revisions.rates import rates, read_runs  # noqa: E402
from mpnn_core.gate.verdicts import Change  # noqa: E402

PROJECT = load_project(ROOT)
BENCHMARK = "design_eight"
SIZES = (5, 10, 20, 30)  # percent
RUNS = ROOT / "docs" / "guard-runs.jsonl"
# In the folder of `build`: the git tree that the package is of.
TREE = "tree.txt"
# Of a run: one runs the benchmark, the other is for all else, or is kept busy.
PROCESSORS_EACH = 2


def build(folder: Path, native: Path | None = None) -> None:
    """Put the package into a new folder, as site-packages has it, for `run`.

    Compiled modules are those of `native`, for the Python that runs there, or built here.
    """
    if folder.exists():
        raise GateError(f"{folder} is there already; expected the name of a new folder")
    tree = builds.tree_of(ROOT)
    target = folder / PROJECT.package
    if native is None:
        built = builds.build(ROOT, tree, PROJECT)
        site = builds.site_packages(built.python.parents[1])
        shutil.copytree(site / PROJECT.package, target)
    else:
        modules = [path for path in native.iterdir() if path.suffix in builds.MODULE_SUFFIXES]
        if not modules:
            raise GateError(f"{native} holds no compiled modules, such as _avx2*.so")
        with tempfile.TemporaryDirectory() as temporary:
            builds.extract(ROOT, tree, Path(temporary) / "files")
            shutil.copytree(Path(temporary) / "files" / PROJECT.package, target)
        for module in modules:
            shutil.copy2(module, target / "backends" / "native")
    (folder / TREE).write_text(tree)
    print(f"{target}: tree {tree[:12]}")


def _spin() -> None:
    while True:
        pass


@contextmanager
def neighbour(condition: str) -> Iterator[None]:
    """In the condition "busy", one of this run's processors kept busy by another process."""
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


def slots(count: int, topology: Path = Path("/sys/devices/system/cpu")) -> list[list[int]]:
    """Processors of their own for so many runs side by side: two each, of one core if they share.

    Raises
    ------
    GateError
        There are not as many.
    """
    allowed = sorted(os.sched_getaffinity(0))
    cores: dict[str, list[int]] = {}
    for cpu in allowed:
        siblings = topology / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        cores.setdefault(siblings.read_text() if siblings.is_file() else str(cpu), []).append(cpu)
    in_order = [cpu for core in cores.values() for cpu in core]
    found = [in_order[i : i + PROCESSORS_EACH] for i in range(0, len(in_order), PROCESSORS_EACH)]
    if count > len(found):
        raise GateError(
            f"{count} runs side by side need {PROCESSORS_EACH * count} processors, and there are "
            f"{len(allowed)}; expected --parallel {len(found)} at most"
        )
    return found[:count]


def _pin(free: Any) -> None:
    """Keep this process, and all that it starts, on processors of its own."""
    os.sched_setaffinity(0, free.get())


def one(
    base: builds.Build, head: builds.Build, percent: int, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """A run of the procedure in processes of its own, as a line of RUNS."""
    sides = {"base": base, "head": head, "control": base}
    with neighbour(options.condition):
        load, began = os.getloadavg()[0], time.perf_counter()
        (found,) = race(
            lambda: Processes(sides, base, PROJECT),
            [options.only],
            budget_s=1e9,
            seed=seed,
            rounds=options.rounds,
            most=options.restarts,
        )
    if not found.ratio or not found.control:
        raise GateError(f"{options.only}: {found.change}, {found.note}")
    machine = this_machine(PROJECT)
    return {
        "benchmark": options.only, "condition": options.condition, "slower": percent,
        "at_most": options.restarts, "rounds_each": options.rounds, "seed": seed,
        "parallel": options.parallel, "verdict": found.change, "time": found.time,
        "caught_9_of_10": found.sensitivity(THRESHOLD), "spread": found.spread,
        "ratio": asdict(found.ratio), "control": asdict(found.control),
        "restarts": found.sessions, "load": load, "cores": os.cpu_count(), "date": now(),
        "seconds": time.perf_counter() - began, "tree": base.tree,
        "processor": machine["processor"], "python": machine["python"],
        "torch": machine.get("torch", ""),
    }  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Run all that was asked for, `parallel` at a time, and append each verdict to RUNS.

    Sizes are mixed: what the machine does at the time meets all of them alike. 1 if a run failed.
    """
    if not (options.built / TREE).is_file():
        raise GateError(f"{options.built} holds no {TREE}; expected a folder that `build` made")
    tree = (options.built / TREE).read_text()
    sizes = [0] * options.unchanged + [size for size in options.sizes for _ in range(options.each)]
    seed = len(read_runs(options.out))
    spawn = multiprocessing.get_context("spawn")
    failed = 0
    with tempfile.TemporaryDirectory() as temporary, spawn.Manager() as manager:
        built = {}
        for size in {0, *sizes}:
            built[size] = builds.assemble(options.built, Path(temporary) / str(size), ROOT, tree)
            if size:
                site = builds.site_packages(Path(temporary) / str(size))
                append(slower(size), site / PROJECT.package)
        free = manager.Queue()
        for processors in slots(options.parallel):
            free.put(processors)
        pool = ProcessPoolExecutor(options.parallel, spawn, _pin, (free,))
        with pool, options.out.open("a") as file:
            waiting = {
                pool.submit(one, built[0], built[size], size, number, options): (number, size)
                for number, size in enumerate(random.Random(seed).sample(sizes, len(sizes)), seed)
            }
            for done in as_completed(waiting):
                name = "run {}, {} %".format(*waiting[done])
                try:
                    line = done.result()
                except GateError as error:
                    failed += 1
                    print(f"{name}: {error}", file=sys.stderr, flush=True)
                    continue
                file.write(json.dumps(line) + "\n")
                file.flush()
                print(f"{name}: {line['verdict']}, time {line['time']}, {line['seconds']:.0f} s",
                      flush=True)  # fmt: skip
    return int(bool(failed))


def verdicts(path: Path = RUNS) -> None:
    """Print, per machine, condition and slowdown, how the runs came out."""
    for found in rates(read_runs(path)):
        k = found.kind
        share = found.share(Change.SLOWER)
        counts = ", ".join(f"{n} {change}" for change, n in found.verdicts.items())
        print(
            f"{k.processor} ({k.cores} cores), {k.condition}, {k.parallel} at a time, {k.slower} % "
            f"slower: {found.runs} runs of {k.restarts} restarts: {counts}; called slower "
            f"{100 * share.value:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]; "
            f"load {found.load[0]:.1f} to {found.load[1]:.1f}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    builder = commands.add_parser("build", help="make the folder that runs work from")
    builder.add_argument("folder", type=Path)
    builder.add_argument("--so", type=Path, metavar="DIR", help="compiled modules to take")
    builder.set_defaults(run=lambda o: build(o.folder, o.so))
    runner = commands.add_parser("run", help="append the verdicts of independent runs")
    runner.add_argument("--built", type=Path, required=True, metavar="FOLDER", help="of `build`")
    runner.add_argument("--unchanged", type=int, default=20, metavar="N", help="runs of 0 %%")
    runner.add_argument("--each", type=int, default=0, metavar="N", help="runs of each size")
    runner.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="PERCENT")
    runner.add_argument("--parallel", type=int, default=1, metavar="N", help="runs side by side")
    runner.add_argument("--condition", default="idle", help="idle, busy, or another name")
    runner.add_argument("--only", default=BENCHMARK, metavar="NAME", help="the benchmark")
    runner.add_argument("--restarts", type=int, default=LOOKS[0], choices=LOOKS)
    runner.add_argument("--rounds", type=int, default=MOST_ROUNDS, metavar="N")
    runner.add_argument("--out", type=Path, default=RUNS, metavar="FILE")
    runner.set_defaults(run=run)
    commands.add_parser("verdicts").set_defaults(run=lambda o: verdicts())
    options = parser.parse_args(arguments)
    try:
        return options.run(options) or 0
    except GateError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
