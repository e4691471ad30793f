"""What a backend computes, and what it is given: one contract for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mpnn_core.network.encoding import Copies
from mpnn_core.network.graph import Backbones, Graph
from mpnn_core.sampling.noise import uniforms
from mpnn_core.sampling.sampler import Distribution, Samples


class Encoded(Protocol):
    """Structures as a backend has encoded them; who is not the backend reads the graph alone."""

    @property
    def graph(self) -> Graph: ...


class Replay(Protocol):
    """Calls a function on a device, or replays what it recorded of an earlier call."""

    def __call__(
        self,
        key: tuple[Any, ...],
        function: Callable[..., tuple[Tensor, ...]],
        given: Sequence[Tensor],
        fetched: int,
    ) -> tuple[Tensor, ...]:
        """`function` of what is given on the host; its first `fetched` results come back to it.

        Functions of equal keys are interchangeable.
        """


class Backend(Protocol):
    """The network's three computations, on rows and graphs as `network.py` defines them.

    A result depends on the structure, the sequence and the arguments alone: not on what is computed
    beside it, the number of threads, or the backend, beyond float32 rounding.
    """

    name: str
    replays: Replay | None = None
    knows: frozenset[str] = frozenset({"profile", "group", "weight"})

    @property
    def best_encoded_bytes(self) -> int | None:
        """How large encodings of structures computed together should be at most; None: any."""
        return None

    def encode(self, backbones: Backbones, graph: Graph | None = None) -> Encoded:
        """Features and encoder of any number of structures; `graph` as in `MPNN.encode`."""

    def decode(self, encoding: Any, copies: Copies, tokens: Tensor, rank: Tensor) -> Tensor:
        """Logits (M, 21) of given residues; see `MPNN.decode`."""

    def sample(
        self,
        encoding: Any,
        copies: Copies,
        rank: Tensor,
        distribution: Distribution,
        uniform: Tensor,
        tokens: Tensor,
        designed: Tensor,
    ) -> Samples:
        """Residues for the rows that are designed; see `sampler.sample`."""

    def uniforms(self, keys: Tensor, stream: int, lengths: Sequence[int], starts: Tensor) -> Tensor:
        """Random numbers, on any device, the same bits on every backend: `sampler.uniforms`.

        keys (1 + sequences,) int64 are the seed and the sequences; starts are the sums of lengths.
        """
        seed, *sequences = keys.tolist()
        return torch.from_numpy(uniforms(seed, stream, sequences, lengths))


class UnavailableError(Exception):
    """A backend cannot be used here: why, and what to do."""
