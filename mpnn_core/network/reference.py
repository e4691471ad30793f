"""ProteinMPNN as the paper writes it: plain, slow, one file. The oracle of the fast network.

Sources: Dauparas et al., Science 378, 49 (2022), methods and supplementary algorithms; for
LigandMPNN Dauparas et al., Nature Methods (2025). Parameter names are those of the published
checkpoints, so one loads with `strict=True`. One structure at a time, every residue complete;
nothing is shared, split or reordered for speed. What the engine runs is `mpnn.py`, and a test ties
the two together.
"""

from __future__ import annotations

from bisect import bisect_left

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

# What LigandMPNN knows of the atoms around a protein.
NOBLE_GASES = (0, 2, 10, 18, 36, 54, 86, 118)  # where the periods end
ELEMENT_CLASSES = (120, 19, 8)  # atomic number, group and period, one-hot each
CONTEXT_ATOMS = 25  # the nearest to a residue's virtual CB
SIDE_CHAIN_NEIGHBOURS = 16  # the residues whose side chains may be seen, itself among them
SIDE_CHAIN_REACH = 100.0  # Å; where side chains are seen, no atom beyond
# Elements of the 32 atoms of a side chain beyond CB, as atom37 orders them: CG, CG1, CG2, OG, ...
SIDE_CHAIN_ELEMENTS = (
    6, 6, 6, 8, 8, 16, 6, 6, 6, 7, 7, 8, 8, 16, 6, 6,
    6, 6, 7, 7, 7, 8, 8, 6, 7, 7, 8, 6, 6, 6, 7, 8,
)  # fmt: skip


def with_virtual_CB(X: Tensor) -> Tensor:
    """N, CA, C, O and a CB where an ideal one would be: (L, 4, 3) -> (L, 5, 3)."""
    b, c = X[:, CA] - X[:, N], X[:, C] - X[:, CA]  # (L, 3)
    a = torch.linalg.cross(b, c)
    virtual_CB = -0.58273431 * a + 0.56802827 * b - 0.54067466 * c + X[:, CA]
    return torch.cat([X, virtual_CB[:, None]], 1)


