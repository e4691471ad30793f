"""The network in C++: fused over one node's edges, all levels of a batch in one call.

`engine.h` says what goes in and out, `kernels.cpp` holds the arithmetic, `threads.cpp` the threads.
Each instruction set is a module of its own; the best one that the processor supports is taken.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpnn_core.backends.contract import Backend, UnavailableError, require_known
from mpnn_core.backends.native.missing import why_missing
from mpnn_core.constants import LETTERS
from mpnn_core.network.encoding import CHANGED_STATES, INITIAL_STATES, Copies, Encoding
from mpnn_core.network.graph import Backbones, Graph, nearest_neighbours
from mpnn_core.network.mpnn import MPNN
from mpnn_core.sampling.sampler import Distribution, Samples

# A forked process has none of the threads of the one that it came from, and must not end them.
_IMPORTED_IN = os.getpid()
INSTRUCTION_SETS = ("avx512", "avx2", "generic")
# The kernels work on whole blocks of columns, 64 of them on the widest processors.
WIDTH = 64
# Of the encodings computed together, per thread: those of some 270 residues. TS50 x 8 takes
# 1.6 s with 8 to 32 MiB on two threads, 1.8 with 64, 2.1 all at once.
CACHED_BYTES = 32 << 20


def instruction_sets() -> list[str]:
    """Those that were compiled and that this processor supports, best first."""
    supported = []
    for name in INSTRUCTION_SETS:
        try:
            module = importlib.import_module(f"mpnn_core.backends.native._{name}")
        except ImportError:
            continue
        if module.supported():
            supported.append(name)
    return supported


class NativeBackend(Backend):
    """The contract of `backends.contract.Backend`, float32 on the CPU.

    Parameters
    ----------
    network : the network, on the CPU; its weights are copied
    instruction_set : one of `instruction_sets()`; None takes the best

    Raises
    ------
    UnavailableError
        There is no native code that runs here, or the network has a width the kernels do not.
    """

    name = "native"
    knows = frozenset({"profile", "group", "weight", INITIAL_STATES, CHANGED_STATES})

    def __init__(self, network: MPNN, instruction_set: str | None = None) -> None:
        present = instruction_sets()
        if not present:
            raise UnavailableError(why_missing())
        self.network = network
        self.hidden = network.W_out.in_features
        if self.hidden % WIDTH:
            raise UnavailableError(f"its hidden width is {self.hidden}, no multiple of {WIDTH}")
        self.instruction_set = instruction_set or present[0]
        self.neighbours = network.neighbours
        self.layers = len(network.decoders)
        module = importlib.import_module(f"mpnn_core.backends.native._{self.instruction_set}")
        weights = {name: _array(p, np.float32) for name, p in network.state_dict().items()}
        self._engine: Any = module.Engine(weights)

    @property
    def best_encoded_bytes(self) -> int:
        """What stays in the processor's caches, and is not new memory at every call."""
        return CACHED_BYTES * torch.get_num_threads()

    def encode(
        self, backbones: Backbones, graph: Graph | None = None, h_V: Tensor | None = None
    ) -> Encoding:
        """Features and encoder; `graph` and `h_V` as in `MPNN.encode`."""
        graph = graph or nearest_neighbours(backbones, self.neighbours)
        (N, K), H = graph.neighbours.shape, self.hidden
        initial = _optional(h_V, np.float32)
        h_V = torch.empty(N, H)
        # numpy asks for huge pages; these 74 MB per thousand residues are new at every call.
        edges = torch.from_numpy(np.empty((self.layers, N, K, H), np.float32))
        undecoded = torch.empty(self.layers, N, H)
        self._engine.encode(
            coords=_array(backbones.coords, np.float32),
            residue_index=_array(backbones.residue_index, np.int64),
            chain=_array(backbones.chain, np.int64),
            **_graph(graph),
            initial=initial,
            h_V=h_V.numpy(),
            edges=edges.numpy(),
            undecoded=undecoded.numpy(),
            threads=_threads(),
        )
        return Encoding(graph, h_V, edges, undecoded)

    def decode(self, encoding: Encoding, copies: Copies, tokens: Tensor, rank: Tensor) -> Tensor:
        """Logits (M, 21) of given residues; see `MPNN.decode`."""
        logits = np.empty((len(tokens), LETTERS), np.float32)
        self._engine.decode(
            **_encoding(encoding),
            **_rows(copies, rank),
            tokens=_array(tokens, np.int64),
            logits=logits,
            threads=_threads(),
        )
        return torch.from_numpy(logits)

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
        """Residues for the rows that are designed, level by level; see `Backend.sample`."""
        require_known(self, distribution.in_use)
        M = len(tokens)
        drawn = tokens.numpy().copy()
        logits, probabilities = (
            np.empty((M, LETTERS), np.float32),
            np.zeros((M, LETTERS), np.float32),
        )
        d = distribution
        self._engine.sample(
            **_encoding(encoding),
            **_rows(copies, rank),
            designed=_array(designed, np.uint8),
            uniform=_array(uniform, np.float64),
            temperature=_array(d.temperature, np.float32),
            bias=_array(d.bias, np.float32),
            omit=_array(d.omit, np.uint8),
            group=_optional(d.group, np.int64),
            weight=_optional(d.weight, np.float32),
            pssm=_optional(getattr(d.profile, "bias", None), np.float32),
            pssm_weight=_optional(getattr(d.profile, "weight", None), np.float32),
            pssm_factor=_optional(getattr(d.profile, "factor", None), np.float32),
            tokens=drawn,
            logits=logits,
            probabilities=probabilities,
            threads=_threads(),
        )
        return Samples(*map(torch.from_numpy, (drawn, logits, probabilities)))


