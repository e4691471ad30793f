"""Lessons: structures cropped, bent and batched, with what the teacher says of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mpnn_core.constants import ALPHABET, CA
from mpnn_core.network.graph import Backbones, Graph, nearest_of_present
from mpnn_core.training.corpus import Corpus
from mpnn_core.training.recipes import Lessons

UNKNOWN = ALPHABET.index("X")


@dataclass(frozen=True, eq=False)
class ResidentCorpus:
    """A corpus on the device, one row per residue; the last row is a spare one that fills batches.

    Attributes
    ----------
    coords : (R + 1, 4, 3) float32, Å, about the centre of each structure
    tokens : (R + 1,) int64, the native sequence
    drawn : (R + 1,) int64, what the teacher drew last; the native residue at first
    residue_index, chain, structure : (R + 1,) int64
    place : (R + 1,) float32, where along its structure a residue is, between 0 and 1
    spread : (R + 1,) float32, Å, standard deviation of a structure's CA along an axis
    starts, sizes : (S,) first row and residues of every structure, on the host
    clusters : arrays of structures; a cluster is as likely as another
    """

    coords: Tensor
    tokens: Tensor
    drawn: Tensor
    residue_index: Tensor
    chain: Tensor
    structure: Tensor
    place: Tensor
    spread: Tensor
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    clusters: list[NDArray[np.int64]]

    @classmethod
    def of(cls, corpus: Corpus, device: torch.device) -> ResidentCorpus:
        """The complete residues of `corpus` on the device."""
        structures = corpus.structures
        backbones = Backbones.from_structures(structures, device)
        offsets = np.array(backbones.offsets)
        sizes = np.diff(offsets)
        count = torch.from_numpy(sizes).to(device)
        structure = torch.arange(len(sizes), device=device).repeat_interleave(count)  # (R,)
        place = (torch.arange(len(structure), device=device) + 0.5).float()
        place = (place - torch.from_numpy(offsets[:-1]).to(device)[structure]) / count[structure]
        ca = backbones.coords[:, CA]
        centre = _mean_by(structure, ca, count)  # (S, 3)
        coords = backbones.coords - centre[structure, None]
        spread = _mean_by(structure, coords[:, CA].square(), count).mean(1).sqrt()  # (S,)
        tokens = torch.from_numpy(np.concatenate([s.tokens[s.mask] for s in structures]))

        def resident(values: Tensor, spare: float = 0) -> Tensor:
            return torch.cat([values, torch.full_like(values[:1], spare)])

        tokens = resident(tokens.to(device), UNKNOWN)
        return cls(
            resident(coords),
            tokens,
            tokens.clone(),
            resident(backbones.residue_index),
            resident(backbones.chain, int(backbones.chain.max()) + 1),
            resident(structure, len(sizes)),
            resident(place),
            resident(spread[structure]),
            offsets[:-1],
            sizes,
            [np.flatnonzero(corpus.cluster == c) for c in np.unique(corpus.cluster)],
        )

    @property
    def structures(self) -> int:
        """Structures, the spare row's own included."""
        return len(self.sizes) + 1

    def plan(self, seed: int, block: int, steps: int, nodes: int) -> NDArray[np.int32]:
        """Rows of every step of a block: (steps, nodes), filled up with the spare row.

        Clusters come in random order, each once before any comes again, with one chain each.
        """
        random = np.random.default_rng([seed, block])
        rows = np.full((steps, nodes), self.coords.shape[0] - 1, dtype=np.int32)
        chains = self._chains(random)
        waiting = next(chains)
        for row in rows:
            filled = 0
            while filled + self.sizes[waiting] <= nodes:
                size, start = self.sizes[waiting], self.starts[waiting]
                row[filled : filled + size] = np.arange(start, start + size)
                filled += size
                waiting = next(chains)
        return rows

    def _chains(self, random: np.random.Generator) -> Iterator[int]:
        while True:
            for c in random.permutation(len(self.clusters)):
                members = self.clusters[c]
                yield int(members[random.integers(len(members))])


def _mean_by(group: Tensor, values: Tensor, count: Tensor) -> Tensor:
    """Mean of `values` (R, n) over the rows of each group: (groups, n)."""
    sums = values.new_zeros(len(count), values.shape[1]).index_add_(0, group, values)
    return sums / count[:, None]


