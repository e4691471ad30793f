"""Protein backbones: what the network sees, and the PDB and mmCIF files it is read from.

A `Structure` is plain data, one row per residue. Files are read by `read_structure`; coordinates
that come from elsewhere enter through `Structure.from_backbone`. Whatever is wrong with either is
a `StructureError` that names the file, the chain and the residue.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import count, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from mpnn_core.constants import ALPHABET, BACKBONE, CHAIN_GAP

_TOKENS = np.zeros(128, np.int64)  # by the code of a letter
_TOKENS[np.frombuffer(ALPHABET.encode("ascii"), np.uint8)] = np.arange(len(ALPHABET))

PEPTIDE_BOND = 2.0
"""Å. A C and an N nearer than this are bonded: the bond is 1.33, the closest contact above 2.5."""

# What mmCIF writes for an unknown and for an inapplicable value.
_UNKNOWN = ("?", ".")

# Names of force fields and of protonation states, which the wwPDB does not define, or defines as
# something else (its GLH is a modified glutamine), and its names for what has no letter here.
_FURTHER_NAMES = {
    "ASH": "D", "GLH": "E", "CYX": "C", "CYM": "C", "LYN": "K", "ARN": "R", "TYM": "Y",
    "HID": "H", "HIE": "H", "HIP": "H", "HSD": "H", "HSP": "H",
    "SEC": "C", "PYL": "K", "ASX": "X", "GLX": "X", "UNK": "X",
}  # fmt: skip


class StructureError(ValueError):
    """A structure that cannot be used, and where: `file`, `chain`, `residue` (None if unknown)."""

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        chain: str | None = None,
        residue: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.file, self.chain, self.residue = message, file, chain, residue

    def __str__(self) -> str:
        where = [self.file] if self.file is not None else []
        if self.chain is not None:
            where.append(f"chain {self.chain}")
        if self.residue is not None:
            where.append(f"residue {self.residue}")
        return ": ".join([*where, self.message])


@dataclass(frozen=True, eq=False, repr=False)
class Structure:
    """The backbone of L residues in one or more chains. Its arrays cannot be written to.

    Numbers that are missing from a chain are no rows: they only advance `residue_index`. Residues
    whose backbone is incomplete are rows, with `mask` False.

    Attributes
    ----------
    name : what outputs are called after
    coords : (L, 4, 3) float32, Å: the atoms N, CA, C, O; NaN where missing
    sequence : L letters of `ALPHABET`
    chain_ids : (L,) str
    residue_index : (L,) int64, the `residue_idx` of the original's `tied_featurize`: the position
        in the chain with its missing numbers counted, running on over the chains, and 100 more
        for each chain
    residue_numbers : (L,) str, the author's numbering with its insertion code ("52A")
    mask : (L,) bool, True where all of N, CA, C, O are known; follows from `coords`

    Raises
    ------
    StructureError
        No residue, none with a complete backbone, an infinite coordinate, a letter that is not in
        `ALPHABET`, or arrays of different lengths.
    """

    name: str
    coords: NDArray[np.float32]
    sequence: str
    chain_ids: NDArray[np.str_]
    residue_index: NDArray[np.int64]
    residue_numbers: NDArray[np.str_]
    mask: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and refused below
            coords = np.array(self.coords, dtype=np.float32)
        if coords.ndim != 3 or coords.shape[1:] != (4, 3):
            raise StructureError(
                f"coordinates must be (L, 4, 3), the atoms N, CA, C, O in Å; got {coords.shape}"
            )
        L = len(coords)
        arrays = {
            "coords": coords,
            "chain_ids": np.array(self.chain_ids, dtype=np.str_),
            "residue_index": np.array(self.residue_index, dtype=np.int64),
            "residue_numbers": np.array(self.residue_numbers, dtype=np.str_),
            "mask": np.isfinite(coords).all((1, 2)),
        }
        if L == 0:
            raise StructureError("no residue: expected at least one")
        if len(self.sequence) != L:
            raise StructureError(
                f"the sequence has {len(self.sequence)} letters for {L} residues of coordinates"
            )
        for i, letter in enumerate(self.sequence):
            if letter not in ALPHABET:
                raise StructureError(
                    f"letter {letter!r} at position {i + 1} of the sequence; expected one of "
                    f"{ALPHABET} (X for unknown)"
                )
        for what, values in arrays.items():
            if what != "coords" and values.shape != (L,):
                raise StructureError(f"{what} must be ({L},), one per residue; got {values.shape}")
            values.flags.writeable = False
            object.__setattr__(self, what, values)

        infinite = np.isinf(coords).any((1, 2))
        if infinite.any():
            i = int(infinite.argmax())
            raise StructureError(
                "infinite coordinate",
                chain=str(self.chain_ids[i]),
                residue=str(self.residue_numbers[i]),
            )
        if not self.mask.any():
            missing = [atom for a, atom in enumerate(BACKBONE) if np.isnan(coords[:, a]).any()]
            raise StructureError(
                f"none of the {L} residues has a complete backbone (N, CA, C, O); "
                f"missing: {', '.join(missing)}"
            )

    @cached_property
    def chain_numbers(self) -> NDArray[np.int64]:
        """(L,) int64: the chain of each residue, numbered from 0 in the order of the ids."""
        numbers = np.unique(self.chain_ids, return_inverse=True)[1]
        numbers.flags.writeable = False
        return numbers

    @classmethod
    def from_backbone(
        cls,
        coords: ArrayLike | torch.Tensor,
        sequence: str,
        chain_ids: str | Sequence[str] | NDArray[np.str_] | None = None,
        residue_index: ArrayLike | torch.Tensor | None = None,
        name: str = "backbone",
    ) -> Structure:
        """A structure from coordinates.

        Parameters
        ----------
        coords : (L, 4, 3), Å: the atoms N, CA, C, O; NaN where missing
        sequence : L letters of `ALPHABET`; "X" * L where it is unknown
        chain_ids : L ids, or L letters; None is one chain, "A"
        residue_index : (L,) integers; differences within a chain are what counts, so that PDB
            numbers will do; None is 0, 1, 2, ... and 100 more for each chain
        name : what outputs are called after

        Raises
        ------
        StructureError
            As `Structure`, and for what is not a number, a letter or an integer.
        """
        if isinstance(coords, torch.Tensor):
            coords = coords.detach().to("cpu", torch.float32).numpy()
        if isinstance(residue_index, torch.Tensor):
            residue_index = residue_index.detach().cpu().numpy()
        try:
            coords = np.asarray(coords, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise StructureError(f"coordinates must be (L, 4, 3) numbers in Å: {error}") from None
        if not isinstance(sequence, str):
            raise StructureError(f"the sequence must be a str; got {type(sequence).__name__}")
        L = len(coords) if coords.ndim else 0
        ids = np.array(["A"] * L if chain_ids is None else list(chain_ids), dtype=np.str_)
        if ids.shape != (L,):
            raise StructureError(f"chain_ids must be ({L},), one per residue; got {ids.shape}")
        if residue_index is None:
            rank = {chain: c for c, chain in enumerate(dict.fromkeys(ids.tolist()))}
            index = np.array([i + CHAIN_GAP * rank[c] for i, c in enumerate(ids.tolist())])
            position: dict[str, Iterator[int]] = defaultdict(lambda: count(1))
            numbers = [str(next(position[chain])) for chain in ids.tolist()]
        else:
            index = np.asarray(residue_index)
            if index.dtype.kind not in "iu":
                raise StructureError(f"residue_index must be integers; got {index.dtype}")
            numbers = [str(i) for i in index.tolist()]
        return cls(name, coords, sequence, ids, index, np.array(numbers, dtype=np.str_))

    def __len__(self) -> int:
        return len(self.sequence)

    def __repr__(self) -> str:
        chains = ", ".join(f"{chain}: {n}" for chain, n in Counter(self.chain_ids.tolist()).items())
        masked = f", {int((~self.mask).sum())} masked" if not self.mask.all() else ""
        return f"Structure({self.name!r}, {len(self)} residues in chains {chains}{masked})"

    @cached_property
    def chains(self) -> tuple[str, ...]:
        """The chain ids, each once, in order of appearance."""
        return tuple(dict.fromkeys(self.chain_ids.tolist()))

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """(L,) int64, the sequence as indices into `ALPHABET`."""
        tokens = _TOKENS[np.frombuffer(self.sequence.encode("ascii"), np.uint8)]
        tokens.flags.writeable = False
        return tokens


def read_structure(
    path: str | os.PathLike[str], chains: str | Sequence[str] | None = None
) -> Structure:
    """The protein chains of a PDB or mmCIF file, plain or gzipped.

    The format is told from the content, not from the name. Chains and residues are laid out as
    the original's `parse_PDB` and `tied_featurize` lay them out: chains in the order of their
    ids, residues in that of author number and insertion code. Of several models the first is
    read. Of alternative conformations, or different residues in one place, one is read, whole:
    the one with the highest backbone occupancy, of equals the first in the file. Modified
    residues and protonation states count as their parent; what has a protein backbone but no
    parent is X. HETATM residues belong to a chain when a peptide bond joins them to it, or when
    they are MSE, as in the original; waters, ligands and nucleotides don't.

    Parameters
    ----------
    path : the file
    chains : the author's chain ids, "A", "A,B" or ["A", "B"]; None is all protein chains

    Raises
    ------
    StructureError
        No such file, not a structure, cut short, no protein, chain not there, no residue with a
        complete backbone, a coordinate that is infinite or not a number.
    """
    file = Path(path)
    try:
        text = _read_text(file)
        atoms = _mmcif_atoms(text) if _is_mmcif(text) else _pdb_atoms(text)
        return _assemble(structure_name(file), atoms, chains)
    except StructureError as error:
        error.file = str(file)
        raise


def structure_name(path: str | os.PathLike[str]) -> str:
    """What a structure read from this file is called: "5L33" for 5L33.pdb and 5L33.cif.gz."""
    return Path(Path(path).name.removesuffix(".gz")).stem


class _Atom(NamedTuple):
    chain: str
    number: int
    icode: str
    residue: str
    hetero: bool
    altloc: str
    atom: str
    xyz: tuple[float, float, float]
    occupancy: float


class _Residue(NamedTuple):
    """The backbone of one conformer of one residue."""

    number: int
    icode: str
    letter: str
    hetero: bool  # belongs to the chain only if peptide-bonded to it
    xyz: dict[str, tuple[float, float, float]]
    occupancy: float  # summed over the backbone


# Files to atoms.


def _read_text(file: Path) -> str:
    try:
        data = file.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise StructureError("no such file") from None
    except IsADirectoryError:
        raise StructureError("is a directory, not a file") from None
    except EOFError:
        raise StructureError("truncated: the gzip stream has no end") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise StructureError(f"damaged gzip file: {error}") from None
    except OSError as error:
        raise StructureError(f"cannot be read: {error.strerror or error}") from None
    if not data.strip():
        raise StructureError("not a structure: the file is empty")
    if b"\0" in data:
        raise StructureError("not a structure: binary data, expected PDB or mmCIF text")
    # Remarks may be in an old 8-bit encoding; all that is used is ASCII.
    return data.decode("utf-8-sig", errors="replace")


def _is_mmcif(text: str) -> bool:
    lines = (line for line in io.StringIO(text) if line.strip() and not line.startswith("#"))
    return next(lines, "").lstrip().lower().startswith("data_")


def _pdb_atoms(text: str) -> Iterator[_Atom]:
    """The atoms of the first model of a PDB file."""
    from Bio.PDB.PDBParser import PDBParser

    records = io.StringIO("".join(_pdb_records(text)))
    # QUIET, because what Biopython warns of (chains in pieces, residues and atoms that come
    # twice) it settles as the original does: one chain, first come.
    model = next(iter(PDBParser(QUIET=True).get_structure("", records)))
    for chain in model:
        for residue in chain.get_unpacked_list():
            hetero, number, icode = residue.id
            # Biopython lists conformers by label; serial numbers give the order of the file.
            for atom in sorted(residue.get_unpacked_list(), key=lambda a: a.serial_number):
                x, y, z = map(float, atom.coord)
                yield _Atom(
                    chain.id, number, icode.strip(), residue.resname, hetero != " ",
                    atom.altloc.strip(), atom.name, (x, y, z), atom.occupancy,
                )  # fmt: skip


def _pdb_records(text: str) -> Iterator[str]:
    """The atom and model records of a PDB file, after a check that each, and the file, is whole."""
    kinds: set[str] = set()
    widths: list[int] = []
    model = 0  # the line that opened the model we are in
    closed = False  # the atoms so far
    kind = line = ""
    for n, line in enumerate(text.rstrip().splitlines(), start=1):
        kind = line[:6].rstrip()
        kinds.add(kind)
        if kind in ("ATOM", "HETATM"):
            widths.append(len(line.rstrip()))
            closed = False
            yield _checked_record(line, n) + "\n"
        elif kind in ("MODEL", "ENDMDL"):
            model = n if kind == "MODEL" else 0
            yield line + "\n"
        closed |= kind in ("TER", "ENDMDL", "CONECT", "MASTER", "END")

    if not widths:
        raise StructureError("not a structure: neither PDB atom records nor an mmCIF data block")
    if model and "END" not in kinds:
        raise StructureError(f"truncated: the model begun on line {model} is not ended")
    if kinds >= {"HEADER", "SEQRES"} and not closed:
        raise StructureError("truncated: a PDB entry with no TER or END after its last atom")
    if not text.endswith("\n"):
        # A file may lack its last newline. Its last record is cut if all others are longer.
        narrower = kind in ("ATOM", "HETATM") and widths[-1] < min(widths[:-1], default=0)
        if narrower or kind in ("A", "AT", "ATO", "H", "HE", "HET", "HETA", "HETAT"):
            raise StructureError(f"truncated: line {n} is cut short: {line!r}")


def _checked_record(line: str, n: int) -> str:
    """An atom record, line `n` of its file, if it can be read; with an occupancy if it had none."""
    where = {"chain": line[21:22] or None, "residue": line[22:27].strip() or None}
    if len(line.rstrip()) < 54:
        raise StructureError(f"line {n}: truncated within its coordinates: {line!r}", **where)
    if not line[54:60].strip():
        line = f"{line[:54]}  1.00{line[60:]}"
    for what, start, stop, read in (
        ("residue number", 22, 26, int),
        ("coordinate", 30, 38, float),
        ("coordinate", 38, 46, float),
        ("coordinate", 46, 54, float),
        ("occupancy", 54, 60, float),
    ):
        try:
            read(line[start:stop])
        except ValueError:
            message = f"line {n}: unreadable {what} {line[start:stop]!r}"
            raise StructureError(message, **where) from None
    return line


def _mmcif_atoms(text: str) -> Iterator[_Atom]:
    """The atoms of the first model of an mmCIF file, chains and residues as the author's."""
    from Bio.PDB.MMCIF2Dict import MMCIF2Dict

    try:
        data: dict[str, list[str]] = MMCIF2Dict(io.StringIO(text))
    except (ValueError, LookupError, ArithmeticError) as error:
        raise StructureError(f"truncated, or not mmCIF: {error}") from None
    _check_mmcif_whole(text, data)

    def column(*names: str, default: str | None = None) -> list[str]:
        for name in names:
            if f"_atom_site.{name}" in data:
                return data[f"_atom_site.{name}"]
        if default is None:
            raise StructureError(f"not a structure: an mmCIF without _atom_site.{names[0]}")
        return [default] * len(data["_atom_site.Cartn_x"])

    xyz = [column(f"Cartn_{axis}") for axis in "xyz"]
    models = column("pdbx_PDB_model_num", default="1")
    for model, group, chain, number, icode, residue, altloc, atom, occupancy, *position in zip(
        models,
        column("group_PDB", default="ATOM"),
        column("auth_asym_id", "label_asym_id"),
        column("auth_seq_id", "label_seq_id"),
        column("pdbx_PDB_ins_code", default="?"),
        column("label_comp_id", "auth_comp_id"),
        column("label_alt_id", default="."),
        column("label_atom_id", "auth_atom_id"),
        column("occupancy", default="1"),
        *xyz,
        strict=True,
    ):
        if model != models[0] or number in _UNKNOWN:  # unnumbered: not of a polymer
            continue
        icode, altloc = ("" if value in _UNKNOWN else value for value in (icode, altloc))
        try:
            x, y, z = (float("nan" if value in _UNKNOWN else value) for value in position)
            yield _Atom(
                chain, int(number), icode, residue, group == "HETATM", altloc, atom, (x, y, z),
                float("1" if occupancy in _UNKNOWN else occupancy),
            )  # fmt: skip
        except ValueError as error:
            raise StructureError(
                f"atom {atom}: unreadable: {error}", chain=chain, residue=number + icode
            ) from None


