"""From a decoding order and constraints to the residues that are drawn."""
