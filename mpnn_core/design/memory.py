"""How much memory there is for results: of the machine, or of the container that this runs in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mpnn_core.backends.control_groups import ROOT, folders
from mpnn_core.structures.structure import Structure

LIMITS = ("memory.max", "memory.limit_in_bytes")
"""The file with a control group's limit in bytes, in version 2 and in version 1."""


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


@cache
def memory_bytes(root: Path = ROOT) -> int | None:
    """The memory of this machine, or the least limit of this process's control groups if that is
    less; None where neither is known."""
    known = [limit for folder in folders("memory", root) if (limit := _limit(folder)) is not None]
    if hasattr(os, "sysconf"):
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(known, default=None)


def _limit(folder: Path) -> int | None:
    """What one group grants, in bytes; None for no limit."""
    for name in LIMITS:
        try:
            text = (folder / name).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdecimal() else None  # otherwise "max"
    return None
