"""Side chains for sequences on a backbone: what `Model.pack` gives."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpnn_core.backends.native.packing import native_packer
from mpnn_core.constants import ALPHABET, UNKNOWN
from mpnn_core.design.arguments import checked_seed, tokens_of
from mpnn_core.design.devices import find_device
from mpnn_core.network.checkpoints import load_packer_network
from mpnn_core.network.context import Surroundings, context_sets
from mpnn_core.network.families import PACKER
from mpnn_core.network.features import with_virtual_cb
from mpnn_core.network.graph import Backbones, nearest_neighbours, upload
from mpnn_core.network.packer import COMPONENTS, Mixture, Packer, slots_of
from mpnn_core.sampling.angles import draw_angles, log_density
from mpnn_core.sampling.noise import digest, side_chain_noise
from mpnn_core.selecting.selections import Selection, select
from mpnn_core.structures.context import NO_CONTEXT
from mpnn_core.structures.side_chains import (
    ATOM_COUNTS,
    ATOMS,
    CHI_COUNTS,
    CHIS,
    FIRST_CHI,
    coordinates,
    ideal,
    measured_chi,
)
from mpnn_core.structures.structure import Structure, StructureError, StructureWarning, shown_items

KEPT_LOG_DENSITY = 2.0
"""What the original states of each angle of a side chain that stays."""
MOST = 1000
"""Of packs, steps and samples: each has random numbers of its own."""


@dataclass(frozen=True, eq=False)
class Packed:
    """Full-atom models: side chains of sequences on one backbone.

    There are n of them: of each sequence, as many as `packs`, one after the other.

    Attributes
    ----------
    structure, samples, steps, packs, seed, model_name : what they were made from
    sequences : n strings of L letters
    kept : (L,) bool, residues whose side chain has the angles of the structure's own
    chi : (n, L, 4) float32, radians, -pi to pi; NaN where a residue has no such angle, or an
        incomplete backbone
    mean, concentration, weight : (n, L, 4, 3) float32: the three von Mises distributions from which
        the last step drew each angle, of whose means 2 pi may be taken, and their weights
    log_densities : (n, L, 4) float32: of each angle in its mixture, per radian. A residue without
        such an angle has one all the same, from which the original takes B-factors; those of a
        side chain that stays are 2, as in the original
    coordinates : (n, L, 14, 3) float32, Å, in the order of AlphaFold's atom14: N, CA, C, O, CB, and
        what is beyond (`structures.side_chains`); NaN where there is no such atom. Bond lengths and
        angles are ideal, those of the backbone N - CA - C too
    """

    structure: Structure
    sequences: tuple[str, ...]
    samples: int
    steps: int
    packs: int
    seed: int
    model_name: str
    kept: NDArray[np.bool_]
    chi: NDArray[np.float32]
    mean: NDArray[np.float32]
    concentration: NDArray[np.float32]
    weight: NDArray[np.float32]
    log_densities: NDArray[np.float32]
    coordinates: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def b_factors(self) -> NDArray[np.float32]:
        """(n, L, 14) float32, what the original writes as B-factors: of each atom the log-density
        of the angle that turns it, and that of chi1 where none does; NaN where there is no atom."""
        tokens = np.array([[ALPHABET.index(a) for a in s] for s in self.sequences])
        angle = np.maximum(ideal().group[tokens] - FIRST_CHI, 0)  # (n, L, 14)
        values: NDArray[np.float32] = np.take_along_axis(self.log_densities, angle, 2)
        return np.where(np.isfinite(self.coordinates[..., 0]), values, np.float32(np.nan))


class SideChainPacker:
    """The side-chain packer with its weights on a device; `load_packer` makes one."""

    def __init__(self, network: Packer, name: str, device: torch.device, backend: str) -> None:
        self.network = network.to(device)
        self.name = name
        self.device = device
        self.computed_by = native_packer(self.network, backend, device) or self.network

    def __repr__(self) -> str:
        return f"<SideChainPacker {self.name} on {self.device}>"

    def pack(
        self,
        structure: Structure,
        sequences: Any = None,
        samples: int = 16,
        steps: int = 3,
        packs: int = 1,
        seed: int | None = None,
        keep: Selection | NDArray[np.bool_] | None = None,
        ligands: bool = True,
    ) -> Packed:
        """Side chains for sequences on a backbone, as the original's `pack_side_chains`.

        Parameters
        ----------
        structure : with complete residues; what is around it is seen
        sequences : a string, a list of n strings, or (L,) or (n, L) tokens; None is its own
        samples : of each angle, of which the likeliest is taken
        steps : in each of which all angles are drawn anew, under the atoms of the step before
        packs : models of each sequence
        seed : 0 to 2**63 - 1; None draws one, which the result names. The random numbers of a model
            depend on the seed, the index of its sequence, that of its pack, and the backbone alone
        keep : residues whose side chains stay at the angles that the structure has: a selection, or
            (L,) bool. Of those whose side chain is incomplete, a new one is packed, which is said
        ligands : whether the atoms around are seen

        Raises
        ------
        ValueError
            An argument is out of range, or a residue is to keep its side chain whose letter is
            another one.
        StructureError
            The structure is a trace of CA atoms, or joins several.
        """
        require_packable(structure)
        for count, value in (("samples", samples), ("steps", steps), ("packs", packs)):
            if not 1 <= value <= MOST:
                raise ValueError(f"{count} is {value}; expected 1 to {MOST}")
        seed = checked_seed(seed)
        tokens = tokens_of(structure, sequences)  # (n, L)
        kept, chi = kept_angles(structure, keep, tokens)
        rows = np.repeat(np.arange(len(tokens)), packs)
        found = _Results.empty(len(rows), len(structure))
        seen = structure if ligands else replace(structure, context=NO_CONTEXT)
        problem = _Problem.of(seen, self.network, self.device)
        name = digest(structure)
        keeping = None
        if kept.any():
            keeping = (
                upload(kept[structure.mask], self.device),
                upload(chi[structure.mask], self.device, torch.float32),
            )
        with torch.inference_mode(), self.computed_by.computing():
            for i, own in enumerate(tokens):
                self._pack_sequence(
                    problem, own, i, samples, steps, packs, seed, name, keeping, found
                )
        letters = ["".join(ALPHABET[t] for t in row) for row in tokens]
        found.blank(tokens[rows], structure.mask)
        return Packed(
            structure, tuple(letters[i] for i in rows), samples, steps, packs, seed, self.name,
            kept, **vars(found),
        )  # fmt: skip

    def _pack_sequence(
        self,
        problem: _Problem,
        tokens: NDArray[np.int64],
        sequence: int,
        samples: int,
        steps: int,
        packs: int,
        seed: int,
        name: int,
        keeping: tuple[Tensor, Tensor] | None,
        found: _Results,
    ) -> None:
        """The models of one sequence, into their rows of `found`."""
        mask = problem.mask
        own = upload(tokens[mask], self.device)

        def numbers(pack: int, step: int, drawn: int, width: int) -> Tensor:
            draw = (pack << 40) + (step << 20) + drawn
            uniform = side_chain_noise(seed, sequence, draw, len(mask), width, name)
            return upload(uniform[mask], self.device)

        def placed(chi: Tensor) -> tuple[Tensor, Tensor]:
            if keeping is not None:
                chi = torch.where(keeping[0][:, None], keeping[1], chi)
            return chi, problem.placed(own, chi)

        # Of the N 4 angles end to end. Those that residues do not have are stated at the end.
        every = torch.arange(len(own) * CHIS, device=self.device)
        counts = torch.tensor(CHI_COUNTS, device=self.device)[own]
        there = every[(every.view(-1, CHIS) % CHIS < counts[:, None]).flatten()]
        encoding = None
        for pack in range(packs):
            chi = (2 * torch.pi * numbers(pack, 0, 0, CHIS)).float()
            chi, atoms = placed(chi)
            if encoding is None:  # it reads what no angle moves
                encoding = problem.encoding(self.computed_by, own, atoms)
            for step in range(1, steps + 1):
                mixture = self.computed_by.decode(encoding, atoms)
                rows = every if step == steps else there
                angle, density = likeliest(mixture, samples, partial(numbers, pack, step), rows)
                chi, atoms = placed(angle.float())
            if keeping is not None:
                density = density.masked_fill(keeping[0][:, None], KEPT_LOG_DENSITY)
            row = sequence * packs + pack
            for to, value in (
                (found.chi, chi),
                (found.mean, mixture.mean),
                (found.concentration, mixture.concentration),
                (found.weight, torch.softmax(mixture.logits, -1)),
                (found.log_densities, density),
                (found.coordinates, atoms),
            ):
                to[row, mask] = value.float().cpu().numpy()


@dataclass(frozen=True, eq=False)
class _Problem:
    """What does not depend on sequences: (L,) mask, backbones, and the atoms around."""

    mask: NDArray[np.bool_]
    backbones: Backbones
    surroundings: Surroundings
    network: Packer

    @classmethod
    def of(cls, structure: Structure, network: Packer, device: torch.device) -> _Problem:
        backbones = Backbones.from_structures([structure], device)
        surroundings = Surroundings.of([structure], None, device)
        return cls(structure.mask, backbones, surroundings, network)

    def placed(self, tokens: Tensor, chi: Tensor) -> Tensor:
        """All atoms (N, 14, 3), zeros where there is none."""
        atoms = coordinates(self.backbones.coords, tokens[None], chi[None])[0]
        counts = torch.tensor(ATOM_COUNTS, device=tokens.device)[tokens]
        there = torch.arange(ATOMS, device=tokens.device) < counts[:, None]
        return torch.where(there[..., None], atoms, 0)

    def encoding(self, network: Any, tokens: Tensor, atoms: Tensor) -> Any:
        """The encoding of a sequence by the network, or by what computes it."""
        ideal = replace(self.backbones, coords=atoms[:, :4].contiguous())
        graph = nearest_neighbours(ideal, self.network.neighbours)
        # The graph is not looked at: no side chain is shown.
        sets = context_sets(self.surroundings, graph, self.backbones, self.network.context_atoms)
        slots = slots_of(sets, with_virtual_cb(self.backbones.coords)[:, -1])
        return network.encode(ideal, graph, sets, slots, tokens, atoms)


@dataclass(eq=False)
class _Results:
    """The arrays of `Packed`, to be filled."""

    chi: NDArray[np.float32]
    mean: NDArray[np.float32]
    concentration: NDArray[np.float32]
    weight: NDArray[np.float32]
    log_densities: NDArray[np.float32]
    coordinates: NDArray[np.float32]

    @classmethod
    def empty(cls, n: int, L: int) -> _Results:
        shapes = [(n, L, CHIS)] + 3 * [(n, L, CHIS, COMPONENTS)] + [(n, L, CHIS), (n, L, ATOMS, 3)]
        return cls(*(np.full(shape, np.nan, np.float32) for shape in shapes))

    def blank(self, tokens: NDArray[np.int64], mask: NDArray[np.bool_]) -> None:
        """NaN where there is no such angle or atom: tokens (n, L), mask (L,)."""
        for values, counts in ((self.chi, CHI_COUNTS), (self.coordinates, ATOM_COUNTS)):
            there = np.arange(values.shape[2]) < np.array(counts)[tokens][..., None]
            values[~(there & mask[:, None])] = np.nan


def likeliest(
    mixture: Mixture, samples: int, numbers: Callable[[int, int], Tensor], rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Of so many samples of each angle the likeliest, and its log-density: (N, 4) float64 each.

    rows (P,) are the angles that are drawn, of all N 4 end to end; the others are 0. `numbers` are
    as in `draw_angles`, each angle's side by side.
    """
    mean, concentration, logits = (
        of.flatten(0, 1)[rows, None] for of in (mixture.mean, mixture.concentration, mixture.logits)
    )  # (P, 1, 3)

    def of_rows(drawn: int, width: int) -> Tensor:
        return numbers(drawn, CHIS * width).view(-1, width)[rows]

    angles = draw_angles(mean, concentration, logits, samples, of_rows)  # (S, P, 1)
    densities = log_density(mean, concentration, logits, angles)
    best = densities.argmax(0, keepdim=True)
    found = densities.new_zeros(2, mixture.mean.shape[0] * CHIS)
    for to, of in zip(found, (angles, densities), strict=True):
        to[rows] = of.gather(0, best)[0, :, 0]
    angle, density = found.view(2, -1, CHIS)
    return angle, density


