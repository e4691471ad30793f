"""The network's weights in the layouts that the fused kernels read.

The fields of `DecoderWeights`, `MessageWeights` and `EdgeWeights` are in the order of the kernels'
arguments, so their `arguments` are passed as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpnn_core.backends.cuda import compiled
from mpnn_core.constants import (
    ATOM_PAIRS,
    FIRST_CENTRE,
    GAUSSIANS,
    LAST_CENTRE,
    LETTERS,
    OFFSET_WIDTH,
    SIGMA,
)
from mpnn_core.network.encoding import OWN_FEATURES
from mpnn_core.network.mpnn import MPNN, EncoderLayer

COLUMNS = 32  # letters, up to a power of two
LOW_SCALE = 2**11  # of the remainder, so that it has float16's full accuracy


@dataclass(frozen=True, eq=False)
class Matrix:
    """Weights as the matrix units take them.

    Attributes
    ----------
    parts : (1, ...) float16; in the exact tier (2, ...), which together are float32's accuracy
    """

    parts: Tensor

    @classmethod
    def of(cls, weight: Tensor, exact: bool) -> Matrix:
        """Of a float32 tensor, contiguous."""
        high = weight.half()
        if not exact:
            return cls(high[None])
        return cls(torch.stack([high, ((weight - high.float()) * LOW_SCALE).half()]))

    @property
    def high(self) -> Tensor:
        """The weights, rounded to float16."""
        return self.parts[0]

    @property
    def low(self) -> Tensor:
        """What `high` leaves of the weights, times LOW_SCALE; in the exact tier alone."""
        return self.parts[1]

    def of_layer(self, layer: int) -> Tensor:
        """The parts of one layer, where they are stacked over layers: a view."""
        return self.parts[:, layer]


@dataclass(frozen=True, eq=False)
class KernelArguments:
    """Weights that a kernel takes one after the other, in the order of the fields."""

    @cached_property
    def arguments(self) -> tuple[Tensor, ...]:
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(x.parts if isinstance(x, Matrix) else x for x in values)


@dataclass(frozen=True, eq=False)
class DecoderWeights(KernelArguments):
    """All decoder layers, stacked: matrices (parts, layers, out, in), vectors (layers, n) float32.

    Attributes
    ----------
    DA : rows 2 h and 2 h + 1 are rows h of W1's blocks D and A (`DecoderLayer.blocks`)
    """

    DA: Matrix
    b1: Tensor
    W2: Matrix
    b2: Tensor
    W3: Matrix
    b3: Tensor
    norm1: Tensor
    bias1: Tensor
    W_in: Matrix
    b_in: Tensor
    W_out: Matrix
    b_out: Tensor
    norm2: Tensor
    bias2: Tensor

    @classmethod
    def of(cls, network: MPNN, exact: bool) -> DecoderWeights:
        layers = network.decoders

        def vectors(*parts: Tensor) -> Tensor:
            return torch.stack(parts).detach().float().contiguous()

        def matrices(*parts: Tensor) -> Matrix:
            return Matrix.of(vectors(*parts), exact)

        blocks = (layer.blocks() for layer in layers)
        return cls(
            DA=matrices(*(torch.stack([D, A], 1).flatten(0, 1) for A, _, _, D in blocks)),
            b1=vectors(*(x.W1.bias for x in layers)),
            W2=matrices(*(x.W2.weight for x in layers)),
            b2=vectors(*(x.W2.bias for x in layers)),
            W3=matrices(*(x.W3.weight for x in layers)),
            b3=vectors(*(x.W3.bias for x in layers)),
            norm1=vectors(*(x.norm1.weight for x in layers)),
            bias1=vectors(*(x.norm1.bias for x in layers)),
            W_in=matrices(*(x.dense.W_in.weight for x in layers)),
            b_in=vectors(*(x.dense.W_in.bias for x in layers)),
            W_out=matrices(*(x.dense.W_out.weight for x in layers)),
            b_out=vectors(*(x.dense.W_out.bias for x in layers)),
            norm2=vectors(*(x.norm2.weight for x in layers)),
            bias2=vectors(*(x.norm2.bias for x in layers)),
        )

    @cached_property
    def layers(self) -> list[tuple[Tensor, ...]]:
        """`arguments` of each layer: views, in which the parts are as far apart as in the whole."""
        values = [getattr(self, field.name) for field in fields(self)]
        return [
            tuple(x.of_layer(i) if isinstance(x, Matrix) else x[i] for x in values)
            for i in range(len(self.b1))
        ]


class NodeTerms(NamedTuple):
    """W1's or W11's blocks on a node itself, with the bias, and on its neighbours, one product."""

    weight: Tensor  # (2 H, H)
    bias: Tensor  # (2 H,), zero in its second half

    @classmethod
    def of(cls, W1: nn.Linear, dtype: torch.dtype) -> NodeTerms:
        A, _, C = W1.weight.chunk(3, 1)
        return cls(
            in_dtype(torch.cat([A, C]), dtype), in_dtype(F.pad(W1.bias, (0, len(W1.bias))), dtype)
        )


@dataclass(frozen=True, eq=False)
class MessageWeights(KernelArguments):
    """The messages and the node update of an encoder layer. B is W1's block on the edge."""

    B: Matrix
    W2: Matrix
    b2: Tensor
    W3: Matrix
    b3: Tensor
    norm1: Tensor
    bias1: Tensor
    W_in: Matrix
    b_in: Tensor
    W_out: Matrix
    b_out: Tensor
    norm2: Tensor
    bias2: Tensor


