"""The candidate, opened once, and the judge that it is held to; and how an answer is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mpnn_core import ALPHABET, Structure
from mpnn_core.acceptance.cases import Question
from mpnn_core.peers.contract import Peer

T = TypeVar("T")


class DifferenceError(AssertionError):
    """A check that failed, in sentences: who, what differs, by how much, where, and why."""


@dataclass(eq=False)
class Candidate:
    """A peer under test. Its answers are checked for their form, and its errors are failures."""

    peer: Peer
    asked: list[Question] = field(default_factory=list)
    """Every question up to now: an answer that belongs to an earlier one is known by it."""
    explained: int = 0
    """Failures whose cause was looked for."""

    def __str__(self) -> str:
        return f"{self.peer.name} {self.peer.version}"

    def offers(self, method: str) -> bool:
        """Whether it has one of the methods that a peer need not have (peers/contract.py)."""
        return method in getattr(self.peer, "has", dir(self.peer))

    def log_probs(self, question: Question) -> NDArray[np.float64]:
        """(L, 21), rows of masked residues NaN."""
        found = self._calling(
            "log_probs", question.structure,
            lambda: self.peer.log_probs(question.structure, question.sequence, question.order),
        )  # fmt: skip
        answer = self._checked(found, question.structure)
        self.asked.append(question)
        return answer

    def log_probs_many(self, questions: Sequence[Question]) -> list[NDArray[np.float64]]:
        """Of several structures in one call."""
        peer: Any = self.peer
        found = self._calling(
            "log_probs_many", questions[0].structure,
            lambda: peer.log_probs_many(
                [q.structure for q in questions], [q.sequence for q in questions],
                [q.order for q in questions],
            ),
        )  # fmt: skip
        if len(found) != len(questions):
            raise DifferenceError(
                f"{self}: log_probs_many of {len(questions)} structures returned {len(found)}"
            )
        pairs = zip(found, questions, strict=True)
        return [self._checked(array, question.structure) for array, question in pairs]

    def neighbours(self, structure: Structure) -> NDArray[np.int64]:
        """(L, k) rows of the structure, -1 where there is none."""
        peer: Any = self.peer
        found = self._calling("neighbours", structure, lambda: peer.neighbours(structure))
        array = np.array(found)
        if array.shape[:-1] != (len(structure),) or array.dtype.kind not in "iu":
            raise DifferenceError(
                f"{self}: neighbours of {described(structure)} are {array.dtype} {array.shape}; "
                f"expected integers ({len(structure)}, k)"
            )
        return array

    def design(self, structure: Structure, n: int, temperature: float, seed: int) -> list[str]:
        """n sequences of L letters."""
        found = self._calling(
            "design", structure,
            lambda: list(self.peer.design(structure, n=n, temperature=temperature, seed=seed)),
        )  # fmt: skip
        lengths = sorted({len(sequence) for sequence in found})
        if len(found) != n or lengths != [len(structure)]:
            raise DifferenceError(
                f"{self}: design of {described(structure)} returned {len(found)} sequences of "
                f"{lengths} letters; expected {n} of {len(structure)}"
            )
        strange = set("".join(found)) - set(ALPHABET)
        if strange:
            raise DifferenceError(
                f"{self}: design returned the letters {''.join(sorted(strange))}; expected letters "
                f"of {ALPHABET}"
            )
        return found

    def _calling(self, method: str, structure: Structure, call: Callable[[], T]) -> T:
        try:
            return call()
        except Exception as error:
            raise DifferenceError(
                f"{self}: {method} of {described(structure)} raised {type(error).__name__}: {error}"
            ) from error

    def _checked(self, found: Any, structure: Structure) -> NDArray[np.float64]:
        array = np.array(found, dtype=np.float64)
        expected = (len(structure), len(ALPHABET))
        if array.shape != expected:
            raise DifferenceError(
                f"{self}: log-probabilities of {described(structure)} have the shape "
                f"{array.shape}; expected {expected}, for every residue the letters {ALPHABET}"
            )
        array[~structure.mask] = np.nan
        return array


@dataclass(eq=False)
class Judge:
    """What a candidate is held to where no answer is stored: the original, else this package."""

    peer: Peer
    is_original: bool

    @classmethod
    def here(cls) -> Judge:
        """The original where it is installed."""
        try:
            from mpnn_core.peers.original import Original
        except ModuleNotFoundError as error:
            if error.name != "protein_mpnn_utils":
                raise
            from mpnn_core.peers.ours import Ours

            return cls(Ours(), is_original=False)
        return cls(Original(), is_original=True)

    def __str__(self) -> str:
        named = f"{self.peer.name} {self.peer.version}"
        return f"the original ({named})" if self.is_original else named

    def log_probs(self, question: Question) -> NDArray[np.float64]:
        """(L, 21): a residue without a complete backbone is as good as absent, its row is NaN."""
        mask = question.structure.mask
        kept = question.of_rows(np.flatnonzero(mask))
        answer = np.full((len(mask), len(ALPHABET)), np.nan)
        answer[mask] = self.peer.log_probs(kept.structure, kept.sequence, kept.order)
        return answer

    @cached_property
    def whose(self) -> str:
        """ "the original's", or whose answers they are."""
        return "the original's" if self.is_original else f"those of {self}"


def described(structure: Structure) -> str:
    """ "5L33 (106 residues, 5 masked)"."""
    parts = [f"{len(structure)} residue{'s' * (len(structure) > 1)}"]
    if len(structure.chains) > 1:
        parts.append(f"{len(structure.chains)} chains")
    masked = int((~structure.mask).sum())
    if masked:
        parts.append(f"{masked} masked")
    return f"{structure.name} ({', '.join(parts)})"


def residue(structure: Structure, i: int) -> str:
    """ "chain A, residue 52 (row 51)"."""
    return f"chain {structure.chain_ids[i]}, residue {structure.residue_numbers[i]} (row {i})"
