"""Installing: what wheel and sdist hold, what runs without a compiler, and what a user is told.

Wheels are built and installed as a user does it, with pip and its isolated builds, which need a
package index: without one those tests are not exercised. They import the package that they
installed, in processes of their own.
"""

from __future__ import annotations

import copy
import importlib
import os
import pickle
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from email import message_from_string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from proteins import path_of

import mpnn_core as mpnn
from mpnn_core.backends.native import INSTRUCTION_SETS, instruction_sets

ROOT = Path(__file__).parents[1]
# The stable ABI of the wheel is that of 3.12.
OLDEST = (3, 12)
LICENCES = {
    "LICENSE": "MIT License",
    "THIRD_PARTY.md": "robin_map",
    "mpnn_core/weights/LICENSE-ProteinMPNN": "Copyright (c) 2022 Justas Dauparas",
    "mpnn_core/weights/LICENSE-LigandMPNN": "Copyright (c) 2024 Justas Dauparas",
    "mpnn_core/pages/LICENSE-3Dmol": "Copyright (c) 2014, University of Pittsburgh",
    "mpnn_core/backends/native/LICENSE-nanobind": "Copyright (c) 2022 Wenzel Jakob",
    "mpnn_core/backends/native/LICENSE-robin_map": "Copyright (c) 2017 Thibaut Goetghebuer",
}  # fmt: skip
# What a wheel holds besides Python and compiled modules: data, weights, and CUDA sources, which are
# compiled where they run.
DATA = re.compile(
    r"mpnn_core/(py\.typed|data/(5L33\.pdb|TS50\.npz|examples\.npz|residue_letters\.txt|constraints\.schema\.json)"
    r"|gate/report\.html\.jinja|pages/(page\.(html|css|js)|3Dmol-min\.js)|acceptance/(answers\.npz|pytest\.ini)"
    r"|weights/([\w-]+/)?[\w-]+\.(safetensors|json|training\.json)|backends/cuda/\w+\.cuh?)"
)
NATIVE = re.compile(rf"mpnn_core/backends/native/_({'|'.join(INSTRUCTION_SETS)})\.(\S+)")
# What an sdist holds besides the package.
TOP = {"CHANGELOG.md", "CMakeLists.txt", "LICENSE", "PKG-INFO", "README.md", "THIRD_PARTY.md",
       "pyproject.toml"}  # fmt: skip

proof = pytest.mark.proof


def run(command: list[object], **settings: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=900, **settings
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done


def pip(python: Path | str, *arguments: object, **settings: object) -> None:
    """Our pip, at work for any Python."""
    run([sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check",
         *arguments], **settings)  # fmt: skip


def only(folder: Path, pattern: str) -> Path:
    [path] = folder.glob(pattern)
    return path


def pythons() -> dict[tuple[int, int], str]:
    """The Pythons at hand that can share a wheel, by version: of PATH, and of pyenv."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    candidates = [
        sys.executable,
        *(shutil.which(f"python3.{minor}") for minor in range(OLDEST[1], 20)),
        *versions.glob("3.*/bin/python3"),
    ]
    found = {}
    for python in filter(None, candidates):
        code = "import sys, venv; print(*sys.version_info[:2], sys.implementation.name)"
        # A name of pyenv in PATH may stand for a version that is not switched on.
        done = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
        if done.returncode == 0:
            major, minor, kind = done.stdout.split()
            if kind == "cpython" and (int(major), int(minor)) >= OLDEST:
                found.setdefault((int(major), int(minor)), str(python))
    return found


@pytest.fixture(scope="session")
def index(tmp_path_factory) -> None:
    """A package index that pip reaches, with what builds the package."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest",
               tmp_path_factory.mktemp("index"), "scikit-build-core", "nanobind"]  # fmt: skip
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not exercised: pip reaches no package index")


@pytest.fixture(scope="session")
def dependencies(tmp_path_factory) -> Path:
    """A folder of what is installed here, without mpnn_core and without .pth files."""
    folder = tmp_path_factory.mktemp("dependencies")
    for home in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(home).iterdir():
            if not path.name.startswith(("mpnn_core", "_editable")):
                (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="session")
