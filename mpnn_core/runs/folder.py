"""A run is a folder: what it is made with, what is done, and what failed.

DIR/run/run.json is the manifest: settings, seed, version. DIR/run/done.jsonl has a line for each
structure that is done, written after its results; DIR/failures.csv one for each that failed.
DIR/run/ended is there once nothing is left. A line that was cut by the end of the process does not
count, so its structure is done again, to the same bytes. No clock is read.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

from mpnn_core.structures.files import write_atomically

RUN, MANIFEST, DONE, LOCK, FAILURES = "run", "run.json", "done.jsonl", "lock", "failures.csv"
ENDED = "ended"
PARTS = "designs/part-*.parquet"
FAILURE_COLUMNS = ("file", "chain", "residue", "reason")


class RunError(ValueError):
    """A folder that cannot be continued; the message says why, and what to do."""


class Done(NamedTuple):
    """A structure whose results are written: its name, the sha256 of its content ("" takes back
    what an earlier line said), and its rows of the table, or the part that has them; None where it
    was made without a table."""

    name: str
    digest: str
    rows: list[dict[str, Any]] | None


class Line(NamedTuple):
    """Where the log says that a structure is done: the sha256 of its content, how many rows there
    are, and the first byte of the line. The rows stay in the file, for they may be many."""

    digest: str
    rows: int | None
    start: int


class Failed(NamedTuple):
    """A structure without results: which, and why; chain and residue are "" where not known."""

    name: str
    file: str
    chain: str
    residue: str
    reason: str


class RunFolder:
    """A folder with a run, open for one process.

    Parameters
    ----------
    settings : what the results depend on, name -> text; a run is continued only with the same
    seed : None takes that of the run that is there, or `drawn`
    shard : "3/16", or "" for the whole
    restart : whether what was done before is forgotten

    Attributes
    ----------
    seed : of the run
    lines : name -> where the log says that it is done
    continued : whether there was a run
    removed : how many parts of an earlier run were removed

    Raises
    ------
    RunError
        The run in the folder has other settings, or another process writes to it.
    OSError
        The folder cannot be written to.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str],
        version: str,
        seed: int | None,
        drawn: int,
        shard: str = "",
        restart: bool = False,
    ) -> None:
        self.folder, self.run = folder, folder / RUN
        self.run.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.run / LOCK, folder)
        try:
            self._open(settings, version, seed, drawn, shard, restart)
        except BaseException:
            self._lock.close()
            raise

    def _open(
        self,
        settings: Mapping[str, str],
        version: str,
        seed: int | None,
        drawn: int,
        shard: str,
        restart: bool,
    ) -> None:
        path = self.run / MANIFEST
        manifest = _manifest(path) if path.exists() and not restart else None
        self.continued = manifest is not None
        self.removed = 0
        if manifest is not None:
            _require_same(self.folder, manifest, settings, seed, shard)
            self.seed: int = manifest["seed"]
        else:
            self.seed = drawn if seed is None else seed
            self.removed = self._begin_again(restart)
            content = {
                "mpnn_core": version, "seed": self.seed, "shard": shard, "settings": dict(settings),
            }  # fmt: skip
            text = json.dumps(content, indent=1) + "\n"  # in ASCII: paths may be no UTF-8
            write_atomically(path, lambda file: file.write(text.encode("ascii")))
        (self.run / ENDED).unlink(missing_ok=True)
        self.lines = read_done(self.run / DONE)
        self._log = (self.run / DONE).open("ab")
        if self._log.tell() and not _ends_a_line(self.run / DONE):
            self._log.write(b"\n")  # after a line that was cut
        (self.folder / FAILURES).unlink(missing_ok=True)  # of an earlier call
        for part in self.folder.glob("*/.*.part"):  # what a killed process had not completed
            part.unlink(missing_ok=True)
        self._failures: IO[str] | None = None
        self.failed = 0

    def _begin_again(self, restart: bool) -> int:
        """Remove the log, then the parts, whose rows would count as done; how many of them."""
        parts = sorted(self.folder.glob(PARTS))
        if parts and not restart:
            raise RunError(
                f"{parts[0]} is of a run of which nothing else is there; choose another folder, or "
                "begin again with --restart, which removes it"
            )
        (self.run / DONE).unlink(missing_ok=True)
        for part in parts:
            part.unlink()
        return len(parts)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._log.close()
        if self._failures is not None:
            self._failures.close()
        self._lock.close()

    def is_done(self, name: str, digest: str, results: Sequence[Path]) -> bool:
        """Whether a structure of this content has its results; they may have been removed since."""
        found = self.lines.get(name)
        return found is not None and found.digest == digest and all(p.exists() for p in results)

    def rows(self, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        """The rows of those of some structures that are done."""
        known = (self.lines[name] for name in names if name in self.lines)
        for done in read_lines(self.run / DONE, known):
            yield from done.rows or ()

    def add(self, done: Done) -> None:
        """Say that the results of a structure are written."""
        if not os.fstat(self._log.fileno()).st_nlink:  # what is written to it now goes nowhere
            raise RunError(f"{self.folder} is gone, or was replaced, while the run wrote to it")
        line = json.dumps(done._asdict(), ensure_ascii=True, separators=(",", ":"))
        start = self._log.tell()
        self._log.write(line.encode("ascii") + b"\n")
        self._log.flush()
        _note(self.lines, done, start)

    def forget(self, names: Iterable[str]) -> None:
        """Say that structures have no results any more."""
        for name in names:
            self.add(Done(name, "", None))

    def end(self) -> None:
        """Say that nothing is left to be done but what failed."""
        write_atomically(self.run / ENDED, lambda file: file.write(b""))

    def add_failure(self, failed: Failed) -> None:
        """Say that a structure has none."""
        if self._failures is None:
            self._failures = (self.folder / FAILURES).open(
                "w", newline="", encoding="utf-8", errors="surrogateescape"
            )
            csv.writer(self._failures).writerow(FAILURE_COLUMNS)
        csv.writer(self._failures).writerow(failed[1:])
        self._failures.flush()
        self.failed += 1


def read_done(path: Path) -> dict[str, Line]:
    """What a log says is done; the last line of a name counts, and a line that was cut does not."""
    lines: dict[str, Line] = {}
    try:
        log = path.open("rb")
    except FileNotFoundError:
        return lines
    with log:
        start = 0
        for line in log:
            try:
                found = Done(**json.loads(line))
            except (ValueError, TypeError):
                pass
            else:
                _note(lines, found, start)
            start += len(line)
    return lines


def _note(lines: dict[str, Line], done: Done, start: int) -> None:
    if done.digest:
        rows = None if done.rows is None else len(done.rows)
        lines[done.name] = Line(done.digest, rows, start)
    else:  # it is forgotten
        lines.pop(done.name, None)


def read_lines(path: Path, lines: Iterable[Line]) -> Iterator[Done]:
    """What lines of a log say in full."""
    with path.open("rb") as log:
        for line in lines:
            log.seek(line.start)
            yield Done(**json.loads(log.readline()))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run; RunError where there is none."""
    path = folder / RUN / MANIFEST
    if not path.is_file():
        raise RunError(f"{folder}: no run is in it; expected {RUN}/{MANIFEST}")
    return _manifest(path)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        _ = found["seed"], found["settings"], found["shard"]
    except (ValueError, KeyError, TypeError):
        raise RunError(
            f"{path}: no manifest of a run; move it away, or choose another folder"
        ) from None
    return found


def _require_same(
    folder: Path,
    manifest: dict[str, Any],
    settings: Mapping[str, str],
    seed: int | None,
    shard: str,
) -> None:
    there = manifest["settings"] | {"shard": manifest["shard"]}
    here = dict(settings) | {"shard": shard}
    if seed is not None:
        there["seed"], here["seed"] = str(manifest["seed"]), str(seed)
    changed = [
        f"{name} was {there.get(name, 'not given')}, is {here.get(name, 'not given')}"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name) and not (name == "seed" and seed is None)
    ]
    if changed:
        raise RunError(
            f"{folder} holds a run with other settings: {'; '.join(changed)}. Continue it with the "
            "same, choose another folder, or begin again with --restart"
        )


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _locked(path: Path, folder: Path) -> IO[bytes]:
    """The lock of a folder, which the system frees when the process ends, however it ends."""
    file = path.open("a+b")
    try:
        import fcntl
    except ImportError:  # Windows has none
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        process = file.read().decode("ascii", "replace").strip()
        file.close()
        raise RunError(
            f"{folder}: process {process} is writing to it; wait for it, or choose another folder"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()).encode("ascii"))
    file.flush()
    return file


class Parts:
    """Rows of many structures in a few files, DIR/designs/part-00000.parquet and on, each whole.

    Parameters
    ----------
    write : (path, rows)
    read : path -> the names and digests of the structures in a part. What the parts hold is done,
        whether or not the process came to saying so
    drop : (path, names): write a part anew without some structures, or remove it
    structures : of a part
    """

    def __init__(
        self,
        run: RunFolder,
        write: Callable[[Path, list[dict[str, Any]]], None],
        read: Callable[[Path], Iterable[tuple[str, str]]],
        drop: Callable[[Path, Collection[str]], None],
        structures: int,
    ) -> None:
        self.run, self._write, self._drop, self.structures = run, write, drop, structures
        self.pending: list[Done] = []
        self.of: dict[str, list[Path]] = {}
        """Name -> the parts that have it."""
        for path in sorted(run.folder.glob(PARTS)):
            for name, digest in sorted(set(read(path))):
                self.of.setdefault(name, []).append(path)
                if name not in run.lines:
                    run.add(Done(name, digest, [{"part": path.name}]))
        numbers = [int(p.stem[5:10]) for p in run.folder.glob(PARTS)]
        self.next = max(numbers, default=-1) + 1

    def has(self, name: str) -> bool:
        """Whether the rows of a structure that is done are there, once; their part may be removed,
        or copied."""
        return len(self.of.get(name, ())) == (1 if self.run.lines[name].rows else 0)

    def drop(self, names: Iterable[str]) -> None:
        """Take structures that are designed anew, and are forgotten, out of the parts."""
        of_part: dict[Path, set[str]] = {}
        for name in names:
            for path in self.of.get(name, ()):
                of_part.setdefault(path, set()).add(name)
        for path, dropped in of_part.items():
            self._drop(path, dropped)

    def add(self, done: Done) -> None:
        """Keep the rows of a structure until there are enough for a file."""
        self.pending.append(done)
        if len(self.pending) >= self.structures:
            self.write()

    def write(self) -> None:
        """Write what is kept; then it is done."""
        path = self.run.folder / PARTS.replace("*", f"{self.next:05d}")
        rows = [row for done in self.pending for row in done.rows or ()]
        if rows:
            self._write(path, rows)
        # From here on they are in a part, and a call that comes while they are logged writes none.
        written, self.pending, self.next = self.pending, [], self.next + bool(rows)
        for done in written:
            self.run.add(done._replace(rows=[{"part": path.name}] if done.rows else []))
