"""What computes the network: plain torch, native code, CUDA kernels. One contract, `Backend`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mpnn_core.network.encoding import Copies, Encoding
from mpnn_core.network.graph import Backbones, Graph
from mpnn_core.network.mpnn import MPNN
from mpnn_core.sampling.noise import uniforms
from mpnn_core.sampling.sampler import Distribution, Samples, TorchLevels, sample
from mpnn_core.sampling.schedule import wavefront


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


class TorchBackend(Backend):
    """`network.py` and `sampler.py` as they stand, on any torch device."""

    name = "torch"

    def __init__(self, network: MPNN) -> None:
        self.network = network

    def encode(self, backbones: Backbones, graph: Graph | None = None) -> Encoding:
        return self.network.encode(backbones, graph)

    def decode(self, encoding: Encoding, copies: Copies, tokens: Tensor, rank: Tensor) -> Tensor:
        return self.network.decode(encoding, copies, tokens, rank)

    def sample(
        self,
        encoding: Encoding,
        copies: Copies,
        rank: Tensor,
        distribution: Distribution,
        uniform: Tensor,
        tokens: Tensor,
        designed: Tensor,
    ) -> Samples:
        levels = TorchLevels(self.network, encoding, copies, rank)
        steps = wavefront(rank, copies.neighbours, distribution.group)
        return sample(levels, rank, steps, distribution, uniform, tokens, designed)


class UnavailableError(Exception):
    """A backend cannot be used here: why, and what to do."""


BACKENDS = (
    "auto", "torch", "native", "cuda", "cuda-fast", "mlx", "mlx-fast", "mlx-int8", "coreml",
    "coreml-fast",
)  # fmt: skip

# What the backends that are not exact lose, as measured.
LOSSES = {
    "cuda-fast": "float16, its log-probabilities have a KL of 2.9e-5",
    "mlx-fast": "float16, its log-probabilities have a KL of 1e-5",
    "mlx-int8": "its log-probabilities have a KL of 2e-4, the likeliest residue changes in 2 %",
    "coreml-fast": "float16, its log-probabilities have a KL of 2e-6",
}


def find_backend(name: str, network: MPNN, device: torch.device) -> Backend:
    """The backend called `name`; "auto" is the fastest that runs on `device`.

    Raises
    ------
    ValueError
        There is no such backend, or it cannot run here; the message says why.
    """
    if name not in BACKENDS:
        raise ValueError(f"no backend is called {name!r}; there are {', '.join(BACKENDS)}")
    if device.type == "cuda" and name in ("auto", "cuda", "cuda-fast"):
        from mpnn_core.backends.cuda import CudaBackend

        return CudaBackend(network, "fast" if name == "cuda-fast" else "exact")
    if name.startswith("cuda"):
        raise ValueError(f"backend {name!r} needs device='cuda', not {str(device)!r}")
    if name.startswith(("mlx", "coreml")):
        if device.type != "cpu":
            raise ValueError(f"backend {name!r} finds its device itself; leave device='cpu'")
        try:
            return _apple(name, network)
        except UnavailableError as error:
            raise ValueError(f"backend {name!r} cannot be used here: {error}") from None
    if name == "torch" or (name == "auto" and device.type != "cpu"):
        return TorchBackend(network)
    from mpnn_core.backends.native import NativeBackend

    try:
        if device.type != "cpu":
            raise UnavailableError(f"it runs on the CPU, not on {device}")
        return NativeBackend(network)
    except UnavailableError as error:
        if name == "native":
            raise ValueError(f"backend 'native' cannot be used here: {error}") from None
        # The default filter of warnings prints this once.
        warnings.warn(f"computing with plain torch, which is slower: {error}", stacklevel=3)
        return TorchBackend(network)


def _apple(name: str, network: MPNN) -> Backend:
    """A backend for Apple silicon."""
    if name.startswith("coreml"):
        from mpnn_core.backends.coreml.backend import CoreMLBackend

        return CoreMLBackend(network, "float16" if name == "coreml-fast" else "float32")
    try:
        from mpnn_core.backends.mlx import MLXBackend
    except ImportError as error:
        raise UnavailableError(f'{error}; pip install "mpnn-core[mlx]"') from None
    return MLXBackend(network, "exact" if name == "mlx" else name.removeprefix("mlx-"))
