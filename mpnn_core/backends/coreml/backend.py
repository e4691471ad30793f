"""The network as Core ML packages, in fixed shapes that the Neural Engine can run.

The k-NN, the distances and the edge features stay in float32 on the host: float16 distances choose
other neighbours. A package holds everything after that, reformulated as in `network/mpnn.py`.
Layout and operations follow what Apple found the Neural Engine to run (apple/ml-ane-transformers):
tensors are (1, channels, neighbours, residues), linear layers are 1x1 convolutions, and a gather is
a product with a one-hot matrix that the graph builds from the indices.

Converting works on Linux and macOS, running on macOS alone.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mpnn_core.backends.contract import Backend, require_known
from mpnn_core.backends.coreml.buckets import BUCKETS, Padded, choose_bucket, pad
from mpnn_core.backends.coreml.packages import (
    LEVEL_ROWS,
    MODES,
    Export,
    Package,
    Precision,
    convert,
    load_coremltools,
    open_package,
    require_macos,
)
from mpnn_core.constants import LETTERS
from mpnn_core.network.encoding import CHANGED_STATES, INITIAL_STATES, Copies, Encoding
from mpnn_core.network.graph import Backbones, Graph, nearest_neighbours
from mpnn_core.network.mpnn import MPNN
from mpnn_core.sampling.sampler import Distribution, Samples, sample
from mpnn_core.sampling.schedule import wavefront


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
    h_E = network.edge_features(padded.backbones, padded.graph)
    return {
        "h_E": _channels_first(h_E),
        **graph_inputs(padded.graph),
        **sequence_inputs(padded.graph, tokens, rank),
    }


class CoreMLBackend(Backend):
    """The contract of `backends.contract.Backend`, in buckets.

    Packages are converted when they are first needed, which takes seconds each.

    Parameters
    ----------
    network : the network, on the CPU; its weights are converted
    precision : "float16", lossy, for the Neural Engine; "float32", exact, on CPU or GPU
    folder : packages are written into it, and reused from there; None is a folder that is deleted
        when the process ends
    buckets : residues that there are packages for
    opened : makes a package on disk callable: `open_package` where there is Core ML

    Raises
    ------
    UnavailableError
        coremltools is not installed, or this is no macOS.
    """

    knows = frozenset({"profile", "group", "weight", CHANGED_STATES})

    def __init__(
        self,
        network: MPNN,
        precision: Precision = "float16",
        folder: Path | None = None,
        buckets: Sequence[int] = BUCKETS,
        opened: Callable[[Path, Precision], Package] = open_package,
    ) -> None:
        load_coremltools()
        if opened is open_package:
            require_macos()
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
        arrays = {
            name: np.ascontiguousarray(value.numpy(), self.dtype) for name, value in inputs.items()
        }
        return {name: _rows_first(v) for name, v in self._opened[export](arrays).items()}

    @torch.inference_mode()
    def encode(
        self, backbones: Backbones, graph: Graph | None = None, h_V: Tensor | None = None
    ) -> Encoding:
        """Features on the host, and one call of an encoder package per structure, from zeros."""
        if h_V is not None:
            require_known(self, frozenset({INITIAL_STATES}))
        network = self.network
        graph = graph or nearest_neighbours(backbones, network.neighbours)
        K, layers = graph.neighbours.shape[1], len(network.decoders)
        results = []
        for start, stop in pairwise(backbones.offsets):
            part = slice(start, stop)
            alone = Backbones(
                backbones.coords[part], backbones.residue_index[part], backbones.chain[part],
                (0, stop - start),
            )  # fmt: skip
            own = Graph(graph.neighbours[part] - start, graph.valid_of(part))
            padded = pad(alone, network.neighbours, self.buckets, own)
            h_E = network.edge_features(padded.backbones, padded.graph)
            inputs = {"h_E": _channels_first(h_E), **graph_inputs(padded.graph)}
            outputs = self.run("encoder", len(padded.backbones), inputs)
            results.append({name: v[: stop - start, :K] for name, v in outputs.items()})
        states, edges, undecoded = (
            torch.cat([outputs[name] for outputs in results]) for name in MODES["encoder"].outputs
        )
        return Encoding(
            graph,
            states[:, 0],
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
                of_nodes = values[..., nodes, :]
                flat = torch.cat(list(of_nodes), -1) if of_nodes.dim() == 3 else of_nodes
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
        require_known(self, distribution.in_use)
        levels = CoreMLLevels(self, encoding, copies, rank)
        steps = wavefront(rank, copies.neighbours, distribution.group)
        return sample(levels, rank, steps, distribution, uniform, tokens, designed)


class CoreMLLevels:
    """`sampler.Levels` by calls of a level package; the host keeps the tables and gathers."""

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
        return torch.cat([self._decode(part) for part in rows.split(LEVEL_ROWS)])

    def _decode(self, rows: Tensor) -> Tensor:
        """Logits (n, 21) of at most LEVEL_ROWS rows."""
        nodes = self.copies.nodes[rows]
        graph, slots = self.encoding.graph, self.backend.network.neighbours
        spare = LEVEL_ROWS - len(rows)
        edge_inputs = self.tables[:, self.rows[rows]] + self.encoding.edges[:, nodes]
        n, K = graph.neighbours[nodes].shape
        valid = graph.valid_of(nodes)
        valid = valid.float() if valid is not None else edge_inputs.new_ones(n, K)
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

    def place(self, rows: Tensor, tokens: Tensor) -> None:
        self.tables[:, len(self.encoding.h_V) + rows] += self.residues[:, tokens]
