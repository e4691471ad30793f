"""The jobs that a batch can do: sample residues, decode given ones, or score them.

A job is an object with its arguments. For each batch it prepares named inputs, tensors on a device;
then one function computes the batch from an encoding and those inputs alone, on the device alone,
so that a backend may record what it does and replay it. docs/explanation/engine.md draws two
structures with their nodes, rows and positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpnn_core.backends.contract import Backend
from mpnn_core.constants import ALPHABET, LETTERS
from mpnn_core.design.arguments import (
    DecodeArguments,
    DesignArguments,
    ScoreArguments,
    temperatures_of,
)
from mpnn_core.design.batches import Batch
from mpnn_core.network.encoding import CONDITIONING, TIED
from mpnn_core.network.graph import upload
from mpnn_core.sampling.noise import ORDER, RESIDUE, half_normal
from mpnn_core.sampling.orders import FIXED_WEIGHT, visit_groups
from mpnn_core.sampling.possible import is_distribution
from mpnn_core.sampling.sampler import Distribution, Profile
from mpnn_core.structures.structure import Structure

ASCII = np.frombuffer(bytearray(ALPHABET.encode()), np.uint8)
"""The letter of each token: (21,) uint8."""

Compute = Callable[[Backend, Batch, Any, Any], tuple[Tensor, ...]]
"""(backend, batch, encoding, inputs) -> outputs."""


class Job(Protocol):
    """What `execution.Executor` runs, batch by batch."""

    @property
    def structures(self) -> list[Structure]:
        """What is encoded."""

    @property
    def counts(self) -> list[int]:
        """The number of sequences of each structure."""

    @property
    def fixed(self) -> list[NDArray[np.bool_]]:
        """(L,) bool, of each structure: the residues whose letters are given from the start."""

    @property
    def recordable(self) -> bool:
        """Whether `compute` depends on the shapes of its inputs and of the batch alone."""

    @property
    def outputs(self) -> int:
        """How many tensors `compute` gives."""

    @property
    def fetched(self) -> int:
        """So many of the outputs, the first ones, are wanted on the host at once."""

    @property
    def compute(self) -> Compute:
        """Computes a batch from its encoding and inputs.

        A recording keeps it, so it holds nothing of the job but constants.
        """

    def inputs(self, batch: Batch, backend: Backend) -> Any:
        """What `compute` is given of this batch: `SampleInputs`, for example."""


class SampleInputs(NamedTuple):
    """What sampling a batch needs.

    Attributes
    ----------
    keys : (1 + 2 sequences,) int64, the seed, the number of every sequence, and the digest of its
        structure (`noise.digest`)
    tokens : (N,) int64, the native residues of the nodes
    designed : (N,) bool, over the nodes
    designed_positions : bool, over the positions of the group's structures
    distribution : bias, omit and profile over the nodes; temperature () or over the rows; groups of
        tied residues and their weights over the rows
    order : (P,) int64, the positions of every sequence as decoded; None is drawn from the keys
    near : (N,) bool, over the nodes, what a ligand's score counts; None where there is none
    """

    keys: Tensor
    tokens: Tensor
    designed: Tensor
    designed_positions: Tensor
    distribution: Distribution
    order: Tensor | None = None
    near: Tensor | None = None

    @property
    def needs(self) -> frozenset[str]:
        """Fields of the distribution that a backend must know."""
        return self.distribution.in_use

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors of inputs that need nothing more than every backend knows."""
        d = self.distribution
        near = () if self.near is None else (self.near,)
        return (*self[:4], d.temperature, d.bias, d.omit, *near)

    @classmethod
    def of(
        cls, keys: Tensor, tokens: Tensor, designed: Tensor, designed_positions: Tensor,
        temperature: Tensor, bias: Tensor, omit: Tensor, near: Tensor | None = None,
    ) -> SampleInputs:  # fmt: skip
        """The inputs that `tensors` gave."""
        distribution = Distribution(temperature, bias, omit)
        return cls(keys, tokens, designed, designed_positions, distribution, near=near)


