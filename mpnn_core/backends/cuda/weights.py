"""The network's weights in the layouts that the kernels read."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpnn_core.backends.cuda import compiled
from mpnn_core.constants import ATOM_PAIRS, LETTERS
from mpnn_core.network.mpnn import MPNN, EncoderLayer

COLUMNS = 32  # letters, up to a power of two


class Weights:
    """The network's weights as the kernels take them: stacked over layers, in the tier's dtype."""

    def __init__(self, network: MPNN, dtype: torch.dtype) -> None:
        decoders = network.decoders

        def stack(*parts: Tensor, matrix: bool = True) -> Tensor:
            """(layers, ...) float32, or what the kernels take of a matrix."""
            stacked = torch.stack(parts).detach().float().contiguous()
            return halves(stacked) if matrix else stacked

        def halves(weight: Tensor) -> Tensor:
            """(1, ...) float16; in the exact tier (2, ...), the second what the first leaves."""
            high = weight.half()
            if dtype == torch.float16:
                return high[None]
            return torch.stack([high, ((weight - high.float()) * 2**11).half()])

        def linear(name: str) -> tuple[Tensor, Tensor]:
            found: list[nn.Linear] = [layer.get_submodule(name) for layer in decoders]  # type: ignore[misc]
            return stack(*(x.weight for x in found)), stack(*(x.bias for x in found), matrix=False)

        def norm(name: str) -> tuple[Tensor, Tensor]:
            found: list[nn.LayerNorm] = [layer.get_submodule(name) for layer in decoders]  # type: ignore[misc]
            weights = stack(*(x.weight for x in found), matrix=False)
            return weights, stack(*(x.bias for x in found), matrix=False)

        A, B, C, D = zip(*(layer.blocks() for layer in decoders), strict=True)
        self.decoder = (
            stack(*(torch.stack([d, a], 1).flatten(0, 1) for d, a in zip(D, A, strict=True))),
            stack(*(layer.W1.bias for layer in decoders), matrix=False),
            *linear("W2"), *linear("W3"), *norm("norm1"),
            *linear("dense.W_in"), *linear("dense.W_out"), *norm("norm2"),
        )  # fmt: skip
        fits = dtype == torch.float16 and compiled.fits(network)
        self.packed = compiled.Packed(network) if fits else None
        self.first_node = (A[0].detach().contiguous(), decoders[0].W1.bias.detach())
        emb = network.W_s.weight.detach()
        self.residues = torch.stack([emb @ c.detach().T for c in C]).contiguous()  # (l, 21, H)
        W, b = network.W_out.weight.detach(), network.W_out.bias.detach()
        self.W_letters = halves(F.pad(W, (0, 0, 0, COLUMNS - LETTERS)).float())
        self.b_letters = F.pad(b, (0, COLUMNS - LETTERS), value=-torch.inf).float()

        self.encoder: list[EncoderLayer] = list(network.encoder_layers)  # type: ignore[arg-type]

        def cast(*parts: Tensor) -> tuple[Tensor, ...]:
            return tuple(x.detach().to(dtype).contiguous() for x in parts)

        self.B, self.D = cast(torch.stack(B), torch.stack(D))  # (l, H, H)
        self.encoder_blocks = [
            (
                cast(*x.W1.weight.chunk(3, 1), x.W1.bias, x.W2.weight, x.W2.bias),
                cast(
                    *x.W11.weight.chunk(3, 1), x.W11.bias, x.W12.weight, x.W12.bias,
                    x.W13.weight, x.W13.bias,
                ),
            )
            for x in self.encoder
        ]  # fmt: skip

        def of_layer(x: EncoderLayer) -> tuple[tuple[Tensor, ...], ...]:
            """What the fused kernels of a layer take: nodes' terms, weights; the same of edges."""

            def terms(W: nn.Linear) -> tuple[Tensor, Tensor, Tensor]:
                A, B, C = W.weight.chunk(3, 1)
                bias = F.pad(W.bias, (0, len(W.bias)))
                own, bias = cast(torch.cat([A, C]), bias)
                return own, bias, halves(B.detach().float().contiguous())

            def layers(*found: nn.Module) -> tuple[Tensor, ...]:
                given: list[Tensor] = []
                for x in found:
                    weight, bias = (p.detach().float() for p in x.parameters())
                    given += [halves(weight) if weight.ndim == 2 else weight, bias]
                return tuple(given)

            A, b, B = terms(x.W1)
            A2, b11, B2 = terms(x.W11)
            nodes = layers(x.W2, x.W3, x.norm1, x.dense.W_in, x.dense.W_out, x.norm2)
            return (A, b), (B, *nodes), (A2, b11), (B2, *layers(x.W12, x.W13, x.norm3))

        self.encoder_kernels = [of_layer(x) for x in self.encoder]
        features = network.features
        self.first, self.second = torch.tensor(ATOM_PAIRS, device=emb.device).T.contiguous()
        self.centres = torch.linspace(2.0, 22.0, 16, device=emb.device)
        self.sigma = 1.25
        W_offset, W_rbf = features.edge_embedding.weight.detach().split([16, 400], 1)
        self.offset_table = F.linear(features.embeddings.table().detach(), W_offset)  # (66, H)
        self.embedding = (
            halves(W_rbf.float().contiguous()),
            halves(network.W_e.weight.detach().float().contiguous()),
            network.W_e.bias.detach().float(),
        )
        self.W_rbf, self.W_e, self.b_e = cast(W_rbf, network.W_e.weight, network.W_e.bias)
