"""Implementations of ProteinMPNN behind one contract, for tests: the original, ours, others."""
