"""Why there is no native code to run, and what to do: looked for when there is none."""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMPILED = (".so", ".pyd")


def why_missing() -> str:
    """The cause that the folders show, and the cure; for the message of `UnavailableError`."""
    package = HERE.parents[1]
    if modules := [module for module in _compiled(HERE) if _is_for_this_python(module)]:
        return _why_not_running(modules)
    # No wheel holds C++, so where it is, the package is that of a checkout.
    source = package.parent if (HERE / "kernels.cpp").is_file() else None
    for entry in sys.path:
        other = Path(entry, *HERE.parts[-3:]).resolve()
        if other == HERE or not (other / "__init__.py").is_file():
            continue
        if any(_is_for_this_python(module) for module in _compiled(other)):
            cure = (
                f"start Python in another folder, and without {source} in PYTHONPATH; "
                f"or make the source the installed one: pip install --editable {source}"
                if source
                else f"remove one of the two, best {package}"
            )
            return (
                f"Python imports {package}, which has no native code, and not the installed "
                f"{other.parents[1]}, which has; {cure}"
            )
    if others := _compiled(HERE):
        return (
            f"the native code in {HERE} is for another Python or another machine: "
            f"{others[0].name}, where this Python wants {_name_here(others[0])}; "
            f"install mpnn-core again, with {sys.executable} -m pip"
        )
    if source:
        return (
            f"no native code was built in the source folder {source}; "
            f"pip install --editable {source} builds it with a C++ compiler (GCC or Clang), and "
            "with --verbose shows the compiler's errors"
        )
    return (
        "no native code was built when mpnn-core was installed; install a C++ compiler (GCC or "
        "Clang), and mpnn-core again, with --verbose to see the compiler's errors"
    )


def _compiled(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("_*") if path.suffix in COMPILED)


def _is_for_this_python(module: Path) -> bool:
    """By its name, as Python itself chooses: `.so` alone ends the names of all versions."""
    return module.name.removeprefix(module.name.partition(".")[0]) in EXTENSION_SUFFIXES


def _name_here(module: Path) -> str:
    return module.name.partition(".")[0] + EXTENSION_SUFFIXES[0]


def _why_not_running(modules: list[Path]) -> str:
    names = [module.name.partition(".")[0] for module in modules]
    for name in names:
        try:
            importlib.import_module(f"{__package__}.{name}")
        except ImportError as error:
            return (
                f"the native code in {HERE} does not load: {error}; "
                "install mpnn-core again, on this machine"
            )
    return (
        f"this processor has none of the instruction sets that the native code in {HERE} is for "
        f"({', '.join(name[1:] for name in names)}); install mpnn-core again, on this machine"
    )