@dataclass(frozen=True, eq=False)
class EdgeWeights(KernelArguments):
    """The edge update of an encoder layer. B is W11's block on the edge."""

    B: Matrix
    W12: Matrix
    b12: Tensor
    W13: Matrix
    b13: Tensor
    norm3: Tensor
    bias3: Tensor


@dataclass(frozen=True, eq=False)
class EncoderWeights:
    """One encoder layer.

    Attributes
    ----------
    node_terms : of W1, from the node states before the layer
    message : of the layer's messages and node update
    updated_terms : of W11, from the node states after the update
    edge : of the layer's edge update
    """

    node_terms: NodeTerms
    message: MessageWeights
    updated_terms: NodeTerms
    edge: EdgeWeights

    @classmethod
    def of(cls, layer: EncoderLayer, dtype: torch.dtype) -> EncoderWeights:
        def matrix(weight: Tensor) -> Matrix:
            return Matrix.of(weight.detach().float().contiguous(), dtype == torch.float32)

        def vector(values: Tensor) -> Tensor:
            return values.detach().float()

        dense = layer.dense
        message = MessageWeights(
            B=matrix(layer.W1.weight.chunk(3, 1)[1]),
            W2=matrix(layer.W2.weight), b2=vector(layer.W2.bias),
            W3=matrix(layer.W3.weight), b3=vector(layer.W3.bias),
            norm1=vector(layer.norm1.weight), bias1=vector(layer.norm1.bias),
            W_in=matrix(dense.W_in.weight), b_in=vector(dense.W_in.bias),
            W_out=matrix(dense.W_out.weight), b_out=vector(dense.W_out.bias),
            norm2=vector(layer.norm2.weight), bias2=vector(layer.norm2.bias),
        )  # fmt: skip
        edge = EdgeWeights(
            B=matrix(layer.W11.weight.chunk(3, 1)[1]),
            W12=matrix(layer.W12.weight), b12=vector(layer.W12.bias),
            W13=matrix(layer.W13.weight), b13=vector(layer.W13.bias),
            norm3=vector(layer.norm3.weight), bias3=vector(layer.norm3.bias),
        )  # fmt: skip
        return cls(NodeTerms.of(layer.W1, dtype), message, NodeTerms.of(layer.W11, dtype), edge)


