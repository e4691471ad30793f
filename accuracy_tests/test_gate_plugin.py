"""The gate itself, run on small suites: what is slow turns red, what is equal stays green."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

from mpnn_core.commands.main import main
from mpnn_core.gate.budget import Budget, seconds
from mpnn_core.gate.history import load_runs, series
from mpnn_core.gate.ledger import Entry, Ledger, LedgerError
from mpnn_core.gate.printing import SHORT_COLUMNS, WHOLE_COLUMNS
from mpnn_core.gate.verdicts import Verdict

CLAIMS = """
[[claim]]
id = "T1"
title = "twice as fast"
source = "here"
hardware = "any"
machine = "any"
workload = "a loop"
known = "exactly what it does"

[claim.figures.speed]
reported = 2.0
unit = "x"
sense = "speedup"
gates.cpu = { at_least = 1.5, source = "it does half the work" }

[claim.figures.same]
reported = 1.0
unit = "x"
sense = "about"
margin = 1.25
ungated = "what it is tried on differs"

[claim.figures.loss]
reported = 0
unit = "points"
sense = "about"
margin = 1
gates.cpu = { at_most = 2, source = "stated" }

[claim.figures.mac]
reported = 3
unit = "x"
sense = "speedup"
needs = "Apple silicon"
"""

# Our own module of hardware, fixtures/hardware.py: this suite runs in a process that has it.
PROJECT = """
[tool.mpnn_core.gate]
package = "toy"
hardware = "hardware"

[tool.mpnn_core.gate.devices]
cpu = ""
cuda = "an NVIDIA GPU"
mps = "Apple silicon"

[tool.mpnn_core.gate.frameworks]
mlx = "MLX"
coreml = "Core ML (coremltools)"
"""

# A loop of n steps, about 20 ns each: a cost that is known exactly, whatever the machine.
SUITE = """
import pytest
from mpnn_core.gate.verdicts import Interval

def loop(n):
    def run():
        for _ in range(n):
            pass
    return run
"""

FAST = """
@pytest.mark.claim("T1", "speed")
def test_speed(paired):
    paired(loop(200_000), loop({candidate}))
"""

LOSS = """
@pytest.mark.claim("T1", "loss")
def test_loss(judge):
    judge({})
"""

ALL_BUT_SPEED = """
@pytest.mark.parametrize("key", [
    pytest.param(key, marks=pytest.mark.claim("T1", key)) for key in ("same", "loss", "mac")
])
def test_others(judge, key):
    judge(0)
"""


@pytest.fixture
def suite(pytester: pytest.Pytester):
    """Run a small suite with these tests: the outcome, and the ledger's entries by figure."""
    pytester.makefile(".toml", claims=CLAIMS, pyproject=PROJECT)
    pytester.makeconftest('pytest_plugins = ["mpnn_core.gate.plugin"]')

    def run(tests: str, *options: str, every: bool = False):
        pytester.makepyfile(SUITE + tests)
        result = pytester.runpytest("-p", "no:cacheprovider", "--budget", "20s", *options)
        path = pytester.path / ".mpnn_core" / "ledger.json"
        entries = Ledger.load(path).entries if path.exists() else []
        return result, entries if every else {entry.figure: entry for entry in entries}

    return run


def test_a_candidate_that_is_twice_as_fast_is_green(suite) -> None:
    result, entries = suite(FAST.format(candidate="100_000"))
    result.assert_outcomes(passed=1)
    speed = entries["speed"]
    assert 1.5 < speed.value < 2.7, speed.measured
    if overloaded(speed):
        assert speed.verdict == "inconclusive" and speed.gate in ("inconclusive", "passed")
        return
    # An interval of a busy machine may be too wide to say that it holds the figure.
    assert speed.verdict in ("confirmed", "direction only", "inconclusive")
    assert speed.gate == "passed"


def overloaded(entry: Entry) -> bool:
    """Whether the baseline cannot be told from itself to within the square root of the claim.

    With several processes for each processor a loop is stopped at any time: nothing is settled.
    """
    low, high = entry.control
    return low < 2**-0.5 or high > 2**0.5 or not low <= 1 <= high


