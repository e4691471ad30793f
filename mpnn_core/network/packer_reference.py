"""LigandMPNN's side-chain packer as it was published: plain, slow. The oracle of `Packer`.

Source: Dauparas et al., Nature Methods (2025), and the authors' `sc_utils.py` (MIT), whose
behaviour it follows. Parameter names are those of the published checkpoint. One structure at a
time, every residue complete. What the engine runs is `packer.py`, and a test ties the two together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpnn_core.network.reference import (
    CA,
    ELEMENT_CLASSES,
    ContextLayer,
    DecoderLayer,
    EncoderLayer,
    PositionalEncodings,
    directions,
    distances,
    one_hot_elements,
    with_virtual_CB,
)

ATOMS = 14
LETTERS = 21


def gaussians(distance: Tensor) -> Tensor:
    """A distance in Å as 16 Gaussians of centres 0 to 20 Å: (...) -> (..., 16)."""
    centres = torch.linspace(0.0, 20.0, 16, dtype=distance.dtype)
    return torch.exp(-(((distance[..., None] - centres) / 1.25) ** 2))


class PackerFeatures(nn.Module):
    def __init__(self, hidden: int, neighbours: int, context_atoms: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        kinds = sum(ELEMENT_CLASSES)
        self.positional_embeddings = PositionalEncodings()
        self.enc_edge_embedding = nn.Linear(16 + 16 * 25, hidden, bias=False)
        self.enc_norm_edges = nn.LayerNorm(hidden)
        self.enc_node_embedding = nn.Linear(LETTERS, hidden, bias=False)
        self.enc_norm_nodes = nn.LayerNorm(hidden)
        self.W_XY_project_down1 = nn.Linear(16 + ELEMENT_CLASSES[0], 16)
        self.dec_edge_embedding1 = nn.Linear(16 * ATOMS * ATOMS + 2 * LETTERS, hidden, bias=False)
        self.dec_norm_edges1 = nn.LayerNorm(hidden)
        self.dec_node_embedding1 = nn.Linear(16 * ATOMS * context_atoms, hidden, bias=False)
        self.dec_norm_nodes1 = nn.LayerNorm(hidden)
        self.node_project_down = nn.Linear(5 * 16 + 64 + 4, hidden)
        self.norm_nodes = nn.LayerNorm(hidden)
        self.type_linear = nn.Linear(kinds, 64)
        self.y_nodes = nn.Linear(kinds, hidden, bias=False)
        self.y_edges = nn.Linear(16, hidden, bias=False)
        self.norm_y_edges, self.norm_y_nodes = nn.LayerNorm(hidden), nn.LayerNorm(hidden)

    def of_backbone(
        self, X: Tensor, S: Tensor, residue_index: Tensor, chain: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes (L, H), edges (L, K, H) and neighbours (L, K) of a backbone X (L, 4, 3)."""
        atoms = with_virtual_CB(X)  # (L, 5, 3)
        D_CA = distances(atoms[:, None, CA], atoms[None, :, CA])  # (L, L)
        E_idx = D_CA.topk(min(self.neighbours, len(X)), largest=False).indices  # (L, K)
        rbf = [
            gaussians(distances(atoms[:, None, a], atoms[E_idx][:, :, b]))
            for a in range(5)
            for b in range(5)
        ]  # 25 x (L, K, 16)
        offset = residue_index[:, None] - residue_index[E_idx]
        positional = self.positional_embeddings(offset, chain[:, None] == chain[E_idx])
        E = self.enc_norm_edges(self.enc_edge_embedding(torch.cat([positional, *rbf], -1)))
        one_hot = F.one_hot(S, LETTERS).to(X.dtype)
        return self.enc_norm_nodes(self.enc_node_embedding(one_hot)), E, E_idx

    def around(self, X: Tensor, Y: Tensor, elements: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `LigandFeatures.around`, with other centres."""
        atoms = with_virtual_CB(X)
        to_residue = [gaussians(distances(Y, atoms[:, None, a])) for a in range(5)]
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

    def of_atoms(
        self, X: Tensor, there: Tensor, S: Tensor, E_idx: Tensor, Y: Tensor, elements: Tensor,
        filled: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Nodes (L, H) and edges (L, K, H) of all atoms X (L, 14, 3), which are `there` (L, 14)."""
        L, M = elements.shape
        # Row by row, so that nothing of (L, K, 14, 14, 16) is there at once.
        edges = []
        one_hot = F.one_hot(S, LETTERS).to(X.dtype)
        for i in range(L):
            pairs = gaussians(distances(X[i, None, :, None], X[E_idx[i]][:, None]))
            both = there[i, None, :, None] & there[E_idx[i]][:, None]  # (K, 14, 14)
            letters = torch.cat([one_hot[i].expand(len(E_idx[i]), -1), one_hot[E_idx[i]]], -1)
            edges.append(torch.cat([(pairs * both[..., None]).flatten(1), letters], -1))
        E = self.dec_norm_edges1(self.dec_edge_embedding1(torch.stack(edges)))  # (L, K, H)
        near = gaussians(distances(X[:, :, None], Y[:, None]))  # (L, 14, M, 16)
        near = near * (there[:, :, None] & filled[:, None])[..., None]
        kind = F.one_hot(elements, ELEMENT_CLASSES[0]).to(X.dtype)[:, None].expand(L, ATOMS, M, -1)
        down = self.W_XY_project_down1(torch.cat([near, kind], -1))  # (L, 14, M, 16)
        return self.dec_norm_nodes1(self.dec_node_embedding1(down.flatten(1))), E


class ReferencePacker(nn.Module):
    """The packer of the paper.

    Parameters
    ----------
    hidden, encoder_layers, decoder_layers, neighbours, context_atoms
        The published one is 128, 3, 3, 32, 16.
    """

    def __init__(
        self,
        hidden: int = 128,
        encoder_layers: int = 3,
        decoder_layers: int = 3,
        neighbours: int = 32,
        context_atoms: int = 16,
    ) -> None:
        super().__init__()
        self.features = PackerFeatures(hidden, neighbours, context_atoms)
        self.W_e, self.W_v, self.W_f = (nn.Linear(hidden, hidden) for _ in range(3))
        self.W_v_sc = nn.Linear(hidden, hidden)
        self.linear_down = nn.Linear(2 * hidden, hidden)
        self.W_torsions = nn.Linear(hidden, 4 * 3 * 3)
        self.encoder_layers = nn.ModuleList(EncoderLayer(hidden) for _ in range(encoder_layers))
        self.decoder_layers = nn.ModuleList(DecoderLayer(hidden) for _ in range(decoder_layers))
        self.W_c, self.W_e_context = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.W_nodes_y, self.W_edges_y = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.V_C, self.V_C_norm = nn.Linear(hidden, hidden, bias=False), nn.LayerNorm(hidden)
        self.context_encoder_layers = nn.ModuleList(ContextLayer(hidden, 2) for _ in range(2))
        self.y_context_encoder_layers = nn.ModuleList(ContextLayer(hidden, 1) for _ in range(2))

    def forward(
        self,
        X: Tensor,
        there: Tensor,
        S: Tensor,
        residue_index: Tensor,
        chain: Tensor,
        Y: Tensor,
        elements: Tensor,
        filled: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The mixtures of the chi angles.

        Parameters
        ----------
        X : (L, 14, 3) float, Å, in the order of atom14, zeros where there is no atom
        there : (L, 14) bool
        S : (L,) int64, 0 to 19
        residue_index, chain : (L,) int64
        Y, elements, filled : (L, M, 3) Å, (L, M) int64, (L, M) bool: the atoms around each residue,
            nearest to its virtual CB first, element 0 where there is none

        Returns
        -------
        Means in radians, concentrations, and logits of three components: (L, 4, 3) each.
        """
        V, E, E_idx = self.features.of_backbone(X[:, :4], S, residue_index, chain)
        h_V, h_E = self.W_v(V), self.W_e(E)
        for layer in self.encoder_layers:
            h_V, h_E = layer(h_V, h_E, E_idx)
        seen, y_nodes, y_edges = self.features.around(X[:, :4], Y, elements)
        h_E_context, y, e = self.W_e_context(seen), self.W_nodes_y(y_nodes), self.W_edges_y(y_edges)
        h_C = self.W_c(h_V)
        both = filled[:, :, None] & filled[:, None]
        for of_atoms, of_residues in zip(
            self.y_context_encoder_layers, self.context_encoder_layers, strict=True
        ):
            y = of_atoms(y, e, both)
            h_C = of_residues(h_C, torch.cat([h_E_context, y], -1), filled)
        h_V = h_V + self.V_C_norm(self.V_C(h_C))
        # Here a step begins.
        V, E = self.features.of_atoms(X, there, S, E_idx, Y, elements, filled)
        h_EF = torch.cat([h_E, self.W_f(E)], -1)
        h_V = self.linear_down(torch.cat([h_V, self.W_v_sc(V)], -1))
        for layer in self.decoder_layers:
            h_V = layer(h_V, torch.cat([h_EF, h_V[E_idx]], -1))
        mean, concentration, logits = self.W_torsions(h_V).view(len(X), 4, 3, 3).unbind(-1)
        return mean, 0.1 + F.softplus(concentration), logits
