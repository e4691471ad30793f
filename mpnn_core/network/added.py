"""Checkpoints that the user added: where they are, and what there is of them. Needs no torch.

They are safetensors files in the folder `MPNN_CORE_WEIGHTS`, or, where that is not set,
`$XDG_DATA_HOME/mpnn_core/weights` (`~/.local/share/mpnn_core/weights`). A checkpoint is in the file
of its name, NAME.safetensors; `mpnn-core weights add` (`adding.py`) puts it there.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mpnn_core.network.families import published_names

VARIABLE = "MPNN_CORE_WEIGHTS"
SUFFIX = ".safetensors"
# A name of a file on every system, and of no path; a dot begins the names of unfinished files.
NAME = re.compile(r"[A-Za-z0-9_][\w.+-]{0,99}", re.ASCII)


def weights_folder() -> Path:
    """The folder of what the user added; it need not exist."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen)
    data = os.environ.get("XDG_DATA_HOME")
    return Path(data or os.path.expanduser("~/.local/share"), "mpnn_core", "weights")


def file_of(name: str, folder: Path) -> Path:
    """The file of a checkpoint in a folder: "soluble/v_48_020" is soluble/v_48_020.safetensors."""
    return folder.joinpath(*f"{name}{SUFFIX}".split("/"))


def find_added(name: str) -> Path | None:
    """The file of a checkpoint that the user added; None if there is none of this name."""
    if not NAME.fullmatch(name) and name not in published_names():
        return None
    path = file_of(name, weights_folder())
    return path if os.path.isfile(path) else None  # Path.is_file raises in a closed folder


def added_names() -> list[str]:
    """The names of added checkpoints that are not published ones, in their order."""
    files = weights_folder().glob(f"*{SUFFIX}")
    names = (path.name.removesuffix(SUFFIX) for path in files)
    return sorted(n for n in names if NAME.fullmatch(n) and n not in published_names())
