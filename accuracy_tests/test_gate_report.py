"""The page: what is on it, and that a browser shows it without a network and without errors."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import escape, unescape
from html.parser import HTMLParser
from itertools import pairwise
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
from mpnn_core.gate.report import COLOURS, Report, Scale, groups, summary, trade_offs, write
from mpnn_core.gate.revisions.comparison import Answer, Comparison, print_comparison
from mpnn_core.gate.revisions.race import Outcome
from mpnn_core.gate.verdicts import Change, GateResult, Verdict

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
    for e in report.measured:
        assert e.measured in text
    assert 'href="../perf_tests/test_engine.py"' in text
    assert "needs Apple silicon" in text and "not exercised" in text
    assert "&lt;new&gt;" in text and "no &lt;such&gt; function" in text and "<new>" not in text


def test_the_page_leads_with_what_fell_what_passed_where_and_when(tmp_path) -> None:
    report, path = page(tmp_path, 1, COMPARISON)
    assert report.lead == (
        "1 regression against main and 1 gate failed, 7 gates passed; 9 figures measured on "
        "A processor, 2 cores, 2026-01-01 00:00 UTC."
    )
    text = text_of(path)
    assert text.startswith(f"Claims and gates {report.lead} What fell design_one is slower than")
    red = (
        "k-NN on the CPU with scikit-learn, component 2000: k-NN of 106 residues, and forward() "
        "with it: the gate is >= 2, measured 1.2 [1.16, 1.24] x, failed"
    )
    assert text.index(red) < text.index("Ledger Without a measurement"), "before the sections"
    green = [e for e in ENTRIES if e.gate is not GateResult.FAILED]
    assert Report(CLAIMS, ledger(green), [], None, "..").lead.startswith("Nothing fell, 7 gates")
    assert Report(CLAIMS, Ledger([]), [], None, "..").lead == "Nothing was measured yet."


def test_the_lead_says_how_many_rows_are_of_earlier_runs() -> None:
    old = [replace(e, date="2025-12-24T18:00:00+00:00") for e in ENTRIES[1:]]
    found = replace(ledger([ENTRIES[0], *old]), started="2026-01-01T00:00:00+00:00")
    lead = Report(CLAIMS, found, [], None, "..").lead
    assert "(1 of this run, 8 of earlier runs, the oldest of 2025-12-24 18:00 UTC)" in lead


def test_every_counted_figure_stands_in_a_table_in_words(tmp_path) -> None:
    """Also those that ran out of time, and those whose test failed before it measured."""
    report, path = page(tmp_path, 1)
    absent = {"value": None, "low": None, "high": None, "note": "the budget has 3 s left"}
    late = replace(ENTRIES[1], **absent, verdict=Verdict.INCONCLUSIVE, claim="S3")
    broken = replace(ENTRIES[1], **absent, verdict=Verdict.NOT_RUN, gate=GateResult.FAILED)
    found = ledger([*ENTRIES, late, replace(broken, claim="S6")]).completed(CLAIMS)
    write(Report(CLAIMS, found, [], None, ".."), path)
    text = path.read_text("utf-8")
    rows = [unescape(row) for row in re.findall(r'(?s)<tr class="entry">.*?</tr>', text)]
    counts = re.findall(r"<li><strong>(\d+)</strong>", text)
    assert len(rows) == len(found.entries) == sum(map(int, counts))
    assert sum("the budget has 3 s left" in row for row in rows) == 2
    for e in found.entries:
        own = [row for row in rows if f"· {e.claim} {e.figure}<" in row]
        assert own and all(report.title(e) in row for row in own), report.title(e)
        assert CLAIMS[e.claim].title in report.title(e)


def text_of(path: Path) -> str:
    """What a reader sees, without the page's head."""
    body = path.read_text("utf-8").partition("</head>")[2].partition("</a>")[2]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


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


def test_an_axis_holds_every_interval_and_reported_figure() -> None:
    for group in groups(ENTRIES):
        marks = [group.mark(e) for e in group.entries]
        assert all((mark is None) is (group.scale is None) for mark in marks)
        for e, mark in zip(group.entries, marks, strict=True):
            if mark is not None:
                assert 0 <= mark.low <= mark.value <= mark.low + mark.width <= 100
                assert mark.reported is None or 0 <= mark.reported <= 100
                assert e.measured in mark.text
    assert [g.heading for g in groups(ENTRIES)] == [
        "Ratios, times as fast", "Percent", "Other figures",
    ]  # fmt: skip
    assert [e for g in groups(ENTRIES) for e in g.entries if e not in ENTRIES] == []


