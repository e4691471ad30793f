"""PrxteinMPNN in JAX, the package `aminx`: its own scoring and sampling functions, on the CPU.

The package holds no weights, and fetches them from the internet: here its network gets those of
v_48_020 that this package ships, parameter by parameter, so that nothing is fetched and both sides
have the same. A structure of another length, or another batch, is compiled anew at its first call.
Runs in the environment of the package (environments.py).
"""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import equinox
import jax
import jax.numpy as jnp
import numpy as np
from aminx.model import Aminx
from aminx.sampling.hoisted import make_hoisted_sampler
from aminx.scoring.score import make_score_fn
from aminx.utils.autoregression import ar_mask_from_decoding_order
from safetensors.numpy import load_file

WEIGHTS = Path(__file__).parents[1] / "weights" / "v_48_020.safetensors"
LETTERS = "ACDEFGHIKLMNPQRSTVWYX"
# Names of its parameters, and those of the original's.
NAMES = (
    (r"features\.w_pos", "features.embeddings.linear"),
    (r"features\.w_e_proj", "W_e"),
    (r"features\.w_e", "features.edge_embedding"),
    (r"w_s_embed", "W_s"),
    (r"w_out", "W_out"),
    (r"(en|de)coder\.layers\[(\d)\]", r"\1coder_layers.\2"),
    (r"dense\.layers\[0\]", "dense.W_in"),
    (r"dense\.layers\[1\]", "dense.W_out"),
    (r"edge_update_mlp\.layers\[(\d)\]", lambda m: f"W1{int(m[1]) + 1}"),
    (r"(?:edge_)?message_mlp\.layers\[(\d)\]", lambda m: f"W{int(m[1]) + 1}"),
)


class PrxteinMPNN:
    """Its network, with the functions that its documentation names for one structure."""

    name = "PrxteinMPNN (aminx)"
    version = version("aminx")

    def __init__(self) -> None:
        network = Aminx(
            128, 128, 128, 3, 3, k_neighbors=48, num_positional_embeddings=32,
            key=jax.random.PRNGKey(0),
        )  # fmt: skip
        published, unused = load_file(WEIGHTS), set(load_file(WEIGHTS))

        def given(path: Any, leaf: Any) -> Any:
            if not equinox.is_inexact_array(leaf) or leaf.ndim == 0:  # the rate of a dropout
                return leaf
            name = jax.tree_util.keystr(path).lstrip(".")
            for theirs, ours in NAMES:
                name = re.sub(f"(?:^|(?<=\\.)){theirs}(?=\\.|$)", ours, name)
            unused.remove(name)
            assert published[name].shape == leaf.shape, name
            return jnp.asarray(published[name])

        network = jax.tree_util.tree_map_with_path(given, network)
        if unused:
            raise ValueError(f"its network has no place for {sorted(unused)}")
        self.network = equinox.nn.inference_mode(network)
        self.score = make_score_fn(self.network)
        self.sampler = make_hoisted_sampler(self.network, inference_only=True)

    def log_probs(self, structure: Any, sequence: str, order: Any) -> Any:
        """See `Peer`."""
        tokens = jnp.array([LETTERS.index(letter) for letter in sequence])
        mask = ar_mask_from_decoding_order(jnp.asarray(order, jnp.int32))
        arrays = self.arrays(structure)
        _, logits, _ = self.score(jax.random.PRNGKey(0), tokens, *arrays, ar_mask=mask)
        return np.asarray(jax.nn.log_softmax(logits, axis=-1))

    def design(
        self, structure: Any, n: int = 1, temperature: float = 0.1, seed: int = 0
    ) -> list[str]:
        """See `Peer`."""
        names = ("structure_coordinates", "mask", "residue_index", "chain_index")
        arrays = dict(zip(names, self.arrays(structure), strict=True))
        # Its sampler draws among all 21 letters; the original never draws X.
        bias = jnp.zeros((len(structure), 21)).at[:, LETTERS.index("X")].set(-1e9)
        sequences: list[str] = []
        # One key a call: on a CPU, several in one call take far longer than one after the other.
        for key in jax.random.split(jax.random.PRNGKey(seed), n):
            tokens, _, _ = self.sampler(key[None], **arrays, bias=bias, temperature=temperature)
            sequences.append("".join(LETTERS[t] for t in np.asarray(tokens)[0]))
        return sequences

    def arrays(self, structure: Any) -> tuple[Any, ...]:
        """Coordinates, mask, residue and chain indices as its functions take them."""
        chains = np.unique(structure.chain_ids, return_inverse=True)[1]
        return (
            jnp.asarray(np.where(structure.mask[:, None, None], structure.coords, 0)),
            jnp.asarray(structure.mask.astype(np.float32)),
            jnp.asarray(structure.residue_index.astype(np.int32)),
            jnp.asarray(chains.astype(np.int32)),
        )


def peer() -> PrxteinMPNN:
    """Its ProteinMPNN with v_48_020."""
    return PrxteinMPNN()
