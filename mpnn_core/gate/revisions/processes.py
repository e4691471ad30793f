"""Worker processes, one per revision, all on the same processors."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mpnn_core.gate.project import BENCHMARKS
from mpnn_core.gate.revisions import builds, worker
from mpnn_core.gate.revisions.comparison import CompareError
from mpnn_core.gate.revisions.race import BenchmarkError


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
