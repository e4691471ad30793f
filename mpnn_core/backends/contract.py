"""The contract of the backends: their methods, and the rule for what one of them does not know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from mpnn_core.network.encoding import CHANGED_STATES, CONDITIONING, INITIAL_STATES, Copies
from mpnn_core.network.graph import Backbones, Graph
from mpnn_core.network.mpnn import MPNN
from mpnn_core.sampling.noise import uniform_numbers
from mpnn_core.sampling.sampler import Distribution, Samples


class Encoded(Protocol):
    """Structures as a backend has encoded them; only that backend reads more than the graph."""

    @property
    def graph(self) -> Graph: ...


class Replay(Protocol):
    """Calls a function on a device, or replays what it recorded of an earlier call."""

    def __call__(
        self,
        key: tuple[Any, ...],
        function: Callable[..., tuple[Tensor, ...]],
        inputs: Sequence[Tensor],
        fetched: int,
    ) -> tuple[Tensor, ...]:
        """`function` of `inputs`, tensors on the host; its first `fetched` results come back to it.

        Functions of equal keys are interchangeable.
        """


class Backend(Protocol):
    """The network's three computations, on rows and graphs as `network/mpnn.py` defines them.

    A result depends on the structure, the sequence and the arguments alone: not on what is computed
    beside it, the number of threads, or the backend, beyond float32 rounding.

    Attributes
    ----------
    name : of the backend and its tier
    network : the network that it computes, with its weights
    knows : the optional fields of `Distribution` that it computes, and which of `INITIAL_STATES`
        and `CHANGED_STATES` it can do, and `CONDITIONING`; None: everything, as plain torch
    replays : records and replays calls on its device; None where it does not
    """

    name: str
    network: MPNN
    knows: frozenset[str] | None
    replays: Replay | None = None

    @property
    def best_encoded_bytes(self) -> int | None:
        """How large encodings of structures computed together should be at most; None: any."""
        return None

    def computing(self) -> AbstractContextManager[None]:
        """What surrounds every computation of a job that this backend serves."""
        return nullcontext()

    def encode(
        self, backbones: Backbones, graph: Graph | None = None, h_V: Tensor | None = None
    ) -> Encoded:
        """Features and encoder of any number of structures; `graph` and `h_V` as in `MPNN.encode`.

        Callers use `encoded`, which gives h_V and changes the states where the network asks for it.
        """

    def states(self, encoding: Any) -> Tensor:
        """The node states of an encoding: (N, H) float32, on the network's device."""
        h_V: Tensor = encoding.h_V
        return h_V

    def changed_states(self, encoding: Any, backbones: Backbones, context: Any) -> Tensor:
        """What decoding starts from, (N, H); see `MPNN.changed_states`."""
        return self.network.changed_states(
            self.states(encoding), encoding.graph, backbones, context
        )

    def with_states(self, encoding: Any, h_V: Tensor) -> Encoded:
        """The encoding with other node states, (N, H), for the decoder; the edges are shared."""
        return self.network.with_states(encoding, h_V)

    def decode(self, encoding: Any, copies: Copies, tokens: Tensor, rank: Tensor) -> Tensor:
        """Logits (M, 21) of given residues; see `MPNN.decode`."""

    def condition(self, encoding: Any, copies: Copies, tokens: Tensor, rank: Tensor) -> Tensor:
        """Logits (M, 21) of given residues, each decoded after all others; see `MPNN.condition`.

        Asked only of a backend that knows `CONDITIONING`.
        """
        raise TypeError(f"backend {self.name!r} does not know {CONDITIONING!r}")

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
        """Residues for the rows that are designed; see `sampling.sampler.sample`.

        Raises
        ------
        ValueError
            A field of the distribution is in use that the backend does not know.
        """

    def uniforms(self, keys: Tensor, stream: int, lengths: Sequence[int], starts: Tensor) -> Tensor:
        """`noise.uniform_numbers` as a tensor on the backend's device, the same bits everywhere.

        keys (1 + 2 sequences,) int64 are the seed, the number of every sequence, and the digest of
        its structure (`noise.digest`); starts are the sums of lengths.
        """
        seed, *names = keys.tolist()
        n = len(lengths)
        return torch.from_numpy(uniform_numbers(seed, stream, names[:n], lengths, names[n:]))


class UnavailableError(Exception):
    """A backend cannot be used here: why, and what to do."""


def serves(backend: Backend, needs: frozenset[str]) -> bool:
    """Whether a backend knows all that a job needs.

    The needs of a job are `network.requires` and the `in_use` of its distribution. Where a backend
    does not know them all, plain torch serves: `plain.serving`.
    """
    return backend.knows is None or needs <= backend.knows


def require_known(backend: Backend, needs: frozenset[str]) -> None:
    """Raise ValueError if the backend does not know something that it is asked for."""
    if not serves(backend, needs):
        known = sorted(backend.knows or ())
        raise ValueError(
            f"backend {backend.name!r} does not compute {', '.join(sorted(needs - set(known)))}; "
            f"beyond plain sampling it computes {', '.join(known) or 'nothing'}. Plain torch "
            "computes everything: backend='torch'"
        )


def encoded(
    backend: Backend, backbones: Backbones, graph: Graph | None = None, context: Any = None
) -> Any:
    """What decoding starts from, as the network's architecture makes it.

    Parameters
    ----------
    graph : as in `MPNN.encode`
    context : what the architecture reads of the structures besides their backbones

    Returns
    -------
    The backend's encoding, from the network's own initial states and with the changes that it makes
    between encoder and decoder, where it has such.
    """
    network = backend.network
    h_V = None
    if INITIAL_STATES in network.requires:
        h_V = network.initial_states(backbones, context)
    encoding = backend.encode(backbones, graph, h_V)
    if CHANGED_STATES in network.requires:
        h_V = backend.changed_states(encoding, backbones, context)
        encoding = backend.with_states(encoding, h_V)
    return encoding
