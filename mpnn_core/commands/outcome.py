"""What `mpnn-core design` writes beside the FASTA, and which designs it keeps."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import mpnn_core as mpnn
from mpnn_core.commands.options import CallError, check_outputs, complain, number
from mpnn_core.commands.packing import DESIGNED, PACKED, Packing, add_packing_options

STRUCTURES = "structures"


def add_outcome_options(command: argparse.ArgumentParser) -> None:
    """The options of what is kept, and of further files."""
    command.add_argument(
        "--unique", action="store_true",
        help="of designs of one structure with equal sequences, keep the one of the best score",
    )  # fmt: skip
    command.add_argument(
        "--max-mutations", type=number(int, 0), metavar="N",
        help="keep designs that differ from the native sequence in at most N residues; it chooses "
        "among the designs that are drawn, and says how many it leaves out",
    )  # fmt: skip
    command.add_argument(
        "--top", type=number(int, 1), metavar="N",
        help="keep the N designs of the best score of each structure, best first",
    )  # fmt: skip
    command.add_argument(
        "--structures", choices=("pdb", "cif"), metavar="pdb|cif",
        help="write DIR/structures/NAME_1.pdb (or .cif) for each design as well: the backbone with "
        "the designed residues, its B-factors the confidence of each, and the ligands",
    )  # fmt: skip
    command.add_argument(
        "--pack", action="store_true",
        help="write DIR/packed/NAME_1_1.pdb for each design as well, a full-atom model: side "
        "chains by LigandMPNN's packer, B-factors the log-densities of their angles (mmCIF with "
        "--structures cif)",
    )  # fmt: skip
    add_packing_options(command, DESIGNED)
    command.add_argument(
        "--table", type=Path, metavar="FILE",
        help="write a table of all designs, a row each, as FILE.csv or FILE.parquet",
    )  # fmt: skip
    command.add_argument(
        "--page", type=Path, metavar="FILE",
        help="write FILE.html as well: the designs as a table, a map of residues and letters and "
        "the structure, in one file that needs no network; of many structures the first 50",
    )  # fmt: skip
    command.add_argument(
        "--for", action="append", default=[], dest="programs", metavar="PROGRAM,PROGRAM",
        help="write DIR/PROGRAM/NAME_1.* for each design as well, what structure predictors read: "
        "colabfold, af3, boltz, chai, rf3; repeatable",
    )  # fmt: skip


class Outcome:
    """Chooses among designs and writes them as the options say.

    Raises
    ------
    CallError
        A file cannot be written, a program is not known, or a library is missing.
    """

    def __init__(self, options: argparse.Namespace, wants_rows: bool = False) -> None:
        self.options, self.wants_rows = options, wants_rows
        self.page = Page(None)
        names = [name.strip() for text in options.programs for name in text.split(",")]
        self.programs = list(dict.fromkeys(names))

    @cached_property
    def packing(self) -> Packing | None:
        """What packs side chains; None where the options do not ask for it."""
        if not self.options.pack:
            return None
        options = self.options
        return Packing(options, options.out / PACKED, options.structures or "pdb")

    def check(self, prints: bool) -> None:
        """See that all can be written; `prints` is whether the FASTA goes to standard output."""
        from mpnn_core.design.programs import PROGRAMS
        from mpnn_core.design.table import TableError, check_table

        options = self.options
        for name in self.programs:
            if name not in PROGRAMS:
                raise CallError(f"--for {name}: expected some of {', '.join(PROGRAMS)}")
        if prints:
            for name, option in (
                ("structures", "--structures"), ("pack", "--pack"), ("programs", "--for"),
            ):  # fmt: skip
                if getattr(options, name):
                    raise CallError(f"{option} writes files; give --out a folder instead of -")
        if not options.pack:
            for given, option in (
                ("packs", "--packs"), ("repack", "--repack"), ("no_pack_ligand", "--no-pack-ligand")
            ):  # fmt: skip
                if given in getattr(options, "given", ()) or getattr(options, given) is True:
                    raise CallError(f"{option} is of packed models; give --pack as well")
        folders = [STRUCTURES] if options.structures else []
        folders += [PACKED] if options.pack else []
        check_outputs([options.out / name for name in [*folders, *self.programs]], [])
        self.page = Page(options.page)
        if options.table is not None:
            try:
                check_table(options.table)
            except TableError as error:
                raise CallError(f"--table: {error}") from None
            check_outputs([options.table.absolute().parent], [options.table], "--table")

    def chosen(self, designs: Sequence[mpnn.Designs]) -> list[mpnn.Designs]:
        """The designs of one structure that are kept; what is left out is said, one line each."""
        from mpnn_core.design.choosing import top, unique, within_mutations

        name, options, kept = designs[0].structure.name, self.options, list(designs)
        if options.unique:
            before, kept = _count(kept), unique(kept)
            _say(name, before - _count(kept), before, "have a sequence that another one has")
        if options.max_mutations is not None:
            before, kept = _count(kept), within_mutations(kept, options.max_mutations)
            more = f"have more than {options.max_mutations} mutations"
            _say(name, before - _count(kept), before, more)
        if options.top is not None:
            kept = top(kept, options.top)
        return kept

    def write(self, digest: str, designs: Sequence[mpnn.Designs]) -> list[dict[str, Any]] | None:
        """Write what the options ask for of the designs of one structure; its rows of the table,
        or None where there is none.

        `digest` is the sha256 of the file that the structure was read from.
        """
        from mpnn_core.design.mutations import odd_composition
        from mpnn_core.design.programs import write_inputs

        listed = list(designs)  # those without designs count for the names
        has_table = self.options.table is not None or self.wants_rows
        if not _count(listed):
            return [] if has_table else None
        name = listed[0].structure.name
        odd = odd_composition(listed)
        if odd:
            complain(f"warning: {name}: {odd}")
        if self.options.structures:
            self._write_structures(listed)
        if self.packing is not None:
            self.page.add(listed, self._pack(self.packing, listed))
        else:
            self.page.add(listed)
        if self.programs:
            for note in write_inputs(self.options.out, listed, self.programs):
                complain(f"note: {name}: {note}")
        if not has_table:
            return None
        from mpnn_core.design.table import rows

        return rows(listed, digest)

    def _write_structures(self, designs: Sequence[mpnn.Designs]) -> None:
        from mpnn_core.design.table import design_names
        from mpnn_core.structures.writers import pdb_cannot_hold, write_structure

        structure, ending = designs[0].structure, self.options.structures
        why = pdb_cannot_hold(structure) if ending == "pdb" else ""
        if why:
            complain(f"note: {structure.name}: written as mmCIF, for {why}, and PDB has no room")
            ending = "cif"
        folder = self.options.out / STRUCTURES
        for of, names in zip(designs, design_names(designs), strict=True):
            for name, sequence, b_factor in zip(
                names, of.sequences, of.residue_confidence, strict=True
            ):
                write_structure(folder / f"{name}.{ending}", structure, sequence, b_factor)

    def _pack(self, packing: Packing, designs: Sequence[mpnn.Designs]) -> Path | None:
        """Write the packed models; that of the design of the best score."""
        import numpy as np

        from mpnn_core.design.table import design_names

        best: tuple[float, Path] | None = None
        for of, names in zip(designs, design_names(designs), strict=True):
            written = list(packing.write(of.structure, names, of.sequences, of.seed, of.designed))
            overlaps = [count for _, count, _ in written]
            if len(of):
                i = int(np.argmin(of.scores))
                model = float(of.scores[i]), written[i * len(written) // len(of)][0]
                best = model if best is None else min(best, model)
            if sum(overlaps):
                complain(
                    f"note: {of.structure.name}: {sum(overlaps)} pairs of atoms overlap in "
                    f"{len(overlaps)} packed models"
                )
        return None if best is None else best[1]

    def finish(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write the table, of these rows, and the page, of the structures that were designed."""
        self.page.write()
        if self.options.table is not None:
            from mpnn_core.design.table import write_table

            write_table(self.options.table, rows)


