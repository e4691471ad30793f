"""The gate judges the claims of a project. It is a plugin for pytest, and some commands.

Six words. A *claim* is a statement in claims.toml that can be measured; a *figure* is one number of
it. The *interval* is where the true value of a measurement lies, at 99 %. The *verdict* compares a
measured figure with the reported one. A *gate* is a bound that must hold here: it alone turns a
test red. The *control* is the baseline measured against itself; if its interval excludes 1, the
machine was not steady enough to measure anything.

The project and its claims
    project.py    [tool.mpnn_core.gate] of pyproject.toml: all that the gate knows of a project
    hardware.py   the module that a project names for devices beyond a CPU
    claims.py     claims.toml, read and checked to the last key
    stored.py     files: read within bounds, checked field by field, written whole
Measuring and judging
    intervals.py  a measured value and its interval
    pairing.py    two things timed against each other, in turn
    counting.py   counts instead of times, and their baseline
    verdicts.py   from an interval to a verdict, and to the result of a gate
In pytest
    plugin.py     named by conftest.py: options, the fixture `paired`, the ledger at the end
    judging.py    binds a test to figures, judges its measurements
    devices.py    fixtures for the devices that tests run on
    budget.py     the time that measuring may take
Results
    ledger.py     all figures of one run: measurement, verdict and gate, as JSON
    printing.py   the ledger in a terminal, short or whole
    pages.py      the ledger as Markdown
    history.py    figures over many runs
    report.py     everything on one HTML page
    commands.py   `mpnn-core claims`, `compare`, `history`, `report`
Two revisions of a project against each other
    revisions/    compare.py, built by builds.py, timed by race.py in the processes of worker.py

Another project uses it with one line in its conftest.py, and a claims.toml:
`pytest_plugins = ["mpnn_core.gate.plugin"]`. Nothing here imports the engine or a framework.
"""


class GateError(ValueError):
    """A gate was given something wrong; the message says what was expected, and what to do."""
