"""Folders of shards joined to the folder of the whole run."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mpnn_core.runs.folder import (
    DONE,
    ENDED,
    FAILURES,
    RUN,
    Failed,
    RunError,
    RunFolder,
    read_done,
    read_lines,
    read_manifest,
)
from mpnn_core.runs.inputs import Shard


class Merged(NamedTuple):
    """How many structures are done and failed, and a sentence for each shard that is missing."""

    done: int
    failed: int
    missing: list[str]


def merge(folders: Sequence[Path], out: Path) -> Merged:
    """Join folders of shards in `out`, which can then be continued as the whole run.

    Raises
    ------
    RunError
        A folder has no run or one of other settings, a shard is given twice, two have results of
        one name that differ, or something is in `out` already that does not fit.
    """
    manifests = [read_manifest(folder) for folder in folders]
    first = manifests[0]
    shards: dict[str, Path] = {}
    for folder, manifest in zip(folders, manifests, strict=True):
        changed = [
            f"{name} is {manifest['settings'].get(name, 'not given')}, and in {folders[0]} "
            f"{first['settings'].get(name, 'not given')}"
            for name in sorted(manifest["settings"].keys() | first["settings"].keys())
            if manifest["settings"].get(name) != first["settings"].get(name)
        ]
        if manifest["seed"] != first["seed"]:
            changed.append(f"seed is {manifest['seed']}, and in {folders[0]} {first['seed']}")
        if changed:
            raise RunError(f"{folder} is of another run: {'; '.join(changed)}")
        if not manifest["shard"]:
            raise RunError(f"{folder} is no shard; it was made without --shard")
        if manifest["shard"] in shards:
            raise RunError(
                f"shard {manifest['shard']} is given twice: {shards[manifest['shard']]}, {folder}"
            )
        shards[manifest["shard"]] = folder
    numbers = {Shard.parse(text) for text in shards}
    if len({shard.of for shard in numbers}) > 1:
        raise RunError(f"shards of different numbers: {', '.join(sorted(shards))}")
    of = next(iter(numbers)).of
    missing = [
        f"shard {k}/{of} is missing" for k in range(1, of + 1) if Shard(k, of) not in numbers
    ]
    missing += [
        f"shard {shard} has not ended: continue it in {folder}"
        for shard, folder in shards.items()
        if not (folder / RUN / ENDED).exists()
    ]
    settings, version = first["settings"], first["mpnn_core"]
    failed = 0
    with RunFolder(out, settings, version, first["seed"], first["seed"]) as run:
        _require_one_content(folders, run)
        for shard, folder in shards.items():
            _join(folder, out, shard.replace("/", "of"))
            log = folder / RUN / DONE
            for done in read_lines(log, read_done(log).values()) if log.exists() else ():
                run.add(done)
            for row in _failures(folder):
                run.add_failure(Failed("", *row))
                failed += 1
        if not missing:
            run.end()
        return Merged(len(run.lines), failed, missing)


def _require_one_content(folders: Sequence[Path], run: RunFolder) -> None:
    """Refuse names that stand for different contents, before anything is joined."""
    known = {name: (line.digest, run.folder) for name, line in run.lines.items()}
    for folder in folders:
        for name, line in read_done(folder / RUN / DONE).items():
            digest, where = known.setdefault(name, (line.digest, folder))
            if digest != line.digest:
                raise RunError(f"{folder}: {name} is another structure in {where}")


def _join(folder: Path, out: Path, shard: str) -> None:
    """Bring the results of a shard; links where the file system has them."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_dir() or relative.parts[0] == RUN or relative == Path(FAILURES):
            continue
        if relative.parts[0] == "designs":
            relative = Path("designs") / f"{relative.stem}-{shard}{relative.suffix}"
        target = out / relative
        if target.exists():
            if target.read_bytes() != path.read_bytes():
                raise RunError(f"{target} is there, and is not {path}")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        part.unlink(missing_ok=True)
        try:
            os.link(path, part)
        except OSError:  # another file system
            shutil.copyfile(path, part)
        os.replace(part, target)


def _failures(folder: Path) -> list[tuple[str, str, str, str]]:
    try:
        with (folder / FAILURES).open(
            newline="", encoding="utf-8", errors="surrogateescape"
        ) as file:
            rows = list(csv.reader(file))[1:]
    except FileNotFoundError:
        return []
    return [(row[0], row[1], row[2], row[3]) for row in rows if len(row) == 4]