@dataclass(frozen=True, eq=False)
class Batch:
    """Whole structures of a corpus in a fixed number of nodes.

    Attributes
    ----------
    backbones : N nodes
    structure : (N,) int64, rows of one structure share a number
    native : (N,) int64
    present : (N,) bool, False on nodes that fill up or are left out of a lesson
    rows : (N,) int64, which residues of the corpus these are
    """

    backbones: Backbones
    structure: Tensor
    native: Tensor
    present: Tensor
    rows: Tensor

    @classmethod
    def of(cls, corpus: ResidentCorpus, rows: Tensor) -> Batch:
        """`rows`: (N,) int64 on the device, structures whole and one after the other."""
        return cls(
            Backbones(
                corpus.coords[rows], corpus.residue_index[rows], corpus.chain[rows], (0, len(rows))
            ),
            corpus.structure[rows],
            corpus.tokens[rows],
            rows < corpus.coords.shape[0] - 1,
            rows,
        )

    def graph(self, k: int) -> Graph:
        """The k nearest of those present, in a fixed shape: (N, k)."""
        ca = self.backbones.coords[:, CA]
        return nearest_of_present(ca, self.structure, self.present, k)

    def varied(self, lessons: Lessons, corpus: ResidentCorpus) -> Batch:
        """Every backbone noisy and bent; some structures divided into chains, some cropped."""
        device = self.rows.device
        luck = torch.rand(corpus.structures, 7, device=device)[self.structure]  # (N, 7)
        noise, divided, crop, first, second, three, depth = luck.unbind(1)
        backbones = self.backbones
        scale = (lessons.noise * noise)[:, None, None]
        coords = backbones.coords + scale * torch.randn_like(backbones.coords)
        if lessons.deform:
            coords = coords + _waves(coords, self.structure, corpus.structures, lessons.deform)

        place = corpus.place[self.rows]
        piece = (place > first).long() + ((place > second) & (three < 0.5)).long()  # 0, 1 or 2
        chain = 3 * backbones.chain + torch.where(divided < lessons.divide, piece, 0)

        # A plane across a random axis, from the centre to twice the spread: half to all is kept.
        axis = F.normalize(torch.randn(corpus.structures, 3, device=device), dim=1)[self.structure]
        height = (backbones.coords[:, CA] * axis).sum(1)  # (N,)
        kept = (height <= 2 * depth * corpus.spread[self.rows]) | (crop >= lessons.crop)
        return replace(
            self,
            backbones=replace(backbones, coords=coords, chain=chain),
            present=self.present & kept,
        )


def _waves(coords: Tensor, structure: Tensor, structures: int, strain: float) -> Tensor:
    """Smooth displacements of all atoms (N, 4, 3), Å, of one field per structure.

    A field is four plane waves of 20 to 80 Å. What it does to a distance inside a structure is a
    strain, so bonds and angles keep within a few per cent what they are, and far atoms shift.
    """
    device = coords.device
    along, towards = F.normalize(torch.randn(2, structures, 4, 3, device=device), dim=-1)
    wavenumber = 2 * math.pi / (20 + 60 * torch.rand(structures, 4, 1, device=device))  # per Å
    phase = 2 * math.pi * torch.rand(structures, 4, device=device)
    strains = strain * torch.rand(structures, 1, 1, device=device)
    amplitude = strains * torch.randn(structures, 4, 1, device=device) / wavenumber  # Å
    angle = torch.einsum("nax,nwx->naw", coords, (wavenumber * along)[structure])
    angle = angle + phase[structure, None]  # (N, 4 atoms, 4 waves)
    return torch.einsum("naw,nwx->nax", angle.sin(), (amplitude * towards)[structure])


@dataclass(frozen=True, eq=False)
class Lesson:
    """What the teacher says of a batch.

    Attributes
    ----------
    tokens : (N,) int64, the sequence that neighbours are seen with
    order : (N,) float32, smaller is decoded first
    native : (N,) bool, the context of this residue's chain is the native sequence
    log_probs : (N, 21) float32
    states : (layers, N, H) float32, after every layer
    """

    tokens: Tensor
    order: Tensor
    native: Tensor
    log_probs: Tensor
    states: Tensor


def _whole_structures(corpus: ResidentCorpus, nodes: int) -> Iterator[NDArray[np.int64]]:
    """All structures once, in order, in parts of `nodes` rows filled up with the spare row."""
    part: list[NDArray[np.int64]] = []
    filled = 0

    def full() -> NDArray[np.int64]:
        spare = np.full(nodes - filled, corpus.coords.shape[0] - 1)
        return np.concatenate([*part, spare])

    for start, size in zip(corpus.starts, corpus.sizes, strict=True):
        if filled + size > nodes:
            yield full()
            part, filled = [], 0
        part.append(np.arange(start, start + size))
        filled += size
    if part:
        yield full()
