"""Implementations of ProteinMPNN behind one contract, for tests alone: the original, ours, others."""
