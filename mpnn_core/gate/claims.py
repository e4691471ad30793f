"""The claims, read from claims.toml and checked to the last key."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
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
Sense = Literal["speedup", "about", "range", "count", "record"]


class ClaimsError(GateError):
    """claims.toml is incomplete or contradicts itself; the message names claim, figure and key."""


@dataclass(frozen=True)
class Gate:
    """A bound that must hold on one class of device, and where the bound comes from."""

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
    reported : the number; for a range, its middle
    sense : how a measurement is compared with it (verdicts.py)
        "speedup": a ratio of times, baseline over candidate; over 1 is faster
        "about": equal within `margin`: a factor for unit "x", else a difference
        "range": between `low` and `high`
        "count": an exact number
        "record": written down and not judged, such as a time on other hardware
    needs : hardware without which it cannot be measured; "" where a CPU will do
    ungated : why the figure has no gate: nothing bounds it, or its test brings the bounds
    loss : what the speed costs: "exact", or the claim and figure with its loss, as "S4 loss"
    headline : a few words for the short ledger; "" for a figure that stands in the whole one alone
    gates : class of device -> Gate
    """

    claim: str
    key: str
    reported: float
    unit: str
    sense: Sense
    margin: float | None = None
    low: float | None = None
    high: float | None = None
    needs: str = ""
    ungated: str = ""
    loss: str = ""
    headline: str = ""
    gates: Mapping[str, Gate] = field(default_factory=dict)

    def __str__(self) -> str:
        """The reported figure in words: "1.84 x", "40 to 55 %"."""
        if self.sense == "range":
            return f"{self.low:g} to {self.high:g} {self.unit}"
        return f"{self.reported:g} {self.unit}"


@dataclass(frozen=True)
class Claim:
    """One claim: its source, hardware and workload, and what is known of its figures."""

    id: str
    title: str
    source: str
    hardware: str
    workload: str
    known: str
    figures: Mapping[str, Figure]


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
    devices = (project or load_project(path.resolve().parent)).classes
    claims: dict[str, Claim] = {}
    for table in tables:
        claim = _claim(table, devices)
        if claim.id in claims:
            raise ClaimsError(f"claim {claim.id} is there twice")
        claims[claim.id] = claim
    for claim in claims.values():
        for figure in claim.figures.values():
            _check_loss(figure, claims)
    return claims


def _claim(table: dict[str, Any], devices: Collection[str]) -> Claim:
    name = table.get("id", "(without id)") if isinstance(table, dict) else repr(table)
    where = f"claim {name}"
    _check_keys(where, table, {f.name for f in fields(Claim)}, set())
    for key in table.keys() - {"figures"}:
        _check_text(where, key, table[key])
    if not isinstance(table["figures"], dict) or not table["figures"]:
        raise ClaimsError(f"{where}: figures must be a table of one or more, and is not")
    figures = {
        key: _figure(table["id"], key, values, devices) for key, values in table["figures"].items()
    }
    return Claim(**{**table, "figures": figures})


def _figure(claim: str, key: str, table: dict[str, Any], devices: Collection[str]) -> Figure:
    where = f"claim {claim}, figure {key}"
    optional = {"margin", "low", "high", "needs", "ungated", "loss", "headline", "gates"}
    _check_keys(where, table, {"reported", "unit", "sense"}, optional)
    sense = table["sense"]
    if sense not in get_args(Sense):
        raise ClaimsError(f"{where}: sense {sense!r} is none of {', '.join(get_args(Sense))}")
    for name in table.keys() & {"reported", "margin", "low", "high"}:
        _check_number(where, name, table[name])
    for name in table.keys() & {"unit", "needs", "ungated", "loss", "headline"}:
        _check_text(where, name, table[name])
    _check_sense(where, table)
    gates = {}
    if not isinstance(table.get("gates", {}), dict):
        raise ClaimsError(f"{where}: gates must be a table by device, got {table['gates']!r}")
    for device, gate in table.get("gates", {}).items():
        if device not in devices:
            raise ClaimsError(f"{where}: {device!r} is no device; there are {', '.join(devices)}")
        gates[device] = _gate(f"{where}, gate {device}", gate)
    # A figure that nothing bounds cannot turn a test red: its reader is owed the reason.
    reasons = [name for name in ("gates", "needs", "ungated") if table.get(name)]
    if sense != "record" and (not reasons or {"gates", "ungated"} <= set(reasons)):
        raise ClaimsError(
            f"{where}: expected a gate, or `needs` with the hardware, or `ungated` with the reason;"
            f" found {' and '.join(reasons) or 'none'}"
        )
    return Figure(claim, key, **{**table, "gates": gates})


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


def _gate(where: str, table: dict[str, Any]) -> Gate:
    _check_keys(where, table, {"source"}, {"at_least", "at_most"})
    _check_text(where, "source", table["source"])
    bounds = table.keys() & {"at_least", "at_most"}
    for name in bounds:
        _check_number(where, name, table[name])
    if not bounds:
        raise ClaimsError(f"{where}: it bounds nothing")
    if len(bounds) == 2 and not table["at_least"] <= table["at_most"]:
        raise ClaimsError(f"{where}: at_least is over at_most; nothing could pass")
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
