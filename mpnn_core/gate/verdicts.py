"""From an interval to a verdict on a claim and to a gate's result. Pure functions.

Two questions, two answers. The *verdict* compares a measurement with a figure that was reported
elsewhere, on other hardware. The *gate* compares it with a bound that must hold here; only a gate
turns a test red. Both use the interval only, so neither is more certain than the measurement.
"""

from __future__ import annotations

import math
from enum import StrEnum

from mpnn_core.gate.claims import Figure, Gate
from mpnn_core.gate.intervals import Interval, exactly


class Verdict(StrEnum):
    CONFIRMED = "confirmed"
    DIRECTION_ONLY = "direction only"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"
    RECORDED = "recorded"
    NOT_EXERCISED = "not exercised"
    NOT_RUN = "not run"


class GateResult(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
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


def judge_claim(figure: Figure, measured: Interval | None, control: Interval | None) -> Verdict:
    """Compare a measurement with a reported figure.

    `control` is the baseline against itself, measured in the same loop; None where nothing was
    timed. If the control excludes 1, the verdict is inconclusive.

    A speed-up that was reported on other hardware has a floor: its square root, half-way to no
    effect on a logarithmic scale. An interval wholly below the floor refutes the figure. One wholly
    above it confirms the direction only, or the figure itself if the interval reaches it.

    Any other figure is confirmed if the interval lies wholly within the values that agree with it
    (`accepted`), and refuted if it lies wholly outside, by more than the control's own error. A
    ratio outside of them, but on the reported side of 1, is the direction only.
    """
    if figure.sense == "record":
        return Verdict.RECORDED
    if measured is None or (control is not None and control.outside(1, 1)):
        return Verdict.INCONCLUSIVE
    noise = exactly(1) if control is None else control
    if figure.sense == "speedup":
        floor = math.sqrt(figure.reported)
        if not noise.within(1 / floor, floor):
            return Verdict.INCONCLUSIVE
        if measured.high < floor:
            return Verdict.REFUTED
        if measured.low < floor:
            return Verdict.INCONCLUSIVE
        reaches = measured.high >= figure.reported
        return Verdict.CONFIRMED if reaches else Verdict.DIRECTION_ONLY
    low, high = accepted(figure)
    margin = figure.margin if figure.sense == "about" and figure.unit == "x" else math.inf
    assert margin is not None
    if measured.within(low, high) and noise.within(1 / margin, margin):
        return Verdict.CONFIRMED
    if figure.unit == "x":
        measured = Interval(measured.value, measured.low * noise.low, measured.high * noise.high)
    if not measured.outside(low, high):
        return Verdict.INCONCLUSIVE
    says_no_change = low <= 1 <= high
    if figure.unit == "x" and not says_no_change and _beyond_half(figure, measured):
        return Verdict.DIRECTION_ONLY
    return Verdict.REFUTED


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
    """The values that agree with a figure that is not a speed-up."""
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
    """Whether the interval holds the reported figure itself."""
    low, high = accepted(figure) if figure.sense == "range" else (figure.reported, figure.reported)
    return not measured.outside(low, high)


def _beyond_half(figure: Figure, measured: Interval) -> bool:
    """Whether a ratio is on the reported side of 1, wholly beyond the square root of the figure."""
    half = math.sqrt(figure.reported)
    return (measured.low > half > 1) or (measured.high < half < 1)