@pytest.mark.parametrize(
    ("low", "high", "is_ratio"),
    [(0.9, 1.3, True), (0.5, 3, True), (0.5, 200, True), (1e-6, 1e9, True), (-2, 12, False)],
)
def test_an_axis_has_a_few_round_numbers_in_order(low, high, is_ratio) -> None:
    ticks = Scale(low, high, is_ratio).ticks
    places, numbers = zip(*ticks, strict=True)
    assert 1 <= len(ticks) <= 20 and all(0 <= p <= 100 for p in places), ticks
    assert list(places) == sorted(places)
    assert [float(n) for n in numbers] == sorted(map(float, numbers))
    assert all(b - a >= 8 for a, b in pairwise(places)) or high / low > 1e9


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


def test_the_loss_beside_a_speed_is_the_judged_one_on_the_claims_own_workload() -> None:
    """Other networks and other proteins are recorded beside it, and come later."""
    speed, judged = entry(CLAIMS["S2"], "speed", 2.8), entry(CLAIMS["S2"], "loss", 3.25)
    recorded = replace(judged, verdict=Verdict.RECORDED, workload="3HTN", value=6.4, high=6.5)
    cuda = replace(judged, device="cuda", value=3.3)
    other = replace(judged, workload="other chains", value=3.2)
    for losses in ([judged, recorded], [recorded, other, cuda, judged]):
        report = Report(CLAIMS, ledger([speed, *losses]), [], None, "..")
        assert trade_offs(report) == [(speed, judged)]
    assert trade_offs(Report(CLAIMS, ledger([speed, recorded]), [], None, "..")) == []


def test_each_speed_of_the_trade_off_names_its_loss(tmp_path) -> None:
    _, path = page(tmp_path, 1)
    text = path.read_text("utf-8")
    section = text[text.index('id="trade-off"') : text.index('id="comparison"')]
    fast, exact = section.index("Fast: Baseline with k = 16"), section.index("Our sampling")
    assert exact < fast, "the fastest first"
    assert "none: exact" in section[exact:fast] and "S4 loss" in section[fast:]
    assert "8.9 [8.63, 9.17] points" in section[fast:]


def test_the_summary_names_what_failed(tmp_path) -> None:
    report, _ = page(tmp_path, 1, COMPARISON)
    text = summary(report)
    shown = shown_text(text)
    assert shown.index(report.lead) < shown.index("regression: design_one") < shown.index("failed:")
    assert "failed: k-NN on the CPU with scikit-learn, component 2000: k-NN of 106" in shown
    assert "the gate is >= 2, measured 1.2" in shown
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
    red = replace(ENTRIES[4], workload=words, unit=signs)
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
@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 1200), ("light", 400)])
def test_a_browser_shows_it(tmp_path, runs, scheme, width) -> None:
    """By keyboard and in print, light and dark, on a phone: asked of the browser itself."""
    _, path = page(tmp_path, runs, COMPARISON if runs == 1 else None)
    probe = (
        "<script>window.onload = () => { const r = {};"
        "const style = e => getComputedStyle(e);"
        "r.paper = style(document.body).backgroundColor; r.ink = style(document.body).color;"
        "r.wide = document.documentElement.scrollWidth - window.innerWidth;"
        "r.height = Math.min(...[...document.querySelectorAll('svg text')].map(e =>"
        " parseFloat(style(e).fontSize) * Math.hypot(e.getScreenCTM().a, e.getScreenCTM().b)));"
        "r.words = Math.min(...[...document.querySelectorAll('body *')].filter(e => e.offsetHeight"
        " && !e.closest('svg')).map(e => parseFloat(style(e).fontSize)));"
        "r.text = [...document.querySelectorAll('svg text')].map(e => style(e).fill);"
        "r.svg = [...document.querySelectorAll('svg')].map(e => e.getBoundingClientRect().height);"
        "r.focus = [...document.querySelectorAll('a, [tabindex]')].filter(e => {e.focus();"
        " return document.activeElement !== e}).length;"
        "parent.document.title = JSON.stringify(r); }</script>"
    )
    text = path.read_text("utf-8").replace("</body>", probe + "</body>")
    # In a frame: a window of the browser has a least width.
    probed = tmp_path / "probed.html"
    frame = f'<iframe width="{width}" height="1400" srcdoc="{escape(text)}"></iframe>'
    probed.write_text(f"<!DOCTYPE html><title></title>{frame}", "utf-8")
    found = json.loads(browse(tmp_path, probed, scheme, "--dump-dom").partition("<title>")[2]
                       .partition("</title>")[0].replace("&quot;", '"'))  # fmt: skip
    light = {"rgb(255, 255, 255)": "light", "rgb(20, 23, 27)": "dark"}
    assert light[found["paper"]] == scheme
    assert set(found["text"]) <= {found["ink"]}, "text in charts is in the page's ink"
    assert found["wide"] <= 0, "nothing runs off the page"
    assert found["height"] is None or found["height"] > 11.9, "letters of charts, in pixels"
    assert found["words"] >= 12, "letters of the page, in pixels"
    assert found["focus"] == 0, "every link and table is reached by keyboard"
    assert all(height > 60 for height in found["svg"]) and bool(found["svg"]) == bool(runs)
    if (scheme, width) == ("light", 1200):
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
