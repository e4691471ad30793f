"""`mpnn-core design --state A --state B`: one sequence for several states of a protein."""

from __future__ import annotations

import argparse
import secrets
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mpnn_core as mpnn
from mpnn_core.commands.at_residues import Profiles
from mpnn_core.commands.constraints import add_constraint_options
from mpnn_core.commands.options import (
    CallError,
    check_outputs,
    complain_of,
    model_of,
    numbers,
    structure_paths,
)
from mpnn_core.commands.outcome import add_outcome_options
from mpnn_core.commands.surroundings import Reader

if TYPE_CHECKING:
    from mpnn_core.design.states import StateDesigns

UNREAD = (add_constraint_options, add_outcome_options)
"""What adds the options that are not for several states."""

COMBINE = ("mean", "sum")  # of design.states.COMBINATIONS, which needs numpy


def add_state_options(command: argparse.ArgumentParser) -> None:
    """The options that state several states."""
    command.add_argument(
        "--state", action="append", type=Path, default=[], metavar="FILE",
        help="a state of a protein, instead of FILE; repeatable: residues of equal chain and "
        "author number get one amino acid over all states, and one sequence is written for them",
    )  # fmt: skip
    command.add_argument(
        "--combine", choices=COMBINE,
        help="how the logits of the states become one: their weighted mean, or their weighted "
        "sum, which multiplies the probabilities of the states (default: mean)",
    )  # fmt: skip
    command.add_argument(
        "--state-weights", type=numbers(-(2**63)), metavar="W,W",
        help="a weight for each state, such as 1,-0.5; a negative one designs against it; with "
        "an equals sign where the first is negative, --state-weights=-0.5,1 (default: 1 each)",
    )  # fmt: skip


def refuse_without_states(options: argparse.Namespace) -> None:
    """Refuse a call without files, or with options of states."""
    if not options.files:
        raise CallError("no structure is given; expected FILE, or --state FILE for each state")
    for name in ("combine", "state_weights"):
        if getattr(options, name) is not None:
            raise CallError(f"--{name.replace('_', '-')} is of several states; give --state FILE")


def _refuse_with_states(options: argparse.Namespace) -> None:
    """Refuse the options that would do nothing."""
    others = argparse.ArgumentParser(add_help=False)
    for add in UNREAD:
        add(others)
    changed = {
        action.option_strings[-1]
        for action in others._actions
        if getattr(options, action.dest) != action.default
    }
    for given, option in ((options.save_probs, "--save-probs"),
                          (options.orders != "random", "--orders"),
                          (options.common_random_numbers, "--common-random-numbers")):  # fmt: skip
        if given:
            changed.add(option)
    if changed:
        raise CallError(
            f"{', '.join(sorted(changed))}: not for several states; in Python there is "
            "Model.design_states"
        )


def run_states(
    options: argparse.Namespace, constraints: mpnn.Constraints, profiles: Profiles | None
) -> int:
    """Design one sequence for the states that the options name."""
    from mpnn_core.design.states import States, checked_combination
    from mpnn_core.selecting.selections import rows_or_labels
    from mpnn_core.structures.containers import structure_name
    from mpnn_core.structures.files import output_name, write_atomically

    if options.files:
        raise CallError(f"{options.files[0]} is given beside --state; expected --state FILE alone")
    _refuse_with_states(options)
    files = structure_paths(options.state)
    combine = options.combine or COMBINE[0]
    try:
        checked_combination(combine, options.state_weights, len(files))
    except ValueError as error:
        raise CallError(f"--state-weights: {error}") from None
    model = model_of(options)
    read = Reader(options, model, files)
    name = output_name("+".join(structure_name(file) for file in files))
    prints = options.out == Path("-")
    path = options.out / "seqs" / f"{name}.fa"
    if not prints:
        check_outputs([path.parent], [path])
    structures = []
    for file in files:
        try:
            structures.append(read(file))
        except Exception as error:  # said as of any file
            complain_of(file, error)
            return 1
    seed = secrets.randbits(32) if options.seed is None else options.seed
    try:
        labelled = States.from_structures(structures).labelled
        constraints = replace(
            constraints,
            fixed=rows_or_labels(labelled, constraints.fixed) or (),
            redesigned=rows_or_labels(labelled, constraints.redesigned),
            pssm=None if profiles is None else profiles.of(labelled),
        )
        designs = [
            model.design_states(
                structures, options.num_sequences, temperature, seed, constraints, combine,
                options.state_weights, backbone_noise=options.backbone_noise,
            )
            for temperature in options.temperature or [0.1]
        ]  # fmt: skip
    except Exception as error:  # whatever it is, it is of these files
        complain_of(files[0], error, f"cannot design {name}")
        return 1
    text = format_states(designs, mpnn.__version__)
    if prints:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        write_atomically(path, lambda file: file.write(text.encode()))
    return 0


def format_states(designs: list[StateDesigns], version: str) -> str:
    """The text of a FASTA file: the native sequence, then each design, scored in each state."""
    from mpnn_core.structures.fasta import chain_sequences, title_line
    from mpnn_core.structures.files import output_name

    first = designs[0]
    structure, chains = first.structure, first.joint.design_chains
    states = [state.name for state in first.states.structures]
    weights = ",".join(f"{weight:g}" for weight in first.weights)
    header = (
        f"{output_name(structure.name)}, states={states}, combine={first.combine}, "
        f"weights=[{weights}], fixed_chains={[c for c in structure.chains if c not in chains]}, "
        f"designed_chains={list(chains)}, model_name={first.joint.model_name}, "
        f"mpnn_core={version}, seed={first.joint.seed}"
    )
    lines = [title_line(header), chain_sequences(structure, structure.sequence, chains)]
    for at in designs:
        for i, sequence in enumerate(at.sequences):
            of_states = ", ".join(
                f"{field}_{s + 1}={values[i, s]:.4f}"
                for s in range(len(states))
                for field, values in (
                    ("score", at.scores), ("global_score", at.global_scores),
                    ("seq_recovery", at.recovery),
                )
            )  # fmt: skip
            temperature: Any = at.joint.temperature
            lines += [
                f">T={temperature:g}, sample={i + 1}, score={at.joint.scores[i]:.4f}, {of_states}",
                chain_sequences(structure, sequence, chains),
            ]
    return "\n".join(lines) + "\n"
