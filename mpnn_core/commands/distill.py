"""`mpnn-core distill`: train smaller networks, the students, on the published one."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpnn_core.commands.options import CallError, check_outputs, complain, number, settings

if TYPE_CHECKING:
    from mpnn_core.training.run import Look


def add_parser(commands: Any) -> None:
    """Add the command to `mpnn-core`."""
    distill = commands.add_parser(
        "distill", help="train small students of the pretrained network on any backbones",
        description="Train smaller networks, the students, to predict what the pretrained network, "
        "their teacher, predicts on the backbones of CORPUS.",
    )  # fmt: skip
    distill.add_argument(
        "corpus", type=Path, metavar="CORPUS",
        help="a folder of PDB or mmCIF files, or an npz of chains; "
        "docs/explanation/distillation.md lists its arrays",
    )  # fmt: skip
    distill.add_argument(
        "--student", action="append", required=True, metavar="NAME",
        help="a variant to train, such as minimal; repeatable: students of one run share the "
        "teacher's work",
    )  # fmt: skip
    distill.add_argument(
        "--out", type=Path, required=True, metavar="DIR",
        help="the folder of the run: DIR/NAME.safetensors and DIR/NAME.training.json are written",
    )  # fmt: skip
    distill.add_argument(
        "--validation", type=Path, metavar="CORPUS",
        help="structures that are not trained on; their recovery and KL divergence are printed now "
        "and then",
    )  # fmt: skip
    distill.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="a setting of the training, such as steps=20000 or learning_rate=0.002; repeatable",
    )  # fmt: skip
    distill.add_argument(
        "--minutes", type=number(float, 0, 10**6), metavar="M",
        help="stop and save after so many minutes; --resume goes on (default: run to the last "
        "step)",
    )  # fmt: skip
    distill.add_argument("--resume", action="store_true", help="go on with the run in DIR")
    distill.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    distill.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train the students, and print a line to standard error about every half minute."""
    from rich.console import Console

    from mpnn_core.training.corpus import read_corpus
    from mpnn_core.training.recipes import Lessons, Recipe, recipe_for, with_values
    from mpnn_core.training.run import STATE, Run

    console = Console(stderr=True)
    values = settings(options.set, "--set")
    lessons = with_values(Lessons(), values)
    recipes = {name: with_values(recipe_for(name), values) for name in options.student}
    known = asdict(lessons) | asdict(Recipe())
    if unknown := values.keys() - known.keys():
        raise CallError(f"--set: {', '.join(unknown)}: expected one of {', '.join(known)}")
    if (options.out / STATE).exists() and not options.resume:
        raise CallError(f"{options.out} holds a run; go on with --resume, or name another")
    weights = [options.out / f"{name}.safetensors" for name in recipes]
    check_outputs([options.out], [] if options.resume else weights)
    corpus = read_corpus(options.corpus, complain)
    validation = read_corpus(options.validation, complain) if options.validation else None
    training = Run(recipes, lessons, corpus, validation, options.device)
    if options.resume:
        training.resume(options.out)
    done = training.train(
        options.out, options.minutes, lambda look: console.print(_line(look), highlight=False)
    )
    if not done:
        complain(f"stopped at step {training.step} of {lessons.steps}; --resume goes on")
    return 0


def _line(look: Look) -> str:
    """One line on where a run is."""
    students = [
        f"{name}: KL {divergence:.4f}"
        + (
            f", held out {look.held_out[name]:.4f}, recovery {100 * look.recovery[name]:.2f} %"
            if look.recovery
            else ""
        )
        for name, divergence in look.divergence.items()
    ]
    teacher = look.recovery.get("teacher")
    return (
        f"step {look.step} of {look.steps}, {look.seconds:.0f} s, "
        f"{look.residues_per_second:,.0f} residues/s; {'; '.join(students)}"
        + (f"; teacher: recovery {100 * teacher:.2f} %" if teacher else "")
    )
