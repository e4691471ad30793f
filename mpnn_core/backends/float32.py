"""Products in float32, whatever the caller has told torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

import torch

_lock = Lock()
_inside, _outside = 0, ""  # how many computations there are, and the precision around them


@contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """Compute without autocast and with whole products of float32, here and on `device`.

    The precision of products is one setting for all threads. What the caller set is back when the
    last computation is done.
    """
    global _inside, _outside
    with _lock:
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