def test_a_slowed_down_candidate_is_red_and_says_why(suite) -> None:
    result, entries = suite(FAST.format(candidate="190_000"))
    if overloaded(entries["speed"]):
        assert entries["speed"].verdict == "inconclusive" and entries["speed"].gate != "passed"
        return
    result.assert_outcomes(failed=1)
    assert entries["speed"].gate == "failed"
    assert entries["speed"].verdict == "refuted"
    text = result.stdout.str()
    assert "claim T1, speed, on cpu (a loop): the gate is >= 1.5, measured" in text
    assert " pairs, control [" in text


def test_a_thing_against_itself_is_no_change(suite) -> None:
    result, entries = suite(
        '@pytest.mark.claim("T1", "same")\ndef test_same(paired):\n'
        "    paired(loop(200_000), loop(200_000))\n"
    )
    result.assert_outcomes(passed=1)
    assert entries["same"].verdict in ("confirmed", "inconclusive")
    assert entries["same"].low <= 1.02 and entries["same"].high >= 0.98, entries["same"].measured


def test_what_pytest_benchmark_stores_are_the_rounds(suite, pytester) -> None:
    suite(FAST.format(candidate="100_000"), "--benchmark-json=b.json")
    stored = json.loads((pytester.path / "b.json").read_text())["benchmarks"][0]
    assert stored["stats"]["rounds"] == 10
    info = stored["extra_info"]
    assert (info["claim"], info["figure"], info["gate"]) == (["T1"], ["speed"], ["passed"])
    assert info["workload"] == "a loop"
    assert info["control_ci"][0] <= 1 <= info["control_ci"][1]
    assert info["ci"][0] <= info["ratio"] <= info["ci"][1]
    assert info["pairs"] >= 10 and info["device"] == "cpu" and int(info["threads"]) >= 1
    assert info["verdict"] and "UNSERIALIZABLE" not in json.dumps(info)


def test_a_stored_run_carries_its_whole_ledger(suite, pytester) -> None:
    """What was judged and not timed, and what was not run, as well: the history is of figures."""
    tests = FAST.format(candidate="100_000") + LOSS.format("0.5")
    _, entries = suite(tests, "--benchmark-autosave")
    (run,) = load_runs(pytester.path / ".benchmarks")
    stored = {entry.figure: entry for entry in run.ledger.entries}
    assert stored == entries
    assert stored["loss"].value == 0.5 and stored["mac"].verdict == "not exercised"
    assert run.processor == run.ledger.machine["processor"] and run.date
    assert {s.figure for s in series([run])} == {"speed", "loss"}


def test_against_runs_the_comparison_and_nothing_else(suite) -> None:
    tests = LOSS.format("0.5") + "@pytest.mark.against\ndef test_it(comparison):\n    pass\n"
    result, entries = suite(tests)
    result.assert_outcomes(passed=1, deselected=1)
    assert entries["loss"].value == 0.5
    result, _ = suite(tests, "--against", "HEAD")
    result.assert_outcomes(errors=1, deselected=1)
    assert "rev-parse --verify --quiet HEAD^{tree}" in result.stdout.str()


def test_a_proof_runs_when_it_is_asked_for(suite) -> None:
    tests = LOSS.format("0.5") + "@pytest.mark.proof\ndef test_it():\n    assert False\n"
    suite(tests)[0].assert_outcomes(passed=1, deselected=1)
    suite(tests, "--proof")[0].assert_outcomes(passed=1, failed=1)


@pytest.mark.parametrize("option", ["--benchmark-disable", "--budget=0s"])
def test_without_time_nothing_is_settled(suite, option) -> None:
    result, entries = suite(FAST.format(candidate="100_000"), option)
    result.assert_outcomes(passed=1)
    speed = entries["speed"]
    assert (speed.verdict, speed.gate, speed.pairs) == ("inconclusive", "inconclusive", 1)
    assert ("the budget has 0 s left" in speed.note) == (option == "--budget=0s"), speed.note


