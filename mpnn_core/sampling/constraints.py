"""Constraints on a design: chains, fixed and tied positions, omitted residues, biases."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from mpnn_core.constants import ALPHABET, AMINO_ACIDS, BACKBONE, THREE_LETTER_NAMES
from mpnn_core.sampling.homologous import (
    EQUAL_BY_NUMBER,
    HOW_TO_INSTALL,
    NoAlignerError,
    aligned,
    equal_share,
    said_of,
)
from mpnn_core.sampling.labels import (
    ConstraintError,
    ConstraintWarning,
    Positions,
    Span,
    chains_named,
    divided,
    label,
    positions,
    span,
    split_chains,
)
from mpnn_core.structures.structure import Structure, shown_chain

# What the log-odds mask leaves of a residue's probability, in the original as here.
_RARE = np.float32(0.001)

_LETTER = dict(zip(THREE_LETTER_NAMES, AMINO_ACIDS, strict=True))
_NAMES = re.compile(f"({'|'.join(THREE_LETTER_NAMES)})+")


@dataclass(frozen=True)
class Constraints:
    """The positions that are designed, and the residues that may be drawn there.

    Attributes
    ----------
    chains : chains to design, "A,B" or a sequence of ids; None designs all
    fixed : positions that keep their residue
    redesigned : the positions to design, where that is shorter than naming all others as fixed;
        None designs all. `fixed` and `chains` hold as well
    omit : letters never drawn anywhere
    omit_at : letters never drawn at some positions
    bias : letter -> what is added to its logit everywhere
    bias_at : positions -> letter -> what is added to its logit there; or an (L, 21) array
    tied : groups of positions that get one residue: each a list of positions, or of position ->
        weight of its logits in the group's mean (the original's `tied_beta`; 1 unless given).
        Ranges are tied residue by residue: "A1-20,B1-20" is A1 with B1, A2 with B2, and so on
    tied_chains : chains of a homo-oligomer, "A,B,C": residues of equal author number are tied, or
        in their order if no number is in two chains, or, where numbers and letters say that the
        chains are numbered differently, by an alignment. A list of such texts ties each for itself
    pssm : a position-specific scoring matrix; or chain -> the matrix of its residues, the others
        having none
    temperature_at : positions -> the temperature there, 0 or more, instead of that of the call, and
        at all positions that are tied to them

    Positions are 0-based ints or labels of chain and author number: "A52", "A52B" with an insertion
    code, "A10-20" for a range; with a colon, "A:52", where there are chains such as A and A1.
    Several are a list, or a text with commas. Letters may be divided by commas or spaces too.
    Biases are in logits, divided by the temperature as in the original.
    """

    chains: str | Sequence[str] | None = None
    fixed: Positions | Sequence[Positions] = ()
    omit: str | Iterable[str] = "X"
    omit_at: Mapping[Positions, str] = field(default_factory=dict)
    bias: Mapping[str, float] = field(default_factory=dict)
    bias_at: Mapping[Positions, Mapping[str, float]] | NDArray[np.floating] = field(
        default_factory=dict
    )
    tied: str | Sequence[Sequence[Positions] | Mapping[Positions, float]] = ()
    tied_chains: str | Sequence[str] | Sequence[Sequence[str]] = ()
    pssm: PSSM | Mapping[str, PSSM] | None = None
    redesigned: Positions | Sequence[Positions] | None = None
    temperature_at: Mapping[Positions, float] = field(default_factory=dict)

    def resolve(self, structure: Structure) -> Resolved:
        """The same as arrays over the positions of a structure.

        Raises
        ------
        ConstraintError
            They do not fit the structure, or leave nothing to design.
        """
        designed = self.designed(structure)
        if not designed.any():
            raise ConstraintError(f"{structure.name}: {self._why_nothing_is_designed(structure)}")
        biases = self.biases(structure)
        omitted = self.omitted(structure)
        groups = self.groups(structure)
        for group in groups:
            if omitted[list(group)].any(0).all():
                raise ConstraintError(
                    f"{structure.name}: between them, the positions tied to "
                    f"{label(structure, next(iter(group)))} omit every residue; leave one"
                )
        pssm = self._profile(structure)
        chains = tuple(self.design_chains(structure))
        temperatures = self.temperatures(structure)
        if temperatures is not None:
            _share_temperatures(structure, temperatures, groups)
        return Resolved(chains, designed, biases, omitted, groups, pssm, temperatures)

    def check(self, structure: Structure) -> None:
        """Raise ConstraintError unless they fit the structure and leave something to design."""
        self.resolve(structure)

    def designed(self, structure: Structure) -> NDArray[np.bool_]:
        """Positions to design, (L,) bool; never one whose backbone is incomplete."""
        return self.asked_for(structure) & structure.mask

    def asked_for(self, structure: Structure) -> NDArray[np.bool_]:
        """Positions to design, complete or not, (L,) bool."""
        asked = np.isin(structure.chain_ids, self.design_chains(structure))
        if self.redesigned is not None:
            named = np.zeros_like(asked)
            named[_rows(structure, self.redesigned)] = True
            outside = np.flatnonzero(named & ~asked)
            if len(outside):
                raise ConstraintError(
                    f"{structure.name}: {label(structure, outside[0])} is to be redesigned, and "
                    "its chain is not among those to design; name the chain too"
                )
            asked = named
        asked[_rows(structure, self.fixed)] = False
        return asked

    def _why_nothing_is_designed(self, structure: Structure) -> str:
        asked = self.asked_for(structure)
        if not asked.any():
            return "every position is fixed; nothing to design"
        counts = Counter(structure.chain_ids[asked].tolist())
        missing = [
            atom for a, atom in enumerate(BACKBONE) if np.isnan(structure.coords[asked, a]).any()
        ]
        where = ", ".join(f"chain {shown_chain(c)}: {n}" for c, n in counts.items())
        return (
            f"nothing to design: the backbone of every residue that is not fixed is incomplete "
            f"({where}; {', '.join(missing)} missing); expected N, CA, C and O"
        )

    def design_chains(self, structure: Structure) -> list[str]:
        """The chains to design, in the structure's order."""
        if self.chains is None:
            return list(structure.chains)
        return chains_named(structure, self.chains)

    def groups(self, structure: Structure) -> list[dict[int, float]]:
        """The tied positions to design, group by group, each with its weight.

        A residue whose backbone is incomplete is left out of its group; the others stay tied.
        """
        tied = [self.tied] if isinstance(self.tied, str) else self.tied
        groups = [group for members in tied for group in _tied_positions(structure, members)]
        for chains in sets_of_chains(self.tied_chains):
            groups += _tied_by_number(structure, chains_named(structure, chains))
        if not groups:
            return []
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
        omitted[:, letter_indices(self.omit)] = True
        for position, letters in self.omit_at.items():
            rows = _rows(structure, position)
            for index in letter_indices(letters):
                omitted[rows, index] = True
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
                rows = _rows(structure, position)
                for letter, value in values.items():
                    biases[rows, letter_index(letter)] += value
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

    def temperatures(self, structure: Structure) -> NDArray[np.float32] | None:
        """The temperature of each position that has its own, (L,) float32, NaN elsewhere; None
        where no position has one."""
        if not self.temperature_at:
            return None
        temperatures = np.full(len(structure), np.nan, np.float32)
        largest = float(np.finfo(np.float32).max)
        for position, value in self.temperature_at.items():
            if not isinstance(value, Real) or not 0 <= float(value) <= largest:
                raise ConstraintError(
                    f"{structure.name}: the temperature at {position} is {value!r}; expected a "
                    "number of at least 0, such as 0.1"
                )
            temperatures[_rows(structure, position)] = value
        return temperatures

    def _profile(
        self, structure: Structure
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]] | None:
        """What `PSSM.weights_and_factors` gives, of one matrix or of those of chains."""
        if self.pssm is None or self.pssm == {}:
            return None
        if not isinstance(self.pssm, Mapping):
            return self.pssm.weights_and_factors(structure)
        shape = (len(structure), len(ALPHABET))
        bias, weight = np.zeros(shape, np.float32), np.zeros(shape[0], np.float32)
        factor = np.ones(shape, np.float32)
        for name, pssm in self.pssm.items():
            (chain,) = chains_named(structure, [name])
            rows = np.flatnonzero(structure.chain_ids == chain)
            of_chain = pssm.of_rows(_as_rows(structure, rows, pssm))
            values = of_chain.weights_and_factors(structure, rows)
            bias[rows], weight[rows], factor[rows] = values
        return bias, weight, factor


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
    temperatures : (L,) float32, of positions that have their own, NaN elsewhere; None: none has
    """

    design_chains: tuple[str, ...]
    designed: NDArray[np.bool_]
    biases: NDArray[np.float32]
    omitted: NDArray[np.bool_]
    groups: list[dict[int, float]]
    pssm: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]] | None
    temperatures: NDArray[np.float32] | None = None


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

    def of_rows(self, rows: NDArray[np.int64]) -> PSSM:
        """The matrix of some of its rows."""
        odds = None if self.log_odds is None else np.asarray(self.log_odds)[rows]
        return replace(
            self,
            bias=np.asarray(self.bias)[rows],
            coefficient=np.asarray(self.coefficient)[rows],
            log_odds=odds,
        )

    def weights_and_factors(
        self, structure: Structure, rows: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """bias (L, 21), weight (L,) and factor (L, 21), as `sampler.Profile` takes them; of a
        matrix over some `rows` of the structure, over those."""
        shape = (len(structure) if rows is None else len(rows), len(ALPHABET))
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


def _as_rows(structure: Structure, rows: NDArray[np.int64], pssm: PSSM) -> NDArray[np.int64]:
    """Which rows of the matrix of a chain are those of its residues `rows`: all, or, of a matrix
    that counts missing numbers too, as the original's, those of the residues that there are."""
    arrays = {"bias": pssm.bias, "coefficient": pssm.coefficient}
    if pssm.log_odds is not None:
        arrays["log_odds"] = pssm.log_odds
    lengths = {name: np.shape(values)[:1] for name, values in arrays.items()}
    if len(set(lengths.values())) > 1 or () in lengths.values():
        shown = ", ".join(f"{name} {np.shape(values)}" for name, values in arrays.items())
        raise ConstraintError(
            f"{structure.name}: the PSSM of chain "
            f"{shown_chain(str(structure.chain_ids[rows[0]]))} has arrays of different lengths: "
            f"{shown}; expected one row per residue in each"
        )
    given = len(pssm.bias)
    index = structure.residue_index[rows]
    if given == len(rows):
        return np.arange(given)
    if given == index.max() - index.min() + 1:
        return np.asarray(index - index.min())
    raise ConstraintError(
        f"{structure.name}: the PSSM of chain {shown_chain(str(structure.chain_ids[rows[0]]))} has "
        f"{given} rows; expected {len(rows)}, one per residue, or "
        f"{index.max() - index.min() + 1}, missing numbers included"
    )


