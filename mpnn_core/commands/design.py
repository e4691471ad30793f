"""`mpnn-core design`: sequences for backbones, as FASTA."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mpnn_core.commands.at_residues import (
    add_residue_options,
    profiles_of,
)
from mpnn_core.commands.constraints import add_constraint_options
from mpnn_core.commands.options import (
    add_input_options,
    number,
    numbers,
)
from mpnn_core.commands.outcome import add_outcome_options
from mpnn_core.commands.states import add_state_options, refuse_without_states, run_states
from mpnn_core.commands.surroundings import add_surroundings_options

ORDERS = ("random", "coloured")
STANDARD_OUTPUT = Path("-")


def add_parser(commands: Any) -> None:
    """Add the command to `mpnn-core`."""
    design = commands.add_parser(
        "design", help="design sequences for backbones",
        description="Design sequences for protein backbones, as ProteinMPNN does.",
    )  # fmt: skip
    add_input_options(design, files="*")
    add_state_options(design)
    add_constraint_options(design)
    add_surroundings_options(design)
    design.add_argument(
        "-n", "--num-sequences", type=number(int, 1), default=1, metavar="N",
        help="sequences per structure, at each temperature (default: 1)",
    )  # fmt: skip
    design.add_argument(
        "-T", "--temperature", type=numbers(0), action="extend", metavar="T",
        help="sampling temperature, or several, such as 0.1,0.2; 0 takes the likeliest residue; "
        "repeatable (default: 0.1)",
    )  # fmt: skip
    design.add_argument(
        "--omit", action="append", default=[], metavar="LETTERS",
        help="amino acids that are never drawn, such as C or CM; X never is; repeatable",
    )  # fmt: skip
    design.add_argument(
        "--omit-at", action="append", default=[], metavar="POSITIONS=LETTERS",
        help="amino acids that are never drawn at some positions, such as A10-20=CP; repeatable",
    )  # fmt: skip
    design.add_argument(
        "--bias", action="append", default=[], metavar="LETTER=VALUE",
        help="a number added to the logit of an amino acid at all positions, such as W=-1.5; "
        "repeatable: numbers for one amino acid add up",
    )  # fmt: skip
    design.add_argument(
        "--tied", action="append", default=[], metavar="POSITIONS",
        help="positions that all get the same amino acid, such as A10,B10; ranges, such as "
        "A1-20,B1-20, are tied residue by residue; with weights of their logits, A1=1,B1=-0.5, of "
        "which negative ones design against a position; repeatable, a group each",
    )  # fmt: skip
    design.add_argument(
        "--tied-chains", action="append", default=[], metavar="A,B",
        help="chains of a homo-oligomer: residues with the same author number get the same amino "
        "acid; in their order if no number is in two chains; repeatable, an oligomer each",
    )  # fmt: skip
    add_residue_options(design)
    design.add_argument(
        "--backbone-noise", type=number(float, 0), default=0.0, metavar="SIGMA",
        help="standard deviation, in Å, of Gaussian noise on every coordinate, drawn for each "
        "sequence from the seed, such as 0.02 (default: 0)",
    )  # fmt: skip
    design.add_argument(
        "--orders", choices=ORDERS, default=ORDERS[0],
        help="decoding orders: random, as in ProteinMPNN, or coloured, which need about half the "
        "decoding steps and are not distributed as the random ones are (default: random)",
    )  # fmt: skip
    design.add_argument(
        "--out", type=Path, required=True, metavar="DIR",
        help="the folder to write: DIR/seqs/NAME.fa for each structure, and DIR/run, by which the "
        "same call continues a run that ended; - prints the FASTA instead",
    )  # fmt: skip
    design.add_argument(
        "--format", choices=("fasta", "parquet"),
        help="a FASTA file for each structure, or DIR/designs/part-00000.parquet and on, a row for "
        "each design (default: parquet for more than 10,000 structures)",
    )  # fmt: skip
    design.add_argument(
        "--workers", type=number(int, 1), metavar="N",
        help="processes that read, design and write (default: of many structures one for each 4 "
        "cores, or up to 8 for each GPU with --device cuda; otherwise one)",
    )  # fmt: skip
    design.add_argument(
        "--cluster", metavar="local|auto|ADDRESS",
        help="design with the actors of a Ray cluster, --workers of them: one on this machine, the "
        "one that this machine is of, or another; all nodes must see the inputs and --out "
        "(default: none)",
    )  # fmt: skip
    design.add_argument(
        "--shard", metavar="I/N",
        help="design the I-th of N parts of the structures, which is chosen by their content; the "
        "other parts are for other machines, and mpnn-core merge joins them",
    )  # fmt: skip
    design.add_argument(
        "--restart", action="store_true",
        help="begin again in a folder that has a run (default: continue it)",
    )  # fmt: skip
    design.add_argument(
        "--save-probs", action="store_true",
        help="write DIR/probs/NAME.npz as well: probabilities, log-probabilities and decoding "
        "orders, and the confidences of a model that sees ligands",
    )  # fmt: skip
    add_outcome_options(design)
    design.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Design all files, or one sequence for several states."""
    from mpnn_core.commands.designing import design_constraints, run_design

    if options.state:
        return run_states(options, design_constraints(options), profiles_of(options))
    refuse_without_states(options)
    design_constraints(options)  # what is wrong with them is said before anything is read
    profiles_of(options)
    return run_design(options)
