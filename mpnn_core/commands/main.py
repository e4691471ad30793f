"""The command line: design, score, eval, distill, export, and what gate/commands.py adds.

Exit codes: 0, all is well; 1, a file failed and the others are done, or a gate failed; 2, the call
itself is wrong, and nothing was written.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import mpnn_core as mpnn
from mpnn_core.backends.contract import UnavailableError
from mpnn_core.backends.coreml.buckets import BUCKETS
from mpnn_core.backends.registry import BACKENDS, LOSSES
from mpnn_core.design.model import RANDOM
from mpnn_core.design.results import format_designs
from mpnn_core.gate import GateError
from mpnn_core.gate.commands import add_commands
from mpnn_core.network.checkpoints import file_sha256, weights_file
from mpnn_core.sampling.orders import COLOURED
from mpnn_core.structures.fasta import FastaError, read_sequences
from mpnn_core.structures.files import write_atomically
from mpnn_core.structures.readers import structure_name
from mpnn_core.training.corpus import CorpusError, batches, read_corpus, structure_files
from mpnn_core.training.evaluate import DEFAULT, ReferenceModelError, Settings, compare, ts50
from mpnn_core.training.metrics import METRICS
from mpnn_core.training.recipes import DistillError, Lessons, Recipe, recipe_for, with_values
from mpnn_core.training.run import Look, Run

WRONG_CALL = 2


class CallError(Exception):
    """The call is wrong; the message says what was expected."""


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
