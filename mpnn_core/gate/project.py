"""What the gate knows of the project that it judges: `[tool.mpnn_core.gate]` in pyproject.toml.

A project without that table is a Python package of the project's name, measured on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mpnn_core.gate import GateError
from mpnn_core.gate.stored import read_toml

CPU = "cpu"


class ProjectError(GateError):
    """The project's table has a wrong key or value; the message names file and key."""


@dataclass(frozen=True)
class Exact:
    """What makes an answer exact: the largest error that it may have against a truth.

    Attributes
    ----------
    within : the largest error of an exact answer, in `unit`; infinite where nothing bounds it
    lost_digits : a revision may not have an error larger by so many decimal digits than its base
    rounding : errors below this are the last bits of the numbers, and all count as this one
    unit : of the answers
    """

    within: float = math.inf
    lost_digits: float = 0.5
    rounding: float = 0.0
    unit: str = ""

    def largest(self, base: float | None) -> float:
        """The largest error that passes, beside the base revision's; None if that has no answer."""
        if base is None:
            return self.within
        return min(self.within, 10**self.lost_digits * max(base, self.rounding))


@dataclass(frozen=True)
class Native:
    """Code that is compiled once for all revisions that share it.

    Attributes
    ----------
    suffixes : how the names of its files end; none, and every revision is installed by itself
    tables : tables of [tool] in pyproject.toml that say how it is compiled
    python_only : pip's config settings that install the project without compiling
    """

    suffixes: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    python_only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Project:
    """A project whose claims are judged. Paths and folders are relative to `root`.

    Attributes
    ----------
    root : the folder of pyproject.toml
    package : the Python package that revisions are compared of
    distributions : installed packages whose versions the ledger names
    devices : class of device -> hardware that it needs, in words; "" for the CPU, always there.
        A test with the fixture `device` runs on each
    frameworks : the same for libraries that bring their own devices; a test asks for one by name
    machines : class of machine -> what it means, in words. Timed figures are gated by these
        classes (records.py), and claims name them; none, and a claim may name any
    hardware : module that knows these devices (hardware.py); "" for a CPU alone
    folders : searched for modules that benchmarks import, and for `hardware`
    claims, benchmarks : the claims; the file that two revisions are timed on
    ledger, comparison : where a run of the gates and a comparison leave their results
    ledgers : folder of ledgers from other machines; its folders hold the recorded runs of a class
    storage : where pytest-benchmark stores runs
    builds : where built revisions are kept
    exact, native : see these classes
    """

    root: Path
    package: str = ""
    distributions: tuple[str, ...] = ()
    devices: Mapping[str, str] = field(default_factory=lambda: {CPU: ""})
    frameworks: Mapping[str, str] = field(default_factory=dict)
    machines: Mapping[str, str] = field(default_factory=dict)
    hardware: str = ""
    folders: tuple[str, ...] = ()
    claims: str = "claims.toml"
    benchmarks: str = "perf_tests/benchmarks.py"
    ledger: str = ".mpnn_core/ledger.json"
    comparison: str = ".mpnn_core/comparison.json"
    ledgers: str = "fixtures/ledgers"
    storage: str = ".benchmarks"
    builds: str = ".mpnn_core/builds"
    exact: Exact = field(default_factory=Exact)
    native: Native = field(default_factory=Native)

    @property
    def classes(self) -> Mapping[str, str]:
        """Every class of device that a gate may bound, with the hardware that it needs."""
        return {**self.devices, **self.frameworks}


def load_project(root: Path) -> Project:
    """The project whose pyproject.toml is in `root`.

    Raises
    ------
    ProjectError
        A key that does not exist, or a value of another type than its key takes.
    """
    path = root / "pyproject.toml"
    try:
        content = read_toml(path)
    except FileNotFoundError:
        return Project(root)
    except ValueError as error:
        raise ProjectError(f"{path} is not TOML: {error}") from None
    table: Any = content
    for key in ("tool", "mpnn_core", "gate"):
        table = table.get(key, {})
        if not isinstance(table, Mapping):
            raise ProjectError(f"{path}: {key} is {table!r}; expected a table")
    where = f"{path}, [tool.mpnn_core.gate]"
    values = _values(where, table, Project)
    for name, kind in (("exact", Exact), ("native", Native)):
        if name in values:
            values[name] = kind(**_values(f"{where}, {name}", values[name], kind))
    if "devices" in values and values["devices"].get(CPU) != "":
        raise ProjectError(
            f'{where}, devices: expected {CPU} = "", the device that is always there'
        )
    project = content.get("project", {})
    name = str(project.get("name", "")) if isinstance(project, Mapping) else ""
    named = {"package": name.replace("-", "_"), "distributions": (name,)} if name else {}
    return Project(root, **{**named, **values})


def find_project(start: Path) -> Project:
    """The project that a folder is in: the nearest one, upwards, with a file of its own.

    The file is pyproject.toml or, in a project without one, claims.toml. Where there is neither,
    `start` is the root. Raises as `load_project`.
    """
    for folder in (start, *start.parents):
        if any((folder / name).is_file() for name in ("pyproject.toml", Project.claims)):
            return load_project(folder)
    return load_project(start)


def _values(where: str, table: object, kind: type) -> dict[str, Any]:
    """The values of a table, each checked to be of the type that the class has for it."""
    if not isinstance(table, Mapping):
        raise ProjectError(f"{where}: expected a table, got {table!r}")
    types = {f.name: str(f.type) for f in fields(kind) if f.name != "root"}
    for key in table:
        if key not in types:
            raise ProjectError(f"{where}: {key} is not a key; there are {', '.join(sorted(types))}")
    return {key: _value(f"{where}, {key}", value, types[key]) for key, value in table.items()}


def _value(where: str, value: object, kind: str) -> Any:
    if kind == "str":
        expected, right = "a text", isinstance(value, str)
    elif kind == "float":
        number = isinstance(value, int | float) and not isinstance(value, bool)
        right = number and value >= 0  # type: ignore[operator]  # and no NaN
        expected = "a number, 0 or more" if number else "a number"
    elif kind.startswith("tuple"):
        expected = "a list of texts"
        right = isinstance(value, list) and all(isinstance(x, str) for x in value)
        value = tuple(value) if isinstance(value, list) else value
    elif kind.startswith("Mapping"):
        expected = "a table of texts"
        right = isinstance(value, Mapping) and all(isinstance(x, str) for x in value.values())
    else:  # a table of its own, checked key by key
        return value
    if not right:
        raise ProjectError(f"{where}: expected {expected}, got {value!r}")
    return value