def sdist(index, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    run([sys.executable, "-m", "build", "--sdist", "--outdir", folder, ROOT])
    return only(folder, "*.tar.gz")


@pytest.fixture(scope="session")
def pure_wheel(index, tmp_path_factory) -> Path:
    """Built where no compiler is to be found, from a folder that holds an old module."""
    nothing, source = tmp_path_factory.mktemp("nothing"), tmp_path_factory.mktemp("source") / "tree"
    copy_package(source, "*.so", "*.pyd")
    for name in ("CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE", "THIRD_PARTY.md"):
        shutil.copy(ROOT / name, source)
    (source / "mpnn_core/backends/native/_generic.cpython-310-x86_64-linux-gnu.so").touch()
    bare = {**os.environ, "PATH": str(nothing), "CC": "/no/compiler", "CXX": "/no/compiler"}
    folder = tmp_path_factory.mktemp("pure")
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", folder, source, env=bare)
    return only(folder, "*.whl")


@pytest.fixture(scope="session")
def native_wheel(sdist, tmp_path_factory) -> Path:
    """Built from the sdist by the oldest Python that can share its wheel, else by this one."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("not exercised: no C++ compiler")
    found = pythons()
    python = found[min(found)] if found else sys.executable
    folder = tmp_path_factory.mktemp("native")
    pip(python, "wheel", "--no-deps", "--wheel-dir", folder, sdist)
    return only(folder, "*.whl")


def copy_package(target: Path, *ignored: str) -> Path:
    """The package as it is in this tree, without some files."""
    patterns = shutil.ignore_patterns("__pycache__", *ignored)
    shutil.copytree(ROOT / "mpnn_core", target / "mpnn_core", ignore=patterns)
    return target


def in_process(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """Some code in a new Python that imports from the folders of `path` alone."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONSAFEPATH": "1"}
    return run([sys.executable, "-S", "-c", code], env=env)


# ------------------------------------------------------------------------------ without a compiler

DESIGN = f"""
import mpnn_core as mpnn
model = mpnn.load_model()
print(mpnn.__file__)
print(model)
print(model.design(mpnn.read_structure({str(path_of("5L33"))!r}), 1, seed=37).sequences[0])
"""


def test_without_a_compiler_the_package_installs_designs_and_warns(
    pure_wheel, dependencies, tmp_path
) -> None:
    assert pure_wheel.name.endswith("-py3-none-any.whl")
    pip(sys.executable, "install", "--quiet", "--no-deps", "--target", tmp_path, pure_wheel)
    done = in_process(DESIGN, tmp_path, dependencies)
    file, model, sequence = done.stdout.splitlines()
    assert Path(file).is_relative_to(tmp_path)
    assert "torch" in model
    ours = mpnn.load_model(backend="torch").design(mpnn.read_structure(path_of("5L33")), 1, seed=37)
    assert sequence == ours.sequences[0]
    assert done.stderr.count("UserWarning") == 1, done.stderr
    assert "computing with plain torch, which is slower: no native code was built" in done.stderr


# ----------------------------------------------------------------------- one wheel for all Pythons


REPLAY = """
import pickle, sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

native, told, answers = sys.argv[1:]
with open(told, "rb") as file:
    names, weights, calls = pickle.load(file)
best = None
for name in names:
    # As `import` looks for a module of the package, whose own imports need torch.
    spec = PathFinder.find_spec(f"_{name}", [native])
    assert spec is not None, f"Python {sys.version} finds no _{name} in {native}"
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.supported(), name
    best = best or module
engine = best.Engine(weights)
for method, arguments in calls:
    getattr(engine, method)(**arguments)
with open(answers, "wb") as file:
    pickle.dump([arguments for _, arguments in calls], file)
"""


