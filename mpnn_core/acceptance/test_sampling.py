"""Designs are drawn from the probabilities: temperature, random numbers, order, omitted letters.

The order of a design is random, and a candidate does not tell it. So letters are counted where the
order does not matter (one residue), or where all orders can be summed (two).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from mpnn_core import ALPHABET
from mpnn_core.acceptance.candidate import Candidate, DifferenceError, described
from mpnn_core.acceptance.cases import Cut, Question, stored
from mpnn_core.acceptance.frequencies import excess, tempered

# Its letters are spread even at T = 0.1.
ONE = Cut(1, chain=6, start=70)
TWO = Cut(2, chain=6, start=70)
DRAWS = 2000
HOT = 10.0  # X, about one in 300 at T = 1, comes several times in a hundred


def counted(sequences: Sequence[str]) -> NDArray[np.int64]:
    """How often each sequence of m letters came: (20 ** m,)."""
    tokens = np.array([[ALPHABET.index(letter) for letter in s] for s in sequences])
    outcome = (tokens * 20 ** np.arange(tokens.shape[1])[::-1]).sum(1)
    counts: NDArray[np.int64] = np.bincount(outcome, minlength=20 ** tokens.shape[1])
    return counts


def test_a_seed_gives_its_sequences_again(candidate: Candidate) -> None:
    structure = Cut(24).build().structure
    first = candidate.design(structure, n=3, temperature=1.0, seed=5)
    again = candidate.design(structure, n=3, temperature=1.0, seed=5)
    if first != again:
        raise DifferenceError(
            f"{candidate}: one seed gave {described(structure)} {first[0]}, then {again[0]}; is "
            "the random generator seeded in every call?"
        )


def test_another_seed_gives_other_sequences(candidate: Candidate) -> None:
    structure = Cut(24).build().structure
    one, two = (candidate.design(structure, n=2, temperature=1.0, seed=seed) for seed in (5, 6))
    if set(one) & set(two):
        raise DifferenceError(f"{candidate}: seeds 5 and 6 give the same sequence {one[0]}")


def test_each_sequence_has_random_numbers_of_its_own(candidate: Candidate) -> None:
    structure = ONE.build().structure
    letters = candidate.design(structure, n=200, temperature=1.0, seed=1)
    if len(set(letters)) == 1:
        raise DifferenceError(
            f"{candidate}: 200 sequences of one residue at T = 1, in one call, are all "
            f"{letters[0]}.\n  Likely cause: the random number of a position is shared between "
            "the sequences of a call"
        )
    structure = Cut(24).build().structure
    sequences = candidate.design(structure, n=40, temperature=1.0, seed=1)
    if len(set(sequences)) < len(sequences):
        twice = next(s for s in sequences if sequences.count(s) > 1)
        raise DifferenceError(
            f"{candidate}: {len(sequences)} sequences of 24 residues at T = 1, in one call, hold "
            f"{len(set(sequences))} different ones; {twice} comes {sequences.count(twice)} times."
            "\n  Likely cause: random numbers are shared between sequences, or between batches"
        )


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.1])
def test_letters_come_as_often_as_their_probabilities(
    temperature: float, candidate: Candidate
) -> None:
    question = ONE.build()
    told = candidate.log_probs(question)[0]
    expected = tempered(told, temperature)
    drawn = candidate.design(question.structure, DRAWS, temperature, seed=2)
    demand_without_x(candidate, drawn, temperature)
    counts = counted(drawn)
    if excess(counts, expected) <= 1:
        return
    mistakes = {
        "temperature is applied twice": tempered(told, temperature**2),
        "temperature is not applied": tempered(told, 1),
        "logits are multiplied by the temperature, not divided": tempered(told, 1 / temperature),
    }
    raise wrong_frequencies(
        candidate, f"one residue at T = {temperature:g}", counts, expected, mistakes
    )


def test_pairs_of_letters_come_as_often_as_their_probabilities(candidate: Candidate) -> None:
    """Two residues: the second is drawn given the first, in either order as often."""
    question = TWO.build()
    first, second = (conditional(candidate, question, order) for order in ([0, 1], [1, 0]))
    expected = (first + second.T) / 2
    drawn = candidate.design(question.structure, DRAWS, 1.0, seed=3)
    demand_without_x(candidate, drawn, 1.0)
    counts = counted(drawn)
    if excess(counts, expected.ravel()) <= 1:
        return
    mistakes = {
        "designs are decoded from left to right alone": first.ravel(),
        "designs are decoded from right to left alone": second.T.ravel(),
        "a residue is drawn without hearing the letters drawn before it":
            np.outer(first.sum(1), second.sum(1)).ravel(),
    }  # fmt: skip
    raise wrong_frequencies(candidate, "two residues at T = 1", counts, expected.ravel(), mistakes)


def conditional(candidate: Candidate, question: Question, order: list[int]) -> np.ndarray:
    """p(a at order[0]) p(b at order[1] | a): (20, 20)."""
    rows = []
    for letter in ALPHABET[:20]:
        letters = ["A", "A"]
        letters[order[0]] = letter
        asked = question.asked_of(sequence="".join(letters), order=np.array(order))
        rows.append(candidate.log_probs(asked))
    told = np.stack(rows)  # (20, 2, 21)
    return tempered(told[0, order[0]], 1)[:, None] * tempered(told[:, order[1]], 1)


def test_x_is_never_drawn(candidate: Candidate) -> None:
    drawn = candidate.design(ONE.build().structure, DRAWS, HOT, seed=4)
    demand_without_x(candidate, drawn, HOT)


def test_masked_residues_do_not_hinder_a_design(candidate: Candidate) -> None:
    structure = stored()["5L33-five-masked"].question.of_rows(np.arange(25, 45)).structure
    drawn = candidate.design(structure, 2, 1.0, seed=4)
    seen = np.flatnonzero(structure.mask)
    demand_without_x(candidate, ["".join(s[i] for i in seen) for s in drawn], 1.0)


def demand_without_x(candidate: Candidate, drawn: Sequence[str], temperature: float) -> None:
    letters = "".join(drawn)
    if "X" in letters:
        raise DifferenceError(
            f"{candidate}: {letters.count('X')} of {len(letters)} letters drawn at "
            f"T = {temperature:g} are X, which is omitted: leave it out before the draw"
        )


def wrong_frequencies(
    candidate: Candidate, what: str, counts: NDArray[np.int64], expected: NDArray[np.float64],
    mistakes: dict[str, NDArray[np.float64]],
) -> DifferenceError:  # fmt: skip
    n = counts.sum()
    worst = int(np.abs(counts / n - expected).argmax())
    letters = "".join(ALPHABET[i] for i in ([worst] if len(counts) == 20 else divmod(worst, 20)))
    causes = [said for said, mistaken in mistakes.items() if excess(counts, mistaken) <= 1]
    if not causes and (counts > 0).sum() == 1:
        causes = ["the random number of a position is shared between the sequences of a call"]
    likely = causes[0] if causes else "none of the common mistakes that this suite knows"
    return DifferenceError(
        f"{candidate}: of {n} designs of {what}, {letters} came in {counts[worst] / n:.1%}; its "
        f"own log-probabilities say {expected[worst]:.1%} (chi-square "
        f"{excess(counts, expected):.1f} times the largest that chance explains)."
        f"\n  Likely cause: {likely}"
    )
