"""`decode_levels.cu`: compiled for the device at hand, packed for, and launched.

Compiled by NVRTC, in a second or two for each shape, when it is first needed. PyTorch's CUDA wheels
bring it, and from 2.10 on the package `cuda-bindings`, which calls it and launches the result.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mpnn_core.network.mpnn import MPNN

H = 128
BLOCK = H * H  # float16 of a block of weights
VECTORS = 12  # of a layer
EDGE_TILE, ROW_TILE = 16, 8  # edges and rows that a product takes
MOST_NEIGHBOURS = 48
BATCH_ROWS = 32  # at most
THREADS = 512
FIRST_CAPABILITY = (9, 0)  # that copies in bulk
MOST_SHARED = 227 * 1024  # bytes of shared memory that a block can have
UNIFIED = MOST_SHARED + 1024  # that a multiprocessor can give, at its L1 cache's expense

POINTERS = (
    "order", "bounds", "depth", "nodes", "reads", "encoded", "table", "edges", "messages", "valid",
    "degree", "weights", "vectors", "residues", "b_letters", "temperature", "bias", "omit",
    "uniform", "designed", "tokens", "logits", "probabilities",
)  # fmt: skip
INTEGERS = ("M", "N", "levels")


class Arguments(ctypes.Structure):
    """The kernel's `Args`."""

    _fields_ = [(name, ctypes.c_void_p) for name in POINTERS] + [
        (name, ctypes.c_int) for name in INTEGERS
    ]

    @classmethod
    def of(cls, **values: Tensor | int) -> Arguments:
        """Of contiguous tensors on the device, by name, and of integers."""
        assert all(isinstance(x, int) or x.is_contiguous() for x in values.values())
        return cls(**{k: x if isinstance(x, int) else x.data_ptr() for k, x in values.items()})


