"""The proteins that peers are compared on: six examples of the original's repository, and TS50."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from mpnn_core import Structure

EXAMPLES = Path(__file__).parents[1] / "data" / "examples.npz"  # fixtures/make_examples.py


@cache
def examples() -> dict[str, Structure]:
    """5L33, 6MRR, 3HTN, 4YOW, 4GYT and 6EHB, by name: single chains and complexes."""
    with np.load(EXAMPLES) as file:
        arrays = dict(file)
    starts = np.cumsum([0, *arrays["lengths"]])
    return {
        str(name): Structure(
            str(name),
            arrays["coords"][start:end],
            "".join(arrays["letters"][start:end]),
            arrays["chain_ids"][start:end],
            arrays["residue_index"][start:end],
            arrays["residue_numbers"][start:end],
        )
        for name, start, end in zip(arrays["names"], starts, starts[1:], strict=False)
    }
