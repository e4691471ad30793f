"""Designs as LigandMPNN's `run.py` makes and writes them: FASTA, backbones, statistics."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from mpnn_core.compatible.ligand_reading import AtomRecords, Complex, three_letter_names
from mpnn_core.constants import ALPHABET
from mpnn_core.design.arguments import digests_of
from mpnn_core.design.model import Model
from mpnn_core.design.near import NEAR, near_ligands
from mpnn_core.design.packing import Packed
from mpnn_core.sampling.constraints import Constraints
from mpnn_core.sampling.noise import order_noise
from mpnn_core.sampling.orders import draw_order
from mpnn_core.structures.side_chains import ATOM_NAMES
from mpnn_core.structures.structure import Structure

LETTERS_DRAWN = 20
"""All but X, which is never drawn and has no probability in the files."""
_NUMBER = re.compile(r"\s*(-?\d+)([A-Za-z]?)\s*")
NUCLEIC = (
    "A", "C", "G", "T", "U", "DA", "DC", "DG", "DT", "DU", "ADE", "CYT", "GUN", "THY", "URA", "AMP",
    "ADP", "ATP", "CMP", "CDP", "CTP", "GMP", "GDP", "GTP", "TMP", "TPP", "TTP", "UMP", "UDP",
    "UTP", "5GP", "A2P", "A3P", "ADN", "AGS", "C2P", "C3P", "C5P", "CTN", "THM", "URI",
)  # fmt: skip
"""What ProDy takes as nucleic acids, by residue name."""
CERTAIN = 0.01
"""Nats. The original's B-factor of a residue that costs no more is 0 instead of about 1."""


@dataclass(frozen=True, eq=False)
class Run:
    """How often and from what sequences are drawn: n = batch_size * number_of_batches.

    Attributes
    ----------
    temperature, seed : as in `Model.design`
    """

    batch_size: int = 1
    number_of_batches: int = 1
    temperature: float = 0.1
    seed: int = 0

    @property
    def sequences(self) -> int:
        return self.batch_size * self.number_of_batches


@dataclass(frozen=True, eq=False)
class LigandDesigns:
    """n sequences of L residues, with the numbers that LigandMPNN's files have of them.

    Attributes
    ----------
    tokens : (n, L) int64
    sampling_probs : (n, L, 20) float32, what residues were drawn from; 0 where none was
    log_probs : (n, L, 21) float32, of the network; 0 where none was drawn
    decoding_order : (n, L) int64
    asked : (L,) bool, what was to be designed, complete or not
    near : (L,) bool, the complete residues near a ligand; all complete ones for a model that sees
        none
    """

    complex: Complex
    run: Run
    tokens: NDArray[np.int64]
    sampling_probs: NDArray[np.float32]
    log_probs: NDArray[np.float32]
    decoding_order: NDArray[np.int64]
    asked: NDArray[np.bool_]
    near: NDArray[np.bool_]

    @property
    def designed(self) -> NDArray[np.bool_]:
        """(L,) bool: what was drawn."""
        designed: NDArray[np.bool_] = self.asked & self.complex.structure.mask
        return designed

    @property
    def sequences(self) -> list[str]:
        return ["".join(ALPHABET[token] for token in row) for row in self.tokens.tolist()]

    @property
    def nll(self) -> NDArray[np.float32]:
        """(n, L) float32: the negative log-probability of each residue; 0 where none was drawn."""
        nll: NDArray[np.float32] = -np.take_along_axis(self.log_probs, self.tokens[..., None], 2)
        return nll[..., 0]

    def confidence(self, of: NDArray[np.bool_]) -> NDArray[np.float32]:
        """(n,) float32: exp of minus the mean over some positions, 1 if there are none."""
        counted = of.astype(np.float32)
        mean = (self.nll * counted).sum(1) / (counted.sum() + np.float32(1e-8))
        return np.exp(-mean).astype(np.float32)

    @property
    def overall_confidence(self) -> NDArray[np.float32]:
        return self.confidence(self.designed)

    @property
    def ligand_confidence(self) -> NDArray[np.float32]:
        return self.confidence(self.designed & self.near)

    @property
    def recovery(self) -> NDArray[np.float32]:
        """(n,) float32: the share of what was drawn that is as in the file."""
        same = (self.tokens == self.complex.structure.tokens)[:, self.designed]
        return same.mean(1, dtype=np.float32)


