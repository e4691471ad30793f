"""Is a fork of ProteinMPNN still ProteinMPNN? Checks of parity, edges, invariances, sampling.

    python -m mpnn_core.acceptance FORK.py

FORK.py defines `peer()`, which returns an object as `mpnn_core.peers.contract` describes it, with
what it may have besides; docs/how-to/accept-a-fork.md is the guide.
"""
