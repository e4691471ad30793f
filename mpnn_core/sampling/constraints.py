"""Constraints on a design: chains, fixed and tied positions, omitted residues, biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mpnn_core.constants import ALPHABET
from mpnn_core.structures.structure import Structure

# What the log-odds mask leaves of a residue's probability, in the original as here.
_RARE = np.float32(0.001)

Positions = int | str  # a 0-based position, or a label such as "A52", "A52B", "A10-20"


class ConstraintError(ValueError):
    """A constraint that does not fit its structure; the message names both, and what would fit."""


@dataclass(frozen=True)
class Constraints:
    """The positions that are designed, and the residues that may be drawn there.

    Attributes
    ----------
    chains : chains to design, "A,B" or a sequence of ids; None designs all
    fixed : positions that keep their residue
    omit : letters never drawn anywhere
    omit_at : letters never drawn at some positions
    bias : letter -> what is added to its logit everywhere
    bias_at : positions -> letter -> what is added to its logit there; or an (L, 21) array
    tied : groups of positions that get one residue: each a list of positions, or of position ->
        weight of its logits in the group's mean (the original's `tied_beta`; 1 unless given)
    tied_chains : chains of a homo-oligomer, "A,B,C": residues of equal author number are tied
    pssm : a position-specific scoring matrix

    Positions are 0-based ints or labels of chain and author number: "A52", "A52B" with an insertion
    code, "A10-20" for a range. Biases are in logits, divided by the temperature as in the original.
    """

    chains: str | Sequence[str] | None = None
    fixed: Sequence[Positions] = ()
    omit: str = "X"
    omit_at: Mapping[Positions, str] = field(default_factory=dict)
    bias: Mapping[str, float] = field(default_factory=dict)
    bias_at: Mapping[Positions, Mapping[str, float]] | NDArray[np.floating] = field(
        default_factory=dict
    )
    tied: Sequence[Sequence[Positions] | Mapping[Positions, float]] = ()
    tied_chains: str | Sequence[str] = ()
    pssm: PSSM | None = None

    def resolve(self, structure: Structure) -> Resolved:
        """The same as arrays over the positions of a structure.

        Raises
        ------
        ConstraintError
            They do not fit the structure, or leave nothing to design.
        """
        designed = self.designed(structure)
        if not designed.any():
            raise ConstraintError(f"{structure.name}: every position is fixed; nothing to design")
        biases = self.biases(structure)
        omitted = self.omitted(structure)
        groups = self.groups(structure)
        for group in groups:
            if omitted[list(group)].any(0).all():
                raise ConstraintError(
                    f"{structure.name}: between them, the positions tied to "
                    f"{label(structure, next(iter(group)))} omit every residue; leave one"
                )
        pssm = None if self.pssm is None else self.pssm.weights_and_factors(structure)
        chains = tuple(self.design_chains(structure))
        return Resolved(chains, designed, biases, omitted, groups, pssm)

    def check(self, structure: Structure) -> None:
        """Raise ConstraintError unless they fit the structure and leave something to design."""
        self.resolve(structure)

    def designed(self, structure: Structure) -> NDArray[np.bool_]:
        """Positions to design, (L,) bool; never one whose backbone is incomplete."""
        designed = structure.mask.copy()
        if self.chains is not None:
            designed &= np.isin(structure.chain_ids, self.design_chains(structure))
        for position in self.fixed:
            designed[positions(structure, position)] = False
        return designed

    def design_chains(self, structure: Structure) -> list[str]:
        """The chains to design, in the structure's order."""
        if self.chains is None:
            return list(structure.chains)
        return _chains(structure, self.chains)

    def groups(self, structure: Structure) -> list[dict[int, float]]:
        """The tied positions to design, group by group, each with its weight.

        A residue whose backbone is incomplete is left out of its group; the others stay tied.
        """
        if not self.tied and not self.tied_chains:
            return []
        groups = []
        for tied in self.tied:
            weights = tied if isinstance(tied, Mapping) else dict.fromkeys(tied, 1.0)
            groups.append(
                {i: w for where, w in weights.items() for i in positions(structure, where)}
            )
        numbers: dict[str, dict[int, float]] = {}
        for chain in _chains(structure, self.tied_chains):
            for i in np.flatnonzero(structure.chain_ids == chain).tolist():
                numbers.setdefault(structure.residue_numbers[i], {})[i] = 1.0
        if self.tied_chains and all(len(group) == 1 for group in numbers.values()):
            raise ConstraintError(
                f"{structure.name}: no residue number is in two of the tied chains; tie their "
                "positions one by one"
            )
        groups += numbers.values()
        designed = self.designed(structure)
        seen: set[int] = set()
        for group in groups:
            for i, weight in group.items():
                if i in seen:
                    raise ConstraintError(f"{structure.name}: {label(structure, i)} is tied twice")
                if not np.isfinite(weight):
                    raise ConstraintError(
                        f"{structure.name}: the weight of {label(structure, i)} is {weight}"
                    )
            seen |= group.keys()
        complete = [{i: w for i, w in g.items() if structure.mask[i]} for g in groups]
        for group in complete:
            kept = [label(structure, i) for i in group if not designed[i]]
            if kept and len(kept) < len(group):
                changed = next(label(structure, i) for i in group if designed[i])
                raise ConstraintError(
                    f"{structure.name}: {changed} is designed and tied to {kept[0]}, which is not; "
                    "fix both or neither"
                )
        return [g for g in complete if len(g) > 1 and designed[next(iter(g))]]

    def omitted(self, structure: Structure) -> NDArray[np.bool_]:
        """Letters not to draw at each position, (L, 21) bool."""
        omitted = np.zeros((len(structure), len(ALPHABET)), dtype=bool)
        omitted[:, [letter_index(letter) for letter in self.omit]] = True
        for position, letters in self.omit_at.items():
            for letter in letters:
                omitted[positions(structure, position), letter_index(letter)] = True
        barred = np.flatnonzero(omitted.all(1))
        barred = barred[self.designed(structure)[barred]] if len(barred) else barred
        if len(barred):
            raise ConstraintError(
                f"{structure.name}: every residue is omitted at {label(structure, barred[0])}; "
                "leave one, or fix the position"
            )
        return omitted

    def biases(self, structure: Structure) -> NDArray[np.float32]:
        """What is added to the logits at each position, (L, 21) float32."""
        biases = np.zeros((len(structure), len(ALPHABET)), dtype=np.float32)
        for letter, value in self.bias.items():
            biases[:, letter_index(letter)] += value
        if isinstance(self.bias_at, Mapping):
            for position, values in self.bias_at.items():
                for letter, value in values.items():
                    biases[positions(structure, position), letter_index(letter)] += value
        else:
            array = np.asarray(self.bias_at, dtype=np.float32)
            if array.shape != biases.shape:
                raise ConstraintError(
                    f"bias_at has shape {array.shape}; {structure.name} needs {biases.shape}"
                )
            biases += array
        if not np.isfinite(biases).all():
            raise ConstraintError("biases must be finite; to bar a residue, omit it")
        return biases