def letter_indices(letters: str | Iterable[str]) -> list[int]:
    """Indices of one-letter residues in the alphabet, "CP", "C,P" or "C P"."""
    text = letters if isinstance(letters, str) else ",".join(letters)
    indices = []
    for part in re.split(r"[,\s]+", text):
        # X is left out: "CYSX" and "XCYS" are a name and the unknown residue.
        if _NAMES.fullmatch(name := part.upper().strip("X")):
            one = [_LETTER[name[i : i + 3]] for i in range(0, len(name), 3)]
            raise ConstraintError(
                f"{name!r} reads as three-letter names of amino acids; write {','.join(one)} for "
                f"those, or {','.join(name)} for the letters one by one"
            )
        indices += [letter_index(letter) for letter in part]
    return indices


def letter_index(letter: str) -> int:
    """Index of a one-letter residue in the alphabet."""
    index = ALPHABET.find(letter) if len(letter) == 1 else -1
    if index < 0:
        meant = _LETTER.get(letter.upper(), letter.upper())
        hint = f"; write {meant}" if len(meant) == 1 and meant in ALPHABET else ""
        raise ConstraintError(f"{letter!r} is no residue; expected one letter of {ALPHABET}{hint}")
    return index


def _share_temperatures(
    structure: Structure, temperatures: NDArray[np.float32], groups: list[dict[int, float]]
) -> None:
    """Give all tied positions the temperature that is stated for one of them, in place."""
    for group in groups:
        members = list(group)
        stated = np.unique(temperatures[members])
        stated = stated[~np.isnan(stated)]
        if len(stated) > 1:
            raise ConstraintError(
                f"{structure.name}: the positions tied to {label(structure, members[0])} have the "
                f"temperatures {', '.join(f'{value:g}' for value in stated)}; one residue is drawn "
                "for them, so state one"
            )
        if len(stated):
            temperatures[members] = stated[0]


