"""A run is a folder: what it is made with, what is done, and what failed.

DIR/run/run.json is the manifest: settings, seed, version. DIR/run/done.jsonl has a line for each
structure that is done, written after its results; DIR/failures.csv one for each that failed. A line
that was cut by the end of the process does not count, so its structure is done again, to the same
bytes. No clock is read.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

from mpnn_core.structures.files import write_atomically

RUN, MANIFEST, DONE, LOCK, FAILURES = "run", "run.json", "done.jsonl", "lock", "failures.csv"
FAILURE_COLUMNS = ("file", "chain", "residue", "reason")


class RunError(ValueError):
    """A folder that cannot be continued; the message says why, and what to do."""


class Done(NamedTuple):
    """A structure whose results are written: its name, the sha256 of its content, and its rows of
    the table, if there is one."""

    name: str
    digest: str
    rows: list[dict[str, Any]]


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
    done : name -> what is done
    continued : whether there was a run

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
        if manifest is not None:
            _require_same(self.folder, manifest, settings, seed, shard)
            self.seed: int = manifest["seed"]
        else:
            self.seed = drawn if seed is None else seed
            (self.run / DONE).unlink(missing_ok=True)
            content = {
                "mpnn_core": version, "seed": self.seed, "shard": shard, "settings": dict(settings),
            }  # fmt: skip
            text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
            write_atomically(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))
        self.done = read_done(self.run / DONE)
        self._log = (self.run / DONE).open("ab")
        if self._log.tell() and not _ends_a_line(self.run / DONE):
            self._log.write(b"\n")  # after a line that was cut
        (self.folder / FAILURES).unlink(missing_ok=True)  # of an earlier call
        for part in self.folder.glob("*/.*.part"):  # what a killed process had not completed
            part.unlink(missing_ok=True)
        self._failures: IO[str] | None = None
        self.failed = 0

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
        found = self.done.get(name)
        return found is not None and found.digest == digest and all(p.exists() for p in results)

    def add(self, done: Done) -> None:
        """Say that the results of a structure are written."""
        if not (self.run / DONE).exists():  # what is written to it now goes nowhere
            raise RunError(f"{self.folder} is gone, or was replaced, while the run wrote to it")
        line = json.dumps(done._asdict(), ensure_ascii=True, separators=(",", ":"))
        self._log.write(line.encode("ascii") + b"\n")
        self._log.flush()
        self.done[done.name] = done

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


def read_done(path: Path) -> dict[str, Done]:
    """What a log says is done; the last line of a name counts, and a line that was cut does not."""
    done: dict[str, Done] = {}
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return done
    for line in content.split(b"\n"):
        try:
            found = Done(**json.loads(line))
        except (ValueError, TypeError):
            continue
        done[found.name] = found
    return done


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
    structures : of a part
    """

    def __init__(
        self,
        run: RunFolder,
        write: Callable[[Path, list[dict[str, Any]]], None],
        read: Callable[[Path], Iterable[tuple[str, str]]],
        structures: int,
    ) -> None:
        self.run, self._write, self.structures = run, write, structures
        self.folder = run.folder / "designs"
        self.pending: list[Done] = []
        written = {pair for path in self.folder.glob("part-*.parquet") for pair in read(path)}
        for name, digest in sorted(written):
            known = run.done.get(name)
            if known is None:
                run.add(Done(name, digest, []))
        numbers = [int(p.stem[5:10]) for p in self.folder.glob("part-*.parquet")]
        self.next = max(numbers, default=-1) + 1

    def add(self, done: Done) -> None:
        """Keep the rows of a structure until there are enough for a file."""
        self.pending.append(done)
        if len(self.pending) >= self.structures:
            self.write()

    def write(self) -> None:
        """Write what is kept; then it is done."""
        if not self.pending:
            return
        path = self.folder / f"part-{self.next:05d}.parquet"
        self._write(path, [row for done in self.pending for row in done.rows])
        self.next += 1
        for done in self.pending:
            self.run.add(done._replace(rows=[]))
        self.pending = []