@dataclass(frozen=True, eq=False)
class Resolved:
    """Constraints on one structure of L residues.

    Attributes
    ----------
    design_chains : in the structure's order
    designed : (L,) bool
    biases : (L, 21) float32, added to logits
    omitted : (L, 21) bool, letters never drawn
    groups : tied positions that are designed, each with its weight
    pssm : bias (L, 21), weight (L,) and factor (L, 21), as `sampler.Profile` takes them
    """

    design_chains: tuple[str, ...]
    designed: NDArray[np.bool_]
    biases: NDArray[np.float32]
    omitted: NDArray[np.bool_]
    groups: list[dict[int, float]]
    pssm: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]] | None


@dataclass(frozen=True)
class PSSM:
    """A position-specific scoring matrix, mixed into the probabilities as in the original.

    Attributes
    ----------
    bias : (L, 21), probabilities of residues at each position
    coefficient : (L,), how much each position follows them, 0 to 1
    multiplier : by which all coefficients count, 0 to 1 (the original's `pssm_multi`)
    log_odds : (L, 21); residues whose value is not over `threshold` become 1,000 times rarer; None
        leaves that out
    threshold : of the log-odds (the original's `pssm_threshold`)
    """

    bias: NDArray[np.floating]
    coefficient: NDArray[np.floating]
    multiplier: float = 0.0
    log_odds: NDArray[np.floating] | None = None
    threshold: float = 0.0

    def weights_and_factors(
        self, structure: Structure
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """bias (L, 21), weight (L,) and factor (L, 21), as `sampler.Profile` takes them."""
        shape = (len(structure), len(ALPHABET))
        arrays = {"bias": (self.bias, shape), "coefficient": (self.coefficient, shape[:1])}
        if self.log_odds is not None:
            arrays["log_odds"] = (self.log_odds, shape)
        for name, (values, expected) in arrays.items():
            if np.shape(values) != expected or not np.isfinite(values).all():
                raise ConstraintError(
                    f"pssm.{name} has shape {np.shape(values)}; {structure.name} needs finite "
                    f"numbers of shape {expected}"
                )
        weight = np.asarray(self.multiplier * np.asarray(self.coefficient), dtype=np.float32)
        if not ((weight >= 0) & (weight <= 1)).all():
            raise ConstraintError(
                f"{structure.name}: pssm.multiplier times pssm.coefficient must be 0 to 1"
            )
        factor = np.ones(shape, dtype=np.float32)
        if self.log_odds is not None:
            factor = (np.asarray(self.log_odds) > self.threshold).astype(np.float32) + _RARE
        return np.asarray(self.bias, dtype=np.float32), weight, factor


def _chains(structure: Structure, chains: str | Sequence[str]) -> list[str]:
    """Chains by name, "A,B" or one by one, in the structure's order."""
    names = chains.split(",") if isinstance(chains, str) else list(chains)
    absent = [chain for chain in names if chain not in structure.chains]
    if absent:
        raise ConstraintError(
            f"{structure.name} has no chain {absent[0]!r}; it has {', '.join(structure.chains)}"
        )
    return [chain for chain in structure.chains if chain in names]


def letter_index(letter: str) -> int:
    """Index of a one-letter residue in the alphabet."""
    index = ALPHABET.find(letter) if len(letter) == 1 else -1
    if index < 0:
        raise ConstraintError(f"{letter!r} is no residue; expected one letter of {ALPHABET}")
    return index


def label(structure: Structure, position: int) -> str:
    """Chain and author number of a position, such as "A52B"."""
    return f"{structure.chain_ids[position]}{structure.residue_numbers[position]}"


def positions(structure: Structure, selection: Positions) -> list[int]:
    """The 0-based positions that an index, a label or a range of labels names.

    Raises
    ------
    ConstraintError
        There is no such position, or the label fits more than one.
    """
    if isinstance(selection, int | np.integer):
        if not 0 <= selection < len(structure):
            raise ConstraintError(
                f"{structure.name} has the positions 0 to {len(structure) - 1}, not {selection}"
            )
        return [int(selection)]
    labels = [label(structure, i) for i in range(len(structure))]
    if selection in labels:
        if labels.count(selection) > 1:
            raise ConstraintError(f"{structure.name}: {selection!r} names more than one residue")
        return [labels.index(selection)]
    # A range, "A10-20"; numbers may be negative, so every dash is tried.
    for cut, character in enumerate(selection):
        first = selection[:cut]
        if character == "-" and first in labels:
            start = labels.index(first)
            last = f"{structure.chain_ids[start]}{selection[cut + 1 :]}"
            if last in labels and labels.index(last) >= start:
                return list(range(start, labels.index(last) + 1))
    spans = []
    for chain in structure.chains:
        numbers = structure.residue_numbers[structure.chain_ids == chain]
        spans.append(f"{chain}{numbers[0]} to {chain}{numbers[-1]}")
    raise ConstraintError(
        f"{structure.name} has no residue {selection!r}; it has {', '.join(spans)}. "
        "Expected chain and number, as in A52, A52B or A10-20"
    )
