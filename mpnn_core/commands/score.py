"""`mpnn-core score`: how well sequences fit backbones, as a table."""

from __future__ import annotations

import argparse
import sys
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

RESIDUE_TABLES = {
    "per-residue": "print a row per residue instead: negative log-probability and entropy, under "
    "the same orders",
    "unconditional": "print a row per residue: its probabilities know the backbone alone",
    "conditional": "print a row per residue: its probabilities know the backbone and all other "
    "residues; under one order of these unless --num-orders is given",
}
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
    of_residues = score.add_mutually_exclusive_group()
    for mode, what in RESIDUE_TABLES.items():
        of_residues.add_argument(f"--{mode}", action="store_true", help=what)
    score.add_argument(
        "--log-probs", action="store_true",
        help="add the log-probabilities of all letters to a table of residues, logp_A to logp_X",
    )  # fmt: skip
    score.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a row per structure and sequence."""
    from mpnn_core.structures.fasta import read_sequences
    from mpnn_core.structures.files import output_name

    mode = next((m for m in RESIDUE_TABLES if vars(options)[m.replace("-", "_")]), None)
    if options.log_probs and mode is None:
        raise CallError(
            "--log-probs is of a table of residues; give --"
            f"{', --'.join(RESIDUE_TABLES)} as well".replace(", --cond", " or --cond")
        )
    if options.unconditional and "num_orders" in options.given:
        raise CallError("--num-orders: --unconditional knows no residue, so no order; leave it out")
    files = structure_paths(options.files)
    if options.fasta is not None and len(files) > 1:
        raise CallError(f"--fasta scores sequences on one structure; {len(files)} were given")
    model = model_of(options)
    constraining = Constraining(options, mpnn.Constraints(**constraints_of(options)), files)
    read = Reader(options, model, files)
    failures = 0
    more = CONFIDENCES if read.sees_ligands else ()
    if mode is None:
        print("structure", "sequence", "score", "global_score", "orders", *more, sep="\t")
    else:
        print(*residue_columns(options.log_probs), sep="\t")
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
                if mode is not None:
                    _print_residues(options, model, structure, constraints, records, mode)
                    advance(1)
                    continue
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


def residue_columns(log_probs: bool) -> list[str]:
    """The columns of a table of residues."""
    letters = [f"logp_{letter}" for letter in mpnn.ALPHABET] if log_probs else []
    known = ["structure", "sequence", "chain", "residue", "letter", "designed", "nll", "entropy"]
    return known + letters


def _print_residues(
    options: argparse.Namespace,
    model: mpnn.Model,
    structure: mpnn.Structure,
    constraints: mpnn.Constraints,
    records: list[tuple[str, str]],
    mode: str,
) -> None:
    """A row for each residue of each sequence; means over the orders. A residue whose backbone is
    incomplete has no numbers."""
    import numpy as np

    from mpnn_core.structures.files import output_name

    designed = constraints.designed(structure)
    orders = mode == "per-residue" or "num_orders" in getattr(options, "given", ())
    count = options.num_orders if orders else 1
    for title, sequence in records:
        log_probs = _log_probs(options, model, structure, constraints, sequence, mode, count)
        entropy = -(np.exp(log_probs) * log_probs).sum(-1).mean(0)  # (L,)
        mean = log_probs.mean(0)  # (L, 21)
        for i, letter in enumerate(sequence):
            values = [-mean[i, mpnn.ALPHABET.index(letter)], entropy[i]]
            if options.log_probs:
                values += mean[i].tolist()
            known = structure.mask[i]
            print(
                output_name(structure.name), " ".join(title.split()), structure.chain_ids[i],
                structure.residue_numbers[i], letter, int(designed[i]),
                *(f"{value:.4f}" if known else "" for value in values),
                sep="\t",
            )  # fmt: skip
    sys.stdout.flush()


def _log_probs(
    options: argparse.Namespace,
    model: mpnn.Model,
    structure: mpnn.Structure,
    constraints: mpnn.Constraints,
    sequence: str,
    mode: str,
    orders: int,
) -> Any:
    """Log-probabilities under each of some orders, (orders, L, 21) float64."""
    import numpy as np

    from mpnn_core.design.arguments import digests_of
    from mpnn_core.sampling.orders import drawn_orders

    if mode == "unconditional":
        return model.unconditional_log_probs(structure)[None].astype(np.float64)
    (name,) = digests_of([structure], options.common_random_numbers)
    drawn = drawn_orders(options.seed or 0, orders, constraints.designed(structure), name)
    compute = model.log_probs if mode == "per-residue" else model.conditional_log_probs
    return compute(structure, sequence, drawn, constraints=constraints).astype(np.float64)
