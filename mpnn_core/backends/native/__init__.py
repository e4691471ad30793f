"""The network in C++: fused over one node's edges, all levels of a batch in one call.

`engine.h` says what goes in and out, `kernels.cpp` holds the arithmetic, `threads.cpp` the threads.
Each instruction set is a module of its own; the best one that the processor supports is taken.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from functools import cache
from pathlib import Path
from threading import local
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpnn_core.backends.contract import Backend, UnavailableError, require_known
from mpnn_core.backends.native.cores import available_cores
from mpnn_core.backends.native.missing import why_missing
from mpnn_core.constants import LETTERS
from mpnn_core.network.context import LigandMPNN, context_sets
from mpnn_core.network.encoding import (
    CHANGED_STATES,
    CONDITIONING,
    INITIAL_STATES,
    OWN_FEATURES,
    Copies,
    Encoding,
)
from mpnn_core.network.graph import Backbones, Graph, nearest_neighbours
from mpnn_core.network.mpnn import MPNN
from mpnn_core.sampling.sampler import Distribution, Samples

INSTRUCTION_SETS = ("avx512", "avx2", "generic")
# The kernels work on whole blocks of columns, 64 of them on the widest processors.
WIDTH = 64
# Of the encodings computed together, per thread: those of some 270 residues. TS50 x 8 takes
# 1.6 s with 8 to 32 MiB on two threads, 1.8 with 64, 2.1 all at once.
CACHED_BYTES = 32 << 20
# To search for the neighbours of so many residues torch may take all threads.
SEARCHED_TOGETHER = 512


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


def engine_module(hidden: int, wanted: str | None = None) -> tuple[str, Any]:
    """The instruction set to compute with, the best one unless it is named, and its module.

    Raises
    ------
    UnavailableError
        There is no native code that runs here, or none for networks of this width.
    """
    present = instruction_sets()
    if not present:
        raise UnavailableError(why_missing())
    if hidden % WIDTH:
        raise UnavailableError(f"its hidden width is {hidden}, no multiple of {WIDTH}")
    name = wanted or present[0]
    return name, importlib.import_module(f"mpnn_core.backends.native._{name}")


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
    knows = frozenset(
        {"profile", "group", "weight", INITIAL_STATES, CHANGED_STATES, OWN_FEATURES, CONDITIONING}
    )

    def __init__(self, network: MPNN, instruction_set: str | None = None) -> None:
        self.network = network
        self.hidden = network.W_out.in_features
        self.instruction_set, module = engine_module(self.hidden, instruction_set)
        self.neighbours = network.neighbours
        self.layers = len(network.decoders)
        weights = {name: _array(p, np.float32) for name, p in network.state_dict().items()}
        if isinstance(network, LigandMPNN):
            folded = network.folded()
            for field in fields(folded):
                weights[f"context.{field.name}"] = _array(getattr(folded, field.name), np.float32)
        self._engine: Any = module.Engine(weights)

    @property
    def best_encoded_bytes(self) -> int:
        """What stays in the processor's caches, and is not new memory at every call."""
        return CACHED_BYTES * _threads()

    def computing(self) -> AbstractContextManager[None]:
        """Torch has the calling thread alone: beside the network its work is small.

        Each of its operations on several threads waits for all of them, scheduled or not.
        """
        return _torch_on(1)

    def encode(
        self, backbones: Backbones, graph: Graph | None = None, h_V: Tensor | None = None
    ) -> Encoding:
        """Features and encoder; `graph` and `h_V` as in `MPNN.encode`."""
        if graph is None:
            with _torch_on(_threads() if len(backbones) >= SEARCHED_TOGETHER else 1):
                graph = nearest_neighbours(backbones, self.neighbours)
        (N, K), H = graph.neighbours.shape, self.hidden
        initial = _optional(h_V, np.float32)
        # numpy asks for huge pages; these 74 MB per thousand residues are new at every call.
        states = np.empty((N, H), np.float32)
        edges = np.empty((self.layers, N, K, H), np.float32)
        undecoded = np.empty((self.layers, N, H), np.float32)
        self._engine.encode(
            coords=_array(backbones.coords, np.float32),
            residue_index=_array(backbones.residue_index, np.int64),
            chain=_array(backbones.chain, np.int64),
            frames=_optional(backbones.frames, np.float32),
            **_graph(graph),
            initial=initial,
            h_V=states,
            edges=edges,
            undecoded=undecoded,
            threads=_undisturbed_threads(),
        )
        return Encoding(graph, *map(torch.from_numpy, (states, edges, undecoded)))

    def changed_states(self, encoding: Encoding, backbones: Backbones, context: Any) -> Tensor:
        """What decoding starts from, (N, H); see `LigandMPNN.changed_states`."""
        network = self.network
        if not isinstance(network, LigandMPNN):
            return super().changed_states(encoding, backbones, context)
        sets = context_sets(context, encoding.graph, backbones, network.context_atoms)
        h_V = _array(encoding.h_V, np.float32).copy()
        self._engine.see(
            coords=_array(backbones.coords, np.float32),
            xyz=_array(sets.xyz, np.float32),
            element=_array(sets.element, np.int64),
            atoms=_array(sets.atoms, np.int64),
            set_of_node=_array(sets.set_of_node, np.int64),
            h_V=h_V,
            threads=_undisturbed_threads(),
        )
        return torch.from_numpy(h_V)

    def decode(self, encoding: Encoding, copies: Copies, tokens: Tensor, rank: Tensor) -> Tensor:
        """Logits (M, 21) of given residues; see `MPNN.decode`."""
        return self._logits(self._engine.decode, encoding, copies, tokens, rank)

    def condition(self, encoding: Encoding, copies: Copies, tokens: Tensor, rank: Tensor) -> Tensor:
        """Logits (M, 21) of given residues, each after all others; see `MPNN.condition`."""
        return self._logits(self._engine.condition, encoding, copies, tokens, rank)

    def _logits(
        self, compute: Any, encoding: Encoding, copies: Copies, tokens: Tensor, rank: Tensor
    ) -> Tensor:
        logits = np.empty((len(tokens), LETTERS), np.float32)
        compute(
            **_encoding(encoding),
            **_rows(copies, rank),
            tokens=_array(tokens, np.int64),
            logits=logits,
            threads=_undisturbed_threads(),
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
            threads=_undisturbed_threads(),
        )
        return Samples(*map(torch.from_numpy, (drawn, logits, probabilities)))