def gaussians(distance: Tensor) -> Tensor:
    """A distance in Å as 16 Gaussians of centres 2 to 22 Å: (...) -> (..., 16)."""
    centres = torch.linspace(2.0, 22.0, 16, dtype=distance.dtype)
    return torch.exp(-(((distance[..., None] - centres) / 1.25) ** 2))


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
        atoms = with_virtual_CB(X)  # (L, 5, 3)

        def distance(first: int, second: int) -> Tensor:
            delta = atoms[:, None, first] - atoms[None, :, second]
            return torch.sqrt((delta**2).sum(-1) + 1e-6)  # (L, L)

        E_idx = distance(CA, CA).topk(min(self.neighbours, L), largest=False).indices  # (L, K)
        rbf = [gaussians(distance(*pair).gather(1, E_idx)) for pair in ATOM_PAIRS]
        # 25 x (L, K, 16)
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
        h_V, h_E, E_idx = self.encode(X, residue_index, chain, start)
        return self.decode(h_V, h_E, E_idx, S, decoding_order)

    def encode(
        self, X: Tensor, residue_index: Tensor, chain: Tensor, start: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The encoder's states h_V (L, H) and h_E (L, K, H), and the neighbours E_idx (L, K)."""
        E, E_idx = self.features(X, residue_index, chain)
        h_E = self.W_e(E)  # (L, K, H)
        h_V = torch.zeros_like(h_E[:, 0]) if start is None else start  # (L, H)
        for encoder in self.encoder_layers:
            h_V, h_E = encoder(h_V, h_E, E_idx)
        return h_V, h_E, E_idx

    def decode(
        self, h_V: Tensor, h_E: Tensor, E_idx: Tensor, S: Tensor, decoding_order: Tensor
    ) -> Tensor:
        """Log-probabilities (L, 21) from what `encode` gives."""
        rank = torch.argsort(decoding_order)  # (L,)
        decoded = (rank[E_idx] < rank[:, None])[..., None]  # (L, K, 1): j comes before i
        h_S_j = self.W_s(S)[E_idx]  # (L, K, H)
        unseen = torch.cat([h_E, torch.zeros_like(h_S_j), h_V[E_idx]], -1)  # (L, K, 3H)
        for decoder in self.decoder_layers:
            seen = torch.cat([h_E, h_S_j, h_V[E_idx]], -1)  # (L, K, 3H)
            h_V = decoder(h_V, torch.where(decoded, seen, unseen))
        return F.log_softmax(self.W_out(h_V), -1)


class LigandFeatures(ProteinFeatures):
    """LigandMPNN's: those of the protein, and those of the atoms around each residue."""

    def __init__(self, hidden: int, neighbours: int) -> None:
        super().__init__(hidden, neighbours)
        self.type_linear = nn.Linear(sum(ELEMENT_CLASSES), 64)
        self.node_project_down = nn.Linear(5 * 16 + 64 + 4, hidden)
        self.norm_nodes = nn.LayerNorm(hidden)
        self.y_nodes = nn.Linear(sum(ELEMENT_CLASSES), hidden, bias=False)
        self.y_edges = nn.Linear(16, hidden, bias=False)
        self.norm_y_nodes, self.norm_y_edges = nn.LayerNorm(hidden), nn.LayerNorm(hidden)

    def around(self, X: Tensor, Y: Tensor, elements: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of M atoms around each residue.

        X (L, 4, 3), Y (L, M, 3), elements (L, M): each atom as its residue sees it (L, M, H), the
        atoms (L, M, H), and their pairs (L, M, M, H).
        """
        atoms = with_virtual_CB(X)  # (L, 5, 3)
        to_residue = [gaussians(distances(Y, atoms[:, None, a])) for a in (N, CA, C, O, CB)]
        kind = one_hot_elements(elements).to(X.dtype)  # (L, M, 147)
        V = self.node_project_down(
            torch.cat([*to_residue, self.type_linear(kind), directions(X, Y)], -1)
        )
        pairs = gaussians(distances(Y[:, :, None], Y[:, None]))  # (L, M, M, 16)
        return (
            self.norm_nodes(V),
            self.norm_y_nodes(self.y_nodes(kind)),
            self.norm_y_edges(self.y_edges(pairs)),
        )


def distances(A: Tensor, B: Tensor) -> Tensor:
    return torch.sqrt(((A - B) ** 2).sum(-1) + 1e-6)


def group_and_period(element: int) -> tuple[int, int]:
    """Of the periodic table, where the rare earths are all of group 3; (0, 0) for element 0."""
    period = bisect_left(NOBLE_GASES, element)
    if element in NOBLE_GASES:
        return (18 if element else 0), period
    from_start = element - NOBLE_GASES[period - 1]
    if from_start <= 2:
        return from_start, period
    return max(3, 18 - (NOBLE_GASES[period] - element)), period


def one_hot_elements(elements: Tensor) -> Tensor:
    """Atomic number, group and period: (...) int64 -> (..., 147) int64."""
    table = torch.tensor([group_and_period(z) for z in range(NOBLE_GASES[-1] + 1)])  # (119, 2)
    group, period = table[elements].unbind(-1)
    kinds = zip((elements, group, period), ELEMENT_CLASSES, strict=True)
    return torch.cat([F.one_hot(kind, classes) for kind, classes in kinds], -1)


def directions(X: Tensor, Y: Tensor) -> Tensor:
    """Where atoms are in the frame N - CA - C of their residue: (L, 4, 3), (L, M, 3) -> (L, M, 4).

    The cosine and sine of the azimuth, then the sine and cosine of the polar angle.
    """
    e1 = F.normalize(X[:, N] - X[:, CA], dim=-1)  # (L, 3)
    towards_C = X[:, C] - X[:, CA]
    e2 = F.normalize(towards_C - e1 * (e1 * towards_C).sum(-1, keepdim=True), dim=-1)
    frame = torch.stack([e1, e2, torch.linalg.cross(e1, e2)], -1)  # (L, 3, 3), axes in columns
    x, y, z = ((Y - X[:, CA, None]) @ frame).unbind(-1)  # (L, M) each
    planar = torch.sqrt(x**2 + y**2 + 1e-8)
    distance = torch.sqrt(x**2 + y**2 + z**2) + 1e-8
    return torch.stack([x / planar, y / planar, planar / distance, z / distance], -1)


class ContextLayer(nn.Module):
    """Messages to h_i from what surrounds it, of `inputs` times the hidden width each."""

    def __init__(self, hidden: int, inputs: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.W1 = nn.Linear((1 + inputs) * hidden, hidden)
        self.W2 = nn.Linear(hidden, hidden)
        self.W3 = nn.Linear(hidden, hidden)
        self.dense = PositionWiseFeedForward(hidden)

    def forward(self, h: Tensor, around: Tensor, valid: Tensor) -> Tensor:
        """(..., H), (..., M, inputs * H), (..., M) bool -> (..., H)."""
        h_i = h[..., None, :].expand(*around.shape[:-1], -1)
        message = self.W3(F.gelu(self.W2(F.gelu(self.W1(torch.cat([h_i, around], -1))))))
        h = self.norm1(h + (message * valid[..., None]).sum(-2) / MESSAGE_SCALE)
        return self.norm2(h + self.dense(h))


class ReferenceLigandMPNN(ReferenceMPNN):
    """LigandMPNN: the atoms around each residue change its state between encoder and decoder.

    Parameters
    ----------
    hidden, encoder_layers, decoder_layers, neighbours
        As `ReferenceMPNN`'s; the published models have k = 32.
    context_atoms : the most atoms that a residue sees
    """

    def __init__(
        self,
        hidden: int = 128,
        encoder_layers: int = 3,
        decoder_layers: int = 3,
        neighbours: int = 32,
        context_atoms: int = CONTEXT_ATOMS,
    ) -> None:
        super().__init__(hidden, encoder_layers, decoder_layers, neighbours)
        self.context_atoms = context_atoms
        self.features: LigandFeatures = LigandFeatures(hidden, neighbours)
        self.W_v, self.W_c = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.W_nodes_y, self.W_edges_y = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.V_C = nn.Linear(hidden, hidden, bias=False)
        self.V_C_norm = nn.LayerNorm(hidden)
        self.context_encoder_layers = nn.ModuleList(ContextLayer(hidden, 2) for _ in range(2))
        self.y_context_encoder_layers = nn.ModuleList(ContextLayer(hidden, 1) for _ in range(2))

    def in_context(
        self,
        X: Tensor,
        residue_index: Tensor,
        chain: Tensor,
        Y: Tensor,
        elements: Tensor,
        side_chains: Tensor | None = None,
        fixed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What decoding starts from, as `encode` gives it.

        Parameters
        ----------
        X, residue_index, chain : as `forward`'s
        Y : (A, 3) float, Å: the atoms that are neither protein nor water; A may be 0
        elements : (A,) int64, their atomic numbers
        side_chains : (L, 32, 3) float, Å: the atoms beyond CB, NaN where there is none; None is a
            network that does not see them
        fixed : (L,) bool, the residues whose side chains are seen
        """
        h_V, h_E, E_idx = self.encode(X, residue_index, chain)
        Y, elements, valid = self.nearest(X, E_idx, Y, elements, side_chains, fixed)
        V, y_nodes, y_edges = self.features.around(X, Y, elements)
        h_E_context, y, e = self.W_v(V), self.W_nodes_y(y_nodes), self.W_edges_y(y_edges)
        h_C = self.W_c(h_V)  # (L, H)
        both = valid[:, :, None] & valid[:, None]  # (L, M, M)
        for of_atoms, of_residues in zip(
            self.y_context_encoder_layers, self.context_encoder_layers, strict=True
        ):
            y = of_atoms(y, e, both)  # (L, M, H)
            h_C = of_residues(h_C, torch.cat([h_E_context, y], -1), valid)
        return h_V + self.V_C_norm(self.V_C(h_C)), h_E, E_idx

    def nearest(
        self,
        X: Tensor,
        E_idx: Tensor,
        Y: Tensor,
        elements: Tensor,
        side_chains: Tensor | None = None,
        fixed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The atoms that each residue sees, the nearest to its virtual CB.

        Their coordinates (L, M, 3), atomic numbers (L, M), and which of these slots are filled
        (L, M); M is at least 1, so that there is something to compute where there is no atom.
        """
        L, A = len(X), len(Y)
        candidates, kinds = Y.expand(L, A, 3), elements.expand(L, A)
        present = torch.ones(L, A, dtype=torch.bool)
        reach = float("inf")
        if side_chains is not None and fixed is not None:
            of = E_idx[:, :SIDE_CHAIN_NEIGHBOURS]  # (L, 16)
            seen = torch.isfinite(side_chains).all(-1) & fixed[:, None]  # (L, 32)
            candidates = torch.cat([side_chains.nan_to_num()[of].flatten(1, 2), candidates], 1)
            of_side_chains = torch.tensor(SIDE_CHAIN_ELEMENTS).expand(L, of.shape[1], -1)
            kinds = torch.cat([of_side_chains.flatten(1, 2), kinds], 1)
            present = torch.cat([seen[of].flatten(1, 2), present], 1)
            reach = SIDE_CHAIN_REACH
        squared = ((candidates - with_virtual_CB(X)[:, CB, None]) ** 2).sum(-1)
        present &= squared < reach**2
        squared = squared.masked_fill(~present, float("inf"))
        spare = max(0, 1 - squared.shape[1])
        squared = F.pad(squared, (0, spare), value=float("inf"))
        closest = squared.topk(min(self.context_atoms, squared.shape[1]), largest=False).indices
        at = closest[..., None].expand(-1, -1, 3)
        return (
            F.pad(candidates, (0, 0, 0, spare)).gather(1, at),
            F.pad(kinds, (0, spare)).gather(1, closest),
            F.pad(present, (0, spare)).gather(1, closest),
        )

    def forward(  # type: ignore[override]
        self,
        X: Tensor,
        S: Tensor,
        residue_index: Tensor,
        chain: Tensor,
        decoding_order: Tensor,
        Y: Tensor,
        elements: Tensor,
        side_chains: Tensor | None = None,
        fixed: Tensor | None = None,
    ) -> Tensor:
        """Teacher-forced log-probabilities (L, 21) of one structure among atoms; see `in_context`
        and `ReferenceMPNN.forward`."""
        state = self.in_context(X, residue_index, chain, Y, elements, side_chains, fixed)
        return self.decode(*state, S, decoding_order)
