"""Structures in, designs out: the model that users hold."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mpnn_core.backends import Backend, Encoded, find_backend
from mpnn_core.checkpoints import (
    NAMES,
    PACKAGED,
    CheckpointError,
    build_network,
    load_checkpoint,
    load_student,
    random_network,
)
from mpnn_core.constraints import Constraints
from mpnn_core.graph import Backbones
from mpnn_core.network import MPNN, Copies
from mpnn_core.reference import LETTERS
from mpnn_core.sampler import Distribution, Profile, order_noise, residue_noise
from mpnn_core.schedule import draw_order, ranks, visit_groups
from mpnn_core.structure import ALPHABET, Structure
from mpnn_core.variants import Variant, find_variant

RANDOM = "random"
_UNMEASURED = "what nobody measured of these weights"

Temperature = float | Sequence[float] | NDArray[np.floating]

# Temperature 0: logits that differ in their last bit differ by a factor of e^50 in probability.
_COLDEST = np.float32(1e-8)

# Work is cut to keep the large tensors under about this size each, with the same results.
MEMORY_BUDGET_BYTES = 1 << 30
_FLOAT_BYTES = 4
WITHOUT_FLOAT64 = ("mps",)  # devices that cannot hold it


@dataclass(frozen=True, eq=False)
class Designs:
    """Sequences designed on one structure.

    Attributes
    ----------
    structure, seed, temperature, model_name : what they were designed from
    design_chains : chains that were designed, in the structure's order
    sequences : n strings of L letters; fixed and incomplete residues keep theirs
    scores : (n,) mean negative log-probability over the designed positions
    global_scores : (n,) the same over all positions with a complete backbone
    recovery : (n,) share of the designed positions that kept the native residue
    log_probs : (n, L, 21) float32, of the network, before temperature, bias and omission
    probabilities : (n, L, 21) float32, what residues were drawn from; 0 where none was
    decoding_order : (n, L) int64, positions as decoded; tied ones follow each other
    designed : (L,) bool
    """

    structure: Structure
    seed: int
    temperature: Temperature
    model_name: str
    design_chains: tuple[str, ...]
    sequences: list[str]
    scores: NDArray[np.float32]
    global_scores: NDArray[np.float32]
    recovery: NDArray[np.float32]
    log_probs: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    decoding_order: NDArray[np.int64]
    designed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.sequences)


@dataclass(frozen=True, eq=False)
class Scores:
    """Mean negative log-probabilities of n sequences under r orders: (n, r) float32 each."""

    score: NDArray[np.float32]
    global_score: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences decoded together: job k is the sequence jobs[k][1] of structure jobs[k][0]."""

    encoding: Encoded
    copies: Copies
    jobs: list[tuple[int, int]]
    masks: list[NDArray[np.bool_]]  # per job (L,): the positions that have rows

    def rows(self, per_job: Iterable[NDArray[Any]]) -> Tensor:
        """Per job an array (L, ...) over all positions -> (M, ...) over the rows."""
        parts = [values[mask] for values, mask in zip(per_job, self.masks, strict=True)]
        values, device = np.concatenate(parts), self.copies.nodes.device
        if device.type in WITHOUT_FLOAT64 and values.dtype == np.float64:
            values = values.astype(np.float32)
        return torch.from_numpy(values).to(device)

    def positions(self, rows: Tensor) -> Iterator[NDArray[Any]]:
        """(M, ...) over the rows -> per job its part, over the positions in its mask."""
        values = rows.cpu().numpy()
        return (values[first:last] for first, last in pairwise(self.copies.starts))


