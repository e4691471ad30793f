"""Protein backbones, and the files they come from and go to."""
