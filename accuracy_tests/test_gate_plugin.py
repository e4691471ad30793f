"""The gate itself, run on small suites: what is slow turns red, what is equal stays green."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path
from statistics import median

import pytest

# pytester forgets the modules that a run inside it loads first, and this one loads once a process.
import scipy.special  # noqa: F401

from mpnn_core.commands.main import main
from mpnn_core.gate.budget import seconds
from mpnn_core.gate.history import load_runs, series
from mpnn_core.gate.intervals import fresh_process
from mpnn_core.gate.ledger import Ledger, LedgerError
from mpnn_core.gate.sessions import PROCESSES, Ended, Plan, Record
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

SUITE = """
import pytest
from mpnn_core.gate.verdicts import Interval
"""

# What it times takes no time: fresh processes are played, and say what `suite` is told to.
SPEED = """
@pytest.mark.claim("T1", "speed")
def test_speed(paired):
    paired(lambda: 0, lambda: 1)
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


class Recorded:
    """Fresh processes whose records are known: seconds of each side, a little apart by process."""

    def __init__(self, baseline: float, candidate: float, spread: float = 0.01):
        self.seconds = {"baseline": baseline, "candidate": candidate, "control": baseline}
        self.spread, self.numbers = spread, count()
        self.plans: list[Plan] = []
        self.arguments: list[str] = []

    def run_pytest(self, arguments, folder, plan, environment) -> Ended:
        self.plans.append(plan)
        self.arguments = list(arguments)
        return Ended({test: self.record(test) for test in plan.tests}, 0.5)

    def record(self, test: str) -> Record:
        number = next(self.numbers)
        sides = {
            side: [math.log(s) + self.spread * math.sin(number + i)] * 3
            for i, (side, s) in enumerate(self.seconds.items())
        }
        return Record(test, 0.1, 0.03, sides)


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch):
    """Run a small suite with these tests: the outcome, and the ledger's entries by figure."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # a run of its own, in no worker
    pytester.makefile(".toml", claims=CLAIMS, pyproject=PROJECT)
    pytester.makeconftest('pytest_plugins = ["mpnn_core.gate.plugin"]')

    def run(
        tests: str,
        *options: str,
        ratio: float = 2.0,
        recorded: Recorded | None = None,
        every: bool = False,
    ):
        processes = recorded or Recorded(0.02, 0.02 / ratio)
        monkeypatch.setattr("mpnn_core.gate.plugin.run_pytest", processes.run_pytest)
        pytester.makepyfile(SUITE + tests)
        result = pytester.runpytest("-p", "no:cacheprovider", "--budget", "20s", *options)
        path = pytester.path / ".mpnn_core" / "ledger.json"
        entries = Ledger.load(path).entries if path.exists() else []
        return result, entries if every else {entry.figure: entry for entry in entries}

    return run


def test_a_candidate_that_is_twice_as_fast_is_green(suite) -> None:
    result, entries = suite(SPEED)
    result.assert_outcomes(passed=1)
    speed = entries["speed"]
    assert speed.value == pytest.approx(2.0, rel=0.02)
    assert (speed.gate, speed.processes, speed.pairs) == ("passed", PROCESSES, 3 * PROCESSES)


def test_a_slowed_down_candidate_is_red_and_says_why(suite) -> None:
    result, entries = suite(SPEED, ratio=1.05)
    result.assert_outcomes(failed=1)
    assert entries["speed"].gate == "failed"
    text = result.stdout.str()
    assert "claim T1, speed, on cpu (a loop): the gate is >= 1.5, measured" in text
    assert " pairs, control [" in text


def test_a_thing_against_itself_is_no_change(suite) -> None:
    result, entries = suite(SPEED.replace('"speed"', '"same"'), ratio=1.0)
    result.assert_outcomes(passed=1)
    assert entries["same"].low < 1 < entries["same"].high, entries["same"].measured


def test_processes_that_differ_much_settle_nothing(suite) -> None:
    """What is between processes is in the interval, however alike the rounds of each are."""
    result, entries = suite(SPEED, recorded=Recorded(0.02, 0.01, spread=0.5))
    result.assert_outcomes(passed=1)
    speed = entries["speed"]
    assert speed.gate == "inconclusive" and speed.low < 1 < 3 < speed.high, speed.measured


def test_what_pytest_benchmark_stores_are_our_times(suite, pytester) -> None:
    processes = Recorded(0.02, 0.01)
    suite(SPEED, "--benchmark-json=b.json", recorded=processes)
    stored = json.loads((pytester.path / "b.json").read_text())["benchmarks"][0]
    assert stored["stats"]["rounds"] == PROCESSES
    info = stored["extra_info"]
    assert stored["stats"]["median"] == pytest.approx(median(info["candidate_s"]))
    assert median(info["candidate_s"]) == pytest.approx(0.01, rel=0.02)
    assert median(info["baseline_s"]) == pytest.approx(0.02, rel=0.02)
    assert len(info["control_s"]) == info["processes"] == PROCESSES
    assert (info["claim"], info["figure"], info["gate"]) == (["T1"], ["speed"], ["passed"])
    assert info["workload"] == "a loop"
    assert info["control_ci"][0] <= 1 <= info["control_ci"][1]
    found = fresh_process([math.log(ratio) for ratio in info["ratios"]])
    assert [found.low, found.high] == pytest.approx(info["ci"])
    assert found.value == pytest.approx(info["ratio"])
    assert info["pairs"] == 3 * PROCESSES
    assert info["device"] == "cpu" and int(info["threads"]) >= 1
    assert info["verdict"] and "UNSERIALIZABLE" not in json.dumps(info)


COMPARED = ("--benchmark-compare", "--benchmark-compare-fail=median:10%", "--benchmark-autosave")


@pytest.mark.parametrize(
    ("slower", "fails"), [("candidate", True), ("baseline", False), ("nothing", False)]
)
def test_pytest_benchmark_compares_our_times_alone(suite, slower, fails) -> None:
    """A candidate that became twice as slow fails; a baseline that did is none of our doing."""
    suite(SPEED, "--benchmark-autosave", recorded=Recorded(0.08, 0.01))
    seconds_of = {"baseline": 0.08, "candidate": 0.01}
    if slower in seconds_of:
        seconds_of[slower] *= 2
    result, entries = suite(SPEED, *COMPARED, recorded=Recorded(**seconds_of))
    assert entries["speed"].gate == "passed"  # 4 times as fast at the least: our own gate holds
    assert (result.ret != 0) is fails, result.stdout.str()[-2000:]
    if fails:
        said = result.stdout.str() + result.stderr.str()
        assert "Performance has regressed" in said and "test_speed" in said


def test_a_test_that_fails_in_a_fresh_process_is_red_with_its_error(suite) -> None:
    class Failing(Recorded):
        def record(self, test: str) -> Record:
            return Record(test, 0.1, error="E   RuntimeError: out of memory")

    result, entries = suite(SPEED, recorded=Failing(0.02, 0.01))
    result.assert_outcomes(failed=1)
    assert entries["speed"].gate == "failed"
    said = result.stdout.str()
    assert "test_speed, in a fresh process: E   RuntimeError: out of memory" in said


def test_a_process_that_dies_is_said_and_the_others_are_enough(suite) -> None:
    class Dying(Recorded):
        def run_pytest(self, arguments, folder, plan, environment) -> Ended:
            ended = super().run_pytest(arguments, folder, plan, environment)
            return Ended({}, 0.5, "exit status -9: killed") if len(self.plans) == 3 else ended

    tests = SPEED + SPEED.replace("test_speed", "test_again")
    result, entries = suite(tests, recorded=Dying(0.02, 0.01), every=True)
    speeds = [entry for entry in entries if entry.figure == "speed"]
    assert "process 3 of 8: 0 tests timed in 0 s; exit status -9: killed" in result.stdout.str()
    assert [entry.processes for entry in speeds] == [7, 7]
    result.assert_outcomes(passed=2)


def test_a_fresh_process_is_told_what_this_run_is_of(suite) -> None:
    processes = Recorded(0.02, 0.01)
    (test,) = ("test_a_fresh_process_is_told_what_this_run_is_of.py",)
    suite(SPEED, "--device", "cpu", "-k", "speed", "--benchmark-autosave", recorded=processes)
    arguments = " ".join(processes.arguments)
    assert f"{test} " in arguments and "--device cpu" in arguments
    assert "-o addopts=" in arguments and "-p no:cacheprovider" in arguments
    assert not [name for name in ("autosave", "ledger", "junit", " -k") if name in arguments]
    assert list(processes.plans[0].tests) == [f"{test}::test_speed"]


def test_what_is_timed_elsewhere_is_not_given_to_fresh_processes(suite, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    processes = Recorded(0.02, 0.01)
    test = """
