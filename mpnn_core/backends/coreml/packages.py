"""Core ML packages: their inputs and outputs, how they are converted, how they are opened.

`MODES` and `PORTS` state the schema: which part of the network a package holds, its inputs and
outputs in their order, and the shape and meaning of each. Whoever runs a package without us, in
Swift for instance, needs these two tables and no code.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mpnn_core.backends.contract import UnavailableError
from mpnn_core.backends.coreml.layers import Decoder, Encoder, Forward, Level
from mpnn_core.constants import LETTERS
from mpnn_core.network.mpnn import MPNN

Precision = Literal["float16", "float32"]
# Rows that one call of a level package decodes: the Neural Engine pads the last axis to 64 bytes.
LEVEL_ROWS = 32
INSTALL = "pip install coremltools"
Arrays = dict[str, NDArray[Any]]
Package = Callable[[Arrays], Arrays]


PRECISIONS: tuple[Precision, ...] = ("float16", "float32")


@dataclass(frozen=True)
class Mode:
    """A part of the network that a package can hold.

    Attributes
    ----------
    module : of `layers.py`, in plain torch, which is converted
    inputs, outputs : names in `PORTS`, in the order of the module's arguments and results
    """

    module: type[Forward | Encoder | Decoder | Level]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


MODES: dict[str, Mode] = {
    "forward": Mode(
        Forward, ("h_E", "neighbours", "valid", "before", "residues"), ("logits",)
    ),
    "encoder": Mode(
        Encoder, ("h_E", "neighbours", "valid"), ("h_V", "edges", "undecoded")
    ),
    "decoder": Mode(
        Decoder, ("h_V", "edges", "undecoded", "neighbours", "valid", "before", "residues"),
        ("logits",),
    ),
    "level": Mode(
        Level, ("h_V", "edge_inputs", "valid"), ("logits", "states")
    ),
}  # fmt: skip
# Inputs and outputs: channels, as a function of width and decoder layers; whether there is a
# neighbour axis; and the meaning. All are dimensionless but the logits.
PORTS: dict[str, tuple[Callable[[int, int], int], bool, str]] = {
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
        return MODES[self.mode].module(network, self.slots(network), self.rows).eval()

    def inputs(self, network: MPNN) -> list[Port]:
        return self._ports(network, MODES[self.mode].inputs)

    def outputs(self, network: MPNN) -> list[Port]:
        return self._ports(network, MODES[self.mode].outputs)

    def _ports(self, network: MPNN, names: Sequence[str]) -> list[Port]:
        H, layers, K = network.W_out.in_features, len(network.decoders), self.slots(network)
        ports = []
        for name in names:
            channels, on_edges, meaning = PORTS[name]
            shape = (1, channels(H, layers), K if on_edges else 1, self.rows)
            ports.append(Port(name, shape, meaning))
        return ports


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
    ValueError
        The network reads more of a structure than its backbone.
    """
    if type(network) is not MPNN:
        raise ValueError(
            f"a package holds a ProteinMPNN; {name} is a network of another kind, "
            f"{type(network).__name__}"
        )
    ct = load_coremltools()
    inputs, outputs = export.inputs(network), export.outputs(network)
    dtype = np.float16 if export.precision == "float16" else np.float32
    passes = ct.PassPipeline.DEFAULT
    # It makes of a norm's scale a batch norm of variance 1 with an epsilon of 1e-5: wrong by 5e-6.
    passes.remove_passes(["common::fuse_elementwise_to_batchnorm"])
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # progress bars
        # coremltools and torch deprecate things in each other.
        warnings.simplefilter("ignore")
        program = torch.export.export(
            export.module(network),
            tuple(torch.zeros(p.shape, dtype=torch.float32, device="cpu") for p in inputs),
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
    """Write the package's metadata: authors, and each input and output with its shape and unit."""
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
def load_coremltools() -> Any:
    if find_spec("coremltools") is None:
        raise UnavailableError(f"coremltools is not installed: {INSTALL}")
    # On Linux it logs, while it is imported, each of the parts that macOS alone has.
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools
    return coremltools


def require_macos() -> None:
    if sys.platform != "darwin":
        raise UnavailableError(
            "Core ML runs on macOS alone; here packages can be written, "
            "`mpnn-core export coreml --out DIR`"
        )


def open_package(path: Path, precision: Precision) -> Package:
    """Load a package where Core ML runs: on the Neural Engine in float16, else on CPU and GPU."""
    ct = load_coremltools()
    require_macos()
    units = ct.ComputeUnit.CPU_AND_NE if precision == "float16" else ct.ComputeUnit.CPU_AND_GPU
    model = ct.models.MLModel(str(path), compute_units=units)
    predict: Package = model.predict
    return predict


def neural_engine_share(path: Path) -> float:
    """Share of a package's operations that Core ML prefers to run on the Neural Engine; macOS.

    Constants are not counted. Written after coremltools' documentation of `MLComputePlan`, and not
    exercised: it needs a Mac.
    """
    ct = load_coremltools()
    require_macos()
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