@pytest.mark.parametrize(("cost", "ran"), [(10, True), (3600, False)])
def test_what_is_costly_comes_last_and_only_if_the_budget_pays(suite, cost, ran) -> None:
    costly = f"@pytest.mark.costly({cost})" + LOSS.format("0.5")
    result, entries = suite(costly + FAST.format(candidate="100_000"), "-v")
    lines = [line for line in result.outlines if "::test_" in line]
    assert "test_speed" in lines[0] and "test_loss" in lines[1]
    loss = entries["loss"]
    if ran:
        assert (loss.value, loss.gate) == (0.5, "passed")
    else:
        assert (loss.value, loss.verdict, loss.gate) == (None, "inconclusive", "inconclusive")
        assert "takes about 3600 s, the budget has" in loss.note
        result, _ = suite(costly, "--acceptance")
        result.assert_outcomes(errors=1)


def test_accuracy_is_asserted_where_benchmarks_are_disabled(suite) -> None:
    wrong = FAST.format(candidate="100_000").replace("    paired", "    assert 1 > 2\n    paired")
    suite(wrong, "--benchmark-disable")[0].assert_outcomes(failed=1)


@pytest.mark.parametrize(
    ("option", "skipped", "run"),
    [("--benchmark-only", "loss", "speed"), ("--benchmark-skip", "speed", "loss")],
)
def test_what_benchmark_options_skip_is_not_run(suite, option, skipped, run) -> None:
    tests = FAST.format(candidate="100_000") + LOSS.format("0.1")
    result, entries = suite(tests, option)
    result.assert_outcomes(passed=1, skipped=1)
    assert entries[skipped].verdict == "not run", entries[skipped]
    assert entries[run].value is not None, entries[run]


def test_acceptance_mode_fails_what_stays_inconclusive(suite) -> None:
    tests = FAST.format(candidate="100_000")
    suite(tests, "--benchmark-disable")[0].assert_outcomes(passed=1)
    result, _ = suite(tests, "--benchmark-disable", "--acceptance")
    result.assert_outcomes(failed=1)


def test_accuracy_is_judged_and_gated(suite) -> None:
    result, entries = suite(LOSS.format("Interval(0.2, -0.5, 0.9)"))
    result.assert_outcomes(passed=1)
    assert entries["loss"].verdict == "confirmed" and entries["loss"].agrees
    result, entries = suite(LOSS.format("Interval(9, 8, 10)"))
    result.assert_outcomes(failed=1)
    assert entries["loss"].verdict == "refuted" and entries["loss"].gate == "failed"
    assert not entries["loss"].agrees
    text = "claim T1, loss, on cpu (a loop): the gate is <= 2, measured 9 [8, 10] points: failed"
    assert text in result.stdout.str()


@pytest.mark.parametrize("number", ["0.5", "np.float32(0.5)", "np.int64(1)", "torch.tensor(0.5)"])
def test_a_number_of_any_library_is_a_number(suite, number) -> None:
    result, entries = suite("import numpy as np\nimport torch\n" + LOSS.format(number))
    result.assert_outcomes(passed=1)
    assert entries["loss"].low == entries["loss"].high == entries["loss"].value


def test_not_a_number_is_red(suite) -> None:
    """NaN lies neither inside nor outside the bounds, and must not pass for inconclusive."""
    result, entries = suite(LOSS.format("float('nan')"))
    result.assert_outcomes(failed=1)
    assert entries["loss"].gate == "failed", entries["loss"]


def test_a_failure_before_the_measurement_is_a_failed_gate(suite) -> None:
    """A fast wrong answer has no speed."""
    wrong = FAST.format(candidate="10").replace("    paired", "    assert 1 > 2\n    paired")
    result, entries = suite(wrong)
    result.assert_outcomes(failed=1)
    assert (entries["speed"].verdict, entries["speed"].gate) == ("not run", "failed")
    red = "claim T1, speed: gate failed: the test of it failed before it was measured"
    assert red in result.stdout.str()


def test_a_bound_test_that_judges_nothing_is_red(suite) -> None:
    result, _ = suite('@pytest.mark.claim("T1", "loss")\ndef test_loss():\n    pass\n')
    result.assert_outcomes(failed=1)
    assert "names T1 loss, and judged nothing of it" in result.stdout.str()


