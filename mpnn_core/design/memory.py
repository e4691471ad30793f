"""How much memory there is for results: of the machine, or of the container that this runs in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from mpnn_core.structures.structure import Structure

ROOT = Path("/")

# By the type of a file system of control groups: the controller of memory, which version 2 does not
# name, and the file with a group's limit in bytes.
HIERARCHIES = {"cgroup2": ("", "memory.max"), "cgroup": ("memory", "memory.limit_in_bytes")}


def check_memory(
    structures: Sequence[Structure], counts: Sequence[int], row_bytes: int, instead: str
) -> None:
    """Refuse results that are larger than memory, before any work.

    Parameters
    ----------
    counts : sequences of each structure
    row_bytes : what the results of one residue of one sequence take
    instead : what to do, for the message

    Raises
    ------
    MemoryError
        They are.
    """
    memory = memory_bytes()
    residues = sum(map(len, structures))
    needed = row_bytes * sum(n * len(s) for n, s in zip(counts, structures, strict=True))
    if memory is not None and needed > memory:
        most = max(counts)
        raise MemoryError(
            f"{most} sequences of {residues} residues are {needed / 1e9:.1f} GB of results, and "
            f"there are {memory / 1e9:.1f} GB of memory here; {instead}"
        )


def memory_bytes(root: Path = ROOT) -> int | None:
    """The memory of this machine, or the least limit of this process's control groups if that is
    less; None where neither is known.

    `root` is the folder that holds /proc and the paths it names.
    """
    known = list(_limits(root))
    if hasattr(os, "sysconf"):
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(known, default=None)


def _limits(root: Path) -> Iterator[int]:
    """The limits of this process's control groups and of all groups above them (man 7 cgroups).

    /proc/self/mountinfo (man 5 proc) says where each hierarchy is mounted, and which group is
    its top there: in a container, often the container's own.
    """
    try:
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return  # not Linux
    own: dict[str, PurePosixPath] = {}  # this process's group, by controller
    for group in groups:
        _, controllers, path = group.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), PurePosixPath(path))
    for mount in mounts:
        fields, _, of_file_system = mount.partition(" - ")
        kind, _, options = of_file_system.split(maxsplit=2)
        controller, limit = HIERARCHIES.get(kind, ("none", ""))
        if controller not in own or (controller and controller not in options.split(",")):
            continue
        top, at = fields.split()[3:5]
        # Where the mount shows another part of the hierarchy, its top is the nearest that is known.
        known = own[controller].is_relative_to(top)
        below = own[controller].relative_to(top) if known else PurePosixPath()
        for folder in (below, *below.parents):
            try:
                text = (root / at.lstrip("/") / folder / limit).read_text()
            except OSError:
                continue
            if text.strip().isdecimal():  # otherwise "max"
                yield int(text)
