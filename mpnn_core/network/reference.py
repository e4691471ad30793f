"""ProteinMPNN as the paper writes it: plain, slow, one file. The oracle of the fast network.

Source: Dauparas et al., Science 378, 49 (2022), methods and supplementary algorithms. Parameter
names are those of the published checkpoints, so one loads with `strict=True`. One structure at a
time, every residue complete; nothing is shared, split or reordered for speed. What the engine
runs is `mpnn.py`, and a test ties the two together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

N, CA, C, O, CB = range(5)
# The 25 ordered atom pairs in the order in which the checkpoints' edge_embedding expects them.
ATOM_PAIRS = (
    (CA, CA), (N, N), (C, C), (O, O), (CB, CB),
    (CA, N), (CA, C), (CA, O), (CA, CB), (N, C), (N, O), (N, CB), (CB, C), (CB, O), (O, C),
    (N, CA), (C, CA), (O, CA), (CB, CA), (C, N), (O, N), (CB, N), (C, CB), (O, CB), (C, O),
)  # fmt: skip
MAX_OFFSET = 32  # residue offsets are clipped to +-32; class 65 is "another chain"
MESSAGE_SCALE = 30.0
LETTERS = 21


class PositionalEncodings(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * MAX_OFFSET + 2, width)

    def forward(self, offset: Tensor, same_chain: Tensor) -> Tensor:
        clipped = (offset + MAX_OFFSET).clamp(0, 2 * MAX_OFFSET)
        label = torch.where(same_chain, clipped, 2 * MAX_OFFSET + 1)  # (L, K)
        one_hot = F.one_hot(label, 2 * MAX_OFFSET + 2).to(self.linear.weight.dtype)
        return self.linear(one_hot)  # (L, K, 16)


class ProteinFeatures(nn.Module):
    def __init__(self, hidden: int, neighbours: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.embeddings = PositionalEncodings()
        self.edge_embedding = nn.Linear(16 + 16 * len(ATOM_PAIRS), hidden, bias=False)
        self.norm_edges = nn.LayerNorm(hidden)

    def forward(self, X: Tensor, residue_index: Tensor, chain: Tensor) -> tuple[Tensor, Tensor]:
        L = X.shape[0]
        b, c = X[:, CA] - X[:, N], X[:, C] - X[:, CA]  # (L, 3)
        a = torch.linalg.cross(b, c)
        virtual_CB = -0.58273431 * a + 0.56802827 * b - 0.54067466 * c + X[:, CA]
        atoms = torch.cat([X, virtual_CB[:, None]], 1)  # (L, 5, 3)

        def distance(first: int, second: int) -> Tensor:
            delta = atoms[:, None, first] - atoms[None, :, second]
            return torch.sqrt((delta**2).sum(-1) + 1e-6)  # (L, L)

        E_idx = distance(CA, CA).topk(min(self.neighbours, L), largest=False).indices  # (L, K)
        centres = torch.linspace(2.0, 22.0, 16, dtype=X.dtype)
        rbf = [
            torch.exp(-(((distance(*pair).gather(1, E_idx)[..., None] - centres) / 1.25) ** 2))
            for pair in ATOM_PAIRS
        ]  # 25 x (L, K, 16)
        offset = (residue_index[:, None] - residue_index[None]).gather(1, E_idx)  # (L, K)
        same_chain = (chain[:, None] == chain[None]).gather(1, E_idx)
        E = torch.cat([self.embeddings(offset, same_chain), *rbf], -1)  # (L, K, 416)
        return self.norm_edges(self.edge_embedding(E)), E_idx  # (L, K, H), (L, K)


class CAProteinFeatures(nn.Module):
    """Of the CA-only models, after the original's `CA_ProteinFeatures`."""

    def __init__(self, hidden: int, neighbours: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.embeddings = PositionalEncodings()
        self.node_embedding = nn.Linear(3, hidden, bias=False)  # not used
        self.edge_embedding = nn.Linear(16 + 16 * 9 + 7, hidden, bias=False)
        self.norm_nodes = nn.LayerNorm(hidden)  # not used
        self.norm_edges = nn.LayerNorm(hidden)

    def forward(
        self, rows: Tensor, known: Tensor, residue_index: Tensor, chain: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The L residues whose CA is known, of R rows (R, 3) in the order of the chains.

        A row of zeros stands for a residue without CA, and for residue numbers that are missing.
        known (R,) bool; residue_index, chain (L,) int64.
        """
        zero = torch.zeros(1, 3, dtype=rows.dtype)
        previous, following = torch.cat([zero, rows[:-1]]), torch.cat([rows[1:], zero])
        atoms = {0: previous[known], 1: rows[known], 2: following[known]}  # (L, 3) each

        def distance(first: int, second: int) -> Tensor:
            delta = atoms[first][:, None] - atoms[second][None]
            return torch.sqrt((delta**2).sum(-1) + 1e-6)  # (L, L)

        L = len(atoms[1])
        E_idx = distance(1, 1).topk(min(self.neighbours, L), largest=False).indices  # (L, K)
        centres = torch.linspace(2.0, 22.0, 16, dtype=rows.dtype)
        pairs = ((1, 1), (0, 0), (2, 2), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1))
        rbf = [
            torch.exp(-(((distance(*pair).gather(1, E_idx)[..., None] - centres) / 1.25) ** 2))
            for pair in pairs
        ]  # 9 x (L, K, 16)
        turns = self.orientations(rows, known, E_idx)  # (L, K, 7)
        offset = (residue_index[:, None] - residue_index[None]).gather(1, E_idx)  # (L, K)
        same_chain = (chain[:, None] == chain[None]).gather(1, E_idx)
        E = torch.cat([self.embeddings(offset, same_chain), *rbf, turns], -1)  # (L, K, 167)
        return self.norm_edges(self.edge_embedding(E)), E_idx  # (L, K, H), (L, K)

    @staticmethod
    def orientations(rows: Tensor, known: Tensor, E_idx: Tensor) -> Tensor:
        R = len(rows)
        frames = torch.zeros(R, 3, 3, dtype=rows.dtype)
        for r in range(1, R - 2):
            to_here, from_here = rows[r] - rows[r - 1], rows[r + 1] - rows[r]
            to_here, from_here = (
                F.normalize(step, dim=0) if 3.6 < step.norm() < 4.0 else torch.zeros_like(step)
                for step in (to_here, from_here)
            )
            along = F.normalize(to_here - from_here, dim=0)
            normal = F.normalize(torch.linalg.cross(to_here, from_here), dim=0)
            frames[r] = torch.stack([along, normal, torch.linalg.cross(along, normal)])
        frames, CA = frames[known], rows[known]
        own, other = frames[:, None], frames[E_idx]  # (L, 1, 3, 3), (L, K, 3, 3)
        direction = (own @ (CA[E_idx] - CA[:, None])[..., None])[..., 0]
        rotation = own.mT @ other  # (L, K, 3, 3)
        xx, yy, zz = rotation.diagonal(dim1=-2, dim2=-1).unbind(-1)
        x, y, z = (1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz)
        quaternion = torch.stack(
            [
                torch.sign(rotation[..., 2, 1] - rotation[..., 1, 2]) * x.abs().sqrt() / 2,
                torch.sign(rotation[..., 0, 2] - rotation[..., 2, 0]) * y.abs().sqrt() / 2,
                torch.sign(rotation[..., 1, 0] - rotation[..., 0, 1]) * z.abs().sqrt() / 2,
                (1 + xx + yy + zz).relu().sqrt() / 2,
            ],
            -1,
        )
        return torch.cat([F.normalize(direction, dim=-1), F.normalize(quaternion, dim=-1)], -1)


class PositionWiseFeedForward(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.W_in = nn.Linear(hidden, 4 * hidden)
        self.W_out = nn.Linear(4 * hidden, hidden)

    def forward(self, h_V: Tensor) -> Tensor:
        return self.W_out(F.gelu(self.W_in(h_V)))


class EncoderLayer(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(hidden) for _ in range(3))
        self.W1, self.W11 = nn.Linear(3 * hidden, hidden), nn.Linear(3 * hidden, hidden)
        self.W2, self.W12 = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.W3, self.W13 = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.dense = PositionWiseFeedForward(hidden)

    def forward(self, h_V: Tensor, h_E: Tensor, E_idx: Tensor) -> tuple[Tensor, Tensor]:
        message = self.W3(F.gelu(self.W2(F.gelu(self.W1(edge_input(h_V, h_E, h_V[E_idx]))))))
        h_V = self.norm1(h_V + message.sum(1) / MESSAGE_SCALE)
        h_V = self.norm2(h_V + self.dense(h_V))
        update = self.W13(F.gelu(self.W12(F.gelu(self.W11(edge_input(h_V, h_E, h_V[E_idx]))))))
        return h_V, self.norm3(h_E + update)  # (L, H), (L, K, H)


class DecoderLayer(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.W1 = nn.Linear(4 * hidden, hidden)
        self.W2 = nn.Linear(hidden, hidden)
        self.W3 = nn.Linear(hidden, hidden)
        self.dense = PositionWiseFeedForward(hidden)

    def forward(self, h_V: Tensor, h_ESV: Tensor) -> Tensor:
        h_i = h_V[:, None].expand(-1, h_ESV.shape[1], -1)
        message = self.W3(F.gelu(self.W2(F.gelu(self.W1(torch.cat([h_i, h_ESV], -1))))))
        h_V = self.norm1(h_V + message.sum(1) / MESSAGE_SCALE)
        return self.norm2(h_V + self.dense(h_V))  # (L, H)


def edge_input(h_V: Tensor, *per_edge: Tensor) -> Tensor:
    """Concatenate h_i with what an edge carries: (L, H), (L, K, *)... -> (L, K, sum)."""
    h_i = h_V[:, None].expand(-1, per_edge[0].shape[1], -1)
    return torch.cat([h_i, *per_edge], -1)


class MembraneStates(nn.Module):
    """What the membrane models start from: Linear(LayerNorm(Linear(one-hot of 3 labels)))."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.node_embedding = nn.Linear(3, hidden, bias=False)
        self.norm_nodes = nn.LayerNorm(hidden)
        self.W_v = nn.Linear(hidden, hidden)

    def forward(self, labels: Tensor) -> Tensor:
        one_hot = F.one_hot(labels, 3).to(self.W_v.weight.dtype)  # (L, 3)
        return self.W_v(self.norm_nodes(self.node_embedding(one_hot)))  # (L, H)


class ReferenceMPNN(nn.Module):
    """The network of the paper.

    Parameters
    ----------
    hidden, encoder_layers, decoder_layers, neighbours
        Width, depths and k of the k-NN graph; the published models are 128, 3, 3, 48.
    """

    def __init__(
        self,
        hidden: int = 128,
        encoder_layers: int = 3,
        decoder_layers: int = 3,
        neighbours: int = 48,
    ) -> None:
        super().__init__()
        self.features = ProteinFeatures(hidden, neighbours)
        self.W_e = nn.Linear(hidden, hidden)
        self.W_s = nn.Embedding(LETTERS, hidden)
        self.encoder_layers = nn.ModuleList(EncoderLayer(hidden) for _ in range(encoder_layers))
        self.decoder_layers = nn.ModuleList(DecoderLayer(hidden) for _ in range(decoder_layers))
        self.W_out = nn.Linear(hidden, LETTERS)

    def forward(
        self,
        X: Tensor,
        S: Tensor,
        residue_index: Tensor,
        chain: Tensor,
        decoding_order: Tensor,
        start: Tensor | None = None,
    ) -> Tensor:
        """Teacher-forced log-probabilities of one structure.

        Parameters
        ----------
        X : (L, 4, 3) float, Å: N, CA, C, O of every residue, all finite
        S : (L,) int64, the sequence as indices into the alphabet
        residue_index, chain : (L,) int64
        decoding_order : (L,) int64, positions in the order in which they are decoded
        start : (L, H), the node states that encoding starts from; None is zeros

        Returns
        -------
        (L, 21) log-probabilities, in the dtype of the parameters.
        """
        E, E_idx = self.features(X, residue_index, chain)
        h_E = self.W_e(E)  # (L, K, H)
        h_V = torch.zeros_like(h_E[:, 0]) if start is None else start  # (L, H)
        for encoder in self.encoder_layers:
            h_V, h_E = encoder(h_V, h_E, E_idx)

        rank = torch.argsort(decoding_order)  # (L,)
        decoded = (rank[E_idx] < rank[:, None])[..., None]  # (L, K, 1): j comes before i
        h_S_j = self.W_s(S)[E_idx]  # (L, K, H)
        unseen = torch.cat([h_E, torch.zeros_like(h_S_j), h_V[E_idx]], -1)  # (L, K, 3H)
        for decoder in self.decoder_layers:
            seen = torch.cat([h_E, h_S_j, h_V[E_idx]], -1)  # (L, K, 3H)
            h_V = decoder(h_V, torch.where(decoded, seen, unseen))
        return F.log_softmax(self.W_out(h_V), -1)
