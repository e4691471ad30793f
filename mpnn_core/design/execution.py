"""Runs jobs: what is encoded together, what is decoded together, where, in how much memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpnn_core.backends.contract import Backend, encoded
from mpnn_core.backends.float32 import in_float32
from mpnn_core.backends.plain import serving
from mpnn_core.constants import LETTERS
from mpnn_core.design.batches import Batch, groups_within, runs_within
from mpnn_core.design.jobs import ASCII, Compute, Job
from mpnn_core.network.encoding import RINGS
from mpnn_core.network.graph import Backbones, upload
from mpnn_core.network.mpnn import MPNN
from mpnn_core.structures.structure import Structure

# Work is divided to keep the large tensors under about this size each, with the same results.
MEMORY_BUDGET_BYTES = 1 << 30
FLOAT_BYTES = 4
HOST = torch.device("cpu")


class Executor:
    """Runs jobs on a backend, batch by batch.

    Attributes
    ----------
    backend : what computes. A job that needs what the backend does not know runs in plain torch, on
        the same device
    """

    def __init__(self, network: MPNN, backend: Backend, device: torch.device) -> None:
        self.network = network
        self.backend = backend
        self.device = device
        self._kept_bytes = 0  # left on the device since its memory was looked at

    def run(self, *jobs: Job) -> Iterator[tuple[Job, Batch, tuple[Tensor, ...]]]:
        """Every batch of every job with its outputs; the first `job.fetched` may be on the host.

        The jobs have the same structures, and each structure is encoded once for all of them.
        """
        return chain.from_iterable(self.by_group(*jobs))

    def by_group(self, *jobs: Job) -> Iterator[Iterator[tuple[Job, Batch, tuple[Tensor, ...]]]]:
        """What `run` gives, for each group of structures that are encoded together."""
        divided = (self.batches(job.structures, job.counts) for job in jobs)
        for of_jobs in zip(*divided, strict=True):
            parts = [
                (job, batch)
                for job, (_, batches) in zip(jobs, of_jobs, strict=True)
                for batch in batches
            ]
            yield self._run(parts, whole=len(parts) == len(jobs))

    def _run(
        self, parts: list[tuple[Job, Batch]], whole: bool
    ) -> Iterator[tuple[Job, Batch, tuple[Tensor, ...]]]:
        """The batches of a group; `whole`: there is one for each job."""
        first, batch = parts[0]
        structures = [first.structures[s] for s in batch.group]
        if self.backend.replays and whole:
            replayed = self._replayed(parts, structures)
            if replayed is not None:
                for (job, batch), outputs in zip(parts, replayed, strict=True):
                    yield job, batch, self._kept(outputs, job.fetched)
                return
        of_parts = [part for structure in structures for part in structure.parts]
        backbones = self.network.backbones(of_parts, self.device)
        fixed = [
            part
            for structure, s in zip(structures, batch.group, strict=True)
            for part in divided(first.fixed[s], structure)
        ]
        context = self.network.context(of_parts, fixed, self.device)
        with self._computing(self.backend):
            inputs = [job.inputs(batch, self.backend) for job, batch in parts]
            needs = self.network.requires.union(*(x.needs for x in inputs))
            if backbones.rings is not None:
                needs |= {RINGS}
        backend = serving(self.backend, needs)
        with self._computing(backend):
            encoding = encoded(backend, backbones, context=context)
        for (job, batch), x in zip(parts, inputs, strict=True):
            with self._computing(backend):
                outputs = job.compute(backend, batch, encoding, x)
            yield job, batch, self._kept(outputs, job.fetched)

    def batches(
        self, structures: list[Structure], counts: list[int]
    ) -> Iterator[tuple[list[int], list[Batch]]]:
        """Structures that are encoded together, and the batches that decode their `counts`
        sequences."""
        lengths = [int(s.mask.sum()) for s in structures]
        budget = memory_budget(self.device)
        together = min(budget, self.backend.best_encoded_bytes or budget)
        for group in groups_within(together // self.encoding_bytes, lengths):
            runs = [(s, 0, counts[s]) for s in group]
            parts = runs_within(budget // self.row_bytes, runs, lengths)
            yield group, [Batch(structures, group, part, self.device) for part in parts]

    @property
    def encoding_bytes(self) -> int:
        """Bytes that one residue's encoding takes: h_E and a term per decoder layer and edge."""
        H, layers = self.network.W_out.in_features, len(self.network.decoders)
        return FLOAT_BYTES * H * self.network.neighbours * (2 + layers)

    @property
    def row_bytes(self) -> int:
        """Bytes that one residue of one sequence takes: states, tables, and int64 edge rows."""
        H, layers = self.network.W_out.in_features, len(self.network.decoders)
        states = FLOAT_BYTES * (H * 3 * (1 + layers) + 4 * LETTERS)
        return states + 2 * 8 * self.network.neighbours

    @cached_property
    def letters(self) -> Tensor:
        """`jobs.ASCII` on the device: (21,) uint8."""
        return upload(ASCII, self.device)

    @cached_property
    def blank(self) -> NDArray[np.float32]:
        """The log-probabilities (21,) of a node state of zero: of a residue that is no node."""
        blank: NDArray[np.float32] = self.network.W_out.bias.float().log_softmax(-1).cpu().numpy()
        return blank

    def _replayed(
        self, parts: list[tuple[Job, Batch]], structures: list[Structure]
    ) -> list[tuple[Tensor, ...]] | None:
        """The outputs of a batch of each job, encoding and all, as the backend recorded or records
        them.

        None if a batch is too large to gain by it, or needs what a recording leaves out.
        """
        assert self.backend.replays is not None
        if not all(job.recordable and batch.recordable for job, batch in parts):
            return None
        inputs = [job.inputs(replace(batch, device=HOST), self.backend) for job, batch in parts]
        network = self.network
        if not network.recordable or any(x.needs for x in inputs):
            return None
        b = network.backbones(structures, HOST)
        of_residues = [b.coords, b.residue_index, b.chain]
        if b.frames is not None:
            of_residues.append(b.frames)
        first, batch = parts[0]
        fixed = [first.fixed[s] for s in batch.group]
        around = network.context_tensors(network.context(structures, fixed, HOST))
        steps = [
            _Step(job.compute, batch, type(x).of, len(x.tensors()), job.fetched)
            for (job, batch), x in zip(parts, inputs, strict=True)
        ]
        with self._computing(self.backend):
            outputs = iter(self.backend.replays(
                tuple((job.compute.__name__, *batch.key) for job, batch in parts),
                _whole(self.backend, steps, b.frames is not None, len(around)),
                (*of_residues, *around, *(t for x in inputs for t in x.tensors())),
                sum(job.fetched for job, _ in parts),
            ))  # fmt: skip
        fetched = [tuple(islice(outputs, job.fetched)) for job, _ in parts]
        return [
            first + tuple(islice(outputs, job.outputs - job.fetched))
            for first, (job, _) in zip(fetched, parts, strict=True)
        ]

    def _kept(self, outputs: tuple[Tensor, ...], fetched: int) -> tuple[Tensor, ...]:
        """The outputs; where half of the device's memory is in use, all of them on the host."""
        if self.device.type != "cuda":
            return outputs
        self._kept_bytes += sum(x.nbytes for x in outputs[fetched:])
        if self._kept_bytes < MEMORY_BUDGET_BYTES:  # looking takes a millisecond
            return outputs
        if not is_half_free(self.device):
            return (*outputs[:fetched], *(x.cpu() for x in outputs[fetched:]))
        self._kept_bytes = 0
        return outputs

    @contextmanager
    def _computing(self, backend: Backend) -> Iterator[None]:
        with torch.inference_mode(), in_float32(self.device), backend.computing():
            if self.device.type != "cuda":
                yield
            else:  # Triton launches on the current device
                with torch.cuda.device(self.device):
                    yield


