"""Structures and sequences: reading them from files, and the files they are written to."""
