"""claims.toml: complete, checked to the last key, and every figure bound to a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mpnn_core.gate.claims import ClaimsError, load_claims
from mpnn_core.gate.judging import unbound

ROOT = Path(__file__).parents[1]

GOOD = """
[[claim]]
id = "T1"
title = "a title"
source = "a source"
hardware = "some"
workload = "a workload"
known = "nothing"
figures.speed = { reported = 2.0, unit = "x", sense = "speedup", ungated = "an example" }
"""


def load(tmp_path: Path, text: str):
    path = tmp_path / "claims.toml"
    path.write_text(text)
    return load_claims(path)


def test_every_claim_of_the_study_is_there() -> None:
    claims = load_claims(ROOT / "claims.toml")
    assert [f"S{i}" for i in range(1, 21)] == [c for c in claims if c.startswith("S")]


def test_a_good_claim_reads(tmp_path) -> None:
    claim = load(tmp_path, GOOD)["T1"]
    assert claim.figures["speed"].reported == 2.0
    assert str(claim.figures["speed"]) == "2 x"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "a title"\n', "", "claim T1: title is missing"),
        ('title = "a title"', "title = 3", "claim T1: title must be a text, got 3"),
        ('known = "nothing"', 'known = "nothing"\ncolour = "red"', "claim T1: colour is not a key"),
        ("reported = 2.0, ", "", "claim T1, figure speed: reported is missing"),
        ("reported = 2.0", 'reported = "2"', "reported must be a finite number, got '2'"),
        ('"speedup"', '"fast"', "sense 'fast' is none of speedup, about"),
        ('"speedup"', '"about"', "sense 'about' needs margin"),
        ('"speedup"', '"count", margin = 1', "sense 'count' has no use for margin"),
        ('"speedup"', '"range", low = 1', "sense 'range' needs high"),
        ('"speedup"', '"speedup", gates.tpu = { at_least = 1, source = "s" }', "'tpu' is no devi"),
        ('"speedup"', '"speedup", gates.cpu = { at_least = 1 }', "gate cpu: source is missing"),
        ('"speedup"', '"speedup", gates.cpu = { source = "s" }', "gate cpu: it bounds nothing"),
        (
            ', ungated = "an example"',
            "",
            "expected a gate, or `needs` with the hardware, or `ungated`",
        ),
        (
            'ungated = "an',
            'gates.cpu = { at_least = 1, source = "s" }, ungated = "an',
            "found gates",
        ),
        (GOOD, GOOD + GOOD, "claim T1 is there twice"),
        (GOOD, "claim = 3 4", "is not TOML"),
        (GOOD, GOOD + "[other]\n", "expected [[claim]] tables alone"),
    ],
)
def test_a_bad_claim_is_named(tmp_path, old, new, message) -> None:
    assert old in GOOD
    with pytest.raises(ClaimsError) as error:
        load(tmp_path, GOOD.replace(old, new))
    assert message in str(error.value)


def test_no_file_says_so(tmp_path) -> None:
    with pytest.raises(ClaimsError, match="there is no"):
        load_claims(tmp_path / "claims.toml")


def test_every_claim_has_a_test() -> None:
    """Collects the whole suite, and asks which figures no test names."""
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "--bindings", "-p", "no:cacheprovider", str(ROOT)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
    bound = {
        tuple(line.split()[1:3]) for line in found.stdout.splitlines() if line.startswith("binding")
    }
    missing = unbound(load_claims(ROOT / "claims.toml").values(), bound)
    assert not missing, f"no test settles {missing}"


def test_a_claim_without_a_test_is_found(tmp_path) -> None:
    claims = load(tmp_path, GOOD)
    assert unbound(claims.values(), []) == [("T1", "speed")]
    assert unbound(claims.values(), [("T1", "speed")]) == []
