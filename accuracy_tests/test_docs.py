"""README and the site: what they show runs, what they name exists, their figures are stored."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from proteins import COMPLEXES

import mpnn_core as mpnn
from mpnn_core.design.batches import Batch

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = sorted(DOCS.rglob("*.md"))
# Written by hand: the lab notes are dated, the model cards are made by a script of their own.
BY_HAND = [
    README,
    *(p for p in PAGES if "notes" not in p.parts and "models" not in p.parts),
]
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
# Of the pages that show outputs beside these, the files that their readers have.
FILES = {
    DOCS / "how-to" / "coming-from-colabdesign.md": {"complex.pdb": "1hvr.pdb.gz"},
    DOCS / "how-to" / "ligands-and-membranes.md": {
        "complex.pdb": "1hvr.pdb.gz",
        "transporter.pdb": "2nwl-opm.pdb.gz",
    },
    DOCS / "how-to" / "selections.md": {"complex.pdb": "1hvr.pdb.gz"},
    DOCS / "reference" / "constraints.md": {"complex.pdb": "1hvr.pdb.gz"},
}

FENCE = re.compile(r'(?ms)^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$')
FIGURE = re.compile(r"\d[\d,.]*\s?(?:%|ms\b|x\b|[\w ]*/s\b)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(
    r"`((?:mpnn_core|docs|fixtures|perf_tests|accuracy_tests|\.github|\.ci)/[\w./-]*)`"
)
# Percentages that are no measurement of this project: settings, definitions, quotations.
SETTINGS = {
    "README.md": {"95 %"},
    "explanation/claims.md": {"95 %"},
    "explanation/evaluation.md": {"99 %", "54.4 %", "52.4 %", "35 %", "5 %"},
    "explanation/guard.md": {"99 %", "3 %", "5 %", "8 %"},
    "explanation/distillation.md": {"30 %", "6 %", "2 %", "40 %"},
    "how-to/compare-revisions.md": {"8 %"},  # of an example message
    "how-to/small-models.md": {"99 %"},
    "tutorials/gate-your-project.md": {"95 %"},
    "performance.md": {"95 %"},
}


class Block(NamedTuple):
    """A fenced block: its language, the file it is to be written to, and its text."""

    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(*match.groups(default="")) for match in FENCE.finditer(page.read_text("utf-8"))]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT if page == README else DOCS).as_posix()


@pytest.fixture(scope="module")
def make_pages() -> ModuleType:
    """docs/make_pages.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("make_pages", DOCS / "make_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# README.


def test_readme_is_short_enough_to_read_aloud():
    lines = README.read_text("utf-8").splitlines()
    assert len(lines) <= 150, f"README.md has {len(lines)} lines"


def test_readme_designs_within_its_first_25_lines():
    head = "\n".join(README.read_text("utf-8").splitlines()[:25])
    assert "mpnn-core design" in head
    assert ">T=0.1, sample=1" in head, "the output of the first design comes too late"


@pytest.mark.parametrize("place, marker", [(0, "gates"), (1, "tests")])
def test_each_of_the_first_two_blocks_is_one_line_under_its_marker(place, marker):
    text = README.read_text("utf-8")
    shell = [block for block in blocks(README) if block.language == "bash"]
    assert f"<!-- ci: {marker} -->\n```bash\n{shell[place].text}```\n" in text
    assert shell[place].text.count("\n") == 1, "the block is not one line"


def test_the_landing_gate_runs_the_block_of_the_tests():
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    extraction = re.search(r"(?ms)^command=.*?README\.md\)$", script)
    assert extraction, ".ci/run no longer takes its command from README.md"
    found = subprocess.run(
        ["bash", "-c", f'{extraction[0]}\nprintf "%s" "$command"'],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    shell = [block for block in blocks(README) if block.language == "bash"]
    assert found.stdout.strip() == shell[1].text.strip()


def test_the_design_that_readme_shows_is_what_the_command_prints():
    gates, shown = blocks(README)[:2]
    command = re.search(r"mpnn-core design .*?--out -", gates.text)
    assert command
    real = shell(command[0].replace(".venv/bin/", ""), ROOT)
    assert_same(shown.text, real)


# Pages.


@pytest.mark.parametrize("page", [README, *PAGES], ids=name_of)
def test_a_page_has_the_figures_that_are_stored(page, make_pages):
    text = page.read_text("utf-8")
    assert make_pages.filled(text, page) == text, f"{page} is stale; python docs/make_pages.py"


@pytest.mark.parametrize("page", BY_HAND, ids=name_of)
def test_no_figure_is_typed_by_hand(page, make_pages):
    text = make_pages.BLOCK.sub("", page.read_text("utf-8"))
    text = FENCE.sub("", text)
    text = re.sub(r"(?m)^> .*\dx? .*$" if page.name == "study.md" else r"(?!)", "", text)
    typed = {match[0].strip() for match in FIGURE.finditer(text)}
    typed -= SETTINGS.get(name_of(page), set())
    assert not typed, f"{page}: {sorted(typed)} stand outside of a generated table"


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda p: p.stem)
def test_links_between_pages_resolve(page):
    text = FENCE.sub("", page.read_text("utf-8"))
    for target in LINK.findall(text):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{page} links to {target}"
        if anchor:
            headings = re.findall(r"(?m)^#+ (.*)$", file.read_text("utf-8"))
            assert anchor in map(slug, headings), f"{page} links to {target}: no such heading"


def slug(heading: str) -> str:
    """The anchor that a heading gets, on the site as on GitHub."""
    return re.sub(r"[ ]+", "-", re.sub(r"[^\w\- ]", "", heading).strip().lower())


@pytest.mark.parametrize(
    "page", [README, ROOT / "CONTRIBUTING.md", *BY_HAND[1:]], ids=lambda p: p.stem
)
def test_paths_that_a_page_names_exist(page):
    for path in PATH.findall(page.read_text("utf-8")):
        if "NAME" not in path and "NAME" not in path.upper().split("/")[-1]:
            assert (ROOT / path).exists(), f"{page} names {path}"


def test_pages_that_the_code_names_exist():
    sources = [
        path
        for folder in ("mpnn_core", "perf_tests", "accuracy_tests", "fixtures")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".cpp", ".h", ".cu", ".cuh", ".jinja")
        and path.name != "test_docs.py"
    ]
    for source in [*sources, ROOT / "claims.toml"]:
        for page in re.findall(r"docs/[\w/-]+\.(?:md|jsonl?|svg|py)\b", source.read_text("utf-8")):
            assert (ROOT / page).exists(), f"{source.relative_to(ROOT)} names {page}"


