"""One sequence for several states of a protein: equal residues of their files get one letter.

The states are one structure to the sampler, end to end, and one each to the network: no residue has
a neighbour in another state. Chain and author number say which residues are the same; those are
tied, as positions of one structure are (docs/how-to/several-states.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpnn_core.constants import ALPHABET, CHAIN_GAP
from mpnn_core.design.arguments import checked_orders
from mpnn_core.design.results import Designs
from mpnn_core.sampling.constraints import Constraints, Resolved
from mpnn_core.sampling.labels import ConstraintError, label
from mpnn_core.structures.structure import Structure

COMBINATIONS = ("mean", "sum")
"""How the logits of the states become one: their weighted mean, or their weighted sum, which is the
product of the states' probabilities to the power of their weights."""


@dataclass(frozen=True, eq=False)
class States:
    """Structures whose residues of equal chain and author number are one.

    Attributes
    ----------
    structures : the states
    joint : all residues of all states, end to end; a chain A of the second state is "2:A"
    labelled : a row for each residue of any state; its coordinates are those of the first state in
        which the residue is complete
    of : (residues of `joint`,) int64, the row of `labelled` of each
    """

    structures: tuple[Structure, ...]
    joint: Structure
    labelled: Structure
    of: NDArray[np.int64]

    @classmethod
    def from_structures(cls, structures: Sequence[Structure]) -> States:
        """The states of a protein; ValueError if there are none."""
        if not structures:
            raise ValueError("the list of states is empty; expected structures of one protein")
        labels = [_labels(structure) for structure in structures]
        rows = {name: row for row, name in enumerate(_merged(labels))}
        of = np.array([rows[name] for of_state in labels for name in of_state])
        joint = _joint(structures)
        return cls(tuple(structures), joint, _labelled(list(rows), of, joint), of)

    @property
    def first(self) -> list[int]:
        """Where each state starts among the residues of `joint`, and their number at the end."""
        return np.cumsum([0, *map(len, self.structures)]).tolist()

    @cached_property
    def state_of(self) -> NDArray[np.int64]:
        """The state of each residue of `joint`."""
        return np.repeat(np.arange(len(self.structures)), [len(s) for s in self.structures])

    @cached_property
    def shown(self) -> NDArray[np.int64]:
        """For each row of `labelled`, the residue of `joint` that has its letter: the first that
        is complete, or the first."""
        by_row = np.lexsort((~self.joint.mask, self.of))
        rows, first = np.unique(self.of[by_row], return_index=True)
        assert len(rows) == len(self.labelled)
        return by_row[first]

    def resolved(
        self, constraints: Constraints, weights: Sequence[float], combine: str
    ) -> Resolved:
        """Constraints on residues by their label, as arrays over `joint`."""
        r = constraints.resolve(self.labelled)
        of, mask = self.of, self.joint.mask
        self._check_kept(r)
        groups = []
        tied = {row for group in r.groups for row in group}
        alone = [{row: 1.0} for row in np.flatnonzero(r.designed).tolist() if row not in tied]
        members: dict[int, list[int]] = {}
        for i in np.flatnonzero(mask).tolist():
            members.setdefault(int(of[i]), []).append(i)
        for group in [*r.groups, *alone]:
            joined = {
                i: weight * weights[self.state_of[i]]
                for row, weight in group.items()
                for i in members.get(row, ())
            }
            if combine == "sum":  # the sampler takes means over all members
                counts = Counter(int(self.state_of[i]) for i in joined)
                joined = {
                    i: w * len(joined) / counts[int(self.state_of[i])] for i, w in joined.items()
                }
            if len(joined) > 1 or any(weight != 1 for weight in joined.values()):
                groups.append(joined)
        return Resolved(
            r.design_chains,
            r.designed[of] & mask,
            r.biases[of],
            r.omitted[of],
            groups,
            None if r.pssm is None else tuple(values[of] for values in r.pssm),  # type: ignore[arg-type]
            None if r.temperatures is None else r.temperatures[of],
        )

    def _check_kept(self, resolved: Resolved) -> None:
        """Raise ConstraintError where a residue is kept that the states do not agree on."""
        kept = ~resolved.designed[self.of] & self.joint.mask
        letters = np.array(list(self.joint.sequence))
        differs = kept & (letters != letters[self.shown][self.of])
        if differs.any():
            i = int(differs.argmax())
            j = int(self.shown[self.of[i]])
            a, b = (self.structures[self.state_of[k]].name for k in (j, i))
            raise ConstraintError(
                f"{label(self.labelled, int(self.of[i]))} is kept, and is {letters[j]} in {a} and "
                f"{letters[i]} in {b}; design it, or give the states one residue there"
            )

    def order(self, orders: Any) -> NDArray[np.int64] | None:
        """Decoding orders of the rows of `labelled`, (L,) or (n, L), as orders of `joint`."""
        if orders is None:
            return None
        rows = checked_orders(self.labelled, orders, 1)
        by_row = np.split(np.argsort(self.of, kind="stable"), np.bincount(self.of).cumsum()[:-1])
        return np.stack([np.concatenate([by_row[row] for row in order]) for order in rows.tolist()])


@dataclass(frozen=True)
class OverStates(Constraints):
    """Constraints that are resolved on the states of a protein."""

    known: Resolved | None = None

    def resolve(self, structure: Structure) -> Resolved:
        assert self.known is not None
        return self.known


