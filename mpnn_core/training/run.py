"""Small students of the pretrained network: recipes, lessons, the training run.

A student learns the teacher's distribution over the 21 letters at every residue of real backbones
(Hinton et al., 2015, arXiv:1503.02531): the Kullback-Leibler divergence to the teacher, and a share
of cross-entropy to the native residue. No lesson comes twice: each has fresh backbone noise, a
random decoding order, a context that is the native sequence or a mixture of it with what the
teacher itself drew there last, and a structure that is bent a little and may be cut into several
chains or lack what lies beyond a plane. Teacher and student see the same.

The corpus lives on the device as one disjoint graph. A step takes whole structures up to a fixed
number of residues, so shapes never change: on a GPU the networks are compiled and a step, from
gathering residues to averaging weights, is one CUDA graph. Students of one run share the teacher's
work.

A run is a folder. It is cut wherever it is convenient: what was saved resumes, and resumed equals
uninterrupted.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from operator import methodcaller
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn
from torch.nn import functional as F

from mpnn_core.constants import ALPHABET, CA
from mpnn_core.network.architectures import build_network, random_network
from mpnn_core.network.checkpoints import Checkpoint, file_sha256, load_checkpoint, weights_file
from mpnn_core.network.families import CheckpointError
from mpnn_core.network.graph import Backbones, Graph, nearest_of_present
from mpnn_core.network.mpnn import MPNN
from mpnn_core.network.variants import find_variant
from mpnn_core.structures.files import write_atomically
from mpnn_core.training.corpus import Corpus

UNKNOWN = ALPHABET.index("X")
GRADIENT_NORM = 1.0
SAVE_SECONDS = 120.0


class DistillError(ValueError):
    """A run that cannot start or go on: what was expected, and what to do."""


@dataclass(frozen=True)
class Lessons:
    """What the teacher shows, the same for all students of a run.

    Attributes
    ----------
    teacher : published checkpoint, or path
    steps : length of the run; learning rates fall to 0 at its end
    nodes : residues per step, whole structures
    noise : backbone noise, Å; a structure's standard deviation is uniform between 0 and this
    native : share of structures whose context is the native sequence
    divide : share of structures that are divided into two or three chains at random residues
    crop : share of structures of which only what lies on one side of a random plane is kept
    deform : strain of the smooth waves that bend a structure, a ratio; its standard deviation is
        uniform between 0 and this
    seed : of noise, orders, contexts and the order of structures
    """

    teacher: str = "v_48_020"
    steps: int = 60_000
    nodes: int = 4096
    noise: float = 0.2
    native: float = 0.5
    divide: float = 0.4
    crop: float = 0.4
    deform: float = 0.06
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """How one student learns.

    Attributes
    ----------
    start : "teacher" takes the teacher's first and last layers, cut to the student's width;
        "random" is what the original starts from; or a checkpoint of the student's shape, by path
    learning_rate, warmup, fall : reached after `warmup` steps, held, then linear to 0 over the
        last share `fall` of the steps
    orthogonal : matrices between hidden states learn by orthogonalised momentum (Muon), by AdamW
        like everything else if not
    weight_decay : of AdamW and of Muon
    native_weight : weight of the cross-entropy to the native residue
    match : weight of the distance of the nodes' states to the teacher's after every layer, for
        students of its depths and width
    average : decay of the moving average of weights, which is what ships
    """

    start: str = "teacher"
    learning_rate: float = 1e-2
    warmup: int = 500
    fall: float = 0.5
    orthogonal: bool = True
    weight_decay: float = 0.01
    native_weight: float = 0.2
    match: float = 0.0
    average: float = 0.999


Settings = TypeVar("Settings", Lessons, Recipe)

RECIPES: dict[str, Recipe] = {
    "fast": Recipe(learning_rate=5e-4, match=0.3),
    "lean": Recipe(learning_rate=2e-3),
    "minimal": Recipe(learning_rate=1e-2),
    "minimal-fast": Recipe(learning_rate=1e-2),
    "extreme-v2": Recipe(learning_rate=1e-2),
}


def recipe_for(student: str) -> Recipe:
    """The recipe of a student by its variant's name; DistillError lists those there are."""
    if student not in RECIPES:
        raise DistillError(f"no student is called {student!r}; there are {', '.join(RECIPES)}")
    return RECIPES[student]


