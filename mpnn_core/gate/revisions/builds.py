"""A revision, built by itself: its files, its native code and an environment of its own.

Both sides of a comparison are built in the same way, from a git tree, so that neither has an
advantage of layout. The build of a tree never changes, so it is kept under the tree's name.
Dependencies are those of the running environment; only the project's package is the revision's.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mpnn_core.gate import GateError
from mpnn_core.gate.project import Project

# Of compiled modules of Python.
MODULE_SUFFIXES = (".so", ".pyd", ".dylib")
# Its version is part of the name of compiled code: another compiler compiles anew.
COMPILER = os.environ.get("CXX", "c++")
# A build is some tens of megabytes; those used longest ago go first.
BUILDS_KEPT = 12
# Compiled modules are kept under their paths in the package; in version 1, under their names.
NATIVE_VERSION = 2


class BuildError(GateError):
    """A revision does not exist, or does not build; the message says which, and why."""


@dataclass(frozen=True)
class Build:
    """The build of a tree, and the seconds that it took: 0 if it was there already."""

    tree: str
    source: Path
    python: Path
    seconds: float


def repository_root(start: Path) -> Path:
    """The root of the git repository that holds `start`."""
    return Path(_git(start, "rev-parse", "--show-toplevel"))


def tree_of(repository: Path, revision: str | None = None) -> str:
    """The git tree of a revision; of the files as they are, committed or not, for None."""
    if revision is not None:
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


def is_built(tree: str, project: Project) -> bool:
    """Whether `build` would return at once."""
    return (_home(tree, project) / "built.json").is_file()


def needs_compiling(repository: Path, tree: str, project: Project) -> bool:
    """Whether `build` would compile: neither the tree nor its native code was built before."""
    return not is_built(tree, project) and not native_home(repository, tree, project).is_dir()


def build(repository: Path, tree: str, project: Project) -> Build:
    """Files, native code and environment of a tree of `repository`, in the project's cache.

    Native code is compiled once for all trees that agree on it, on the way it is built and on the
    compiler; a revision that changes Python alone costs seconds.

    Raises
    ------
    BuildError
        The tree does not install; the message ends with the installer's own.
    """
    home = _home(tree, project)
    source, site = home / "source", site_packages(home / "environment")
    python = _python(home / "environment")
    if is_built(tree, project):
        (home / "built.json").touch()
        return Build(tree, source, python, 0.0)
    started = time.perf_counter()
    shutil.rmtree(home, ignore_errors=True)
    extract(repository, tree, source)
    venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt").create(home / "environment")
    native = native_home(repository, tree, project)
    compiled = _modules(native) if project.native.python_only else []
    _install(source, site, project.native.python_only if compiled else ())
    package = site / project.package
    if not package.is_dir():
        raise BuildError(f"tree {tree[:12]} installs no package {project.package!r}")
    if compiled:
        _copy(compiled, native, package)
    else:
        part = native.with_name(f"{native.name}.{os.getpid()}")
        part.mkdir(parents=True)
        _copy(_modules(package), package, part)
        shutil.rmtree(native, ignore_errors=True)
        part.replace(native)
    _link_dependencies(site)
    seconds = time.perf_counter() - started
    (home / "built.json").write_text(json.dumps({"tree": tree, "seconds": seconds}), "utf-8")
    builds = (project.root / project.builds).glob("*/built.json")
    for path in sorted(builds, key=lambda path: path.stat().st_mtime)[:-BUILDS_KEPT]:
        shutil.rmtree(path.parent, ignore_errors=True)
    return Build(tree, source, python, seconds)


def assemble(folder: Path, home: Path, source: Path, tree: str) -> Build:
    """An environment in `home` around packages that were built before: no installer is needed.

    Parameters
    ----------
    folder : holds packages as site-packages does
    home : a new folder
    source : the files that belong to them, with the benchmarks
    tree : the name of what was built
    """
    started = time.perf_counter()
    venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt").create(home)
    site = site_packages(home)
    shutil.copytree(folder, site, dirs_exist_ok=True)
    _link_dependencies(site)
    return Build(tree, source, _python(home), time.perf_counter() - started)


def _link_dependencies(site: Path) -> None:
    # Last in the search, and without their own .pth files: an editable install stays unseen.
    (site / "dependencies.pth").write_text("\n".join(_dependencies()) + "\n", "utf-8")


def _modules(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in MODULE_SUFFIXES]


def _copy(modules: list[Path], source: Path, target: Path) -> None:
    """Copy compiled modules from one folder to the same places in another."""
    for module in modules:
        place = target / module.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(module, place)


def _install(source: Path, site: Path, settings: tuple[str, ...]) -> None:
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site),
        "--disable-pip-version-check", "--no-warn-script-location",
        *(f"--config-settings={setting}" for setting in settings),
    ]  # fmt: skip
    project = tomllib.loads((source / "pyproject.toml").read_text("utf-8"))
    if _are_installed(project.get("build-system", {}).get("requires", ["setuptools"])):
        command.append("--no-build-isolation")
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{source} does not install:\n{done.stderr.strip()[-2000:]}")


def _are_installed(requirements: list[str]) -> bool:
    """Whether all packages of some requirements are here; pip itself checks their versions."""
    try:
        for requirement in requirements:
            version(re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0])
    except PackageNotFoundError:
        return False
    return True


def native_home(repository: Path, tree: str, project: Project) -> Path:
    """The folder of compiled modules, under the name of all that they depend on."""
    digest = hashlib.sha256(str(NATIVE_VERSION).encode())
    listing = _git(repository, "ls-tree", "-r", tree).splitlines()
    files = [line for line in listing if line.endswith(project.native.suffixes or ("",))]
    digest.update("\n".join(files).encode())
    try:
        settings: dict[str, Any] = tomllib.loads(_git(repository, "show", f"{tree}:pyproject.toml"))
    except tomllib.TOMLDecodeError as error:
        raise BuildError(f"pyproject.toml of tree {tree[:12]} is not TOML: {error}") from None
    tables = [settings.get("tool", {}).get(name) for name in project.native.tables]
    digest.update(json.dumps([settings.get("build-system"), *tables], sort_keys=True).encode())
    compiler = shutil.which(COMPILER)
    if compiler:
        digest.update(subprocess.run([compiler, "--version"], capture_output=True).stdout)
    digest.update(f"{sys.implementation.cache_tag} {platform.platform()}".encode())
    return project.root / project.builds / f"native-{digest.hexdigest()[:16]}"


def _home(tree: str, project: Project) -> Path:
    # The Python and the environment that a build is for are part of what it is.
    environment = hashlib.sha256("\n".join(_dependencies()).encode()).hexdigest()[:8]
    name = f"{tree[:16]}-{sys.implementation.cache_tag}-{environment}"
    return project.root / project.builds / name


def _dependencies() -> list[str]:
    """Folders of the packages of the running environment."""
    return [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]


def site_packages(environment: Path) -> Path:
    """Where the packages of an environment are."""
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
