"""The network as Core ML packages, in fixed shapes that the Neural Engine can run.

The k-NN, the distances and the edge features stay in float32 on the host: float16 distances choose
other neighbours. A package holds everything after that, reformulated as in `network.py`. Layout and
operations follow what Apple found the Neural Engine to run (apple/ml-ane-transformers): tensors are
(1, channels, neighbours, residues), linear layers are 1x1 convolutions, and a gather is a product
with a one-hot matrix that the graph builds from the indices.

Converting works on Linux and macOS, running on macOS alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mpnn_core.backends import Backend, UnavailableError
from mpnn_core.backends.coreml.buckets import BUCKETS, Padded, choose_bucket, pad
from mpnn_core.constants import LETTERS, MESSAGE_SCALE
from mpnn_core.network.encoding import Copies, Encoding
from mpnn_core.network.graph import Backbones, Graph, nearest_neighbours
from mpnn_core.network.mpnn import MPNN, FeedForward, MessageLayer, tiles
from mpnn_core.sampling.sampler import Distribution, Samples, sample
from mpnn_core.sampling.schedule import wavefront

Precision = Literal["float16", "float32"]
PRECISIONS: tuple[Precision, ...] = ("float16", "float32")
# Rows that one call of a level package decodes: the Neural Engine pads the last axis to 64 bytes.
LEVEL_ROWS = 32
INSTALL = 'pip install "mpnn-core[coreml]"'

Arrays = dict[str, NDArray[Any]]
Package = Callable[[Arrays], Arrays]


# ------------------------------------------------------------------------ the network, layout first


def convolution(weight: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """The linear layer (O, I) on the channels: (1, I, K, B) -> (1, O, K, B)."""
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach()[:, :, None, None].clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer


def linear(layer: nn.Linear) -> nn.Conv2d:
    return convolution(layer.weight, layer.bias)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight = nn.Parameter(norm.weight.detach()[:, None, None].clone(), requires_grad=False)
        self.bias = nn.Parameter(norm.bias.detach()[:, None, None].clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        variance = (centred * centred).mean(1, keepdim=True)
        return centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias


class Gather(nn.Module):
    """Rows of neighbours, by one product with a one-hot matrix that all gathers share."""

    rows: Tensor

    def __init__(self, slots: int, length: int) -> None:
        super().__init__()
        self.slots, self.length = slots, length
        self.register_buffer("rows", torch.arange(length, dtype=torch.float32)[:, None])

    def one_hot(self, neighbours: Tensor) -> Tensor:
        """(1, 1, K, B) indices -> (B, K * B); exact in float16 up to 2,048 rows."""
        index = neighbours.reshape(1, self.slots * self.length)
        return F.relu(1 - (index - self.rows).abs())

    def forward(self, h: Tensor, one_hot: Tensor) -> Tensor:
        """(1, C, 1, B) -> (1, C, K, B)."""
        channels = h.shape[1]
        gathered = h.reshape(channels, self.length) @ one_hot
        return gathered.reshape(1, channels, self.slots, self.length)


class Message(nn.Module):
    """The message MLP after its first layer, the sum over neighbours, and the node update."""

    def __init__(self, layer: MessageLayer) -> None:
        super().__init__()
        self.W2 = linear(layer.W2)
        # The scale goes into the weights: unscaled sums of 48 messages are wide for float16.
        self.W3 = convolution(layer.W3.weight / MESSAGE_SCALE)
        self.b3 = nn.Parameter(
            (layer.W3.bias.detach() / MESSAGE_SCALE)[None, :, None, None], requires_grad=False
        )
        self.norm1, self.norm2 = ChannelNorm(layer.norm1), ChannelNorm(layer.norm2)
        dense: FeedForward = layer.dense
        self.W_in, self.W_out = linear(dense.W_in), linear(dense.W_out)

    def forward(self, h_V: Tensor | None, edge_input: Tensor, valid: Tensor) -> Tensor:
        """(1, H, 1, B) or None for zero, (1, H, K, B), (1, 1, K, B) -> (1, H, 1, B)."""
        message = F.gelu(self.W2(F.gelu(edge_input))) * valid  # (1, H, K, B)
        total, count = message.sum(2, keepdim=True), valid.sum(2, keepdim=True)
        message = self.W3(total) + count * self.b3  # (1, H, 1, B)
        h_V = self.norm1(message if h_V is None else h_V + message)
        return self.norm2(h_V + self.W_out(F.gelu(self.W_in(h_V))))


class EncoderBlock(nn.Module):
    """One encoder layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        A, B, C = layer.W1.weight.chunk(3, 1)
        self.A, self.B, self.C = convolution(A), convolution(B, layer.W1.bias), convolution(C)
        A, B, C = layer.W11.weight.chunk(3, 1)
        self.A11, self.B11, self.C11 = (
            convolution(A),
            convolution(B, layer.W11.bias),
            convolution(C),
        )
        self.message = Message(layer)
        self.W12, self.W13 = linear(layer.W12), linear(layer.W13)
        self.norm3 = ChannelNorm(layer.norm3)

    def forward(
        self, h_V: Tensor | None, h_E: Tensor, valid: Tensor, gather: Gather, one_hot: Tensor
    ) -> tuple[Tensor, Tensor]:
        edge_input = self.B(h_E)  # (1, H, K, B)
        if h_V is not None:  # zero before the first layer
            edge_input = edge_input + self.A(h_V) + gather(self.C(h_V), one_hot)
        h_V = self.message(h_V, edge_input, valid)  # (1, H, 1, B)
        edge_input = self.B11(h_E) + self.A11(h_V) + gather(self.C11(h_V), one_hot)
        update = self.W13(F.gelu(self.W12(F.gelu(edge_input))))
        return h_V, self.norm3(h_E + update)


