"""E11: two threads beside two other busy processes on two cores, over one thread."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from proteins import protein

import mpnn_core as mpnn

REPEATS = 3


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


@pytest.mark.costly(8)
@pytest.mark.claim("E11", "loaded")
def test_threads_do_no_harm_on_a_busy_machine(timed, judge) -> None:
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("not exercised: needs two cores of a Linux machine")
    model, structure = mpnn.load_model(), protein("5L33")

    def design_with(threads: int) -> Callable[[], None]:
        def run() -> None:
            torch.set_num_threads(threads)
            for _ in range(REPEATS):
                model.design(structure, 8, seed=37)

        return run

    threads, one = torch.get_num_threads(), design_with(1)
    try:
        with two_busy_cores():
            times = timed({"one": one, "two": design_with(2), "control": one}, ours="two")
    finally:
        torch.set_num_threads(threads)
    how = f"{model.backend.name} {getattr(model.backend, 'instruction_set', '')}".strip()
    judge(
        times.ratio("two", "one"),
        control=times.ratio("one", "control"),
        times=times,
        note=how,
        only_record=model.backend.name != "native",
    )