@pytest.mark.times_on("cuda")
@pytest.mark.claim("T1", "same")
def test_same(paired, not_exercised):
    not_exercised("an NVIDIA GPU")
"""
    suite(SPEED + test, recorded=processes)
    assert [t.split("::")[1] for t in processes.plans[0].tests] == ["test_speed"]


def test_xdist_s_workers_do_not_time_beside_each_other(suite, pytester, monkeypatch) -> None:
    root = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), str(root / "fixtures")]))
    suite(SPEED + LOSS.format("0.5"), "--collect-only")  # writes the files
    result = pytester.runpytest_subprocess("-n", "2", "-p", "no:cacheprovider", timeout=300)
    entries = {e.figure: e for e in Ledger.load(pytester.path / ".mpnn_core/ledger.json").entries}
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, errors=1)
    said = result.stdout.str()
    assert "test_speed is timed, and pytest-xdist's workers would disturb each other" in said
    assert (entries["loss"].value, entries["speed"].value) == (0.5, None)


def test_a_number_of_processes_that_is_none_is_refused(suite) -> None:
    result, _ = suite(SPEED, "--processes=0")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--processes 0: expected 1 or more" in result.stdout.str() + result.stderr.str()


def test_a_stored_run_carries_its_whole_ledger(suite, pytester) -> None:
    """What was judged and not timed, and what was not run, as well: the history is of figures."""
    tests = SPEED + LOSS.format("0.5")
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


@pytest.mark.parametrize(
    ("option", "pairs", "note"),
    [
        ("--benchmark-disable", 1, "benchmarks are disabled"),
        ("--budget=0s", 0, "the budget has 0 s left"),
    ],
)
def test_without_time_nothing_is_settled(suite, option, pairs, note) -> None:
    result, entries = suite(SPEED, option)
    result.assert_outcomes(passed=1)
    speed = entries["speed"]
    assert (speed.verdict, speed.gate) == ("inconclusive", "inconclusive")
    assert (speed.pairs, speed.note) == (pairs, note)


@pytest.mark.parametrize(("cost", "ran"), [(10, True), (3600, False)])
def test_what_is_costly_comes_last_and_only_if_the_budget_pays(suite, cost, ran) -> None:
    costly = f"@pytest.mark.costly({cost})" + LOSS.format("0.5")
    result, entries = suite(costly + SPEED, "-v")
    lines = [line for line in result.outlines if "::test_" in line and "[" in line]
    assert "test_speed" in lines[0] and "test_loss" in lines[1]
    loss = entries["loss"]
    if ran:
        assert (loss.value, loss.gate) == (0.5, "passed")
    else:
        assert (loss.value, loss.verdict, loss.gate) == (None, "inconclusive", "inconclusive")
        assert "takes about 3600 s, the budget has" in loss.note
        result, _ = suite(costly, "--acceptance")
        result.assert_outcomes(errors=1)


def test_a_part_of_the_budget_is_kept_for_what_is_costly_and_not_timed(suite) -> None:
    for cost, share in ((4, 16 / 8), (6, 20 / 8)):  # a quarter of 20 s, at the most
        processes = Recorded(0.02, 0.01)
        suite(f"@pytest.mark.costly({cost})" + LOSS.format("0.5") + SPEED, recorded=processes)
        assert processes.plans[0].until_s == pytest.approx(share)


def test_what_is_timed_and_costly_is_left_out_if_the_budget_does_not_pay(suite) -> None:
    class Short(Recorded):
        def record(self, test: str) -> Record:
            return Record(test, 0.1, too_late=True)

    costly = SPEED.replace("@pytest.mark.claim", "@pytest.mark.costly(50)\n@pytest.mark.claim")
    result, entries = suite(costly, recorded=Short(0.02, 0.01))
    result.assert_outcomes(skipped=1)
    speed = entries["speed"]
    assert (speed.value, speed.verdict, speed.gate) == (None, "inconclusive", "inconclusive")
    assert speed.note == "takes about 400 s, the budget did not pay for it"


def test_accuracy_is_asserted_where_benchmarks_are_disabled(suite) -> None:
    wrong = SPEED.replace("    paired(", "    assert 1 > 2\n    paired(")
    suite(wrong, "--benchmark-disable")[0].assert_outcomes(failed=1)


@pytest.mark.parametrize(
    ("option", "skipped", "run"),
    [("--benchmark-only", "loss", "speed"), ("--benchmark-skip", "speed", "loss")],
)
def test_what_benchmark_options_skip_is_not_run(suite, option, skipped, run) -> None:
    tests = SPEED + LOSS.format("0.1")
    result, entries = suite(tests, option)
    result.assert_outcomes(passed=1, skipped=1)
    assert entries[skipped].verdict == "not run", entries[skipped]
    assert entries[run].value is not None, entries[run]


def test_acceptance_mode_fails_what_stays_inconclusive(suite) -> None:
    tests = SPEED
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
    wrong = SPEED.replace("    paired(", "    assert 1 > 2\n    paired(")
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
    judge(Interval({0}, 0.95 * {0}, 1.05 * {0}), control=Interval(1, 0.99, 1.01))
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
    assert (
        line in " ".join(result.stdout.str().split())
        and f"no gate for {timed.machine} yet" in timed.note
    )

    assert main(["claims", "--record"]) == 0
    assert f"timed figures of {timed.machine} recorded in fixtures" in capsys.readouterr().out
    assert main(["claims", "--record"]) == 1
    assert "recorded already" in capsys.readouterr().out

    nothing = (
        '@pytest.mark.claim("T1", "timed")\ndef test_timed(judge):\n    judge(None, note="busy")'
    )
    # A figure that a run cannot measure keeps what an earlier run measured.
    (pytester.path / ".mpnn_core" / "ledger.json").unlink()
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
    result, _ = suite(SPEED + ALL_BUT_SPEED, "--bindings")
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
    _, entries = suite(SPEED)
    ledger = Ledger.load(pytester.path / ".mpnn_core" / "ledger.json")
    assert [e.figure for e in ledger.entries] == ["speed", "same", "loss", "mac"]
    assert ledger.machine["torch"] and ledger.mode == "default"
    assert ledger.entries[0] == entries["speed"]
    assert any(entry.verdict is Verdict.NOT_RUN for entry in ledger.entries)


@pytest.mark.parametrize("columns", [40, 80, 150])
@pytest.mark.parametrize("options", [(), ("--ledger-all",)])
def test_the_printed_ledger_fits_the_terminal_and_has_no_colour_in_a_file(
    suite, monkeypatch, options, columns
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    result, entries = suite(SPEED, *options)
    text = result.stdout.str()
    printed = text[text.index("Claims ledger") : text.index("the whole ledger is in")]
    assert set(entries["speed"].measured.split()) <= set(printed.split()), printed
    assert "\x1b[" not in printed
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


def test_a_run_of_a_part_keeps_the_other_rows_and_stores_its_own_alone(suite, pytester) -> None:
    tests = SPEED + LOSS.format("0.5")
    suite(tests, "-k", "loss")
    path, monday = pytester.path / ".mpnn_core" / "ledger.json", "2020-01-06T10:00:00+00:00"
    ledger = Ledger.load(path)
    ledger.entries = [replace(e, date=monday) for e in ledger.entries]
    ledger.save(path)
    result, entries = suite(tests, "-k", "speed", "--benchmark-autosave")
    assert (entries["loss"].value, entries["loss"].date) == (0.5, monday)
    assert entries["speed"].pairs == 3 * PROCESSES and entries["speed"].date > monday
    text = " ".join(result.stdout.str().split())
    assert "rows: 1 of this run, 1 of earlier runs, the oldest of 2020-01-06 10:00 UTC" in text
    (run,) = load_runs(pytester.path / ".benchmarks")
    assert [e.figure for e in run.ledger.entries if e.test] == ["speed"]


def test_what_leaves_the_ledger_is_printed(suite, pytester) -> None:
    suite(LOSS.format("0.5"))
    path = pytester.path / ".mpnn_core" / "ledger.json"
    path.write_text(path.read_text().replace('"processor": "', '"processor": "An old '))
    result, entries = suite('@pytest.mark.claim("T1", "same")\ndef test_it(judge):\n    judge(1)\n')
    assert entries["loss"].value is None and entries["same"].value == 1
    text = " ".join(result.stdout.str().split())
    assert "left out of the ledger, measured on another machine, An old" in text


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
