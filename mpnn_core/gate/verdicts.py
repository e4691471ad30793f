"""From an interval to a verdict on a claim and to a gate's result. Pure functions.

Two questions, two answers. The *verdict* compares a measurement with what somebody else reported,
or with a goal of our own. The *gate* compares it with a bound that must hold here; only a gate
turns a test red. Both use the interval only, so neither is more certain than the measurement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum

from mpnn_core.gate.claims import ANY, Figure, Gate, Sense
from mpnn_core.gate.intervals import Interval, exactly

# An interval that holds a reported speed-up says something if its ends are no further apart.
PRECISION = 1.25


class Verdict(StrEnum):
    CONFIRMED = "confirmed"
    COMPATIBLE = "compatible"
    DIRECTION_ONLY = "direction only"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"
    REACHED = "reached"
    SHORT = "short"
    RECORDED = "recorded"
    NOT_EXERCISED = "not exercised"
    NOT_RUN = "not run"


class Place(StrEnum):
    """Where an interval lies, seen from a figure; `place` says when."""

    HOLDS = "holds the figure"
    SAME_SIDE = "misses it, beyond half-way"
    MISSES = "misses it"
    OPEN = "too wide, or off"


def _row(holds: Verdict, same_side: Verdict, misses: Verdict) -> dict[Place, Verdict]:
    return dict(zip(Place, (holds, same_side, misses, Verdict.INCONCLUSIVE), strict=True))


# What an interval in each of these places means for a figure of each sense. COMPATIBLE stands for
# CONFIRMED on a machine of another class than the one that the figure was reported for.
VERDICTS: Mapping[Sense, Mapping[Place, Verdict]] = {
    "speedup": _row(Verdict.CONFIRMED, Verdict.DIRECTION_ONLY, Verdict.REFUTED),
    "about": _row(Verdict.CONFIRMED, Verdict.DIRECTION_ONLY, Verdict.REFUTED),
    "range": _row(Verdict.CONFIRMED, Verdict.DIRECTION_ONLY, Verdict.REFUTED),
    "count": _row(Verdict.CONFIRMED, Verdict.REFUTED, Verdict.REFUTED),
    "target": _row(Verdict.REACHED, Verdict.SHORT, Verdict.SHORT),
    "record": _row(Verdict.RECORDED, Verdict.RECORDED, Verdict.RECORDED),
}


class GateResult(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    UNRECORDED = "no gate yet"  # nothing was recorded on this class of machine
    NONE = "no gate"


class Change(StrEnum):
    """How the time of a benchmark changed from one revision to another."""

    SLOWER = "slower"
    FASTER = "faster"
    NONE = "no change"
    INCONCLUSIVE = "inconclusive"
    BROKEN = "broken here"
    ONLY_HERE = "only here"
    ONLY_THERE = "only there"


def judge_claim(
    figure: Figure, measured: Interval | None, control: Interval | None, machine: str = ""
) -> Verdict:
    """Compare a measurement with a figure: the table VERDICTS.

    `control` is the baseline against itself, measured in the same rounds; None where nothing was
    timed. `machine` is the class of the machine that was measured on: what somebody else reported
    is confirmed on the class that they reported it for, and elsewhere no more than compatible.
    """
    verdict = VERDICTS[figure.sense][place(figure, measured, control)]
    if verdict is Verdict.CONFIRMED and not comparable(figure, machine):
        return Verdict.COMPATIBLE
    return verdict


def comparable(figure: Figure, machine: str) -> bool:
    """Whether a machine is of the class that the figure was reported for."""
    return figure.machine == ANY or (bool(machine) and figure.machine == machine)


def place(figure: Figure, measured: Interval | None, control: Interval | None) -> Place:
    """Where an interval lies. Open, without a measurement or with a control that excludes 1.

    A speed-up: half-way to no effect, on a logarithmic scale, is its square root. An interval
    wholly below misses the figure. One wholly above is on the same side; it holds the figure if the
    figure is in it and its upper end is at most PRECISION times the lower; a wider one is open.

    Any other figure: the interval holds it if it lies wholly within the values that agree with it
    (`accepted`), so that its `margin`, or `low` and `high`, say how precise it must be. It misses
    the figure if it lies wholly outside, by more than the control's own error. A ratio outside, but
    beyond half-way on the reported side of 1, is on the same side.
    """
    if measured is None or (control is not None and control.outside(1, 1)):
        return Place.OPEN
    noise = exactly(1) if control is None else control
    if figure.sense == "record":
        return Place.HOLDS
    if figure.sense == "speedup":
        return _place_of_speedup(figure.reported, measured, noise)
    low, high = accepted(figure)
    if figure.sense == "about" and figure.unit == "x":
        assert figure.margin is not None
        quiet = noise.within(1 / figure.margin, figure.margin)
    else:
        quiet = True
    if measured.within(low, high) and quiet:
        return Place.HOLDS
    if figure.unit == "x" and figure.sense != "target":
        measured = Interval(measured.value, measured.low * noise.low, measured.high * noise.high)
    if not measured.outside(low, high):
        return Place.OPEN
    says_no_change = low <= 1 <= high
    if figure.unit == "x" and not says_no_change and _beyond_half(figure, measured):
        return Place.SAME_SIDE
    return Place.MISSES


def _place_of_speedup(reported: float, measured: Interval, noise: Interval) -> Place:
    half = math.sqrt(reported)
    if not noise.within(1 / half, half):
        return Place.OPEN
    if measured.high < half:
        return Place.MISSES
    if measured.low < half:
        return Place.OPEN
    if measured.outside(reported, reported):
        return Place.SAME_SIDE
    return Place.HOLDS if measured.high <= PRECISION * measured.low else Place.OPEN


def shortfall(figure: Figure, measured: Interval) -> str:
    """How far a measurement is from a target: "by 32 %", or "by 1.2 points" for a difference."""
    low, high = accepted(figure)
    bound = low if measured.value < low else high
    missing = abs(measured.value - bound)
    if figure.unit == "x":
        return f"by {100 * missing / bound:.0f} %"
    return f"by {missing:.2g} {figure.unit}"


def judge_gate(
    gate: Gate | None, measured: Interval | None, control: Interval | None
) -> GateResult:
    """Compare a measurement with a bound that must hold.

    The gate passes if the interval is wholly inside the bounds, fails if it is wholly outside, and
    is inconclusive otherwise. If the control excludes 1, it is inconclusive.
    """
    if gate is None:
        return GateResult.NONE
    low = -math.inf if gate.at_least is None else gate.at_least
    high = math.inf if gate.at_most is None else gate.at_most
    if measured is None or (control is not None and control.outside(1, 1)):
        return GateResult.INCONCLUSIVE
    if measured.within(low, high):
        return GateResult.PASSED
    return GateResult.FAILED if measured.outside(low, high) else GateResult.INCONCLUSIVE


def judge_change(measured: Interval | None, control: Interval | None, threshold: float) -> Change:
    """A ratio of two revisions, over 1 if the new one is faster, against the noise threshold.

    Slower or faster if the interval lies wholly beyond the threshold (a factor over 1), no change
    if it lies wholly within. If the control excludes 1, the base differs from itself: a change must
    then be larger by the control's own error, and no benchmark is called unchanged.
    """
    if measured is None or control is None:
        return Change.INCONCLUSIVE
    bar = change_bar(control, threshold)
    if measured.high < 1 / bar:
        return Change.SLOWER
    if measured.low > bar:
        return Change.FASTER
    if bar == threshold and measured.within(1 / threshold, threshold):
        return Change.NONE
    return Change.INCONCLUSIVE


def change_bar(control: Interval, threshold: float) -> float:
    """The factor that a change must exceed: the threshold, raised by the control's own error."""
    return threshold * (max(control.high, 1 / control.low) if control.outside(1, 1) else 1.0)


def accepted(figure: Figure) -> tuple[float, float]:
    """The values that agree with a figure that is not a speed-up; those that reach a target."""
    if figure.sense == "target":
        low = -math.inf if figure.at_least is None else figure.at_least
        return low, math.inf if figure.at_most is None else figure.at_most
    if figure.sense == "range":
        assert figure.low is not None and figure.high is not None
        return figure.low, figure.high
    if figure.sense == "count":
        return figure.reported, figure.reported
    assert figure.margin is not None
    if figure.unit == "x":
        return figure.reported / figure.margin, figure.reported * figure.margin
    return figure.reported - figure.margin, figure.reported + figure.margin


def agrees(figure: Figure, measured: Interval) -> bool:
    """Whether the interval holds the reported figure itself; whether it touches a target."""
    holds = accepted(figure) if figure.sense in ("range", "target") else None
    low, high = holds or (figure.reported, figure.reported)
    return not measured.outside(low, high)


def _beyond_half(figure: Figure, measured: Interval) -> bool:
    """Whether a ratio is on the reported side of 1, wholly beyond the square root of the figure."""
    half = math.sqrt(figure.reported)
    return (measured.low > half > 1) or (measured.high < half < 1)
