"""`mpnn-core design`: sequences for backbones, as FASTA."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mpnn_core as mpnn
from mpnn_core.commands.at_residues import (
    add_residue_options,
    biases_of,
    number_in,
    profiles_of,
    temperatures_at,
    tied_of,
)
from mpnn_core.commands.constraints import Constraining, add_constraint_options
from mpnn_core.commands.options import (
    CallError,
    add_input_options,
    check_outputs,
    complain_of,
    constraints_of,
    exit_code,
    model_of,
    number,
    numbers,
    pairs,
    progress,
    structure_paths,
)
from mpnn_core.commands.outcome import Outcome, add_outcome_options
from mpnn_core.commands.states import add_state_options, refuse_without_states, run_states
from mpnn_core.commands.surroundings import Reader, add_surroundings_options

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
        help="the folder to write: DIR/seqs/NAME.fa for each structure, replaced if it exists; "
        "- prints the FASTA instead",
    )  # fmt: skip
    design.add_argument(
        "--save-probs", action="store_true",
        help="write DIR/probs/NAME.npz as well: probabilities, log-probabilities and decoding "
        "orders, and the confidences of a model that sees ligands",
    )  # fmt: skip
    add_outcome_options(design)
    design.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Design all files, as many in one call of the model as it computes well together."""
    from mpnn_core.design.isolation import isolated
    from mpnn_core.structures.containers import structure_name
    from mpnn_core.structures.files import output_name
    from mpnn_core.training.corpus import batched

    if options.state:
        return run_states(options, design_constraints(options), profiles_of(options))
    refuse_without_states(options)
    prints = options.out == STANDARD_OUTPUT
    if prints and options.save_probs:
        raise CallError("--save-probs writes files; give --out a folder instead of -")
    files = structure_paths(options.files)
    model = model_of(options)
    constraints = Constraining(options, design_constraints(options), files)
    profiles = profiles_of(options)
    read = Reader(options, model, files)
    outcome = Outcome(options, prints)
    if not prints:
        folders = {"seqs": ".fa"} | ({"probs": ".npz"} if options.save_probs else {})
        check_outputs(
            [options.out / folder for folder in folders],
            [
                options.out / folder / f"{output_name(structure_name(file))}{ending}"
                for file in files
                for folder, ending in folders.items()
            ],
        )
    seed = secrets.randbits(32) if options.seed is None else options.seed
    file_of: dict[mpnn.Structure, Path] = {}
    of_structure: dict[mpnn.Structure, mpnn.Constraints] = {}
    failures = 0

    def designs(structures: Sequence[mpnn.Structure]) -> Iterator[Any]:
        return model.design_and_score(
            structures, options.num_sequences, options.temperature or [0.1], seed,
            [of_structure[structure] for structure in structures],
            None if options.orders == "random" else options.orders,
            options.common_random_numbers, options.backbone_noise,
        )  # fmt: skip

    with progress(len(files), prints) as advance:

        def give_up(file: Path, error: Exception, undone: str = "") -> None:
            nonlocal failures
            complain_of(file, error, undone)
            failures += 1
            advance(1)

        def usable() -> Iterator[mpnn.Structure]:
            for file in files:
                try:
                    structure = read(file)
                    own = constraints(structure, file)
                    if profiles is not None and own.pssm is not None:
                        raise mpnn.ConstraintError(
                            f"{structure.name}: a PSSM is stated by --constraints and by --pssm; "
                            "expected one of them"
                        )
                    if profiles is not None:
                        own = replace(own, pssm=profiles.of(structure))
                    own.check(structure)
                # Whatever is wrong with a file, the others are designed.
                except Exception as error:
                    give_up(file, error)
                else:
                    file_of[structure], of_structure[structure] = file, own
                    yield structure

        for structures in batched(usable(), options.num_sequences):
            for structure, result in isolated(designs, structures):
                file = file_of.pop(structure)
                del of_structure[structure]
                if isinstance(result, Exception):
                    give_up(file, result)
                    continue
                try:
                    made, native = result
                    kept = outcome.chosen(made)
                    _write(options, kept, native)
                    outcome.write(file, kept)
                except BrokenPipeError:  # nobody reads any further
                    raise
                except Exception as error:
                    give_up(file, error, f"cannot write the designs of {structure.name}")
                else:
                    advance(1)
    outcome.finish()
    return exit_code(failures, len(files))


def design_constraints(options: argparse.Namespace) -> mpnn.Constraints:
    """The constraints that the options state. Small letters are capitals."""
    from mpnn_core.sampling.constraints import letter_index, letter_indices

    omit_at: dict[int | str, str] = {}
    for at, letters in pairs(options.omit_at, "--omit-at"):
        omit_at[at] = f"{omit_at[at]},{letters.upper()}" if at in omit_at else letters.upper()
    bias: dict[str, float] = {}
    for given, value in pairs(options.bias, "--bias"):
        for letter in given.upper().split(","):
            bias[letter] = bias.get(letter, 0.0) + number_in(value, "--bias", "bias")
    omit = ",".join([*options.omit, "X"]).upper()
    for option, of, values in (
        ("--omit", letter_indices, [omit]),
        ("--omit-at", letter_indices, omit_at.values()),
        ("--bias", letter_index, bias),
    ):
        for value in values:
            try:
                of(value)
            except mpnn.ConstraintError as error:
                raise CallError(f"{option}: {error}") from None
    return mpnn.Constraints(
        **constraints_of(options),
        omit=omit,
        omit_at=omit_at,
        tied=tied_of(options.tied),
        tied_chains=options.tied_chains,
        bias=bias,
        bias_at=biases_of(options.bias_at),
        temperature_at=temperatures_at(options.temperature_at),
    )


def _write(
    options: argparse.Namespace,
    designs: Sequence[mpnn.Designs],
    native: mpnn.Scores,
) -> None:
    """Write the designs of one structure, those at each temperature."""
    import numpy as np

    from mpnn_core.design.results import format_designs
    from mpnn_core.structures.files import output_name, write_atomically

    text = format_designs(designs, native, mpnn.__version__)
    if options.out == STANDARD_OUTPUT:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    structure = designs[0].structure
    name = output_name(structure.name)
    if options.save_probs:
        letters = [sequence for at in designs for sequence in at.sequences]
        confidences: dict[str, Any] = {
            f"{kind}_confidence": np.concatenate([getattr(at, name) for at in designs])
            for kind, name in (("overall", "confidence"), ("ligand", "ligand_confidence"))
            if designs[0].ligand_confidence is not None
        }
        write_atomically(
            options.out / "probs" / f"{name}.npz",
            lambda file: np.savez_compressed(
                file,
                probs=np.concatenate([at.probabilities for at in designs]),
                log_probs=np.concatenate([at.log_probs for at in designs]),
                S=np.array([[mpnn.ALPHABET.index(a) for a in s] for s in letters]),
                decoding_order=np.concatenate([at.decoding_order for at in designs]),
                mask=structure.mask,
                designed=designs[0].designed,
                chain_ids=structure.chain_ids,
                residue_numbers=structure.residue_numbers,
                alphabet=np.array(list(mpnn.ALPHABET)),
                **confidences,
            ),
        )
    # The FASTA file is written last: where it exists, the other file does too.
    write_atomically(options.out / "seqs" / f"{name}.fa", lambda file: file.write(text.encode()))
