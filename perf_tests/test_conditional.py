"""E15: the probability of every residue given all others, against the original's loop and ours.

The original makes a pass of its decoder for each residue. Of a long protein it is timed on every
eighth residue, and its time counted for all: its encoding is counted eight times too, less than a
hundredth of the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from proteins import TS50, protein, rows_of
from timing import JITTER, computed_by, jittered

import mpnn_core as mpnn
from mpnn_core.peers import original

# Every how many residues the original is timed on; seconds of a process, for it and for passes.
CASES = {"5L33": (1, {"original": 20, "passes": 4}), "3HTN": (8, {"original": 60, "passes": 14})}


def cases(kind: str) -> list[object]:
    return [
        pytest.param(
            name,
            id=name,
            marks=[pytest.mark.claim("E15", f"{kind}-{name}"), pytest.mark.costly(seconds[kind])],
        )
        for name, (_, seconds) in CASES.items()
    ]


def loop_of_the_original(
    network: torch.nn.Module,
    structure: mpnn.Structure,
    every: int,
) -> Callable[[], object]:
    """Its `conditional_probs` of every so many residues."""
    tensors = original.inputs(structure)
    some = torch.zeros_like(tensors.chain_M)
    some[:, ::every] = tensors.chain_M[:, ::every]

    def run() -> object:
        moved = replace(tensors, X=tensors.X + JITTER * torch.randn_like(tensors.X), chain_M=some)
        return original.conditional_log_probs(network, moved, torch.randn(some.shape))

    return run


@pytest.mark.parametrize("name", cases("original"))
def test_conditionals_beat_the_loop_of_the_original(name, model, network, paired) -> None:
    structure, (every, _) = protein(name), CASES[name]
    move = jittered(structure)
    piece = rows_of(structure, slice(0, 30))
    paired(
        loop_of_the_original(network, structure, every),
        lambda: model.conditional_log_probs(move()),
        work=every,
        warm_up=loop_of_the_original(network, piece, 10),
        **computed_by(model),
    )


@pytest.mark.parametrize("name", cases("passes"))
def test_conditionals_beat_a_pass_for_each_residue(name, model, paired) -> None:
    """Passes that share one encoding, as `log_probs` of as many orders makes them."""
    structure = protein(name)
    L, move = len(structure), jittered(structure)
    rng = np.random.default_rng(0)

    def passes() -> object:
        order = rng.permutation(L)
        orders = np.stack([np.append(order[order != i], i) for i in range(L)])
        return model.log_probs(move(), structure.sequence, orders)

    paired(passes, lambda: model.conditional_log_probs(move()), **computed_by(model))


@pytest.mark.claim("E15", "rate")
@pytest.mark.costly(14)
def test_residues_conditioned_in_a_second(model, timed, judge) -> None:
    """Single chains of 60 to 500 residues."""
    chains = [s for s in map(protein, TS50) if 60 <= len(s) <= 500]
    moves = [jittered(s) for s in chains]

    def scan() -> object:
        return model.conditional_log_probs([move() for move in moves])

    times = timed({"ours": scan, "control": scan}, ours="ours")
    how = computed_by(model)
    judge(
        times.product({"ours": -1}, sum(map(len, chains))),
        control=times.ratio("ours", "control"),
        times=times,
        workload=f"{len(chains)} chains of TS50, {sum(map(len, chains))} residues",
        note=str(how["note"]),
        only_record=how["only_record"],
    )
