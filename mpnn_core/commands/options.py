"""Options that several commands share, and the functions that read their values."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import mpnn_core as mpnn
from mpnn_core.backends.registry import BACKENDS, LOSSES


class CallError(Exception):
    """The call is wrong; the message says what was expected."""


class Parser(argparse.ArgumentParser):
    """A parser in which no option is taken twice with the last one winning.

    An option adds up if it says so, by its action; any other is refused the second time.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.register("action", None, _Once)


class _Once(argparse.Action):
    """Store a value, once."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        given: set[str] = vars(namespace).setdefault("given", set())
        if option is not None and self.dest in given:
            raise argparse.ArgumentError(self, "is given twice; expected once")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


def add_input_options(command: argparse.ArgumentParser, files: str = "+") -> None:
    """The options of `design` and `score`; `files` is how many, as in argparse."""
    command.add_argument(
        "files", nargs=files, type=Path, metavar="FILE",
        help="PDB or mmCIF files, plain or gzipped; a folder stands for all such files in it",
    )  # fmt: skip
    command.add_argument(
        "--read-chains", metavar="A,B",
        help="chains to read; the others, and their ligands, are not there at all (default: all)",
    )  # fmt: skip
    command.add_argument(
        "--cyclic", action="append", metavar="A,B",
        help="chains that are rings: residue offsets are counted around them; computed by plain "
        "torch; repeatable (default: none)",
    )  # fmt: skip
    command.add_argument(
        "--chains", action="append", metavar="A,B",
        help="chains to design; the others are kept, and seen by the network; ' ' is a blank "
        "chain id; repeatable (default: all)",
    )  # fmt: skip
    command.add_argument(
        "--fixed", action="append", default=[], metavar="SELECTION",
        help="residues to keep, by chain and author number: A52, A52B or A10-20,B7; A:52 where "
        "there are chains such as A and A5; or a selection, as 'interface:A/B:8 + near:HEM:6 - "
        "A52', of which mpnn-core select tells more; repeatable",
    )  # fmt: skip
    command.add_argument(
        "--redesign", "--redesigned", action="append", dest="redesigned", metavar="SELECTION",
        help="residues to design, in the same form; all others are kept; repeatable (default: all)",
    )  # fmt: skip
    command.add_argument(
        "--common-random-numbers", action="store_true",
        help="the same random numbers and decoding orders for all structures, to compare some "
        "that differ a little (default: each has its own)",
    )  # fmt: skip
    add_model_options(command)


def add_model_options(command: argparse.ArgumentParser) -> None:
    """The options of all commands that run the network."""
    command.add_argument(
        "--seed", type=number(int, 0), metavar="N",
        help="seed of all random numbers; the same seed gives the same result (default: design "
        "draws one and writes it in its output, other commands take 0)",
    )  # fmt: skip
    add_weight_options(command)
    command.add_argument("--device", default="cpu", help="cpu, cuda or mps (default: cpu)")
    command.add_argument(
        "--backend", default="auto", metavar="NAME",
        help=f"the implementation that computes: {', '.join(BACKENDS)} (default: auto, the fastest "
        "exact one on the device)",
    )  # fmt: skip


def add_weight_options(command: argparse.ArgumentParser) -> None:
    """The options that name a network and its weights."""
    command.add_argument(
        "--variant", default="baseline", choices=list(mpnn.VARIANTS), metavar="NAME",
        help="size of the network: " + variants_and_losses(),
    )  # fmt: skip
    command.add_argument(
        "--weights", default="v_48_020", metavar="NAME",
        help="a published or added checkpoint, such as v_48_010 or soluble (mpnn-core weights "
        "lists all), or the path of a .pt or .safetensors file (default: v_48_020)",
    )  # fmt: skip


def variants_and_losses() -> str:
    """Every variant and the accuracy that it loses, for the help."""
    accuracy = {
        "exact": lambda variant: "exact; the default",
        "lossy": lambda variant: f"loses {variant.loss}",
        "unknown": lambda variant: "no trained weights",
    }
    texts = [f"{v.name} ({accuracy[v.accuracy](v)})" for v in mpnn.VARIANTS.values()]
    return "; ".join(texts).replace("%", "%%")


def number(
    kind: type[int] | type[float], least: float, most: float = 2**63 - 1
) -> Callable[[str], int | float]:
    """A reader of numbers from `least` to `most`, for argparse: the one home of their bounds."""

    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no {kind.__name__}") from None
        if not least <= value <= most:  # NaN is not
            above = "" if most == 2**63 - 1 else f", and at most {most:g}"
            raise argparse.ArgumentTypeError(
                f"{text} is out of range; expected at least {least:g}{above}"
            )
        return value

    return read


def numbers(least: float) -> Callable[[str], list[float]]:
    """A reader of several numbers of at least `least`, "0.1 0.2" or "0.1,0.2", for argparse."""
    read = number(float, least)
    return lambda text: [read(part) for part in re.split(r"[,\s]+", text.strip())]


def constraints_of(options: argparse.Namespace) -> dict[str, Any]:
    """What `add_input_options` states, as arguments of Constraints."""
    return {
        "chains": None if options.chains is None else ",".join(options.chains),
        "fixed": options.fixed,
        "redesigned": options.redesigned,
    }


def pairs(texts: Iterable[str], option: str) -> Iterator[tuple[str, str]]:
    """["A=1,B=2", "C,D=3"] -> ("A", "1"), ("B", "2"), ("C,D", "3")."""
    for text in texts:
        names: list[str] = []
        for part in re.split(r"[,\s]+", text.strip()):
            name, equals, value = part.partition("=")
            names.append(name)
            if equals:
                if not (name and value):
                    break
                yield ",".join(names), value
                names = []
        if names:
            raise CallError(f"{option} {','.join(names)!r}: expected {option} NAME=VALUE")


def settings(texts: Iterable[str], option: str) -> dict[str, str]:
    """The same as a dict, where a name has one value."""
    values: dict[str, str] = {}
    for name, value in pairs(texts, option):
        if name in values:
            raise CallError(f"{option}: {name} is given twice; expected once")
        values[name] = value
    return values


def structure_paths(paths: Iterable[Path]) -> list[Path]:
    """The structure files of folders, patterns and lists; refused if two have one output name."""
    from mpnn_core.runs.inputs import InputError, list_items

    try:
        items = list_items(paths, complain)
    except InputError as error:
        raise CallError(str(error)) from None
    for item in items:
        if item.member:
            raise CallError(
                f"{item.path}: archives and tables of backbones are inputs of mpnn-core design "
                "alone; give the structures as files"
            )
    return [item.path for item in items]


def check_outputs(folders: Iterable[Path], files: Iterable[Path], option: str = "--out") -> None:
    """Refuse folders that cannot be written to, and say which files will be replaced.

    Before anything is computed: the work would be lost, or what is there. `option` names them.
    """
    from mpnn_core.structures.files import check_folder

    for folder in folders:
        try:
            check_folder(folder)
        except OSError as error:
            raise CallError(
                f"{option}: nothing can be written to {folder}: {error.strerror or error}"
            ) from None
    there = [file for file in files if os.path.lexists(file)]
    for file in there:
        if file.is_dir() and file.suffix != ".mlpackage":  # a package is a folder
            raise CallError(f"{option}: {file} is a folder; a file is to be written there")
    if there:
        more = f" and {len(there) - 3} more" if there[3:] else ""
        complain(f"warning: replaced: {', '.join(map(str, there[:3]))}{more}")


def model_of(options: argparse.Namespace) -> mpnn.Model:
    """The model that the options name, with a warning if it is not exact."""
    model = load_model(
        options.weights, options.variant, options.device, options.backend,
        getattr(options, "side_chain_context", False),
    )  # fmt: skip
    if options.backend in LOSSES:
        complain(f"warning: backend {options.backend} is not exact: {LOSSES[options.backend]}")
    return model


def load_model(weights: str | Path, *arguments: Any) -> mpnn.Model:
    """`mpnn_core.load_model`, with its errors as CallError, and a warning of a lossy variant."""
    if weights == "random":
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


@contextlib.contextmanager
def progress(total: int, prints: bool = False) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error if that is a terminal; nothing otherwise.

    Nothing either if the command `prints` its results, and prints them to a terminal: they show
    the progress, and a bar would be written between them.
    """
    if not sys.stderr.isatty() or (prints and sys.stdout.isatty()):
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("structures"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    # Not redirected, for rich would send standard output to this console, which is standard error.
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as bar:
        task = bar.add_task("structures", total=total)
        yield lambda count: bar.advance(task, count)


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a scheduler sends it: the command ends as it does on Ctrl-C."""


@contextlib.contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Raise `Terminated` where SIGTERM comes; only the main thread of a process can."""

    def end(*_: Any) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def warnings_in_a_line() -> Iterator[None]:
    """Show what the library warns of as a line on standard error, each text once."""

    def show(message: Warning | str, *_: Any) -> None:
        complain(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show  # type: ignore[assignment]  # it takes what it needs
        yield


def complain(message: str) -> None:
    """One line on standard error."""
    line = " ".join(message.splitlines())
    # The name of a file may hold bytes that are no text.
    print(f"mpnn-core: {line.encode(errors='backslashreplace').decode()}", file=sys.stderr)


def complain_of(file: Path, error: Exception, undone: str = "") -> None:
    """One line on standard error that names a file, what could not be done, and why."""
    from mpnn_core.design.isolation import reason

    said = f"{undone}: {reason(error)}" if undone else reason(error)
    complain(said if said.startswith(str(file)) else f"{file}: {said}")


def exit_code(failures: int, files: int) -> int:
    """0 if no file failed; otherwise 1, and the number of failures on standard error."""
    if failures:
        complain(f"{failures} of {files} files failed")
    return int(failures > 0)