def _check_mmcif_whole(text: str, data: dict[str, list[str]]) -> None:
    for category in ("_atom_site", next(reversed(data), "").partition(".")[0]):
        rows = {len(v) for key, v in data.items() if key.startswith(f"{category}.")}
        if len(rows) > 1:
            raise StructureError(f"truncated: the {category} loop ends within a row")
    # wwPDB entries close every category with a "#" line, so that one cut between rows shows.
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "_database_2.database_id" in data and "#" in lines and lines[-1] != "#":
        raise StructureError(f"truncated: a PDB entry that ends in {lines[-1]!r}, not '#'")


# Atoms to a structure.


def _assemble(name: str, atoms: Iterable[_Atom], chains: str | Sequence[str] | None) -> Structure:
    atoms_of: dict[str, list[_Atom]] = defaultdict(list)
    for atom in atoms:
        atoms_of[atom.chain].append(atom)
    residues_of = {chain: _residues(atoms_of[chain]) for chain in sorted(atoms_of)}
    proteins = [chain for chain, residues in residues_of.items() if residues]
    there = f"protein chains there: {', '.join(proteins)}"
    if not proteins:
        raise StructureError(
            "no protein chain: no residue that is an amino acid by its name or its backbone"
        )
    if isinstance(chains, str):
        chains = chains.split(",")
    wanted = proteins if chains is None else sorted({c.strip() or " " for c in chains})
    if not wanted:
        raise StructureError(f"no chain asked for; {there}")
    for chain in wanted:
        if chain not in proteins:
            kind = "is no protein" if chain in atoms_of else "is not there"
            raise StructureError(f"{kind}; {there}", chain=chain)

    rows = [(chain, residue) for chain in wanted for residue in residues_of[chain]]
    return Structure(
        name,
        np.array([[r.xyz.get(a, (np.nan,) * 3) for a in BACKBONE] for _, r in rows]),
        "".join(r.letter for _, r in rows),
        np.array([chain for chain, _ in rows]),
        _residue_index([residues_of[chain] for chain in wanted]),
        np.array([f"{r.number}{r.icode}" for _, r in rows]),
    )


