"""Backends by name, and the losses of those that are not exact.

The names are read without torch, by the help of the command line.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from mpnn_core.backends.contract import Backend
    from mpnn_core.network.mpnn import MPNN

BACKENDS = (
    "auto", "torch", "native", "cuda", "cuda-fast", "mlx", "mlx-fast", "mlx-int8", "coreml",
    "coreml-fast",
)  # fmt: skip
# The losses of the backends that are not exact, as measured.
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
    from mpnn_core.backends.float32 import in_float32

    with in_float32(device):  # some prepare weights by products
        return _made(name, network, device)


def _made(name: str, network: MPNN, device: torch.device) -> Backend:
    from mpnn_core.backends.contract import UnavailableError
    from mpnn_core.backends.plain import TorchBackend

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
        warnings.warn(f"computing with plain torch, which is slower: {error}", stacklevel=4)
        return TorchBackend(network)


def _apple(name: str, network: MPNN) -> Backend:
    """A backend for Apple silicon."""
    if name.startswith("coreml"):
        from mpnn_core.backends.coreml.backend import CoreMLBackend

        return CoreMLBackend(network, "float16" if name == "coreml-fast" else "float32")
    from mpnn_core.backends.contract import UnavailableError

    try:
        from mpnn_core.backends.mlx import MLXBackend
    except ImportError as error:
        raise UnavailableError(f"{error}; pip install mlx, or 'mlx[cpu]' on Linux") from None
    return MLXBackend(network, "exact" if name == "mlx" else name.removeprefix("mlx-"))
