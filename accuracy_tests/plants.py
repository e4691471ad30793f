"""Regressions to plant in a copy of the project, each at the end of a module of the engine.

Appended, not edited in: a plant wraps a function by its name, so it survives a change of the lines
that it is about.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from mpnn_core.gate.revisions import builds


@dataclass(frozen=True)
class Plant:
    """Code to append to a module of mpnn_core; `says` names the damage."""

    module: str
    code: str
    says: str


def slower(percent: int) -> Plant:
    """Every design takes so much longer than it would have."""
    code = f"""
import time as _time
_design = Model.design


def _slower(self, *args, **kwargs):
    started = _time.perf_counter()
    found = _design(self, *args, **kwargs)
    until = started + {1 + percent / 100} * (_time.perf_counter() - started)
    while _time.perf_counter() < until:
        pass
    return found


Model.design = _slower
"""
    return Plant("design/model.py", code, f"{percent} % slower designs")


# 2 ** -12 is ten times the error that there is, 2.4e-5 nats.
LOST_DIGIT = Plant(
    "design/model.py",
    """
_log_probs = Model.log_probs


def _rounded(self, *args, **kwargs):
    return np.round(_log_probs(self, *args, **kwargs) * 2**11) / 2**11


Model.log_probs = _rounded
""",
    "log-probabilities of a digit less",
)

CHANGED_WEIGHT = Plant(
    "network/checkpoints.py",
    """
_build_network = build_network


def _changed(*args, **kwargs):
    network = _build_network(*args, **kwargs)
    with torch.no_grad():
        network.encoder_layers[1].W2.weight *= 1.01
    return network


build_network = _changed
""",
    "one weight matrix larger by 1 %",
)

KNN_OFF_BY_ONE = Plant(
    "network/graph.py",
    """
_nearest_neighbours = nearest_neighbours


def nearest_neighbours(backbones, k):
    return _nearest_neighbours(backbones, k - 1)
""",
    "a graph of 47 neighbours",
)

EXTRA_COPY = Plant(
    "design/model.py",
    """
import dataclasses as _dataclasses

_initialise = Model.__init__


def _copying(self, *args, **kwargs):
    _initialise(self, *args, **kwargs)
    encode = self.backend.encode

    def copied(*given):
        encoding = encode(*given)
        return _dataclasses.replace(encoding, edges=encoding.edges.clone())

    self.backend.encode = copied


Model.__init__ = _copying
""",
    "one copy more of the tensor of edges",
)


def copy_of_project(repository: Path, target: Path) -> Path:
    """The files as they are, in a git repository of their own, committed."""
    builds.extract(repository, builds.tree_of(repository), target)
    author = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
    for command in (["init", "--quiet"], ["add", "--all"], [*author, "commit", "-qm", "copy"]):
        subprocess.run(["git", "-C", str(target), *command], check=True)
    return target


def plant(copy: Path, regression: Plant | None) -> None:
    """Put the regression into a copy, instead of any that is there."""
    subprocess.run(["git", "-C", str(copy), "checkout", "--quiet", "--", "mpnn_core"], check=True)
    if regression is not None:
        append(regression, copy / "mpnn_core")


def append(regression: Plant, package: Path) -> None:
    """Put the regression into a package that has none."""
    path = package / regression.module
    path.write_text(path.read_text("utf-8") + regression.code, "utf-8")