class Sampled(NamedTuple):
    """What sampling a batch gives, on the device.

    Attributes
    ----------
    letters : (M,) uint8, ASCII
    sums : (sequences, 3 or 4) float64, over the rows: negative log-probabilities where designed,
        and everywhere; the number of designed residues that are the native ones; and, where ligands
        are seen, negative log-probabilities of what is designed near them
    log_probs, probabilities : (M, 21) float32
    order : (P,) int64, the positions of every sequence as decoded
    """

    letters: Tensor
    sums: Tensor
    log_probs: Tensor
    probabilities: Tensor
    order: Tensor


@dataclass(frozen=True, eq=False)
class Sampling:
    """Draw residues for the designed positions of every structure.

    `letters` is `ASCII` on the device.
    """

    arguments: DesignArguments
    letters: Tensor
    outputs: ClassVar[int] = len(Sampled._fields)
    fetched: ClassVar[int] = 2

    @property
    def structures(self) -> list[Structure]:
        return self.arguments.structures

    @property
    def counts(self) -> list[int]:
        return [self.arguments.num_sequences] * len(self.structures)

    @cached_property
    def fixed(self) -> list[NDArray[np.bool_]]:
        return [~r.designed for r in self.arguments.constraints]

    @property
    def recordable(self) -> bool:
        """On a GPU nothing of it waits for the host, but for what is tied or in a given order."""
        a = self.arguments
        unusual = any(r.groups or r.pssm or r.temperatures is not None for r in a.constraints)
        return not unusual and all(order is None for order in a.orders)

    @property
    def compute(self) -> Compute:
        letters = self.letters

        def sampling(
            backend: Backend, batch: Batch, encoding: Any, inputs: SampleInputs
        ) -> Sampled:
            return sampled(backend, batch, encoding, inputs, letters)

        return sampling

    def inputs(self, batch: Batch, backend: Backend) -> SampleInputs:
        a = self.arguments
        numbers = [np.arange(first, first + count) + a.first for _, first, count in batch.runs]
        digests = [np.full(count, a.digests[s]) for s, _, count in batch.runs]
        keys = upload(np.concatenate([[a.seed], *numbers, *digests]), batch.wide)
        designed = batch.of_positions([r.designed for r in a.constraints])
        order = None
        if any(a.orders[s] is not None or a.constraints[s].groups for s in batch.group):
            order = self._changed(batch, drawn_order(backend, batch, keys, designed))
        return SampleInputs(
            keys,
            batch.of_nodes([s.tokens for s in batch.structures]),
            batch.of_nodes([r.designed for r in a.constraints]),
            designed,
            self.distribution(batch),
            order,
            None if a.near is None else batch.of_nodes(a.near),
        )

    def distribution(self, batch: Batch) -> Distribution:
        """From logits to probabilities, as the constraints say; see `SampleInputs`."""
        a = self.arguments
        return Distribution(
            self._temperature(batch),
            batch.of_nodes([r.biases for r in a.constraints]),
            batch.of_nodes([r.omitted for r in a.constraints]),
            self._profile(batch),
            *self._ties(batch),
        )

    def _temperature(self, batch: Batch) -> Tensor:
        """Of all rows () or of every row (M,), float32."""
        a, temperature = self.arguments, self.arguments.temperature
        own = [a.constraints[s].temperatures for s in batch.group]
        if temperature.ndim == 0 and all(t is None for t in own):
            return upload(np.array(temperature), batch.device)
        per_structure = {
            s: temperatures_of(self.structures[s], temperature, a.num_sequences, t)
            for s, t in zip(batch.group, own, strict=True)
        }
        return batch.of_rows(per_structure[s][i] for s, i in batch.sequences)

    def _profile(self, batch: Batch) -> Profile | None:
        """The PSSMs over the nodes; structures that have none keep their probabilities."""
        pssms = [r.pssm for r in self.arguments.constraints]
        if all(pssms[s] is None for s in batch.group):
            return None
        parts = [
            (np.zeros((L, LETTERS), np.float32), np.zeros(L, np.float32),
             np.ones((L, LETTERS), np.float32))
            if pssm is None else pssm
            for pssm, L in zip(pssms, map(len, batch.structures), strict=True)
        ]  # fmt: skip
        return Profile(*(batch.of_nodes([values[part] for values in parts]) for part in range(3)))

    def _ties(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """Group of every row, numbered over the batch, and its weight: (M,) int64, (M,) float32."""
        groups = [r.groups for r in self.arguments.constraints]
        if not any(groups[s] for s in batch.group):
            return None, None
        numbers, weights, count = [], [], 0
        for s, _ in batch.sequences:
            number = np.full(len(batch.structures[s]), -1)
            weight = np.ones(len(batch.structures[s]), np.float32)
            for group in groups[s]:
                number[list(group)] = count
                weight[list(group)] = list(group.values())
                count += 1
            numbers.append(number)
            weights.append(weight)
        return batch.of_rows(numbers), batch.of_rows(weights)

    def _changed(self, batch: Batch, order: Tensor) -> Tensor:
        """Drawn orders (P,) with those that callers gave, tied positions following each other."""
        a = self.arguments
        changed = order.cpu().numpy()
        start = 0
        for s, i in batch.sequences:
            L, orders = len(batch.structures[s]), a.orders[s]
            own = changed[start : start + L] if orders is None else orders[i % len(orders)]
            if a.constraints[s].groups:
                own = visit_groups(own, [list(group) for group in a.constraints[s].groups])
            changed[start : start + L] = own
            start += L
        return upload(changed, batch.wide)


def sampled(
    backend: Backend, batch: Batch, encoding: Any, inputs: SampleInputs, letters: Tensor
) -> Sampled:
    """Sample a batch, on the device alone."""
    copies = batch.copies(encoding.graph)
    nodes = copies.nodes  # (M,)
    order = inputs.order
    if order is None:
        order = drawn_order(backend, batch, inputs.keys, inputs.designed_positions)
    native, designed = inputs.tokens[nodes], inputs.designed[nodes]
    uniform = backend.uniforms(inputs.keys, RESIDUE, batch.lengths, batch.position_starts)
    samples = backend.sample(
        encoding,
        copies,
        batch.rank(order),
        of_rows(inputs.distribution, nodes),
        batch.drawn(uniform),
        native,
        designed,
    )
    log_probs = samples.logits.log_softmax(-1)
    nll = nll_of(log_probs, samples.tokens)
    # The sums of a sequence in which nothing was left to draw are no number, and show it.
    nll = torch.where(designed & ~is_distribution(samples.probabilities), torch.nan, nll)
    totals = [nll * designed, nll, designed & (samples.tokens == native)]
    if inputs.near is not None:
        totals.append(nll * inputs.near[nodes])
    return Sampled(
        letters[samples.tokens],
        batch.sums(torch.stack(totals, 1)),
        log_probs,
        samples.probabilities,
        order,
    )


def nll_of(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """Negative log-probability of the residue of every row: (M, 21), (M,) -> (M,)."""
    return -log_probs.gather(1, tokens[:, None])[:, 0]


def of_rows(distribution: Distribution, nodes: Tensor) -> Distribution:
    """What is over the nodes as over the rows, of which each is a copy of one of `nodes` (M,)."""
    d = distribution
    of_rows: dict[str, Any] = {"temperature": d.temperature.expand(len(nodes))}
    for name in {"bias", "omit"} | d.in_use - {"group", "weight"}:
        values = getattr(d, name)
        of_rows[name] = values.of(nodes) if isinstance(values, Profile) else values[nodes]
    return replace(d, **of_rows)


def drawn_order(backend: Backend, batch: Batch, keys: Tensor, designed: Tensor) -> Tensor:
    """The positions of every sequence as decoded, drawn as the original draws them: (P,).

    designed : bool, over the positions of the group's structures
    """
    uniform = backend.uniforms(keys, ORDER, batch.lengths, batch.position_starts)
    noise = half_normal(uniform.to(batch.wide))
    weight = (designed.double() + FIXED_WEIGHT)[batch.structure_position]
    return batch.order(weight * noise)


class DecodeInputs(NamedTuple):
    """What decoding given sequences needs.

    Attributes
    ----------
    tokens, rank : (M,) int64, the residue of every row, and when it is decoded in its sequence
    designed : (N,) bool, over the nodes, what a score counts; None where nothing is scored
    near : (N,) bool, over the nodes, what a ligand's score counts; None where there is none
    """

    tokens: Tensor
    rank: Tensor
    designed: Tensor | None = None
    near: Tensor | None = None

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(tensor for tensor in self if tensor is not None)

    @classmethod
    def of(cls, *tensors: Tensor) -> DecodeInputs:
        """The inputs that `tensors` gave."""
        return cls(*tensors)


@dataclass(frozen=True, eq=False)
class GivenSequences:
    """What the jobs on given sequences share: one output, which is wanted at once."""

    arguments: DecodeArguments | ScoreArguments
    recordable: ClassVar[bool] = True
    outputs: ClassVar[int] = 1
    fetched: ClassVar[int] = 1

    @property
    def structures(self) -> list[Structure]:
        return self.arguments.structures

    @property
    def counts(self) -> list[int]:
        tokens, ranks = self.arguments.tokens, self.arguments.ranks
        return [max(len(t), len(r)) for t, r in zip(tokens, ranks, strict=True)]

    @cached_property
    def fixed(self) -> list[NDArray[np.bool_]]:
        return [~designed for designed in self.arguments.designed]

    def inputs(self, batch: Batch, backend: Backend) -> DecodeInputs:
        """One sequence or a few orders of a structure are taken in turn."""

        def of_rows(values: list[NDArray[np.int64]]) -> Tensor:
            return batch.of_rows(values[s][i % len(values[s])] for s, i in batch.sequences)

        return DecodeInputs(of_rows(self.arguments.tokens), of_rows(self.arguments.ranks))


@dataclass(frozen=True, eq=False)
class Decoding(GivenSequences):
    """Log-probabilities of given sequences, every position seeing those decoded before it."""

    arguments: DecodeArguments

    @property
    def compute(self) -> Compute:
        return decoded


def decoded(
    backend: Backend, batch: Batch, encoding: Any, inputs: DecodeInputs
) -> tuple[Tensor, ...]:
    """Log-probabilities (M, 21) of a batch, on the device alone."""
    copies = batch.copies(encoding.graph)
    logits = backend.decode(encoding, copies, inputs.tokens, inputs.rank)
    return (logits.log_softmax(-1),)


class ConditionInputs(NamedTuple):
    """What decoding each residue after all others needs: see `MPNN.condition`."""

    tokens: Tensor
    rank: Tensor
    tied: bool

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({TIED if self.tied else CONDITIONING})


@dataclass(frozen=True, eq=False)
class Conditioning(Decoding):
    """Log-probabilities of given sequences, every position seeing all others."""

    recordable: ClassVar[bool] = False
    tied: bool = False

    @property
    def compute(self) -> Compute:
        return conditioned

    def inputs(self, batch: Batch, backend: Backend) -> ConditionInputs:  # type: ignore[override]
        given = super().inputs(batch, backend)
        return ConditionInputs(given.tokens, given.rank, self.tied)


def conditioned(
    backend: Backend, batch: Batch, encoding: Any, inputs: ConditionInputs
) -> tuple[Tensor]:
    """Log-probabilities (M, 21) of a batch, each residue's after all others."""
    copies = batch.copies(encoding.graph)
    if inputs.tied:
        logits = backend.network.condition(encoding, copies, inputs.tokens, inputs.rank, tied=True)
    else:
        logits = backend.condition(encoding, copies, inputs.tokens, inputs.rank)
    return (logits.log_softmax(-1),)


@dataclass(frozen=True, eq=False)
class Scoring(GivenSequences):
    """Negative log-probabilities of given sequences, added up where they are computed."""

    arguments: ScoreArguments

    @property
    def compute(self) -> Compute:
        return scored

    def inputs(self, batch: Batch, backend: Backend) -> DecodeInputs:
        a = self.arguments
        return (
            super()
            .inputs(batch, backend)
            ._replace(
                designed=batch.of_nodes(a.designed),
                near=None if a.near is None else batch.of_nodes(a.near),
            )
        )


def scored(backend: Backend, batch: Batch, encoding: Any, inputs: DecodeInputs) -> tuple[Tensor]:
    """Negative log-probabilities of a batch, of the designed rows and of all, and where ligands are
    seen of the designed ones near them: (sequences, 2 or 3)."""
    assert inputs.designed is not None
    copies = batch.copies(encoding.graph)
    logits = backend.decode(encoding, copies, inputs.tokens, inputs.rank)
    nll = nll_of(logits.log_softmax(-1), inputs.tokens)
    totals = [nll * inputs.designed[copies.nodes], nll]
    if inputs.near is not None:
        totals.append(nll * inputs.near[copies.nodes])
    return (batch.sums(torch.stack(totals, 1)),)
