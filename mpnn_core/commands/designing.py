"""What `mpnn-core design` does for each structure, in this process or in others, and its folder."""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import mpnn_core as mpnn
from mpnn_core.commands.at_residues import (
    biases_of,
    number_in,
    profiles_of,
    temperatures_at,
    tied_of,
)
from mpnn_core.commands.constraints import Constraining
from mpnn_core.commands.options import (
    CallError,
    check_outputs,
    complain,
    complain_of,
    constraints_of,
    ending_on_sigterm,
    exit_code,
    model_of,
    pairs,
    progress,
    warnings_in_a_line,
)
from mpnn_core.commands.outcome import Outcome, Page
from mpnn_core.commands.surroundings import Reader

if TYPE_CHECKING:
    from mpnn_core.runs.folder import Done, Failed, Parts, RunFolder
    from mpnn_core.runs.inputs import Item, Shard

STANDARD_OUTPUT = Path("-")
PARQUET = "parquet"
MOST_FILES = 10_000
"""Structures that get a FASTA file each unless it is asked for; more go into Parquet files."""
STRUCTURES_A_PART = 1_000
MANY = 10
"""Structures from which on a run ends with a line on how many it designed in what time."""
BATCH, BATCH_ON_GPU = 32, 256
"""Structures that a process is given at a time."""
CORES_A_PROCESS, FEWEST_A_PROCESS = 4, 100
"""Of a CPU: cores that a process computes on, and structures that are worth starting one."""
MOST_ON_A_GPU, GPU_BYTES_A_PROCESS = 8, 9 << 30
"""Processes on one GPU: it computes faster than one of them reads and writes."""
GPU_SHARED = 0.9
"""Of a GPU's memory, what several processes on it may take together besides their contexts."""
ROWS_ON_GPU = 1 << 19
"""Residues in all sequences from which on a GPU is given no more at a time."""

# Options that do not change the results.
FREE = frozenset((
    "files", "out", "run", "given", "seed", "workers", "device", "shard", "restart", "page",
    "cluster",
    "table",
))  # fmt: skip


class Work(NamedTuple):
    """What designing needs besides the options: made once, and told to every process, which has
    so many `threads`, and whose device so many processes are `sharing`."""

    options: argparse.Namespace
    seed: int
    files: list[Path]
    prints: bool
    parquet: bool
    threads: int
    sharing: int


class _Opened(NamedTuple):
    """A structure that is read: where from, the sha256 of its content, what may change in it."""

    item: Item
    digest: str
    constraints: mpnn.Constraints