def divided(values: NDArray[Any], structure: Structure) -> list[NDArray[Any]]:
    """(L, ...) of a structure -> those of each of its parts."""
    lengths = [len(part) for part in structure.parts]
    return np.split(values, np.cumsum(lengths)[:-1])


class _Step(NamedTuple):
    """A batch of a recording, and how to compute it: from so many tensors, which `inputs_of` makes
    inputs of again; so many of its outputs are fetched."""

    compute: Compute
    batch: Batch
    inputs_of: Any
    tensors: int
    fetched: int


def _whole(backend: Backend, steps: list[_Step], framed: bool, around: int) -> Any:
    """Encoding and computing batches, as one function of tensors. It holds no data of a job.

    The outputs that are fetched come first, those of all steps. After the chains come the residues'
    frames, if they are `framed`, and so many tensors of what is `around`.
    """

    def whole(coords: Tensor, residue_index: Tensor, chain: Tensor, *tensors: Tensor) -> Any:
        given = iter(tensors)
        frames = next(given) if framed else None
        backbones = Backbones(coords, residue_index, chain, steps[0].batch.offsets, frames)
        context = backend.network.context_of(*islice(given, around))
        encoding = encoded(backend, backbones, context=context)
        fetched: list[Tensor] = []
        others: list[Tensor] = []
        for step in steps:
            inputs = step.inputs_of(*islice(given, step.tensors))
            outputs = step.compute(backend, step.batch, encoding, inputs)
            fetched += outputs[: step.fetched]
            others += outputs[step.fetched :]
        return (*fetched, *others)

    return whole


def memory_budget(device: torch.device) -> int:
    """Bytes that the large tensors may take: of a GPU, which is good at large ones, an eighth."""
    if device.type != "cuda":
        return MEMORY_BUDGET_BYTES
    return max(MEMORY_BUDGET_BYTES, _gpu_bytes(device) // 8)


def is_half_free(device: torch.device) -> bool:
    return torch.cuda.memory_allocated(device) < _gpu_bytes(device) // 2


def _gpu_bytes(device: torch.device) -> int:
    """Memory of a GPU that this process may take, which torch knows where several share it."""
    index = torch.cuda.current_device() if device.index is None else device.index
    total: int = torch.cuda.get_device_properties(index).total_memory
    return int(total * torch.cuda.get_per_process_memory_fraction(index))
