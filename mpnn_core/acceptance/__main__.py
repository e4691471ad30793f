"""`python -m mpnn_core.acceptance FORK.py`: run every check against a candidate."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

PARTS = ("parity", "edges", "invariances", "sampling", "speed")


def main() -> int:
    """Run pytest on this suite, by its own settings; the exit code is pytest's."""
    parser = argparse.ArgumentParser(
        prog="python -m mpnn_core.acceptance", description=__doc__, allow_abbrev=False,
        epilog="Further options go to pytest: -k NAME selects checks, -x stops at the first.",
    )  # fmt: skip
    parser.add_argument(
        "candidate", help="a Python file that defines peer(), FILE.py; or: ours, original"
    )
    parser.add_argument(
        "--at-least", type=float, metavar="TIMES",
        help="also fail unless designs are this many times as fast as the original's",
    )  # fmt: skip
    given, others = parser.parse_known_args()
    missing = [name for name in ("pytest", "hypothesis") if find_spec(name) is None]
    if missing:
        names = " ".join(missing)
        print(f"the acceptance suite needs {names}: pip install {names}", file=sys.stderr)
        return 2
    import pytest

    folder = Path(__file__).parent
    # By the settings of this folder, wherever it is run. What fails first is explained.
    arguments = [
        *(str(folder / f"test_{part}.py") for part in PARTS),
        "-c",
        str(folder / "pytest.ini"),
        f"--candidate={given.candidate}",
    ]
    if given.at_least is not None:
        arguments.append(f"--at-least={given.at_least}")
    return int(pytest.main([*arguments, *others]))


if __name__ == "__main__":
    sys.exit(main())