class Encoder(nn.Module):
    """Mode "encoder": what decoding needs of a structure, once for all its sequences."""

    outputs = ("h_V", "edges", "undecoded")

    def __init__(self, network: MPNN, slots: int, length: int) -> None:
        super().__init__()
        self.gather = Gather(slots, length)
        self.layers = nn.ModuleList(EncoderBlock(layer) for layer in network.encoder_layers)
        blocks = [layer.blocks() for layer in network.decoders]
        self.edges = convolution(torch.cat([B for _, B, _, _ in blocks]))
        self.undecoded = convolution(torch.cat([D for _, _, _, D in blocks]))

    def encode(self, h_E: Tensor, valid: Tensor, one_hot: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h_V: Tensor | None = None
        for layer in self.layers:
            h_V, h_E = layer(h_V, h_E, valid, self.gather, one_hot)
        assert h_V is not None
        return h_V, self.edges(h_E), self.undecoded(h_V)

    def forward(
        self, h_E: Tensor, neighbours: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.encode(h_E, valid, self.gather.one_hot(neighbours))


class DecoderBlock(nn.Module):
    """One decoder layer, without the gather that precedes it."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        A, *_ = layer.blocks()
        self.A = convolution(A, layer.W1.bias)
        self.message = Message(layer)

    def forward(self, h_V: Tensor, edge_input: Tensor, valid: Tensor) -> Tensor:
        """`edge_input` is B h_E and the row of the table that the edge reads: (1, H, K, B)."""
        return self.message(h_V, edge_input + self.A(h_V), valid)


class Decoder(nn.Module):
    """Mode "decoder": logits of a given sequence, every residue seeing those before it."""

    outputs = ("logits",)

    def __init__(self, network: MPNN, slots: int, length: int) -> None:
        super().__init__()
        self.gather = Gather(slots, length)
        self.layers = nn.ModuleList(DecoderBlock(layer) for layer in network.decoders)
        blocks = [layer.blocks() for layer in network.decoders]
        self.C = nn.ModuleList(
            convolution((network.W_s.weight @ C.T).T) for _, _, C, _ in blocks
        )  # residue -> C emb(residue)
        self.D = nn.ModuleList(convolution(D) for *_, D in blocks)
        self.W_out = linear(network.W_out)

    def decode(
        self,
        h_V: Tensor,
        edges: Tensor,
        undecoded: Tensor,
        valid: Tensor,
        before: Tensor,
        residues: Tensor,
        one_hot: Tensor,
    ) -> Tensor:
        l = len(self.layers)
        for layer, C, D, B, T in zip(
            self.layers, self.C, self.D, edges.chunk(l, 1), undecoded.chunk(l, 1), strict=True
        ):
            # The two tables of network.py, identity 4.
            undecoded_j = self.gather(T, one_hot)  # (1, H, K, B)
            decoded_j = self.gather(C(residues) + D(h_V), one_hot)
            read = undecoded_j * (1 - before) + decoded_j * before  # (1, H, K, B)
            h_V = layer(h_V, B + read, valid)
        return self.W_out(h_V)  # (1, 21, 1, B)

    def forward(
        self,
        h_V: Tensor,
        edges: Tensor,
        undecoded: Tensor,
        neighbours: Tensor,
        valid: Tensor,
        before: Tensor,
        residues: Tensor,
    ) -> Tensor:
        one_hot = self.gather.one_hot(neighbours)
        return self.decode(h_V, edges, undecoded, valid, before, residues, one_hot)


class Forward(nn.Module):
    """Mode "forward": encoder and decoder in one call."""

    outputs = ("logits",)

    def __init__(self, network: MPNN, slots: int, length: int) -> None:
        super().__init__()
        self.encoder = Encoder(network, slots, length)
        self.decoder = Decoder(network, slots, length)

    def forward(
        self, h_E: Tensor, neighbours: Tensor, valid: Tensor, before: Tensor, residues: Tensor
    ) -> Tensor:
        one_hot = self.encoder.gather.one_hot(neighbours)
        h_V, edges, undecoded = self.encoder.encode(h_E, valid, one_hot)
        return self.decoder.decode(h_V, edges, undecoded, valid, before, residues, one_hot)


class Level(nn.Module):
    """Mode "level": some residues that do not wait for each other, of any sequences.

    What they read was written by earlier calls, so the host gathers it, for all layers at once.
    """

    outputs = ("logits", "states")

    def __init__(self, network: MPNN, slots: int, length: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderBlock(layer) for layer in network.decoders)
        self.D = nn.ModuleList(convolution(layer.blocks()[3]) for layer in network.decoders)
        self.W_out = linear(network.W_out)

    def forward(self, h_V: Tensor, edge_inputs: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        states = []
        chunks = edge_inputs.chunk(len(self.layers), 1)
        for layer, D, edge_input in zip(self.layers, self.D, chunks, strict=True):
            states.append(D(h_V))
            h_V = layer(h_V, edge_input, valid)
        return self.W_out(h_V), torch.cat(states, 1)


MODES: dict[str, type[Encoder | Decoder | Forward | Level]] = {
    "forward": Forward,
    "encoder": Encoder,
    "decoder": Decoder,
    "level": Level,
}

# Inputs and outputs: channels, as a function of width and decoder layers; whether there is a
# neighbour axis; and what it is. All are dimensionless but the logits.
_PORTS: dict[str, tuple[Callable[[int, int], int], bool, str]] = {
    "h_E": (lambda H, l: H, True, "edge features after W_e"),
    "neighbours": (lambda H, l: 1, True, "which row each neighbour is, from 0"),
    "valid": (lambda H, l: 1, True, "1 for a neighbour, 0 for a spare slot"),
    "before": (lambda H, l: 1, True, "1 where the neighbour is decoded before the row; all 0 gives "
               "the unconditional output"),
    "residues": (lambda H, l: LETTERS, False, "one-hot residues, ACDEFGHIKLMNPQRSTVWYX"),
    "h_V": (lambda H, l: H, False, "node states of the encoder"),
    "edges": (lambda H, l: l * H, True, "B h_E of each decoder layer"),
    "undecoded": (lambda H, l: l * H, False, "D h_V of each decoder layer"),
    "edge_inputs": (lambda H, l: l * H, True, "of each decoder layer, B h_E plus what is known of "
                    "the neighbour"),
    "states": (lambda H, l: l * H, False, "D h_V of each decoder layer, for rows decoded later"),
    "logits": (lambda H, l: LETTERS, False, "unnormalised log-probabilities, in nats"),
}  # fmt: skip


@dataclass(frozen=True)
class Port:
    """An input or output of a package: (1, channels, neighbours or 1, rows)."""

    name: str
    shape: tuple[int, int, int, int]
    meaning: str


@dataclass(frozen=True)
class Export:
    """One package: which part of the network, in which shape and precision.

    Attributes
    ----------
    mode : "forward", "encoder", "decoder" or "level"
    rows : residues of the bucket; of mode "level", rows of a call
    precision : of weights, inputs, outputs and arithmetic
    """

    mode: str
    rows: int
    precision: Precision = "float16"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode {self.mode!r}: expected one of {', '.join(MODES)}")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision {self.precision!r}: expected one of {', '.join(PRECISIONS)}"
            )

    @property
    def name(self) -> str:
        return f"{self.mode}-{self.rows}-{self.precision}"

    def slots(self, network: MPNN) -> int:
        """Neighbours of a row."""
        return network.neighbours if self.mode == "level" else min(network.neighbours, self.rows)

    def module(self, network: MPNN) -> nn.Module:
        """The part of the network in the packages' layout, in plain torch."""
        return MODES[self.mode](network, self.slots(network), self.rows).eval()

    def inputs(self, network: MPNN) -> list[Port]:
        names = MODES[self.mode].forward.__annotations__
        return self._ports(network, [name for name in names if name != "return"])

    def outputs(self, network: MPNN) -> list[Port]:
        return self._ports(network, MODES[self.mode].outputs)

    def _ports(self, network: MPNN, names: Sequence[str]) -> list[Port]:
        H, layers, K = network.W_out.in_features, len(network.decoders), self.slots(network)
        found = [(name, *_PORTS[name]) for name in names]
        return [
            Port(name, (1, channels(H, layers), K if on_edges else 1, self.rows), meaning)
            for name, channels, on_edges, meaning in found
        ]


def convert(network: MPNN, export: Export, path: Path, name: str = "ProteinMPNN") -> Path:
    """Write one package.

    Parameters
    ----------
    network : with its weights, on the CPU
    path : of the `.mlpackage`, a folder
    name : of the weights, for the package's metadata

    Raises
    ------
    UnavailableError
        coremltools is not installed; the message says how to.
    """
    ct = _coremltools()
    inputs, outputs = export.inputs(network), export.outputs(network)
    dtype = np.float16 if export.precision == "float16" else np.float32
    passes = ct.PassPipeline.DEFAULT
    # It makes of a norm's scale a batch norm of variance 1 with an epsilon of 1e-5: wrong by 5e-6.
    passes.remove_passes(["common::fuse_elementwise_to_batchnorm"])
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # progress bars
        # coremltools and torch deprecate things in each other.
        warnings.simplefilter("ignore")
        program = torch.export.export(
            export.module(network), tuple(torch.zeros(port.shape) for port in inputs)
        ).run_decompositions({})
        model = ct.convert(
            program,
            inputs=[ct.TensorType(name=p.name, shape=p.shape, dtype=dtype) for p in inputs],
            outputs=[ct.TensorType(name=p.name, dtype=dtype) for p in outputs],
            convert_to="mlprogram",
            compute_precision=getattr(ct.precision, export.precision.upper()),
            minimum_deployment_target=ct.target.iOS17,  # and macOS 14
            pass_pipeline=passes,
            skip_model_load=True,
        )
    describe(model, network, export, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(str(path))
    return path


def describe(model: Any, network: MPNN, export: Export, name: str) -> None:
    """The package's metadata: whose it is, and each input and output with its shape and unit."""
    from mpnn_core import __version__

    model.author = "mpnn_core; weights of J. Dauparas et al., Science 378, 49 (2022)"
    model.license = "MIT"
    model.version = __version__
    model.short_description = (
        f"ProteinMPNN, {name}: {export.mode} of {export.rows} rows, hidden "
        f"{network.W_out.in_features}, {len(network.encoder_layers)}+{len(network.decoders)} "
        f"layers, k = {network.neighbours}, {export.precision}"
    )
    for descriptions, ports in (
        (model.input_description, export.inputs(network)),
        (model.output_description, export.outputs(network)),
    ):
        for port in ports:
            shape = " x ".join(map(str, port.shape))
            descriptions[port.name] = f"{shape}, {export.precision}: {port.meaning}"
    settings = {"mode": export.mode, "rows": export.rows, "precision": export.precision,
                "neighbours": network.neighbours, "weights": name}  # fmt: skip
    model.user_defined_metadata.update({f"mpnn_core.{k}": str(v) for k, v in settings.items()})


@cache
def _coremltools() -> Any:
    if find_spec("coremltools") is None:
        raise UnavailableError(f"coremltools is not installed: {INSTALL}")
    # On Linux it logs, while it is imported, each of the parts that macOS alone has.
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools
    return coremltools


def _require_macos() -> None:
    if sys.platform != "darwin":
        raise UnavailableError(
            "Core ML runs on macOS alone; here packages can be written, "
            "`mpnn-core export coreml --out DIR`"
        )


def open_package(path: Path, precision: Precision) -> Package:
    """Load a package where Core ML runs: on the Neural Engine in float16, else on CPU and GPU."""
    ct = _coremltools()
    _require_macos()
    units = ct.ComputeUnit.CPU_AND_NE if precision == "float16" else ct.ComputeUnit.CPU_AND_GPU
    model = ct.models.MLModel(str(path), compute_units=units)
    predict: Package = model.predict
    return predict


def neural_engine_share(path: Path) -> float:
    """Share of a package's operations that Core ML prefers to run on the Neural Engine; macOS.

    Constants are not counted. Written after coremltools' documentation of `MLComputePlan`, and not
    exercised: it needs a Mac.
    """
    ct = _coremltools()
    _require_macos()
    compiled = ct.models.utils.compile_model(str(path))
    plan = ct.models.compute_plan.MLComputePlan.load_from_path(
        path=str(compiled), compute_units=ct.ComputeUnit.CPU_AND_NE
    )
    preferred = [
        usage.preferred_compute_device
        for op in plan.model_structure.program.functions["main"].block.operations
        if (usage := plan.get_compute_device_usage_for_mlprogram_operation(op)) is not None
    ]
    engine = ct.models.compute_device.MLNeuralEngineComputeDevice
    return sum(isinstance(device, engine) for device in preferred) / len(preferred)


# ----------------------------------------------------------------------------------- on the host


def edge_features(network: MPNN, backbones: Backbones, graph: Graph) -> Tensor:
    """What the packages take as h_E, float32: (N, K, H)."""
    parts = tiles(*graph.neighbours.shape)
    return torch.cat([network.W_e(network.features(backbones, graph, part)) for part in parts])


def _channels_first(values: Tensor) -> Tensor:
    """(B, K, C) -> (1, C, K, B), and (B, C) -> (1, C, 1, B)."""
    if values.dim() == 2:
        values = values[:, None]
    return values.permute(2, 1, 0)[None]


def _rows_first(values: NDArray[Any]) -> Tensor:
    """(1, C, K, B) -> (B, K, C) float32."""
    return torch.from_numpy(np.ascontiguousarray(values[0].transpose(2, 1, 0), np.float32))


def graph_inputs(graph: Graph) -> dict[str, Tensor]:
    """`neighbours` and `valid` of a padded graph: (1, 1, K, B) each.

    A row of padding hears itself: a norm of zeros would need its epsilon, which is below the
    smallest normal float16.
    """
    valid = torch.ones_like(graph.neighbours) if graph.valid is None else graph.valid.long()
    valid[:, 0] = 1
    return {
        "neighbours": _channels_first(graph.neighbours[..., None]),
        "valid": _channels_first(valid[..., None]),
    }


def sequence_inputs(graph: Graph, tokens: Tensor, rank: Tensor) -> dict[str, Tensor]:
    """`before` (1, 1, K, B) and `residues` (1, 21, 1, B) of a padded sequence (B,)."""
    before = rank[graph.neighbours] < rank[:, None]
    return {
        "before": _channels_first(before[..., None]),
        "residues": _channels_first(F.one_hot(tokens, LETTERS)),
    }


def forward_inputs(
    network: MPNN, padded: Padded, tokens: Tensor, rank: Tensor
) -> dict[str, Tensor]:
    """What a package of mode "forward" takes, float32 or int64, from a padded sequence (B,)."""
    h_E = edge_features(network, padded.backbones, padded.graph)
    return {
        "h_E": _channels_first(h_E),
        **graph_inputs(padded.graph),
        **sequence_inputs(padded.graph, tokens, rank),
    }


class CoreMLBackend(Backend):
    """The contract of `backends.Backend`, in buckets.

    Packages are converted when they are first needed, which takes seconds each.

    Parameters
    ----------
    network : whose weights are converted; on the CPU
    precision : "float16", lossy, for the Neural Engine; "float32", exact, on CPU or GPU
    folder : where packages are written, and found again; None is a folder that goes with the
        process
    buckets : residues that there are packages for
    opened : what makes a package on disk callable, `open_package` where there is Core ML

    Raises
    ------
    UnavailableError
        coremltools is not installed, or this is no macOS.
    """

    def __init__(
        self,
        network: MPNN,
        precision: Precision = "float16",
        folder: Path | None = None,
        buckets: Sequence[int] = BUCKETS,
        opened: Callable[[Path, Precision], Package] = open_package,
    ) -> None:
        _coremltools()
        if opened is open_package:
            _require_macos()
        self.name = "coreml-fast" if precision == "float16" else "coreml"
        self.network, self.precision, self.buckets = network, precision, tuple(buckets)
        self._temporary = (
            tempfile.TemporaryDirectory(prefix="mpnn_core") if folder is None else None
        )
        self.folder = folder or Path(self._temporary.name)  # type: ignore[union-attr]
        self._open = opened
        self._opened: dict[Export, Package] = {}
        self.dtype = np.dtype(precision)
        self._digest = hashlib.sha256(str(network.neighbours).encode())
        for name, parameter in network.state_dict().items():
            self._digest.update(name.encode() + parameter.numpy().tobytes())

    def package(self, export: Export) -> Path:
        """The package on disk, converted if it is not there; its name tells these weights apart."""
        path = self.folder / f"{export.name}-{self._digest.hexdigest()[:12]}.mlpackage"
        return path if path.exists() else convert(self.network, export, path)

    def run(self, mode: str, rows: int, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One call of a package: tensors in its layout in, (rows, K or 1, channels) out."""
        export = Export(mode, rows, self.precision)
        if export not in self._opened:
            self._opened[export] = self._open(self.package(export), self.precision)
        given = {
            name: np.ascontiguousarray(value.numpy(), self.dtype) for name, value in inputs.items()
        }
        return {name: _rows_first(v) for name, v in self._opened[export](given).items()}

    @torch.inference_mode()
    def encode(self, backbones: Backbones, graph: Graph | None = None) -> Encoding:
        """Features on the host, and one call of an encoder package per structure."""
        network = self.network
        graph = graph or nearest_neighbours(backbones, network.neighbours)
        K, layers = graph.neighbours.shape[1], len(network.decoders)
        found = []
        for start, stop in pairwise(backbones.offsets):
            part = slice(start, stop)
            alone = Backbones(
                backbones.coords[part], backbones.residue_index[part], backbones.chain[part],
                (0, stop - start),
            )  # fmt: skip
            own = Graph(graph.neighbours[part] - start, graph.valid_of(part))
            padded = pad(alone, network.neighbours, self.buckets, own)
            h_E = edge_features(network, padded.backbones, padded.graph)
            inputs = {"h_E": _channels_first(h_E), **graph_inputs(padded.graph)}
            outputs = self.run("encoder", len(padded.backbones), inputs)
            found.append({name: v[: stop - start, :K] for name, v in outputs.items()})
        h_V, edges, undecoded = (
            torch.cat([outputs[name] for outputs in found]) for name in Encoder.outputs
        )
        return Encoding(
            graph,
            h_V[:, 0],
            torch.stack(edges.chunk(layers, -1)),
            torch.stack(undecoded[:, 0].chunk(layers, -1)),
        )

    @torch.inference_mode()
    def decode(self, encoding: Encoding, copies: Copies, tokens: Tensor, rank: Tensor) -> Tensor:
        """Logits (M, 21) of given residues, one call of a decoder package per sequence."""
        logits = []
        for first, last in pairwise(copies.starts):
            nodes = copies.nodes[first:last]
            length = last - first
            bucket = choose_bucket(length, self.buckets)
            slots = min(self.network.neighbours, bucket)
            own = Graph(copies.neighbours[first:last] - first, encoding.graph.valid_of(nodes))
            graph = own.padded(bucket, slots)
            spare = bucket - length

            def rows(values: Tensor, nodes: Tensor = nodes, spare: int = spare) -> Tensor:
                """Of each layer or none, (..., N, C) -> (1, layers * C, 1, B)."""
                mine = values[..., nodes, :]
                flat = torch.cat(list(mine), -1) if mine.dim() == 3 else mine
                return _channels_first(F.pad(flat, (0, 0, 0, spare)))

            edges = torch.cat(list(encoding.edges[:, nodes]), -1)  # (L, K, layers * H)
            edges = F.pad(edges, (0, 0, 0, slots - edges.shape[1], 0, spare))
            inputs = {
                "h_V": rows(encoding.h_V),
                "edges": _channels_first(edges),
                "undecoded": rows(encoding.undecoded),
                **graph_inputs(graph),
                **sequence_inputs(
                    graph,
                    F.pad(tokens[first:last], (0, spare)),
                    F.pad(rank[first:last], (0, spare)),
                ),
            }
            logits.append(self.run("decoder", bucket, inputs)["logits"][:length, 0])
        return torch.cat(logits)

    @torch.inference_mode()
    def sample(
        self,
        encoding: Encoding,
        copies: Copies,
        rank: Tensor,
        distribution: Distribution,
        uniform: Tensor,
        tokens: Tensor,
        designed: Tensor,
    ) -> Samples:
        """Residues for the rows that are designed, level by level; drawn on the host."""
        levels = CoreMLLevels(self, encoding, copies, rank)
        steps = wavefront(rank, copies.neighbours, distribution.group)
        return sample(levels, rank, steps, distribution, uniform, tokens, designed)


class CoreMLLevels:
    """`sampler.Levels` by calls of a level package; tables and gathers are the host's."""

    def __init__(
        self, backend: CoreMLBackend, encoding: Encoding, copies: Copies, rank: Tensor
    ) -> None:
        self.backend, self.encoding, self.copies = backend, encoding, copies
        network = backend.network
        self.rows = network.rows(encoding, copies, rank)  # (M, K)
        C = [layer.blocks()[2] for layer in network.decoders]
        self.residues = torch.stack([network.W_s.weight @ c.T for c in C])  # (layers, 21, H)
        spare = torch.zeros_like(encoding.undecoded[:, copies.nodes])  # (layers, M, H)
        self.tables = torch.cat([encoding.undecoded, spare], 1)  # (layers, N + M, H)

    def decode(self, rows: Tensor) -> Tensor:
        found = [self._decode(part) for part in rows.split(LEVEL_ROWS)]
        return torch.cat(found)

    def _decode(self, rows: Tensor) -> Tensor:
        """Logits (n, 21) of at most LEVEL_ROWS rows."""
        nodes = self.copies.nodes[rows]
        graph, slots = self.encoding.graph, self.backend.network.neighbours
        spare = LEVEL_ROWS - len(rows)
        edge_inputs = self.tables[:, self.rows[rows]] + self.encoding.edges[:, nodes]
        n, K = graph.neighbours[nodes].shape
        valid = graph.valid_of(nodes)
        valid = torch.ones(n, K) if valid is None else valid.float()
        padding = (0, 0, 0, slots - K, 0, spare)
        outputs = self.backend.run(
            "level",
            LEVEL_ROWS,
            {
                "h_V": _channels_first(F.pad(self.encoding.h_V[nodes], (0, 0, 0, spare))),
                "edge_inputs": _channels_first(F.pad(torch.cat(list(edge_inputs), -1), padding)),
                "valid": _channels_first(F.pad(valid[..., None], padding)),
            },
        )
        states = outputs["states"][:n, 0].chunk(len(self.tables), -1)
        self.tables[:, len(self.encoding.h_V) + rows] = torch.stack(states)
        return outputs["logits"][:n, 0]

    def draw(self, rows: Tensor, tokens: Tensor) -> None:
        self.tables[:, len(self.encoding.h_V) + rows] += self.residues[:, tokens]
