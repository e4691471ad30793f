"""The fastest exact ProteinMPNN: sequences for protein backbones.

A first design::

    import mpnn_core as mpnn

    structure = mpnn.read_structure("5L33.pdb")
    model = mpnn.load_model("v_48_020")
    designs = model.design(structure, num_sequences=8, temperature=0.1, seed=37)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpnn_core.constants import ALPHABET
    from mpnn_core.design.model import Model, load_model
    from mpnn_core.design.packing import Packed, SideChainPacker, load_packer
    from mpnn_core.design.programs import write_inputs
    from mpnn_core.design.results import Design, Designs, Scores
    from mpnn_core.design.scan import Scan
    from mpnn_core.design.states import StateDesigns
    from mpnn_core.design.stream import Lost, design_stream
    from mpnn_core.network.families import CheckpointError
    from mpnn_core.network.variants import VARIANTS, Variant
    from mpnn_core.pages.page import write_page
    from mpnn_core.sampling.constraints import PSSM, Constraints
    from mpnn_core.sampling.labels import ConstraintError
    from mpnn_core.selecting.constraint_sets import read_constraints
    from mpnn_core.selecting.selections import select
    from mpnn_core.structures.context import ContextAtoms
    from mpnn_core.structures.errors import StructureError
    from mpnn_core.structures.readers import read_structure
    from mpnn_core.structures.structure import Structure, StructureWarning
    from mpnn_core.structures.writers import write_structure

__version__ = "0.1.0"

_MODULES = {
    "ALPHABET": "constants",
    "PSSM": "sampling.constraints",
    "VARIANTS": "network.variants",
    "CheckpointError": "network.families",
    "ConstraintError": "sampling.labels",
    "Constraints": "sampling.constraints",
    "ContextAtoms": "structures.context",
    "Design": "design.results",
    "Designs": "design.results",
    "Lost": "design.stream",
    "Model": "design.model",
    "Packed": "design.packing",
    "Scan": "design.scan",
    "Scores": "design.results",
    "SideChainPacker": "design.packing",
    "StateDesigns": "design.states",
    "Structure": "structures.structure",
    "StructureError": "structures.errors",
    "StructureWarning": "structures.structure",
    "Variant": "network.variants",
    "design_stream": "design.stream",
    "load_model": "design.model",
    "load_packer": "design.packing",
    "read_constraints": "selecting.constraint_sets",
    "read_structure": "structures.readers",
    "select": "selecting.selections",
    "write_inputs": "design.programs",
    "write_page": "pages.page",
    "write_structure": "structures.writers",
}
"""Public name -> its module, which is imported when the name is first used. `import mpnn_core` by
itself loads no library; torch is loaded by the first name that needs it."""

__all__ = [
    "ALPHABET",
    "PSSM",
    "VARIANTS",
    "CheckpointError",
    "ConstraintError",
    "Constraints",
    "ContextAtoms",
    "Design",
    "Designs",
    "Lost",
    "Model",
    "Packed",
    "Scan",
    "Scores",
    "SideChainPacker",
    "StateDesigns",
    "Structure",
    "StructureError",
    "StructureWarning",
    "Variant",
    "design_stream",
    "load_model",
    "load_packer",
    "read_constraints",
    "read_structure",
    "select",
    "write_inputs",
    "write_page",
    "write_structure",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
