"""E11: two threads beside two other busy processes on two cores, over one thread."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from proteins import protein

import mpnn_core as mpnn
from mpnn_core.gate.intervals import ERROR, median_ratio

ROUNDS, REPEATS = 12, 2


@contextmanager
def two_busy_cores() -> Iterator[None]:
    """This process and two that do nothing else, on the same two cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:2])
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()
        os.sched_setaffinity(0, before)


@pytest.mark.costly(60)
@pytest.mark.claim("E11", "loaded")
def test_threads_do_no_harm_on_a_busy_machine(judge) -> None:
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("not exercised: needs two cores of a Linux machine")
    model, structure = mpnn.load_model(), protein("5L33")

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        model.design(structure, 8, seed=37)  # the threads exist from here on
        start = time.perf_counter()
        for _ in range(REPEATS):
            model.design(structure, 8, seed=37)
        return time.perf_counter() - start

    threads, rng, log_ratios = torch.get_num_threads(), np.random.default_rng(0), []
    try:
        with two_busy_cores():
            for _ in range(ROUNDS):
                taken = {int(n): seconds(int(n)) for n in rng.permutation([1, 2])}
                log_ratios.append(np.log(taken[2] / taken[1]))
    finally:
        torch.set_num_threads(threads)
    judge(
        median_ratio(np.array(log_ratios), ERROR),
        pairs=ROUNDS,
        note=f"{model.backend.name} {getattr(model.backend, 'instruction_set', '')}".strip(),
        only_record=model.backend.name != "native",
    )
