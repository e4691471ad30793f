"""From a name or path of weights to a network.

`resolve` is the one table that says which file is read. The checkpoints that most people use are in
the package (mpnn_core/weights/, converted tensor by tensor by fixtures/make_weights.py, with their
licences), and so are the students of `v_48_020`, the weights of the smaller variants, each under
the hash that its evaluation names (`variants.py`). The other published checkpoints are those that
the user added (`added.py`), or are read from the packages that `families.py` lists. A path to an
original `.pt` or to a `.safetensors` file works as well. No file is ever unpickled into code.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as deserialise
from torch import Tensor

from mpnn_core.network import variants
from mpnn_core.network.added import file_of, find_added
from mpnn_core.network.architectures import (
    ARCHITECTURES,
    random_network,
    recognise,
)
from mpnn_core.network.families import (
    ALIASES,
    PACKAGED,
    PACKER,
    PROTEIN_MPNN,
    RANDOM,
    SIDE_CHAIN_PACKER,
    CheckpointError,
    checkpoint_of,
    find_family,
    full_name,
    published_as,
    published_names,
)
from mpnn_core.network.mpnn import MPNN
from mpnn_core.network.packer import Packer
from mpnn_core.network.variants import VARIANTS, Variant
from mpnn_core.structures.files import read_bounded, unpacked_size, write_atomically

# The published files have 7 to 14 MB. No more than this is read of one, packed or unpacked.
LARGEST_BYTES = 256 * 2**20
MOST_NEIGHBOURS = 10_000
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
    context_atoms : how many of the atoms around a residue it was trained to see; None where it is
        no model of such
    """

    name: str
    state: dict[str, Tensor]
    neighbours: int
    noise_level: float | None = None
    architecture: str = PROTEIN_MPNN
    context_atoms: int | None = None

    def save(self, path: Path | str) -> None:
        """Write a safetensors file that `load_checkpoint` reads back."""
        write_atomically(Path(path), lambda file: file.write(self.serialised()))

    def serialised(self) -> bytes:
        """The bytes of the file that `save` writes: the same for the same checkpoint."""
        metadata = {"neighbours": str(self.neighbours), "name": self.name}
        if self.noise_level is not None:
            metadata["noise_level"] = str(self.noise_level)
        if self.architecture != PROTEIN_MPNN:
            metadata["architecture"] = self.architecture
        if self.context_atoms is not None:
            metadata["context_atoms"] = str(self.context_atoms)
        # safetensors' own function writes metadata in an order that changes from run to run.
        header: dict[str, Any] = {"__metadata__": metadata}
        content = bytearray()
        for name, value in sorted(self.state.items()):
            start = len(content)
            content += value.detach().cpu().to(torch.float32).numpy().astype("<f4").tobytes()
            header[name] = {
                "dtype": "F32", "shape": list(value.shape), "data_offsets": [start, len(content)],
            }  # fmt: skip
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)  # values start at a multiple of 8 bytes
        return len(text).to_bytes(8, "little") + text + content

    def require_design(self, path: Path) -> None:
        """Raise CheckpointError where the network designs no sequences."""
        if not ARCHITECTURES[self.architecture].designs:
            raise CheckpointError(
                f"{path} is a {self.architecture} model, which designs no sequences; Model.pack "
                "and load_packer use it"
            )


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
    remedy : what to do where it is another file
    """

    path: Path | None
    loss: str
    name: str | None = None
    sha256: str | None = None
    remedy: str = "install mpnn-core again"

    def load(self) -> Checkpoint:
        """The checkpoint of the file, of a network that designs sequences.

        Raises
        ------
        CheckpointError
            The file is missing, damaged, or no checkpoint of such an architecture.
        """
        checkpoint = self.read()
        assert self.path is not None
        checkpoint.require_design(self.path)
        return checkpoint

    def read(self) -> Checkpoint:
        """The same, of any architecture that is known."""
        path = self.path
        if path is None:
            raise CheckpointError("random weights are in no file")
        try:
            content = read_bounded(path, LARGEST_BYTES)
        except FileNotFoundError:
            raise CheckpointError(
                f"{path} is missing from the installation; {self.remedy}"
                if self.sha256
                else f"there is no {path}"
            ) from None
        except OSError as error:
            raise CheckpointError(f"{path} is no file of weights: {error.strerror}") from None
        actual = hashlib.sha256(content).hexdigest()
        if self.sha256 not in (None, actual):
            raise CheckpointError(
                f"{path} is damaged: sha256 {actual}, expected {self.sha256}; {self.remedy}"
            )
        return read_checkpoint(path, content, self.name or published_as(actual))


def read_checkpoint(path: Path, content: bytes, name: str | None = None) -> Checkpoint:
    """The checkpoint in the content of a `.pt` or `.safetensors` file.

    name : what it is called in outputs; None takes the name in the file

    Raises
    ------
    CheckpointError
        It is damaged, or no checkpoint of a known architecture.
    """
    if path.suffix == ".safetensors":
        return _from_safetensors(path, content, name)
    return _from_pt(path, content, name)


def resolve(weights: str | Path, variant: Variant = BASELINE) -> Choice:
    """Which weights a name or path means for a variant: the first row that fits.

    | weights             | variant                    | which weights         | loss            |
    |---------------------|----------------------------|-----------------------|-----------------|
    | "random"            | any                        | random ones           | everything      |
    | "v_48_020"          | trained                    | its student's         | its measured    |
    | any published name  | needs weights of its own   | refused               |                 |
    | of another network  | not "baseline"             | refused               |                 |
    | published, packaged | runs the published weights | packaged with us      | its untrained   |
    | other published     | runs the published weights | added by the user, or |                 |
    |                     |                            | of another package    | unmeasured      |
    | an added name       | any                        | added by the user     | unmeasured      |
    | a path              | any                        | that file             | unmeasured      |

    An alias (`families.ALIASES`) is the name that it stands for.
    A variant of the published shape, "baseline", loses nothing whatever its weights.

    Raises
    ------
    CheckpointError
        Unknown name, no such file, or weights that the variant cannot have.
    """
    name = full_name(str(weights))
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
        path = find_added(name) or Path(weights)
        if not os.path.isfile(path):  # Path.is_file raises for some names that lead nowhere
            raise _unknown(name)
        return Choice(path, loss)
    _require_variant(name, family.architecture, variant)
    return replace(published_choice(name), loss=loss)


def published_choice(name: str) -> Choice:
    """The file of the checkpoint published as `name`: packaged, added, or of another package.

    Raises
    ------
    CheckpointError
        It is in none of these; the message says how to get it.
    """
    family, checkpoint = find_family(name), checkpoint_of(name)
    assert family is not None
    if checkpoint in family.packaged:
        path = file_of(name, variants.WEIGHTS)
        return Choice(path, "", name, family.converted.get(checkpoint))
    added = find_added(name)
    if added is not None:
        remedy = f"delete it, or add it again: {family.remedy}"
        return Choice(added, "", name, family.converted.get(checkpoint), remedy)
    installed = family.installed(name)
    if installed is not None:
        source, path = installed
        remedy = f"install {source.package}=={source.version} again, or give the path to its file"
        return Choice(path, "", name, family.sha256.get(checkpoint), remedy)
    packages = " or ".join(source.package for source in family.sources)
    raise CheckpointError(
        f"{name!r} is read from the package {packages}, which is not installed: {family.remedy}"
    )


def _require_variant(name: str, architecture: str, variant: Variant) -> None:
    """Refuse a variant, a smaller ProteinMPNN, for a network of another architecture."""
    if architecture != PROTEIN_MPNN and variant.name != BASELINE.name:
        raise CheckpointError(
            f"variant {variant.name!r} is a {PROTEIN_MPNN} of another size, and {name} is a "
            f"{architecture} model, which has the one size {BASELINE.name!r}"
        )


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


def load_packer_network(weights: str | Path) -> tuple[Packer, str]:
    """The side-chain packer's network of weights by name or path, and what they are called.

    Raises
    ------
    CheckpointError
        There are no such weights, or they are those of another network.
    """
    checkpoint = resolve(weights).read()
    if checkpoint.architecture != SIDE_CHAIN_PACKER:
        raise CheckpointError(
            f"{weights} is a {checkpoint.architecture} model, which places no side chains; "
            f"{PACKER} does"
        )
    return cast(Packer, build_network(checkpoint, BASELINE)), checkpoint.name


def build_network(checkpoint: Checkpoint, variant: Variant) -> MPNN:
    """The network of `variant` with the weights of `checkpoint`, on the CPU, in float32.

    Raises
    ------
    CheckpointError
        The weights have other shapes than the variant; the message names the first that differ.
    """
    architecture = ARCHITECTURES[checkpoint.architecture]
    made = architecture.network
    _require_variant(checkpoint.name, checkpoint.architecture, variant)
    # Published networks differ in k; a smaller variant is what it is by its own.
    neighbours = checkpoint.neighbours if variant == BASELINE else variant.neighbours
    besides = {name: getattr(checkpoint, name) for name in architecture.takes}
    for name, value in besides.items():
        if value is None:
            raise CheckpointError(
                f"checkpoint {checkpoint.name!r} does not say its {name}, which a "
                f"{checkpoint.architecture} model is made of"
            )
    network = made(
        variant.hidden, variant.encoder_layers, variant.decoder_layers, neighbours, **besides
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
        f"{weights!r} is neither a published checkpoint nor a file; short names are "
        f"{', '.join(ALIASES)}; published are {', '.join(published_names())}"
    )


def _architecture(path: Path, state: dict[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """The architecture that the file names, or else that its tensors have."""
    name = metadata.get("architecture") or recognise(state)
    if name not in ARCHITECTURES:
        raise CheckpointError(
            f"{path} is of the architecture {name!r}; expected one of {', '.join(ARCHITECTURES)}"
        )
    return str(name)


def _from_safetensors(path: Path, content: bytes, name: str | None) -> Checkpoint:
    try:
        state = deserialise(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (SafetensorError, ValueError, KeyError) as error:  # KeyError: a dtype of none of torch's
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    return _checkpoint(path, name, state, header.get("__metadata__", {}))


def _from_pt(path: Path, content: bytes, name: str | None) -> Checkpoint:
    try:
        _check_archive(content)
        loaded: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    # The unpickler runs no code, but raises whatever damaged bytes lead it to.
    except Exception as error:
        reason = re.split(r"\n|\. ", str(error) or type(error).__name__)[0]
        raise CheckpointError(
            f"{path} is not a checkpoint of weights alone ({reason}); expected is an original "
            "ProteinMPNN .pt file"
        ) from error
    state = loaded.get("model_state_dict") if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise CheckpointError(
            f"{path} has no model_state_dict of tensors; expected is an original "
            "ProteinMPNN .pt file"
        )
    known = {"num_edges": "neighbours", "noise_level": "noise_level"}
    known["atom_context_num"] = "context_atoms"
    return _checkpoint(
        path, name, state, {known[key]: loaded[key] for key in known & loaded.keys()}
    )


def _check_archive(content: bytes) -> None:
    """Refuse a file that would be larger once unpacked; torch's older format is not packed."""
    if content.startswith(b"PK\x03\x04"):  # as torch.load tells them apart
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked_size(archive, LARGEST_BYTES)


