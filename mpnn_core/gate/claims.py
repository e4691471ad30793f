"""The claims, read from claims.toml and checked to the last key."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from mpnn_core.gate import GateError
from mpnn_core.gate.project import Project, load_project
from mpnn_core.gate.stored import read_toml

# What a float holds; a NaN is not within.
MOST = sys.float_info.max
# The loss of a speed that costs no accuracy.
EXACT = "exact"
# The machine of a figure that needs no particular one: every machine is comparable.
ANY = "any"
# The gate of a timed figure: its bound comes from recorded runs (records.py).
RECORDED = "recorded"
Sense = Literal["speedup", "about", "range", "count", "record", "target"]


class ClaimsError(GateError):
    """claims.toml is incomplete or contradicts itself; the message names claim, figure and key."""


@dataclass(frozen=True)
class Gate:
    """A bound that must hold on one class of device or machine, and where the bound comes from."""

    source: str
    at_least: float | None = None
    at_most: float | None = None

    def __str__(self) -> str:
        if self.at_least is None:
            return f"<= {self.at_most:g}"
        if self.at_most is None:
            return f">= {self.at_least:g}"
        return f"{self.at_least:g} to {self.at_most:g}"


@dataclass(frozen=True)
class Figure:
    """One number that a claim reports.

    Attributes
    ----------
    reported : the number; for a range, its middle; for a target, its bound
    sense : how a measurement is compared with it (verdicts.py)
        "speedup": a ratio of times, baseline over candidate; over 1 is faster
        "about": equal within `margin`: a factor for unit "x", else a difference
        "range": between `low` and `high`
        "count": an exact number
        "record": written down and not judged, such as a time on other hardware
        "target": a goal of our own, fixed before it was measured: `at_least`, `at_most`, or both
    machine : class of the machine that it was reported for, such as "mps"; "any" where the
        hardware changes nothing; "" where no class is known
    needs : hardware without which it cannot be measured; "" where a CPU will do
    ungated : why the figure has no gate: nothing bounds it, or its test brings the bounds
    loss : what the speed costs: "exact", or the claim and figure with its loss, as "S4 loss"
    headline : a few words for the short ledger; "" for a figure that stands in the whole one alone
    gates : class of device -> Gate
    gated : "recorded": the bound comes from runs on this class of machine (records.py)
    """

    claim: str
    key: str
    reported: float
    unit: str
    sense: Sense
    margin: float | None = None
    low: float | None = None
    high: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    machine: str = ""
    needs: str = ""
    ungated: str = ""
    loss: str = ""
    headline: str = ""
    gates: Mapping[str, Gate] = field(default_factory=dict)
    gated: str = ""

    def __str__(self) -> str:
        """The reported figure in words: "1.84 x", "40 to 55 %"; a target's: "8 x or more"."""
        low, high = (
            (self.at_least, self.at_most) if self.sense == "target" else (self.low, self.high)
        )
        if low is not None and high is not None:
            return f"{low:g} to {high:g} {self.unit}"
        words = {low: " or more", high: " or less"}.get(self.reported, "")
        return f"{self.reported:g} {self.unit}{words if self.sense == 'target' else ''}"

    @property
    def less_is_better(self) -> bool:
        """Whether a larger measurement is a worse one: a target with an upper bound alone."""
        return self.at_most is not None and self.at_least is None


@dataclass(frozen=True)
class Claim:
    """One claim: its source, hardware and workload, and what is known of its figures.

    `machine` is the class of its figures' machine, where they name none themselves.
    """

    id: str
    title: str
    source: str
    hardware: str
    workload: str
    known: str
    figures: Mapping[str, Figure]
    machine: str = ""