def with_values(settings: Settings, values: Mapping[str, str]) -> Settings:
    """`settings` with those of `values` that it has, read from text.

    Raises
    ------
    DistillError
        A text that is no value of its setting.
    """
    changed: dict[str, Any] = {}
    for name, default in asdict(settings).items():
        if name in values:
            kind = type(default)
            try:
                changed[name] = (
                    json.loads(values[name].lower()) if kind is bool else kind(values[name])
                )
            except ValueError:
                raise DistillError(
                    f"{name} is {values[name]!r}; expected a {kind.__name__}, such as {default}"
                ) from None
    return replace(settings, **changed)


# ----------------------------------------------------------------------------- lessons


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


def forward(
    network: MPNN,
    coords: Tensor,
    residue_index: Tensor,
    chain: Tensor,
    neighbours: Tensor,
    valid: Tensor,
    tokens: Tensor,
    order: Tensor,
) -> tuple[Tensor, Tensor]:
    """Logits (N, 21) and the states after every layer (layers, N, H), float32.

    `order` (N,): smaller is decoded first.
    """
    graph = Graph(neighbours[:, : network.neighbours], valid[:, : network.neighbours])
    states: list[Tensor] = []
    with torch.autocast(coords.device.type, torch.bfloat16, enabled=coords.is_cuda):
        encoding = network.encode(Backbones(coords, residue_index, chain, ()), graph, states)
        logits = network.decode(encoding, None, tokens, order, states)
    return logits.float(), torch.stack(states).float()


def apart(states: Tensor, taught: Tensor, present: Tensor) -> Tensor:
    """How far states are from the teacher's: 0 is there, 1 as far as its mean is; a scalar.

    Squared distance over variance in each layer, mean over layers; `states`, `taught`
    (layers, N, H), of the nodes `present` (N,).
    """
    counted = present[:, None].float()
    mean = (taught * counted).sum((1, 2), keepdim=True) / (counted.sum() * taught.shape[-1])
    variance = ((taught - mean).square() * counted).sum((1, 2))  # (layers,), times the count
    return (((states - taught).square() * counted).sum((1, 2)) / variance).mean()


# ----------------------------------------------------------------------------- students


