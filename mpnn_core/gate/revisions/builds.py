"""A revision, built by itself: its files, its native code and an environment of its own.

Both sides of a comparison are built in the same way, from a git tree, so that neither has an
advantage of layout. What a tree gives never changes, so a build is kept under the tree's name.
Dependencies are those of the running environment; only mpnn_core itself is the revision's.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path

from mpnn_core.gate import GateError

WORKING_TREE = ""
NATIVE_SUFFIXES = (".cpp", ".cc", ".c", ".h", ".hpp", ".mm", ".cmake", "CMakeLists.txt")
MODULE_SUFFIXES = (".so", ".pyd", ".dylib")
# Asked for its version, so that another one compiles anew.
COMPILER = os.environ.get("CXX", "c++")
# A build is some tens of megabytes; those used longest ago go first.
BUILDS_KEPT = 12


class BuildError(GateError):
    """A revision that does not exist, or does not build; the message says which, and why."""


@dataclass(frozen=True)
class Build:
    """What was built of a tree, and how long that took (0 if it was there already)."""

    tree: str
    source: Path
    python: Path
    seconds: float


def repository_root(start: Path) -> Path:
    """The root of the git repository that holds `start`."""
    return Path(_git(start, "rev-parse", "--show-toplevel"))


def tree_of(repository: Path, revision: str = WORKING_TREE) -> str:
    """The git tree of a revision; of the files as they are, committed or not, for WORKING_TREE."""
    if revision != WORKING_TREE:
        return _git(repository, "rev-parse", "--verify", "--quiet", f"{revision}^{{tree}}")
    with tempfile.TemporaryDirectory() as folder:
        # An index beside git's own: what the user has staged stays as it is.
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        _git(repository, "add", "--all", environment=index)
        return _git(repository, "write-tree", environment=index)


def extract(repository: Path, tree: str, target: Path) -> None:
    """The files of a tree, into a new folder."""
    target.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "-C", str(repository), "archive", "--format=tar", tree],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(target, filter="data")


def is_built(tree: str, cache: Path) -> bool:
    """Whether `build` would return at once."""
    return (_home(tree, cache) / "built.json").is_file()


def needs_compiling(repository: Path, tree: str, cache: Path) -> bool:
    """Whether `build` would run the C++ compiler: neither tree nor native code was built before."""
    return not is_built(tree, cache) and not native_home(repository, tree, cache).is_dir()


def build(repository: Path, tree: str, cache: Path) -> Build:
    """Files, native code and environment of a tree, under `cache`.

    Native code is compiled once for all trees that agree on it, on the way it is built and on the
    compiler; a revision that changes Python alone costs seconds.

    Raises
    ------
    BuildError
        It does not install; the message ends with the installer's own.
    """
    home = _home(tree, cache)
    source, site = home / "source", _site_packages(home / "environment")
    found = Build(tree, source, _python(home / "environment"), 0.0)
    if is_built(tree, cache):
        (home / "built.json").touch()
        return found
    started = time.perf_counter()
    shutil.rmtree(home, ignore_errors=True)
    extract(repository, tree, source)
    venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt").create(home / "environment")
    native = native_home(repository, tree, cache)
    compiled = native.is_dir() and any(native.iterdir())
    _install(source, site, compile_native=not compiled)
    package = site / "mpnn_core"
    if compiled:
        for module in native.iterdir():
            shutil.copy2(module, package / "backends" / "native" / module.name)
    else:
        part = native.with_name(f"{native.name}.{os.getpid()}")
        part.mkdir(parents=True)
        for module in package.rglob("*"):
            if module.suffix in MODULE_SUFFIXES:
                shutil.copy2(module, part / module.name)
        shutil.rmtree(native, ignore_errors=True)
        part.replace(native)
    # Last in the search, and without their own .pth files: an editable mpnn_core stays unseen.
    (site / "dependencies.pth").write_text("\n".join(_dependencies()) + "\n", "utf-8")
    seconds = time.perf_counter() - started
    (home / "built.json").write_text(json.dumps({"tree": tree, "seconds": seconds}), "utf-8")
    kept = sorted(cache.glob("*/built.json"), key=lambda path: path.stat().st_mtime)
    for path in kept[:-BUILDS_KEPT]:
        shutil.rmtree(path.parent, ignore_errors=True)
    return Build(tree, source, found.python, seconds)


def _install(source: Path, site: Path, compile_native: bool) -> None:
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site),
        "--disable-pip-version-check", "--no-warn-script-location",
    ]  # fmt: skip
    if all(importlib.util.find_spec(name) for name in ("scikit_build_core", "nanobind")):
        command.append("--no-build-isolation")
    if not compile_native:
        # Without native code it is no longer for one Python alone, and must not say so.
        command += ["--config-settings=wheel.cmake=false", "--config-settings=wheel.py-api=py3"]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{source} does not install:\n{done.stderr.strip()[-2000:]}")


def native_home(repository: Path, tree: str, cache: Path) -> Path:
    """Where the compiled modules are kept, under the name of all that they depend on."""
    digest = hashlib.sha256()
    listing = _git(repository, "ls-tree", "-r", tree).splitlines()
    digest.update("\n".join(x for x in listing if x.endswith(NATIVE_SUFFIXES)).encode())
    project = tomllib.loads(_git(repository, "show", f"{tree}:pyproject.toml"))
    how = [project.get("build-system"), project.get("tool", {}).get("scikit-build")]
    digest.update(json.dumps(how, sort_keys=True).encode())
    compiler = shutil.which(COMPILER)
    if compiler:
        digest.update(subprocess.run([compiler, "--version"], capture_output=True).stdout)
    digest.update(f"{sys.implementation.cache_tag} {platform.platform()}".encode())
    return cache / f"native-{digest.hexdigest()[:16]}"


def _home(tree: str, cache: Path) -> Path:
    # The Python and the environment that a build is for are part of what it is.
    environment = hashlib.sha256("\n".join(_dependencies()).encode()).hexdigest()[:8]
    return cache / f"{tree[:16]}-{sys.implementation.cache_tag}-{environment}"


def _dependencies() -> list[str]:
    """Folders of the packages of the running environment."""
    return [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]


def _site_packages(environment: Path) -> Path:
    base = {"base": str(environment), "platbase": str(environment)}
    return Path(sysconfig.get_path("purelib", "venv", base))


def _python(environment: Path) -> Path:
    folder = "Scripts" if os.name == "nt" else "bin"
    return environment / folder / ("python.exe" if os.name == "nt" else "python")


def _git(repository: Path, *arguments: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        ["git", "-C", str(repository), *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})},
    )  # fmt: skip
    if done.returncode:
        said = done.stderr.strip() or "no such revision"
        raise BuildError(f"git {' '.join(arguments)} in {repository}: {said}")
    return done.stdout.strip()
