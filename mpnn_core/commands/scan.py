"""`mpnn-core scan`: how likely every mutation is, as a table."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mpnn_core as mpnn
from mpnn_core.commands.constraints import Constraining, add_constraint_options
from mpnn_core.commands.options import (
    CallError,
    add_input_options,
    check_outputs,
    complain,
    complain_of,
    constraints_of,
    exit_code,
    model_of,
    number,
    progress,
    structure_paths,
)
from mpnn_core.commands.outcome import Page
from mpnn_core.commands.surroundings import Reader, add_surroundings_options

MUTANT_COLUMNS: dict[str, type] = {
    "structure": str, "mutations": str, "n_mutations": int, "logit_difference": float,
}  # fmt: skip


def add_parser(commands: Any) -> None:
    """Add the command to `mpnn-core`."""
    scan = commands.add_parser(
        "scan", help="how likely every mutation is, given all other residues: a table",
        description="Print a row for each residue and amino acid: logit_difference is the "
        "log-probability of the amino acid less that of the present one, given the backbone and "
        "all other residues; above 0 the network prefers the mutation. The columns pre, post, pos "
        "and logit_difference, and their signs, are those of proteinmpnn_ddg. These are no "
        "energies: they have no unit, and no experiment calibrates them.",
    )  # fmt: skip
    add_input_options(scan)
    add_constraint_options(scan)
    add_surroundings_options(scan)
    method = scan.add_mutually_exclusive_group()
    method.add_argument(
        "--method", choices=("conditional", "tied", "unconditional"), default="conditional",
        help="what a residue is given: the backbone and all other residues in an order drawn from "
        "the seed; the same in orders that residues share, the scheme of proteinmpnn_ddg; or the "
        "backbone alone (default: conditional)",
    )  # fmt: skip
    method.add_argument(
        "--unconditional", action="store_const", dest="method", const="unconditional",
        help="the same as --method unconditional",
    )  # fmt: skip
    scan.add_argument(
        "--orders", type=number(int, 1), default=1, metavar="N",
        help="orders of the other residues to average over (default: 1)",
    )  # fmt: skip
    apart = scan.add_mutually_exclusive_group()
    apart.add_argument(
        "--split", metavar="A/B",
        help="what mutations change between groups of chains, as A/B or AC,D/B with commas between "
        "the chains of a group: the complex less the groups apart",
    )  # fmt: skip
    apart.add_argument(
        "--subtract-monomer", action="store_true",
        help="the same with every chain apart from the others",
    )  # fmt: skip
    scan.add_argument(
        "--single-residue-correction", action="store_true",
        help="a column logit_difference_ddg as well: logit_difference less that of the residue by "
        "itself, without any neighbour, as in proteinmpnn_ddg",
    )  # fmt: skip
    scan.add_argument(
        "--mutations", type=Path, metavar="FILE",
        help="print a row for each line of a text file instead, one mutation or several that come "
        "together: A:K13A,A:L20V, or A13:K>A A20:L>V as in tables of designs",
    )  # fmt: skip
    scan.add_argument(
        "--table", type=Path, metavar="FILE",
        help="write FILE.csv or FILE.parquet (default: print CSV)",
    )  # fmt: skip
    scan.add_argument(
        "--page", type=Path, metavar="FILE",
        help="write FILE.html as well: a map of residues and letters, a table and the structure, "
        "in one file that needs no network; of many structures the first 50",
    )  # fmt: skip
    scan.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the rows of each structure, as many in one call of the model as it computes well."""
    from mpnn_core.design.isolation import isolated
    from mpnn_core.design.scan import APART, COLUMNS, CORRECTED, parse_mutations
    from mpnn_core.design.table import TableError, TableWriter, check_table
    from mpnn_core.training.corpus import batched

    split = _split(options)
    lines = _lines(options)
    if options.method == "unconditional" and "orders" in options.given:
        raise CallError("--orders: --unconditional knows no residue, so no order; leave it out")
    if options.table is not None:
        try:
            check_table(options.table)
        except TableError as error:
            raise CallError(f"--table: {error}") from None
        check_outputs([options.table.absolute().parent], [options.table], "--table")
    page = Page(options.page)
    files = structure_paths(options.files)
    model = model_of(options)
    constraining = Constraining(options, mpnn.Constraints(**constraints_of(options)), files)
    read = Reader(options, model, files)
    seed, failures = options.seed or 0, 0
    file_of: dict[mpnn.Structure, Path] = {}
    of_structure: dict[mpnn.Structure, mpnn.Constraints] = {}
    columns = COLUMNS | (APART if split is not None else {})
    columns |= CORRECTED if options.single_residue_correction else {}
    if lines is not None:
        columns = MUTANT_COLUMNS
    table = TableWriter(options.table, columns)

    def scanned(structures: Sequence[mpnn.Structure]) -> Iterator[dict[str, list[Any]]]:
        given = [of_structure[structure] for structure in structures]
        if lines is None:
            for scan in model.scan(
                structures, None, options.method, options.orders, seed,
                options.common_random_numbers, given, split, options.single_residue_correction,
            ):  # fmt: skip
                _say_what_is_left_out(scan, of_structure[scan.structure])
                page.add(scan)
                yield scan.table()
            return
        for structure, constraints in zip(structures, given, strict=True):
            differences = model.score_mutations(
                structure, lines, options.orders, seed, options.common_random_numbers, constraints
            )
            yield {
                "structure": [structure.name] * len(lines),
                "mutations": lines,
                "n_mutations": [len(parse_mutations(line, structure)) for line in lines],
                "logit_difference": [round(float(d), 5) for d in differences],
            }

    with progress(len(files), prints=options.table is None) as advance:

        def give_up(file: Path, error: Exception) -> None:
            nonlocal failures
            complain_of(file, error)
            failures += 1
            advance(1)

        def usable() -> Iterator[mpnn.Structure]:
            for file in files:
                try:
                    structure = model.network.readable(read(file))
                    own = constraining(structure, file)
                    own.check(structure)
                # Whatever is wrong with a file, the others are scanned.
                except Exception as error:
                    give_up(file, error)
                else:
                    file_of[structure], of_structure[structure] = file, own
                    yield structure

        try:
            for structures in batched(usable(), options.orders):
                for structure, rows in isolated(scanned, structures):
                    file = file_of.pop(structure)
                    if isinstance(rows, Exception):
                        give_up(file, rows)
                    else:
                        table.write(rows)
                        advance(1)
                    del of_structure[structure]
        finally:  # what was scanned is kept, whatever ends the run
            table.close()
            page.write()
    return exit_code(failures, len(files))


