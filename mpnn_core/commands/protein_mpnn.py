"""`mpnn-core protein-mpnn`: what `protein_mpnn_run.py` takes and writes, and its helper scripts.

The flags, their defaults and the files are those of the original, so that a script needs one word
changed. Where the original drops, overlooks or overwrites what it was asked for, this does what the
flag says and a line on standard error says so; `--legacy` does as the original.
"""

from __future__ import annotations

import argparse
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mpnn_core as mpnn
from mpnn_core.commands import protein_mpnn_prepare
from mpnn_core.commands.options import (
    CallError,
    check_outputs,
    complain,
    load_model,
    number,
)

SEEDS = 999
"""A seed of 0 is drawn from 0 to one less, as in the original."""

# Flags of files of constraints, and their kinds.
FILES = {
    "fixed_positions_jsonl": "fixed_positions", "omit_AA_jsonl": "omit_positions",
    "bias_AA_jsonl": "bias", "bias_by_res_jsonl": "bias_by_residue",
    "tied_positions_jsonl": "tied_positions", "pssm_jsonl": "pssm",
}  # fmt: skip


def add_parser(commands: Any) -> None:
    """Add the command to `mpnn-core`."""
    command = commands.add_parser(
        "protein-mpnn", help="take the flags of protein_mpnn_run.py and write its files",
        description="Take all flags of ProteinMPNN's protein_mpnn_run.py, with their defaults, and "
        "write its files under --out_folder. Positions in its JSON files count the residues of a "
        "chain from 1, gaps included. `mpnn-core protein-mpnn prepare` does what its helper "
        "scripts do.",
    )  # fmt: skip
    _add_flags(command)
    command.set_defaults(run=run)
    actions = command.add_subparsers(metavar="[prepare]")
    protein_mpnn_prepare.add_parser(actions)


