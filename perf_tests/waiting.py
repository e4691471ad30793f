"""What a rule for waiting threads costs each side of a ratio: spin, or sleep.

    python perf_tests/waiting.py --processes 8

OpenMP's threads spin while they wait for each other (OMP_WAIT_POLICY=ACTIVE), sleep (PASSIVE), or
spin for a while (unset). Fresh processes take turns with the three and time the tests of E1 and E2.
The table has the median seconds of each side, and the ratio to the rule that the claims are timed
under. Run it on an idle machine, and again beside other work.
"""

from __future__ import annotations

import argparse
import math
from statistics import median

from coverage_study import TESTS, timed

from mpnn_core.gate.sessions import WAIT_POLICY, Times, environment_of_child

RULES = ("PASSIVE", "ACTIVE", "unset")
FIGURES = ("E1 speed", "E2 speed")


def environment(rule: str) -> dict[str, str]:
    """As the claims have it, under another rule."""
    own = {k: v for k, v in environment_of_child().items() if k not in WAIT_POLICY}
    return own if rule == "unset" else {**own, "OMP_WAIT_POLICY": rule}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=8, help="for each rule")
    options = parser.parse_args()
    tests = [TESTS[figure][0] for figure in FIGURES]
    seconds: dict[tuple[str, str, str], list[float]] = {}
    for number in range(options.processes):
        for rule in RULES:
            ended = timed(number, tests, 1.0, environment(rule))
            print(f"{rule}, process {number + 1}: {ended.seconds:.0f} s {ended.died}", flush=True)
            for figure in FIGURES:
                record = ended.records.get(TESTS[figure][0])
                if record is None or not record.log_seconds:
                    continue
                for side in ("baseline", "candidate"):
                    found = Times([record.log_seconds]).seconds(side)
                    seconds.setdefault((figure, side, rule), []).extend(found)
    print(f"\n{'figure':10} {'side':10} {'rule':8} {'median':>9}  {'to PASSIVE':>10}  processes")
    for (figure, side, rule), found in sorted(seconds.items()):
        passive = seconds.get((figure, side, "PASSIVE"), [math.nan])
        print(
            f"{figure:10} {side:10} {rule:8} {median(found):7.3f} s  "
            f"{median(found) / median(passive):8.2f} x  {len(found)}"
        )


if __name__ == "__main__":
    main()
