"""One side of a comparison: a process that runs benchmarks when told to, in one revision.

Run as a script by `compare.py`, in the environment of the revision that it measures; so it imports
nothing of mpnn_core itself, and is the same on both sides. One JSON object a line, in and out.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

# A run that is shorter is repeated until it is not: clocks and calls have a cost of their own.
SHORTEST_RUN_S = 1e-3


class Worker:
    """The benchmarks of one file, prepared when they are first asked for."""

    def __init__(self, benchmarks: Path) -> None:
        spec = importlib.util.spec_from_file_location("benchmarks", benchmarks)
        assert spec is not None and spec.loader is not None
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self.functions = {f.__name__: f for f in self.module.BENCHMARKS}
        self.runs: dict[str, tuple[Any, int]] = {}

    def prepare(self, name: str) -> dict[str, Any]:
        """Warm up: how long a run takes, and how often it is repeated within one measurement."""
        run = self.functions[name]()
        run()
        took = _seconds(run, 1)
        repeats = max(1, round(SHORTEST_RUN_S / max(took, 1e-9)))
        self.runs[name] = run, repeats
        return {"seconds": took * repeats}

    def time(self, name: str) -> dict[str, Any]:
        """Seconds of one run."""
        return {"seconds": _seconds(*self.runs[name])}

    def errors(self) -> dict[str, Any]:
        """Largest difference of each answer from the truth beside it."""
        return {
            "errors": {
                name: float(abs(found.astype("float64") - truth).max())
                for name, found, truth in self.module.answers()
            }
        }


def _seconds(run: Any, repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - started) / repeats


def serve(worker: Worker, orders: TextIO, replies: TextIO) -> None:
    """Answer until the orders end; what a revision raises is an answer, too."""
    for line in orders:
        command, *arguments = json.loads(line)
        try:
            reply = getattr(worker, command)(*arguments)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def main() -> None:
    """worker.py BENCHMARKS THREADS CPU,CPU PATH..., the paths being searched for modules first."""
    benchmarks, threads, cpus, *paths = sys.argv[1:]
    # What a revision prints must not be taken for a reply.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path[0:1] = paths  # instead of the folder that this script is in
    import torch

    torch.set_num_threads(int(threads))
    worker = Worker(Path(benchmarks))
    import mpnn_core

    # Pinned when all is imported: until then every processor helps.
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    replies.write(json.dumps({"package": mpnn_core.__file__}) + "\n")
    replies.flush()
    serve(worker, sys.stdin, replies)


if __name__ == "__main__":
    main()
