"""Two revisions timed against each other: is this change slower, or less exact?

Every benchmark runs in three long-lived processes, one run at a time, in random order: the base,
the head, and the base once more as the control. A process has a memory layout, drawn at its start,
which makes it faster or slower than others by a few percent for as long as it lives. So processes
are started anew, session by session, and the *sessions* are counted: the value of a session is the
median of its rounds' log ratios, and the interval over sessions is that of exact binomial order
statistics, as everywhere in the gates. A settled benchmark is not measured any further: the rest of
the budget goes to those that are open.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mpnn_core.gate.ledger import now, this_machine
from mpnn_core.gate.project import Exact, Project
from mpnn_core.gate.revisions import builds
from mpnn_core.gate.revisions.comparison import Answer, CompareError, Comparison
from mpnn_core.gate.revisions.processes import Process, Processes, threading_rules
from mpnn_core.gate.revisions.race import BUDGET_S, LOOKS, THRESHOLD, BenchmarkError, Outcome, race
from mpnn_core.gate.stored import read_text
from mpnn_core.gate.verdicts import Change


def benchmark_names(path: Path) -> dict[str, str]:
    """Benchmarks of a file by name, with the code of each; {} if there is no such file."""
    if not path.is_file():
        return {}
    try:
        module = ast.parse(read_text(path))
    except (SyntaxError, ValueError, RecursionError) as error:
        raise CompareError(f"{path} cannot be read as Python: {error}") from None
    code = {f.name: ast.dump(f) for f in module.body if isinstance(f, ast.FunctionDef)}
    for statement in module.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "BENCHMARKS":
            elements = getattr(statement.value, "elts", [])
            names = [ast.unparse(element) for element in elements]
            if not names or set(names) - code.keys():
                break
            return {name: code[name] for name in names}
    raise CompareError(f"{path} has no BENCHMARKS; expected a tuple of its functions")


def compare_revisions(
    revision: str,
    project: Project,
    budget_s: float = BUDGET_S,
    threshold: float = THRESHOLD,
    threads: int = 1,
    only: Sequence[str] = (),
    progress: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Build both revisions, and time the files as they are against `revision`.

    Parameters
    ----------
    revision : git's name of the base
    project : its root is the checkout
    budget_s : seconds of measuring; building comes before, and `progress` says how long it takes
    threshold : factor of time within which nothing has changed
    threads : of each process; one by default, so that a busy neighbour costs time and not answers
    only : benchmarks to time; all if empty
    progress : gets lines on the course of the comparison

    Raises
    ------
    CompareError, BuildError
        No benchmark of that name, no such revision, or one that does not install.
    """
    if not project.package:
        raise CompareError(
            f"{project.root / 'pyproject.toml'} names no package to compare; expected a project "
            'name, or package = "..." in [tool.mpnn_core.gate]'
        )
    if not revision.strip() or revision.startswith("-"):  # git's own options
        raise CompareError(f"{revision!r} names no revision; expected git's name of one")
    repository = project.root
    names = benchmark_names(repository / project.benchmarks)
    for name in only:
        if name not in names:
            raise CompareError(f"no benchmark is called {name!r}; there are {', '.join(names)}")
    trees = {"base": builds.tree_of(repository, revision), "head": builds.tree_of(repository)}
    compiling = {t for t in trees.values() if builds.needs_compiling(repository, t, project)}
    progress(
        f"{len(set(trees.values()))} trees to build ({len(compiling)} to compile, about a minute "
        f"each; a change of Python alone takes seconds), then at most {budget_s:.0f} s of measuring"
        f" {len(only or names)} benchmarks in {LOOKS[0]} to {LOOKS[-1]} restarts of 3 processes"
    )
    built = {side: builds.build(repository, tree, project) for side, tree in trees.items()}
    base_names = benchmark_names(built["base"].source / project.benchmarks)
    started = time.perf_counter()
    sides = {"base": built["base"], "head": built["head"], "control": built["base"]}
    outcomes = race(
        lambda: Processes(sides, built["head"], project, threads),
        only or names,
        budget_s,
        threshold,
        progress=progress,
    )
    for o in outcomes:
        ran = o.change not in (Change.BROKEN, Change.ONLY_HERE)
        if ran and base_names.get(o.benchmark, names[o.benchmark]) != names[o.benchmark]:
            differs = f"its code differs from {revision}'s; both ran the new one"
            o.note = "; ".join(filter(None, (o.note, differs)))
    gone = [] if only else [name for name in base_names if name not in names]
    outcomes += [Outcome(name, Change.ONLY_THERE) for name in gone]
    pair = {side: sides[side] for side in ("base", "head")}
    with Processes(pair, built["head"], project, threads) as processes:
        answers = answers_of(processes, project.exact)
    return Comparison(
        base=revision,
        head=trees["head"][:12],
        outcomes=outcomes,
        answers=answers,
        threshold=threshold,
        seconds=time.perf_counter() - started,
        machine={**this_machine(project), "threads": str(threads), **threading_rules(threads)},
        date=now(),
        unit=project.exact.unit,
    )


def answers_of(sides: Mapping[str, Process], exact: Exact) -> list[Answer]:
    """The answers of both sides; without any, one that fails: nothing was compared."""
    errors: dict[str, dict[str, float]] = {}
    notes = {}
    for side, process in sides.items():
        try:
            errors[side] = process.errors()
        except BenchmarkError as error:
            errors[side], notes[side] = {}, str(error)
    base, head, note = errors["base"], errors["head"], notes.get("head", "")
    names = dict.fromkeys([*head, *base])
    if not names:
        return [Answer("answers", 0.0, None, exact.largest(0.0), note or "there are none")]
    return [
        Answer(name, base.get(name), head.get(name), exact.largest(base.get(name)), note)
        for name in names
    ]