def _rows(structure: Structure, selection: Positions | Iterable[Positions]) -> list[int]:
    """The positions of several labels."""
    return [i for part in divided(selection) for i in positions(structure, part)]


def _tied_positions(
    structure: Structure, tied: str | Sequence[Positions] | Mapping[Positions, float]
) -> list[dict[int, float]]:
    """The groups that one entry of `tied` states: one, or one for each residue of its ranges."""
    weights = tied if isinstance(tied, Mapping) else dict.fromkeys(divided(tied), 1.0)
    members = [(span(structure, at), w) for where, w in weights.items() for at in divided(where)]
    if all(len(found.positions) == 1 for found, _ in members):
        return [{found.positions[0]: weight for found, weight in members}]
    spans = [found for found, _ in members]
    if len(spans) == 1:
        some = [label(structure, i) for i in spans[0].positions[:3]]
        raise ConstraintError(
            f"{structure.name}: {spans[0].label} is tied to nothing; another range ties residue by "
            f"residue, as in A1-20,B1-20, and {','.join(some)} gets one amino acid"
        )
    for found in spans[1:]:
        if set(found.offsets) != set(spans[0].offsets):
            raise ConstraintError(_unlike(structure, spans[0], found))
    by_offset = [dict(zip(found.offsets, found.positions, strict=True)) for found in spans]
    return [
        {at[offset]: weight for at, (_, weight) in zip(by_offset, members, strict=True)}
        for offset in spans[0].offsets
    ]