def _add_flags(command: argparse.ArgumentParser) -> None:
    def flag(name: str, **settings: Any) -> None:
        # Unlike other commands', the last of a flag that is given twice counts, as in the original.
        command.add_argument(f"--{name}", **{"action": "store", **settings})

    def switch(name: str, text: str) -> None:
        flag(name, type=int, default=0, metavar="0|1", help=f"1: {text} (default: 0)")

    flag("pdb_path", default="", metavar="FILE", help="a PDB or mmCIF file to design")
    flag(
        "pdb_path_chains", default="", metavar='"A B"',
        help="the chains of --pdb_path to design; the others are kept (default: all)",
    )  # fmt: skip
    flag(
        "jsonl_path", metavar="FILE",
        help="parsed structures, a line of JSON each, as prepare parse-multiple-chains writes them",
    )  # fmt: skip
    flag("out_folder", metavar="DIR", help="the folder to write")
    flag(
        "chain_id_jsonl", default="", metavar="FILE",
        help="the chains to design and to keep of each structure (default: all are designed)",
    )  # fmt: skip
    flag(
        "fixed_positions_jsonl", default="", metavar="FILE",
        help="positions of each structure that keep their residue",
    )  # fmt: skip
    flag(
        "tied_positions_jsonl", default="", metavar="FILE",
        help="positions of each structure that get the same residue, with weights or without",
    )  # fmt: skip
    flag(
        "omit_AAs", type=list, default=["X"], metavar="LETTERS",
        help="amino acids that are never drawn, such as CX (default: X)",
    )  # fmt: skip
    flag(
        "omit_AA_jsonl", default="", metavar="FILE",
        help="amino acids that are never drawn at some positions of each structure",
    )  # fmt: skip
    flag(
        "bias_AA_jsonl", default="", metavar="FILE",
        help="what is added to the logits of amino acids everywhere",
    )  # fmt: skip
    flag(
        "bias_by_res_jsonl", default="", metavar="FILE",
        help="what is added to the 21 logits of every position of each structure",
    )  # fmt: skip
    flag("pssm_jsonl", default="", metavar="FILE", help="PSSMs of each structure")
    flag(
        "pssm_multi", type=float, default=0.0, metavar="SHARE",
        help="how much the PSSM counts, 0 to 1 (default: 0)",
    )  # fmt: skip
    flag(
        "pssm_threshold", type=float, default=0.0, metavar="VALUE",
        help="log-odds over which a residue is not made rare (default: 0)",
    )  # fmt: skip
    switch("pssm_log_odds_flag", "make residues rare whose log-odds are under the threshold")
    switch("pssm_bias_flag", "mix the PSSM into the probabilities")
    flag(
        "num_seq_per_target", type=int, default=1, metavar="N",
        help="sequences per structure, at each temperature; decoding orders of scores and "
        "conditional probabilities (default: 1)",
    )  # fmt: skip
    flag(
        "batch_size", type=int, default=1, metavar="N",
        help="rows of the mask in probs/*.npz, and with --legacy the number that "
        "--num_seq_per_target is rounded down to a multiple of; batches are chosen by themselves "
        "(default: 1)",
    )  # fmt: skip
    flag(
        "sampling_temp", default="0.1", metavar='"T T"',
        help="sampling temperatures, divided by spaces (default: 0.1)",
    )  # fmt: skip
    flag(
        "seed", type=number(int, 0), default=0, metavar="N",
        help="seed of all random numbers; 0 draws one from 0 to 998 (default: 0)",
    )  # fmt: skip
    flag(
        "backbone_noise", type=number(float, 0), default=0.0, metavar="Å",
        help="standard deviation of noise on the coordinates, each sequence its own (default: 0)",
    )  # fmt: skip
    flag(
        "max_length", type=int, default=200_000, metavar="N",
        help="structures with more positions are left out (default: 200000)",
    )  # fmt: skip
    switch("save_score", "write scores/NAME.npz")
    switch("save_probs", "write probs/NAME.npz")
    switch("score_only", "score the native sequence, and those of --path_to_fasta; design nothing")
    flag(
        "path_to_fasta", default="", metavar="FILE",
        help="sequences to score: those of the designed chains by their ids; '/' is left out",
    )  # fmt: skip
    switch("conditional_probs_only", "probabilities of each residue given all the others")
    switch("conditional_probs_only_backbone", "with it, given the backbone alone")
    switch("unconditional_probs_only", "probabilities of each residue given the backbone")
    flag("model_name", default="v_48_020", metavar="NAME", help="the weights (default: v_48_020)")
    flag(
        "path_to_model_weights", default="", metavar="DIR",
        help="a folder with MODEL_NAME.pt (default: the published weights)",
    )  # fmt: skip
    flag(
        "ca_only", action="store_true", default=False,
        help="read CA atoms alone, and use the models for those",
    )  # fmt: skip
    flag(
        "use_soluble_model", action="store_true", default=False,
        help="use the models trained on soluble proteins",
    )  # fmt: skip
    switch("suppress_print", "print nothing on standard output")
    flag(
        "legacy", action="store_true", default=False,
        help="do as the original: drop the remainder of batches, overlook files that are not "
        "there, draw X where --omit_AAs does not name it, take sequences of any length (not of "
        "the original)",
    )  # fmt: skip
    flag("device", default="", metavar="NAME", help="cpu, cuda or mps (default: cuda if there)")


@dataclass
class Run:
    """One call of the command: what all structures have in common.

    Attributes
    ----------
    count : sequences, or orders, per structure
    """

    options: argparse.Namespace
    model: mpnn.Model
    inputs: Any
    temperatures: list[float]
    seed: int
    count: int
    structures: int = 0
    failures: int = 0

    @property
    def out(self) -> Path:
        return Path(self.options.out_folder)

    def say(self, line: str) -> None:
        """A line on standard output, as the original prints some."""
        if not self.options.suppress_print:
            print(line, flush=True)

    def give_up(self, name: str, error: Exception) -> None:
        """Say why a structure cannot be used; the others are."""
        from mpnn_core.design.isolation import reason

        text = reason(error)
        complain(text if name in text else f"{name}: {text}")
        self.failures += 1

    def usable(self) -> Iterator[tuple[mpnn.Structure, mpnn.Constraints]]:
        """The structures that can be used, each with its constraints."""
        names: set[str] = set()
        for parsed in self._parsed():
            self.structures += 1
            if parsed.name in names:
                complain(f"warning: {parsed.name} comes again, and replaces what was written of it")
            names.add(parsed.name)
            if len(parsed.sequence) > self.options.max_length:
                complain(
                    f"{parsed.name}: left out: {len(parsed.sequence)} positions, more than "
                    f"--max_length {self.options.max_length}"
                )
                continue
            try:
                yield self.inputs.of(parsed, self.options.ca_only)
            # Whatever is wrong with a structure, the others are used.
            except (mpnn.StructureError, mpnn.ConstraintError) as error:
                self.give_up(parsed.name, error)

    def _parsed(self) -> Iterator[Any]:
        from mpnn_core.compatible.reading import from_jsonl, read

        options = self.options

        def failed(error: mpnn.StructureError) -> None:
            self.structures += 1
            self.give_up(str(options.jsonl_path), error)

        if not options.pdb_path:
            yield from from_jsonl(options.jsonl_path, options.ca_only, failed)
            return
        yield read(options.pdb_path, lambda said: complain(f"warning: {options.pdb_path}: {said}"))

    def each(self, use: Callable[[mpnn.Structure, mpnn.Constraints], None]) -> None:
        """Use one structure after the other."""
        for structure, constraints in self.usable():
            try:
                use(structure, constraints)
            except BrokenPipeError:
                raise
            except Exception as error:
                self.give_up(structure.name, error)


