"""The short ledger of our own claims, as README's first command prints it."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from itertools import chain, count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from stored_runs import entry, ledger

from mpnn_core.gate.claims import load_claims
from mpnn_core.gate.ledger import Ledger
from mpnn_core.gate.printing import headline_entries, print_short, print_table, print_whole
from mpnn_core.gate.verdicts import GateResult, Verdict

CLAIMS = load_claims(Path(__file__).parents[1] / "claims.toml")


def everything() -> Ledger:
    """Every figure measured as reported; those that need other hardware not exercised."""
    entries = [
        entry(claim, key, figure.reported)
        for claim in CLAIMS.values()
        for key, figure in claim.figures.items()
        if not figure.needs
    ]
    return ledger(entries).completed(CLAIMS)


def printed(content, form=print_short, width: int = 80) -> str:
    text = io.StringIO()
    form(content, Console(file=text, width=width))
    return text.getvalue()


WIDTHS = (40, 60, 80, 100, 200)
NOT_A_WORD = ("Z", "C")  # what divides words, and what a terminal does not print
WORDS = st.text(st.characters(exclude_categories=NOT_A_WORD), min_size=1, max_size=30)
CELLS = st.lists(WORDS, min_size=1, max_size=4)


@settings(max_examples=40)
@given(
    rows=st.lists(st.tuples(*[CELLS] * 4), min_size=1, max_size=2), width=st.sampled_from(WIDTHS)
)
def test_a_table_has_every_word_of_every_cell_in_order(rows, width) -> None:
    """At any width: beside each other or below each other, no letter is cut off or on its own."""
    number = count()  # no two words alike
    told = [[[f"{word}{next(number)}" for word in cell] for cell in row] for row in rows]
    content = [[" ".join(cell) for cell in row] for row in told]
    text = printed(content, lambda rows, console: print_table("abcd", rows, console), width)
    shown = text.split()
    for cell in chain.from_iterable(told):
        assert [word for word in shown if word in cell] == cell, f"{width} columns:\n{text}"


@pytest.mark.parametrize("form", [print_short, print_whole])
@pytest.mark.parametrize("width", [1, *WIDTHS])
def test_the_ledger_is_no_wider_than_its_terminal_and_has_every_word(form, width) -> None:
    content = everything()
    text = printed(content, form, width)
    for line in text.splitlines():
        assert len(line) <= width or len(line.split()) == 1, f"{width} columns: {line!r}"
    cut = words_of_figures(printed(content, form, 1000)) - words_of_figures(text)
    assert not cut, f"cut, or missing, in {width} columns"


def words_of_figures(text: str) -> Counter[str]:
    """How often each word is printed, without the names of columns, which may stand at each row."""
    names = ["claim", "figure", "reported", "measured", "here", "verdict", "gate", "workload"]
    return Counter(word for word in text.split() if word.removesuffix(":") not in names)


def test_it_has_eight_to_twelve_headlines_of_speed_parity_loss_and_study() -> None:
    headlines = headline_entries(everything())
    assert 8 <= len(headlines) <= 12
    exact = [e if e.value is None else replace(e, low=e.value, high=e.value) for e in headlines]
    lines = printed(ledger(exact), width=120).splitlines()
    assert len(lines) == len(headlines) + 6, "one line for each"
    assert {"E3", "E4", "E20", "S14"} <= {e.claim for e in headlines}


def test_a_red_that_is_no_headline_is_printed_with_its_sentence() -> None:
    content = everything()
    (red,) = (e for e in content.entries if (e.claim, e.figure) == ("S9", "component-2000"))
    at = content.entries.index(red)
    content.entries[at] = replace(red, value=1.2, low=1.1, high=1.3, gate=GateResult.FAILED)
    text = printed(content)
    assert "the gate is >= 2, measured 1.2 [1.1, 1.3] x: failed" in " ".join(text.split())


def test_at_acceptance_what_is_inconclusive_is_red() -> None:
    content = everything()
    (e,) = (e for e in content.entries if (e.claim, e.figure) == ("S9", "component-2000"))
    content.entries[content.entries.index(e)] = replace(e, gate=GateResult.INCONCLUSIVE)
    assert "claim S9, component-2000" not in printed(content)
    content.mode = "acceptance"
    assert "claim S9, component-2000" in printed(content)


def test_missing_hardware_is_counted_by_its_name() -> None:
    text = " ".join(printed(everything()).split())
    needs = [f.needs for c in CLAIMS.values() for f in c.figures.values() if f.needs]
    assert needs
    for name in set(needs):
        assert f"{needs.count(name)} need {name}" in text


def test_a_judged_entry_stands_for_a_headline_and_not_another_workload() -> None:
    judged = entry(CLAIMS["E2"], "speed", 40)
    beside = replace(judged, verdict=Verdict.RECORDED, value=3.0, low=3.0, high=3.0)
    unmeasured = replace(judged, verdict=Verdict.NOT_EXERCISED, value=None, low=None, high=None)
    for entries in ([beside, judged], [unmeasured, judged, beside]):
        assert headline_entries(ledger(entries)) == [judged]


def test_a_run_of_a_part_shows_that_part() -> None:
    """Headlines that were not run say nothing; a missing device is shown beside those that were."""
    speed, count = entry(CLAIMS["E2"], "speed", 40), entry(CLAIMS["S12"], "errors", 0)
    part = ledger([speed, count]).completed(CLAIMS)
    assert [(e.claim, e.figure) for e in headline_entries(part)] == [
        ("E2", "speed"),
        ("E8", "many-fast"),
    ]
    assert headline_entries(ledger([count]).completed(CLAIMS)) == [count]


def test_without_headlines_all_that_was_measured_is_printed() -> None:
    plain = [replace(e, headline="") for e in everything().entries]
    assert len(headline_entries(ledger(plain))) == sum(e.value is not None for e in plain)


def test_the_whole_ledger_has_every_figure() -> None:
    text = printed(everything(), print_whole)
    for claim in CLAIMS.values():
        for key in claim.figures:
            assert f"{claim.id} {key} " in " ".join(text.split()), f"{claim.id} {key}"
