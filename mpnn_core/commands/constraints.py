"""Options that state constraints by selections and files, and what they are of a structure."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import mpnn_core as mpnn
from mpnn_core.commands.options import CallError

if TYPE_CHECKING:
    from mpnn_core.selecting.sources import Source

REMARKS = "remarks"
"""In place of a file: what the structure's own file says is kept."""

MOTIFS = (".trb", ".json")
"""Endings of the files of motifs that a folder is searched for."""


def add_constraint_options(command: argparse.ArgumentParser) -> None:
    """The options of `design` and `score` that name files."""
    command.add_argument(
        "--constraints", action="append", default=[], metavar="[KIND=]FILE",
        help="a file of constraints for each structure: this program's JSON, ProteinMPNN's JSONL "
        "or LigandMPNN's JSON, told apart by content; of lists of residues KIND says which they "
        "are, fixed_residues or redesigned_residues; repeatable",
    )  # fmt: skip
    command.add_argument(
        "--fixed-from", action="append", default=[], metavar="FILE",
        help="residues to keep, from the .trb of RFdiffusion, the .json of RFdiffusion3 or a PDB "
        "file with REMARK PDBinfo-LABEL: n FIXED; a folder has NAME.trb or NAME.json for each "
        "structure; 'remarks' is the structure's own file; repeatable",
    )  # fmt: skip
    command.add_argument(
        "--resfile", type=Path, metavar="FILE",
        help="a resfile of Rosetta: the amino acids that each residue may be (NATRO, NATAA, ALLAA, "
        "PIKAA, NOTAA, POLAR, APOLAR)",
    )  # fmt: skip


class Constraining:
    """Constraints of each structure, from the options and the files that they name.

    Raises
    ------
    CallError
        A file cannot be read, is none of constraints, or is for one structure where several are
        given.
    """

    def __init__(
        self, options: argparse.Namespace, constraints: mpnn.Constraints, files: Sequence[Path]
    ) -> None:
        self.constraints, self.options = constraints, options
        self.sources = [_source(text) for text in options.constraints]
        for text in options.fixed_from:
            if text != REMARKS and len(files) > 1 and not Path(text).is_dir():
                raise CallError(
                    f"--fixed-from {text}: it is of one structure, and {len(files)} are given; "
                    "expected a folder with a file for each"
                )
        if options.resfile is not None and not options.resfile.is_file():
            raise CallError(f"--resfile {options.resfile}: there is no such file")

    def __call__(self, structure: mpnn.Structure, file: Path) -> mpnn.Constraints:
        """The constraints of a structure that was read from a file.

        Raises
        ------
        ConstraintError
            What is stated does not fit the structure; the message names the file that states it.
        """
        from mpnn_core.selecting.motifs import fixed_from
        from mpnn_core.selecting.resfiles import resfile_fields
        from mpnn_core.selecting.selections import rows_or_labels
        from mpnn_core.selecting.sources import added, with_files

        constraints = replace(
            self.constraints,
            fixed=rows_or_labels(structure, self.constraints.fixed) or (),
            redesigned=rows_or_labels(structure, self.constraints.redesigned),
        )
        constraints = with_files(constraints, structure, self.sources, str(file))
        for text in self.options.fixed_from:
            kept = fixed_from(_motif(text, structure, file), structure)
            constraints = added(constraints, structure, {"fixed": kept}, text)
        if self.options.resfile is not None:
            fields = resfile_fields(self.options.resfile, structure)
            constraints = added(constraints, structure, fields, str(self.options.resfile))
        return constraints


def _source(text: str) -> Source:
    """ "FILE" or "KIND=FILE" as what it says."""
    from mpnn_core.selecting.constraint_sets import read_constraints
    from mpnn_core.selecting.originals import KINDS, ConstraintFile

    kind, equals, path = text.partition("=")
    known = bool(equals) and kind in KINDS
    try:
        source = read_constraints(path if known else text, kind if known else None)
    except mpnn.ConstraintError as error:
        raise CallError(f"--constraints: {error}") from None
    if isinstance(source, ConstraintFile) and source.kind == "pssm":
        raise CallError(
            f"--constraints: {source.path}: PSSMs, and how much they count is not said; name the "
            'file in one of constraints, as in "pssm": {"file": "pssm.jsonl", "multiplier": 0.3}'
        )
    return source


def _motif(text: str, structure: mpnn.Structure, file: Path) -> Path:
    """The file that says what is kept of a structure."""
    if text == REMARKS:
        return file
    if not Path(text).is_dir():
        return Path(text)
    found = [path for end in MOTIFS if (path := Path(text) / f"{structure.name}{end}").is_file()]
    if len(found) != 1:
        what = "both" if found else "neither"
        names = " and ".join(f"{structure.name}{end}" for end in MOTIFS)
        raise mpnn.ConstraintError(f"{text}: it has {what} of {names}; expected one of them")
    return found[0]