def _residue_index(chains: Iterable[Sequence[_Residue]]) -> NDArray[np.int64]:
    """(L,) int64, as the original's `tied_featurize`: every number and insertion code between
    the first and the last of a chain takes one place, whether or not it is in the file."""
    index: list[int] = []
    start = 0
    for residues in chains:
        index.append(start)
        for previous, residue in pairwise(residues):
            index.append(index[-1] + max(1, residue.number - previous.number))
        start = index[-1] + 1 + CHAIN_GAP
    return np.array(index, dtype=np.int64)


def _residues(atoms: Iterable[_Atom]) -> list[_Residue]:
    """The amino acids of one chain, one conformer of each, by number and insertion code."""
    groups: dict[tuple[int, str, str, bool], list[_Atom]] = defaultdict(list)
    for atom in atoms:
        groups[atom.number, atom.icode, atom.residue, atom.hetero].append(atom)
    conformers = [conformer for group in groups.values() for conformer in _conformers(group)]

    chosen: dict[tuple[int, str], _Residue] = {}
    for residue in conformers:
        if residue.hetero and not any(_bonded(residue, other) for other in conformers):
            continue  # an amino acid, but a ligand
        best = chosen.setdefault((residue.number, residue.icode), residue)
        # Atoms decide between equals only where there is nothing to sum: an occupancy of zero.
        if (residue.occupancy, len(residue.xyz)) > (best.occupancy, len(best.xyz)):
            chosen[residue.number, residue.icode] = residue
    return [chosen[place] for place in sorted(chosen)]