def design_complex(
    model: Model,
    complex: Complex,
    structure: Structure,
    constraints: Constraints,
    asked: NDArray[np.bool_],
    run: Run,
    cutoff: float = NEAR,
) -> LigandDesigns:
    """Sequences for a complex.

    Where positions are tied, the sequences of a batch share one decoding order, as in the original;
    otherwise each has its own.

    Parameters
    ----------
    structure : that of the complex, as the model is to see it: without ligands, or with labels
    constraints : what is fixed is what is not `asked`, (L,) bool
    cutoff : Å, how far from a ligand counts as near

    Raises
    ------
    ConstraintError
        The constraints do not fit the structure, or leave nothing to design.
    """
    orders = None
    resolved = constraints.resolve(structure)
    if resolved.groups:
        digest = digests_of([structure], common_random_numbers=False)[0]
        orders = np.concatenate([
            np.tile(
                draw_order(
                    order_noise(run.seed, batch * run.batch_size, len(structure), digest),
                    resolved.designed,
                ),
                (run.batch_size, 1),
            )
            for batch in range(run.number_of_batches)
        ])  # fmt: skip
    designs = model.design(structure, run.sequences, run.temperature, run.seed, constraints, orders)
    tokens = np.array([[ALPHABET.index(a) for a in s] for s in designs.sequences], np.int64)
    drawn = designs.designed[:, None].astype(np.float32)
    return LigandDesigns(
        complex,
        run,
        tokens,
        designs.probabilities[..., :LETTERS_DRAWN] * drawn,
        designs.log_probs * drawn,
        designs.decoding_order,
        asked,
        near_for(model, complex.structure, cutoff),
    )


def near_for(model: Model, structure: Structure, cutoff: float) -> NDArray[np.bool_]:
    """(L,) bool: what a ligand's score counts; of a model that sees no ligands, all residues."""
    if "context" in model.reads:
        return near_ligands(structure, cutoff)
    return structure.mask


def fasta_text(
    designs: LigandDesigns,
    model_path: str,
    uses_context: bool,
    cutoff: float,
    separator: str,
    first: int,
) -> str:
    """The text of a FASTA file, which has no newline at its end.

    `model_path` is what the header calls the weights; `first` numbers the first design, 0 or 1.
    """
    at, run = designs.complex, designs.run
    titles = [
        f">{at.name}, T={run.temperature}, seed={run.seed}, num_res={designs.designed.sum()}, "
        f"num_ligand_res={(designs.designed & designs.near).sum()}, "
        f"use_ligand_context={uses_context}, ligand_cutoff_distance={cutoff}, "
        f"batch_size={run.batch_size}, number_of_batches={run.number_of_batches}, "
        f"model_path={model_path}"
    ]
    numbers = zip(
        designs.overall_confidence, designs.ligand_confidence, designs.recovery, strict=True
    )
    titles += [
        f">{at.name}, id={i}, T={run.temperature}, seed={run.seed}, overall_confidence="
        f"{_decimal(overall)}, ligand_confidence={_decimal(ligand)}, seq_rec={_decimal(recovery)}"
        for i, (overall, ligand, recovery) in enumerate(numbers, start=first)
    ]
    sequences = [at.structure.sequence, *designs.sequences]
    return "\n".join(
        f"{title}\n{at.by_chain(sequence, separator)}"
        for title, sequence in zip(titles, sequences, strict=True)
    )


def _decimal(value: np.float32) -> str:
    return np.format_float_positional(value, unique=False, precision=4)


def statistics(designs: LigandDesigns, mask_type: type[np.signedinteger[Any]]) -> dict[str, Any]:
    """What `--save_stats` saves: tensors by name, and the seed and the temperature.

    `mask_type` is that of chain_mask: int64 where residues were fixed or redesigned by name, int32
    otherwise.
    """
    structure = designs.complex.structure
    arrays: dict[str, NDArray[Any]] = {
        "generated_sequences": designs.tokens,
        "sampling_probs": designs.sampling_probs,
        "log_probs": designs.log_probs,
        "decoding_order": designs.decoding_order,
        "native_sequence": structure.tokens.astype(np.int32),
        "mask": structure.mask.astype(np.int32),
        "chain_mask": designs.asked.astype(mask_type),
    }
    tensors: dict[str, Any] = {
        name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()
    }
    return {**tensors, "seed": designs.run.seed, "temperature": designs.run.temperature}


def save(values: dict[str, Any], file: IO[bytes]) -> None:
    """Write what `torch.load` reads."""
    torch.save(values, file)


def b_factors(designs: LigandDesigns, legacy: bool) -> NDArray[np.float32]:
    """(n, L) float32: the probability of each residue that was drawn, 0 for the others.

    `legacy` gives the original's 0 for one that costs at most `CERTAIN`.
    """
    counts = designs.nll > CERTAIN if legacy else designs.designed
    return (np.exp(-designs.nll) * counts).astype(np.float32)