def load_claims(path: Path | str, project: Project | None = None) -> dict[str, Claim]:
    """Every claim of a claims.toml by id, in its order.

    Gates may name the classes of device of `project`; by default, of the project in the same
    folder.

    Raises
    ------
    ClaimsError
        An unknown or missing key, a wrong type, a claim twice, a sense without what it needs.
    """
    path = Path(path)
    try:
        content = read_toml(path)
    except FileNotFoundError:
        raise ClaimsError(
            f"there is no {path}; the gates read their claims from it ([[claim]] tables)"
        ) from None
    except ValueError as error:
        raise ClaimsError(f"{path} is not TOML: {error}") from None
    tables = content.pop("claim", None)
    if content or not isinstance(tables, list):
        found = sorted(content) or type(tables).__name__
        raise ClaimsError(f"{path}: expected [[claim]] tables alone, found {found}")
    project = project or load_project(path.resolve().parent)
    claims: dict[str, Claim] = {}
    for table in tables:
        claim = _claim(table, project)
        if claim.id in claims:
            raise ClaimsError(f"claim {claim.id} is there twice")
        claims[claim.id] = claim
    for claim in claims.values():
        for figure in claim.figures.values():
            _check_loss(figure, claims)
    return claims


def _claim(table: dict[str, Any], project: Project) -> Claim:
    name = table.get("id", "(without id)") if isinstance(table, dict) else repr(table)
    where = f"claim {name}"
    _check_keys(where, table, {f.name for f in fields(Claim)} - {"machine"}, {"machine"})
    for key in table.keys() - {"figures"}:
        _check_text(where, key, table[key])
    _check_machine(where, table, project)
    if not isinstance(table["figures"], dict) or not table["figures"]:
        raise ClaimsError(f"{where}: figures must be a table of one or more, and is not")
    figures = {
        key: _figure(table["id"], key, values, table.get("machine", ""), project)
        for key, values in table["figures"].items()
    }
    return Claim(**{**table, "figures": figures})


def _figure(claim: str, key: str, table: dict[str, Any], machine: str, project: Project) -> Figure:
    where = f"claim {claim}, figure {key}"
    sense = table.get("sense") if isinstance(table, dict) else None
    # What a goal names are its bounds; nobody reported it.
    number = set() if sense == "target" else {"reported"}
    texts = {"machine", "needs", "ungated", "gated", "loss", "headline"}
    optional = {"margin", "low", "high", "at_least", "at_most", "gates"} | texts
    _check_keys(where, table, {"unit", "sense"} | number, optional)
    if sense not in get_args(Sense):
        raise ClaimsError(f"{where}: sense {sense!r} is none of {', '.join(get_args(Sense))}")
    for name in table.keys() & {"reported", "margin", "low", "high", "at_least", "at_most"}:
        _check_number(where, name, table[name])
    for name in table.keys() & ({"unit"} | texts):
        _check_text(where, name, table[name])
    _check_sense(where, table)
    _check_machine(where, table, project)
    if table.get("gated", RECORDED) != RECORDED:
        raise ClaimsError(f"{where}: gated is {table['gated']!r}; expected {RECORDED!r}")
    if "gated" in table and table["unit"] != "x":
        raise ClaimsError(
            f"{where}: gated = {RECORDED!r} is for a ratio of times, unit 'x'; "
            f"got {table['unit']!r}, which `gates` can bound"
        )
    gates = {}
    if not isinstance(table.get("gates", {}), dict):
        raise ClaimsError(f"{where}: gates must be a table by device, got {table['gates']!r}")
    for device, gate in table.get("gates", {}).items():
        if device not in project.classes:
            known = ", ".join(project.classes)
            raise ClaimsError(f"{where}: {device!r} is no device; there are {known}")
        gates[device] = _gate(f"{where}, gate {device}", gate)
    # A figure that nothing bounds cannot turn a test red: its reader is owed the reason.
    reasons = [name for name in ("gates", "gated", "needs", "ungated") if table.get(name)]
    if sense != "record" and (not reasons or ("ungated" in reasons and _is_gated(table))):
        raise ClaimsError(
            f"{where}: expected a gate, or `needs` with the hardware, or `ungated` with the reason;"
            f" found {' and '.join(reasons) or 'none'}"
        )
    # Whoever counts in whole numbers needs no hardware like theirs.
    machine = table.get("machine") or machine or (ANY if sense == "count" else "")
    bounds = [table[name] for name in ("at_least", "at_most") if name in table]
    reported = table["reported"] if "reported" in table else sum(bounds) / len(bounds)
    return Figure(claim, key, **{**table, "gates": gates, "machine": machine, "reported": reported})


