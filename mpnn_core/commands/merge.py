"""`mpnn-core merge`: the parts of a run, which several machines made, in one folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mpnn_core.commands.options import CallError, check_outputs, complain


def add_parser(commands: Any) -> None:
    """Add the command to `mpnn-core`."""
    merge = commands.add_parser(
        "merge", help="join the folders of the shards of a run, and check them",
        description="Join folders that mpnn-core design --shard wrote: of one run, each shard "
        "once. What is missing is said, and the exit code is then 1.",
    )  # fmt: skip
    merge.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="the folders of shards")
    merge.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the folder of the whole run"
    )
    merge.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Join the folders."""
    from mpnn_core.runs.folder import RunError
    from mpnn_core.runs.merging import merge

    check_outputs([options.out], [])
    try:
        merged = merge(options.folders, options.out)
    except RunError as error:
        raise CallError(str(error)) from None
    for sentence in merged.missing:
        complain(sentence)
    print(f"{merged.done} structures, {merged.failed} failures: {options.out}")
    return int(bool(merged.missing))
