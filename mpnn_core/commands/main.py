"""The command line: design, score, eval, distill, export, and what gate/commands.py adds.

Exit codes: 0, all is well; 1, a file failed and the others are done, or a gate failed; 2, the call
itself is wrong, and nothing was written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import mpnn_core as mpnn
from mpnn_core.backends.coreml.buckets import BUCKETS
from mpnn_core.commands.design import run_design, run_score
from mpnn_core.commands.options import (
    CallError,
    _input_options,
    _lengths,
    _model_options,
    _number,
    _weight_options,
    complain,
)
from mpnn_core.commands.study import run_distill, run_eval, run_export
from mpnn_core.design.model import RANDOM
from mpnn_core.gate import GateError
from mpnn_core.gate.commands import add_commands
from mpnn_core.sampling.orders import COLOURED
from mpnn_core.training.corpus import CorpusError
from mpnn_core.training.evaluate import DEFAULT, ReferenceModelError
from mpnn_core.training.recipes import DistillError

WRONG_CALL = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line: an exit code."""
    options = parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        return code
    except (
        CallError, CorpusError, DistillError, GateError, ReferenceModelError, mpnn.CheckpointError,
        mpnn.StructureError,
    ) as error:  # fmt: skip
        complain(str(error))
        return WRONG_CALL
    except KeyboardInterrupt:
        complain("interrupted; what was written before is whole")
        return 130
    except BrokenPipeError:  # `mpnn-core score ... | head`
        sys.stderr.close()
        return 141


