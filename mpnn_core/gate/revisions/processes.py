"""Worker processes, one per revision, all on the same processors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mpnn_core.gate.project import Project
from mpnn_core.gate.revisions import builds, worker
from mpnn_core.gate.revisions.comparison import CompareError
from mpnn_core.gate.revisions.race import BenchmarkError, EndedError

# A benchmark that has not answered by then hangs: the longest takes a few seconds.
LONGEST_REPLY_S = 300.0


def threading_rules(threads: int) -> dict[str, str]:
    """The variables under which every side computes, as the comparison's machine names them.

    Threads that wait spin by default, and take the time of whoever works beside them.
    """
    policy = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    return {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": policy}


class Process:
    """A worker process (worker.py) in the environment of a build."""

    def __init__(
        self,
        build: builds.Build,
        head: builds.Build,
        project: Project,
        threads: int = 1,
        cpus: Sequence[int] = (),
    ) -> None:
        # Both sides run the head's benchmarks, with the modules and data of the head's folders.
        settings = {
            "package": project.package,
            "benchmarks": str(head.source / project.benchmarks),
            "hardware": project.hardware,
            "threads": threads,
            "cpus": list(cpus),
            "paths": [str(head.source / folder) for folder in project.folders],
        }
        environment = {**os.environ, **threading_rules(threads)}
        environment.pop("PYTHONPATH", None)
        # A file, since a pipe could fill up; closed with the process.
        self._output = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [str(build.python), worker.__file__, json.dumps(settings)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._output, text=True,
            env=environment,
        )  # fmt: skip
        self._build = build

    def wait(self) -> None:
        """Return when the process is ready; its package must be the build's own."""
        reply = self._reply()
        if "error" in reply:
            raise CompareError(f"in tree {self._build.tree[:12]}, {reply['error']}")
        package = Path(reply["package"])
        if self._build.python.parents[1].resolve() not in package.resolve().parents:
            raise CompareError(f"{self._build.python} runs {package}, not what was built")

    def prepare(self, name: str) -> float:
        return float(self._order("prepare", name)["seconds"])

    def time(self, name: str) -> float:
        return float(self._order("time", name)["seconds"])

    def errors(self) -> dict[str, float]:
        """See `Worker.errors`."""
        return dict(self._order("errors")["errors"])

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate()
        self._output.close()

    def _order(self, *order: str) -> dict[str, Any]:
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
        started = time.monotonic()
        hangs = threading.Timer(LONGEST_REPLY_S, self._process.kill)
        hangs.start()
        line = self._process.stdout.readline()
        hangs.cancel()
        if not line:
            code, waited = self._process.wait(), time.monotonic() - started
            if waited >= LONGEST_REPLY_S:
                raise EndedError(
                    f"a process of tree {self._build.tree[:12]} was ended: it had not answered "
                    f"within {LONGEST_REPLY_S:g} s"
                )
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            self._output.seek(0)
            output = self._output.read().strip()[-500:] or "without a word"
            raise EndedError(f"a process of tree {self._build.tree[:12]} ended {how}: {output}")
        reply: dict[str, Any] = json.loads(line)
        return reply


class Processes(ExitStack):
    """A session: one process per side, all on the same processors."""

    def __init__(
        self,
        sides: Mapping[str, builds.Build],
        head: builds.Build,
        project: Project,
        threads: int = 1,
    ) -> None:
        super().__init__()
        self._sides, self._head, self._project, self._threads = sides, head, project, threads

    def __enter__(self) -> Any:
        super().__enter__()
        cpus = idlest_cpus(self._threads)
        try:
            processes = {}
            for side, build in self._sides.items():
                processes[side] = Process(build, self._head, self._project, self._threads, cpus)
                self.callback(processes[side].close)
            for process in processes.values():
                process.wait()
        except BaseException:
            self.close()
            raise
        return processes


def idlest_cpus(count: int, over_s: float = 0.2) -> list[int]:
    """The processors that did least within a moment; [] where none can be chosen."""
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
