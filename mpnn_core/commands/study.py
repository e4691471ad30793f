"""`mpnn-core eval`, `distill` and `export`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

import mpnn_core as mpnn
from mpnn_core.backends.contract import UnavailableError
from mpnn_core.commands.options import CallError, _load, _model, _pairs, _progress, complain
from mpnn_core.network.checkpoints import file_sha256, weights_file
from mpnn_core.structures.files import write_atomically
from mpnn_core.training.corpus import read_corpus
from mpnn_core.training.evaluate import Settings, compare, ts50
from mpnn_core.training.metrics import METRICS
from mpnn_core.training.recipes import Lessons, Recipe, recipe_for, with_values
from mpnn_core.training.run import Look, Run


def run_eval(options: argparse.Namespace) -> int:
    """`mpnn-core eval`."""
    if find_spec("scipy") is None:
        raise CallError('intervals need scipy: pip install "mpnn-core[eval]"')
    corpora = [read_corpus(path) for path in options.corpora]
    model = _model(options)
    teacher = mpnn.load_model(options.teacher, "baseline", options.device, options.backend)
    settings = Settings(
        options.num_orders, options.num_sequences, options.temperature, options.seed or 0
    )
    with _progress(4 * sum(map(len, [ts50(), *corpora]))) as advance:
        found = compare(model, teacher, corpora, settings, advance)
    found |= {
        side: {
            "name": m.name,
            "variant": m.variant.name,
            "backend": m.backend.name,
            "sha256": file_sha256(weights_file(weights, m.variant)),
        }
        for side, m, weights in (
            ("model", model, options.weights), ("teacher", teacher, options.teacher),
        )
    }  # fmt: skip
    if options.out:
        text = json.dumps({"mpnn_core": mpnn.__version__} | found) + "\n"
        write_atomically(options.out, lambda file: file.write(text.encode()))
    _print_comparison(found)
    return 0


def _print_comparison(found: dict[str, Any]) -> None:
    """A table per set, and the loss to quote."""
    console = Console()
    console.width = max(console.width, 120)
    interval = f"{100 * found['settings']['confidence']:g} %"
    headings = ("teacher", "model", "loss", interval, f"{interval}, another sample")
    for name, of_set in found["sets"].items():
        size = f"{of_set['chains']} structures, {of_set['residues']} residues"
        table = Table(title=Text(f"{name}: {size}"), title_justify="left", box=None, pad_edge=False)
        table.add_column("metric", no_wrap=True)
        for heading in headings:
            table.add_column(heading, justify="right", no_wrap=True)
        for key, measured in of_set["metrics"].items():
            digits = 2 if METRICS[key].endswith("%") else 4
            numbers = [measured["teacher"], measured["model"], measured["loss"]["value"]]
            intervals = [measured["loss"], measured["loss_of_another_sample"]]
            table.add_row(
                METRICS[key],
                *(f"{number:.{digits}f}" for number in numbers),
                *(_interval(i, digits) for i in intervals),
            )
        console.print(table)
    console.print(
        f"{found['model']['name']}, {found['model']['variant']}, loses "
        f"{found['loss']['value']:.1f} [{_interval(found['loss'], 1)}] points of teacher-forced "
        f"recovery on {found['chains']} structures",
        markup=False,
    )


def _interval(found: dict[str, Any], digits: int) -> str:
    if found["low"] is None:
        return "too few"
    return f"{found['low']:.{digits}f} to {found['high']:.{digits}f}"


def run_distill(options: argparse.Namespace) -> int:
    """`mpnn-core distill`."""
    console = Console(stderr=True)

    def report(look: Look) -> None:
        found = [
            f"{name}: KL {divergence:.4f}"
            + (
                f", held out {look.held_out[name]:.4f}, recovery {100 * look.recovery[name]:.2f} %"
                if look.recovery
                else ""
            )
            for name, divergence in look.divergence.items()
        ]
        teacher = look.recovery.get("teacher")
        console.print(
            f"step {look.step} of {look.steps}, {look.seconds:.0f} s, "
            f"{look.residues_per_second:,.0f} residues/s; {'; '.join(found)}"
            + (f"; teacher: recovery {100 * teacher:.2f} %" if teacher else ""),
            highlight=False,
        )

    corpus = read_corpus(options.corpus, complain)
    validation = read_corpus(options.validation, complain) if options.validation else None
    values = dict(_pairs(options.set, "--set"))
    lessons = with_values(Lessons(), values)
    recipes = {name: with_values(recipe_for(name), values) for name in options.student}
    known = asdict(lessons) | asdict(Recipe())
    if unknown := values.keys() - known.keys():
        raise CallError(f"--set: {', '.join(unknown)}: expected one of {', '.join(known)}")
    if (options.out / "state").exists() and not options.resume:
        raise CallError(f"{options.out} holds a run; go on with --resume, or name another")
    run = Run(recipes, lessons, corpus, validation, options.device)
    if options.resume:
        run.resume(options.out)
    done = run.train(options.out, options.minutes, report)
    if not done:
        complain(f"stopped at step {run.step} of {lessons.steps}; --resume goes on")
    return 0


def run_export(options: argparse.Namespace) -> int:
    """`mpnn-core export`."""
    from mpnn_core.backends.coreml.packages import LEVEL_ROWS, Export, convert

    model = _load(options.weights, options.variant)
    try:
        exports = {
            Export(mode, LEVEL_ROWS if mode == "level" else rows, options.precision)
            for mode in options.mode or ["forward"]
            for rows in options.buckets
        }
        stem = f"{model.name.replace('/', '-')}-{options.variant}"
        for export in sorted(exports, key=lambda e: (e.mode, e.rows)):
            path = options.out / f"{stem}-{export.name}.mlpackage"
            print(convert(model.network, export, path, model.name))
    except (ValueError, UnavailableError) as error:
        raise CallError(str(error)) from None
    return 0
