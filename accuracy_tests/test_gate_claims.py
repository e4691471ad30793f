"""claims.toml: complete, checked to the last key, and every figure bound to a test."""

from __future__ import annotations

import os
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
        ('"speedup"', '"target"', "reported is not a key"),
        (
            'reported = 2.0, unit = "x", sense = "speedup"',
            'unit = "x", sense = "target"',
            "needs at_l",
        ),
        ('"speedup"', '"speedup", at_least = 2', "sense 'speedup' has no use for at_least"),
        (
            'reported = 2.0, unit = "x", sense = "speedup"',
            'unit = "x", sense = "target", at_least = 3, at_most = 2',
            "claim T1, figure speed: at_least is over at_most",
        ),
        ('"speedup"', '"speedup", gated = "always"', "gated is 'always'; expected 'recorded'"),
        (
            'unit = "x", sense = "speedup", ungated = "an example"',
            'unit = "ms", sense = "record", gated = "recorded"',
            "gated = 'recorded' is for a ratio of times, unit 'x'; got 'ms'",
        ),
        (
            'ungated = "an example"',
            'gated = "recorded", ungated = "an example"',
            "found gated and ungated",
        ),
        ('known = "nothing"', 'known = "nothing"\nmachine = 3', "claim T1: machine must be a text"),
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


def test_a_class_of_machines_that_does_not_exist_is_named(tmp_path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.mpnn_core.gate.machines]\nmps = "a Mac"\n')
    good = load(tmp_path, GOOD.replace('hardware = "some"', 'hardware = "some"\nmachine = "mps"'))
    assert good["T1"].figures["speed"].machine == "mps"
    own = GOOD.replace('"speedup"', '"speedup", machine = "any"')
    assert load(tmp_path, own)["T1"].figures["speed"].machine == "any"
    with pytest.raises(ClaimsError) as error:
        load(tmp_path, GOOD.replace('"speedup"', '"speedup", machine = "m3"'))
    assert str(error.value) == (
        "claim T1, figure speed: machine 'm3' is no class of machines; there are any, mps"
    )


def test_a_target_is_said_with_its_direction(tmp_path) -> None:
    goal = GOOD.replace('reported = 2.0, unit = "x", sense = "speedup"', "GOAL")
    for toml, words in (
        ('at_least = 8, unit = "x"', "8 x or more"),
        ('at_most = 4, unit = "points"', "4 points or less"),
        ('at_least = -1, at_most = 1, unit = "points"', "-1 to 1 points"),
    ):
        claims = load(tmp_path, goal.replace("GOAL", f'{toml}, sense = "target"'))
        assert str(claims["T1"].figures["speed"]) == words


# What was to be reached when each goal was fixed. A goal that is lowered is no goal.
GOALS = {
    "E1": [8], "E2": [40], "E3": [1e-4], "E4": [15, 60, 40, 50, 40], "E5": [8], "E6": [40],
    "E11": [1.25], "E20": [1, 1, 4, 5, 6], "E40": [20], "E41": [1.15, 1.4],
}  # fmt: skip


def test_our_own_goals_are_what_they_were() -> None:
    claims = load_claims(ROOT / "claims.toml")
    for name, goals in GOALS.items():
        targets = [f for f in claims[name].figures.values() if f.sense == "target"]
        assert [f.reported for f in targets] == goals, f"{name}: a goal was moved"
    ours = [f for c in claims.values() if c.id.startswith("E") for f in c.figures.values()]
    judged = [f"{f.claim} {f.key}" for f in ours if f.sense not in ("target", "record")]
    assert not judged, f"nobody else reported {judged}: our own figures are targets or records"


def test_every_ratio_of_times_is_gated_by_its_class_of_machine() -> None:
    """A bound that was typed in holds on one processor, or on none."""
    for claim in load_claims(ROOT / "claims.toml").values():
        for f in claim.figures.values():
            bounded = [d for d in f.gates if f.unit == "x" and f.gates[d].at_least is not None]
            levels = (f.claim, f.key) == ("E9", "levels")  # counted, not timed
            assert levels or not bounded, f"{f.claim} {f.key} is typed in for {bounded}"


def test_no_file_says_so(tmp_path) -> None:
    with pytest.raises(ClaimsError, match="there is no"):
        load_claims(tmp_path / "claims.toml")


def test_every_claim_has_a_test() -> None:
    """Collects the whole suite, and asks which figures no test names."""
    # In a worker of pytest-xdist this run would take itself for one, and warn.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "--bindings", "-p", "no:cacheprovider", str(ROOT)],
        cwd=ROOT, capture_output=True, text=True, check=False, env=environment,
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
