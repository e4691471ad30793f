"""What a candidate is asked: stored cases with the original's answers, and cuts of real chains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

import mpnn_core
from mpnn_core import ALPHABET, Structure

ANSWERS = Path(__file__).parent / "answers.npz"
"""The original's log-probabilities, computed in float64; fixtures/make_acceptance.py makes it."""

POOL = Path(mpnn_core.__file__).parent / "data" / "TS50.npz"
K = 48
"""The neighbours of a residue in the published weights v_48_020."""

EDGES = (1, 2, 3, K - 1, K, K + 1, 63, 64, 65, 127, 128, 129)
"""Lengths at which something changes: around k, and around the usual buckets."""

CHAIN_GAP = 100  # what residue_index jumps by from one chain to the next


@dataclass(frozen=True, eq=False)
class Question:
    """What log-probabilities are asked for: L residues, L letters, L positions as decoded."""

    structure: Structure
    sequence: str
    order: NDArray[np.int64]

    def asked_of(self, **changes: Any) -> Question:
        """The same about a changed structure, under another sequence or order."""
        fields = {name: changes.pop(name) for name in ("sequence", "order") if name in changes}
        return replace(self, structure=with_changes(self.structure, **changes), **fields)

    def of_rows(self, rows: NDArray[np.int64]) -> Question:
        """The same about some residues, in this order, each with the index that it had."""
        place = np.full(len(self.order), -1)
        place[rows] = np.arange(len(rows))
        order = place[self.order]
        s = self.structure
        return Question(
            with_changes(
                s, coords=s.coords[rows], sequence="".join(s.sequence[i] for i in rows),
                chain_ids=s.chain_ids[rows], residue_index=s.residue_index[rows],
            ),
            "".join(self.sequence[i] for i in rows),
            order[order >= 0],
        )  # fmt: skip


def with_changes(structure: Structure, **changes: Any) -> Structure:
    """A structure with other coords, sequence, chain_ids, residue_index or name."""
    names = ("coords", "sequence", "chain_ids", "residue_index", "name")
    return Structure.from_backbone(**{n: changes.get(n, getattr(structure, n)) for n in names})


# ------------------------------------------------------------------------------------ stored cases


@dataclass(frozen=True, eq=False)
class Case:
    """A question and the original's answer, (L, 21); rows of masked residues are NaN."""

    name: str
    question: Question
    answer: NDArray[np.float32]


@cache
def stored() -> Mapping[str, Case]:
    """The cases that ship with the package, by name."""
    cases = {}
    with np.load(ANSWERS) as file:
        for name in dict.fromkeys(key.partition("/")[0] for key in file):
            coords, tokens, letters, chain_ids, residue_index, order, answer = (
                file[f"{name}/{field}"]
                for field in ("coords", "native", "sequence", "chain_ids", "residue_index",
                              "order", "log_probs")
            )  # fmt: skip
            structure = Structure.from_backbone(
                coords, spelled(tokens), chain_ids, residue_index.astype(np.int64), name=name
            )
            question = Question(structure, spelled(letters), order.astype(np.int64))
            cases[name] = Case(name, question, answer)
    return cases


def spelled(tokens: NDArray[Any]) -> str:
    return "".join(ALPHABET[token] for token in tokens)


# ---------------------------------------------------------------------------- cuts of real chains


@cache
def _pool() -> list[tuple[NDArray[np.float32], str]]:
    """The chains of TS50 that are long enough for every cut: backbones and letters."""
    with np.load(POOL) as file:
        ends = file["offsets"].tolist()
        letters = np.array(list(str(file["alphabet"])))[file["aa"]]
        coords = file["coords"]
    spans = [slice(a, b) for a, b in pairwise(ends)]
    return [
        (coords[span], "".join(letters[span]))
        for span in spans
        if span.stop - span.start > max(EDGES) and np.isfinite(coords[span]).all()
    ]


@dataclass(frozen=True)
class Cut:
    """A run of residues of a real chain, perhaps cut into several chains.

    Attributes
    ----------
    length : residues
    chain, start : which chain of the pool, and its first residue
    chain_starts : positions where a further chain begins
    gaps : position -> how many residue numbers are missing before it
    missing : positions without a backbone; at least one other is complete
    seed : of the decoding order
    """

    length: int
    chain: int = 0
    start: int = 0
    chain_starts: tuple[int, ...] = ()
    gaps: tuple[tuple[int, int], ...] = ()
    missing: tuple[int, ...] = ()
    seed: int = 0

    def build(self) -> Question:
        coords, letters = _pool()[self.chain % len(_pool())]
        start = self.start % (len(letters) - self.length + 1)
        rows = slice(start, start + self.length)
        coords, sequence = coords[rows].copy(), letters[rows]
        coords[list(self.missing)] = np.nan
        steps = np.ones(self.length, dtype=np.int64)
        for position, residues in self.gaps:
            steps[position] += residues
        member = np.zeros(self.length, dtype=np.int64)
        for position in self.chain_starts:
            member[position:] += 1
            steps[position] += CHAIN_GAP
        structure = Structure.from_backbone(
            coords, sequence, np.array(list("ABCD"))[member], steps.cumsum(), name="cut"
        )
        order = np.random.default_rng(self.seed).permutation(self.length)
        return Question(structure, sequence, order)


@st.composite
def cuts(draw: st.DrawFn) -> Cut:
    """Cuts of 1 to 130 residues, most of them at an edge."""
    length = draw(st.sampled_from(EDGES) | st.integers(1, max(EDGES)))
    inner, few = st.integers(1, max(1, length - 1)), min(length - 1, 3)
    missing = st.sets(st.integers(0, length - 1), max_size=min(length - 1, 6))
    return Cut(
        length,
        chain=draw(st.integers(0, 20)),
        start=draw(st.integers(0, 200)),
        chain_starts=tuple(sorted(draw(st.sets(inner, max_size=few)))),
        gaps=tuple(sorted(draw(st.dictionaries(inner, st.integers(1, 40), max_size=few)).items())),
        missing=tuple(sorted(draw(missing))),
        seed=draw(st.integers(0, 9)),
    )
