"""The walls between the rooms, and the direction of data: `[tool.importlinter]` in pyproject.toml.

Each contract holds for the package as it is; and each is broken by an import that it forbids.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
DIRECTION, GATE, ENGINE, PEERS, ACCEPTANCE, CIRCLE = (
    contract["name"] for contract in SETTINGS["contracts"]
)
ROOMS = {path.parent.name for path in (ROOT / "mpnn_core").glob("*/__init__.py")}

# One forbidden import: the module that gets it, the statement, and the contract that it breaks.
FORBIDDEN = [
    ("structures/structure.py", "import mpnn_core.network.graph", DIRECTION),
    ("network/graph.py", "import mpnn_core.sampling.orders", DIRECTION),
    ("sampling/sampler.py", "import mpnn_core.backends.contract", DIRECTION),
    ("backends/plain.py", "import mpnn_core.design.results", DIRECTION),
    ("design/model.py", "import mpnn_core.training.corpus", DIRECTION),
    ("training/corpus.py", "import mpnn_core.commands.main", DIRECTION),
    ("constants.py", "import mpnn_core.structures.structure", DIRECTION),
    ("gate/verdicts.py", "def late():\n    import torch", GATE),
    ("gate/ledger.py", "from mpnn_core.design.model import Model", GATE),
    ("gate/pairing.py", "import mpnn_core.peers.original", GATE),
    ("gate/claims.py", "import protein_mpnn_utils", GATE),
    ("design/model.py", "from mpnn_core.gate import GateError", ENGINE),
    ("training/metrics.py", "import mpnn_core.gate.verdicts", ENGINE),
    ("commands/main.py", "import mpnn_core.gate.ledger", ENGINE),
    ("network/checkpoints.py", "def late():\n    import mpnn_core.peers.original", PEERS),
    ("commands/main.py", "import protein_mpnn_utils", PEERS),
    ("design/results.py", "import mpnn_core.acceptance.candidate", PEERS),
    ("gate/plugin.py", "import mpnn_core.acceptance.plugin", GATE),
    ("acceptance/cases.py", "import mpnn_core.network.graph", ACCEPTANCE),
    ("acceptance/test_edges.py", "def late():\n    import mpnn_core.gate.intervals", ACCEPTANCE),
    ("sampling/noise.py", "import mpnn_core.sampling.orders", CIRCLE),
    ("gate/intervals.py", "import mpnn_core.gate.verdicts", CIRCLE),
]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts on the package in a folder, whatever package is installed."""
    code = (
        "import sys; from importlib.machinery import PathFinder\n"
        f"sys.path.insert(0, {str(folder)!r})\n"
        "sys.meta_path.insert(0, PathFinder)\n"  # before the finder of an editable installation
        "from importlinter.cli import lint_imports_command\n"
        "lint_imports_command(['--no-cache'])"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120
    )


def broken(done: subprocess.CompletedProcess[str]) -> set[str]:
    """The names of the contracts that are broken."""
    names = {contract["name"] for contract in SETTINGS["contracts"]}
    lines = [line.partition(" BROKEN")[0] for line in done.stdout.splitlines() if "BROKEN" in line]
    assert set(lines) <= names, done.stdout
    return set(lines)


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The package's Python files, and the contracts."""
    folder = tmp_path_factory.mktemp("walls")
    for path in (ROOT / "mpnn_core").rglob("*.py"):
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_every_contract_holds() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout[done.stdout.find("Broken contracts") :] + done.stderr


def test_every_room_is_within_the_walls() -> None:
    """A new room must say where it stands."""
    (layers,) = (c["layers"] for c in SETTINGS["contracts"] if c["name"] == DIRECTION)
    inside = {module.partition(".")[2] for module in layers} - {"constants"}
    assert inside | {"gate", "peers", "acceptance"} == ROOMS
    for name, free in ((GATE, set()), (PEERS, set()), (ACCEPTANCE, {"mpnn_core.peers"})):
        (contract,) = (c for c in SETTINGS["contracts"] if c["name"] == name)
        walled = {*contract["source_modules"], *contract["forbidden_modules"]} | free
        assert {f"mpnn_core.{room}" for room in ROOMS} <= walled, name


@pytest.mark.parametrize(("module", "statement", "contract"), FORBIDDEN)
def test_a_forbidden_import_breaks_its_contract(copy, module, statement, contract) -> None:
    path = copy / "mpnn_core" / module
    text = path.read_text("utf-8")
    path.write_text(f"{text}\n{statement}\n", "utf-8")
    try:
        done = lint(copy)
    finally:
        path.write_text(text, "utf-8")
    assert done.returncode == 1, done.stdout + done.stderr
    assert contract in broken(done), done.stdout


def test_every_contract_is_broken_by_some_import() -> None:
    assert {contract for _, _, contract in FORBIDDEN} == {c["name"] for c in SETTINGS["contracts"]}


def test_the_plugin_loads_nothing_of_the_engine() -> None:
    code = "import sys, mpnn_core.gate.plugin; print(*sorted(sys.modules))"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout.split()  # fmt: skip
    ours = {m.split(".")[1] for m in modules if m.startswith("mpnn_core.")}
    assert ours == {"gate"}, f"import mpnn_core.gate.plugin loads {sorted(ours)}"
    assert "torch" not in modules
