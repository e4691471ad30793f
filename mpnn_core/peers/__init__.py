"""Implementations of ProteinMPNN behind one contract: the original, ours, others."""
