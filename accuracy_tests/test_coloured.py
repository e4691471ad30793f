"""Coloured decoding orders: fewer levels, and what they change of the designs (claim E9)."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from proteins import TS50, protein, without_backbone

from mpnn_core import ALPHABET, Constraints, Designs, Model, Structure, load_model
from mpnn_core.gate.intervals import paired_mean
from mpnn_core.network.graph import Backbones, nearest_neighbours
from mpnn_core.sampling.orders import draw_coloured_order, links, ranks, visit_groups
from mpnn_core.sampling.schedule import wavefront

K = 48


@st.composite
def graphs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """Neighbours (L, k) of each position, itself among them; what is designed; tied groups."""
    L = draw(st.integers(1, 40))
    k = draw(st.integers(1, min(L, 6)))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    neighbours = np.stack([np.r_[i, rng.permutation(np.delete(np.arange(L), i))[: k - 1]]
                           for i in range(L)])  # fmt: skip
    designed = np.array(draw(st.lists(st.booleans(), min_size=L, max_size=L)))
    free = rng.permutation(np.flatnonzero(designed)).tolist()
    size = draw(st.integers(1, 3))
    tied = [free[i : i + size] for i in range(0, draw(st.integers(0, len(free))), size)]
    return neighbours, designed, [group for group in tied if len(group) > 1]


def coloured(neighbours, designed, groups, seed: int) -> tuple[np.ndarray, list[list[int]]]:
    L = len(designed)
    linked, group = links(np.column_stack([np.arange(L), neighbours]), L, groups)
    noise, colours = np.random.default_rng(seed).random((2, L))
    return draw_coloured_order(noise, colours, designed, linked, group), linked


@settings(max_examples=200, deadline=None)
@given(graphs(), st.integers(0, 1000))
def test_every_position_once_and_what_is_not_designed_first(graph, seed) -> None:
    neighbours, designed, groups = graph
    order, _ = coloured(neighbours, designed, groups, seed)
    assert sorted(order.tolist()) == list(range(len(designed)))
    kept = len(designed) - designed.sum()
    assert not designed[order[:kept]].any()


@settings(max_examples=200, deadline=None)
@given(graphs(), st.integers(0, 1000))
def test_levels_are_no_more_than_a_greedy_colouring_needs(graph, seed) -> None:
    """Of n linked positions, at most one more colour than any of them has links."""
    neighbours, designed, _ = graph
    order, linked = coloured(neighbours, designed, [], seed)
    first = int(len(designed) - designed.sum())
    rank = torch.from_numpy(np.maximum(ranks(order), first - 1))  # the prefix is one level
    levels = len(wavefront(rank, torch.from_numpy(neighbours)))
    most = max((len(np.flatnonzero(designed[linked[i]])) for i in np.flatnonzero(designed)),
               default=-1)  # fmt: skip
    assert levels <= most + 1 + (first > 0)


@settings(max_examples=100, deadline=None)
@given(graphs(), st.integers(0, 1000))
def test_links_go_both_ways_and_groups_are_one(graph, seed) -> None:
    neighbours, designed, groups = graph
    L = len(designed)
    linked, group = links(np.column_stack([np.arange(L), neighbours]), L, groups)
    expected: list[set[int]] = [set() for _ in range(L)]
    for i, row in enumerate(neighbours.tolist()):
        for j in row:
            a, b = int(group[i]), int(group[j])
            if a != b:
                expected[a].add(b)
                expected[b].add(a)
    assert linked == [sorted(found) for found in expected]
    for tied in groups:
        assert set(group[tied]) == {tied[0]}
    order, _ = coloured(neighbours, designed, groups, seed)
    visited = visit_groups(order, groups)
    assert sorted(visited.tolist()) == list(range(L))


def levels_of(structure: Structure, order: np.ndarray) -> int:
    graph = nearest_neighbours(Backbones.from_structures([structure]), K)
    return len(wavefront(torch.from_numpy(ranks(order)[structure.mask]), graph.neighbours))


@pytest.mark.parametrize(("name", "most"), [("5L33", 45), ("3HTN", 45)])
def test_coloured_orders_have_few_levels(name, most, model) -> None:
    structure = protein(name)
    designs = [model.design(structure, 4, seed=1, decoding_order=o) for o in ("coloured", None)]
    ours, theirs = ([levels_of(structure, o) for o in d.decoding_order] for d in designs)
    assert max(ours) <= most < min(theirs), f"{ours} levels coloured, {theirs} random"


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_a_coloured_order_is_an_order_like_any_other(backend) -> None:
    """Given as positions it gives the same sequences; constraints are obeyed; backends agree."""
    structure = without_backbone(protein("6MRR"), [3, 40])
    constraints = Constraints(fixed=range(10, 20), tied=[[30, 50, 60], [31, 51]])
    model = load_model(backend=backend)
    designs = model.design(structure, 3, 0.5, 7, constraints, "coloured")
    again = model.design(structure, 3, 0.5, 7, constraints, designs.decoding_order)
    assert designs.sequences == again.sequences
    for sequence in designs.sequences:
        assert sequence[10:20] == structure.sequence[10:20]
        assert len({sequence[i] for i in (30, 50, 60)}) == 1


def test_a_coloured_order_depends_on_seed_and_sequence_alone(model) -> None:
    structure = protein("6MRR")
    alone = model.design(structure, 2, seed=5, decoding_order="coloured")
    _, beside = model.design([protein("5L33"), structure], 4, seed=5, decoding_order="coloured")
    np.testing.assert_array_equal(beside.decoding_order[:2], alone.decoding_order)
    assert beside.sequences[:2] == alone.sequences
    other = model.design(structure, 2, seed=6, decoding_order="coloured")
    assert (other.decoding_order != alone.decoding_order).any()


def test_another_word_is_refused(model) -> None:
    with pytest.raises(ValueError, match="decoding_order is 'colored'; expected positions, 'col"):
        model.design(protein("6MRR"), decoding_order="colored")


# ------------------------------------------------------------------------- what it changes

SEQUENCES = 8


def tokens_of(designs: Designs) -> np.ndarray:
    return np.array([[ALPHABET.index(c) for c in sequence] for sequence in designs.sequences])


def frequencies(designs: Designs) -> np.ndarray:
    """How often each residue was drawn at each position: (L, 21)."""
    return np.eye(len(ALPHABET))[tokens_of(designs)].mean(0)


def distance(a: Designs, b: Designs) -> float:
    """Total variation between residue frequencies, mean over positions, in points."""
    return float(50 * np.abs(frequencies(a) - frequencies(b)).sum(1).mean())


def diversity(designs: Designs) -> float:
    """Positions in which two sequences differ, mean over pairs, in points."""
    pairs = combinations(tokens_of(designs), 2)
    return float(100 * np.mean([(a != b).mean() for a, b in pairs]))


@pytest.fixture(scope="module")
def chains(model: Model) -> list[tuple[Designs, Designs, Designs]]:
    """Per chain of TS50: coloured orders, random ones, and random ones from other numbers."""
    structures = [protein(name) for name in TS50]
    return list(zip(
        model.design(structures, SEQUENCES, seed=1, decoding_order="coloured"),
        model.design(structures, SEQUENCES, seed=2),
        model.design(structures, SEQUENCES, seed=3),
        strict=True,
    ))  # fmt: skip


def judged(judge, chains, statistic) -> None:
    judge(
        paired_mean([statistic(*sets) for sets in chains]),
        workload=f"TS50, {SEQUENCES} sequences a chain, T = 0.1, coloured less random",
    )


@pytest.mark.claim("E9", "recovery")
def test_recovery_is_that_of_random_orders(chains, judge) -> None:
    judged(judge, chains, lambda c, r, _: 100 * float(c.recovery.mean() - r.recovery.mean()))


@pytest.mark.claim("E9", "score")
def test_the_score_is_that_of_random_orders(chains, judge) -> None:
    judged(judge, chains, lambda c, r, _: float(c.scores.mean() - r.scores.mean()))


@pytest.mark.claim("E9", "diversity")
def test_diversity_is_that_of_random_orders(chains, judge) -> None:
    judged(judge, chains, lambda c, r, _: diversity(c) - diversity(r))


@pytest.mark.claim("E9", "positions")
def test_residues_at_each_position_are_those_of_random_orders(chains, judge) -> None:
    """Farther from one set of random orders than another such set is, in points."""
    judged(judge, chains, lambda c, r, other: distance(c, r) - distance(other, r))


@pytest.mark.claim("E9", "levels")
def test_levels_are_fewer(chains, judge) -> None:
    found = [
        levels_of(r.structure, r.decoding_order[0]) / levels_of(c.structure, c.decoding_order[0])
        for c, r, _ in chains
    ]
    judge(paired_mean(found), workload="TS50, one order a chain, random over coloured")