def _unlike(structure: Structure, one: Span, other: Span) -> str:
    """What to say of two ranges that cannot be tied residue by residue."""
    alone = [
        label(structure, i)
        for a, b in ((one, other), (other, one))
        for i, offset in zip(a.positions, a.offsets, strict=True)
        if offset not in b.offsets
    ]
    return (
        f"{structure.name}: {one.label} has {len(one.positions)} residues and {other.label} "
        f"{len(other.positions)}; they are tied residue by residue, and {alone[0]} has no partner. "
        "Tie ranges that match, each by itself"
    )


def sets_of_chains(tied: str | Sequence[str] | Sequence[Sequence[str]]) -> list[str | list[str]]:
    """The homo-oligomers that `tied_chains` states: "A,B", ["A", "B"], or a list of such."""
    if isinstance(tied, str):
        return [tied] if tied else []
    if all(isinstance(item, str) and len(split_chains(item)) == 1 for item in tied):
        return [[str(item) for item in tied]] if tied else []
    return [item if isinstance(item, str) else list(item) for item in tied]


def _tied_by_number(structure: Structure, chains: list[str]) -> list[dict[int, float]]:
    """A group for each author number of some chains; a warning if one lacks in a chain."""
    rows = {chain: np.flatnonzero(structure.chain_ids == chain).tolist() for chain in chains}
    hint = ""
    groups: dict[tuple[str, int], dict[int, float]] = {}
    for members in rows.values():
        times: Counter[str] = Counter()  # a number may come again in a chain
        for i in members:
            number = str(structure.residue_numbers[i])
            groups.setdefault((number, times[number]), {})[i] = 1.0
            times[number] += 1
    sizes = ", ".join(f"{shown_chain(chain)} {len(members)}" for chain, members in rows.items())
    if all(len(group) == 1 for group in groups.values()):
        said = f"{structure.name}: no residue number is in two of the tied chains"
        alike = len({len(members) for members in rows.values()}) == 1
        if len(rows) > 1:
            in_order = [list(group) for group in zip(*rows.values(), strict=False)]
            if not alike or equal_share(structure, in_order) < EQUAL_BY_NUMBER:
                by_letters, hint = _by_alignment(structure, rows, said)
                if by_letters is not None:
                    return by_letters
        if len(rows) < 2 or not alike:
            raise ConstraintError(
                f"{said} (residues: {sizes}); tie their positions one by one, or ranges of them, "
                f"as in --tied A1-20,B21-40{hint}"
            )
        first = " with ".join(label(structure, members[0]) for members in rows.values())
        warnings.warn(f"{said}; tied in order, {first}", ConstraintWarning, stacklevel=2)
        return [dict.fromkeys(group, 1.0) for group in zip(*rows.values(), strict=True)]
    share = equal_share(structure, [list(group) for group in groups.values()])
    if share < EQUAL_BY_NUMBER:
        said = (
            f"{structure.name}: of the residues of equal number in the tied chains, "
            f"{100 * share:.0f} % are equal"
        )
        by_letters, hint = _by_alignment(structure, rows, said)
        if by_letters is not None:
            return by_letters
        warnings.warn(f"{said}; tied by number{hint}", ConstraintWarning, stacklevel=2)
    alone = [i for group in groups.values() if len(group) < len(rows) for i in group]
    if alone:
        few = ", ".join(label(structure, i) for i in alone[:5]) + (", ..." if alone[5:] else "")
        warnings.warn(
            f"{structure.name}: the tied chains (residues: {sizes}) are tied by author number, and "
            f"the numbers of {len(alone)} residues are not in all of them: {few}. If others are "
            "meant to be tied, name ranges, as in --tied A1-20,B21-40",
            ConstraintWarning,
            stacklevel=2,
        )
    return list(groups.values())


def _by_alignment(
    structure: Structure, rows: Mapping[str, list[int]], said: str
) -> tuple[list[dict[int, float]] | None, str]:
    """Groups by an alignment of the sequences, with a warning that names them; None, and what to
    add to another message, where there is no aligner or the chains are not alike."""
    try:
        groups = aligned(structure, rows)
    except NoAlignerError:
        return None, f". Chains are aligned where Biopython is installed: {HOW_TO_INSTALL}"
    if groups is None:
        return None, ""
    warnings.warn(
        f"{said}; tied by alignment of the sequences: {said_of(structure, rows, groups)}",
        ConstraintWarning,
        stacklevel=2,
    )
    return [dict.fromkeys(group, 1.0) for group in groups], ""
