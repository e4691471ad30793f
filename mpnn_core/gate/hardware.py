"""What a project's own module knows of its hardware, and what serves a project without one.

The gate imports no framework. A project that measures on more than a CPU names a module with the
functions of `Hardware` in its pyproject.toml: `hardware = "module"`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from mpnn_core.gate.project import CPU, Project, ProjectError


class Hardware(Protocol):
    """The functions of a module of hardware."""

    def find(self, device: str) -> Any | None:
        """What a test needs to run on a class of device; None where the hardware is missing."""

    def synchroniser(self, device: str) -> Callable[[], None]:
        """A function that returns when the device has finished all work that it was given."""

    def machine(self) -> Mapping[str, str]:
        """Versions and settings without which a measurement cannot be read, by name."""

    def set_threads(self, count: int) -> None:
        """Let this process compute on so many threads."""


class PlainCPU:
    """The hardware of a project that names no module: a CPU is done when a call returns."""

    def find(self, device: str) -> str | None:
        return device if device == CPU else None

    def synchroniser(self, device: str) -> Callable[[], None]:
        return lambda: None

    def machine(self) -> Mapping[str, str]:
        return {}

    def set_threads(self, count: int) -> None:
        pass  # the environment of the process says it: OMP_NUM_THREADS


def hardware_of(project: Project) -> Hardware:
    """The project's own module of hardware, or a plain CPU.

    Raises
    ------
    ProjectError
        The module cannot be imported, or lacks a function of `Hardware`.
    """
    if not project.hardware:
        return PlainCPU()
    for folder in project.folders:
        path = str(project.root / folder)
        if path not in sys.path:
            sys.path.append(path)
    where = f"{project.root / 'pyproject.toml'}, [tool.mpnn_core.gate]: hardware"
    try:
        module = importlib.import_module(project.hardware)
    except Exception as error:  # whatever the project's own module raises
        raise ProjectError(
            f"{where} {project.hardware!r} cannot be imported: {error!r}; expected a module that "
            f"is installed, or in one of the folders {list(project.folders)}"
        ) from None
    for name in ("find", "synchroniser", "machine", "set_threads"):
        if not callable(getattr(module, name, None)):
            raise ProjectError(f"{where} {project.hardware!r} has no function {name}")
    return cast("Hardware", module)


def device_class(device: Any) -> str:
    """The class of a device: itself, or what a framework's own object calls its type."""
    return str(getattr(device, "type", device))
