"""Sequences from a network, an encoding and a list of steps.

Randomness is keyed by (seed, sequence, position), never by step, batch or device, so a sequence is
the same whatever is designed beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mpnn_core.network import MPNN, Copies, Encoding
from mpnn_core.reference import LETTERS

_ORDER_STREAM, _RESIDUE_STREAM = 0, 1


def order_noise(seed: int, sequence: int, length: int) -> np.ndarray:
    """|z| of a standard normal z per position, for the decoding order: (length,) float64."""
    uniform = torch.from_numpy(_uniforms(seed, sequence, _ORDER_STREAM, length))
    return (torch.erfinv(uniform) * 2**0.5).numpy()


def residue_noise(seed: int, sequence: int, length: int) -> np.ndarray:
    """The uniform number in [0, 1) that draws each position's residue: (length,) float64."""
    return _uniforms(seed, sequence, _RESIDUE_STREAM, length)


def _uniforms(seed: int, sequence: int, stream: int, length: int) -> np.ndarray:
    # Philox is a counter-based generator: the key names the sequence, the counter the position.
    counter = np.array([0, 0, 0, stream], dtype=np.uint64)
    key = np.array([seed, sequence], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key)).random(length)


@dataclass(frozen=True, eq=False)
class Distribution:
    """How logits become the probabilities that residues are drawn from.

    Attributes
    ----------
    temperature : (M,) float, positive
    bias : (M, 21) float, added to the logits before the temperature divides them
    omit : (M, 21) bool, residues never drawn
    """

    temperature: Tensor
    bias: Tensor
    omit: Tensor

    def probabilities(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(n, 21) for the rows (n,) whose logits these are."""
        temperature = self.temperature[rows, None]
        scaled = logits / temperature + self.bias[rows] / temperature
        return scaled.masked_fill(self.omit[rows], -torch.inf).softmax(-1)


@dataclass(frozen=True, eq=False)
class Samples:
    """tokens (M,) int64; logits (M, 21); probabilities (M, 21), what was drawn from."""

    tokens: Tensor
    logits: Tensor
    probabilities: Tensor


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Invert the cumulative distribution: (n, 21), (n,) in [0, 1) -> (n,) int64.

    In float64, so that rounding moves a boundary by 1e-16 and no residue of probability 0 is drawn.
    """
    cumulative = probabilities.double().cumsum(-1)  # (n, 21)
    total = cumulative[:, -1:]
    drawn = (cumulative <= uniform[:, None] * total).sum(-1)
    last_possible = (cumulative < total).sum(-1)
    return torch.minimum(drawn, last_possible)


def sample(
    network: MPNN,
    encoding: Encoding,
    copies: Copies,
    rank: Tensor,
    steps: Iterable[Tensor],
    distribution: Distribution,
    uniform: Tensor,
    tokens: Tensor,
    designed: Tensor,
) -> Samples:
    """Decode `steps`, one after the other.

    Parameters
    ----------
    rank : (M,) int64, when each row is decoded within its sequence
    steps : row indices (n,) per step; no row of a step may be a neighbour, decoded earlier, of
        another row of the same step
    uniform : (M,) float64, the random number of each row
    tokens : (M,) int64, the residues of rows that are not designed
    designed : (M,) bool
    """
    N, H = encoding.h_V.shape
    M = len(tokens)
    rows = network.rows(encoding, copies, rank)  # (M, K)
    blocks = [layer.blocks() for layer in network.decoders]
    residues = [network.W_s.weight @ C.T for _, _, C, _ in blocks]  # (21, H) each
    tables = [torch.cat([T, T.new_empty(M, H)]) for T in encoding.undecoded]  # (N + M, H) each
    tokens = tokens.clone()
    logits = encoding.h_V.new_empty(M, LETTERS)
    probabilities = torch.zeros_like(logits)
    for step in steps:
        nodes = copies.nodes[step]  # (n,)
        states = [encoding.h_V[nodes]]  # per layer (n, H)
        for layer, edges, table in zip(network.decoders, encoding.edges, tables, strict=True):
            states.append(layer(states[-1], edges, table, rows[step], nodes, encoding.graph))
        logits[step] = network.W_out(states[-1])
        chosen = step[designed[step]]  # (d,)
        probabilities[chosen] = distribution.probabilities(logits[chosen], chosen)
        tokens[chosen] = draw(probabilities[chosen], uniform[chosen])
        for table, residue, (_, _, _, D), h_V in zip(
            tables, residues, blocks, states[:-1], strict=True
        ):
            table[N + step] = residue[tokens[step]] + h_V @ D.T
    return Samples(tokens, logits, probabilities)
