"""The gates: claims as data, paired measurement, verdicts, and the ledger of a run.

claims.py reads claims.toml; pairing.py measures two things against each other; verdicts.py turns an
interval into a verdict and a gate's result; ledger.py keeps and prints them; plugin.py is what
pytest loads; original.py is the original ProteinMPNN, oracle and baseline of it all.

compare.py times two revisions, which builds.py builds and worker.py runs; counters.py counts what
needs no clock; history.py and report.py show many runs, and one page of it all.
"""


class GateError(ValueError):
    """What a gate was given is not what it must be; the message says what, and what to do."""