def _split(options: argparse.Namespace) -> list[list[str]] | None:
    """Groups of chains that are taken apart; [] is every chain, None is none."""
    if options.subtract_monomer:
        split: list[list[str]] | None = []
    elif options.split is None:
        split = None
    else:
        split = [[c.strip() for c in group.split(",")] for group in options.split.split("/")]
        if len(split) < 2 or not all(all(group) for group in split):
            raise CallError(
                f"--split {options.split!r}: expected groups of chains, as A/B or A,C/B"
            )
    if options.mutations is not None:
        for given, option in (
            (split is not None, "--split and --subtract-monomer"),
            (options.method != "conditional", "--method"),
            (options.single_residue_correction, "--single-residue-correction"),
            (options.page is not None, "--page"),
        ):
            if given:
                raise CallError(f"{option}: not for --mutations, which are scored together")
    return split


def _lines(options: argparse.Namespace) -> list[str] | None:
    """The lines of the file of mutations; None where there is none."""
    if options.mutations is None:
        return None
    try:
        text = options.mutations.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CallError(f"--mutations {options.mutations}: not read: {reason}") from None
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise CallError(f"--mutations {options.mutations}: it has no line with a mutation")
    return lines


def _say_what_is_left_out(scan: Any, constraints: mpnn.Constraints) -> None:
    """Name the residues that were to be scanned and have no rows."""
    import numpy as np

    from mpnn_core.sampling.labels import label
    from mpnn_core.structures.structure import shown_items

    structure = scan.structure
    asked = constraints.asked_for(structure)
    known = structure.mask & (np.array(list(scan.sequence)) != "X")
    for left_out, why in (
        (asked & ~known, "for an incomplete backbone or no letter"),
        (asked & known & ~scan.scanned, "for their chain is in no group of --split"),
    ):
        rows = left_out.nonzero()[0].tolist()
        if rows:
            complain(
                f"note: {structure.name}: {len(rows)} residues have no rows, {why}: "
                f"{shown_items([label(structure, row) for row in rows])}"
            )
