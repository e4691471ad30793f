"""PDB and mmCIF files read into a `Structure`.

From file to structure: `containers` unpacks a file, `atoms` parses it, `chains` says which atoms
are which residue of which chain, `surroundings` what is beside their backbones. An unusable file is
a `StructureError` that names the file, the chain and the residue; what is left out of a usable one
or changed in it is a `StructureWarning`.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mpnn_core.constants import BACKBONE, CA, CHAIN_GAP, C, N, O
from mpnn_core.structures.atoms import Say, read_atoms
from mpnn_core.structures.chains import protein_chains
from mpnn_core.structures.containers import read_text, structure_name
from mpnn_core.structures.names import own_names, residue_letters
from mpnn_core.structures.residues import (
    BONDS,
    LONGEST_BOND,
    SHORTEST_BOND,
    Conformer,
    Residue,
    Runs,
    bonded,
)
from mpnn_core.structures.structure import (
    Structure,
    StructureError,
    StructureWarning,
    shown_chain,
    shown_items,
)
from mpnn_core.structures.surroundings import (
    chains_around,
    context_atoms,
    say_what_is_of_other_chains,
    side_chains,
)

NO_NEIGHBOUR = 10.0
"""Å. Atoms farther from each other than this are not bonded, whatever their names and numbers."""


def read_structure(
    path: str | os.PathLike[str],
    chains: str | Sequence[str] | None = None,
    ca_only: bool = False,
    zero_occupancy: bool = False,
) -> Structure:
    """The protein chains of a PDB or mmCIF file, plain or compressed by gzip, bzip2 or xz.

    The content of the file decides the format, not its name. Chains come in the order of their ids,
    as in the original; residues in the order of the file, or of label_seq_id. Of several models or
    data blocks the first is read. Of alternative conformations, or of different residues with one
    number in one place, a single one is read: a complete one before others, then the one with the
    highest backbone occupancy; of equals, the first in the file. Modified residues and protonation
    states count as their parent; a residue with a protein backbone and no parent is X. A HETATM
    residue belongs to a chain if a peptide bond joins it, if the file says so, if it stands in the
    chain with a number that fits, or if it is MSE, as in the original; waters, ligands and
    nucleotides do not belong to any.

    `Structure.context` gets the atoms of all residues that are neither protein nor water, in the
    order of the file and without hydrogens; of alternative conformations of a residue one, by the
    same rule. `Structure.side_chains` gets the side chain of the conformer that is read.

    Parameters
    ----------
    path : the file
    chains : the author's chain ids, "A", "A,B" or ["A", "B"]; None reads all protein chains.
        The ligands of other chains are left out, as in LigandMPNN's `parse_PDB`; beside a protein
        chain, one of nucleic acids or ligands alone may be asked for
    ca_only : whether to read a trace: residues whose CA is known are complete, whatever else of
        them is, and the CA-only models read it
    zero_occupancy : whether atoms of occupancy 0 are read of ligands and side chains; those of
        backbones are read in any case

    Raises
    ------
    StructureError
        The file does not exist, is no structure, is cut short, or holds no protein; a chain does
        not exist; no residue has a complete backbone; a coordinate is infinite or no number; two
        molecules are one chain; most of a chain's backbone is impossible.

    Warns
    -----
    StructureWarning
        Once for each kind of thing that is left out or changed.
    """
    file = Path(path)
    try:
        text = read_text(file)
    except StructureError as error:
        error.file = str(file)
        raise
    return structure_of_text(text, structure_name(file), chains, ca_only, zero_occupancy, str(file))


def structure_of_text(
    text: str,
    name: str,
    chains: str | Sequence[str] | None = None,
    ca_only: bool = False,
    zero_occupancy: bool = False,
    source: str = "",
) -> Structure:
    """The protein chains of the text of a PDB or mmCIF file; see `read_structure`.

    `source` is what messages call it, its name if that is "".
    """
    said: list[str] = []
    source = source or name
    try:
        structure = _structure(text, name, chains, ca_only, zero_occupancy, said)
    except StructureError as error:
        error.file = source
        raise
    for sentence in said:
        warnings.warn(f"{source}: {sentence}", StructureWarning, stacklevel=3)
    return structure


def _structure(
    text: str,
    name: str,
    chains: str | Sequence[str] | None,
    ca_only: bool,
    zero_occupancy: bool,
    said: list[str],
) -> Structure:
    """The structure of some chains of a file, or of all its protein chains."""
    say = said.append
    atoms = read_atoms(text, say)
    present = {chain.decode() for chain in np.unique(atoms.chain).tolist()}
    wanted = _chain_ids(chains)
    asked = atoms.of_chains(wanted) if wanted is not None and wanted <= present else atoms
    runs = Runs(asked)
    residues_of, ligands = protein_chains(runs, say)
    selected = list(residues_of)
    around: set[str] = set()
    if wanted is not None:
        selected = sorted(wanted & residues_of.keys())
        around = wanted & chains_around(runs, ligands)
        unknown = wanted - {*selected, *around} if selected else wanted
        if unknown or not wanted:
            everything, _ = protein_chains(Runs(atoms), lambda _: None)
            raise _no_such_chain(unknown, everything, present)
    if not selected:
        reason = "no protein chain: no residue that is an amino acid by its name or its backbone"
        raise StructureError("; ".join([reason, *said]))
    rows = [(chain, residue) for chain in selected for residue in residues_of[chain]]
    best = [residue.best() for _, residue in rows]
    _say_what_is_read_as_another(rows, best, say)
    xyz = np.array([conformer.xyz for conformer in best])
    chain_ids = np.array([chain for chain, _ in rows])
    numbers = np.array([residue.label for _, residue in rows])
    impossible = _impossible(xyz)
    _say_what_is_impossible(impossible, chain_ids, numbers, say)
    _leave_out_what_is_far(xyz)
    context = context_atoms(runs, ligands, zero_occupancy, say)
    if wanted is not None:
        # A chain with a name of ours, as A_2, is of the file's A.
        kept = around | {asked.chain[residue.row].decode() for _, residue in rows}
        context = context.rows(np.isin(context.chain_ids, sorted(kept)))
        if present - kept:
            say_what_is_of_other_chains(atoms.of_chains(present - kept), say)
    sides = side_chains(runs, [residue for _, residue in rows], best, zero_occupancy, say)
    structure = Structure(
        name,
        xyz,
        "".join(conformer.letter for conformer in best),
        chain_ids,
        _residue_index([residues_of[chain] for chain in selected]),
        numbers,
        context,
        sides[:, 1:],
        ca_only=ca_only,
        cb=sides[:, 0],
    )
    _say_what_is_apart(structure, impossible, say)
    _say_which_numbers_repeat(structure, say)
    _say_what_is_not_designed(structure, say)
    return structure


def _chain_ids(chains: str | Sequence[str] | None) -> set[str] | None:
    """The ids asked for; None for all."""
    if chains is None:
        return None
    return {c.strip() or " " for c in (chains.split(",") if isinstance(chains, str) else chains)}


def _no_such_chain(wanted: set[str], proteins: Iterable[str], present: set[str]) -> StructureError:
    names = list(proteins)
    choice = f"protein chains there: {', '.join(map(shown_chain, names))}"
    if not wanted:
        return StructureError(f"no chain asked for; {choice}")
    chain = min(wanted - set(names))
    kind = "is no protein" if chain in present else "is not there"
    return StructureError(f"{kind}; {choice}", chain=chain)


def _say_what_is_read_as_another(
    rows: Sequence[tuple[str, Residue]], read: Sequence[Conformer], say: Say
) -> None:
    """Residues that are read as another, or as none of the twenty."""
    pairs = {(residue.name, c.letter) for (_, residue), c in zip(rows, read, strict=True)}
    letters, own = residue_letters(), own_names()
    unknown = sorted({name for name, _ in pairs if name.upper() not in letters})
    if unknown:
        say(
            f"residues with a protein backbone and no one-letter code are X: {shown_items(unknown)}"
        )
    parents = sorted(
        {f"{name} as {a}" for name, a in pairs if name.upper() not in own and a != "X"}
    )
    if parents:
        say(f"modified residues are read as their parents: {shown_items(parents)}")


def _residue_index(chains: Iterable[Sequence[Residue]]) -> NDArray[np.int64]:
    """(L,) int64, as the original's `tied_featurize` where numbers go up: every number and
    insertion code between the first and the last of a chain counts, whether or not the file has it.

    Where numbers do not go up, a peptide bond says that nothing is missing. Without one, the places
    in the full sequence tell how much is, if the file has them; if not, the chain goes on so far
    away that the network sees no neighbours in sequence.
    """
    index: list[int] = []
    start = 0
    for residues in chains:
        index.append(start)
        for previous, residue in pairwise(residues):
            index.append(index[-1] + _step(previous, residue))
        start = index[-1] + 1 + CHAIN_GAP
    return np.array(index, dtype=np.int64)


def _step(previous: Residue, residue: Residue) -> int:
    step = residue.number - previous.number
    if step > 0:
        return step
    if (step == 0 and residue.icode != previous.icode) or bonded(previous, residue):
        return 1
    if previous.place and residue.place > previous.place:
        return residue.place - previous.place
    return CHAIN_GAP


def _say_what_is_apart(structure: Structure, impossible: NDArray[np.bool_], say: Say) -> None:
    """Residues far from each other whose numbers say that no residue is between them."""
    numbers, ids, index = structure.residue_numbers, structure.chain_ids, structure.residue_index
    distances = np.linalg.norm(structure.coords[1:, N] - structure.coords[:-1, C], axis=1)
    apart = (np.diff(index) == 1) & (distances > NO_NEIGHBOUR)
    apart &= ~(impossible[1:] | impossible[:-1])
    for chain in structure.chains:
        pairs = [
            f"{numbers[i]} and {numbers[i + 1]} are {distances[i]:.0f} Å apart"
            for i in np.flatnonzero(apart & (ids[1:] == chain)).tolist()
        ]
        if pairs:
            say(
                f"chain {shown_chain(chain)}: residues {shown_items(pairs)}, though their numbers "
                "follow each other, and are read as neighbours in sequence; if they are of two "
                "molecules, these need two chain ids, or a TER between them"
            )


def _say_which_numbers_repeat(structure: Structure, say: Say) -> None:
    """A label such as A12 must be one residue for constraints to name it."""
    for chain in structure.chains:
        counts = Counter(structure.residue_numbers[structure.chain_ids == chain].tolist())
        repeated = [number for number, count in counts.items() if count > 1]
        if repeated:
            say(
                f"chain {shown_chain(chain)}: residue numbers repeat, so that they name no single "
                f"residue: {shown_items(repeated)}"
            )


def _say_what_is_not_designed(structure: Structure, say: Say) -> None:
    """One sentence for each chain with residues whose backbone is incomplete."""
    for chain in structure.chains:
        here = structure.chain_ids == chain
        masked = np.flatnonzero(here & ~structure.mask)
        if not len(masked):
            continue
        if structure.ca_only:
            say(
                f"chain {shown_chain(chain)}: {len(masked)} of {int(here.sum())} residues keep "
                "their letters and are not designed, for they have no CA: "
                f"{shown_items(structure.residue_numbers[masked].tolist())}"
            )
            continue
        missing = Counter(
            "no " + ", ".join(
                atom
                for a, atom in enumerate(BACKBONE)
                if not np.isfinite(structure.coords[i, a]).all()
            )
            for i in masked
        )  # fmt: skip
        reasons = "; ".join(f"{count} with {what}" for what, count in missing.most_common(3))
        say(
            f"chain {shown_chain(chain)}: {len(masked)} of {int(here.sum())} residues keep their "
            f"letters and are not designed, for their backbone is incomplete ({reasons}): "
            f"{shown_items(structure.residue_numbers[masked].tolist())}"
        )


def _lengths(xyz: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The bonds N-CA, CA-C and C-O of backbones (L, 4, 3), in Å: (L,) each, NaN where unknown."""
    with np.errstate(invalid="ignore"):  # infinite coordinates are refused with their place
        return [np.linalg.norm(xyz[:, a] - xyz[:, b], axis=1) for a, b in BONDS]