class Page:
    """Collects what is shown on the page that `--page` names, and writes it; None shows nothing.

    Raises
    ------
    CallError
        Nothing can be written there.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.items: list[Any] = []
        self.models: list[Path | None] = []
        self.left_out = 0
        if path is not None:
            if path.suffix != ".html":
                raise CallError(f"--page {path}: expected a name that ends in .html")
            check_outputs([path.absolute().parent], [path], "--page")

    def add(self, item: Any, model: Path | None = None) -> None:
        """Show the designs of a structure, or a scan, if there is still room; `model` is drawn."""
        if self.path is None:
            return
        from mpnn_core.pages.page import MOST_STRUCTURES

        if len(self.items) < MOST_STRUCTURES:
            self.items.append(item)
            self.models.append(model)
        else:
            self.left_out += 1

    def write(self) -> None:
        """Write the page, and say what is not on it."""
        if self.path is None or not self.items:
            return
        from mpnn_core.pages.page import write_page

        write_page(self.path, self.items, models=self.models)
        if self.left_out:
            complain(
                f"note: {self.path} shows the first {len(self.items)} structures; "
                f"{self.left_out} more are not on it"
            )


def _count(designs: Iterable[mpnn.Designs]) -> int:
    return sum(map(len, designs))


def _say(name: str, count: int, of: int, what: str) -> None:
    if count:
        complain(f"note: {name}: left out {count} of {of} designs, which {what}")
