"""What is loaded, and when: the engine alone, the public names, the command line, the gates."""

from __future__ import annotations

import subprocess
import sys

import pytest
from proteins import path_of

import mpnn_core

ABSENT = ("protein_mpnn_utils", "Bio", "scipy", "sklearn", "rich", "pytest", "hypothesis")
REFUSE = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ImportError(f"{{name}} is absent")

sys.meta_path.insert(0, Absent())
"""
DESIGN = """
import numpy as np
import mpnn_core as mpnn

rng = np.random.default_rng(0)
ca = np.cumsum(rng.normal(0, 2.2, (30, 1, 3)), 0)
coords = ca + rng.normal(0, 1, (30, 4, 3))
structure = mpnn.Structure.from_backbone(coords, "ACDEFGHIKL" * 3, "A" * 20 + "B" * 10)
model = mpnn.load_model()
designs = model.design(structure, 2, seed=1, constraints=mpnn.Constraints("B"))
assert len(designs.sequences) == 2
assert model.log_probs(structure).shape == (1, 30, 21)
assert model.unconditional_log_probs(structure).shape == (30, 21)
print("designed", designs.sequences[0])
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_the_engine_designs_where_nothing_else_can_be_imported():
    done = run(REFUSE + DESIGN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("designed ")


@pytest.mark.parametrize("module", ABSENT)
def test_the_blockade_holds(module):
    done = run(REFUSE + f"import {module}")
    assert done.returncode == 1
    assert f"ImportError: {module} is absent" in done.stderr


def test_importing_and_designing_loads_neither_the_original_nor_the_extras():
    loaded = f"print(sorted(set(sys.modules) & set({ABSENT!r})))"
    done = run("import sys\n" + DESIGN + loaded)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_published_checkpoints_load_without_running_the_original():
    code = (
        "import sys, mpnn_core\n"
        "mpnn_core.load_model('soluble/v_48_010')\n"
        "print('protein_mpnn_utils' in sys.modules)"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"


# ------------------------------------------------------------------------ what is loaded, and when

HEAVY = ("torch", "numpy", "safetensors", *ABSENT)
LISTED = f"""
print("heavy", *sorted({{m.partition(".")[0] for m in sys.modules}} & set({HEAVY!r})))
print("ours", *sorted(m for m in sys.modules if m.partition(".")[0] == "mpnn_core"))
"""


def loaded(code: str) -> tuple[list[str], list[str]]:
    """The libraries of `HEAVY`, and the modules of mpnn_core, that are loaded after some code."""
    done = run(f"import sys\n{code}\n{LISTED}")
    assert done.returncode == 0, done.stderr
    heavy, ours = done.stdout.splitlines()[-2:]
    return heavy.split()[1:], ours.split()[1:]


def test_importing_the_package_loads_itself_alone():
    assert loaded("import mpnn_core") == ([], ["mpnn_core"])


@pytest.mark.parametrize(
    "name", ["ALPHABET", "VARIANTS", "Variant", "CheckpointError", "StructureError"]
)
def test_data_is_there_without_any_library(name):
    heavy, _ = loaded(f"import mpnn_core; mpnn_core.{name}")
    assert heavy == [], f"mpnn_core.{name} loads {heavy}"


@pytest.mark.parametrize("name", ["Structure", "Constraints", "PSSM"])
def test_structures_and_constraints_need_numpy_alone(name):
    heavy, _ = loaded(f"import mpnn_core; mpnn_core.{name}")
    assert heavy == ["numpy"], f"mpnn_core.{name} loads {heavy}"


@pytest.mark.parametrize("protein", ["5L33", "2OFG"])
def test_a_structure_is_read_and_constrained_without_torch(protein):
    heavy, _ = loaded(
        f"import mpnn_core as mpnn\nstructure = mpnn.read_structure({str(path_of(protein))!r})\n"
        "mpnn.Constraints(fixed=[0]).check(structure)"
    )
    assert heavy == ["numpy"]


def test_every_public_name_is_what_its_module_calls_so():
    assert sorted(mpnn_core.__all__) == sorted(mpnn_core._MODULES)
    assert set(mpnn_core.__all__) <= set(dir(mpnn_core))
    for name, module in mpnn_core._MODULES.items():
        value = getattr(mpnn_core, name)
        home = getattr(value, "__module__", f"mpnn_core.{module}")
        assert home == f"mpnn_core.{module}", f"mpnn_core.{name} is of {home}"
    with pytest.raises(AttributeError, match="'mpnn_core' has no attribute 'desing'"):
        _ = mpnn_core.desing


@pytest.mark.parametrize(
    "arguments",
    ["--help", "--version", "design --help", "score --help", "eval --help", "distill --help",
     "export --help", "example"],
)  # fmt: skip
def test_help_loads_no_library(arguments):
    heavy, _ = loaded(
        "from mpnn_core.commands.main import main\n"
        f"try: main({arguments.split()!r})\nexcept SystemExit as end: assert end.code == 0"
    )
    assert heavy == [], f"mpnn-core {arguments} loads {heavy}"


def test_the_gates_load_nothing_of_the_engine():
    heavy, ours = loaded("import mpnn_core.gate, mpnn_core.gate.claims, mpnn_core.gate.verdicts")
    assert "torch" not in heavy
    engine = [m for m in ours if not f"{m}.".startswith("mpnn_core.gate.") and m != "mpnn_core"]
    assert engine == []
