"""The page: what is on it, and that a browser shows it without a network and without errors."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console
from stored_runs import entry, ledger, store

from mpnn_core.commands.main import main
from mpnn_core.gate.claims import load_claims
from mpnn_core.gate.history import load_runs, series
from mpnn_core.gate.intervals import Interval
from mpnn_core.gate.ledger import Ledger
from mpnn_core.gate.pages import markdown
from mpnn_core.gate.report import COLOURS, Report, forests, summary, trade_offs, write
from mpnn_core.gate.revisions.comparison import Answer, Comparison, print_comparison
from mpnn_core.gate.revisions.race import Outcome
from mpnn_core.gate.verdicts import Change

CLAIMS = load_claims(Path(__file__).parents[1] / "claims.toml")
LEDGERS = Path(__file__).parents[1] / "fixtures" / "ledgers"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ENTRIES = [
    entry(CLAIMS["S1"], "time", 138.0),
    entry(CLAIMS["S2"], "speed", 2.8),
    entry(CLAIMS["S4"], "speed", 2.5),
    entry(CLAIMS["S4"], "loss", 8.9),
    entry(CLAIMS["S9"], "component-2000", 1.2),  # a gate that fails
    entry(CLAIMS["S12"], "errors", 0.0),
    entry(CLAIMS["S14"], "designed", 45.0),
    entry(CLAIMS["S14"], "teacher-forced", 47.0),
    entry(CLAIMS["E2"], "speed", 22.0),
]
COMPARISON = Comparison(
    "main",
    "abcdef",
    [
        Outcome("design_one", Change.SLOWER, Interval(0.9, 0.89, 0.91), Interval(1, 1, 1), 10, 50),
        Outcome("<new>", Change.ONLY_HERE, note="no <such> function"),
    ],
    [Answer("5L33", 2e-5, 2e-5, 6e-5)],
    1.03,
    60.0,
)


def page(tmp_path: Path, runs: int, comparison: Comparison | None = None) -> tuple[Report, Path]:
    for number in range(runs):
        speed = 22.0 if number < 50 else 18.0
        measured = [
            entry(CLAIMS["E2"], "speed", speed * (1 + 0.01 * (number % 3))),
            entry(CLAIMS["S4"], "loss", 8.9),
        ]
        store(tmp_path / "storage", number, measured)
    found = ledger(ENTRIES) if runs else Ledger([])
    history = series(load_runs(tmp_path / "storage"))
    elsewhere = [Ledger.load(path) for path in sorted(LEDGERS.glob("*.json"))] if runs else []
    report = Report(CLAIMS, found.completed(CLAIMS), history, comparison, "..", elsewhere)
    path = tmp_path / "report.html"
    write(report, path)
    return report, path


class Elements(HTMLParser):
    """Start tags with their attributes, and that every one is closed in order."""

    VOID = frozenset({"meta", "link", "br", "use", "path", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag, tag


def all_of(elements: Elements, tag: str) -> list[dict[str, str | None]]:
    return [attributes for name, attributes in elements.found if name == tag]


@pytest.mark.parametrize("runs", [0, 1, 100])
def test_the_page_is_one_sound_file(tmp_path, runs) -> None:
    _, path = page(tmp_path, runs)
    text = path.read_text("utf-8")
    elements = Elements(text)
    addresses = [
        str(value)
        for _, attributes in elements.found
        for name, value in attributes.items()
        if name in ("href", "src", "xlink:href")
    ]
    assert not [a for a in addresses if a.startswith(("http", "//"))], "it needs no network"
    assert not all_of(elements, "script")
    assert not [colour for colour in COLOURS if colour in text], "every colour is the page's own"
    ids = [str(a["id"]) for _, a in elements.found if "id" in a]
    assert {a.removeprefix("#") for a in addresses if a.startswith("#")} <= set(ids)
    sections = {"ledger", "trade-off", "comparison", "history", "elsewhere", "absent", "machine"}
    assert sections <= set(ids)
    assert all(a.get("aria-label") for a in all_of(elements, "svg"))
    regions = [a for a in all_of(elements, "div") if a.get("role") == "region"]
    assert regions and all(a["tabindex"] == "0" and a["aria-label"] for a in regions)
    assert len(all_of(elements, "svg")) == {0: 0}.get(runs, len(all_of(elements, "svg")))


def test_the_page_says_what_was_measured(tmp_path) -> None:
    report, path = page(tmp_path, 1, COMPARISON)
    text = path.read_text("utf-8")
    assert "1 gate failed" in text and "S9 component-2000" in text
    for e in report.measured:
        assert e.measured in text
    assert 'href="../perf_tests/test_engine.py"' in text
    assert "needs Apple silicon" in text and "not exercised" in text
    assert "design_one is slower than main: time +11.1 %" in text
    assert "&lt;new&gt;" in text and "no &lt;such&gt; function" in text and "<new>" not in text


def test_what_other_machines_recorded_is_shown_with_the_machine(tmp_path) -> None:
    report, path = page(tmp_path, 1)
    text = path.read_text("utf-8")
    measured = [e for other in report.elsewhere for e in other.measured]
    assert {"many-fast", "many-exact", "log-probs"} <= {e.figure for e in measured}
    for other in report.elsewhere:
        assert other.machine.get("gpu", other.machine["processor"]) in text and other.date in text
    for e in measured:
        assert e.figure in CLAIMS[e.claim].figures, "a claim of today's"
        assert e.measured in text


def test_what_was_run_once_has_no_chart_of_its_history(tmp_path) -> None:
    report, path = page(tmp_path, 1)
    text = path.read_text("utf-8")
    assert f"{len(report.series)} figures have one run so far" in text
    assert "History of" not in text


def test_charts_tell_like_figures_apart() -> None:
    (first, *_) = [e for e in ENTRIES if e.low != e.high]
    sides = [replace(first, workload=f"the six proteins together, {who}") for who in ("A B", "C")]
    ((_, chart),) = forests(sides)
    assert ": A B<" in chart and ": C<" in chart and "together" not in chart


def test_a_hundred_runs_show_their_step(tmp_path) -> None:
    _, path = page(tmp_path, 100)
    text = path.read_text("utf-8")
    assert re.search(r"Step from 22\.\d to 18\.\d\s+x at ", text)
    assert path.stat().st_size < 3e6


def test_an_empty_page_says_how_to_fill_it(tmp_path) -> None:
    _, path = page(tmp_path, 0)
    text = path.read_text("utf-8")
    for command in ("pytest -m claim", "mpnn-core compare REV", "--benchmark-autosave"):
        assert command in text


def test_a_speed_stands_beside_its_loss(tmp_path) -> None:
    report, _ = page(tmp_path, 1)
    found = {(e.claim, e.figure): loss and loss.value for e, loss in trade_offs(report)}
    assert found == {("S4", "speed"): 8.9, ("E2", "speed"): None}


def test_the_summary_names_what_failed(tmp_path) -> None:
    report, _ = page(tmp_path, 1, COMPARISON)
    text = summary(report)
    shown = shown_text(text)
    assert "failed: S9 component-2000, >= 2, measured 1.2" in shown
    assert "design_one\n+11.1 % [+9.9, +12.4]\nslower\n" in shown
    assert "| **slower** |" in text
    assert "No regression" not in text


def shown_text(text: str) -> str:
    """What a reader sees of Markdown, a line for each paragraph, heading and cell."""
    found = []
    reader = MarkdownIt("commonmark", {"linkify": False}).enable(["table", "strikethrough"])
    for token in reader.parse(text):
        assert token.type != "html_block", token.content
        for child in token.children or []:
            expected = ("text", "strong_open", "strong_close")
            assert child.type in expected, f"{child.type} in {text!r}"
        if token.type == "inline":
            found.append("".join(child.content for child in token.children or []))
    return "\n".join(found) + "\n"


SIGNS = st.text(
    st.sampled_from(r"""\|*_`[]()<>#~&!$-+=: "'/.@0a""" + "\n"), min_size=1, max_size=12
)


@given(signs=SIGNS)
@example("</td><script>alert(1)</script>")
@example("[x](javascript:alert(1))")
@example("a | b \\| c")
@example("<https://x.org> www.x.org https://x.org")
@example("&lt; ![x](y) **b** ~~c~~ \n\n# d")
def test_markdown_shows_every_sign_as_it_is(signs: str) -> None:
    words = " ".join(f"a{signs}b".split())
    red = replace(ENTRIES[4], figure=words, unit=signs)
    slow = replace(COMPARISON.outcomes[0], benchmark=words)
    compared = replace(COMPARISON, base=words, outcomes=[slow])
    report = Report({}, Ledger([red]), [], compared, "..")
    shown = shown_text(summary(report))
    assert shown.count(f"{words}") >= 4, shown  # the red, the heading, the cell, the regression
    for word in ("https://", "www."):
        assert word not in summary(report), "an address becomes a link by itself"
    claim = replace(CLAIMS["S1"], id="S1", title=words, workload=words)
    page = shown_text(markdown(ledger([red], words), {"S1": claim}))
    assert page.count(words) >= 3, page


def test_a_name_is_no_markup_of_the_terminal_and_no_formula_of_a_chart(
    tmp_path, capsys, monkeypatch
) -> None:
    odd = replace(ENTRIES[1], claim="[/x]", figure="$\\frac{$", workload="[red]$", headline="[b]")
    ledger([odd, replace(odd, workload="$_{")]).save(tmp_path / "ledger.json")
    store(tmp_path / "storage", 1, [odd])
    store(tmp_path / "storage", 2, [odd])
    for call in (
        ["claims", "--ledger", str(tmp_path / "ledger.json")],
        ["claims", "--all", "--ledger", str(tmp_path / "ledger.json")],
        ["history", "--storage", str(tmp_path / "storage")],
    ):
        assert main(call) == 0
        assert "[/x]" in capsys.readouterr().out
    options = ["--ledger", "ledger.json", "--storage", "storage", "--out", "page.html"]
    monkeypatch.chdir(tmp_path)
    assert main(["report", "--claims", str(LEDGERS.parents[1] / "claims.toml"), *options]) == 0
    text = io.StringIO()
    print_comparison(replace(COMPARISON, base="[/x]"), Console(file=text))
    assert "abcdef against [/x]" in text.getvalue()


@pytest.mark.parametrize("value", [0.0, -1.0, 1e308, float("inf")])
def test_a_figure_without_a_place_on_its_axis_is_in_the_table(value: float, tmp_path) -> None:
    odd = [replace(e, value=value, low=value, high=value) for e in ENTRIES[1:3]]
    report = Report(CLAIMS, ledger([*ENTRIES, *odd]), [], None, "..")
    write(report, tmp_path / "page.html")
    assert odd[0].measured in (tmp_path / "page.html").read_text("utf-8")


def test_the_same_ledger_gives_the_same_page(tmp_path) -> None:
    _, first = page(tmp_path, 1)
    before = first.read_text("utf-8")
    assert page(tmp_path, 1)[1].read_text("utf-8") == before


def test_the_command_writes_the_page_and_the_summary(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    claims = Path(__file__).parents[1] / "claims.toml"
    ledger(ENTRIES).save(tmp_path / "ledger.json")
    options = ["--claims", str(claims), "--ledger", "ledger.json", "--summary", "summary.md"]
    assert main(["report", *options, "--out", "out/page.html", "--source", "https://x.org/y"]) == 0
    assert "https://x.org/y/perf_tests/test_engine.py" in (tmp_path / "out/page.html").read_text()
    assert "## Gates" in (tmp_path / "summary.md").read_text()
    assert main(["report", "--claims", str(claims), "--out", "page.html"]) == 0


@pytest.mark.parametrize(
    "source",
    ["javascript:alert(1)//", "JavaScript:alert(1)", " javascript:x", "java\tscript:x",
     "\x01data:x", "data:text/html,x", "vbscript:x", "file:///etc", "https\n:x"],
)  # fmt: skip
def test_an_address_that_may_be_a_script_is_no_link(tmp_path, monkeypatch, capsys, source) -> None:
    monkeypatch.chdir(tmp_path)
    claims = str(Path(__file__).parents[1] / "claims.toml")
    assert main(["report", "--claims", claims, "--out", "page.html", "--source", source]) == 2
    assert "expected an address of http or https, or a folder" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("source", ["https://x.org/y", "HTTP://x.org", "..", "", "/a:b", "./a:b"])
def test_an_address_or_a_folder_is_a_link(source) -> None:
    assert Report(CLAIMS, Ledger([]), [], None, source).source == source


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("runs", [0, 1, 100])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it(tmp_path, runs, scheme) -> None:
    """By keyboard and in print, light and dark: what the page computes to, asked of the browser."""
    _, path = page(tmp_path, runs, COMPARISON if runs == 1 else None)
    probe = (
        "<script>window.onload = () => { const r = {};"
        "const style = e => getComputedStyle(e);"
        "r.paper = style(document.body).backgroundColor; r.ink = style(document.body).color;"
        "r.wide = document.documentElement.scrollWidth - window.innerWidth;"
        "r.text = [...document.querySelectorAll('svg text')].map(e => style(e).fill);"
        "r.svg = [...document.querySelectorAll('svg')].map(e => e.getBoundingClientRect().height);"
        "r.focus = [...document.querySelectorAll('a, [tabindex]')].filter(e => {e.focus();"
        " return document.activeElement !== e}).length;"
        "document.title = JSON.stringify(r); }</script>"
    )
    probed = tmp_path / "probed.html"
    probed.write_text(path.read_text("utf-8").replace("</body>", probe + "</body>"), "utf-8")
    found = json.loads(browse(tmp_path, probed, scheme, "--dump-dom").partition("<title>")[2]
                       .partition("</title>")[0].replace("&quot;", '"'))  # fmt: skip
    light = {"rgb(255, 255, 255)": "light", "rgb(20, 23, 27)": "dark"}
    assert light[found["paper"]] == scheme
    assert set(found["text"]) <= {found["ink"]}, "text in charts is in the page's ink"
    assert found["wide"] <= 0, "nothing runs off the page"
    assert found["focus"] == 0, "every link and table is reached by keyboard"
    assert all(height > 60 for height in found["svg"]) and bool(found["svg"]) == bool(runs)
    if scheme == "light":
        browse(tmp_path, path, scheme, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path}/p.pdf")
        assert (tmp_path / "p.pdf").read_bytes().startswith(b"%PDF")


def browse(tmp_path: Path, path: Path, scheme: str, *options: str) -> str:
    assert CHROMIUM is not None
    dark = scheme == "dark"
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={tmp_path}/profile", "--window-size=1000,1400",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", *options, path.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout
