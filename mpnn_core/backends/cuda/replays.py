"""CUDA graphs of what small structures take.

One structure is bound by the launches of its encoder and of what draws its orders, some 300 of
them. Recorded once and replayed, they cost one; what they are given goes over as one piece.
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

    What is called must not wait for the device, nor move anything to it, once it has been called.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._recorded: OrderedDict[tuple[Any, ...], _Recording | None] = OrderedDict()
        self._pool: Any = None
        self._lock = Lock()
        self._done: torch.cuda.Event | None = None

    def __call__(
        self, key: tuple[Any, ...], function: Function, given: Sequence[Tensor], fetched: int
    ) -> tuple[Tensor, ...]:
        """What `function` returns, in tensors of the caller's own; see `backends.Replay`."""
        key = (*key, *((x.shape, x.dtype) for x in given))
        with self._lock:
            recording = self._recorded.get(key)
            if key in self._recorded:
                if recording is None:
                    # They are replayed one after another, so they can share their memory, which
                    # goes with the last of them.
                    if not any(self._recorded.values()):
                        self._pool = torch.cuda.graph_pool_handle()
                    recording = _Recording(function, given, self.device, self._pool)
                self._recorded[key] = recording
                self._recorded.move_to_end(key)
                return self._replayed(recording, given, fetched)
            self._recorded[key] = None
            if len(self._recorded) > RECORDINGS:
                self._recorded.popitem(last=False)
        found = function(*(x.to(self.device) for x in given))
        return (*(x.cpu() for x in found[:fetched]), *found[fetched:])

    def _replayed(
        self, recording: _Recording, given: Sequence[Tensor], fetched: int
    ) -> tuple[Tensor, ...]:
        """After the replay before, which may be another thread's on another stream."""
        if self._done is not None:
            self._done.wait()
        found = recording.replay(given)
        there = [torch.empty_like(x, device="cpu", pin_memory=True) for x in found[:fetched]]
        for own, x in zip(there, found, strict=False):
            own.copy_(x, non_blocking=True)
        stream = torch.cuda.current_stream(self.device)
        arrived = stream.record_event()
        kept = [x.clone() for x in found[fetched:]]
        self._done = stream.record_event()
        arrived.synchronize()
        return (*there, *kept)


class _Recording:
    def __init__(
        self, function: Function, given: Sequence[Tensor], device: torch.device, pool: Any
    ) -> None:
        self.function = function  # and the tensors that it holds
        ends, size = [], 0
        for x in given:
            size += -(-x.nbytes // ALIGNMENT) * ALIGNMENT
            ends.append(size)
        self.host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        self.there = torch.empty(size, dtype=torch.uint8, device=device)

        def views(memory: Tensor) -> list[Tensor]:
            starts = [0, *ends[:-1]]
            return [
                memory[start : start + x.nbytes].view(x.dtype).view(x.shape)
                for start, x in zip(starts, given, strict=True)
            ]

        self.given, on_device = views(self.host), views(self.there)
        self._send(given)
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            function(*on_device)  # libraries set themselves up, which cannot be recorded
        torch.cuda.current_stream(device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        # A recording that the collector found and freed now would spoil this one.
        collecting = gc.isenabled()
        gc.disable()
        try:
            with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
                self.found = function(*on_device)
        finally:
            if collecting:
                gc.enable()
        torch.cuda.current_stream(device).synchronize()

    def _send(self, given: Sequence[Tensor]) -> None:
        """Only once what was sent before has arrived."""
        for own, x in zip(self.given, given, strict=True):
            own.copy_(x)
        self.there.copy_(self.host, non_blocking=True)

    def replay(self, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        self._send(given)
        self.graph.replay()
        return self.found