def require_packable(structure: Structure) -> None:
    """Raise StructureError where a structure has no backbone to pack side chains on."""
    if structure.ca_only:
        raise StructureError(
            f"{structure.name} is read as a trace of CA atoms; side chains are packed on N, CA, C "
            "and O: read it without ca_only"
        )
    if structure.states:
        raise StructureError(
            f"{structure.name} joins {len(structure.states)} states; pack each of them by itself"
        )


def kept_angles(
    structure: Structure,
    keep: Selection | NDArray[np.bool_] | None,
    tokens: NDArray[np.int64],
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Which side chains stay, (L,) bool, and the angles of the structure, (L, 4), of `tokens`."""
    L = len(structure)
    if keep is None:
        return np.zeros(L, bool), np.zeros((L, CHIS), np.float32)
    if isinstance(keep, np.ndarray):
        if keep.shape != (L,) or keep.dtype != bool:
            raise ValueError(
                f"keep is {keep.dtype} of shape {keep.shape}; expected bool of {(L,)}, the "
                f"residues of {structure.name}"
            )
        kept = keep & structure.mask
    else:
        kept = select(structure, keep) & structure.mask
    kept = kept & (structure.tokens != UNKNOWN)
    other = kept & (tokens != structure.tokens).any(0)
    if other.any():
        i = int(other.argmax())
        letters = {ALPHABET[t] for t in tokens[:, i]} - {structure.sequence[i]}
        raise ValueError(
            f"{structure.name}: residue {structure.chain_ids[i]}{structure.residue_numbers[i]} is "
            f"to keep its side chain, of {structure.sequence[i]}, and is {letters.pop()} in a "
            "sequence; leave it out of keep"
        )
    chi, known = measured_chi(structure)  # (L, 4) each
    needed = np.arange(CHIS) < np.array(CHI_COUNTS)[structure.tokens][:, None]
    incomplete = kept & (needed & ~known).any(1)
    if incomplete.any():
        names = [
            f"{structure.chain_ids[i]}{structure.residue_numbers[i]}"
            for i in np.flatnonzero(incomplete)
        ]
        warnings.warn(
            f"{structure.name}: side chains that were to stay are incomplete, and are packed: "
            f"{shown_items(names)}",
            StructureWarning,
            stacklevel=4,
        )
    return kept & ~incomplete, np.where(known, chi, 0).astype(np.float32)


def load_packer(
    weights: str | Path = PACKER, device: str | torch.device = "cpu", backend: str = "auto"
) -> SideChainPacker:
    """A side-chain packer that is ready to pack.

    Parameters
    ----------
    weights : "packer/v_32_002_16", the published ones; the name of others that were added, or a
        path to a `.pt` or `.safetensors` file
    device : "cpu", "cuda", ...
    backend : "auto", "torch", or "native", C++ on the CPU

    Raises
    ------
    CheckpointError
        There are no such weights, or they are those of another network.
    ValueError
        A device or a backend that this machine does not have.
    """
    network, name = load_packer_network(weights)
    return SideChainPacker(network, name, find_device(device), backend)