def backbone_text(complex: Complex, sequence: str, b_factors: NDArray[np.float32]) -> str:
    """A PDB file of the backbone with a sequence's residue names, and of what is around it.

    Parameters
    ----------
    sequence : L letters
    b_factors : (L,), of the residues; atoms around have 0
    """
    names = three_letter_names(sequence)
    of_atoms = b_factors[complex.backbone.residue]
    return _pdb_text((complex.backbone, names, of_atoms.tolist()), (complex.others, None, None))


def packed_text(complex: Complex, packed: Packed, row: int, hetatm: bool) -> str:
    """A PDB file of a full-atom model, and of what is around it.

    Parameters
    ----------
    row : which of the models
    hetatm : whether ATOM and HETATM around the protein are as in the file; otherwise they are as
        the original has them without `--force_hetatm`: ATOM for nucleic acids, HETATM for others
    """
    structure, sequence = complex.structure, packed.sequences[row]
    residue, slot = np.nonzero(np.isfinite(packed.coordinates[row, ..., 0]))
    names = [ATOM_NAMES[ALPHABET.index(letter)] for letter in sequence]
    atoms = np.array([names[i][a] for i, a in zip(residue, slot, strict=True)], np.str_)
    elements = {"C": 6, "N": 7, "O": 8, "S": 16}
    at = [_NUMBER.fullmatch(text) for text in structure.residue_numbers.tolist()]
    numbers = np.array([int(found[1]) if found else 0 for found in at])
    codes = np.array([found[2] if found else "" for found in at])
    nothing = np.full(len(residue), "")
    protein = AtomRecords(
        residue, structure.chain_ids[residue], numbers[residue], codes[residue],
        np.array(three_letter_names(sequence))[residue], atoms, nothing,
        np.array([elements[name[0]] for name in atoms.tolist()], np.int64),
        packed.coordinates[row, residue, slot].astype(np.float64),
        np.ones(len(residue)), np.zeros(len(residue), bool),
    )  # fmt: skip
    others = complex.others
    if not hetatm:
        others = replace(others, hetero=~np.isin(others.residue_name, NUCLEIC))
    b_factors = packed.b_factors[row, residue, slot].tolist()
    return _pdb_text((protein, None, b_factors), (others, None, None))


def _pdb_text(
    *parts: tuple[AtomRecords, Sequence[str] | None, Sequence[float] | None],
) -> str:
    """A PDB file of atoms, with names of residues and B-factors of atoms if they are given."""
    import gemmi

    structure = gemmi.Structure()
    model = gemmi.Model(1)
    for atoms, names, b_factors in parts:
        _add_atoms(model, atoms, names, b_factors)
    structure.add_model(model)
    written = gemmi.PdbWriteOptions()
    written.minimal_file, written.cryst1_record = True, False  # no cell is known
    text: str = structure.make_pdb_string(written)
    return text


def _add_atoms(
    model: Any, atoms: AtomRecords, names: Sequence[str] | None, b_factors: Sequence[float] | None
) -> None:
    """Add atoms to a gemmi.Model, in their order, under `names` of residues, with `b_factors`.

    A chain or residue that comes back after another is one more, so that the order stays.
    """
    import gemmi

    def residue_of(i: int) -> tuple[int, str, str, int]:
        row = int(atoms.residue[i])
        name = str(atoms.residue_name[i]) if names is None else names[row]
        return int(atoms.number[i]), str(atoms.icode[i]), name, row

    for chain_id, in_chain in groupby(range(len(atoms)), lambda i: str(atoms.chain[i])):
        chain = gemmi.Chain(chain_id)
        for (number, icode, name, _), in_residue in groupby(in_chain, residue_of):
            residue = gemmi.Residue()
            residue.name, residue.seqid = name, gemmi.SeqId(number, icode or " ")
            for i in in_residue:
                residue.het_flag = "H" if atoms.hetero[i] else "A"
                atom = gemmi.Atom()
                atom.name = str(atoms.name[i])
                atom.altloc = str(atoms.altloc[i]) or "\0"
                atom.element = gemmi.Element(int(atoms.element[i]))
                atom.pos = gemmi.Position(*atoms.xyz[i].tolist())
                atom.occ = float(atoms.occupancy[i])
                atom.b_iso = 0.0 if b_factors is None else b_factors[i]
                residue.add_atom(atom)
            chain.add_residue(residue)
        model.add_chain(chain)
