"""Claims about hardware that is not here: in the ledger, with what they need."""

from __future__ import annotations

import pytest

ANE = "Apple silicon (Neural Engine) and the Core ML backend"


@pytest.mark.parametrize(
    "needs",
    [
        pytest.param(needs, id=f"{claim}-{figure}", marks=pytest.mark.claim(claim, figure))
        for claim, figure, needs in (
            ("S7", "bucket-64", ANE),
            ("S7", "bucket-128", ANE),
            ("S7", "bucket-256", ANE),
            ("S8", "speed", "Apple silicon (Metal) and the MLX backend"),
            ("S15", "speed", ANE),
            ("S16", "packages", "the Core ML backend"),
        )
    ],
)
def test_not_exercised_here(not_exercised, needs) -> None:
    not_exercised(needs)
