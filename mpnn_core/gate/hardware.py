"""What a project's own module knows of its hardware, and what serves a project without one.

The gate imports no framework. A project that measures on more than a CPU names a module with the
functions of `Hardware` in its pyproject.toml: `hardware = "module"`.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
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

    def machine_class(self, device: str) -> str:
        """The class of machine that a class of device is here, such as "cpu-avx512" or "h100"."""

    def processor(self, device: str) -> str:
        """What computes on that device: the processor with its cores, or the accelerator."""


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

    def machine_class(self, device: str) -> str:
        return f"{device}-{platform.machine().lower() or 'unknown'}"

    def processor(self, device: str) -> str:
        return cpu_in_words()


def hardware_of(project: Project) -> Hardware:
    """The project's own module of hardware, or a plain CPU.

    Raises
    ------
    ProjectError
        The module cannot be imported, or lacks a function of `Hardware`. `machine_class` and
        `processor` it may lack: a plain CPU's stand for them.
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
    plain = PlainCPU()
    names = ("find", "synchroniser", "machine", "set_threads", "machine_class", "processor")
    own = {name: getattr(module, name, getattr(plain, name)) for name in names}
    return cast("Hardware", SimpleNamespace(**own))


def cpu_name() -> str:
    """The processor as the system calls it."""
    return _cpuinfo("model name") or platform.processor() or "unknown"


def cpu_in_words() -> str:
    """The processor, its model's number where the system has one, and the cores.

    Virtual machines give processors of different generations one name, and not one number.
    """
    model = _cpuinfo("model")
    number = f" (model {model})" if model else ""
    return f"{cpu_name()}{number}, {os.cpu_count()} cores"


def _cpuinfo(key: str) -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text("utf-8", "replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


def device_class(device: Any) -> str:
    """The class of a device: itself, or what a framework's own object calls its type."""
    return str(getattr(device, "type", device))