def test_another_workload_is_kept_and_not_judged(suite) -> None:
    result, entries = suite(LOSS.format("99, only_record=True"))
    result.assert_outcomes(passed=1)
    assert (entries["loss"].verdict, entries["loss"].gate) == ("recorded", "no gate")


RECORD = """
[claim.figures.timed]
at_least = 3.0
unit = "x"
sense = "target"
gated = "recorded"
"""

TIMED = """
@pytest.mark.claim("T1", "timed")
def test_timed(judge):
    judge(Interval({0}, 0.95 * {0}, 1.05 * {0}), control=Interval(1, 0.99, 1.01), pairs=80)
"""


def test_a_timed_figure_is_gated_by_what_was_recorded_on_its_class_of_machine(
    suite, pytester, capsys, monkeypatch
) -> None:
    pytester.makefile(".toml", claims=CLAIMS + RECORD)
    monkeypatch.chdir(pytester.path)
    result, entries = suite(TIMED.format(2.0))
    result.assert_outcomes(passed=1)
    timed = entries["timed"]
    assert (timed.gate, timed.judged) == ("no gate yet", "short by 33 %")
    assert timed.machine.startswith("cpu-") and "cores" in timed.processor and timed.date
    line = f"no gate for this class yet ({timed.machine}): 1 timed figure; `mpnn-core claims --rec"
    assert line in result.stdout.str() and f"no gate for {timed.machine} yet" in timed.note

    assert main(["claims", "--record"]) == 0
    assert f"timed figures of {timed.machine} recorded in fixtures" in capsys.readouterr().out
    assert main(["claims", "--record"]) == 1
    assert "recorded already" in capsys.readouterr().out

    nothing = (
        '@pytest.mark.claim("T1", "timed")\ndef test_timed(judge):\n    judge(None, note="busy")'
    )
    result, entries = suite(nothing)
    result.assert_outcomes(passed=1)
    assert (entries["timed"].gate, entries["timed"].note) == (
        "inconclusive",
        f"busy; the gate is 0.8 x 2, the median of 1 recorded run on {timed.processor}",
    )
    result, entries = suite(nothing.replace("None", "None, workload='another'"))
    assert (entries["timed"].gate, entries["timed"].note) == ("inconclusive", "busy")

    result, entries = suite(TIMED.format(1.9))
    result.assert_outcomes(passed=1)
    assert (entries["timed"].gate, entries["timed"].bound) == ("passed", ">= 1.6")
    result, entries = suite(TIMED.format(2.0 * 2 / 3))
    result.assert_outcomes(failed=1)
    assert "claim T1, timed, on cpu (a loop): the gate is >= 1.6, measured 1.33" in (
        result.stdout.str()
    )