@dataclass(frozen=True)
class Constants:
    """The constants of a compilation; see `decode_levels.cu`."""

    LAYERS: int
    K: int
    TILES: int
    ROW_TILES: int
    STAGES: int
    KNOWN: int
    WHOLE: int

    @classmethod
    def of(cls, layers: int, neighbours: int, rows: int, known: bool, whole: bool) -> Constants:
        """For batches of up to `rows` rows; `known` and `whole` as in the kernel."""
        return cls(
            LAYERS=layers,
            K=neighbours,
            TILES=-(-neighbours // EDGE_TILE),
            ROW_TILES=-(-rows // ROW_TILE),
            # What the ring leaves of an SM's memory is its L1 cache, which gathers need as well.
            STAGES=3 if rows < BATCH_ROWS else 2,
            KNOWN=int(known),
            WHOLE=int(whole and neighbours % EDGE_TILE == 0),
        )

    @property
    def shared_bytes(self) -> int:
        """The size of `Shared`, or a little more."""
        rows = self.ROW_TILES * ROW_TILE
        partial = self.TILES * H * 4 + 32
        moments, logits = 8 * 8, 32 * 4
        hidden = 4 * H * 2 + moments + logits
        known = (1 + self.LAYERS - self.KNOWN) * (H + 8) * 2
        looked_up = 2 * (2 + self.K) * 4
        of_rows = rows * (H * 2 + max(partial, hidden) + known + looked_up)
        return of_rows + self.LAYERS * VECTORS * H * 4 + self.STAGES * (2 * BLOCK + 16) + 32

    @property
    def definitions(self) -> list[str]:
        """As a compiler takes them."""
        constants = asdict(self) | {"SHARED_BYTES": self.shared_bytes}
        return [f"-D{name}={value}" for name, value in constants.items()]


Launch = Callable[[int, Arguments, Constants, torch.device], None]


def fragments(weight: Tensor, by_eights: bool = False) -> Tensor:
    """A weight (n, 128) as lanes hold it in products: (n / 16, 8, 32, 8) float16.

    16 outputs by 16 inputs at a time. by_eights : inputs in the order in which a lane meets them
    that reads 8 columns at once, of which 4 are for one step and 4 for the next.
    """
    halves = weight.detach().half()
    if by_eights:
        parts = halves.reshape(-1, 2, 8, 4, 4, 2, 2, 2)  # m, upper row, g, q, t, step, column, e
        parts = parts.permute(0, 3, 5, 2, 4, 6, 1, 7)  # m, q, step, g, t, column, upper row, e
    else:
        parts = halves.reshape(-1, 2, 8, 8, 2, 4, 2)  # m, upper row, g, step, upper column, t, e
        parts = parts.permute(0, 3, 2, 5, 4, 1, 6)  # m, step, g, t, upper column, upper row, e
    return parts.reshape(-1, 8, 32, 8).contiguous()


class Packed:
    """A decoder's weights, (128, 128), (512, 128) and (128, 512), as the kernel takes them.

    Attributes
    ----------
    weights : (12 layers 128² + 32 · 128,) float16, blocks in the order of their use
    vectors : (layers, 12, 128) float32
    """

    def __init__(self, network: MPNN) -> None:
        blocks: list[Tensor] = []
        vectors: list[Tensor] = []
        for layer in network.decoders:
            A, _, _, D = layer.blocks()
            W_in, W_out = layer.dense.W_in, layer.dense.W_out
            blocks += [fragments(D), fragments(A), fragments(layer.W2.weight, by_eights=True)]
            blocks += [fragments(x) for x in (layer.W3.weight, *W_in.weight.chunk(4))]
            blocks += [fragments(x) for x in W_out.weight.chunk(4, 1)]
            vectors += [layer.W1.bias, layer.W2.bias, layer.W3.bias]
            vectors += [layer.norm1.weight, layer.norm1.bias, *W_in.bias.chunk(4), W_out.bias]
            vectors += [layer.norm2.weight, layer.norm2.bias]
        letters = network.W_out.weight
        blocks.append(fragments(F.pad(letters, (0, 0, 0, 32 - len(letters)))))
        self.weights = torch.cat([x.flatten() for x in blocks])
        self.vectors = torch.stack(vectors).detach().float().view(-1, VECTORS, H)


def source() -> str:
    """The kernel, after the device functions that it calls."""
    folder = Path(__file__).parent
    return "".join((folder / name).read_text() for name in ("ptx.cuh", "decode_levels.cu"))


def fits(network: MPNN) -> bool:
    """Whether the network has the shape that the kernel is for."""
    layers, neighbours = len(network.decoders), network.neighbours
    if network.W_out.in_features != H or layers < 2 or neighbours > MOST_NEIGHBOURS:
        return False
    return Constants.of(layers, neighbours, BATCH_ROWS, False, True).shared_bytes <= MOST_SHARED


def available(device: torch.device, network: MPNN) -> bool:
    """Whether the kernel can be launched there: it has been compiled for one shape and loaded.

    Warns if the device is one for it, and that fails.
    """
    if not _suitable(device):
        return False
    try:
        load(device, Constants.of(len(network.decoders), network.neighbours, ROW_TILE, False, True))
    except (RuntimeError, ImportError, OSError) as error:
        warnings.warn(f"levels are left to Triton, which is slower: {error}", stacklevel=3)
        return False
    return True


def _suitable(device: torch.device) -> bool:
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < FIRST_CAPABILITY:
        return False
    properties = torch.cuda.get_device_properties(device)
    if getattr(properties, "shared_memory_per_block_optin", 0) < MOST_SHARED:
        return False
    try:
        return find_spec("cuda.bindings.nvrtc") is not None
    except ModuleNotFoundError:
        return False


def launch(blocks: int, arguments: Arguments, constants: Constants, device: torch.device) -> None:
    """`decode_levels` on PyTorch's current stream.

    Raises
    ------
    RuntimeError
        It does not compile for the device, or cannot be launched there.
    """
    from cuda.bindings import driver

    function = load(device, constants)
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
    stream = torch.cuda.current_stream(device).cuda_stream
    _checked(
        driver.cuLaunchKernel(
            function, blocks, 1, 1, THREADS, 1, 1, constants.shared_bytes, stream,
            ctypes.addressof(pointers), 0,
        )
    )  # fmt: skip


@cache
def load(device: torch.device, constants: Constants) -> Any:
    """The kernel as a function on a device."""
    from cuda.bindings import driver

    major, minor = torch.cuda.get_device_capability(device)
    image = _image(f"sm_{major}{minor}", constants)
    with torch.cuda.device(device):
        module = _checked(driver.cuModuleLoadData(image))
        function = _checked(driver.cuModuleGetFunction(module, b"decode_levels"))
        attribute, shared = driver.CUfunction_attribute, constants.shared_bytes
        for name, value in (
            (attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared),
            (attribute.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 100 * shared // UNIFIED),
        ):
            _checked(driver.cuFuncSetAttribute(function, name, value))
    return function


@cache
def _image(target: str, constants: Constants) -> bytes:
    """The kernel in machine code."""
    from cuda.bindings import nvrtc

    name = b"decode_levels.cu"
    program = _checked(nvrtc.nvrtcCreateProgram(source().encode(), name, 0, [], []))
    options = [f"--gpu-architecture={target}", "--std=c++17"]
    options += constants.definitions
    [status] = nvrtc.nvrtcCompileProgram(program, len(options), [x.encode() for x in options])
    if status.value:
        log = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program))
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError(f"decode_levels.cu does not compile for {target}: {log.decode()}")
    image = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program))
    _checked(nvrtc.nvrtcGetCUBIN(program, image))
    _checked(nvrtc.nvrtcDestroyProgram(program))
    return image


def _checked(results: tuple[Any, ...]) -> Any:
    """The result of a call besides its status, which must be success."""
    status, *values = results
    if status.value:
        raise RuntimeError(f"decode_levels.cu could not be launched: {status.name}")
    return values[0] if values else None
