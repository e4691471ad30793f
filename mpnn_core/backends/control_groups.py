"""The control groups of Linux that a process is in: what a container or a batch job may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def folders(controller: str, root: Path = ROOT) -> Iterator[Path]:
    """The folders of this process's groups, and of all groups above them, that limit something.

    Both versions (man 7 cgroups). /proc/self/mountinfo (man 5 proc) says where each hierarchy is
    mounted, and which group is its top there: in a container, often the container's own.

    Parameters
    ----------
    controller : "memory" or "cpu"
    root : the folder that holds /proc and the paths it names
    """
    try:
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return  # not Linux
    own: dict[str, PurePosixPath] = {}  # this process's group, by controller; "" is version 2's
    for group in groups:
        _, controllers, path = group.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), PurePosixPath(path))
    for mount in mounts:
        fields, _, of_file_system = mount.partition(" - ")
        kind, _, options = of_file_system.split(maxsplit=2)
        name = {"cgroup2": "", "cgroup": controller}.get(kind)
        if name is None or name not in own or (name and name not in options.split(",")):
            continue
        top, at = fields.split()[3:5]
        # Where the mount shows another part of the hierarchy, its top is the nearest that is known.
        known = own[name].is_relative_to(top)
        below = own[name].relative_to(top) if known else PurePosixPath()
        for folder in (below, *below.parents):
            yield root / at.lstrip("/") / folder
