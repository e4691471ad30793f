"""CUDA graphs of what small structures take.

One structure is bound by the launches of its encoder and of what draws its orders, some 300 of
them. Recorded once and replayed, they cost one.
"""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable
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
        if key not in self._recorded:
            self._recorded[key] = None
            if len(self._recorded) > RECORDINGS:
                self._recorded.popitem(last=False)
            return function(*given)
        self._recorded.move_to_end(key)
        recording = self._recorded[key]
        if recording is None:
            # Recordings are replayed one after another, so they can share their memory.
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            recording = self._recorded[key] = _Recording(function, given, self._pool)
        return recording.replay(given)


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
