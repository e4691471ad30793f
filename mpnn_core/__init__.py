"""The fastest exact ProteinMPNN: sequences for protein backbones.

A first design::

    import mpnn_core as mpnn

    structure = mpnn.read_structure("5L33.pdb")
    model = mpnn.load_model("v_48_020")
    designs = model.design(structure, num_sequences=8, temperature=0.1, seed=37)
"""

from mpnn_core.constants import ALPHABET
from mpnn_core.design.model import Model, load_model
from mpnn_core.design.results import Designs, Scores
from mpnn_core.design.stream import Lost, design_stream
from mpnn_core.network.families import CheckpointError
from mpnn_core.network.variants import VARIANTS, Variant
from mpnn_core.sampling.constraints import PSSM, ConstraintError, Constraints
from mpnn_core.structures.readers import read_structure
from mpnn_core.structures.structure import Structure, StructureError

__version__ = "0.1.0"

__all__ = [
    "ALPHABET",
    "PSSM",
    "VARIANTS",
    "CheckpointError",
    "ConstraintError",
    "Constraints",
    "Designs",
    "Lost",
    "Model",
    "Scores",
    "Structure",
    "StructureError",
    "Variant",
    "design_stream",
    "load_model",
    "read_structure",
]
