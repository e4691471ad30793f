"""Counts instead of times: the same on every machine, and so gated exactly.

The counters of a project are compared with a baseline that is kept in a file and
changes by a reviewed diff alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpnn_core.gate import GateError
from mpnn_core.gate.stored import read_json


@dataclass(frozen=True)
class Counter:
    """A counted number, or a list of names.

    With `versioned`, it holds for one version of the environment: another may count otherwise.
    """

    name: str
    value: int | str
    unit: str
    versioned: bool = False


class BaselineError(GateError):
    """The file of a baseline is missing or damaged; the message says what to do."""


@dataclass(frozen=True)
class Baseline:
    """What the counters must be: values by name, the reason for each, and the environment.

    The environment is the name and version of the library that is counted in: "torch 2.13.0".
    """

    values: Mapping[str, int | str]
    reasons: Mapping[str, str]
    environment: str

    @classmethod
    def load(cls, path: Path) -> Baseline:
        try:
            content = read_json(path)
            rows = content["counters"]
            return cls(
                {name: row["value"] for name, row in rows.items()},
                {name: row["because"] for name, row in rows.items()},
                content["environment"],
            )
        except FileNotFoundError:
            raise BaselineError(
                f"there is no {path}; it holds what every counter must be"
            ) from None
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BaselineError(f"{path} is not a baseline: {error!r}") from None

    def differences(self, counters: list[Counter], environment: str) -> list[str]:
        """A line for every counter that is not what it must be, is new, or is gone.

        A versioned counter is compared in the baseline's own environment alone.
        """
        lines = []
        for c in counters:
            expected = self.values.get(c.name)
            if expected is None:
                lines.append(f"{c.name}: {c.value} {c.unit}, new")
            elif expected != c.value and not (c.versioned and environment != self.environment):
                lines.append(f"{c.name}: {c.value} {c.unit}, was {expected}{_change(expected, c)}")
        gone = self.values.keys() - {c.name for c in counters}
        return lines + [f"{name}: gone, was {self.values[name]}" for name in sorted(gone)]

    def updated(self, counters: list[Counter], environment: str, because: str) -> dict[str, Any]:
        """The new content of the file: `because` is the reason of every counter that changed."""
        rows = {}
        for c in counters:
            unchanged = self.values.get(c.name) == c.value
            reason = self.reasons[c.name] if unchanged else because
            rows[c.name] = {"value": c.value, "unit": c.unit, "because": reason}
        return {"environment": environment, "counters": rows}


def _change(expected: int | str, counter: Counter) -> str:
    if isinstance(expected, str) or isinstance(counter.value, str) or not expected:
        return ""
    return f" ({100 * (counter.value / expected - 1):+.2f} %)"