def test_no_page_or_message_installs_from_an_index():
    """The package is in no index yet: `pip install mpnn-core` would fail, or find a stranger's."""
    texts = [README, ROOT / "CONTRIBUTING.md", *PAGES, *(ROOT / "mpnn_core").rglob("*.py")]
    for path in texts:
        found = re.search(
            r'pip install (-\S+ )*"?mpnn[-_]core(?!-VERSION)', path.read_text("utf-8")
        )
        assert not found, f"{path.relative_to(ROOT)}: {found[0]}"


def test_ten_concepts_are_where_the_page_says():
    text = (DOCS / "explanation" / "house.md").read_text("utf-8")
    section = text.partition("## Ten concepts")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| (?!concept|-)(.*?) \| (.*?) \|$", section)
    assert len(rows) == 10
    for concept, where in rows:
        paths = re.findall(r"`([\w./-]+)`", where)
        assert paths, f"{concept}: no path"
        for path in paths:
            assert (ROOT / path).exists(), f"{concept}: {path}"


def test_the_worked_example_has_the_numbers_of_the_code():
    rng = np.random.default_rng(0)
    coords = [rng.normal(0, 9, (length, 4, 3)) for length in (6, 4)]
    coords[0][3, 3] = np.nan
    structures = [
        mpnn.Structure.from_backbone(c, "ACDEFG"[: len(c)], name=name)
        for c, name in zip(coords, "AB", strict=True)
    ]
    batch = Batch(structures, [0, 1], [(0, 0, 3), (1, 0, 2)], torch.device("cpu"))
    text = (DOCS / "explanation" / "engine.md").read_text("utf-8")
    for said in (
        f"offsets = ({', '.join(map(str, batch.offsets))})",
        f"row_starts = {' '.join(map(str, batch.row_starts))}",
        f"position_starts = {' '.join(map(str, batch.position_starts.tolist()))}",
        f"position {batch.position[16].item()}.",
    ):
        assert said in text, f"docs/explanation/engine.md does not say {said!r}"