def parser() -> argparse.ArgumentParser:
    """Commands and options."""
    top = argparse.ArgumentParser(prog="mpnn-core", description="ProteinMPNN, exact and fast.")
    top.add_argument("--version", action="version", version=f"mpnn-core {mpnn.__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    design = commands.add_parser("design", help="design sequences for backbones")
    _input_options(design)
    design.add_argument(
        "-n", "--num-sequences", type=_number(int, 1), default=1, metavar="N",
        help="sequences per structure (default: 1)",
    )  # fmt: skip
    design.add_argument(
        "-T", "--temperature", type=_number(float, 0), action="append", metavar="T",
        help="divides the logits; 0 takes the likeliest residue; repeatable (default: 0.1)",
    )  # fmt: skip
    design.add_argument(
        "--omit", default="", metavar="LETTERS", help="residues never drawn; X never is",
    )  # fmt: skip
    design.add_argument(
        "--omit-at", action="append", default=[], metavar="POSITIONS=LETTERS",
        help="residues never drawn at some positions, such as A10-20=CP; repeatable",
    )  # fmt: skip
    design.add_argument(
        "--bias", action="append", default=[], metavar="LETTER=VALUE",
        help="added to the logit of a residue everywhere, such as W=-1.5; repeatable",
    )  # fmt: skip
    design.add_argument(
        "--tied", action="append", default=[], metavar="POSITIONS",
        help="positions that get one residue, such as A10,B10; repeatable",
    )  # fmt: skip
    design.add_argument(
        "--tied-chains", default="", metavar="A,B",
        help="chains of a homo-oligomer: residues of equal author number get one residue",
    )  # fmt: skip
    design.add_argument(
        "--orders", choices=(RANDOM, COLOURED), default=RANDOM,
        help=f"decoding orders: {RANDOM}, as in the original, or {COLOURED}: of about half the "
        f"levels, another distribution over orders (default: {RANDOM})",
    )  # fmt: skip
    design.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="DIR/seqs/NAME.fa is written"
    )
    design.add_argument(
        "--save-probs", action="store_true",
        help="write DIR/probs/NAME.npz as well: probabilities, log-probabilities, orders",
    )  # fmt: skip
    design.set_defaults(run=run_design)

    score = commands.add_parser(
        "score", help="score sequences on backbones: mean negative log-probability, tab-separated"
    )
    _input_options(score)
    score.add_argument(
        "--fasta", type=Path, metavar="FILE",
        help="sequences to score on one structure, chains joined by '/' (default: the native one)",
    )  # fmt: skip
    score.add_argument(
        "--num-orders", type=_number(int, 1), default=10, metavar="N",
        help="random decoding orders to average over (default: 10)",
    )  # fmt: skip
    score.set_defaults(run=run_score)

    evaluation = commands.add_parser(
        "eval", help="what a variant or other weights lose against their teacher, on TS50 and more"
    )
    evaluation.add_argument(
        "corpora", nargs="*", type=Path, metavar="CORPUS",
        help="beside TS50: folders of structures, or npz files of chains; the last one's loss is "
        "the one to quote",
    )  # fmt: skip
    _model_options(evaluation)
    evaluation.add_argument(
        "--teacher", default="v_48_020", metavar="NAME",
        help="weights of the published shape to compare with (default: v_48_020)",
    )  # fmt: skip
    evaluation.add_argument(
        "--num-orders", type=_number(int, 1), default=DEFAULT.num_orders, metavar="N",
        help=f"random decoding orders per structure (default: {DEFAULT.num_orders})",
    )  # fmt: skip
    evaluation.add_argument(
        "-n", "--num-sequences", type=_number(int, 1), default=DEFAULT.num_sequences, metavar="N",
        help=f"designs per structure (default: {DEFAULT.num_sequences})",
    )  # fmt: skip
    evaluation.add_argument(
        "-T", "--temperature", type=_number(float, 0), default=DEFAULT.temperature, metavar="T",
        help=f"of the designs (default: {DEFAULT.temperature})",
    )  # fmt: skip
    evaluation.add_argument("--out", type=Path, metavar="FILE", help="write everything as JSON")
    evaluation.set_defaults(run=run_eval)

    distill = commands.add_parser(
        "distill", help="train small students of the pretrained network on any backbones"
    )
    distill.add_argument(
        "corpus", type=Path, metavar="CORPUS",
        help="a folder of PDB or mmCIF files, or an npz of chains (docs/distillation.md)",
    )  # fmt: skip
    distill.add_argument(
        "--student", action="append", required=True, metavar="NAME",
        help="a variant; repeatable, and students of one run share the teacher's work",
    )  # fmt: skip
    distill.add_argument(
        "--out", type=Path, required=True, metavar="DIR",
        help="DIR/NAME.safetensors and DIR/NAME.training.json are written",
    )  # fmt: skip
    distill.add_argument(
        "--validation", type=Path, metavar="CORPUS",
        help="structures on which recovery and KL are shown as it learns",
    )  # fmt: skip
    distill.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="a value of the recipe or of the lessons, such as steps=20000 or "
        "learning_rate=0.002; repeatable",
    )  # fmt: skip
    distill.add_argument(
        "--minutes", type=_number(float, 0), metavar="M",
        help="stop and save after so long; --resume goes on (default: to the last step)",
    )  # fmt: skip
    distill.add_argument("--resume", action="store_true", help="go on with the run in DIR")
    distill.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    distill.set_defaults(run=run_distill)

    export = commands.add_parser("export", help="write the network for another runtime")
    export.add_argument("runtime", choices=["coreml"], help="coreml: a .mlpackage per bucket")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="DIR/NAME.mlpackage")
    _weight_options(export)
    export.add_argument(
        "--mode", action="append", default=[], metavar="MODE",
        help="forward, encoder, decoder or level (docs/apple.md); repeatable (default: forward)",
    )  # fmt: skip
    export.add_argument(
        "--buckets", type=_lengths, default=BUCKETS, metavar="N,N",
        help=f"lengths to write packages for (default: {','.join(map(str, BUCKETS))})",
    )  # fmt: skip
    export.add_argument(
        "--precision", default="float16", metavar="NAME",
        help="float16, for the Neural Engine, or float32, exact (default: float16)",
    )  # fmt: skip
    export.set_defaults(run=run_export)

    add_commands(commands)
    return top