def _checkpoint(
    path: Path, name: str | None, state: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> Checkpoint:
    """The checkpoint of tensors and of what a file says of them, checked."""
    # A view can have more elements than its file has bytes.
    size = sum(4 * value.numel() for value in state.values())
    if size > LARGEST_BYTES or any(value.layout is not torch.strided for value in state.values()):
        raise CheckpointError(
            f"{path}: its tensors are not weights: {size:,} bytes as float32; expected at most "
            f"{LARGEST_BYTES:,}, in dense tensors"
        )
    try:
        own = {key: value.float() for key, value in state.items() if not value.is_complex()}
    except (RuntimeError, NotImplementedError) as error:  # quantised, or without data
        raise CheckpointError(f"{path}: its tensors are not weights: {error}") from error
    if len(own) < len(state):
        raise CheckpointError(f"{path}: its tensors are not weights: some are complex")
    try:
        neighbours = int(metadata.get("neighbours", 48))
        noise = float(metadata["noise_level"]) if "noise_level" in metadata else None
        atoms = int(metadata["context_atoms"]) if "context_atoms" in metadata else None
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"{path}: its metadata is not a checkpoint's: {error}") from error
    if (
        not 1 <= neighbours <= MOST_NEIGHBOURS
        or not (noise is None or 0 <= noise < math.inf)
        or not (atoms is None or 1 <= atoms <= MOST_NEIGHBOURS)
    ):
        raise CheckpointError(
            f"{path}: its metadata is not a checkpoint's: neighbours {neighbours}, noise_level "
            f"{noise}, context_atoms {atoms}; expected 1 to {MOST_NEIGHBOURS} neighbours and "
            "context atoms, and a noise of 0 Å or more"
        )
    architecture = _architecture(path, own, metadata)
    title = name or metadata.get("name") or path.stem
    # It stands in a FASTA header, where a line break would begin another record.
    title = "".join(letter if letter.isprintable() else "_" for letter in title)
    return Checkpoint(title, own, neighbours, noise, architecture, atoms)
