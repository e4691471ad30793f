"""E33: every mutation of a thousand single chains, from structures to the columns of the table."""

from __future__ import annotations

import numpy as np
import pytest
from proteins import EXAMPLES, TS50, protein, rows_of
from timing import computed_by, jittered

import mpnn_core as mpnn

LONG = ("pdb3enl", "2XHE", "mmcif_3o21")
COUNT, SHORTEST, LONGEST = 1000, 60, 500


def single_chains(count: int = COUNT) -> list[mpnn.Structure]:
    """Chains of TS50, of the examples and of some longer proteins, and pieces of them."""
    rng = np.random.default_rng(0)
    chains = []
    for structure in map(protein, (*TS50, *EXAMPLES, *LONG)):
        for chain in structure.chains:
            rows = np.flatnonzero(structure.chain_ids == chain)
            if len(rows) >= SHORTEST:
                chains.append(rows_of(structure, rows).with_ligands(()))
    found = []
    for i in range(count):
        whole = chains[i % len(chains)]
        length = min(int(rng.integers(SHORTEST, LONGEST + 1)), len(whole))
        start = int(rng.integers(0, len(whole) - length + 1))
        found.append(rows_of(whole, slice(start, start + length)))
    return found


def rate(model: mpnn.Model, chains: list[mpnn.Structure], timed, judge, **settings: object) -> None:
    """Residues a second, as `mpnn-core scan` computes them: as many in one call as go well
    together; without files read and written."""
    from mpnn_core.training.corpus import batched

    moves = [jittered(chain) for chain in chains]

    def scan() -> None:
        for structures in batched((move() for move in moves), 1):
            for of in model.scan(structures):
                of.table()

    times = timed({"ours": scan, "control": scan}, ours="ours", **settings)
    how = computed_by(model)
    judge(
        times.product({"ours": -1}, sum(map(len, chains))),
        control=times.ratio("ours", "control"),
        times=times,
        workload=f"{len(chains)} single chains, {sum(map(len, chains))} residues",
        note=str(how["note"]),
        only_record=how["only_record"] and not settings,
    )


@pytest.mark.claim("E33", "rate")
@pytest.mark.costly(200)
def test_residues_scanned_in_a_second(model, timed, judge) -> None:
    rate(model, single_chains(), timed, judge)


@pytest.mark.claim("E33", "rate-h100")
@pytest.mark.times_on("cuda")
@pytest.mark.costly(60)
def test_residues_scanned_in_a_second_on_cuda(timed, judge, not_exercised) -> None:
    import torch

    if not torch.cuda.is_available():
        not_exercised("an NVIDIA GPU")
    rate(mpnn.load_model(device="cuda"), single_chains(), timed, judge, device="cuda")