class Designing:
    """Designs structures as the options say, and writes what belongs to each.

    The same object works in this process, in each of several, and on a shard.
    """

    def __init__(self, work: Work, model: mpnn.Model, options: argparse.Namespace) -> None:
        self.work, self.options, self.model = work, work.options, model
        self.constraining = Constraining(work.options, design_constraints(work.options), work.files)
        self.profiles = profiles_of(work.options)
        self.read = Reader(work.options, model, work.files)
        self.outcome = Outcome(options, work.parquet)  # on the device of this process

    def each(self, items: Iterable[Item]) -> Iterator[Done | Failed]:
        """The outcome of every item, as many computed in one call as the model computes well."""
        from mpnn_core.design.isolation import isolated
        from mpnn_core.training.corpus import ROWS_PER_CALL, batched

        failed: list[Failed] = []
        opened: dict[mpnn.Structure, _Opened] = {}

        def usable() -> Iterator[mpnn.Structure]:
            for item in items:
                try:
                    structure, about = self._opened(item)
                # Whatever is wrong with a file, the others are designed.
                except Exception as error:
                    failed.append(_failed(item, error))
                else:
                    opened[structure] = about
                    yield structure

        def designs(structures: Sequence[mpnn.Structure]) -> Iterator[Any]:
            options = self.options
            return self.model.design_and_score(
                structures, options.num_sequences, options.temperature or [0.1], self.work.seed,
                [opened[structure].constraints for structure in structures],
                None if options.orders == "random" else options.orders,
                options.common_random_numbers, options.backbone_noise,
            )  # fmt: skip

        on_gpu = self.model.device.type == "cuda"
        rows = ROWS_ON_GPU if on_gpu else ROWS_PER_CALL
        for structures in batched(usable(), self.options.num_sequences, rows):
            yield from _taken(failed)
            for structure, result in isolated(designs, structures):
                item, digest, _ = opened.pop(structure)
                try:
                    if isinstance(result, Exception):
                        raise result
                    yield self._written(item, digest, structure, *result)
                except BrokenPipeError:  # nobody reads any further
                    raise
                except Exception as error:
                    yield _failed(item, error)
        yield from _taken(failed)

    def _opened(self, item: Item) -> tuple[mpnn.Structure, _Opened]:
        """The structure of an item as the model sees it."""
        from mpnn_core.runs.inputs import file_digest, row_digest

        if item.is_row:
            row, file = item.structure(), item.path
            digest, structure = row_digest(row), self.read.of(row, file)
            own = self.constraining(structure, file)
        else:
            with item.file() as file, _named(file, item.source):
                # Of the content before it is read: what changes meanwhile is designed again.
                digest = _digest(partial(file_digest, file))
                try:
                    structure = self.read(file)
                    own = self.constraining(structure, file)
                except mpnn.StructureError as error:
                    error.file = item.source
                    raise
        if self.profiles is not None and own.pssm is not None:
            raise mpnn.ConstraintError(
                f"{structure.name}: a PSSM is stated by --constraints and by --pssm; expected one "
                "of them"
            )
        if self.profiles is not None:
            own = replace(own, pssm=self.profiles.of(structure))
        own.check(structure)
        if structure.name != item.name:  # which its own cannot be in files
            structure = replace(structure, name=item.name)
        return structure, _Opened(item, digest, own)

    def _written(
        self, item: Item, digest: str, structure: mpnn.Structure, made: Any, native: Any
    ) -> Done:
        from mpnn_core.runs.folder import Done

        kept = self.outcome.chosen(made)
        try:
            if not self.work.parquet:
                write_designs(self.options, kept, native)
            rows = self.outcome.write(digest, kept)
        except BrokenPipeError:
            raise
        except Exception as error:
            raise _WriteError(f"cannot write the designs of {structure.name}", error) from None
        return Done(item.name, digest, rows)


def _digest(of_content: Callable[[], str]) -> str:
    """A sha256; "0" where the content cannot be read, which reading it will say."""
    try:
        return of_content()
    except Exception:  # whatever damaged content leads libraries to raise
        return "0"


@contextmanager
def _named(file: Path, source: str) -> Iterator[None]:
    """Let warnings name the source of a file that is a copy."""
    if str(file) == source:
        yield
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield
    for warning in said:
        text = str(warning.message).replace(str(file), source)
        warnings.warn(text, warning.category, stacklevel=2)


class _WriteError(Exception):
    """What could not be done, and why."""

    def __init__(self, undone: str, error: Exception) -> None:
        super().__init__(undone, error)
        self.undone, self.error = undone, error


def _taken(failed: list[Failed]) -> list[Failed]:
    taken, failed[:] = list(failed), []
    return taken


def _failed(item: Item, error: Exception) -> Failed:
    from mpnn_core.design.isolation import reason
    from mpnn_core.runs.folder import Failed

    undone = ""
    if isinstance(error, _WriteError):
        undone, error = f"{error.undone}: ", error.error
    chain, residue = (getattr(error, name, None) or "" for name in ("chain", "residue"))
    said = reason(error).removeprefix(f"{item.source}: ")  # which has a column of its own
    return Failed(item.name, item.source, chain, residue, undone + said)