def test_a_device_that_is_not_here_is_not_exercised(suite, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    test = (
        '@pytest.mark.claim("T1", "loss")\ndef test_loss(device, synchronise, judge):\n'
        "    synchronise()\n    judge(0.5, device=device)\n"
    )
    result, entries = suite(test, every=True)
    result.assert_outcomes(passed=1, skipped=2)
    assert [(e.device, e.verdict, e.note) for e in entries if e.figure == "loss"] == [
        ("cpu", "confirmed", ""),
        ("-", "not exercised", "needs an NVIDIA GPU"),
        ("-", "not exercised", "needs Apple silicon"),
    ]
    suite(test, "--device", "cpu")[0].assert_outcomes(passed=1)


def test_a_test_may_name_its_devices(suite, monkeypatch) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    test = (
        '@pytest.mark.parametrize("device", ["cpu", "mps"], indirect=True)\n'
        '@pytest.mark.claim("T1", "loss")\ndef test_loss(device, judge):\n'
        "    judge(0.5, device=device)\n"
    )
    result, entries = suite(test, every=True)
    result.assert_outcomes(passed=1, skipped=1)
    assert [(e.device, e.note) for e in entries if e.figure == "loss"] == [
        ("cpu", ""),
        ("-", "needs Apple silicon"),
    ]
    suite(test, "--device", "mps")[0].assert_outcomes(skipped=2)


def test_what_was_found_without_the_hardware_stands_beside(suite) -> None:
    test = (
        '@pytest.mark.claim("T1", "loss")\ndef test_loss(not_exercised):\n'
        '    not_exercised("Apple silicon", "parity 1e-6")\n'
    )
    _, entries = suite(test)
    assert entries["loss"].note == "needs Apple silicon; parity 1e-6"


@pytest.mark.parametrize(("framework", "needs"), [("mlx", "MLX"), ("coreml", "Core ML")])
def test_a_framework_that_is_not_here_is_not_exercised(
    suite, monkeypatch, framework, needs
) -> None:
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    monkeypatch.setitem(sys.modules, "coremltools", None)
    result, entries = suite(
        '@pytest.mark.claim("T1", "mac")\ndef test_mac(find_device, judge):\n'
        f'    find_device("{framework}")\n    judge(3)\n'
    )
    result.assert_outcomes(skipped=1)
    assert entries["mac"].verdict == "not exercised"
    assert entries["mac"].note.startswith(f"needs {needs}")


def test_bindings_name_the_test_of_each_figure(suite) -> None:
    result, _ = suite(FAST.format(candidate="100_000") + ALL_BUT_SPEED, "--bindings")
    assert result.ret == pytest.ExitCode.OK
    bound = {line.split()[2] for line in result.outlines if line.startswith("binding T1")}
    assert bound == {"speed", "same", "loss", "mac"}


def test_a_claim_without_a_test_stops_the_run(suite) -> None:
    result, _ = suite(ALL_BUT_SPEED, "--bindings")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "no test settles T1 speed" in result.stderr.str() + result.stdout.str()


def test_missing_hardware_is_counted_apart(suite) -> None:
    test = (
        '@pytest.mark.claim("T1", "mac")\ndef test_mac(not_exercised):\n'
        '    not_exercised("Apple silicon")\n'
    )
    result, entries = suite(test)
    result.assert_outcomes(skipped=1)
    assert entries["mac"].verdict == "not exercised"
    text = result.stdout.str()
    assert "not exercised here: 1 need Apple silicon" in text and "not run: 3" in text
    text = suite(test, "--ledger-all")[0].stdout.str()
    assert "not exercised, needs Apple silicon: T1 mac (3 x)" in text
    assert entries["speed"].verdict == "not run"


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ('claim("T9", "speed")', "names claim 'T9', figure 'speed'"),
        ('claim("T1", "colour")', "names claim 'T1', figure 'colour'"),
        ('claim("T1")', "expected claim(id, figure)"),
    ],
)
def test_a_test_that_names_no_claim_stops_the_run(suite, mark, message) -> None:
    result, _ = suite(f"@pytest.mark.{mark}\ndef test_it():\n    pass\n")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str() + result.stdout.str()


def test_measuring_without_a_claim_is_an_error(suite) -> None:
    result, _ = suite("def test_it(judge):\n    judge(1)\n")
    result.assert_outcomes(errors=1)
    assert "measures, but names no claim" in result.stdout.str()


def test_the_ledger_survives_its_file(suite, pytester) -> None:
    _, entries = suite(FAST.format(candidate="100_000"))
    ledger = Ledger.load(pytester.path / ".mpnn_core" / "ledger.json")
    assert [e.figure for e in ledger.entries] == ["speed", "same", "loss", "mac"]
    assert ledger.machine["torch"] and ledger.mode == "default"
    assert ledger.entries[0] == entries["speed"]
    assert any(entry.verdict is Verdict.NOT_RUN for entry in ledger.entries)


@pytest.mark.parametrize(
    ("options", "columns"), [((), SHORT_COLUMNS), (("--ledger-all",), WHOLE_COLUMNS)]
)
def test_the_printed_ledger_fits_a_page_and_has_no_colour_in_a_file(
    suite, options, columns
) -> None:
    result, entries = suite(FAST.format(candidate="100_000"), *options)
    text = result.stdout.str()
    printed = text[text.index("Claims ledger") : text.index("the whole ledger is in")]
    assert entries["speed"].measured.removesuffix(" x") in printed and "\x1b[" not in printed
    assert max(map(len, printed.splitlines())) <= columns
    last = text.rstrip().splitlines()[-1]
    assert last.startswith(f"the whole ledger is in {Path('.mpnn_core', 'ledger.json')}"), last


