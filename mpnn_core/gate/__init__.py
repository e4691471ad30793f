"""The gates: claims as data, paired measurement, verdicts, and the ledger of a run.

claims.py reads claims.toml; pairing.py measures two things against each other; verdicts.py turns an
interval into a verdict and a gate's result; ledger.py keeps and prints them; plugin.py is what
pytest loads; original.py is the original ProteinMPNN, oracle and baseline of it all.
"""
