"""ColabDesign's ProteinMPNN in JAX, the package `colabdesign`: its `mk_mpnn_model`, on the CPU.

A structure of another length, or another batch, is compiled anew at its first call. Runs in the
environment of the package (environments.py).
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from colabdesign.mpnn import mk_mpnn_model

LETTERS = "ACDEFGHIKLMNPQRSTVWYX"
THEIRS = "ARNDCQEGHILKMFPSTWYVX"  # the order of AlphaFold, in which it takes and gives letters


class ColabDesign:
    """Its model; `log_probs` and `design` feed it what its `prep_inputs` reads from a file."""

    name = "ColabDesign"
    version = version("colabdesign")

    def __init__(self) -> None:
        self.model = mk_mpnn_model("v_48_020", seed=0)
        self.batch = 0  # sequences that go through the network together; 0 is all

    def log_probs(self, structure: Any, sequence: str, order: Any) -> Any:
        """See `Peer`."""
        self.take(structure, sequence)
        logits = self.model.score(decoding_order=np.asarray(order))["logits"]
        ours = logits[:, [THEIRS.index(letter) for letter in LETTERS]]
        return np.asarray(jax.nn.log_softmax(ours, axis=-1))

    def design(
        self, structure: Any, n: int = 1, temperature: float = 0.1, seed: int = 0
    ) -> list[str]:
        """See `Peer`."""
        self.take(structure, structure.sequence)
        self.model.set_seed(seed)
        batch = min(self.batch or n, n)
        samples = self.model.sample(num=-(-n // batch), batch=batch, temperature=temperature)
        return [str(sequence).replace("/", "") for sequence in samples["seq"][:n]]

    def take(self, structure: Any, sequence: str) -> None:
        """Give the model a structure."""
        chains, lengths = [], []
        for i, chain in enumerate(structure.chain_ids):
            if i == 0 or chain != structure.chain_ids[i - 1]:
                lengths.append(0)
            lengths[-1] += 1
            chains.append(len(lengths) - 1)
        self.model._lengths, self.model._len = lengths, len(structure)
        self.model._tied_lengths = False
        self.model._inputs = {
            "X": np.where(structure.mask[:, None, None], structure.coords, 0),
            "mask": structure.mask.astype(np.float32),
            "S": np.array([THEIRS.index(letter) for letter in sequence]),
            "residue_idx": structure.residue_index.astype(np.int32),
            "chain_idx": np.array(chains),
            "lengths": np.array(lengths),
            "bias": np.zeros((len(structure), 20)),
        }


def peer() -> ColabDesign:
    """Its ProteinMPNN with v_48_020."""
    return ColabDesign()
