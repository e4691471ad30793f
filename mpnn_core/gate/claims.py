"""The claims, read from claims.toml and checked to the last key."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

DEVICES = ("cpu", "cuda", "mps", "mlx", "coreml")
Sense = Literal["speedup", "about", "range", "count", "record"]


class ClaimsError(ValueError):
    """claims.toml does not say what it must; the message names claim, figure and key."""


@dataclass(frozen=True)
class Gate:
    """What must hold on one class of device: bounds on the measured interval, and their source."""

    source: str
    at_least: float | None = None
    at_most: float | None = None

    def __str__(self) -> str:
        low = [f">= {self.at_least:g}"] if self.at_least is not None else []
        high = [f"<= {self.at_most:g}"] if self.at_most is not None else []
        return " and ".join(low + high)


@dataclass(frozen=True)
class Figure:
    """One number that a claim reports.

    Attributes
    ----------
    reported : the number; for a range, its middle
    sense : how a measurement is held against it (verdicts.py)
        "speedup": a ratio of times, baseline over candidate, over 1 is faster
        "about": a figure met within `margin`: a factor for unit "x", else a difference
        "range": between `low` and `high`
        "count": an exact number
        "record": kept, and not judged: a time on hardware that is not here
    needs : hardware without which it cannot be measured; "" where a CPU will do
    gates : device class -> Gate
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
    gates: Mapping[str, Gate] = field(default_factory=dict)

    def __str__(self) -> str:
        """The reported figure as a reader wants it: "1.84 x", "40 to 55 %"."""
        if self.sense == "range":
            return f"{self.low:g} to {self.high:g} {self.unit}"
        return f"{self.reported:g} {self.unit}"


@dataclass(frozen=True)
class Claim:
    """One claim: who says it, measured on what, and what is known about how it was obtained."""

    id: str
    title: str
    source: str
    hardware: str
    workload: str
    known: str
    figures: Mapping[str, Figure]


def load_claims(path: Path | str) -> dict[str, Claim]:
    """Every claim of a claims.toml by id, in its order.

    Raises
    ------
    ClaimsError
        An unknown or missing key, a wrong type, a claim twice, a sense without what it needs.
    """
    try:
        content = tomllib.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise ClaimsError(f"there is no {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise ClaimsError(f"{path} is not TOML: {error}") from None
    if set(content) != {"claim"}:
        raise ClaimsError(f"{path}: expected [[claim]] tables alone, found {sorted(content)}")
    claims: dict[str, Claim] = {}
    for table in content["claim"]:
        claim = _claim(table)
        if claim.id in claims:
            raise ClaimsError(f"claim {claim.id} is there twice")
        claims[claim.id] = claim
    return claims


def _claim(table: dict[str, Any]) -> Claim:
    where = f"claim {table.get('id', '(without id)')}"
    _check_keys(where, table, {f.name for f in fields(Claim)}, set())
    for key, value in table.items():
        if key != "figures" and not (isinstance(value, str) and value):
            raise ClaimsError(f"{where}: {key} must be a text, got {value!r}")
    if not table["figures"]:
        raise ClaimsError(f"{where}: it reports no figure")
    figures = {key: _figure(table["id"], key, given) for key, given in table["figures"].items()}
    return Claim(**{**table, "figures": figures})


def _figure(claim: str, key: str, table: dict[str, Any]) -> Figure:
    where = f"claim {claim}, figure {key}"
    optional = {"margin", "low", "high", "needs", "gates"}
    _check_keys(where, table, {"reported", "unit", "sense"}, optional)
    sense = table["sense"]
    if sense not in get_args(Sense):
        raise ClaimsError(f"{where}: sense {sense!r} is none of {', '.join(get_args(Sense))}")
    for name in ("reported", "margin", "low", "high"):
        value = table.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ClaimsError(f"{where}: {name} must be a number, got {value!r}")
    required = {"about": {"margin"}, "range": {"low", "high"}}.get(sense, set())
    allowed = required | ({"margin"} if sense == "speedup" else set())
    for name in ("margin", "low", "high"):
        if (name in required) != (name in table) and not (name in table and name in allowed):
            verb = "needs" if name in required else "has no use for"
            raise ClaimsError(f"{where}: sense {sense!r} {verb} {name}")
    gates = {}
    for device, gate in table.get("gates", {}).items():
        if device not in DEVICES:
            raise ClaimsError(f"{where}: {device!r} is no device; there are {', '.join(DEVICES)}")
        _check_keys(f"{where}, gate {device}", gate, {"source"}, {"at_least", "at_most"})
        if not gate.keys() & {"at_least", "at_most"}:
            raise ClaimsError(f"{where}, gate {device}: it bounds nothing")
        gates[device] = Gate(**gate)
    return Figure(claim, key, **{**table, "gates": gates})


def _check_keys(where: str, table: dict[str, Any], required: set[str], optional: set[str]) -> None:
    if not isinstance(table, dict):
        raise ClaimsError(f"{where}: expected a table, got {table!r}")
    for key in sorted(required - table.keys()):
        raise ClaimsError(f"{where}: {key} is missing")
    for key in sorted(table.keys() - required - optional):
        raise ClaimsError(f"{where}: {key} is not a key; there are {sorted(required | optional)}")
