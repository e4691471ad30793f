"""`mpnn-core eval`: the accuracy that a model loses against the published one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mpnn_core as mpnn
from mpnn_core.commands.options import (
    CallError,
    add_model_options,
    check_outputs,
    load_model,
    model_of,
    number,
    progress,
)
from mpnn_core.training.recipes import EvaluationSettings, bounds

DEFAULT = EvaluationSettings()
BESIDES = {"context": "the atoms around them", "membrane": "labels of the membrane"}


def add_parser(commands: Any) -> None:
    """Add the command to `mpnn-core`."""
    evaluation = commands.add_parser(
        "eval", help="measure the accuracy that a variant or other weights lose",
        description="Measure the recovery, perplexity and KL divergence that a variant or other "
        "weights lose against the published model, their teacher, with confidence intervals.",
    )  # fmt: skip
    evaluation.add_argument(
        "corpora", nargs="*", type=Path, metavar="CORPUS",
        help="structures to evaluate on besides TS50: folders of structure files, or npz files of "
        "chains; the loss on the last one is the one to quote",
    )  # fmt: skip
    add_model_options(evaluation)
    evaluation.add_argument(
        "--teacher", default="v_48_020", metavar="NAME",
        help="the weights to compare with, of the published shape (default: v_48_020)",
    )  # fmt: skip
    evaluation.add_argument(
        "--num-orders", type=within("num_orders"), default=DEFAULT.num_orders, metavar="N",
        help=f"random decoding orders per structure (default: {DEFAULT.num_orders})",
    )  # fmt: skip
    evaluation.add_argument(
        "-n", "--num-sequences", type=within("num_sequences"), default=DEFAULT.num_sequences,
        metavar="N",
        help=f"designs per structure (default: {DEFAULT.num_sequences})",
    )  # fmt: skip
    evaluation.add_argument(
        "-T", "--temperature", type=within("temperature"), default=DEFAULT.temperature,
        metavar="T",
        help=f"sampling temperature of the designs (default: {DEFAULT.temperature})",
    )  # fmt: skip
    evaluation.add_argument(
        "--out", type=Path, metavar="FILE", help="write all results to this file, as JSON"
    )
    evaluation.set_defaults(run=run)


def within(name: str) -> Callable[[str], int | float]:
    """A reader of one of the settings, for argparse."""
    return number(type(getattr(DEFAULT, name)), *bounds(EvaluationSettings, name))


def run(options: argparse.Namespace) -> int:
    """Print a table per set of structures, and the loss to quote."""
    from mpnn_core.network.checkpoints import file_sha256, weights_file
    from mpnn_core.structures.files import write_atomically
    from mpnn_core.training.corpus import read_corpus
    from mpnn_core.training.evaluate import ReferenceModelError, compare_with_teacher, ts50

    if find_spec("scipy") is None:
        raise CallError("the intervals need scipy, which is not installed: pip install scipy")
    if options.out:
        check_outputs([options.out.parent], [options.out])
    corpora = [read_corpus(path) for path in options.corpora]
    model = model_of(options)
    teacher = load_model(options.teacher, "baseline", options.device, options.backend)
    for compared in (model, teacher):
        if more := sorted(compared.reads & {"context", "membrane"}):
            raise CallError(
                f"eval compares models on backbones alone, and {compared.name} reads "
                f"{' and '.join(BESIDES[what] for what in more)} as well"
            )
    settings = EvaluationSettings(
        options.num_orders, options.num_sequences, options.temperature, options.seed or 0
    )
    with progress(4 * sum(map(len, [ts50(), *corpora]))) as advance:
        try:
            comparison = compare_with_teacher(model, teacher, corpora, settings, advance)
        except ReferenceModelError as error:
            raise CallError(str(error)) from None
    comparison |= {
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
        text = json.dumps({"mpnn_core": mpnn.__version__} | comparison) + "\n"
        write_atomically(options.out, lambda file: file.write(text.encode()))
    _print(comparison)
    return 0


def _print(comparison: dict[str, Any]) -> None:
    """A table per set, and the loss to quote."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from mpnn_core.training.metrics import METRICS

    console = Console()
    console.width = max(console.width, 120)
    level = f"{100 * comparison['settings']['confidence']:g} %"
    headings = ("teacher", "model", "loss", f"{level} interval", f"{level} prediction interval")
    for name, of_set in comparison["sets"].items():
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
        f"{comparison['model']['name']}, {comparison['model']['variant']}, loses "
        f"{comparison['loss']['value']:.1f} [{_interval(comparison['loss'], 1)}] points of "
        f"teacher-forced recovery on {comparison['chains']} structures",
        markup=False,
    )


def _interval(interval: dict[str, Any], digits: int) -> str:
    if interval["low"] is None:
        return "too few"
    return f"{interval['low']:.{digits}f} to {interval['high']:.{digits}f}"
