"""CUDA graphs of what small structures take.

One structure is bound by the launches of its encoder and of what draws its orders, some 300 of
them. Recorded once and replayed, they cost one.
"""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any

import torch
from torch import Tensor

RECORDINGS = 64  # kept; the ones used least recently are dropped


class Replays:
    """Calls recorded when they come for the second time, and replayed from then on.

    What is called must not wait for the device, nor move anything to it, once it has been called.
    """

    def __init__(self) -> None:
        self._recorded: OrderedDict[tuple[Any, ...], _Recording | None] = OrderedDict()
        self._pool: Any = None
        self._lock = Lock()
        self._done: torch.cuda.Event | None = None

    def __call__(
        self,
        key: tuple[Any, ...],
        function: Callable[..., tuple[Tensor, ...]],
        *given: Tensor,
    ) -> tuple[Tensor, ...]:
        """What `function` returns, in tensors of the caller's own.

        Functions of equal keys are interchangeable.
        """
        key = (*key, *((x.shape, x.dtype) for x in given))
        with self._lock:
            recording = self._recorded.get(key)
            if key in self._recorded:
                if recording is None:
                    # They are replayed one after another, so they can share their memory.
                    self._pool = self._pool or torch.cuda.graph_pool_handle()
                    recording = _Recording(function, given, self._pool)
                self._recorded[key] = recording
                self._recorded.move_to_end(key)
                return self._replayed(recording, given)
            self._recorded[key] = None
            if len(self._recorded) > RECORDINGS:
                self._recorded.popitem(last=False)
        return function(*given)

    def _replayed(self, recording: _Recording, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """After the replay before, which may be another thread's on another stream."""
        if self._done is None:
            self._done = torch.cuda.Event()
        else:
            self._done.wait()
        found = recording.replay(given)
        self._done.record()
        return found


class _Recording:
    def __init__(
        self, function: Callable[..., tuple[Tensor, ...]], given: tuple[Tensor, ...], pool: Any
    ) -> None:
        self.function = function  # and the tensors that it holds
        self.given = [x.clone() for x in given]
        stream = torch.cuda.Stream(given[0].device)
        stream.wait_stream(torch.cuda.current_stream(given[0].device))
        with torch.cuda.stream(stream):
            function(*self.given)  # libraries set themselves up, which cannot be recorded
        torch.cuda.current_stream(given[0].device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        # A recording that the collector found and freed now would spoil this one.
        collecting = gc.isenabled()
        gc.disable()
        try:
            with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
                self.found = function(*self.given)
        finally:
            if collecting:
                gc.enable()

    def replay(self, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        for own, x in zip(self.given, given, strict=True):
            own.copy_(x)
        self.graph.replay()
        return tuple(x.clone() for x in self.found)