# Of the calling thread: how many threads torch has when it has not just this one.
_torch = local()
# A forked process has none of the threads of the one that it came from, and must not end them.
_process = os.getpid()


@cache
def _loaded(name: str, *functions: str) -> Any:
    """The library of torch with `name` in its file name and these functions of an int; or None."""
    try:
        files = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
        library = ctypes.CDLL(next(f for f in sorted(files) if name in f and "torch" in f))
        for function in functions:
            getattr(library, function).argtypes = [ctypes.c_int]
    except (OSError, StopIteration, AttributeError):
        return None
    return library


def _openmp() -> Any:
    """The OpenMP runtime that torch uses; None where not found."""
    return _loaded("gomp", "omp_pause_resource_all", "omp_set_num_threads")


def _mkl() -> Any:
    """The MKL that is part of torch, with threads of its own number; None where not found."""
    return _loaded("libtorch_cpu", "MKL_Set_Num_Threads_Local")


def _threads() -> int:
    """Threads to compute with: as many as torch, but no more than there are cores."""
    wanted: int = getattr(_torch, "threads", None) or torch.get_num_threads()
    return min(wanted, available_cores())


def _undisturbed_threads() -> int:
    """`_threads`, once those of torch are off the processors.

    After an operation torch's threads wait for the next one by spinning, for some 5 ms: as long as
    our threads take to encode a small protein. Torch's next operation on several threads starts
    them again, in well under 0.1 ms.
    """
    _end_threads_of_torch()
    return _threads()


def _end_threads_of_torch() -> None:
    """Those of the calling thread, by a soft pause (OpenMP 5.0, section 3.2.43)."""
    if os.getpid() == _process and (runtime := _openmp()) is not None:
        runtime.omp_pause_resource_all(1)


@contextmanager
def _torch_on(threads: int) -> Iterator[None]:
    """Let torch compute on so many threads where the calling thread asks it to; no other thread's
    setting changes, as by `torch.set_num_threads`."""
    openmp, mkl = _openmp(), _mkl()
    if openmp is None:
        yield
        return
    before, outside = torch.get_num_threads(), getattr(_torch, "threads", None)
    _torch.threads = outside or before
    openmp.omp_set_num_threads(threads)
    mkl_before = mkl and mkl.MKL_Set_Num_Threads_Local(threads)
    try:
        yield
    finally:
        if mkl:
            mkl.MKL_Set_Num_Threads_Local(mkl_before)  # 0: the setting of all threads
        openmp.omp_set_num_threads(before)
        _torch.threads = outside


def _now_in_child() -> None:
    global _process
    _process = os.getpid()


if hasattr(os, "register_at_fork"):
    # Torch in the child would wait for threads that are not there.
    os.register_at_fork(before=_end_threads_of_torch, after_in_child=_now_in_child)


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