class Model:
    """A network with its weights on a device; `load_model` makes one.

    `loss` says what it loses against the published model, as measured, or that nobody measured it;
    "" where it is exact.
    """

    def __init__(
        self,
        network: MPNN,
        name: str,
        variant: Variant,
        device: torch.device,
        backend: str = "auto",
        loss: str = "",
    ) -> None:
        self.network = network.to(device)
        self.backend: Backend = find_backend(backend, self.network, device)
        self.name = name
        self.variant = variant
        self.device = device
        self.loss = loss

    def __repr__(self) -> str:
        loses = f" (loses {self.loss})" if self.loss else ""
        return (
            f"<Model {self.name}, {self.variant.name}{loses}, {self.backend.name} on {self.device}>"
        )

    def design(
        self,
        structures: Structure | Sequence[Structure],
        num_sequences: int = 1,
        temperature: Temperature = 0.1,
        seed: int | None = None,
        constraints: Constraints | Sequence[Constraints] | None = None,
        decoding_order: Any = None,
    ) -> Any:
        """Sample sequences for backbones, as the original's `sample`.

        Parameters
        ----------
        structures : one Structure, or a list of them of any lengths
        num_sequences : sequences per structure
        temperature : divides the logits; 0 takes the likeliest residue. One number, or what
            broadcasts to (n, L): (L,) per position, (n, 1) per sequence
        seed : 0 to 2**63 - 1; None draws one, which the result names. A sequence depends on the
            seed and its own index alone, not on what is designed beside it.
        constraints : what may change, and to what; one for all structures, or one each
        decoding_order : (L,) or (n, L) positions as decoded; None draws one per sequence, fixed
            positions mostly first, as the original does. For a list of structures, a list.

        Returns
        -------
        Designs, or a list of them for a list of structures.

        Raises
        ------
        ValueError, ConstraintError
            An argument is out of range, or does not fit its structure.
        """
        if num_sequences < 1:
            raise ValueError(f"num_sequences is {num_sequences}; expected at least 1")
        given_temperature = np.asarray(temperature, dtype=np.float32)
        if not ((given_temperature >= 0) & np.isfinite(given_temperature)).all():
            raise ValueError(
                f"temperature is {given_temperature}; expected a number of at least 0, such as 0.1 "
                "(0 always takes the likeliest residue)"
            )
        given_temperature = np.maximum(given_temperature, _COLDEST)
        seed = secrets.randbits(32) if seed is None else seed
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed is {seed}; expected 0 to 2**63 - 1")
        items = _listed(structures)
        if isinstance(constraints, Constraints) or constraints is None:
            constraints = [constraints or Constraints()] * len(items)
        if len(constraints) != len(items):
            raise ValueError(f"{len(constraints)} constraints for {len(items)} structures")
        given = _per_structure(structures, decoding_order)

        for c, structure in zip(constraints, items, strict=True):
            c.check(structure)
        designed = [c.designed(s) for c, s in zip(constraints, items, strict=True)]
        biases = [c.biases(s) for c, s in zip(constraints, items, strict=True)]
        omitted = [c.omitted(s) for c, s in zip(constraints, items, strict=True)]
        temperatures = [_temperatures(s, given_temperature, num_sequences) for s in items]
        groups = [c.groups(s) for c, s in zip(constraints, items, strict=True)]
        orders = [
            _visits(
                _orders(s, _drawn_orders(seed, num_sequences, d) if order is None else order,
                        num_sequences), num_sequences, tied)
            for s, order, d, tied in zip(items, given, designed, groups, strict=True)
        ]  # fmt: skip
        tokens = [np.repeat(s.tokens[None], num_sequences, 0) for s in items]
        log_probs = [self._blank(num_sequences, s) for s in items]
        probabilities = [np.zeros_like(block) for block in log_probs]

        for batch in self._batches(items, [num_sequences] * len(items)):
            rank = batch.rows(ranks(orders[s][i]) for s, i in batch.jobs)
            with torch.inference_mode():
                samples = self.backend.sample(
                    batch.encoding,
                    batch.copies,
                    rank,
                    Distribution(
                        batch.rows(temperatures[s][i] for s, i in batch.jobs),
                        batch.rows(biases[s] for s, _ in batch.jobs),
                        batch.rows(omitted[s] for s, _ in batch.jobs),
                        _profile(batch, items, constraints),
                        *_ties(batch, items, groups),
                    ),
                    batch.rows(residue_noise(seed, i, len(items[s])) for s, i in batch.jobs),
                    batch.rows(items[s].tokens for s, _ in batch.jobs),
                    batch.rows(designed[s] for s, _ in batch.jobs),
                )
                found = zip(
                    batch.jobs,
                    batch.masks,
                    batch.positions(samples.tokens),
                    batch.positions(samples.logits.log_softmax(-1)),
                    batch.positions(samples.probabilities),
                    strict=True,
                )
            for (s, i), mask, t, lp, p in found:
                tokens[s][i, mask], log_probs[s][i, mask], probabilities[s][i, mask] = t, lp, p

        designs = [
            Designs(
                structure=s,
                seed=seed,
                temperature=temperature,
                model_name=self.name,
                design_chains=tuple(c.design_chains(s)),
                sequences=["".join(ALPHABET[letter] for letter in row) for row in t],
                scores=mean_nll(lp, t, d),
                global_scores=mean_nll(lp, t, s.mask),
                recovery=(t == s.tokens)[:, d].mean(1, dtype=np.float32),
                log_probs=lp,
                probabilities=p,
                decoding_order=np.array(o),
                designed=d,
            )
            for s, c, t, lp, p, o, d in zip(
                items, constraints, tokens, log_probs, probabilities, orders, designed, strict=True
            )
        ]
        return designs[0] if isinstance(structures, Structure) else designs

    def log_probs(
        self,
        structures: Structure | Sequence[Structure],
        sequences: Any = None,
        decoding_order: Any = None,
        seed: int = 0,
    ) -> Any:
        """Teacher-forced log-probabilities, as the original's `forward`.

        Parameters
        ----------
        structures : one Structure, or a list of them of any lengths
        sequences : a string, a list of n strings, or (L,) or (n, L) tokens; None is the native
            sequence. For a list of structures, a list with one such entry each.
        decoding_order : (L,) or (n, L) positions as decoded; None draws one per sequence from
            `seed`. For a list of structures, a list with one such entry each.

        Returns
        -------
        (n, L, 21) float32, or a list of such for a list of structures. A residue whose backbone is
        incomplete gets what the original gives it, the output layer's bias alone.

        Raises
        ------
        ValueError
            A sequence or an order does not fit its structure; the message names both.
        """
        items = _listed(structures)
        tokens = [
            _tokens(s, given)
            for s, given in zip(items, _per_structure(structures, sequences), strict=True)
        ]
        orders = [
            _orders(s, _drawn_orders(seed, len(t), s.mask) if order is None else order, len(t))
            for s, t, order in zip(
                items, tokens, _per_structure(structures, decoding_order), strict=True
            )
        ]
        counts = [max(len(t), len(o)) for t, o in zip(tokens, orders, strict=True)]
        results = [self._blank(n, s) for n, s in zip(counts, items, strict=True)]
        for batch in self._batches(items, counts):
            rank = batch.rows(ranks(orders[s][i % len(orders[s])]) for s, i in batch.jobs)
            given = batch.rows(tokens[s][i % len(tokens[s])] for s, i in batch.jobs)
            with torch.inference_mode():
                logits = self.backend.decode(batch.encoding, batch.copies, given, rank)
                found = batch.positions(logits.log_softmax(-1))
            for (s, i), mask, lp in zip(batch.jobs, batch.masks, found, strict=True):
                results[s][i, mask] = lp
        return results[0] if isinstance(structures, Structure) else results

    def unconditional_log_probs(self, structures: Structure | Sequence[Structure]) -> Any:
        """Log-probabilities that know the backbone and no residue, as `unconditional_probs`.

        Returns (L, 21) float32, or a list of such for a list of structures.
        """
        items = _listed(structures)
        results = [self._blank(1, s) for s in items]
        for batch in self._batches(items, [1] * len(items)):
            given = batch.rows(s.tokens for s in (items[j] for j, _ in batch.jobs))
            with torch.inference_mode():
                # Rows of equal rank do not see each other.
                logits = self.backend.decode(
                    batch.encoding, batch.copies, given, torch.zeros_like(given)
                )
                found = batch.positions(logits.log_softmax(-1))
            for (s, i), mask, lp in zip(batch.jobs, batch.masks, found, strict=True):
                results[s][i, mask] = lp
        return results[0][0] if isinstance(structures, Structure) else [r[0] for r in results]

    def score(
        self,
        structure: Structure,
        sequences: Any = None,
        constraints: Constraints | None = None,
        num_orders: int = 1,
        seed: int = 0,
    ) -> Scores:
        """How well sequences fit a backbone: mean negative log-probabilities, lower is better.

        Each of the n sequences is scored under the same `num_orders` random decoding orders, drawn
        from `seed`. `score` counts the positions that `constraints` would design, `global_score`
        all with a complete backbone; (n, num_orders) each.
        """
        tokens = _tokens(structure, sequences)
        designed = (constraints or Constraints()).designed(structure)
        orders = _drawn_orders(seed, num_orders, designed)
        score, global_score = [], []
        for row in tokens:
            lp = self.log_probs(structure, np.repeat(row[None], num_orders, 0), orders)
            score.append(mean_nll(lp, row, designed))
            global_score.append(mean_nll(lp, row, structure.mask))
        return Scores(np.stack(score), np.stack(global_score))

    def _batches(self, structures: list[Structure], counts: list[int]) -> Iterator[Batch]:
        """Every structure is encoded once; its `counts` sequences are decoded in few batches."""
        lengths = [int(s.mask.sum()) for s in structures]
        for group in _within(MEMORY_BUDGET_BYTES // self._encoding_bytes(), lengths):
            backbones = Backbones.from_structures([structures[s] for s in group], self.device)
            with torch.inference_mode():
                encoding = self.backend.encode(backbones)
            jobs = [(s, i) for s in group for i in range(counts[s])]
            for part in _within(
                MEMORY_BUDGET_BYTES // self._row_bytes(), [lengths[s] for s, _ in jobs]
            ):
                batch = [jobs[k] for k in part]
                copies = Copies.of(
                    encoding.graph, backbones.offsets, [s - group[0] for s, _ in batch]
                )
                yield Batch(encoding, copies, batch, [structures[s].mask for s, _ in batch])

    def _encoding_bytes(self) -> int:
        """Bytes that one residue's encoding takes: h_E and a term per decoder layer and edge."""
        v = self.variant
        return _FLOAT_BYTES * v.hidden * v.neighbours * (2 + v.decoder_layers)

    def _row_bytes(self) -> int:
        """Bytes that one residue of one sequence takes: states, tables, and int64 edge rows."""
        v = self.variant
        return _FLOAT_BYTES * (v.hidden * 3 * (1 + v.decoder_layers) + 4 * LETTERS) + (
            2 * 8 * v.neighbours
        )

    def _blank(self, n: int, structure: Structure) -> NDArray[np.float32]:
        """(n, L, 21) log-probabilities of a node state of zero."""
        blank = self.network.W_out.bias.float().log_softmax(-1).cpu().numpy()
        return np.tile(blank, (n, len(structure), 1))


def load_model(
    weights: str | Path = PACKAGED,
    variant: str = "baseline",
    device: str | torch.device = "cpu",
    backend: str = "auto",
) -> Model:
    """A model that is ready to design.

    Parameters
    ----------
    weights : a published name ("v_48_020", "soluble/v_48_010", ...), a path to a `.pt` or
        `.safetensors` file, or "random" for measurements of speed. For a variant that was trained,
        "v_48_020" means the weights trained from it; a path is taken as it is
    variant : a name in `mpnn_core.variants.VARIANTS`
    device : "cpu", "cuda", "mps", ...
    backend : "auto", the fastest exact one here; "torch"; "native", C++ on the CPU; "cuda"; or
        "cuda-fast", float16 and lossy (docs/cuda.md)

    Raises
    ------
    CheckpointError
        The weights cannot be had, or do not fit the variant.
    ValueError
        Unknown variant or backend, or a device that this machine does not have.
    """
    shape = find_variant(variant)
    place = _device(device)
    if str(weights) == RANDOM:
        return Model(random_network(shape), RANDOM, shape, place, backend, "everything: random")
    if str(weights) == PACKAGED and shape.evaluation is not None:
        checkpoint, loss = load_student(shape), shape.loss
    elif str(weights) in NAMES and shape.untrained == "unknown":
        trained = "" if shape.evaluation is None else f" of {weights}"
        raise CheckpointError(
            f"variant {variant!r} has no trained weights{trained} yet: {weights} is a network of "
            f"another shape. Give a path to weights of its own, or weights={RANDOM!r} to measure "
            "its speed"
        )
    else:
        checkpoint = load_checkpoint(weights)
        measured = shape.untrained_loss if str(weights) == PACKAGED else _UNMEASURED
        loss = "" if shape.untrained == "exact" else measured
    return Model(build_network(checkpoint, shape), checkpoint.name, shape, place, backend, loss)


def mean_nll(
    log_probs: NDArray[np.float32], tokens: NDArray[np.int64], mask: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Mean negative log-probability of tokens (n, L) or (L,) over a mask (L,): (n,) float32."""
    picked = np.take_along_axis(
        log_probs, np.broadcast_to(tokens, log_probs.shape[:2])[..., None], -1
    )
    mean: NDArray[np.float32] = -picked[:, mask, 0].mean(1, dtype=np.float64).astype(np.float32)
    return mean


def _device(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {str(device)!r} cannot be used here: {reason}") from error
    return place


def _listed(structures: Structure | Sequence[Structure]) -> list[Structure]:
    items = [structures] if isinstance(structures, Structure) else list(structures)
    if not items:
        raise ValueError("the list of structures is empty")
    for item in items:
        if not isinstance(item, Structure):
            raise TypeError(
                f"expected a Structure or a list of them, got {type(item).__name__}; "
                "read_structure(path) makes one"
            )
    return items


def _per_structure(structures: Structure | Sequence[Structure], given: Any) -> list[Any]:
    """One entry of `given` per structure, from what came with one structure or a list of them."""
    if isinstance(structures, Structure):
        return [given]
    if given is None:
        return [None] * len(structures)
    if isinstance(given, str) or len(given) != len(structures):
        raise ValueError(
            f"{len(structures)} structures were given; expected a list with an entry for each"
        )
    return list(given)


def _tokens(structure: Structure, given: Any) -> NDArray[np.int64]:
    """Any form of sequences -> (n, L) int64."""
    if given is None:
        return structure.tokens[None]
    if isinstance(given, str):
        given = [given]
    if len(given) and isinstance(given[0], str):
        for sequence in given:
            unknown = [letter for letter in sequence if letter not in ALPHABET]
            if unknown:
                raise ValueError(
                    f"{structure.name}: a sequence holds {unknown[0]!r}; expected letters of "
                    f"{ALPHABET}"
                )
        lengths = {len(sequence) for sequence in given}
        if lengths != {len(structure)}:
            raise ValueError(
                f"{structure.name} has {len(structure)} residues; a sequence of "
                f"{(lengths - {len(structure)}).pop()} was given"
            )
        given = [[ALPHABET.index(letter) for letter in sequence] for sequence in given]
    tokens = np.atleast_2d(np.asarray(given))
    if tokens.ndim != 2 or tokens.shape[1] != len(structure) or tokens.dtype.kind not in "iu":
        raise ValueError(
            f"{structure.name}: sequences have shape {tokens.shape} and dtype {tokens.dtype}; "
            f"expected (n, {len(structure)}) integers, or strings"
        )
    if tokens.size == 0 or tokens.min() < 0 or tokens.max() >= LETTERS:
        raise ValueError(
            f"{structure.name}: tokens must be 0 to {LETTERS - 1}, at least one sequence"
        )
    return tokens.astype(np.int64)


def _drawn_orders(seed: int, n: int, designed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The original's random orders of n sequences: (n, L)."""
    L = len(designed)
    return np.stack([draw_order(order_noise(seed, i, L), designed) for i in range(n)])


def _orders(structure: Structure, given: ArrayLike, n: int) -> NDArray[np.int64]:
    """Checked decoding orders, (1 or n or any number for n = 1, L) int64."""
    orders = np.atleast_2d(np.asarray(given))
    L = len(structure)
    if orders.shape[1:] != (L,) or not (np.sort(orders, 1) == np.arange(L)).all():
        raise ValueError(
            f"{structure.name}: a decoding order, shape {orders.shape}, does not list each of the "
            f"positions 0 to {L - 1} once"
        )
    if n > 1 and len(orders) not in (1, n):
        raise ValueError(f"{structure.name}: {len(orders)} decoding orders for {n} sequences")
    return orders.astype(np.int64)


def _visits(
    orders: NDArray[np.int64], n: int, groups: Sequence[dict[int, float]]
) -> NDArray[np.int64]:
    """The orders (n, L) in which positions are decoded, tied ones one after the other."""
    if groups:
        members = [list(group) for group in groups]
        orders = np.stack([visit_groups(order, members) for order in orders])
    return np.broadcast_to(orders, (n, orders.shape[1]))


def _temperatures(structure: Structure, given: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    try:
        return np.broadcast_to(given, (n, len(structure)))
    except ValueError:
        raise ValueError(
            f"temperature has shape {given.shape}; {structure.name} needs one number, or what "
            f"broadcasts to {(n, len(structure))}"
        ) from None


def _profile(
    batch: Batch, items: Sequence[Structure], constraints: Sequence[Constraints]
) -> Profile | None:
    """The PSSMs of a batch; structures that have none keep their probabilities."""
    if all(constraints[s].pssm is None for s, _ in batch.jobs):
        return None
    per_structure = {}
    for s in {s for s, _ in batch.jobs}:
        pssm = constraints[s].pssm
        L = len(items[s])
        per_structure[s] = (
            (np.zeros((L, LETTERS), np.float32), np.zeros(L, np.float32),
             np.ones((L, LETTERS), np.float32))
            if pssm is None else pssm.weights_and_factors(items[s])
        )  # fmt: skip
    return Profile(
        *(batch.rows(per_structure[s][part] for s, _ in batch.jobs) for part in range(3))
    )


def _ties(
    batch: Batch, items: Sequence[Structure], groups: Sequence[Sequence[dict[int, float]]]
) -> tuple[Tensor | None, Tensor | None]:
    """Group of every row, numbered over the whole batch, and its weight: (M,) int64, (M,) float."""
    if not any(groups[s] for s, _ in batch.jobs):
        return None, None
    numbers, weights, count = [], [], 0
    for s, _ in batch.jobs:
        number = np.full(len(items[s]), -1)
        weight = np.ones(len(items[s]), np.float32)
        for group in groups[s]:
            number[list(group)] = count
            weight[list(group)] = list(group.values())
            count += 1
        numbers.append(number)
        weights.append(weight)
    return batch.rows(numbers), batch.rows(weights)


def _within(budget: int, sizes: Sequence[int]) -> Iterator[list[int]]:
    """Consecutive runs of indices whose sizes add up to at most `budget`, or one larger alone."""
    run: list[int] = []
    total = 0
    for index, size in enumerate(sizes):
        if run and total + size > budget:
            yield run
            run, total = [], 0
        run.append(index)
        total += size
    if run:
        yield run