def run_design(options: argparse.Namespace) -> int:
    """Design all inputs; see `commands.design`."""
    from mpnn_core.runs.folder import RunError
    from mpnn_core.runs.inputs import InputError, Shard, list_items

    prints = options.out == STANDARD_OUTPUT
    for given, option in (
        (options.save_probs, "--save-probs"), (options.format is not None, "--format"),
        (options.shard is not None, "--shard"), (options.workers not in (None, 1), "--workers"),
        (options.cluster is not None, "--cluster"),
    ):  # fmt: skip
        if given and prints:
            raise CallError(f"{option} writes files; give --out a folder instead of -")
    try:
        shard = None if options.shard is None else Shard.parse(options.shard)
        items = list_items(options.files, complain)
        running = Running(options, items, shard)
        with ExitStack() as stack:
            stack.enter_context(ending_on_sigterm())
            run = None if prints else _folder(options, shard, running.parquet)
            if run is not None:
                stack.enter_context(run)
            failures = 0
            for failed in running.failures(run):
                complain_of(Path(failed.file), _SaidError(failed.reason))
                failures += 1
                if run is not None:
                    run.add_failure(failed)
    except (InputError, RunError) as error:
        raise CallError(str(error)) from None
    return exit_code(failures, running.count)


class _SaidError(ValueError):
    """A reason that is a sentence already."""


def _folder(options: argparse.Namespace, shard: Shard | None, parquet: bool) -> RunFolder:
    from mpnn_core.runs.folder import RunFolder

    check_outputs([options.out], [])
    drawn = secrets.randbits(32)
    settings = settings_of(options) | {"format": PARQUET if parquet else "fasta"}
    return RunFolder(
        options.out, settings, mpnn.__version__, options.seed, drawn,
        "" if shard is None else str(shard), options.restart,
    )  # fmt: skip


def design_constraints(options: argparse.Namespace) -> mpnn.Constraints:
    """The constraints that the options state. Small letters are capitals."""
    from mpnn_core.sampling.constraints import letter_index, letter_indices

    omit_at: dict[int | str, str] = {}
    for at, letters in pairs(options.omit_at, "--omit-at"):
        omit_at[at] = f"{omit_at[at]},{letters.upper()}" if at in omit_at else letters.upper()
    bias: dict[str, float] = {}
    for given, value in pairs(options.bias, "--bias"):
        for letter in given.upper().split(","):
            bias[letter] = bias.get(letter, 0.0) + number_in(value, "--bias", "bias")
    omit = ",".join([*options.omit, "X"]).upper()
    for option, of, values in (
        ("--omit", letter_indices, [omit]),
        ("--omit-at", letter_indices, omit_at.values()),
        ("--bias", letter_index, bias),
    ):
        for value in values:
            try:
                of(value)
            except mpnn.ConstraintError as error:
                raise CallError(f"{option}: {error}") from None
    return mpnn.Constraints(
        **constraints_of(options),
        omit=omit,
        omit_at=omit_at,
        tied=tied_of(options.tied),
        tied_chains=options.tied_chains,
        bias=bias,
        bias_at=biases_of(options.bias_at),
        temperature_at=temperatures_at(options.temperature_at),
    )


def settings_of(options: argparse.Namespace) -> dict[str, str]:
    """What the results depend on: the options, with the sha256 of each file that one names."""
    found = {"mpnn_core": mpnn.__version__}
    for name, value in vars(options).items():
        if name in FREE or value in (None, [], False):
            continue
        texts = [str(each) for each in (value if isinstance(value, list) else [value])]
        for i, text in enumerate(texts):
            path = Path(text.partition("=")[2] or text) if name == "constraints" else Path(text)
            if len(text) < 4096 and path.is_file():
                texts[i] = f"{text} (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]})"
        found[name] = " ".join(texts)
    found["weights"] += f" (sha256 {_weights_sha256(options)[:16]})"
    return found


def _weights_sha256(options: argparse.Namespace) -> str:
    from mpnn_core.network.checkpoints import file_sha256, resolve
    from mpnn_core.network.variants import find_variant

    path = resolve(options.weights, find_variant(options.variant)).path
    return "" if path is None else file_sha256(path)


