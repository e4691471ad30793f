"""`mpnn-core score`: how well sequences fit backbones, as a table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import mpnn_core as mpnn
from mpnn_core.commands.constraints import Constraining, add_constraint_options
from mpnn_core.commands.options import (
    CallError,
    add_input_options,
    complain_of,
    constraints_of,
    exit_code,
    model_of,
    number,
    progress,
    structure_paths,
)
from mpnn_core.commands.surroundings import Reader, add_surroundings_options

CONFIDENCES = ("overall_confidence", "ligand_confidence")


def add_parser(commands: Any) -> None:
    """Add the command to `mpnn-core`."""
    score = commands.add_parser(
        "score", help="score sequences on backbones: mean negative log-probability, tab-separated",
        description="Print a tab-separated table of the mean negative log-probability of sequences "
        "on backbones, over the designed residues (score) and over all residues (global_score). "
        "Models that see ligands have two more columns: exp(-score), and the same over the "
        "designed residues near a ligand.",
    )  # fmt: skip
    add_input_options(score)
    add_constraint_options(score)
    add_surroundings_options(score)
    score.add_argument(
        "--fasta", type=Path, metavar="FILE",
        help="sequences to score on one structure, chains joined by '/' in the order of the "
        "structure, or of designed_chains in the first title (default: the native sequence)",
    )  # fmt: skip
    score.add_argument(
        "--num-orders", type=number(int, 1), default=10, metavar="N",
        help="random decoding orders to average over (default: 10)",
    )  # fmt: skip
    score.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a row per structure and sequence."""
    from mpnn_core.structures.fasta import read_sequences
    from mpnn_core.structures.files import output_name

    files = structure_paths(options.files)
    if options.fasta is not None and len(files) > 1:
        raise CallError(f"--fasta scores sequences on one structure; {len(files)} were given")
    model = model_of(options)
    constraining = Constraining(options, mpnn.Constraints(**constraints_of(options)), files)
    read = Reader(options, model, files)
    failures = 0
    more = CONFIDENCES if read.sees_ligands else ()
    print("structure", "sequence", "score", "global_score", "orders", *more, sep="\t")
    with progress(len(files), prints=True) as advance:
        for file in files:
            try:
                structure = read(file)
                constraints = constraining(structure, file)
                constraints.check(structure)
                records = [("native", structure.sequence)]
                if options.fasta is not None:
                    chains = constraints.design_chains(structure)
                    records = read_sequences(options.fasta, structure, chains)
                scores = model.score(
                    structure, [sequence for _, sequence in records], constraints,
                    options.num_orders, options.seed or 0, options.common_random_numbers,
                )  # fmt: skip
                means = scores.score.mean(1), scores.global_score.mean(1)
                confidences: list[tuple[float, ...]] = [()] * len(records)
                if scores.ligand_confidence is not None:
                    both = scores.confidence.tolist(), scores.ligand_confidence.tolist()
                    confidences = list(zip(*both, strict=True))
                for (title, _), score, global_score, of_ligand in zip(
                    records, *means, confidences, strict=True
                ):
                    label = " ".join(title.split())  # a tab would add a column
                    print(
                        output_name(structure.name), label, f"{score:.4f}", f"{global_score:.4f}",
                        options.num_orders, *(f"{value:.4f}" for value in of_ligand),
                        sep="\t", flush=True,
                    )  # fmt: skip
            except BrokenPipeError:  # nobody reads any further
                raise
            # Whatever is wrong with a file, the others are scored.
            except Exception as error:
                complain_of(file, error)
                failures += 1
            advance(1)
    return exit_code(failures, len(files))
