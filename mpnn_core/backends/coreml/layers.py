"""The network's layers in the shapes that Core ML's compiler takes: channels first, fixed sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpnn_core.constants import MESSAGE_SCALE
from mpnn_core.network.mpnn import MPNN, FeedForward, MessageLayer


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
        self.register_buffer(
            "rows", torch.arange(length, dtype=torch.float32, device="cpu")[:, None]
        )

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
    """Mode "encoder": what decoding needs of a structure, once for all its sequences.

    Node states start from zeros.
    """

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
            # The two tables of network/mpnn.py, identity 4.
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