class Running:
    """A run that is checked: what is wrong with the call is said before anything is written.

    Raises
    ------
    CallError
        An option does not fit another one, the model or the inputs.
    """

    def __init__(self, options: argparse.Namespace, items: list[Item], shard: Shard | None) -> None:
        self.options, self.items, self.shard = options, items, shard
        many = len(items) > MOST_FILES
        self.parquet = options.format == PARQUET or (options.format is None and many)
        if self.parquet and (
            options.save_probs or options.structures or options.programs or options.pack
        ):
            raise CallError(
                "--format parquet has rows alone; expected no --save-probs, --structures, --pack "
                "or --for"
            )
        if self.parquet and options.table is not None:
            raise CallError("--table: --format parquet writes the same rows; leave one out")
        if options.page is not None and ((options.workers or 1) > 1 or options.cluster):
            raise CallError("--page is made by one process; leave out --workers and --cluster")
        # Only what these options say is checked against the files; they may be a million.
        checked = options.ligands or options.fixed_from
        files = [item.path for item in items if not item.member] if checked else []
        prints = options.out == STANDARD_OUTPUT
        self.count = len(items) // (1 if shard is None else shard.of)  # about; then of this shard
        self.places = _places(options, self.count)
        # An actor of a cluster has one core.
        threads = 1 if options.cluster else max(1, _cores() // len(self.places))
        sharing = 1 if options.cluster else self.places.count(self.places[0])
        self.work = Work(options, 0, files, prints, self.parquet, threads, sharing)
        self.designing: Designing | None = None
        if len(self.places) == 1 and options.cluster is None:
            placed = _on(options, self.places[0])
            self.designing = Designing(self.work, model_of(placed), placed)
            _ = self.designing.outcome.packing
        else:  # the processes load it
            Constraining(options, design_constraints(options), files)
        self.outcome = Outcome(options, self.parquet)
        self.outcome.check(prints)
        self.outcome.page = Page(options.page)

    def failures(self, run: RunFolder | None) -> Iterator[Failed]:
        """Design what is left of a run; what fails."""
        from mpnn_core.runs.folder import Failed, Parts

        began = time.monotonic()
        parts = None
        if run is not None and self.parquet:
            parts = Parts(run, _write_rows, _read_part, _drop_rows, STRUCTURES_A_PART)
        names, left, moved = self._left(run, parts)
        self.count = len(names)
        if run is not None:
            _say_what_is_there(self.options, run, self.count, left, self.parquet)
            # What an earlier line said is not so while it is designed anew.
            anew = [item.name for item in left] + moved
            run.forget([name for name in anew if name in run.lines])
            if parts is not None:
                parts.drop(anew)
            for name in moved:
                complain(f"note: {name} has changed, and is of another shard now; removed here")
                (self.options.out / "seqs" / f"{name}.fa").unlink(missing_ok=True)
        seed = self.options.seed if run is None else run.seed
        work = self.work._replace(seed=secrets.randbits(32) if seed is None else seed)
        failed = 0
        printed: list[dict[str, Any]] = []
        try:
            with progress(len(left), work.prints) as advance:
                for result in self._results(work, left):
                    advance(1)
                    if isinstance(result, Failed):
                        failed += 1
                        yield result
                    elif run is None:
                        printed += result.rows or []
                    elif parts is not None:
                        parts.add(result)
                    else:
                        run.add(result)
        finally:
            if parts is not None:
                parts.write()
        self.outcome.finish(printed if run is None else run.rows(names))
        if run is not None:
            run.end()
        designed = len(left) - failed
        if run is not None and designed >= MANY:
            seconds = time.monotonic() - began
            complain(
                f"{self.options.out}: {designed:,} structures designed in {seconds:.1f} s, "
                f"{designed / seconds:.3g} a second"
            )

    def _left(
        self, run: RunFolder | None, parts: Parts | None
    ) -> tuple[list[str], list[Item], list[str]]:
        """The names of the items of this shard, the items that are not done, and the names of those
        that are done and were of this shard before they changed.

        Content is hashed where it says something: which shard it is of, or whether it has changed.
        What is new is hashed where it is read.
        """
        names: list[str] = []
        left: list[Item] = []
        moved: list[str] = []
        for item in self.items:
            known = None if run is None else run.lines.get(item.name)
            digest = ""
            if self.shard is not None or known is not None:
                digest = _digest(item.digest)
            if self.shard is not None and not self.shard.holds(digest):
                moved += [] if known is None else [item.name]
                continue
            names.append(item.name)
            results = _results(self.options, item, self.parquet)
            is_done = run is not None and run.is_done(item.name, digest, results)
            if is_done and parts is not None:
                is_done = parts.has(item.name)
            if is_done and self.options.table is not None:
                is_done = known is not None and known.rows is not None  # made with a table
            if not is_done:
                left.append(item)
        return names, left, moved

    def _results(self, work: Work, items: list[Item]) -> Iterator[Done | Failed]:
        """Every item's outcome, from this process or from several."""
        from mpnn_core.runs.workers import Workers

        if self.designing is not None:
            self.designing.work = work
            self.designing.outcome.page = self.outcome.page
            yield from self.designing.each(iter(items))
            return
        if self.options.cluster is not None:
            from mpnn_core.runs.ray import RayWorkers

            cluster: RayWorkers[Item, Any] = RayWorkers(
                self.options.cluster, self.options.workers, self.options.device,
                partial(_prepare, work), _lost, MOST_ON_A_GPU,
            )  # fmt: skip
            cluster.prepare = partial(_prepare, work._replace(sharing=cluster.sharing))
            yield from cluster.results(iter(items), self._together(items, cluster.count))
            return
        places = [f"{i}:{place}" for i, place in enumerate(self.places)]
        workers: Workers[Item, Any] = Workers(
            places, partial(_prepare, work), _lost, "mpnn-core design"
        )
        yield from workers.results(iter(items), self._together(items, len(places)))

    def _together(self, items: list[Item], processes: int) -> int:
        """Structures that a process is given at a time: few enough that none waits at the end."""
        most = BATCH_ON_GPU if self.options.device.startswith("cuda") else BATCH
        return max(1, min(most, len(items) // (2 * processes)))


def _results(options: argparse.Namespace, item: Item, parquet: bool) -> list[Path]:
    """The files that say that an item is done, besides the log."""
    return [] if parquet else [options.out / "seqs" / f"{item.name}.fa"]


def _say_what_is_there(
    options: argparse.Namespace, run: RunFolder, count: int, left: list[Item], parquet: bool
) -> None:
    """Say what is continued, and which files of others are replaced."""
    there = count - len(left)
    if run.removed:
        complain(f"note: {options.out}: {run.removed} parts of an earlier run are removed")
    if there:
        complain(f"note: {options.out}: continued, {there} of {count} structures are done")
        if options.page is not None:
            complain(f"note: {options.page} shows what this call designs alone")
    if parquet:
        check_outputs([options.out / "designs"], [])
        return
    folders = {"seqs": ".fa"} | ({"probs": ".npz"} if options.save_probs else {})
    check_outputs(
        [options.out / folder for folder in folders],
        [
            options.out / folder / f"{item.name}{ending}"
            for item in left
            for folder, ending in folders.items()
        ],
    )


def _places(options: argparse.Namespace, items: int) -> list[str]:
    """Where the processes compute: a device each."""
    devices = [options.device]
    if options.device == "cuda":
        import torch

        devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())] or devices
    count = options.workers
    if count is None and (options.page is not None or options.out == STANDARD_OUTPUT):
        count = 1
    if count is None:
        count = _best_count(devices, items)
    count = max(1, min(count, items))
    return [devices[i % len(devices)] for i in range(count)]


def _best_count(devices: list[str], items: int) -> int:
    """How many processes design a run fastest: docs/notes/runs.md has the figures.

    Their start takes seconds, so that a few structures are best left to one on each device.
    """
    if devices == ["cpu"]:
        return min(_cores() // CORES_A_PROCESS, items // FEWEST_A_PROCESS)
    if not devices[0].startswith("cuda"):
        return 1
    import torch

    if not torch.cuda.is_available():  # which loading the model will say
        return 1
    of_cores = _cores() // (2 * len(devices))
    of_memory = torch.cuda.get_device_properties(devices[0]).total_memory // GPU_BYTES_A_PROCESS
    of_items = items // (BATCH_ON_GPU * len(devices))
    return len(devices) * max(1, min(MOST_ON_A_GPU, of_cores, of_memory, of_items))


def _on(options: argparse.Namespace, device: str) -> argparse.Namespace:
    return argparse.Namespace(**(vars(options) | {"device": device}))


def _prepare(work: Work, place: str) -> Callable[[list[Item]], list[Done | Failed]]:
    """Load the model in a process, and give what designs a batch there."""
    import torch

    number, _, device = place.partition(":")
    warnings_in_a_line().__enter__()  # for as long as the process lives
    torch.set_num_threads(work.threads)
    if device.startswith("cuda") and work.sharing > 1:
        # What torch keeps for later is not free for the others; each gets its part of the memory.
        index = torch.device(device).index
        torch.cuda.set_per_process_memory_fraction(GPU_SHARED / work.sharing, index)
    options = _on(work.options, device)
    if number != "0":  # what is said of the model is said once
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            model = model_of(options)
    else:
        model = model_of(options)
    designing = Designing(work, model, options)
    return partial(_designed, designing)


def _cores() -> int:
    from mpnn_core.backends.native.cores import available_cores

    return available_cores()


def _designed(designing: Designing, items: list[Item]) -> list[Done | Failed]:
    return list(designing.each(iter(items)))


def _lost(item: Item, place: str, why: str) -> Failed:
    from mpnn_core.runs.folder import Failed

    said = f"its process ended twice, the second time with this structure alone: {why}"
    return Failed(item.name, item.source, "", "", said)


def _read_part(path: Path) -> Iterator[tuple[str, str]]:
    """The names and digests of the structures of a part."""
    from pyarrow import parquet

    table = parquet.read_table(path, columns=["structure", "input_sha256"])
    yield from zip(table["structure"].to_pylist(), table["input_sha256"].to_pylist(), strict=True)


def _drop_rows(path: Path, names: Collection[str]) -> None:
    """Write a part anew without some structures; remove it where nothing is left."""
    import pyarrow
    from pyarrow import compute, parquet

    from mpnn_core.structures.files import opened_atomically

    table = parquet.read_table(path)
    dropped = compute.is_in(table["structure"], value_set=pyarrow.array(sorted(names)))
    kept = table.filter(compute.invert(dropped))
    if not len(kept):
        path.unlink()
        return
    with opened_atomically(path) as file:
        parquet.write_table(kept, file)


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    from mpnn_core.design.table import write_table

    write_table(path, rows)


def write_designs(
    options: argparse.Namespace, designs: Sequence[mpnn.Designs], native: mpnn.Scores
) -> None:
    """Write the designs of one structure, those at each temperature."""
    import numpy as np

    from mpnn_core.design.results import format_designs
    from mpnn_core.structures.files import output_name, write_atomically

    text = format_designs(designs, native, mpnn.__version__)
    if options.out == STANDARD_OUTPUT:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    structure = designs[0].structure
    name = output_name(structure.name)
    if options.save_probs:
        letters = [sequence for at in designs for sequence in at.sequences]
        confidences: dict[str, Any] = {
            f"{kind}_confidence": np.concatenate([getattr(at, name) for at in designs])
            for kind, name in (("overall", "confidence"), ("ligand", "ligand_confidence"))
            if designs[0].ligand_confidence is not None
        }
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
                **confidences,
            ),
        )
    # The FASTA file is written last: where it exists, the other file does too.
    write_atomically(options.out / "seqs" / f"{name}.fa", lambda file: file.write(text.encode()))