def run(options: argparse.Namespace) -> int:
    """Do what the flags say."""
    call = _call(options)
    if options.score_only:
        kinds, use = ["score_only"], _score(call)
    elif options.conditional_probs_only:
        kinds, use = ["conditional_probs_only"], _conditional(call)
    elif options.unconditional_probs_only:
        kinds, use = ["unconditional_probs_only"], _unconditional(call)
    else:
        kinds, use = [], None
        if options.save_score:
            kinds.append("scores")
        if options.save_probs:
            kinds.append("probs")
    check_outputs([call.out / kind for kind in ("seqs", *kinds)], [], "--out_folder")
    if use is not None:
        call.each(use)
    else:
        _design(call)
    if call.failures:
        complain(f"{call.failures} of {call.structures} structures failed")
    return int(call.failures > 0)


def _call(options: argparse.Namespace) -> Run:
    """The call as it was meant; raises CallError before anything is computed."""
    if not options.out_folder:
        raise CallError("--out_folder: expected the folder to write")
    if not options.pdb_path and not options.jsonl_path:
        raise CallError("expected --pdb_path, a structure, or --jsonl_path, parsed ones")
    if options.pdb_path and options.jsonl_path:
        complain("note: --pdb_path is designed, and --jsonl_path is not read, as in the original")
    if options.pdb_path and options.chain_id_jsonl:
        complain("note: --pdb_path_chains says what is designed of --pdb_path; --chain_id_jsonl is "
                 "not read, as in the original")  # fmt: skip
    if options.pdb_path_chains and not options.pdb_path:
        complain(
            "note: --pdb_path_chains is of --pdb_path; --chain_id_jsonl says it of parsed ones"
        )
    if options.conditional_probs_only_backbone and not options.conditional_probs_only:
        complain("note: --conditional_probs_only_backbone counts with --conditional_probs_only")
    if options.path_to_fasta and not options.score_only:
        complain("note: --path_to_fasta is scored with --score_only 1, and is not read without")
    temperatures = _temperatures(options.sampling_temp)
    count = _count(options)
    seed = options.seed or secrets.randbelow(SEEDS)
    inputs = _inputs(options)
    model = _model(options)
    return Run(options, model, inputs, temperatures, seed, count)


def _temperatures(text: str) -> list[float]:
    try:
        temperatures = [float(part) for part in text.split()]
    except ValueError as error:
        raise CallError(f"--sampling_temp: {error}; expected numbers divided by spaces") from None
    if not temperatures or not all(0 <= t < float("inf") for t in temperatures):
        raise CallError(f"--sampling_temp {text!r}: expected numbers of at least 0")
    return temperatures


