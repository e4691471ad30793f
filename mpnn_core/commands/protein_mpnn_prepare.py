"""`mpnn-core protein-mpnn prepare`: what the original's helper scripts write."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpnn_core as mpnn
from mpnn_core.commands.options import (
    CallError,
    check_outputs,
    complain,
    complain_of,
    exit_code,
    structure_paths,
)


def add_parser(commands: Any) -> None:
    """Add `prepare` and its own commands."""
    prepare = commands.add_parser(
        "prepare", help="write the JSON files of the original's helper scripts",
        description="Write the JSON files that protein_mpnn_run.py takes, as the original's helper "
        "scripts do. Positions count the residues of a chain from 1, gaps included; --input_path "
        "is what parse-multiple-chains writes.",
    )  # fmt: skip
    scripts = prepare.add_subparsers(required=True, metavar="FILE")

    def script(
        name: str, text: str, make: Callable[[argparse.Namespace], Any], takes_input: bool = True
    ) -> Callable[..., Any]:
        command = scripts.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if takes_input:
            command.add_argument(
                "--input_path", required=True, metavar="FILE", help="parsed structures"
            )
        command.add_argument("--output_path", required=True, metavar="FILE", help="what to write")
        command.set_defaults(run=_writing(make))
        return command.add_argument

    parse = scripts.add_parser(
        "parse-multiple-chains", help="parse the structures of a folder",
        description="Parse the structures of a folder, PDB or mmCIF.",
    )  # fmt: skip
    parse.add_argument("--input_path", required=True, type=Path, metavar="DIR", help="the folder")
    parse.add_argument("--output_path", required=True, metavar="FILE", help="what to write")
    parse.add_argument("--ca_only", action="store_true", help="write CA atoms alone")
    parse.set_defaults(run=_parse)

    flag = script("assign-fixed-chains", "say which chains are designed", _assign)
    flag("--chain_list", default="A", metavar='"A B"', help="the chains to design (default: A)")

    flag = script("fixed-positions", "say which positions keep their residue", _fixed)
    _add_positions(flag)
    flag(
        "--specify_non_fixed", action="store_true",
        help="the positions are those to design; all others are kept",
    )  # fmt: skip

    flag = script("tied-positions", "say which positions get the same residue", _tied)
    _add_positions(flag)
    flag(
        "--homooligomer", type=int, default=0, metavar="0|1",
        help="1: tie all chains position by position (default: 0)",
    )  # fmt: skip

    flag = script(
        "pos-neg-tied", "tie chains position by position, with weights of their logits", _pos_neg
    )
    _add_positions(flag)
    flag(
        "--homooligomer", type=int, default=0, metavar="0|1",
        help="1: tie the chains of --pos_neg_chain_list (default: 0)",
    )  # fmt: skip
    flag("--pos_neg_chain_list", default="", metavar='"A B, C D"', help="chains to tie together")
    flag(
        "--pos_neg_chain_betas", default="", metavar='"1.0 -0.5, 1.0 0.0"',
        help="a weight for each: 1 designs for it, a negative one against it, 0 leaves it out",
    )  # fmt: skip

    flag = script("bias-aa", "bias amino acids everywhere", _bias, False)
    flag("--AA_list", default="", metavar='"A G"', help="amino acids")
    flag("--bias_list", default="", metavar='"-0.1 0.2"', help="what is added to the logit of each")

    flag = script("bias-per-res", "bias amino acids at some positions, 0 elsewhere", _bias_at)
    _add_positions(flag)
    flag("--AA_list", default="", metavar='"A G"', help="amino acids")
    flag("--bias_list", default="", metavar='"-0.1 0.2"', help="what is added to the logit of each")

    flag = script("pssm", "collect PSSMs", _pssm, False)
    flag("--jsonl_input_path", required=True, metavar="FILE", help="parsed structures")
    flag(
        "--PSSM_input_path", required=True, metavar="DIR",
        help="a folder with NAME.npz: A_coef, A_bias and A_odds of each chain",
    )  # fmt: skip

    flag = script("omit-aa", "bar amino acids at some positions", _omit)
    _add_positions(flag)
    flag("--AA_list", default="", metavar='"GPL, WC"', help="amino acids for each chain")


def _add_positions(flag: Callable[..., Any]) -> None:
    flag("--chain_list", default="", metavar='"A B"', help="chains")
    flag(
        "--position_list",
        default="",
        metavar='"1 2 3, 7 8"',
        help="positions of each of the chains",
    )


def _writing(make: Callable[[argparse.Namespace], Any]) -> Callable[[argparse.Namespace], int]:
    """A command that writes what `make` gives as one line of JSON."""

    def run(options: argparse.Namespace) -> int:
        from mpnn_core.compatible.preparing import write_lines

        _check_output(options)
        try:
            made = make(options)
        except mpnn.ConstraintError as error:
            raise CallError(str(error)) from None
        write_lines(options.output_path, made)
        return 0

    return run


def _check_output(options: argparse.Namespace) -> None:
    path = Path(options.output_path)
    check_outputs([path.absolute().parent], [path], "--output_path")


def _parse(options: argparse.Namespace) -> int:
    """Write a line for each structure of a folder."""
    from mpnn_core.compatible.preparing import write_lines
    from mpnn_core.compatible.reading import read

    _check_output(options)
    files = structure_paths([options.input_path])
    entries, failures = [], 0
    for file in files:
        said: list[str] = []
        try:
            entries.append(read(file, said.append).entry(options.ca_only))
        # Whatever is wrong with a file, the others are parsed.
        except mpnn.StructureError as error:
            complain_of(file, error)
            failures += 1
        for sentence in said:
            complain(f"warning: {file}: {sentence}")
    write_lines(options.output_path, *entries)
    return exit_code(failures, len(files))


def _outlines(options: argparse.Namespace) -> Any:
    from mpnn_core.compatible.reading import outlines

    return outlines(options.input_path)


def _assign(options: argparse.Namespace) -> Any:
    from mpnn_core.compatible.preparing import assigned_chains

    return assigned_chains(_outlines(options), options.chain_list.split() or ["A"])


def _fixed(options: argparse.Namespace) -> Any:
    from mpnn_core.compatible.preparing import fixed_positions

    return fixed_positions(_outlines(options), *_positions(options), options.specify_non_fixed)


def _tied(options: argparse.Namespace) -> Any:
    from mpnn_core.compatible.preparing import homooligomer, tied_positions

    if options.homooligomer:
        return homooligomer(_outlines(options), complain)
    return tied_positions(_outlines(options), *_positions(options))


def _pos_neg(options: argparse.Namespace) -> Any:
    from mpnn_core.compatible.preparing import positive_and_negative, tied_positions

    if not options.homooligomer:
        return tied_positions(_outlines(options), *_positions(options))
    groups = [part.split() for part in options.pos_neg_chain_list.split(",") if part.strip()]
    weights = [
        _numbers(part, float, "--pos_neg_chain_betas")
        for part in options.pos_neg_chain_betas.split(",")
        if part.strip()
    ]
    return positive_and_negative(_outlines(options), groups, weights, complain)


def _bias(options: argparse.Namespace) -> Any:
    from mpnn_core.compatible.preparing import amino_acid_bias

    values = _numbers(options.bias_list, float, "--bias_list")
    return amino_acid_bias(options.AA_list.split(), values)


def _bias_at(options: argparse.Namespace) -> Any:
    from mpnn_core.compatible.preparing import bias_per_residue

    return bias_per_residue(_outlines(options), *_positions(options), _bias(options))


def _pssm(options: argparse.Namespace) -> Any:
    from mpnn_core.compatible.preparing import pssm
    from mpnn_core.compatible.reading import outlines

    return pssm(outlines(options.jsonl_input_path), options.PSSM_input_path)


def _omit(options: argparse.Namespace) -> Any:
    from mpnn_core.compatible.preparing import omitted_letters

    letters = ["".join(part.split()) for part in options.AA_list.split(",") if part.strip()]
    return omitted_letters(_outlines(options), *_positions(options), letters)


def _positions(options: argparse.Namespace) -> tuple[list[str], list[list[int]]]:
    """The chains, and the positions of each."""
    chains = options.chain_list.split()
    # No position of one chain is an empty text, as in "1 2, , 3".
    parts = options.position_list.split(",") if chains else []
    return chains, [_numbers(part, int, "--position_list") for part in parts]


def _numbers(text: str, kind: type[int] | type[float], flag: str) -> list[Any]:
    try:
        return [kind(part) for part in text.split()]
    except ValueError as error:
        raise CallError(f"{flag}: {error}") from None
