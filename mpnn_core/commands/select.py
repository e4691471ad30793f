"""`mpnn-core select`: what a selection chooses of a structure."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mpnn_core as mpnn
from mpnn_core.commands.options import CallError

FORMATS = ("list", "pymol", "count")


def add_parser(commands: Any) -> None:
    """Add the command to `mpnn-core`."""
    select = commands.add_parser(
        "select", help="show which residues of a structure a selection chooses",
        description="Print the residues that a selection chooses, as --fixed and --redesign of "
        "mpnn-core design take it: labels and ranges (A52, A10-20), all, chain:A, interface:A/B:8 "
        "(residues of A and B within 8 Å of the other), near:HEM:6 or near:ligand:6 (within 6 Å of "
        "what surrounds the protein), surface and core (at most 15, and at least 20, other "
        "residues with a virtual CB within 10 Å); joined by + and - between spaces, from left to "
        "right.",
    )  # fmt: skip
    select.add_argument("file", type=Path, metavar="FILE", help="a PDB or mmCIF file")
    select.add_argument(
        "selection", metavar="SELECTION",
        help="such as 'interface:A/B:8 + A10-20 - chain:C'; after -- if it begins with -",
    )  # fmt: skip
    select.add_argument(
        "--format", choices=FORMATS, default=FORMATS[0],
        help="list: labels by commas, ranges of residues that follow each other joined; pymol: a "
        "selection for PyMOL; count: how many there are (default: list)",
    )  # fmt: skip
    select.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the residues."""
    from mpnn_core.selecting.selections import rows

    structure = mpnn.read_structure(options.file)
    try:
        chosen = rows(structure, options.selection)
    except mpnn.ConstraintError as error:
        raise CallError(f"{options.file}: {error}") from None
    of_format = {"list": as_list, "pymol": as_pymol, "count": lambda _, rows: str(len(rows))}
    print(of_format[options.format](structure, chosen))
    return 0


def as_list(structure: mpnn.Structure, rows: Sequence[int]) -> str:
    """Labels by commas, "A10-12,B7", which --fixed takes."""
    from mpnn_core.sampling.labels import label

    texts = []
    for first, last in _runs(structure, rows):
        text = label(structure, first)
        texts.append(text if first == last else f"{text}-{structure.residue_numbers[last].strip()}")
    return ",".join(texts)


def as_pymol(structure: mpnn.Structure, rows: Sequence[int]) -> str:
    """ "(chain A and resi 10+11+12) or (chain B and resi 7)"; "none" of no residue."""
    by_chain: dict[str, list[str]] = {}
    for row in rows:
        number = str(structure.residue_numbers[row]).strip()
        # PyMOL reads a range in a minus that is not escaped.
        by_chain.setdefault(str(structure.chain_ids[row]).strip(), []).append(
            number.replace("-", "\\-")
        )
    return (
        " or ".join(
            f"(chain {chain or chr(34) * 2} and resi {'+'.join(numbers)})"
            for chain, numbers in by_chain.items()
        )
        or "none"
    )


def _runs(structure: mpnn.Structure, rows: Sequence[int]) -> list[tuple[int, int]]:
    """The first and the last of positions that follow each other in a chain."""
    runs: list[tuple[int, int]] = []
    for row in rows:
        if (
            runs
            and runs[-1][1] == row - 1
            and (structure.chain_ids[row] == structure.chain_ids[row - 1])
        ):
            runs[-1] = runs[-1][0], row
        else:
            runs.append((row, row))
    return runs