# What runs.


def shell(command: str, folder: Path) -> str:
    """What a command prints in a folder, with the scripts of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "100", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def run(page: Path, folder: Path) -> Iterator[tuple[Block, str]]:
    """The blocks of a tutorial that show an output, each with the real one.

    Blocks with a title are written to that file, bash and Python run in order, and a block of text
    shows what the block before it prints. A block of "console" is an example that no run repeats.
    """
    names: dict[str, object] = {}
    printed = ""
    for block in blocks(page):
        if block.title:
            (folder / block.title).write_text(block.text, "utf-8")
        elif block.language == "bash":
            printed = shell(block.text, folder)
        elif block.language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(block.text, page.name, "exec"), names)
            printed = out.getvalue()
        elif block.language != "console":
            assert block.language == "text", f"{page.name}: a block of {block.language!r}"
            yield block, printed


def assert_same(shown: str, real: str) -> None:
    """Equal but for the version and the last digits of numbers; a line `...` stands for any."""
    version = r"mpnn_core=[\w.]+"
    shown, real = (re.sub(version, "mpnn_core=VERSION", text) for text in (shown, real))
    expected, received = shown.strip().splitlines(), real.strip().splitlines()
    if "..." in expected:
        at = expected.index("...")
        after = len(expected) - at - 1
        received = [*received[:at], "...", *received[len(received) - after :]]
    assert len(expected) == len(received), f"shown:\n{shown}\nreal:\n{real}"
    decimal = re.compile(r"-?\d+\.\d+")
    for left, right in zip(expected, received, strict=True):
        numbers = [list(map(float, decimal.findall(line))) for line in (left, right)]
        words = [decimal.sub("#", line).split() for line in (left, right)]
        assert words[0] == words[1], f"shown:\n{left}\nreal:\n{right}"
        assert numbers[0] == pytest.approx(numbers[1], abs=0.011), f"shown {left}, real {right}"


@pytest.mark.parametrize("page", [*TUTORIALS, *FILES], ids=lambda page: page.stem)
def test_a_page_runs_and_prints_what_it_shows(page, tmp_path, monkeypatch):
    for name, fixture in FILES.get(page, {}).items():
        (tmp_path / name).write_bytes(gzip.decompress((COMPLEXES / fixture).read_bytes()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    shown = list(run(page, tmp_path))
    assert shown, f"{page.name} shows no output"
    for block, real in shown:
        assert_same(block.text, real)


def test_a_wrong_output_is_caught():
    with pytest.raises(AssertionError, match="shown"):
        assert_same("score 0.88 ACD", "score 0.91 ACD")
    with pytest.raises(AssertionError, match="shown"):
        assert_same("score 0.88 ACD", "score 0.88 ACE")
    assert_same("first\n...\nlast 0.88, mpnn_core=0.1.0", "first\na\nb\nlast 0.881, mpnn_core=2.0")


def test_the_site_builds_without_a_warning_and_without_network(tmp_path):
    nowhere = dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT, env={**os.environ, **nowhere}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for page in tmp_path.rglob("*.html"):
        fetched = re.findall(
            r'(?:<script[^>]*src|<img[^>]*src|<link[^>]*rel="(?:stylesheet|preconnect)"[^>]*href)="(https?:[^"]+)"',
            page.read_text("utf-8"),
        )
        assert not fetched, f"{page.relative_to(tmp_path)} fetches {fetched}"
    api = (tmp_path / "reference" / "api.html").read_text("utf-8")
    for name in mpnn.__all__:
        described = f'id="mpnn_core.{name}"' in api or name == "ALPHABET"
        assert described, f"docs/reference/api.md does not describe {name}"