@cache
def _openmp() -> Callable[[int], int] | None:
    """`omp_pause_resource_all` of the OpenMP runtime that torch uses; None where not found."""
    try:
        loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
        path = next(p for p in sorted(loaded) if "gomp" in p and "torch" in p)
        pause: Callable[[int], int] = ctypes.CDLL(path).omp_pause_resource_all
    except (OSError, StopIteration, AttributeError):
        return None
    return pause


def _threads() -> int:
    """Threads to compute with, once those of torch are off the processors.

    After an operation torch's threads wait for the next one by spinning, for some 5 ms: as long as
    our threads take to encode a small protein. A soft pause (OpenMP 5.0, section 3.2.43) ends them;
    torch's next operation starts them again, in well under 0.1 ms.
    """
    threads = torch.get_num_threads()
    if threads > 1 and os.getpid() == _IMPORTED_IN and (pause := _openmp()) is not None:
        pause(1)
    return threads


def _array(tensor: Tensor, dtype: Any) -> NDArray[Any]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype)


def _optional(tensor: Tensor | None, dtype: Any) -> NDArray[Any] | None:
    return None if tensor is None else _array(tensor, dtype)


def _graph(graph: Graph) -> dict[str, NDArray[Any] | None]:
    return {
        "neighbours": _array(graph.neighbours, np.int64),
        "valid": _optional(graph.valid, np.uint8),
    }


def _encoding(encoding: Encoding) -> dict[str, NDArray[Any] | None]:
    """The engine's view of an encoding; what this backend made is passed without a copy."""
    return {
        **_graph(encoding.graph),
        "h_V": _array(encoding.h_V, np.float32),
        "edges": _array(encoding.edges, np.float32),
        "undecoded": _array(encoding.undecoded, np.float32),
    }


def _rows(copies: Copies, rank: Tensor) -> dict[str, NDArray[Any]]:
    starts = np.array(copies.starts, np.int64)
    return {
        "starts": starts,
        "first_node": _array(copies.nodes, np.int64)[starts[:-1]],
        "rank": _array(rank, np.int64),
    }
