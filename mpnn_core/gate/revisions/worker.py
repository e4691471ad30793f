"""One side of a comparison: a process that runs benchmarks when it is told to, in one revision.

Run as a script by processes.py, in the environment of the revision that it measures; so it imports
nothing of the gate, and is the same on both sides. One JSON object a line, in and out.
"""

from __future__ import annotations

import importlib
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
    """The benchmarks of one file, each prepared when it is first needed."""

    def __init__(self, benchmarks: Path) -> None:
        spec = importlib.util.spec_from_file_location("benchmarks", benchmarks)
        assert spec is not None and spec.loader is not None
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self.functions = {f.__name__: f for f in self.module.BENCHMARKS}
        self.runs: dict[str, tuple[Any, int]] = {}

    def prepare(self, name: str) -> dict[str, Any]:
        """Warm up, and fix how often a run is repeated within one measurement: its seconds."""
        run = self.functions[name]()
        run()
        seconds = _seconds(run, 1)
        repeats = max(1, round(SHORTEST_RUN_S / max(seconds, 1e-9)))
        self.runs[name] = run, repeats
        return {"seconds": seconds * repeats}

    def time(self, name: str) -> dict[str, Any]:
        """Seconds of one run."""
        return {"seconds": _seconds(*self.runs[name])}

    def errors(self) -> dict[str, Any]:
        """The largest difference of each answer from the truth that the benchmarks know."""
        return {
            "errors": {
                name: float(abs(answer.astype("float64") - truth).max())
                for name, answer, truth in self.module.answers()
            }
        }


def _seconds(run: Any, repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - started) / repeats


def serve(worker: Worker, orders: TextIO, replies: TextIO) -> None:
    """Reply until the orders end; an error of the revision is a reply as well."""
    for line in orders:
        command, *arguments = json.loads(line)
        try:
            reply = getattr(worker, command)(*arguments)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def main() -> None:
    """worker.py SETTINGS, a JSON object: package, benchmarks, hardware, threads, cpus, paths.

    `paths` are searched for modules first; `hardware` is a module of theirs, or "".
    """
    settings = json.loads(sys.argv[1])
    # A revision's own output must not be taken for a reply.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path[0:1] = settings["paths"]  # instead of the folder that this script is in
    if settings["hardware"]:
        importlib.import_module(settings["hardware"]).set_threads(settings["threads"])
    try:
        worker = Worker(Path(settings["benchmarks"]))
    except (ImportError, AttributeError) as error:
        said = (
            f"{settings['benchmarks']} cannot be imported: {error}. What an older revision lacks "
            "is imported inside the benchmark that needs it: then that one alone does not run"
        )
        replies.write(json.dumps({"error": said}) + "\n")
        return
    package = importlib.import_module(settings["package"])
    # Pinned when all is imported: until then every processor helps.
    if settings["cpus"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, settings["cpus"])
    replies.write(json.dumps({"package": package.__file__}) + "\n")
    replies.flush()
    serve(worker, sys.stdin, replies)


if __name__ == "__main__":
    main()