def test_the_short_ledger_has_the_headlines_and_every_red(suite, pytester) -> None:
    """A figure that is no headline is in it if its gate failed, and only then."""
    speed = "[claim.figures.same]"
    claims = CLAIMS.replace(speed, f'headline = "a short loop"\n{speed}')
    (pytester.path / "claims.toml").write_text(claims)
    tests = '@pytest.mark.claim("T1", "speed")\ndef test_speed(judge):\n    judge(2)\n'
    red = "claim T1, loss, on cpu (a loop): the gate is <= 2, measured 9 points: failed"
    for loss, is_red in ((0.5, False), (9, True)):
        result, entries = suite(tests + LOSS.format(loss))
        text = result.stdout.str()
        printed = text[text.index("Claims ledger") : text.index("the whole ledger is in")]
        assert "1 of 4 figures" in printed and "a short loop" in printed
        assert ("loss" in printed) is is_red and (red in " ".join(printed.split())) is is_red
        assert entries["loss"].value == loss


def test_square_brackets_are_printed_as_they_are(suite) -> None:
    test = LOSS.format('0.5, note="[red] [/] residues [10, 20]"')
    result, _ = suite(test, "--ledger-all")
    assert "[red] [/] residues [10, 20]" in " ".join(result.stdout.str().split())


def test_a_run_without_measurements_leaves_the_last_ledger(suite) -> None:
    suite(LOSS.format("0.5"))
    result, entries = suite("def test_nothing():\n    pass\n")
    assert entries["loss"].value == 0.5
    assert "Claims ledger" not in result.stdout.str()


def test_time_that_a_test_did_not_need_goes_to_the_others() -> None:
    budget = Budget(left=90.0, tests=3)
    assert budget.share() == 30
    budget.left, budget.tests = budget.left - 10, budget.tests - 1
    assert budget.share() == 40


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "it is not JSON in UTF-8: Expecting value"),
        (b"\xff", "it is not JSON in UTF-8: 'utf-8' codec can't decode"),
        (b"[" * 10**5, "it is not JSON in UTF-8: maximum recursion depth"),
        (b"[]", "it holds a list"),
        (b"{}", 'its "schema" is null'),
        (b'{"schema": 0}', 'its "schema" is 0'),
        (b'{"schema": 1}', 'it has no list of "entries"'),
        (b'{"schema": 1, "entries": [{}]}', "an entry: Entry.__init__() missing 7"),
        (b'{"schema": 1, "entries": [1]}', "an entry is 1; expected an object"),
        (b'{"schema": 1, "entries": [], "more": 1}', "it has no field 'more'"),
        (b'{"schema": 1, "entries": [], "machine": []}', "machine is []; expected an object"),
        (b'{"schema": 1, "entries": [], "machine": {"a": 1}}', "machine.a is 1; expected str"),
        (b'{"schema": 1, "entries": [], "date": 7}', "date is 7; expected str"),
    ],
)
def test_what_is_no_ledger_is_told_with_what_to_do(tmp_path, content, found) -> None:
    path = tmp_path / "ledger.json"
    path.write_bytes(content)
    with pytest.raises(LedgerError) as error:
        Ledger.load(path)
    assert str(error.value).startswith(f"{path} is not a ledger of this version: ")
    assert found in str(error.value)
    assert str(error.value).endswith(
        'expected a JSON object with "schema": 1 and "entries", one object per figure of a claim; '
        "`pytest` in the repository writes one"
    )


def test_a_ledger_that_is_not_there_is_told_with_what_to_do(tmp_path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger"):
        Ledger.load(tmp_path / "absent.json")


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("4m", 240), ("1.5h", 5400)])
def test_a_budget_is_read(text, expected) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    "text", ["4", "m", "-3m", "4 minutes", "9" * 400 + "s", "1001h", "nans", "\u0664m"]
)
def test_what_is_no_budget_is_refused(text) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number and s, m or h"):
        seconds(text)
