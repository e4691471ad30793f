"""`mpnn-core design` and `mpnn-core score`."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Iterator, Sequence

import numpy as np

import mpnn_core as mpnn
from mpnn_core.commands.options import (
    CallError,
    _files,
    _float,
    _model,
    _pairs,
    _positions,
    _progress,
    _verdict,
    complain,
)
from mpnn_core.design.model import RANDOM
from mpnn_core.design.results import format_designs
from mpnn_core.structures.fasta import FastaError, read_sequences
from mpnn_core.structures.files import write_atomically
from mpnn_core.training.corpus import batches


def run_design(options: argparse.Namespace) -> int:
    """`mpnn-core design`."""
    files, model = _files(options.files), _model(options)
    constraints = mpnn.Constraints(
        chains=options.chains,
        fixed=_positions(options.fixed),
        omit=options.omit.upper() + "X",
        omit_at={at: letters.upper() for at, letters in _pairs(options.omit_at, "--omit-at")},
        tied=[_positions([group]) for group in options.tied],
        tied_chains=_positions([options.tied_chains]),
        bias={letter: _float(value, "--bias") for letter, value in _pairs(options.bias, "--bias")},
    )
    seed = secrets.randbits(32) if options.seed is None else options.seed
    failures = 0
    with _progress(len(files)) as advance:

        def usable() -> Iterator[mpnn.Structure]:
            nonlocal failures
            for file in files:
                try:
                    structure = mpnn.read_structure(file)
                    constraints.check(structure)
                    yield structure
                except mpnn.StructureError as error:
                    complain(str(error))
                except mpnn.ConstraintError as error:
                    complain(f"{file}: {error}")
                else:
                    continue
                failures += 1
                advance(1)

        for structures in batches(usable(), options.num_sequences):
            waiting = [structure.name for structure in structures]
            try:
                at_each = [
                    model.design(
                        structures, options.num_sequences, temperature, seed, constraints,
                        None if options.orders == RANDOM else options.orders,
                    )
                    for temperature in options.temperature or [0.1]
                ]  # fmt: skip
                for designs in zip(*at_each, strict=True):
                    native = model.score(designs[0].structure, None, constraints, seed=seed)
                    _write(options, designs, native)
                    waiting.pop(0)
                    advance(1)
            # Out of memory, disk full, a length that the backend has no bucket for.
            except (RuntimeError, MemoryError, OSError, ValueError) as error:
                complain(f"{', '.join(waiting)}: {error}")
                failures += len(waiting)
    return _verdict(failures, len(files))


def _write(
    options: argparse.Namespace, designs: Sequence[mpnn.Designs], native: mpnn.Scores
) -> None:
    """The files of one structure, from its designs at each temperature."""
    text = format_designs(designs, native, mpnn.__version__).encode()
    structure = designs[0].structure
    name = structure.name
    letters = [sequence for at in designs for sequence in at.sequences]
    if options.save_probs:
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
            ),
        )
    # Last: who finds the FASTA file finds the rest.
    write_atomically(options.out / "seqs" / f"{name}.fa", lambda file: file.write(text))


def run_score(options: argparse.Namespace) -> int:
    """`mpnn-core score`."""
    files = _files(options.files)
    if options.fasta is not None and len(files) > 1:
        raise CallError(f"--fasta scores sequences on one structure; {len(files)} were given")
    model = _model(options)
    constraints = mpnn.Constraints(chains=options.chains, fixed=_positions(options.fixed))
    failures = 0
    print("structure", "sequence", "score", "global_score", "orders", sep="\t")
    with _progress(len(files)) as advance:
        for file in files:
            try:
                structure = mpnn.read_structure(file)
                constraints.check(structure)
                named = [("native", structure.sequence)]
                if options.fasta is not None:
                    chains = constraints.design_chains(structure)
                    named = read_sequences(options.fasta, structure, chains)
                found = model.score(
                    structure, [s for _, s in named], constraints,
                    options.num_orders, options.seed or 0,
                )  # fmt: skip
            except (mpnn.StructureError, FastaError) as error:
                complain(str(error))
                failures += 1
            except (ValueError, RuntimeError, MemoryError) as error:
                complain(f"{file}: {error}")
                failures += 1
            else:
                means = found.score.mean(1), found.global_score.mean(1)
                for (title, _), score, global_score in zip(named, *means, strict=True):
                    label = " ".join(title.split())  # a tab would add a column
                    print(
                        structure.name, label, f"{score:.4f}", f"{global_score:.4f}",
                        options.num_orders, sep="\t",
                    )  # fmt: skip
            advance(1)
    return _verdict(failures, len(files))
