"""Two revisions timed against each other: is this change slower, or less exact?

Every benchmark runs in three long-lived processes, one run at a time, in random order: the base,
the head, and the base once more as the control. A process has a memory layout, drawn at its start,
which makes it faster or slower than its like by a few percent for as long as it lives; so they are
started anew, session by session, and the *sessions* are what is counted. The value of one is the
median of its rounds' log ratios; the interval over sessions is that of exact binomial order
statistics, as everywhere in the gates. What is settled is not measured any further: what the budget
has left goes to what is not.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mpnn_core.gate.ledger import now, this_machine
from mpnn_core.gate.project import BENCHMARKS, CACHE
from mpnn_core.gate.revisions import builds
from mpnn_core.gate.revisions.comparison import Answer, CompareError, Comparison
from mpnn_core.gate.revisions.processes import Process, Processes
from mpnn_core.gate.revisions.race import BUDGET_S, LOOKS, THRESHOLD, BenchmarkError, Outcome, race
from mpnn_core.gate.verdicts import Change


def benchmark_names(source: Path) -> dict[str, str]:
    """Benchmarks of a revision's files by name, with the code of each; {} if it has none."""
    path = source / BENCHMARKS
    if not path.is_file():
        return {}
    module = ast.parse(path.read_text("utf-8"))
    code = {f.name: ast.dump(f) for f in module.body if isinstance(f, ast.FunctionDef)}
    for statement in module.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "BENCHMARKS":
            assert isinstance(statement.value, ast.Tuple)
            names = [ast.unparse(element) for element in statement.value.elts]
            return {name: code[name] for name in names}
    raise CompareError(f"{path} has no BENCHMARKS")


def compare(
    revision: str,
    repository: Path,
    budget_s: float = BUDGET_S,
    threshold: float = THRESHOLD,
    threads: int = 1,
    only: Sequence[str] = (),
    told: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Build both revisions, and time the files as they are against `revision`.

    Parameters
    ----------
    revision : what git calls the base
    repository : the root of the checkout
    budget_s : seconds of measuring; building comes before, and `told` says at what cost
    threshold : factor of time within which nothing has changed
    threads : of each process; one by default, so that a busy neighbour costs time and not answers
    only : benchmarks to time; all if empty

    Raises
    ------
    CompareError, BuildError
        No benchmark of that name, no such revision, or one that does not install.
    """
    names = benchmark_names(repository)
    for name in only:
        if name not in names:
            raise CompareError(f"no benchmark is called {name!r}; there are {', '.join(names)}")
    cache = repository / CACHE
    trees = {"base": builds.tree_of(repository, revision), "head": builds.tree_of(repository)}
    compiling = {t for t in trees.values() if builds.needs_compiling(repository, t, cache)}
    told(
        f"{len(set(trees.values()))} trees to have ({len(compiling)} to compile, about a minute "
        f"each; a change of Python alone takes seconds), then at most {budget_s:.0f} s of measuring"
        f" {len(only or names)} benchmarks in {LOOKS[0]} to {LOOKS[-1]} restarts of 3 processes"
    )
    built = {name: builds.build(repository, tree, cache) for name, tree in trees.items()}
    there = benchmark_names(built["base"].source)
    started = time.perf_counter()
    sides = {"base": built["base"], "head": built["head"], "control": built["base"]}
    outcomes = race(
        lambda: Processes(sides, built["head"], threads),
        only or names,
        budget_s,
        threshold,
        told=told,
    )
    for o in outcomes:
        ran = o.change not in (Change.BROKEN, Change.ONLY_HERE)
        if ran and there.get(o.benchmark, names[o.benchmark]) != names[o.benchmark]:
            o.note = f"its code differs from {revision}'s; both ran the new one"
    gone = [] if only else [name for name in there if name not in names]
    outcomes += [Outcome(name, Change.ONLY_THERE) for name in gone]
    with Processes({s: sides[s] for s in ("base", "head")}, built["head"], threads) as found:
        answers = _answers(found)
    spent = time.perf_counter() - started
    return Comparison(
        revision, trees["head"][:12], outcomes, answers, threshold, spent, this_machine(), now()
    )


def _answers(sides: Mapping[str, Process]) -> list[Answer]:
    errors: dict[str, dict[str, float]] = {}
    notes = {}
    for side, process in sides.items():
        try:
            errors[side] = process.errors()
        except BenchmarkError as error:
            errors[side], notes[side] = {}, str(error)
    names = dict.fromkeys([*errors["head"], *errors["base"]])
    found = [
        Answer(n, errors["base"].get(n), errors["head"].get(n), notes.get("head", ""))
        for n in names
    ]
    if not names:  # neither side answers: that cannot pass for unchanged
        found.append(Answer("answers", 0.0, None, notes.get("head", "there are none")))
    return found
