"""The page of designs and of scans: what is on it, and that a browser shows it and can be used."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from proteins import path_of, protein

import mpnn_core as mpnn
from mpnn_core.commands.main import main
from mpnn_core.pages.page import LETTERS, MOST_STRUCTURES, page, write_page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome")
SMALL, COMPLEX = "6MRR", "3HTN"


def data_of(text: str) -> list[dict]:
    (found,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)
    return json.loads(found)["items"]


@pytest.fixture(scope="module")
def designs(model) -> mpnn.Designs:
    return model.design(protein(SMALL), 3, seed=1)


def test_the_page_holds_the_designs(designs) -> None:
    (item,) = data_of(page([[designs]]))
    assert [row["sequence"] for row in item["rows"]] == designs.sequences
    assert item["rows"][1]["score"] == pytest.approx(designs.scores[1], abs=1e-4)
    assert item["native"] == designs.structure.sequence
    found = np.array(item["map"]).reshape(-1, 20) / 1000
    np.testing.assert_allclose(found, designs.probabilities.mean(0)[:, :20], atol=6e-4)
    confidence = item["values"]["confidence"]["of"]
    np.testing.assert_allclose(confidence, designs.residue_confidence.mean(0), atol=1e-4)
    recovered = np.mean([[a == b for a, b in zip(s, item["native"], strict=True)]
                         for s in designs.sequences], 0)  # fmt: skip
    np.testing.assert_allclose(item["values"]["recovery"]["of"], recovered, atol=1e-4)
    assert item["model3d"].count(" CA ") == 68 and item["format"] == "pdb"


def test_residues_that_are_kept_have_their_letter(model) -> None:
    kept = model.design(protein(SMALL), 2, constraints=mpnn.Constraints(fixed="A1-10"), seed=1)
    (item,) = data_of(page([[kept]]))
    profile = np.array(item["profile"]).reshape(-1, 20)
    letters = np.array(list(protein(SMALL).sequence))
    np.testing.assert_array_equal(profile[:10], 1000 * (letters[:10, None] == LETTERS))
    assert item["values"]["recovery"]["of"][0] is None, "no value where nothing was designed"


def test_the_page_holds_a_scan(model) -> None:
    scan = model.scan(protein(SMALL), constraints=mpnn.Constraints(redesigned="A5-20"))
    (item,) = data_of(page([scan]))
    found = np.array([np.nan if v is None else v for v in item["map"]], float).reshape(-1, 20)
    np.testing.assert_allclose(found / 1000, scan.logit_difference, atol=6e-4)
    row = scan.logit_difference[10]
    others = row[scan.sequence[10] != LETTERS]
    assert item["values"]["best"]["of"][10] == pytest.approx(others.max(), abs=1e-3)
    assert item["values"]["mean"]["of"][10] == pytest.approx(others.mean(), abs=1e-3)
    assert item["values"]["mean"]["of"][30] is None


@pytest.mark.parametrize("name", ["<b>&\"'</script><script>x", "</title><!--"])
def test_names_are_texts(designs, name) -> None:
    text = page([[replace(designs, structure=replace(designs.structure, name=name))]])
    (item,) = data_of(text)
    assert item["name"] == name
    assert escape(name) in text and name not in text


def test_many_structures_are_cut_and_counted(designs, tmp_path) -> None:
    assert write_page(tmp_path / "p.html", [designs] * (MOST_STRUCTURES + 2)) == 2
    assert len(data_of((tmp_path / "p.html").read_text())) == MOST_STRUCTURES
    with pytest.raises(ValueError, match="nothing to show"):
        write_page(tmp_path / "p.html", [])


def test_the_library_is_the_one_that_is_named() -> None:
    found = hashlib.sha256((files("mpnn_core.pages") / "3Dmol-min.js").read_bytes()).hexdigest()
    notices = (Path(__file__).parents[1] / "THIRD_PARTY.md").read_text("utf-8")
    assert found in notices
    assert b"</script" not in (files("mpnn_core.pages") / "3Dmol-min.js").read_bytes().lower()


def test_the_commands_write_it(tmp_path, capsys) -> None:
    paths = [str(path_of(SMALL)), str(path_of("5L33"))]
    out = ["--out", str(tmp_path / "out"), "--page", str(tmp_path / "d.html")]
    assert main(["design", *paths, "-n", "2", "-T", "0.1", "-T", "0.5", "--seed", "1", *out]) == 0
    items = data_of((tmp_path / "d.html").read_text())
    assert [item["name"] for item in items] == [SMALL, "5L33"] and len(items[0]["rows"]) == 4
    scan = ["--table", str(tmp_path / "t.csv"), "--page", str(tmp_path / "s.html")]
    assert main(["scan", *paths, *scan]) == 0
    assert [i["kind"] for i in data_of((tmp_path / "s.html").read_text())] == ["scan", "scan"]
    assert main(["scan", *paths, "--page", str(tmp_path / "s.htm")]) == 2
    assert "--page" in capsys.readouterr().err


def test_a_packed_model_is_drawn_where_there_is_one(tmp_path) -> None:
    out = [
        "--pack",
        "--seed",
        "1",
        "--out",
        str(tmp_path / "out"),
        "--page",
        str(tmp_path / "p.html"),
    ]
    assert main(["design", str(path_of(SMALL)), "-n", "2", *out]) == 0
    (item,) = data_of((tmp_path / "p.html").read_text())
    best = min(item["rows"], key=lambda row: row["score"])["name"]
    model = tmp_path / "out" / "packed" / f"{best}_1.pdb"
    assert item["model3d"] == model.read_text() and item["hasSideChains"]
    assert model.stem in item["lead"] and " CG " in item["model3d"]


PROBE = """
<script>setTimeout(() => {
  const r = {};
  try {
    r.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
    r.viewer = !!state.viewer;
    const map = document.querySelector(".map");
    const before = map.querySelector("canvas").toDataURL();
    map.focus(); map.dispatchEvent(new KeyboardEvent("keydown", { key: "End" }));
    r.last = state.residue; r.chosen = document.getElementById("chosen").textContent;
    r.redrawn = map.querySelector("canvas").toDataURL() !== before;
    r.scrolled = map.scrollLeft > 0 || map.scrollWidth <= map.clientWidth;
    const sort = () => document.querySelectorAll("thead button")[1].click();
    const rows = () => [...document.querySelectorAll("tbody tr")];
    const values = () => rows().map((tr) => tr.cells[1].textContent);
    sort(); const once = values(); sort();
    r.sorted = [once, values()];
    document.querySelector("tbody tr").click(); r.row = state.row;
    r.selected = document.querySelectorAll('tr[aria-selected="true"]').length;
    r.focusable = [...document.querySelectorAll("button, select, input, .map, .scroll")].filter(
      (e) => !e.closest("[hidden]") && e.tabIndex < 0).length;
    r.paper = getComputedStyle(document.body).backgroundColor;
    const start = performance.now();
    for (let k = 0; k < 20; k++) choose(k);
    r.ms = (performance.now() - start) / 20;
    window.dispatchEvent(new Event("beforeprint"));
    r.printed = document.querySelectorAll("canvas.printed").length;
  } catch (error) { r.error = String(error); }
  parent.document.title = JSON.stringify(r);
}, 1500)</script>
"""


def browse(tmp_path: Path, text: str, scheme: str, width: int, *options: str) -> str:
    """What Chromium prints of the page, in a frame of a width; a window has a least one."""
    (tmp_path / "page.html").write_text(text.replace("</body>", PROBE + "</body>"), "utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<!DOCTYPE html><title></title><iframe width="{width}" height="1400" src="page.html">'
        "</iframe>"
    )
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
            "--allow-file-access-from-files", f"--user-data-dir={tmp_path}/profile",
            "--window-size=1400,1500", "--virtual-time-budget=10000",
            f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
            "--dump-dom", *options, frame.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


def found_by_browser(*arguments: object) -> dict:
    dom = browse(*arguments)
    return json.loads(dom.partition("<title>")[2].partition("</title>")[0].replace("&quot;", '"'))


@needs_browser
@pytest.mark.parametrize(
    ("kind", "scheme", "width"), [("design", "dark", 400), ("scan", "light", 1200)]
)
def test_a_browser_shows_it_and_it_can_be_used(tmp_path, model, kind, scheme, width) -> None:
    structure = protein(COMPLEX)
    item = model.scan(structure) if kind == "scan" else [model.design(structure, 5, seed=1)]
    found = found_by_browser(tmp_path, page([item]), scheme, width)
    assert "error" not in found, found["error"]
    assert found["wide"] <= 0, "nothing runs off the page"
    assert found["viewer"], "the structure is drawn"
    last = int(np.flatnonzero(structure.chain_ids == "A")[-1])
    assert found["last"] == last and f"A{structure.residue_numbers[last]}" in found["chosen"]
    assert found["redrawn"] and found["scrolled"], "the map shows the residue that is chosen"
    up, down = found["sorted"]
    assert up == down[::-1] if kind == "design" else up != down
    assert found["selected"] == 1 and found["row"] is not None
    assert found["focusable"] == 0, "all is reached by keyboard"
    assert found["paper"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[scheme]
    assert found["printed"] == sum(-(-n // 48) for n in (143, 139, 143)), "maps are cut for paper"


@needs_browser
@pytest.mark.proof
def test_a_large_complex_stays_responsive(tmp_path, model) -> None:
    """2,000 residues: choosing one takes no longer than a glance."""
    one = protein("5L33")
    coords = np.concatenate([one.coords + 40.0 * np.array([t, 0, 0]) for t in range(19)])
    chains = np.repeat(list("ABCDEFGHIJKLMNOPQRS"), len(one))
    large = mpnn.Structure.from_backbone(coords, one.sequence * 19, chains)
    found = found_by_browser(tmp_path, page([[model.design(large, 2, seed=1)]]), "light", 1200)
    assert "error" not in found and found["viewer"]
    assert found["ms"] < 1000  # software draws the structure here
