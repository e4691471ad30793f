"""The workflow files: valid by GitHub's schema, and nothing that zizmor finds unsafe.

actionlint is not on PyPI as a wheel of its own, so linters that are stand in: check-jsonschema,
with GitHub's schema in the package, and zizmor for expressions and permissions. Where actionlint is
installed, it has its say as well.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

GITHUB = Path(__file__).parents[1] / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    """The first of the two linters that objects, or the second."""
    scripts = Path(sysconfig.get_path("scripts"))
    for command in (
        [scripts / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", path],
        [scripts / "zizmor", "--offline", "--config", GITHUB / "zizmor.yml", path],
    ):
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if found.returncode:
            break
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_is_clean(path) -> None:
    found = lint(path)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="needs actionlint")
def test_actionlint_agrees() -> None:
    command = ["actionlint", *WORKFLOWS]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("runs-on:", "run-on:", "run-on"),
        ('--budget "$BUDGET"', "--budget ${{ inputs.budget }}", "template-injection"),
    ],
    ids=["schema", "injection"],
)
def test_a_wrong_workflow_is_caught(tmp_path, right, wrong, message) -> None:
    text = (GITHUB / "workflows" / "macos.yml").read_text("utf-8")
    assert right in text
    path = tmp_path / ".github" / "workflows" / "wrong.yml"
    path.parent.mkdir(parents=True)
    path.write_text(text.replace(right, wrong), "utf-8")
    found = lint(path)
    assert found.returncode != 0
    assert message in found.stdout + found.stderr
