"""Float32 in full: its products whatever the caller has told torch, its functions from the first
call on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from threading import Lock

import torch

# What torch computes on a CPU with MKL's vector functions (its ATen/cpu/vml.h).
VECTOR_FUNCTIONS = (
    "acos", "asin", "atan", "cos", "erf", "erfc", "erfinv", "exp", "log", "log10", "log2", "sin",
    "sqrt", "tan", "tanh", "trunc",
)  # fmt: skip

_lock = Lock()
_inside, _outside = 0, ""  # how many computations there are, and the precision around them


@cache
def choose_kernels() -> None:
    """Call each of MKL's vector functions once, from one thread.

    At its first call in a process, such a function chooses the kernel for this processor. Where
    several threads make that call at once, one of them may compute with a kernel of low accuracy
    (pytorch/pytorch, issue 188792): log-probabilities were off by 0.03 nats in one fresh process
    of sixty on a busy machine.
    """
    for dtype in (torch.float32, torch.float64):
        half = torch.full((1,), 0.5, dtype=dtype, device="cpu")
        for name in VECTOR_FUNCTIONS:
            getattr(torch, name)(half)


@contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """Compute without autocast and with whole products of float32, here and on `device`.

    The precision of products is one setting for all threads. What the caller set is back when the
    last computation is done.
    """
    global _inside, _outside
    with _lock:
        choose_kernels()
        if not _inside:
            _outside = torch.get_float32_matmul_precision()
            if _outside != "highest":
                torch.set_float32_matmul_precision("highest")
        _inside += 1
    try:
        with ExitStack() as without:
            for kind in {"cpu", device.type}:
                if torch.amp.is_autocast_available(kind):
                    without.enter_context(torch.autocast(kind, enabled=False))
            yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside and _outside != "highest":
                torch.set_float32_matmul_precision(_outside)