class Student:
    """A network that learns: its weights in one vector, their moments and their average.

    All parameters are views of `weights`, all gradients of `gradient`: optimiser, average and
    checkpoint deal with one tensor whatever the network.
    """

    def __init__(self, name: str, recipe: Recipe, teacher: MPNN, device: torch.device) -> None:
        variant, original = find_variant(name), find_variant("baseline")
        shape = (variant.hidden, variant.encoder_layers, variant.decoder_layers)
        taught = (original.hidden, original.encoder_layers, original.decoder_layers)
        if recipe.match and shape != taught:
            raise DistillError(
                f"{name}: match is {recipe.match}, and its width and layers are {shape}; states "
                f"are matched where they are the teacher's, {taught}. Use match=0"
            )
        self.name, self.recipe = name, recipe
        self.before: dict[str, Any] | None = None
        self.network = random_network(variant, seed=0)
        if recipe.start == "teacher":
            self.network.load_state_dict(cut(teacher.state_dict(), self.network.state_dict()))
        elif recipe.start != "random":
            try:
                start = build_network(load_checkpoint(recipe.start), variant)
            except CheckpointError as error:
                raise DistillError(
                    f"{name}: start is {recipe.start!r}; expected 'teacher', 'random' or a "
                    f"checkpoint of its shape: {error}"
                ) from error
            self.network.load_state_dict(start.state_dict())
            self.before = _record_beside(weights_file(recipe.start))
        self.network.to(device).train()
        hidden = self.network.W_e.weight.shape[0]
        named = list(self.network.named_parameters())
        # Square blocks first: Muon's and AdamW's shares are two contiguous parts of the vector.
        square = {n for n, p in named if recipe.orthogonal and _blocks(n, p.shape, hidden)}
        self.parameters = sorted(named, key=lambda item: item[0] not in square)
        sizes = [p.numel() for _, p in self.parameters]
        split = sum(p.numel() for n, p in named if n in square)
        self.matrices = [tuple(p.shape) for n, p in self.parameters if n in square]
        self.hidden = hidden
        self.weights = torch.cat([p.detach().flatten() for _, p in self.parameters])
        self.gradient = torch.zeros_like(self.weights)
        self.averaged = self.weights.clone()
        for (_, p), w, g in zip(
            self.parameters, self.weights.split(sizes), self.gradient.split(sizes), strict=True
        ):
            p.data, p.grad = w.view_as(p), g.view_as(p)
            p.requires_grad_(True)
        self.momentum = torch.zeros_like(self.weights[:split])
        self.rest = nn.Parameter(self.weights[split:])
        self.rest.grad = self.gradient[split:]
        self.rate = torch.zeros((), device=device)
        self.adam = torch.optim.AdamW(
            [self.rest],
            lr=self.rate,
            betas=(0.9, 0.98),
            weight_decay=recipe.weight_decay,
            fused=True,
            capturable=device.type == "cuda",
        )

    def loss(
        self, batch: Batch, logits: Tensor, states: Tensor, lesson: Lesson
    ) -> tuple[Tensor, Tensor]:
        """What is minimised, and the divergence to the teacher alone, per residue."""
        log_probs = logits.log_softmax(-1)
        known = batch.present.sum()
        divergence = F.kl_div(log_probs, lesson.log_probs, reduction="none", log_target=True)
        kl = (divergence.sum(-1) * batch.present).sum() / known
        graded = batch.present & lesson.native & (batch.native != UNKNOWN)
        nll = -log_probs.gather(-1, batch.native[:, None])[:, 0]
        loss = kl + self.recipe.native_weight * (nll * graded).sum() / known
        if self.recipe.match:
            loss = loss + self.recipe.match * apart(states, lesson.states, batch.present)
        return loss, kl.detach()

    @torch.no_grad()
    def update(self, step: Tensor) -> None:
        """One step of the optimisers from `gradient` at `rate`; `step` counts from 0."""
        norm = self.gradient.norm()
        self.gradient *= (GRADIENT_NORM / (norm + 1e-6)).clamp(max=1.0)
        if self.matrices:
            split = len(self.momentum)
            gradient, weights = self.gradient[:split], self.weights[:split]
            self.momentum.lerp_(gradient, 0.05)
            ahead = gradient.lerp(self.momentum, 0.95)  # Nesterov
            weights.mul_(1 - self.rate * self.recipe.weight_decay)
            weights.sub_(self.rate * self._orthogonal(ahead))
        self.adam.step()
        # Young averages forget faster, so that the start does not weigh on them.
        decay = ((1 + step) / (10 + step)).clamp(max=self.recipe.average)
        self.averaged.lerp_(self.weights, 1 - decay)
        self.gradient.zero_()

    def _orthogonal(self, momentum: Tensor) -> Tensor:
        """Every (H, H) block of the vector with its singular values near 1 (Muon).

        Newton-Schulz iteration with the coefficients of Jordan et al. 2024
        (kellerjordan.github.io/posts/muon); scaled to AdamW's usual size of step as in Liu et al.
        2025, arXiv:2502.16982, so that one learning rate serves both.
        """
        H = self.hidden
        counts = [math.prod(shape) // (H * H) for shape in self.matrices]
        parts = momentum.split([n * H * H for n in counts])
        X = torch.cat(
            [_to_blocks(m.view(shape), H) for m, shape in zip(parts, self.matrices, strict=True)]
        )  # (blocks, H, H)
        X = X / (X.norm(dim=(1, 2), keepdim=True) + 1e-7)
        X = X.bfloat16() if X.is_cuda else X
        for _ in range(5):
            A = X @ X.mT
            X = 3.4445 * X + (-4.7750 * A + 2.0315 * (A @ A)) @ X
        X = X.float() * (0.2 * H**0.5)
        blocks = zip(X.split(counts), self.matrices, strict=True)
        return torch.cat([_from_blocks(b, shape).flatten() for b, shape in blocks])

    def averages(self) -> dict[str, Tensor]:
        """The averaged weights under the checkpoint's names, on the CPU: what ships."""
        sizes = [p.numel() for _, p in self.parameters]
        return {
            name: w.view_as(p).cpu().clone()
            for (name, p), w in zip(self.parameters, self.averaged.split(sizes), strict=True)
        }

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs."""
        moments = self.adam.state.get(self.rest, {})
        return {
            "weights": self.weights,
            "averaged": self.averaged,
            "momentum": self.momentum,
            **{f"adam.{key}": value for key, value in moments.items()},
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The state that `state` gave."""
        if state["weights"].shape != self.weights.shape:
            raise DistillError(
                f"{self.name}: the saved run has {state['weights'].numel()} weights, this recipe "
                f"{self.weights.numel()}; resume with the recipe it was begun with"
            )
        for name in ("weights", "averaged", "momentum"):
            getattr(self, name).copy_(state[name])
        moments = {
            key.removeprefix("adam."): value.to(self.weights.device).clone()
            for key, value in state.items()
            if key.startswith("adam.")
        }
        if moments:
            self.adam.state[self.rest] = moments


def _record_beside(weights: Path) -> dict[str, Any]:
    """How a checkpoint was made itself, as far as the record beside it says, and its sha256."""
    path = weights.with_suffix(".training.json")
    record = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    kept = ("seed", "recipe", "run", "curve", "before")
    return {"sha256": file_sha256(weights)} | {key: record[key] for key in kept if key in record}


def _blocks(name: str, shape: torch.Size, hidden: int) -> bool:
    """Whether it is a matrix between hidden states, made of (H, H) blocks."""
    return (
        len(shape) == 2
        and all(n % hidden == 0 for n in shape)
        and not name.startswith(("features", "W_s", "W_out"))
    )


def _to_blocks(matrix: Tensor, H: int) -> Tensor:
    """(a H, b H) -> (a b, H, H)."""
    rows, columns = matrix.shape
    return matrix.view(rows // H, H, columns // H, H).transpose(1, 2).reshape(-1, H, H)


def _from_blocks(blocks: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(a b, H, H) -> (a H, b H)."""
    H = blocks.shape[-1]
    rows, columns = shape
    return blocks.view(rows // H, columns // H, H, H).transpose(1, 2).reshape(shape)


def cut(teacher: Mapping[str, Tensor], student: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The teacher's weights in the student's shapes: layers left out, then channels.

    Of three layers two are the first and the last. The channels kept are those that the teacher's
    output layer reads most; the rows of a feed-forward layer those with the largest outputs. Where
    inputs are left out, the others are scaled up to keep the size of the sum.
    """

    def depth(state: Mapping[str, Tensor], kind: str) -> int:
        return 1 + max(int(n.split(".")[1]) for n in state if n.startswith(kind))

    H, small = teacher["W_e.weight"].shape[0], student["W_e.weight"].shape[0]
    kept = teacher["W_out.weight"].square().sum(0).topk(small).indices.sort().values
    result = {}
    for name, target in student.items():
        source = name
        kind = name.split(".")[0]
        if kind in ("encoder_layers", "decoder_layers"):
            index = int(name.split(".")[1])
            last, last_of_teacher = depth(student, kind) - 1, depth(teacher, kind) - 1
            layer = round(index * last_of_teacher / max(last, 1))
            source = name.replace(f".{index}.", f".{layer}.", 1)
        value = teacher[source]
        if value.shape != target.shape:
            wide = kept
            if ".dense." in name:
                prefix = source.split(".W_")[0]
                size = teacher[f"{prefix}.W_out.weight"].square().sum(0)
                wide = size.topk(4 * small).indices.sort().values
            for axis, (old, new) in enumerate(zip(value.shape, target.shape, strict=True)):
                if old == new:
                    continue
                is_wide = ".dense." in name and old == 4 * H
                index_of = wide if is_wide else _repeated(kept, old // H, H)
                value = value.index_select(axis, index_of.to(value.device))
                if axis == 1:
                    value = value * (old / new) ** 0.5
        result[name] = value.clone()
    return result


def _repeated(kept: Tensor, blocks: int, H: int) -> Tensor:
    """The kept channels of several concatenated inputs of width H."""
    return (torch.arange(blocks, device=kept.device)[:, None] * H + kept).flatten()


# ----------------------------------------------------------------------------- the run


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


@dataclass
class Look:
    """Where a run stands; `report` of `Run.train` gets one at every look.

    Attributes
    ----------
    divergence : student -> from the teacher, on the lessons of the last block, nats per residue
    recovery, held_out : what `Run.validate` found, if there are validation structures
    """

    step: int
    steps: int
    seconds: float
    residues_per_second: float
    divergence: dict[str, float]
    recovery: dict[str, float] = field(default_factory=dict)
    held_out: dict[str, float] = field(default_factory=dict)


class Run:
    """Students, their teacher and a corpus on one device.

    Parameters
    ----------
    recipes : variant name -> recipe
    lessons : what the teacher shows
    corpus : what is learnt from
    validation : what `report` gets teacher-forced recovery on
    device : "cuda" compiles the networks and records a step as one graph; "cpu" is plain
    """

    def __init__(
        self,
        recipes: Mapping[str, Recipe],
        lessons: Lessons,
        corpus: Corpus,
        validation: Corpus | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if not recipes:
            raise DistillError("no student was named")
        self.device = torch.device(device)
        self.lessons = lessons
        for checked in (corpus, validation):
            longest = max(checked.structures, key=lambda s: s.mask.sum()) if checked else None
            if longest is not None and longest.mask.sum() > lessons.nodes:
                raise DistillError(
                    f"{longest.name} of {checked} has {longest.mask.sum()} residues and a step "
                    f"takes {lessons.nodes}; leave it out, or take more residues per step"
                )
        checkpoint = load_checkpoint(lessons.teacher)
        baseline = find_variant("baseline")
        self.teacher = build_network(checkpoint, baseline).to(self.device)
        self.source = corpus
        self.corpus = ResidentCorpus.of(corpus, self.device)
        self.validation = ResidentCorpus.of(validation, self.device) if validation else None
        torch.manual_seed(lessons.seed)
        self.students = [Student(n, r, self.teacher, self.device) for n, r in recipes.items()]
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        compiled = self.device.type == "cuda"
        self.forwards = {
            id(n): torch.compile(forward, dynamic=False, fullgraph=True) if compiled else forward
            for n in (self.teacher, *(s.network for s in self.students))
        }
        # What a recorded step reads and writes besides the students: the plan of a block.
        self.block = 200 if compiled else 10
        N, B = lessons.nodes, self.block
        self.rows = torch.zeros(B, N, dtype=torch.int32, device=self.device)
        self.rates = torch.zeros(len(self.students), B, device=self.device)
        self.losses = torch.zeros(len(self.students), B, device=self.device)
        self.cursor = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.count = torch.zeros((), dtype=torch.int64, device=self.device)
        self.graph: torch.cuda.CUDAGraph | None = None

    # -- one step

    def _forward(
        self, network: MPNN, batch: Batch, graph: Graph, tokens: Tensor, order: Tensor
    ) -> tuple[Tensor, Tensor]:
        b = batch.backbones
        assert graph.valid is not None
        found: tuple[Tensor, Tensor] = self.forwards[id(network)](
            network,
            b.coords,
            b.residue_index,
            b.chain,
            graph.neighbours,
            graph.valid,
            tokens,
            order,
        )
        return found

    def _lesson(self, batch: Batch, graph: Graph) -> Lesson:
        """Draws a context and an order, and asks the teacher; what it draws is kept."""
        luck = torch.rand(self.corpus.structures, 2, device=self.device)[batch.structure]  # (N, 2)
        native = luck[:, 0] < self.lessons.native
        redrawn = ~native & (torch.rand_like(luck[:, 0]) < luck[:, 1])
        tokens = torch.where(redrawn, self.corpus.drawn[batch.rows], batch.native)
        order = torch.rand_like(luck[:, 0])
        # Grad mode is left on: nothing of the teacher needs a gradient, and tiles are for no_grad.
        logits, states = self._forward(self.teacher, batch, graph, tokens, order)
        log_probs = logits.log_softmax(-1)
        gumbel = -torch.empty_like(log_probs[:, :UNKNOWN]).exponential_().log()
        drawn = (log_probs[:, :UNKNOWN] + gumbel).argmax(-1)
        self.corpus.drawn[batch.rows] = torch.where(
            batch.present, drawn, self.corpus.drawn[batch.rows]
        )
        return Lesson(tokens, order, native, log_probs, states)

    def _one_step(self) -> None:
        rows = self.rows.index_select(0, self.cursor)[0].long()
        batch = Batch.of(self.corpus, rows).varied(self.lessons, self.corpus)
        graph = batch.graph(self.teacher.neighbours)
        lesson = self._lesson(batch, graph)
        for i, student in enumerate(self.students):
            student.rate.copy_(self.rates[i].index_select(0, self.cursor)[0])
            said = self._forward(student.network, batch, graph, lesson.tokens, lesson.order)
            loss, divergence = student.loss(batch, *said, lesson)
            loss.backward()
            student.update(self.count)
            self.losses[i].index_copy_(0, self.cursor, divergence[None])
        self.cursor += 1
        self.count += 1

    def _record(self) -> None:
        """A step as one CUDA graph. Warming up changes nothing that lasts."""
        kept = [{k: v.clone() for k, v in s.state().items()} for s in self.students]
        drawn, random = self.corpus.drawn.clone(), torch.cuda.get_rng_state()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.cursor.zero_()
                self._one_step()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._one_step()
        torch.cuda.synchronize()
        with torch.no_grad():
            for student, state in zip(self.students, kept, strict=True):
                now = student.state()
                for name in now:
                    # Moments that did not exist before the first step start at 0.
                    now[name].copy_(state[name]) if name in state else now[name].zero_()
                student.gradient.zero_()
            self.corpus.drawn.copy_(drawn)
        torch.cuda.set_rng_state(random)

    def train(
        self,
        folder: Path,
        minutes: float | None = None,
        report: Callable[[Look], None] = lambda _: None,
        pause: float = 30.0,
    ) -> bool:
        """Go on until the last step, or for so many minutes; True when the last step was done.

        Parameters
        ----------
        folder : where the run is saved, every two minutes and at the end
        minutes : stop and save after this long; a later run resumes
        report : gets a `Look` about every `pause` seconds

        Raises
        ------
        DistillError
            A loss is not finite. What was saved before stays.
        """
        begun = last_look = last_save = time.monotonic()
        looked_at, saved_seconds = self.step, self.seconds
        if self.device.type == "cuda" and self.graph is None and self.step < self.lessons.steps:
            self._plan()
            self._record()
        while self.step < self.lessons.steps:
            self._plan()
            steps = min(self.block, self.lessons.steps - self.step)
            for _ in range(steps):
                self.graph.replay() if self.graph is not None else self._one_step()
            losses = self.losses[:, :steps].cpu()  # waits for the block
            for student, row in zip(self.students, losses, strict=True):
                if not bool(torch.isfinite(row).all()):
                    at = self.step + int((~torch.isfinite(row)).nonzero()[0])
                    raise DistillError(
                        f"{student.name}: the loss of step {at} is not finite. What {folder} holds "
                        "is from before; resume with a smaller learning rate"
                    )
            self.step += steps
            now = time.monotonic()
            self.seconds = saved_seconds + now - begun
            over = minutes is not None and now - begun > 60 * minutes
            done = self.step >= self.lessons.steps
            if now - last_look > pause or over or done:
                rate = (self.step - looked_at) * self.lessons.nodes / max(now - last_look, 1e-9)
                look = Look(
                    self.step,
                    self.lessons.steps,
                    self.seconds,
                    rate,
                    {s.name: float(r.mean()) for s, r in zip(self.students, losses, strict=True)},
                    *(self.validate() if self.validation is not None else ({}, {})),
                )
                self.history.append(asdict(look))
                report(look)
                last_look, looked_at = time.monotonic(), self.step
            if now - last_save > SAVE_SECONDS or over or done:
                self.save(folder)
                last_save = time.monotonic()
            if over:
                break
        return self.step >= self.lessons.steps

    def _plan(self) -> None:
        """The next block: its residues and its learning rates. A block's plan is its own."""
        step, lessons = self.step, self.lessons
        rows = self.corpus.plan(lessons.seed, step, self.block, lessons.nodes)
        self.rows.copy_(torch.from_numpy(rows))
        rates = [
            [learning_rate(s.recipe, step + i, lessons.steps) for i in range(self.block)]
            for s in self.students
        ]
        self.rates.copy_(torch.tensor(rates))
        self.cursor.zero_()
        self.count.fill_(step)

    # -- looking at it

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], dict[str, float]]:
        """On the validation structures, whole and clean, with the averaged weights.

        One random order per structure, the same at every look.

        Returns
        -------
        teacher-forced recovery of teacher and students, and the students' divergence from the
        teacher in nats per residue, both means over structures
        """
        assert self.validation is not None
        corpus = self.validation
        sizes = torch.from_numpy(corpus.sizes)
        generator = torch.Generator().manual_seed(0)
        order = torch.rand(int(sizes.sum()) + 1, generator=generator).to(self.device)
        networks = [("teacher", self.teacher)] + [(s.name, s.network) for s in self.students]
        trained = [s.weights.clone() for s in self.students]
        for student in self.students:
            student.weights.copy_(student.averaged)
        found = {
            name: torch.zeros(len(order), 2, device=self.device)  # native letter?, divergence
            for name, _ in networks
        }
        for rows in _whole_structures(corpus, self.lessons.nodes):
            batch = Batch.of(corpus, torch.from_numpy(rows).to(self.device))
            graph = batch.graph(self.teacher.neighbours)
            taught = None
            for name, network in networks:
                with torch.enable_grad():  # the compiled networks know this mode
                    logits, _ = self._forward(
                        network, batch, graph, batch.native, order[batch.rows]
                    )
                log_probs = logits.log_softmax(-1)
                taught = log_probs if taught is None else taught
                found[name][batch.rows] = torch.stack(
                    [
                        (logits[:, :UNKNOWN].argmax(-1) == batch.native).float(),
                        (taught.exp() * (taught - log_probs)).sum(-1),
                    ],
                    1,
                )
        for student, weights in zip(self.students, trained, strict=True):
            student.weights.copy_(weights)
        means = {
            name: torch.stack([s.mean(0) for s in rows[:-1].cpu().split(sizes.tolist())]).mean(0)
            for name, rows in found.items()
        }
        recovery = {name: float(mean[0]) for name, mean in means.items()}
        divergence = {name: float(mean[1]) for name, mean in means.items() if name != "teacher"}
        return recovery, divergence

    # -- the folder

    def save(self, folder: Path) -> None:
        """Write the run: `NAME.safetensors`, what ships, `NAME.training.json` and `state/`."""
        random = torch.cuda.get_rng_state() if self.device.type == "cuda" else torch.get_rng_state()
        shared = {"random": random, "drawn": self.corpus.drawn.to(torch.uint8)}
        position = {"step": str(self.step), "seconds": str(self.seconds)}
        for student in self.students:
            name = f"{self.lessons.teacher}-{find_variant(student.name).student}"
            checkpoint = Checkpoint(
                name, student.averages(), student.network.neighbours, self.lessons.noise
            )
            record = json.dumps(self._record_of(student), indent=1).encode()
            state = {k: v.contiguous() for k, v in student.state().items()}
            for path, content in (
                (folder / f"{student.name}.safetensors", checkpoint.serialised()),
                (folder / f"{student.name}.training.json", record),
                (
                    folder / "state" / f"{student.name}.safetensors",
                    serialise({**state, **shared}, position),
                ),
            ):
                write_atomically(path, methodcaller("write", content))

    def _record_of(self, student: Student) -> dict[str, Any]:
        """How a student was made: what a model card is written from."""
        return {
            "student": student.name,
            "seed": self.lessons.seed,
            "recipe": {**asdict(self.lessons), **asdict(student.recipe)},
            "corpus": {
                "name": self.source.name,
                "sha256": self.source.sha256,
                "structures": len(self.source),
                "residues": self.source.residues,
                "pdb": sorted(set(self.source.pdb) - {""}),
            },
            "run": {
                "device": device_name(self.device),
                "torch": torch.__version__,
                "students": [s.name for s in self.students],
                "seconds": round(self.seconds, 1),
                "steps": self.step,
                "residues_per_second": round(
                    self.step * self.lessons.nodes / max(self.seconds, 1e-9)
                ),
            },
            "curve": [
                [p["step"], round(p["seconds"], 1), p["divergence"][student.name]]
                for p in self.history
            ],
            "history": self.history,
            **({"before": student.before} if student.before else {}),
        }

    def resume(self, folder: Path) -> None:
        """Go on from what `save` wrote. All students must be at the same step.

        Raises
        ------
        DistillError
            There is nothing saved, or it is of other students, another recipe or another corpus.
        """
        steps = set()
        for student in self.students:
            path = folder / "state" / f"{student.name}.safetensors"
            record_path = folder / f"{student.name}.training.json"
            if not path.is_file() or not record_path.is_file():
                raise DistillError(f"{folder} has no saved run of {student.name!r}")
            record = json.loads(record_path.read_text())
            if record["corpus"]["sha256"] != self.source.sha256:
                raise DistillError(
                    f"{folder} was begun on another corpus than {self.source}: "
                    f"{record['corpus']['structures']} structures, {record['corpus']['residues']} "
                    "residues; resume with that one"
                )
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            student.restore(state)
            steps.add(int(metadata["step"]))
            self.seconds, self.history = float(metadata["seconds"]), record["history"]
        if len(steps) > 1:
            raise DistillError(f"the students of {folder} are at different steps: {sorted(steps)}")
        self.step = steps.pop()
        self.corpus.drawn.copy_(state["drawn"].long())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random"])
        else:
            torch.set_rng_state(state["random"])


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Rate at `step` of `steps`: up, held, down to 0."""
    rising = min(1.0, (step + 1) / recipe.warmup)
    falling = min(1.0, (steps - step) / max(1.0, recipe.fall * steps))
    return recipe.learning_rate * min(rising, falling)


def device_name(device: torch.device) -> str:
    """What a training record calls the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {platform.machine()}, {torch.get_num_threads()} threads"


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
