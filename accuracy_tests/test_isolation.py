"""The engine alone: no original, no readers, no test tools."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
        "mpnn_core.load_model('soluble/v_48_020')\n"
        "print('protein_mpnn_utils' in sys.modules)"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"
