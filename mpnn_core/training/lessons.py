"""Training examples: structures divided, cropped and bent, and the teacher's predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mpnn_core.constants import CA, UNKNOWN
from mpnn_core.network.graph import Backbones, Graph, nearest_of_present
from mpnn_core.training.corpus import Corpus
from mpnn_core.training.recipes import Lessons


@dataclass(frozen=True, eq=False)
class ResidentCorpus:
    """A corpus on the device, one row per residue, and one spare row that fills up minibatches.

    Attributes
    ----------
    coords : (R + 1, 4, 3) float32, Å, about the centre of each structure
    tokens : (R + 1,) int64, the native sequence
    drawn : (R + 1,) int64, the residue that the teacher drew last; the native one at first
    residue_index, chain, structure : (R + 1,) int64
    place : (R + 1,) float32, the place of a residue along its structure, between 0 and 1
    spread : (R + 1,) float32, Å, standard deviation of the CA of its structure along an axis
    starts, sizes : (S,) first row and number of residues of every structure, on the host
    clusters : the structures of each cluster; all clusters are equally likely
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
        """Number of structures, counting the spare row as one."""
        return len(self.sizes) + 1

    def plan(self, seed: int, block: int, steps: int, nodes: int) -> NDArray[np.int32]:
        """The rows of every step of a block: (steps, nodes), filled up with the spare row.

        Clusters come in random order, and again only after all of them have come; a random chain
        of each is taken.
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
        """Structures without end, one of each cluster in turn."""
        while True:
            for c in random.permutation(len(self.clusters)):
                members = self.clusters[c]
                yield int(members[random.integers(len(members))])


def _mean_by(group: Tensor, values: Tensor, count: Tensor) -> Tensor:
    """Mean of `values` (R, n) over the rows of each group: (groups, n)."""
    sums = values.new_zeros(len(count), values.shape[1]).index_add_(0, group, values)
    return sums / count[:, None]


@dataclass(frozen=True, eq=False)
class Minibatch:
    """The input of one step: whole structures of a corpus in a fixed number of nodes.

    Attributes
    ----------
    backbones : N nodes
    structure : (N,) int64, rows of one structure share a number
    native : (N,) int64
    present : (N,) bool, False for nodes that fill up, and for residues that were cropped
    rows : (N,) int64, the row of each node in the corpus
    """

    backbones: Backbones
    structure: Tensor
    native: Tensor
    present: Tensor
    rows: Tensor

    @classmethod
    def of(cls, corpus: ResidentCorpus, rows: Tensor) -> Minibatch:
        """The minibatch of `rows` (N,) int64, on the device: whole structures, then spare rows."""
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
        """The k nearest neighbours among the nodes that are present, in a fixed shape (N, k)."""
        ca = self.backbones.coords[:, CA]
        return nearest_of_present(ca, self.structure, self.present, k)

    def varied(self, lessons: Lessons, corpus: ResidentCorpus) -> Minibatch:
        """The same with noise on every backbone, all of them bent, some divided, some cropped."""
        device = self.rows.device
        uniform = torch.rand(corpus.structures, 7, dtype=torch.float32, device=device)[
            self.structure
        ]  # (N, 7)
        noise, divided, crop, first, second, three, depth = uniform.unbind(1)
        backbones = self.backbones
        scale = (lessons.noise * noise)[:, None, None]
        coords = backbones.coords + scale * torch.randn_like(backbones.coords)
        if lessons.deform:
            coords = coords + _waves(coords, self.structure, corpus.structures, lessons.deform)

        place = corpus.place[self.rows]
        piece = (place > first).long() + ((place > second) & (three < 0.5)).long()  # 0, 1 or 2
        chain = 3 * backbones.chain + torch.where(divided < lessons.divide, piece, 0)

        # A plane across a random axis, from the centre to twice the spread: half to all is kept.
        axis = F.normalize(
            torch.randn(corpus.structures, 3, dtype=torch.float32, device=device), dim=1
        )[self.structure]
        height = (backbones.coords[:, CA] * axis).sum(1)  # (N,)
        kept = (height <= 2 * depth * corpus.spread[self.rows]) | (crop >= lessons.crop)
        return replace(
            self,
            backbones=replace(backbones, coords=coords, chain=chain),
            present=self.present & kept,
        )


def _waves(coords: Tensor, structure: Tensor, structures: int, strain: float) -> Tensor:
    """Smooth displacements of all atoms, (N, 4, 3) Å: one random field per structure.

    A field is the sum of four plane waves of 20 to 80 Å. It changes every distance by a few per
    cent, so bonds and angles stay nearly as they are, and atoms far from each other shift.
    """
    device = coords.device
    along, towards = F.normalize(
        torch.randn(2, structures, 4, 3, dtype=torch.float32, device=device), dim=-1
    )
    wavenumber = (
        2 * math.pi / (20 + 60 * torch.rand(structures, 4, 1, dtype=torch.float32, device=device))
    )  # per Å
    phase = 2 * math.pi * torch.rand(structures, 4, dtype=torch.float32, device=device)
    strains = strain * torch.rand(structures, 1, 1, dtype=torch.float32, device=device)
    amplitude = (
        strains * torch.randn(structures, 4, 1, dtype=torch.float32, device=device) / wavenumber
    )  # Å
    angle = torch.einsum("nax,nwx->naw", coords, (wavenumber * along)[structure])
    angle = angle + phase[structure, None]  # (N, 4 atoms, 4 waves)
    return torch.einsum("naw,nwx->nax", angle.sin(), (amplitude * towards)[structure])


@dataclass(frozen=True, eq=False)
class Lesson:
    """What the students learn from a minibatch: the context, and the teacher's predictions in it.

    Attributes
    ----------
    tokens : (N,) int64, the sequence that is decoded, which residues see of each other
    order : (N,) float32, smaller is decoded first
    native : (N,) bool, whether `tokens` is the native sequence throughout the structure
    log_probs : (N, 21) float32, of the teacher
    states : (layers, N, H) float32, of the teacher after every layer
    """

    tokens: Tensor
    order: Tensor
    native: Tensor
    log_probs: Tensor
    states: Tensor


def whole_structures(corpus: ResidentCorpus, nodes: int) -> Iterator[NDArray[np.int64]]:
    """The rows of all structures, in order, in arrays (nodes,) filled up with the spare row."""
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
