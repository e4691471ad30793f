"""The command line: one file per command here, and those of gate/commands.py.

The file of a command adds its parser, and imports the engine only when the command runs, so that
help is shown without loading torch.

Exit codes: 0, success; 1, a file failed and the others are done, or a gate failed; 2, the call
itself is wrong, and nothing was written; 130, interrupted; 141, the reader of the output is gone.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import mpnn_core as mpnn
from mpnn_core.commands import (
    bench,
    design,
    distill,
    evaluate,
    example,
    export,
    ligand_mpnn,
    merge,
    packing,
    protein_mpnn,
    scan,
    score,
    select,
    weights,
)
from mpnn_core.commands.options import (
    CallError,
    Parser,
    Terminated,
    complain,
    number,
    warnings_in_a_line,
)
from mpnn_core.gate.commands import add_commands

COMMANDS = (
    design, score, scan, packing, select, protein_mpnn, ligand_mpnn, example, weights, evaluate,
    distill, export, merge, bench,
)  # fmt: skip
WRONG_CALL, INTERRUPTED, BROKEN_PIPE, TERMINATED = 2, 130, 141, 143


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    options = parser().parse_args(arguments)
    try:
        with warnings_in_a_line():
            code: int = options.run(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as stop:
        by = "ended by SIGTERM" if isinstance(stop, Terminated) else "interrupted"
        complain(f"{by}; all files written so far are complete")
        return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
    except BrokenPipeError:  # `mpnn-core score ... | head`
        # Python flushes standard output once more at exit, and must not fail there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except refusals() as error:
        complain(str(error))
        return WRONG_CALL
    except MemoryError as error:
        complain(str(error) or "out of memory")
        return WRONG_CALL
    except OSError as error:  # a path of the call, to read or to write
        complain(f"{error.filename or 'a file'}: {error.strerror or error}")
        return WRONG_CALL


def parser() -> argparse.ArgumentParser:
    """Commands and options."""
    top = Parser(
        prog="mpnn-core",
        description="ProteinMPNN, exact and fast: sequences for protein backbones.",
    )
    top.add_argument("--version", action="version", version=f"mpnn-core {mpnn.__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    add_commands(commands, number)
    return top


def refusals() -> tuple[type[Exception], ...]:
    """The errors that say that the call is wrong; imported only when there is one."""
    from mpnn_core.gate import GateError
    from mpnn_core.structures.fasta import FastaError
    from mpnn_core.training.corpus import CorpusError
    from mpnn_core.training.recipes import DistillError

    return (
        CallError, CorpusError, DistillError, FastaError, GateError, mpnn.CheckpointError,
        mpnn.StructureError,
    )  # fmt: skip