def _count(options: argparse.Namespace) -> int:
    """How many sequences or orders of each structure."""
    asked, batch = options.num_seq_per_target, options.batch_size
    if asked < 1 or batch < 1:
        raise CallError("--num_seq_per_target and --batch_size: expected at least 1")
    whole = int(asked // batch * batch)
    if whole == asked:
        return whole
    if not options.legacy:
        complain(
            f"note: {asked} sequences, as asked for; the original gives {whole}, a multiple of "
            f"--batch_size {batch}, and so does --legacy"
        )
        return int(asked)
    if whole == 0 and (options.save_probs or _only(options)):
        raise CallError(
            f"--num_seq_per_target {asked} is less than --batch_size {batch}, which leaves nothing "
            "to write"
        )
    return whole


def _only(options: argparse.Namespace) -> bool:
    """Whether something else than designs is asked for."""
    return bool(
        options.score_only or options.conditional_probs_only or options.unconditional_probs_only
    )


def _inputs(options: argparse.Namespace) -> Any:
    """The files of constraints, each read whole."""
    from mpnn_core.compatible.protein_inputs import Inputs
    from mpnn_core.sampling.constraints import letter_index
    from mpnn_core.selecting.originals import PSSMUse, read_constraint_file

    def given(name: str) -> str:
        """The path that a flag has, "" for none."""
        path = str(vars(options)[name])
        if path and options.legacy and not os.path.isfile(path):
            complain(f"warning: --{name} {path} is not there, and counts for nothing")
            return ""
        return path

    omit = [letter.upper() for letter in options.omit_AAs if letter.strip(", ")]
    try:
        for letter in omit:
            letter_index(letter)
        chains = None
        if not options.pdb_path and (path := given("chain_id_jsonl")):
            chains = read_constraint_file(path, "chain_ids")
        files = [
            read_constraint_file(path, kind)
            for name, kind in FILES.items()
            if (path := given(name))
        ]
    except mpnn.ConstraintError as error:
        raise CallError(str(error)) from None
    if "X" not in omit and not options.legacy:
        complain("note: X is not drawn either; the original draws it where --omit_AAs lacks it")
        omit.append("X")
    return Inputs(
        files,
        chains,
        designed=options.pdb_path_chains.split() or None if options.pdb_path else None,
        omit=omit,
        pssm=PSSMUse(
            options.pssm_multi,
            options.pssm_threshold,
            bool(options.pssm_log_odds_flag),
            bool(options.pssm_bias_flag),
        ),
    )


def _model(options: argparse.Namespace) -> mpnn.Model:
    """The model that the flags name."""
    import torch

    name = options.model_name
    if options.path_to_model_weights:
        weights = os.path.join(options.path_to_model_weights, f"{name}.pt")
        if not os.path.isfile(weights):
            raise CallError(f"--path_to_model_weights: there is no {weights}")
    elif options.ca_only and options.use_soluble_model:
        raise CallError("--ca_only with --use_soluble_model: there is no such model")
    elif options.ca_only:
        weights = f"ca/{name}"
    else:
        weights = f"soluble/{name}" if options.use_soluble_model else name
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(weights, "baseline", device)
    if model.ca_only != options.ca_only or model.reads - {"backbone", "CA"}:
        reads = ", ".join(sorted(model.reads))
        raise CallError(
            f"{weights} is a model that reads {reads}; expected one of "
            + ("CA atoms, with --ca_only" if options.ca_only else "backbones; --ca_only is for CA")
        )
    return model


# What is done with a structure.


def _design(call: Run) -> None:
    """Design all structures, as many in one call of the model as it computes well together."""
    from mpnn_core.design.isolation import isolated
    from mpnn_core.training.corpus import batched

    constraints_of: dict[mpnn.Structure, mpnn.Constraints] = {}

    def checked() -> Iterator[mpnn.Structure]:
        for structure, constraints in call.usable():
            try:
                constraints.check(structure)
            except mpnn.ConstraintError as error:
                call.give_up(structure.name, error)
            else:
                constraints_of[structure] = constraints
                yield structure

    def designs(structures: Sequence[mpnn.Structure]) -> Iterator[Any]:
        # With no whole batch, the original writes files with nothing in them.
        return call.model.design_and_score(
            structures, max(call.count, 1), call.temperatures, call.seed,
            [constraints_of[structure] for structure in structures],
            backbone_noise=call.options.backbone_noise,
        )  # fmt: skip

    for structures in batched(checked(), max(call.count, 1)):
        start = time.monotonic()
        for structure, result in isolated(designs, structures):
            if isinstance(result, Exception):
                call.give_up(structure.name, result)
            else:
                at, native = result
                _write_designs(call, at, native, start)
            start = time.monotonic()
        constraints_of.clear()


def _write_designs(
    call: Run, at: Sequence[mpnn.Designs], native: mpnn.Scores, start: float
) -> None:
    """Write the designs of one structure, those at each temperature."""
    from mpnn_core.compatible import protein_files as files

    structure = at[0].structure
    name, options = structure.name, call.options
    text = files.fasta(
        at if call.count else [], native, structure, at[0].design_chains, options.model_name,
        f"mpnn_core-{mpnn.__version__}", call.seed, options.ca_only,
    )  # fmt: skip
    try:
        if options.save_score:
            arrays = files.scores(at if call.count else [])
            files.write_arrays(files.path_of(call.out, "scores", name), arrays)
        if options.save_probs:
            arrays = files.probabilities(at, structure.chains, options.batch_size)
            files.write_arrays(files.path_of(call.out, "probs", name), arrays)
        # The FASTA file is written last: where it exists, the others do too.
        files.write_text(files.path_of(call.out, "seqs", name), text)
    except OSError as error:
        call.give_up(name, error)
        return
    call.say(
        f"{name}: {call.count * len(at)} sequences of length {len(structure)} in "
        f"{time.monotonic() - start:.4f} seconds"
    )


def _copies(call: Run, structure: mpnn.Structure) -> list[mpnn.Structure]:
    """As many copies of a structure as orders are asked for, each with its own noise if any is."""
    from mpnn_core.sampling.noise import with_noise

    noise = call.options.backbone_noise
    if not noise:
        return [structure] * call.count
    return [with_noise(structure, noise, call.seed, n) for n in range(call.count)]


def _score(call: Run) -> Callable[[mpnn.Structure, mpnn.Constraints], None]:
    """Score the native sequence and those of a FASTA file."""
    import numpy as np

    from mpnn_core.compatible import protein_files as files
    from mpnn_core.compatible.protein_inputs import read_fasta, scored_sequence

    given = read_fasta(call.options.path_to_fasta) if call.options.path_to_fasta else []

    def score(structure: mpnn.Structure, constraints: mpnn.Constraints) -> None:
        designed = constraints.design_chains(structure)
        sequences = [structure.sequence] + [
            scored_sequence(structure, designed, title, letters, call.options.legacy)
            for title, letters in given
        ]
        # With noise every order is on its own copy of the backbone.
        noise, count = call.options.backbone_noise, call.count
        copies = _copies(call, structure) if noise else [structure]
        with np.errstate(invalid="ignore"):  # where nothing is designed, the mean is NaN, as there
            scores = [
                call.model.score(copy, sequences, constraints, 1 if noise else count, call.seed)
                for copy in copies
            ]
        own = np.concatenate([of.score for of in scores], 1)
        of_all = np.concatenate([of.global_score for of in scores], 1)
        for n, sequence in enumerate(sequences):
            of_one = own[n], of_all[n]
            arrays = files.scored(structure, sequence, *of_one, designed)
            ending = f"_fasta_{n}" if n else "_pdb"
            path = files.path_of(call.out, "score_only", structure.name, ending)
            files.write_arrays(path, arrays)
            figures = [
                f"mean: {files.shown(of.mean())}, std: {files.shown(of.std())}, sample size: "
                f"{len(of)}"
                for of in of_one
            ]
            source = f"{structure.name}_{n} from FASTA" if n else f"{structure.name} from PDB"
            call.say(f"Score for {source}, {figures[0]},  global score, {figures[1]}")

    return score


def _conditional(call: Run) -> Callable[[mpnn.Structure, mpnn.Constraints], None]:
    """Probabilities of each residue given all the others, or the backbone alone."""

    def conditional(structure: mpnn.Structure, constraints: mpnn.Constraints, seed: int) -> Any:
        import numpy as np

        designed = constraints.designed(structure)
        if call.options.conditional_probs_only_backbone:
            log_probs = call.model.unconditional_log_probs(structure)
        else:
            (log_probs,) = call.model.conditional_log_probs(
                structure, seed=seed, constraints=constraints
            )
        return np.where(designed[:, None], log_probs, np.float32(0))

    return _probabilities(call, "conditional_probs_only", conditional)


def _unconditional(call: Run) -> Callable[[mpnn.Structure, mpnn.Constraints], None]:
    """Probabilities of each residue given the backbone."""

    def unconditional(structure: mpnn.Structure, *_: Any) -> Any:
        return call.model.unconditional_log_probs(structure)

    return _probabilities(call, "unconditional_probs_only", unconditional)


def _probabilities(
    call: Run, kind: str, log_probs: Callable[[mpnn.Structure, mpnn.Constraints, int], Any]
) -> Callable[[mpnn.Structure, mpnn.Constraints], None]:
    """Write `log_probs` of a structure, as many times as is asked for."""
    from mpnn_core.compatible import protein_files as files

    def use(structure: mpnn.Structure, constraints: mpnn.Constraints) -> None:
        import numpy as np

        copies = _copies(call, structure)
        found = [log_probs(copy, constraints, call.seed + n) for n, copy in enumerate(copies)]
        designed = constraints.designed(structure)
        arrays = files.conditionals(structure, np.stack(found), designed)
        files.write_arrays(files.path_of(call.out, kind, structure.name), arrays)
        call.say(f"{structure.name}: {kind} of {len(structure)} positions")

    return use
