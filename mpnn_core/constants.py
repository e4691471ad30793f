"""Facts of the published networks, each in one place: letters, atoms, the parts of features.

The networks were trained with these; none may change. `network/reference.py` alone repeats them:
an oracle that shared its constants with the code it checks would check less.
"""

from __future__ import annotations

ALPHABET = "ACDEFGHIKLMNPQRSTVWYX"
"""The letters of a sequence, in the order of the network's 21 outputs; X is unknown."""

LETTERS = len(ALPHABET)
AMINO_ACIDS = ALPHABET[:20]
UNKNOWN = ALPHABET.index("X")

THREE_LETTER_NAMES = (
    "ALA", "CYS", "ASP", "GLU", "PHE", "GLY", "HIS", "ILE", "LYS", "LEU",
    "MET", "ASN", "PRO", "GLN", "ARG", "SER", "THR", "VAL", "TRP", "TYR",
)  # fmt: skip
"""The names of `AMINO_ACIDS`, in their order."""

BACKBONE = ("N", "CA", "C", "O")
"""The atoms of a residue's four coordinate rows."""

N, CA, C, O, CB = range(5)
"""Numbers of the atoms that features are made of: the backbone's, and a virtual CB."""

VIRTUAL_CB = (-0.58273431, 0.56802827, -0.54067466)
"""A virtual CB is CA plus these multiples of b x c, b and c, where b = CA - N and c = C - CA."""

# The 25 ordered atom pairs in the order in which the checkpoints' edge_embedding expects them.
ATOM_PAIRS = (
    (CA, CA), (N, N), (C, C), (O, O), (CB, CB),
    (CA, N), (CA, C), (CA, O), (CA, CB), (N, C), (N, O), (N, CB), (CB, C), (CB, O), (O, C),
    (N, CA), (C, CA), (O, CA), (CB, CA), (C, N), (O, N), (CB, N), (C, CB), (O, CB), (C, O),
)  # fmt: skip
# Of a CA-only model: the CA of the row before, its own, and that of the row after, in its order.
PREVIOUS, OWN, NEXT = range(3)
CA_PAIRS = (
    (OWN, OWN), (PREVIOUS, PREVIOUS), (NEXT, NEXT), (PREVIOUS, OWN), (PREVIOUS, NEXT),
    (OWN, PREVIOUS), (OWN, NEXT), (NEXT, PREVIOUS), (NEXT, OWN),
)  # fmt: skip
ORIENTATION_WIDTH = 7  # a direction and a quaternion
SHORTEST_STEP, LONGEST_STEP = 3.6, 4.0  # Å, between CA atoms that follow each other
GAUSSIANS = 16  # of each distance
FIRST_CENTRE, LAST_CENTRE, SIGMA = 2.0, 22.0, 1.25  # Å

CHAIN_GAP = 100
"""What the original adds to the residue index from one chain to the next."""

MAX_OFFSET = 32  # residue offsets are clipped to -32 to 32: classes 0 to 64
OTHER_CHAIN = 2 * MAX_OFFSET + 1  # the class of an offset between chains
OFFSET_WIDTH = 16

MESSAGE_SCALE = 30.0  # by which a sum of messages is divided