def _conformers(atoms: Sequence[_Atom]) -> Iterator[_Residue]:
    """The conformers of a residue in the order of the file; none if it is no amino acid.

    A conformer is the atoms of one altloc label with those that have none, so that a backbone
    never mixes two.
    """
    first = atoms[0]
    names = {atom.atom for atom in atoms}
    letter = _parents().get(first.residue)
    if first.residue == "HSE" and "ND1" in names:
        letter = "H"  # CHARMM's epsilon-protonated histidine; the wwPDB's HSE is homoserine
    if letter is None and not names >= {"N", "CA", "C"}:
        return
    backbone = [atom for atom in atoms if atom.atom in BACKBONE]
    for label in dict.fromkeys(atom.altloc for atom in backbone) or [""]:
        # Labelled atoms come first, and so before an unlabelled one of the same name.
        own = sorted((a for a in backbone if a.altloc in (label, "")), key=lambda a: not a.altloc)
        taken = {atom.atom: atom for atom in reversed(own)}
        yield _Residue(
            first.number,
            first.icode,
            letter or "X",
            first.hetero and first.residue != "MSE",
            {atom.atom: atom.xyz for atom in taken.values()},
            sum(taken[name].occupancy for name in BACKBONE if name in taken),
        )


def _bonded(a: _Residue, b: _Residue) -> bool:
    """Whether a peptide bond joins two residues, in either direction."""
    if (a.number, a.icode) == (b.number, b.icode):  # conformers, whose atoms overlap
        return False
    ends = ((a, b), (b, a))
    return any(
        math.dist(i.xyz["C"], j.xyz["N"]) < PEPTIDE_BOND
        for i, j in ends
        if "C" in i.xyz and "N" in j.xyz
    )


@lru_cache(maxsize=1)
def _parents() -> dict[str, str]:
    """The letter of every residue name with one: the wwPDB's amino acids by their parent, and
    `_FURTHER_NAMES`."""
    from Bio.Data.PDBData import protein_letters_3to1_extended

    return protein_letters_3to1_extended | _FURTHER_NAMES