def _is_gated(table: Mapping[str, Any]) -> bool:
    return bool(table.get("gates") or table.get("gated"))


def _check_machine(where: str, table: dict[str, Any], project: Project) -> None:
    machine = table.get("machine", ANY)
    if project.machines and machine not in (ANY, *project.machines):
        known = ", ".join((ANY, *project.machines))
        raise ClaimsError(
            f"{where}: machine {machine!r} is no class of machines; there are {known}"
        )


def _check_loss(figure: Figure, claims: Mapping[str, Claim]) -> None:
    if figure.loss in ("", EXACT):
        return
    claim, _, key = figure.loss.partition(" ")
    if claim not in claims or key not in claims[claim].figures:
        raise ClaimsError(
            f"claim {figure.claim}, figure {figure.key}: loss {figure.loss!r} is no figure; "
            f'expected "{EXACT}", or a claim and a figure, such as "S4 loss"'
        )


def _check_sense(where: str, table: dict[str, Any]) -> None:
    sense, given = table["sense"], table.keys() & {"margin", "low", "high"}
    goal = table.keys() & {"reported", "at_least", "at_most"}
    if sense == "target" and goal - {"reported"} and "reported" in goal:
        raise ClaimsError(f"{where}: a target is at_least, at_most or both; nobody reported it")
    if (sense == "target") is not bool(goal - {"reported"}):
        verb = "needs" if sense == "target" else "has no use for"
        raise ClaimsError(f"{where}: sense {sense!r} {verb} at_least or at_most")
    _check_order(where, table)
    required = {"about": {"margin"}, "range": {"low", "high"}}.get(sense, set())
    for name in sorted(required ^ given):
        verb = "needs" if name in required else "has no use for"
        raise ClaimsError(f"{where}: sense {sense!r} {verb} {name}")
    if sense == "speedup" and not (table["unit"] == "x" and table["reported"] > 1):
        raise ClaimsError(
            f"{where}: a speedup is over 1 x, got {table['reported']:g} {table['unit']}; "
            "what is slower, or no faster, is 'about' a figure"
        )
    least = 1 if table["unit"] == "x" else 0
    if sense == "about" and not table["margin"] > least:
        raise ClaimsError(f"{where}: margin must be over {least}, got {table['margin']:g}")
    if sense == "range" and not table["low"] <= table["reported"] <= table["high"]:
        raise ClaimsError(f"{where}: low, reported and high must be in this order")


def _check_order(where: str, table: dict[str, Any]) -> None:
    if {"at_least", "at_most"} <= table.keys() and not table["at_least"] <= table["at_most"]:
        raise ClaimsError(f"{where}: at_least is over at_most; nothing could pass")


def _gate(where: str, table: dict[str, Any]) -> Gate:
    _check_keys(where, table, {"source"}, {"at_least", "at_most"})
    _check_text(where, "source", table["source"])
    bounds = table.keys() & {"at_least", "at_most"}
    for name in bounds:
        _check_number(where, name, table[name])
    if not bounds:
        raise ClaimsError(f"{where}: it bounds nothing")
    _check_order(where, table)
    return Gate(**table)


def _check_keys(where: str, table: dict[str, Any], required: set[str], optional: set[str]) -> None:
    if not isinstance(table, dict):
        raise ClaimsError(f"{where}: expected a table, got {table!r}")
    for key in sorted(required - table.keys()):
        raise ClaimsError(f"{where}: {key} is missing")
    for key in sorted(table.keys() - required - optional):
        raise ClaimsError(f"{where}: {key} is not a key; there are {sorted(required | optional)}")


def _check_text(where: str, key: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise ClaimsError(f"{where}: {key} must be a text, got {value!r}")


def _check_number(where: str, key: str, value: object) -> None:
    # An integer of TOML has any number of digits.
    finite = isinstance(value, int | float) and -MOST <= value <= MOST
    if isinstance(value, bool) or not finite:
        raise ClaimsError(f"{where}: {key} must be a finite number, got {value!r}")