def _impossible(xyz: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(L,) bool: backbones with a bond that is none, or in one place with another."""
    bad = np.any([(d < SHORTEST_BOND) | (d > LONGEST_BOND) for d in _lengths(xyz)], axis=0)
    order = np.argsort(xyz[:, CA, 0], kind="stable")  # what is in one place has one x
    alike = np.flatnonzero(np.diff(xyz[order, CA, 0]) == 0)
    twice = order[np.unique([alike, alike + 1])]
    _, place, counts = np.unique(xyz[twice, CA], axis=0, return_inverse=True, return_counts=True)
    bad[twice] |= counts[place.reshape(-1)] > 1
    return bad


def _leave_out_what_is_far(xyz: NDArray[np.float64]) -> None:
    """Set atoms of another residue's place to NaN: they are of another molecule, or nowhere."""
    n_ca, ca_c, c_o = (np.isfinite(d) & (d > NO_NEIGHBOUR) for d in _lengths(xyz))
    xyz[n_ca, N] = np.nan
    xyz[ca_c, C] = np.nan
    xyz[ca_c | c_o, O] = np.nan


def _say_what_is_impossible(
    impossible: NDArray[np.bool_], ids: NDArray[np.str_], numbers: NDArray[np.str_], say: Say
) -> None:
    """One sentence a chain; StructureError where it is most of one."""
    for chain in dict.fromkeys(ids[impossible].tolist()):
        here = ids == chain
        bad = numbers[here & impossible].tolist()
        sentence = (
            f"{len(bad)} of {int(here.sum())} backbones are impossible: bonds N-CA, CA-C or C-O "
            f"outside {SHORTEST_BOND} to {LONGEST_BOND:g} Å, or two residues in one place: "
            f"{shown_items(bad)}"
        )
        if 2 * len(bad) > here.sum():
            raise StructureError(f"{sentence}; are its coordinates in Å?", chain=chain)
        say(f"chain {shown_chain(chain)}: {sentence}")
