"""Backends by name."""

from __future__ import annotations

import sys
import warnings

import torch

from mpnn_core.backends.contract import Backend, UnavailableError
from mpnn_core.backends.names import BACKENDS
from mpnn_core.backends.plain import TorchBackend
from mpnn_core.network.mpnn import MPNN


def find_backend(name: str, network: MPNN, device: torch.device) -> Backend:
    """The backend called `name`; "auto" is the fastest that runs on `device`.

    Raises
    ------
    ValueError
        There is no such backend, or it cannot run here; the message says why.
    """
    if name not in BACKENDS:
        raise ValueError(f"no backend is called {name!r}; there are {', '.join(BACKENDS)}")
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
        warnings.warn(f"computing with plain torch, which is slower: {error}", stacklevel=3)
        return TorchBackend(network)


def _apple(name: str, network: MPNN) -> Backend:
    """A backend for Apple silicon."""
    if name.startswith("coreml"):
        from mpnn_core.backends.coreml.backend import CoreMLBackend

        return CoreMLBackend(network, "float16" if name == "coreml-fast" else "float32")
    try:
        from mpnn_core.backends.mlx import MLXBackend
    except ImportError as error:
        package = "mlx" if sys.platform == "darwin" else "'mlx[cpu]'"
        raise UnavailableError(f"{error}; pip install {package}") from None
    return MLXBackend(network, "exact" if name == "mlx" else name.removeprefix("mlx-"))
