"""`mpnn-core example`: a structure to try the other commands on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[1] / "data" / "5L33.pdb"


def add_parser(commands: Any) -> None:
    """Add the command to `mpnn-core`."""
    example = commands.add_parser(
        "example", help="print the path of an example structure, 5L33, to try the commands on",
        description="Print the path of an example structure that comes with mpnn-core: 5L33, "
        'one chain of 106 residues. Try: mpnn-core design "$(mpnn-core example)" -n 2 --out -',
    )  # fmt: skip
    example.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the path."""
    print(EXAMPLE)
    return 0
