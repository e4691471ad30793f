"""Options that several commands share, and what becomes of their texts."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import mpnn_core as mpnn
from mpnn_core.backends.registry import BACKENDS, LOSSES
from mpnn_core.design.model import RANDOM
from mpnn_core.structures.readers import structure_name
from mpnn_core.training.corpus import structure_files


class CallError(Exception):
    """The call is wrong; the message says what was expected."""


def _input_options(command: argparse.ArgumentParser) -> None:
    """What `design` and `score` share."""
    command.add_argument(
        "files", nargs="+", type=Path, metavar="FILE",
        help="PDB or mmCIF, plain or gzipped; of a folder, all such files",
    )  # fmt: skip
    command.add_argument(
        "--chains", metavar="A,B", help="chains to design, the others are context (default: all)"
    )
    command.add_argument(
        "--fixed", action="append", default=[], metavar="POSITIONS",
        help="residues to keep, by chain and author number: A52, A52B or A10-20,B7; repeatable",
    )  # fmt: skip
    _model_options(command)


def _model_options(command: argparse.ArgumentParser) -> None:
    """What all that compute share."""
    command.add_argument(
        "--seed", type=_number(int, 0), metavar="N",
        help="makes a run reproducible (default: design draws one and names it, others take 0)",
    )  # fmt: skip
    _weight_options(command)
    command.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    command.add_argument("--backend", default="auto", help=f"{', '.join(BACKENDS)} (default: auto)")


def _weight_options(command: argparse.ArgumentParser) -> None:
    """Which network it is."""
    command.add_argument(
        "--variant", default="baseline", choices=list(mpnn.VARIANTS), metavar="NAME",
        help="; ".join(_costs(variant) for variant in mpnn.VARIANTS.values()),
    )  # fmt: skip
    command.add_argument(
        "--weights", default="v_48_020", metavar="NAME",
        help="a published name, or a path to .pt or .safetensors (default: v_48_020)",
    )  # fmt: skip


def _costs(variant: mpnn.Variant) -> str:
    """A variant with what it loses, for the help."""
    said = {
        "exact": "exact; the default",
        "lossy": f"loses {variant.loss}",
        "unknown": "no trained weights",
    }
    return f"{variant.name} ({said[variant.accuracy]})".replace("%", "%%")


def complain(message: str) -> None:
    """One line on standard error."""
    print(f"mpnn-core: {message}", file=sys.stderr)


def _verdict(failures: int, files: int) -> int:
    if failures:
        complain(f"{failures} of {files} files failed")
    return int(failures > 0)


def _model(options: argparse.Namespace) -> mpnn.Model:
    model = _load(options.weights, options.variant, options.device, options.backend)
    if options.backend in LOSSES:
        complain(f"warning: backend {options.backend} is not exact: {LOSSES[options.backend]}")
    return model


def _load(weights: str, *arguments: str) -> mpnn.Model:
    if weights == RANDOM:
        raise CallError("random weights design nothing; they are for measurements of speed")
    try:
        model = mpnn.load_model(weights, *arguments)
    except mpnn.CheckpointError:
        raise
    except ValueError as error:
        raise CallError(str(error)) from None
    if model.loss:
        complain(f"warning: variant {model.variant.name} is not exact: it loses {model.loss}")
    return model


def _files(given: Iterable[Path]) -> list[Path]:
    """The structure files that are meant; refused if two would be written to one output."""
    files: list[Path] = []
    for path in given:
        if not path.is_dir():
            files.append(path)
            continue
        files += structure_files(path)
    by_name: dict[str, Path] = {}
    for file in files:
        other = by_name.setdefault(structure_name(file), file)
        if other is not file:
            raise CallError(
                f"{other} and {file} are both called {structure_name(file)}, and would be written "
                "to the same output; rename one, or run them apart"
            )
    return files


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error where that is a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    columns = (
        TextColumn("structures"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("structures", total=total)
        yield lambda count: bar.advance(task, count)


def _positions(given: Iterable[str]) -> list[str]:
    return [label for text in given for label in text.split(",") if label]


def _pairs(given: Iterable[str], option: str) -> Iterator[tuple[str, str]]:
    for text in given:
        for pair in text.split(","):
            name, equals, value = pair.partition("=")
            if not (name and equals and value):
                raise CallError(f"{option} {pair!r}: expected {option} NAME=VALUE")
            yield name, value


def _float(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise CallError(f"{option}: {text!r} is no number") from None


def _lengths(text: str) -> tuple[int, ...]:
    read = _number(int, 1)
    return tuple(sorted({int(read(part)) for part in text.split(",")}))


def _number(kind: type[int] | type[float], least: float) -> Callable[[str], int | float]:
    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no {kind.__name__}") from None
        if not least <= value < 2**63:
            raise argparse.ArgumentTypeError(f"{text} is out of range; expected at least {least}")
        return value

    return read
