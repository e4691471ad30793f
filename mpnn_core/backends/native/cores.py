"""How many cores this process really has: fewer than the machine in a container or a batch job."""

from __future__ import annotations

import math
import os
from functools import cache
from pathlib import Path

from mpnn_core.backends.control_groups import ROOT, folders


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
def cgroup_quota(root: Path = ROOT) -> float:
    """Cores' worth of time that Linux's control groups grant; inf for no limit.

    The smallest of the process's group and the groups around it.
    """
    return min(map(_quota, folders("cpu", root)), default=math.inf)


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
