"""Designs as the inputs of structure predictors, a file a design.

Formats, as the programs' own documents and parsers have them:

- colabfold: FASTA of one record, chains joined by ":"; a folder of them is an input
- af3: AlphaFold 3's JSON, dialect "alphafold3", version 1
- boltz: YAML, version 1, of Boltz 1 and 2
- chai: FASTA of Chai-1, a record `>protein|name=A` for each chain
- rf3: JSON of RoseTTAFold 3, a list of one job

All chains are written, those that were kept too. Ligands and nucleic acids come from
`Structure.context`; `contents` says what a format does not hold.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import count, product
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

import numpy as np

from mpnn_core.design.results import Design, Designs
from mpnn_core.design.table import design_names
from mpnn_core.structures.files import write_atomically
from mpnn_core.structures.structure import Structure, shown_items

PLACEHOLDERS = frozenset(("UNL", "UNX", "UNK", "UNN", "LIG", "INH", "DRG"))
"""Names that stand for any ligand; those from LIG on and 01 to 99 the wwPDB keeps for that."""

IONS = {
    "ZN": "[Zn+2]", "MG": "[Mg+2]", "CA": "[Ca+2]", "MN": "[Mn+2]", "NA": "[Na+]", "K": "[K+]",
    "CL": "[Cl-]", "FE": "[Fe+3]", "FE2": "[Fe+2]", "CU": "[Cu+2]", "CU1": "[Cu+]", "CO": "[Co+2]",
    "NI": "[Ni+2]", "CD": "[Cd+2]", "BR": "[Br-]", "IOD": "[I-]",
}  # fmt: skip
"""SMILES of ions by their names in the CCD, which say their charges."""

BONDED = 1.9
"""Å. Nearer atoms of C, N, O, P and S of two residues are bonded."""
_BONDING = (6, 7, 8, 15, 16)


class Polymer(NamedTuple):
    """A chain: "protein", "dna" or "rna", its id, and its letters."""

    kind: str
    id: str
    sequence: str


class Ligand(NamedTuple):
    """A residue of the surroundings: its id, its name in the CCD and where it is in the file."""

    id: str
    name: str
    place: str


class Contents(NamedTuple):
    """What of a structure goes to the next programs, but the designed letters.

    Attributes
    ----------
    ids : the id of each protein chain, in the structure's order: capitals, as AlphaFold 3 wants
    nucleic : chains of DNA and RNA
    ligands : the others, one each
    notes : sentences on what is written otherwise or not at all, whatever the program
    """

    ids: tuple[str, ...]
    nucleic: tuple[Polymer, ...]
    ligands: tuple[Ligand, ...]
    notes: tuple[str, ...]


def contents(structure: Structure) -> Contents:
    """What of a structure is written beside the designed letters, and what is not."""
    around = structure.context
    residues: dict[tuple[str, str, str], list[int]] = {}
    for row, key in enumerate(zip(
        around.chain_ids.tolist(), around.residue_numbers.tolist(), around.residue_names.tolist(),
        strict=True,
    )):  # fmt: skip
        residues.setdefault(key, []).append(row)
    chains: dict[str, list[tuple[str, str]]] = {}
    others: list[tuple[str, str, str]] = []
    for chain, number, name in residues:
        if _nucleotide(name) is None:
            others.append((chain, number, name))
        else:
            chains.setdefault(chain, []).append((number, name))
    notes = []
    proteins = list(structure.chains)
    ids = _ids([*proteins, *(c for c in chains)], len(others))
    renamed = [
        f"{old.strip() or 'blank'} is {new}"
        for old, new in zip([*proteins, *chains], ids, strict=False)
        if old != new
    ]
    if renamed:
        notes.append(f"chain ids are capitals: {shown_items(renamed)}")
    if structure.cyclic:
        notes.append(
            f"the ring of chain {shown_items(structure.cyclic)} is written as an open chain; "
            "the program has to be told"
        )
    gaps = [chain for chain in proteins if _has_gaps(structure, chain)]
    if gaps:
        notes.append(
            f"residues without coordinates have no letter: chain {shown_items(gaps)} "
            f"{'are' if len(gaps) > 1 else 'is'} joined where numbers are missing"
        )
    nucleic = []
    for id_, (chain, members) in zip(ids[len(proteins) :], chains.items(), strict=False):
        polymer, modified = _nucleic(id_, members)
        nucleic.append(polymer)
        if modified:
            notes.append(
                f"modified nucleotides of chain {chain} are written as the ones they come from: "
                f"{shown_items(modified)}"
            )
    placeholders, ligands = [], []
    free = iter(ids[len(proteins) + len(chains) :])
    for chain, number, name in others:
        if name.upper() in PLACEHOLDERS or (len(name) == 2 and name.isdigit()):
            placeholders.append(f"{name} {chain}{number}")
        else:
            ligands.append(Ligand(next(free), name.upper(), f"{chain}{number}"))
    if placeholders:
        notes.append(
            f"{shown_items(placeholders)} left out: a name for any ligand, which no program can "
            "look up; add it by its SMILES"
        )
    bonded = [f"{name} {chain}{number}" for chain, number, name in others
              if _is_bonded(structure, residues[chain, number, name])]  # fmt: skip
    if bonded:
        notes.append(f"bonds are not written: {shown_items(bonded)} will be free")
    return Contents(tuple(ids[: len(proteins)]), tuple(nucleic), tuple(ligands), tuple(notes))


def polymers(design: Design, of: Contents) -> list[Polymer]:
    """The chains of a design, and those of nucleic acids after them."""
    own = zip(of.ids, design.chains.values(), strict=True)
    return [*(Polymer("protein", id_, sequence) for id_, sequence in own), *of.nucleic]


def colabfold(name: str, design: Design, of: Contents) -> str:
    """FASTA of one record, chains joined by ":"."""
    return f">{name}\n{':'.join(design.chains.values())}\n"


def af3(name: str, design: Design, of: Contents) -> str:
    """JSON of AlphaFold 3: equal chains are one entry of several ids, and so are equal ligands."""
    sequences: list[dict[str, Any]] = [
        {kind: {"id": ids, "sequence": sequence}}
        for (kind, sequence), ids in _copies(polymers(design, of)).items()
    ]
    sequences += [
        {"ligand": {"id": ids, "ccdCodes": [code]}} for code, ids in _ligand_copies(of).items()
    ]
    job = {
        "name": name, "modelSeeds": [1], "sequences": sequences, "dialect": "alphafold3",
        "version": 1,
    }  # fmt: skip
    return json.dumps(job, indent=2) + "\n"


def boltz(name: str, design: Design, of: Contents) -> str:
    """YAML of Boltz: as af3. Texts are quoted, for YAML reads a bare N or NO as false."""
    lines = ["version: 1", "sequences:"]

    def entry(kind: str, ids: list[str], key: str, text: str) -> list[str]:
        return [
            f"  - {kind}:", f"      id: {json.dumps(ids)}", f"      {key}: {json.dumps(text)}",
        ]  # fmt: skip

    for (kind, sequence), ids in _copies(polymers(design, of)).items():
        lines += entry(kind, ids, "sequence", sequence)
    for code, ids in _ligand_copies(of).items():
        lines += entry("ligand", ids, "ccd", code)
    return "\n".join(lines) + "\n"


def chai(name: str, design: Design, of: Contents) -> str:
    """FASTA of Chai-1: ligands are SMILES there, which are known of ions alone."""
    records = [(p.kind, p.id, p.sequence) for p in polymers(design, of)]
    records += [("ligand", x.id, IONS[x.name]) for x in of.ligands if x.name in IONS]
    return "".join(f">{kind}|name={id_}\n{text}\n" for kind, id_, text in records)


def rf3(name: str, design: Design, of: Contents) -> str:
    """JSON of RoseTTAFold 3, a component each."""
    components: list[dict[str, str]] = [
        {"seq": _rf3_letters(p), "chain_id": p.id} for p in polymers(design, of)
    ]
    components += [{"ccd_code": ligand.name, "chain_id": ligand.id} for ligand in of.ligands]
    return json.dumps([{"name": name, "components": components}], indent=2) + "\n"


class Program(NamedTuple):
    """A program: what writes its input, the ending of the file, and what that does not hold."""

    write: Callable[[str, Design, Contents], str]
    ending: str
    lacks: Callable[[Contents], str]


PROGRAMS: dict[str, Program] = {
    "colabfold": Program(colabfold, ".fasta", lambda of: _all_but_proteins(of)),
    "af3": Program(af3, ".json", lambda of: ""),
    "boltz": Program(boltz, ".yaml", lambda of: ""),
    "chai": Program(chai, ".fasta", lambda of: _ligands_without_smiles(of)),
    "rf3": Program(rf3, ".json", lambda of: ""),
}
"""What `write_inputs` takes: the folder of each is called by its name."""


def write_inputs(
    folder: str | Path, designs: Designs | Sequence[Designs], programs: Sequence[str]
) -> list[str]:
    """Write the inputs of structure predictors, FOLDER/PROGRAM/NAME_1.ENDING for each design.

    Parameters
    ----------
    designs : of one structure; a list, such as of several temperatures, calls them NAME_T0.1_1
    programs : names in `PROGRAMS`

    Returns
    -------
    Sentences on what the files do not hold, each beginning with the program or with "inputs".

    Raises
    ------
    ValueError
        A program that is not known.
    """
    unknown = [name for name in programs if name not in PROGRAMS]
    if unknown:
        raise ValueError(f"program {unknown[0]!r}; expected some of {', '.join(PROGRAMS)}")
    listed = [designs] if isinstance(designs, Designs) else list(designs)
    if not listed:
        return []
    of = contents(listed[0].structure)
    for name in programs:
        program = PROGRAMS[name]
        for some, names in zip(listed, design_names(listed), strict=True):
            for design, called in zip(some, names, strict=True):
                text = program.write(called, design, of)
                _write(Path(folder) / name / f"{called}{program.ending}", text)
    notes = [f"inputs: {note}" for note in of.notes]
    lacking = ((name, PROGRAMS[name].lacks(of)) for name in programs)
    return notes + [f"{name}: {what}" for name, what in lacking if what]


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))


def _copies(chains: Sequence[Polymer]) -> dict[tuple[str, str], list[str]]:
    """The ids of each (kind, sequence), in order."""
    found: dict[tuple[str, str], list[str]] = {}
    for chain in chains:
        found.setdefault((chain.kind, chain.sequence), []).append(chain.id)
    return found


def _ligand_copies(of: Contents) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for ligand in of.ligands:
        found.setdefault(ligand.name, []).append(ligand.id)
    return found


def _rf3_letters(chain: Polymer) -> str:
    """The letters of a chain; nucleotides of DNA by their names, for a letter alone is of RNA."""
    if chain.kind != "dna":
        return chain.sequence
    return "".join(f"(D{letter})" for letter in chain.sequence)


def _all_but_proteins(of: Contents) -> str:
    names = [f"{p.kind.upper()} chain {p.id}" for p in of.nucleic] + _counted(of.ligands)
    return f"it reads proteins alone; left out: {shown_items(names)}" if names else ""


def _ligands_without_smiles(of: Contents) -> str:
    names = _counted([ligand for ligand in of.ligands if ligand.name not in IONS])
    if not names:
        return ""
    return (
        f"it reads ligands as SMILES, which a structure does not have; left out: "
        f"{shown_items(names)}"
    )


def _counted(ligands: Sequence[Ligand]) -> list[str]:
    times = Counter(ligand.name for ligand in ligands)
    return [f"{name} ({n})" if n > 1 else name for name, n in times.items()]


def _ids(chains: Sequence[str], further: int) -> list[str]:
    """An id of capitals for each chain, its own where it is one, and some more."""
    taken = {chain for chain in chains if _is_capitals(chain)}
    free = (id_ for id_ in _capitals() if id_ not in taken)
    ids: list[str] = []
    for chain in chains:
        own = _is_capitals(chain) and chain not in ids
        ids.append(chain if own else next(free))
    return ids + [next(free) for _ in range(further)]


def _is_capitals(chain: str) -> bool:
    return bool(chain) and set(chain) <= set(ascii_uppercase)


def _capitals() -> Iterator[str]:
    """A, B, ..., Z, AA, AB, ..."""
    for length in count(1):
        yield from map("".join, product(ascii_uppercase, repeat=length))


def _has_gaps(structure: Structure, chain: str) -> bool:
    index = structure.residue_index[structure.chain_ids == chain]
    return bool((np.diff(index) > 1).any())


@lru_cache(maxsize=4096)
def _nucleotide(name: str) -> tuple[str, str] | None:
    """A name -> ("dna" or "rna", letter; a small one if it is modified); None for all others."""
    import gemmi

    about = gemmi.find_tabulated_residue(name)
    if not about.found() or not about.is_nucleic_acid():
        return None
    return "dna" if about.kind == gemmi.ResidueKind.DNA else "rna", about.one_letter_code


def _nucleic(id_: str, members: Sequence[tuple[str, str]]) -> tuple[Polymer, list[str]]:
    """A chain of (number, name) of nucleotides, and which are modified."""
    found = [_nucleotide(name) or ("rna", "N") for _, name in members]
    (kind, _), *_ = Counter(kind for kind, _ in found).most_common()
    letters, modified = [], []
    for (number, name), (own, letter) in zip(members, found, strict=True):
        letters.append(letter.upper() if letter.strip() else "N")
        if letter != letter.upper() or own != kind:
            modified.append(f"{name} {number}")
    return Polymer(kind, id_, "".join(letters)), modified


def _is_bonded(structure: Structure, rows: Sequence[int]) -> bool:
    """Whether atoms of the surroundings, one residue, are bonded to another residue."""
    around = structure.context
    bonding = np.isin(around.elements, _BONDING)
    own = np.zeros(len(around), np.bool_)
    own[list(rows)] = True
    atoms = around.coords[own & bonding]
    others = [around.coords[~own & bonding], structure.coords.reshape(-1, 3)]
    if structure.side_chains is not None:
        others.append(structure.side_chains.reshape(-1, 3))
    all_others = np.concatenate(others)
    near = all_others[np.isfinite(all_others).all(1)]
    return any(((near - atom) ** 2).sum(1).min(initial=np.inf) < BONDED**2 for atom in atoms)