@dataclass(frozen=True, eq=False)
class FeatureWeights:
    """The edge features.

    Attributes
    ----------
    first, second : (25,) int64, the atoms of each pair
    centres : (16,) float32, of the Gaussians, Å
    offset_table : (66, H) float32, what a class of residue offsets adds to the embedding
    W_rbf, W_e, b_e : the embedding of the Gaussians, and the layer after the norm
    norm, bias : (H,), of that norm
    """

    first: Tensor
    second: Tensor
    centres: Tensor
    offset_table: Tensor
    W_rbf: Matrix
    W_e: Matrix
    b_e: Tensor
    norm: Tensor
    bias: Tensor

    @classmethod
    def of(cls, network: MPNN, exact: bool) -> FeatureWeights:
        features, device = network.features, network.W_e.weight.device
        W_offset, W_rbf = split_embedding(network)
        first, second = torch.tensor(ATOM_PAIRS, device=device).T.contiguous()
        return cls(
            first,
            second,
            centres=torch.linspace(
                FIRST_CENTRE, LAST_CENTRE, GAUSSIANS, dtype=torch.float32, device=device
            ),
            offset_table=F.linear(features.embeddings.table().detach(), W_offset),
            W_rbf=Matrix.of(W_rbf.float().contiguous(), exact),
            W_e=Matrix.of(network.W_e.weight.detach().float().contiguous(), exact),
            b_e=network.W_e.bias.detach().float(),
            norm=features.norm_edges.weight,
            bias=features.norm_edges.bias,
        )

    @property
    def inverse_sigma(self) -> float:
        """By which distances from a Gaussian's centre are multiplied, 1/Å."""
        return 1 / SIGMA


class Weights:
    """The network's weights as the fused kernels take them.

    Attributes
    ----------
    features, encoder, decoder : of these parts; the encoder's, one for each layer, and no features
        where a network has its own (`OWN_FEATURES`)
    B, D : (layers, H, H) in the tier's dtype, of each decoder layer (`DecoderLayer.blocks`)
    first_A, first_b1 : float32, of the first decoder layer: A and the bias
    residues : (layers, 21, H) float32, C emb(s) of each letter
    W_letters, b_letters : the output layer, with columns of probability 0 up to COLUMNS
    packed : the decoder's for `decode_levels.cu`; None where that does not fit the network
    """

    def __init__(self, network: MPNN, dtype: torch.dtype) -> None:
        exact, decoders = dtype == torch.float32, network.decoders
        own = OWN_FEATURES in network.requires
        self.features = None if own else FeatureWeights.of(network, exact)
        encoders: Sequence[EncoderLayer] = list(network.encoder_layers)  # type: ignore[arg-type]
        self.encoder = [EncoderWeights.of(layer, dtype) for layer in encoders]
        self.decoder = DecoderWeights.of(network, exact)
        fits = not exact and compiled.fits(network)
        self.packed = compiled.Packed(network) if fits else None
        A, B, C, D = zip(*(layer.blocks() for layer in decoders), strict=True)
        self.B, self.D = in_dtype(torch.stack(B), dtype), in_dtype(torch.stack(D), dtype)
        self.first_A, self.first_b1 = A[0].detach().contiguous(), decoders[0].W1.bias.detach()
        embedding = network.W_s.weight.detach()
        self.residues = torch.stack([embedding @ c.detach().T for c in C]).contiguous()
        W, b = network.W_out.weight.detach(), network.W_out.bias.detach()
        self.W_letters = Matrix.of(F.pad(W, (0, 0, 0, COLUMNS - LETTERS)).float(), exact)
        self.b_letters = F.pad(b, (0, COLUMNS - LETTERS), value=-torch.inf).float()


def in_dtype(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight in the tier's dtype, contiguous."""
    return weight.detach().to(dtype).contiguous()


def split_embedding(network: MPNN) -> tuple[Tensor, Tensor]:
    """The edge embedding's weights on the residue offset (H, 16) and on the Gaussians (H, 400)."""
    weight = network.features.edge_embedding.weight.detach()
    W_offset, W_rbf = weight.split([OFFSET_WIDTH, GAUSSIANS * len(ATOM_PAIRS)], 1)
    return W_offset, W_rbf
