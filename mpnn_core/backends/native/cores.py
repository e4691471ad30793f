"""How many cores this process really has: fewer than the machine in a container or a batch job."""

from __future__ import annotations

import math
import os
from functools import cache
from pathlib import Path


def available_cores() -> int:
    """Cores that the system lets this process run on at once, by its affinity and its quota."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    # A part of a core is worth a thread: 1.5 cores compute half as much again as one.
    quota = cgroup_quota()
    return allowed if quota >= allowed else max(1, math.ceil(quota))


@cache
def cgroup_quota(root: Path = Path("/")) -> float:
    """Cores' worth of time that Linux's control groups grant, of both versions; inf for no limit.

    The smallest of the process's group and the groups around it. A container may see itself as the
    root: what is not there limits nothing.
    """
    smallest = math.inf
    for mount, path in _groups_of_cpu(root):
        inside = root / mount.relative_to("/")
        for group in (path, *path.parents):
            folder = inside / group.relative_to("/")
            smallest = min(smallest, _quota(folder))
    return smallest


def _groups_of_cpu(root: Path) -> list[tuple[Path, Path]]:
    """Where the groups that limit processors are mounted, and the path of this process in each."""
    try:
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return []
    # "hierarchy:controllers:path"; version 2 is one hierarchy, number 0, of all controllers.
    path_of = {}
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            path_of["cgroup" if controllers else "cgroup2"] = Path(path)
    found = []
    for line in mounts:
        # "... root mount-point options - type source options"
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in path_of and (kind == "cgroup2" or "cpu" in options.split(",")):
            found.append((Path(before.split()[4]), path_of[kind]))
    return found


def _quota(folder: Path) -> float:
    """What one group grants: cpu.max of version 2, the two cpu.cfs_ files of version 1."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text()
    except OSError:
        return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)