class Recorder:
    """Stands before the engine; keeps what its methods are called with, and what they fill in."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.filled: list[dict[str, Any]] = []

    def __getattr__(self, method: str) -> Callable[..., None]:
        def called(**arguments: Any) -> None:
            self.calls.append((method, copy.deepcopy(arguments)))
            getattr(self.engine, method)(**arguments)
            self.filled.append(arguments)

        return called


@proof
def test_the_wheel_of_the_oldest_python_computes_in_the_newest(native_wheel, tmp_path) -> None:
    found = pythons()
    if not found:
        pytest.skip("not exercised: no Python from 3.12 on")
    if not instruction_sets():
        pytest.skip("not exercised: no native code to compare with")
    python = found[max(found)]
    pip(python, "install", "--quiet", "--no-deps", "--target", tmp_path / "site", native_wheel)
    pip(python, "install", "--quiet", "--target", tmp_path / "numpy", "numpy")

    model = mpnn.load_model(backend="native")
    model.backend._engine = recorder = Recorder(model.backend._engine)
    model.design(mpnn.read_structure(path_of("5L33")), 2, seed=37)
    assert [method for method, _ in recorder.calls] == ["encode", "sample"]
    weights = {name: p.numpy() for name, p in model.network.state_dict().items()}
    told, answers = tmp_path / "told", tmp_path / "answers"
    told.write_bytes(pickle.dumps((instruction_sets(), weights, recorder.calls)))

    env = {**os.environ, "PYTHONPATH": str(tmp_path / "numpy")}
    run([python, "-c", REPLAY, native_of(tmp_path / "site"), told, answers], env=env)
    theirs = pickle.loads(answers.read_bytes())
    for (method, _), here, there in zip(recorder.calls, recorder.filled, theirs, strict=True):
        for name, ours in here.items():
            if isinstance(ours, np.ndarray):
                close = np.allclose(there[name], ours, atol=1e-4, rtol=0)
                assert close, f"{method}, {name}: {python} differs from {sys.executable}"


# --------------------------------------------------------------------- what wheel and sdist contain


def wheel_files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.fixture(params=["pure", pytest.param("native", marks=proof)])
def wheel(request) -> Path:
    return request.getfixturevalue(f"{request.param}_wheel")


def test_a_wheel_holds_what_it_needs_and_nothing_else(wheel) -> None:
    files = wheel_files(wheel)
    package = {n for n in files if not re.match(r"mpnn_core-[\d.]+\.dist-info/", n)}
    python = {f"mpnn_core/{p.relative_to(ROOT / 'mpnn_core').as_posix()}"
              for p in (ROOT / "mpnn_core").rglob("*.py")}  # fmt: skip
    assert {n for n in package if n.endswith(".py")} == python
    rest = {n for n in package - python if not NATIVE.fullmatch(n)}
    assert [n for n in sorted(rest) if not DATA.fullmatch(n)] == []
    for needed in ("py.typed", "data/5L33.pdb", "data/TS50.npz", "data/examples.npz",
                   "data/residue_letters.txt", "weights/v_48_020.safetensors",
                   "gate/report.html.jinja", "acceptance/answers.npz", "acceptance/pytest.ini",
                   "backends/cuda/decode_levels.cu",
                   "backends/cuda/ptx.cuh"):  # fmt: skip
        assert f"mpnn_core/{needed}" in package


def test_the_tag_of_a_wheel_is_that_of_the_modules_in_it(wheel) -> None:
    tag = "-".join(wheel.stem.split("-")[2:4])
    endings = {m[2] for n in wheel_files(wheel) if (m := NATIVE.fullmatch(n))}
    if tag == "py3-none":
        assert endings == set()
    elif tag == "cp312-abi3":
        assert endings in ({"abi3.so"}, {"pyd"})
    else:
        assert tag == "cp311-cp311" and len(endings) == 1
        assert endings.pop().startswith(("cpython-311-", "cp311-"))


@proof
def test_a_compiled_wheel_has_every_instruction_set_of_its_processor(native_wheel) -> None:
    sets = {m[1] for n in wheel_files(native_wheel) if (m := NATIVE.fullmatch(n))}
    x86 = re.search(r"(x86_64|amd64)\.whl$", native_wheel.name)
    assert sets == (set(INSTRUCTION_SETS) if x86 else {"generic"})


def test_a_wheel_has_the_licences_of_all_that_is_in_it(wheel) -> None:
    files = wheel_files(wheel)
    [metadata] = (n for n in files if n.endswith(".dist-info/METADATA"))
    licences = metadata.replace("METADATA", "licenses/")
    found = {n.removeprefix(licences) for n in files if n.startswith(licences)}
    assert found == set(LICENCES)
    for name, words in LICENCES.items():
        assert words in files[licences + name].decode("utf-8"), name
    header = message_from_string(files[metadata].decode("utf-8"))
    assert header["License-Expression"] == "MIT AND BSD-3-Clause"
    assert set(header.get_all("License-File")) == set(LICENCES)


def test_an_sdist_holds_what_it_is_built_from_and_nothing_else(sdist) -> None:
    with tarfile.open(sdist) as tar:
        names = {m.name.partition("/")[2] for m in tar.getmembers() if m.isfile()}
    tracked = run(["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard",
                   "mpnn_core"]).stdout.splitlines()  # fmt: skip
    here = {name for name in tracked if (ROOT / name).is_file()}
    assert names == here | TOP


@pytest.mark.parametrize("checker", ["twine", "check-wheel-contents"])
def test_a_packaging_linter_finds_nothing(checker, wheel, sdist) -> None:
    if checker == "twine":
        run([sys.executable, "-m", "twine", "check", "--strict", wheel, sdist])
    else:
        run([sys.executable, "-m", "check_wheel_contents", wheel])


# ------------------------------------------------------------- why there is no native code, and now

SOURCES, MODULES = ("*.cpp", "*.h"), ("*.so", "*.pyd")
ASK = """
import warnings
import mpnn_core as mpnn
from mpnn_core.backends import native
{before}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(type(mpnn.load_model().backend).__name__)
print(*(w.message for w in caught), sep="\\n")
"""


def said(*path: Path, before: str = "") -> str:
    """What a user is told where the first of some folders is imported."""
    backend, message = in_process(ASK.format(before=before), *path).stdout.splitlines()
    assert backend == "TorchBackend"
    assert message.startswith("computing with plain torch, which is slower: ")
    return message


def native_of(folder: Path) -> Path:
    return folder / "mpnn_core" / "backends" / "native"


def source_folder(tmp_path: Path) -> Path:
    return copy_package(tmp_path / "checkout", *MODULES)


def installation(tmp_path: Path, *ignored: str) -> Path:
    return copy_package(tmp_path / "site", *SOURCES, *ignored)


def test_a_source_folder_without_native_code_says_how_to_build_it(tmp_path, dependencies) -> None:
    source = source_folder(tmp_path)
    message = said(source, dependencies)
    assert f"no native code was built in the source folder {source}" in message
    assert f"pip install --editable {source}" in message


def test_an_installation_without_native_code_says_what_to_install(tmp_path, dependencies) -> None:
    message = said(installation(tmp_path, *MODULES), dependencies)
    assert "no native code was built when mpnn-core was installed; install a C++" in message


@pytest.mark.parametrize("stale", [False, True], ids=["bare", "with modules of another Python"])
def test_a_source_folder_before_an_installation_is_named(tmp_path, dependencies, stale) -> None:
    source, site = source_folder(tmp_path), installation(tmp_path, *MODULES)
    (native_of(site) / "_generic.abi3.so").touch()
    if stale:
        (native_of(source) / "_generic.cpython-310-x86_64-linux-gnu.so").touch()
    message = said(source, site, dependencies)
    assert f"Python imports {source / 'mpnn_core'}, which has no native code" in message
    assert f"not the installed {site / 'mpnn_core'}, which has" in message
    assert f"pip install --editable {source}" in message
    assert "compiler" not in message


def test_an_installation_before_another_is_named(tmp_path, dependencies) -> None:
    first, second = (installation(tmp_path / name, *MODULES) for name in ("first", "second"))
    (native_of(second) / "_generic.abi3.so").touch()
    message = said(first, second, dependencies)
    assert f"Python imports {first / 'mpnn_core'}, which has no native code" in message
    assert "remove one of the two" in message


def test_what_is_left_of_an_editable_installation_is_no_other_copy(tmp_path, dependencies) -> None:
    """It holds compiled modules and no Python: nothing can be imported from there."""
    source, site = source_folder(tmp_path), tmp_path / "site"
    native_of(site).mkdir(parents=True)
    (native_of(site) / "_generic.abi3.so").touch()
    assert "no native code was built in the source folder" in said(source, site, dependencies)


@pytest.mark.parametrize(
    "ending",
    ["cpython-310-x86_64-linux-gnu.so", "cpython-399-darwin.so", "cp310-win_amd64.pyd"],
)
def test_modules_of_another_python_are_named(tmp_path, dependencies, ending) -> None:
    site = installation(tmp_path, *MODULES)
    (native_of(site) / f"_generic.{ending}").touch()
    message = said(site, dependencies)
    assert f"for another Python or another machine: _generic.{ending}" in message
    assert f"wants _generic{sysconfig.get_config_var('EXT_SUFFIX')}" in message


def test_a_module_that_does_not_load_is_named_with_the_loaders_words(
    tmp_path, dependencies
) -> None:
    site = installation(tmp_path, *MODULES)
    (native_of(site) / "_generic.abi3.so").write_bytes(b"a broken download")
    message = said(site, dependencies)
    assert f"the native code in {native_of(site)} does not load: " in message
    assert "_generic.abi3.so" in message


@pytest.mark.skipif(not instruction_sets(), reason="not exercised: no native code was built here")
def test_a_processor_that_the_modules_are_not_for_is_named(tmp_path, dependencies) -> None:
    site = installation(tmp_path)
    for name in instruction_sets():  # in an editable installation they are not in the source
        module = importlib.import_module(f"mpnn_core.backends.native._{name}")
        shutil.copy(module.__file__, site / "mpnn_core" / "backends" / "native")
    before = "".join(
        f"from mpnn_core.backends.native import _{name}; _{name}.supported = lambda: False\n"
        for name in instruction_sets()
    )
    message = said(site, dependencies, before=before)
    assert "this processor has none of the instruction sets" in message
    assert all(name in message for name in instruction_sets())