@dataclass(frozen=True, eq=False)
class StateDesigns:
    """Sequences designed for S states at once.

    Attributes
    ----------
    states : what they were designed for
    weights : of the states
    combine : "mean" or "sum"
    joint : the designs over the residues of all states, end to end (`states.joint`)
    sequences : n strings, a letter for each row of `states.labelled`
    scores, global_scores, recovery : (n, S) float32, in each state by itself, as in `Designs`; NaN
        for a state in which nothing is designed
    """

    states: States
    weights: tuple[float, ...]
    combine: str
    joint: Designs

    def __len__(self) -> int:
        return len(self.joint)

    @property
    def structure(self) -> Structure:
        """`states.labelled`."""
        return self.states.labelled

    @cached_property
    def sequences(self) -> list[str]:
        shown = self.states.shown
        return ["".join(np.array(list(s))[shown]) for s in self.joint.sequences]

    def of_state(self, state: int) -> list[str]:
        """The sequences over the residues of one state."""
        first, last = self.states.first[state : state + 2]
        return [sequence[first:last] for sequence in self.joint.sequences]

    @cached_property
    def _means(self) -> tuple[NDArray[np.float32], ...]:
        joint, states = self.joint.structure, self.states
        letters = np.array([list(sequence) for sequence in self.joint.sequences])  # (n, L)
        codes = token_of_letters(letters)
        log_probs = self.joint.log_probs
        nll = -np.take_along_axis(log_probs, codes[..., None], 2)[..., 0].astype(np.float64)
        kept = letters == np.array(list(joint.sequence))
        designed, means = self.joint.designed, []
        for values, counted in ((nll, designed), (nll, joint.mask), (kept, designed)):
            of_states = [counted & (states.state_of == s) for s in range(len(states.structures))]
            means.append(np.stack([
                values[:, rows].mean(1) if rows.any() else np.full(len(values), np.nan)
                for rows in of_states
            ], 1).astype(np.float32))  # fmt: skip
        return tuple(means)

    @property
    def scores(self) -> NDArray[np.float32]:
        return self._means[0]

    @property
    def global_scores(self) -> NDArray[np.float32]:
        return self._means[1]

    @property
    def recovery(self) -> NDArray[np.float32]:
        return self._means[2]


def token_of_letters(letters: NDArray[np.str_]) -> NDArray[np.int64]:
    """Letters of the alphabet -> their indices, in the same shape."""
    codes = np.zeros(128, np.int64)
    codes[np.frombuffer(ALPHABET.encode("ascii"), np.uint8)] = np.arange(len(ALPHABET))
    return codes[letters.astype("<U1").view(np.uint32).reshape(letters.shape)]


def checked_combination(
    combine: str, weights: Sequence[float] | None, states: int
) -> tuple[float, ...]:
    """The weights of so many states, 1 unless given; ValueError for a wrong argument."""
    if combine not in COMBINATIONS:
        raise ValueError(f"combine is {combine!r}; expected {' or '.join(map(repr, COMBINATIONS))}")
    if weights is None:
        return (1.0,) * states
    given = tuple(float(weight) for weight in weights)
    if len(given) != states:
        raise ValueError(f"{len(given)} weights for {states} states; expected one each")
    if not np.isfinite(given).all():
        raise ValueError(f"the weights of the states are {given}; expected finite numbers")
    return given


Label = tuple[str, str, int]  # chain, author number, how often it came before


def _labels(structure: Structure) -> list[Label]:
    times: Counter[tuple[str, str]] = Counter()
    labels = []
    for chain, number in zip(
        structure.chain_ids.tolist(), structure.residue_numbers.tolist(), strict=True
    ):
        labels.append((chain, number, times[chain, number]))
        times[chain, number] += 1
    return labels


def _merged(labels: Sequence[Sequence[Label]]) -> list[Label]:
    """All labels once, chain by chain; what a later state adds comes after what precedes it."""
    chains: dict[str, list[Label]] = {}
    for of_state in labels:
        before: dict[str, Label] = {}
        for name in of_state:
            of_chain = chains.setdefault(name[0], [])
            if name not in of_chain:
                previous = before.get(name[0])
                of_chain.insert(0 if previous is None else of_chain.index(previous) + 1, name)
            before[name[0]] = name
    return [name for of_chain in chains.values() for name in of_chain]


def _joint(structures: Sequence[Structure]) -> Structure:
    """The states as one structure, which a sequence spans; what surrounds them stays theirs."""
    index, jump = [], 0
    for structure in structures:
        own = structure.residue_index - structure.residue_index.min() + jump
        index.append(own)
        jump = int(own.max()) + CHAIN_GAP
    chains = [
        [chain if number == 1 else f"{number}:{chain}" for chain in structure.chain_ids.tolist()]
        for number, structure in enumerate(structures, start=1)
    ]
    return Structure(
        "+".join(structure.name for structure in structures),
        np.concatenate([structure.coords for structure in structures]),
        "".join(structure.sequence for structure in structures),
        np.array([chain for of_state in chains for chain in of_state]),
        np.concatenate(index),
        np.concatenate([structure.residue_numbers for structure in structures]),
        ca_only=structures[0].ca_only,
        states=tuple(structures),
    )


def _labelled(labels: list[Label], of: NDArray[np.int64], joint: Structure) -> Structure:
    by_row = np.lexsort((~joint.mask, of))
    shown = by_row[np.unique(of[by_row], return_index=True)[1]]
    chains = np.array([chain for chain, *_ in labels])
    rank = np.array([list(dict.fromkeys(chains.tolist())).index(chain) for chain in chains])
    return replace(
        joint,
        coords=joint.coords[shown],
        sequence="".join(np.array(list(joint.sequence))[shown]),
        chain_ids=chains,
        residue_index=np.arange(len(labels)) + CHAIN_GAP * rank,
        residue_numbers=np.array([number for _, number, _ in labels]),
        states=(),
    )
