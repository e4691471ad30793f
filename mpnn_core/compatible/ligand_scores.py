"""Scores as LigandMPNN's `score.py` makes and writes them: logits of every residue.

- `autoregressive`: every residue sees those that are decoded before it, in random orders.
- `single`: every residue sees all others, which are decoded before it in a random order.
- Without the sequence both are the network's logits that know the backbone alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mpnn_core.backends.contract import Backend
from mpnn_core.compatible.ligand_designs import Run
from mpnn_core.compatible.ligand_reading import Complex
from mpnn_core.constants import ALPHABET
from mpnn_core.design.arguments import DecodeArguments, digests_of
from mpnn_core.design.batches import Batch
from mpnn_core.design.jobs import Compute, DecodeInputs, Decoding
from mpnn_core.design.model import Model
from mpnn_core.design.results import log_prob_results
from mpnn_core.sampling.noise import order_noise
from mpnn_core.sampling.orders import draw_order, ranks, visit_groups
from mpnn_core.structures.structure import Structure

PASSES = 256
"""Sequences that are decoded before their logits are looked at: what memory is needed for."""


@dataclass(frozen=True, eq=False)
class _Logits(Decoding):
    """Decoding that gives logits instead of log-probabilities."""

    @property
    def compute(self) -> Compute:
        return raw_logits


def raw_logits(
    backend: Backend, batch: Batch, encoding: Any, inputs: DecodeInputs
) -> tuple[Tensor, ...]:
    """Logits (M, 21) of a batch, on the device alone."""
    return (backend.decode(encoding, batch.copies(encoding.graph), inputs.tokens, inputs.rank),)


def logits_of(
    model: Model, structure: Structure, rank: NDArray[np.int64], designed: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Logits of the structure's own sequence: (n, L, 21) float32.

    Parameters
    ----------
    rank : (n, L) int64, when each position is decoded; it sees those of lower ranks
    designed : (L,) bool; of the others, a model may see the side chains
    """
    arguments = DecodeArguments([structure], [structure.tokens[None]], [rank], [designed])
    job = _Logits(arguments)
    blank: NDArray[np.float32] = model.network.W_out.bias.float().detach().cpu().numpy()
    batches = ((batch, outputs) for _, batch, outputs in model.executor.run(job))
    return log_prob_results(job, batches, blank)[0]


def autoregressive(
    model: Model,
    structure: Structure,
    designed: NDArray[np.bool_],
    groups: list[list[int]],
    run: Run,
    use_sequence: bool,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits (n, L, 21) under random decoding orders (n, L), and these.

    Of tied positions the sequences of a batch share an order, in which they follow each other.
    """
    orders = _orders(structure, designed, run, shared=bool(groups))
    if groups:
        orders = np.stack([visit_groups(order, groups) for order in orders])
    if not use_sequence:
        return _backbone_logits(model, structure, designed, run), orders
    return logits_of(model, structure, ranks(orders), designed), orders


def single(
    model: Model,
    structure: Structure,
    designed: NDArray[np.bool_],
    run: Run,
    use_sequence: bool,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits (n, L, 21) of every residue given all others, and the orders (n, L, L) of that.

    Of each of the n sequences the others are decoded in one random order, whichever the residue is;
    it comes last, or without the sequence first.
    """
    L = len(structure)
    # Every residue is asked for: as the original, none comes first for being fixed.
    base = _orders(structure, np.ones(L, bool), run, shared=False)
    orders = np.stack([_moved(order, last=use_sequence) for order in base])  # (n, L, L)
    if not use_sequence:
        return _backbone_logits(model, structure, designed, run), orders.astype(np.float32)
    rows = orders.reshape(-1, L)
    position = np.tile(np.arange(L), run.sequences)
    parts = []
    for start in range(0, len(rows), PASSES):
        part = slice(start, start + PASSES)
        logits = logits_of(model, structure, ranks(rows[part]), designed)
        parts.append(logits[np.arange(len(logits)), position[part]])
    return np.concatenate(parts).reshape(-1, L, len(ALPHABET)), orders.astype(np.float32)


def _orders(
    structure: Structure, designed: NDArray[np.bool_], run: Run, shared: bool
) -> NDArray[np.int64]:
    """Random orders (n, L); one for each batch if `shared`."""
    digest = digests_of([structure], common_random_numbers=False)[0]
    number = np.arange(run.sequences)
    if shared:
        number -= number % run.batch_size
    return np.stack([
        draw_order(order_noise(run.seed, i, len(structure), digest), designed)
        for i in number.tolist()
    ])  # fmt: skip


def _moved(order: NDArray[np.int64], last: bool) -> NDArray[np.int64]:
    """(L,) -> (L, L): in row i the same order with position i moved to its end or its start."""
    L = len(order)
    rows = np.tile(order, (L, 1))
    others = rows[rows != np.arange(L)[:, None]].reshape(L, L - 1)
    own = np.arange(L)[:, None]
    return np.concatenate([others, own] if last else [own, others], 1)


def _backbone_logits(
    model: Model, structure: Structure, designed: NDArray[np.bool_], run: Run
) -> NDArray[np.float32]:
    """Logits that know no residue, the same for all n sequences: (n, L, 21)."""
    unseen = np.zeros((1, len(structure)), np.int64)  # of equal rank
    return np.tile(logits_of(model, structure, unseen, designed), (run.sequences, 1, 1))


def score_file(
    complex: Complex,
    logits: NDArray[np.float32],
    decoding_order: NDArray[Any],
    asked: NDArray[Any],
    seed: int,
) -> dict[str, Any]:
    """What `score.py` saves, by name: arrays, and means and deviations by residue and letter.

    `asked` is (L,) of the type that chain_mask is saved in.
    """
    structure = complex.structure
    shifted = logits - logits.max(-1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    probs = np.exp(log_probs)
    letters = list(ALPHABET)
    return {
        "logits": logits,
        "probs": probs,
        "log_probs": log_probs,
        "decoding_order": decoding_order,
        "native_sequence": structure.tokens.astype(np.int32),
        "mask": structure.mask.astype(np.int32),
        "chain_mask": asked,
        "seed": seed,
        "alphabet": letters,
        "residue_names": dict(enumerate(complex.labels)),
        "sequence": list(structure.sequence),
        "mean_of_probs": _by_residue(complex, probs.mean(0)),
        "std_of_probs": _by_residue(complex, probs.std(0)),
    }


def _by_residue(complex: Complex, values: NDArray[np.float32]) -> dict[str, dict[str, Any]]:
    return {
        label: dict(zip(ALPHABET, row, strict=True))
        for label, row in zip(complex.labels, values, strict=True)
    }
