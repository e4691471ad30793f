"""CUDA graphs of the work on small structures.

The time of a single structure is that of launching its encoder and the drawing of its orders, some
300 kernels. Recorded once and replayed, they cost one launch; their inputs are copied to the device
as one piece.
"""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor

RECORDINGS = 64  # kept; the ones used least recently are dropped
ALIGNMENT = 16  # bytes, of each tensor in the piece that goes over

Function = Callable[..., tuple[Tensor, ...]]


class Replays:
    """Calls recorded when they come for the second time, and replayed from then on.

    After its first call a function must not wait for the device, nor move anything to it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._recorded: OrderedDict[tuple[Any, ...], _Recording | None] = OrderedDict()
        self._pool: Any = None
        self._lock = Lock()
        self._done: torch.cuda.Event | None = None

    def __call__(
        self, key: tuple[Any, ...], function: Function, inputs: Sequence[Tensor], fetched: int
    ) -> tuple[Tensor, ...]:
        """The results of `function`, in tensors of the caller's own; see `contract.Replay`."""
        key = (*key, *((x.shape, x.dtype) for x in inputs))
        with self._lock:
            recording = self._recorded.get(key)
            if key in self._recorded:
                if recording is None:
                    # They are replayed one after another, so they can share their memory, which
                    # goes with the last of them.
                    if not any(self._recorded.values()):
                        self._pool = torch.cuda.graph_pool_handle()
                    recording = _Recording(function, inputs, self.device, self._pool)
                self._recorded[key] = recording
                self._recorded.move_to_end(key)
                return self._replayed(recording, inputs, fetched)
            self._recorded[key] = None
            if len(self._recorded) > RECORDINGS:
                self._recorded.popitem(last=False)
        outputs = function(*(x.to(self.device) for x in inputs))
        return (*(x.cpu() for x in outputs[:fetched]), *outputs[fetched:])

    def _replayed(
        self, recording: _Recording, inputs: Sequence[Tensor], fetched: int
    ) -> tuple[Tensor, ...]:
        """After the replay before, which may be another thread's on another stream."""
        if self._done is not None:
            self._done.wait()
        outputs = recording.replay(inputs)
        on_host = [torch.empty_like(x, device="cpu", pin_memory=True) for x in outputs[:fetched]]
        for own, x in zip(on_host, outputs, strict=False):
            own.copy_(x, non_blocking=True)
        stream = torch.cuda.current_stream(self.device)
        arrived = stream.record_event()
        kept = [x.clone() for x in outputs[fetched:]]
        self._done = stream.record_event()
        arrived.synchronize()
        return (*on_host, *kept)


class _Recording:
    def __init__(
        self, function: Function, inputs: Sequence[Tensor], device: torch.device, pool: Any
    ) -> None:
        self.function = function  # and the tensors that it holds
        ends, size = [], 0
        for x in inputs:
            size += -(-x.nbytes // ALIGNMENT) * ALIGNMENT
            ends.append(size)
        self.host = torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=True)
        self.on_device = torch.empty(size, dtype=torch.uint8, device=device)

        def views(memory: Tensor) -> list[Tensor]:
            starts = [0, *ends[:-1]]
            return [
                memory[start : start + x.nbytes].view(x.dtype).view(x.shape)
                for start, x in zip(starts, inputs, strict=True)
            ]

        self.inputs, device_inputs = views(self.host), views(self.on_device)
        self._send(inputs)
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            function(*device_inputs)  # libraries set themselves up, which cannot be recorded
        torch.cuda.current_stream(device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        # An earlier recording that the collector freed now would spoil this one.
        collecting = gc.isenabled()
        gc.disable()
        try:
            with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
                self.outputs = function(*device_inputs)
        finally:
            if collecting:
                gc.enable()
        torch.cuda.current_stream(device).synchronize()

    def _send(self, inputs: Sequence[Tensor]) -> None:
        """Copy the inputs over, once those sent before have arrived."""
        for own, x in zip(self.inputs, inputs, strict=True):
            own.copy_(x)
        self.on_device.copy_(self.host, non_blocking=True)

    def replay(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        self._send(inputs)
        self.graph.replay()
        return self.outputs
