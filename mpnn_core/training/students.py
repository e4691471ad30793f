"""Students: smaller networks, their initial weights, their loss and their optimisers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpnn_core.constants import UNKNOWN
from mpnn_core.network.architectures import random_network
from mpnn_core.network.checkpoints import build_network, file_sha256, load_checkpoint, weights_file
from mpnn_core.network.families import CheckpointError
from mpnn_core.network.graph import Backbones, Graph
from mpnn_core.network.mpnn import MPNN
from mpnn_core.network.variants import find_variant
from mpnn_core.structures.files import read_bounded
from mpnn_core.training.lessons import Lesson, Minibatch
from mpnn_core.training.recipes import DistillError, Recipe

LARGEST_RECORD_BYTES = 64 * 2**20
GRADIENT_NORM = 1.0  # larger gradients are scaled down to it


def logits_and_states(
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
    """The distance of states from the teacher's, a scalar: 0 if equal, 1 for the teacher's mean.

    In each layer the squared distance over the variance of the teacher's states; then the mean over
    layers. `states` and `taught` are (layers, N, H); only the nodes `present` (N,) count.
    """
    counted = present[:, None].float()
    mean = (taught * counted).sum((1, 2), keepdim=True) / (counted.sum() * taught.shape[-1])
    variance = ((taught - mean).square() * counted).sum((1, 2))  # (layers,), times the count
    return (((states - taught).square() * counted).sum((1, 2)) / variance).mean()


class Student:
    """A network in training: its weights in one vector, their moments and their moving average.

    All parameters are views of `weights`, and all gradients of `gradient`, so that optimisers,
    average and checkpoint handle one tensor.
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
            self.network.load_state_dict(
                initial_weights(teacher.state_dict(), self.network.state_dict())
            )
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
        self.rate = torch.zeros((), dtype=torch.float32, device=device)
        self.adam = torch.optim.AdamW(
            [self.rest],
            lr=self.rate,
            betas=(0.9, 0.98),
            weight_decay=recipe.weight_decay,
            fused=True,
            capturable=device.type == "cuda",
        )

    def loss(
        self, minibatch: Minibatch, logits: Tensor, states: Tensor, lesson: Lesson
    ) -> tuple[Tensor, Tensor]:
        """The loss, and its part that is the KL divergence from the teacher; nats per residue."""
        log_probs = logits.log_softmax(-1)
        known = minibatch.present.sum()
        divergence = F.kl_div(log_probs, lesson.log_probs, reduction="none", log_target=True)
        kl = (divergence.sum(-1) * minibatch.present).sum() / known
        graded = minibatch.present & lesson.native & (minibatch.native != UNKNOWN)
        nll = -log_probs.gather(-1, minibatch.native[:, None])[:, 0]
        loss = kl + self.recipe.native_weight * (nll * graded).sum() / known
        if self.recipe.match:
            loss = loss + self.recipe.match * apart(states, lesson.states, minibatch.present)
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
        # The average forgets faster in the first steps, so that the initial weights do not last.
        decay = ((1 + step) / (10 + step)).clamp(max=self.recipe.average)
        self.averaged.lerp_(self.weights, 1 - decay)
        self.gradient.zero_()

    def _orthogonal(self, momentum: Tensor) -> Tensor:
        """The momentum with the singular values of every (H, H) block brought near 1 (Muon).

        Newton-Schulz iteration with the coefficients of Jordan et al. 2024
        (kellerjordan.github.io/posts/muon), scaled to the usual step of AdamW as in Liu et al. 2025
        (arXiv:2502.16982), so that both optimisers have one learning rate.
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
        """The averaged weights, under the names of the checkpoint and on the CPU: the result."""
        sizes = [p.numel() for _, p in self.parameters]
        return {
            name: w.view_as(p).cpu().clone()
            for (name, p), w in zip(self.parameters, self.averaged.split(sizes), strict=True)
        }

    def state(self) -> dict[str, Tensor]:
        """The tensors that a resumed run needs."""
        moments = self.adam.state.get(self.rest, {})
        return {
            "weights": self.weights,
            "averaged": self.averaged,
            "momentum": self.momentum,
            **{f"adam.{key}": value for key, value in moments.items()},
        }

    def is_finite(self) -> bool:
        """Whether all weights and their averages are finite."""
        return bool(torch.isfinite(self.weights).all() & torch.isfinite(self.averaged).all())

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to what `state` returned.

        Raises
        ------
        DistillError
            A tensor is missing, or has another shape than in this recipe.
        """
        rest = self.rest.shape
        expected = {
            "weights": self.weights.shape,
            "averaged": self.averaged.shape,
            "momentum": self.momentum.shape,
            "adam.step": torch.Size(()),
            "adam.exp_avg": rest,
            "adam.exp_avg_sq": rest,
        }
        shapes = {name: value.shape for name, value in state.items()}
        if shapes != expected:
            raise DistillError(
                f"{self.name}: the saved run has tensors of the shapes "
                f"{ {name: tuple(shape) for name, shape in shapes.items()} }, this recipe "
                f"{ {name: tuple(shape) for name, shape in expected.items()} }; resume with the "
                "recipe it was begun with"
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
    """The sha256 of a checkpoint, and how it was trained if a record lies beside it."""
    path = weights.with_suffix(".training.json")
    try:
        record = json.loads(read_bounded(path, LARGEST_RECORD_BYTES)) if path.is_file() else {}
        if not isinstance(record, dict):
            raise ValueError(f"it holds a {type(record).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise DistillError(
            f"{path} is not the record of {weights}: {error}; mend it, or move it away"
        ) from None
    kept = ("seed", "recipe", "run", "curve", "before")
    return {"sha256": file_sha256(weights)} | {key: record[key] for key in kept if key in record}


def _blocks(name: str, shape: torch.Size, hidden: int) -> bool:
    """Whether a parameter is a matrix between hidden states, made of (H, H) blocks."""
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


def initial_weights(
    teacher: Mapping[str, Tensor], student: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The teacher's weights in the student's shapes: some layers, and some channels of them.

    A student of two layers takes the first and the last of three. It takes the channels with the
    largest weights in the teacher's output layer, and the rows of a feed-forward layer with the
    largest weights after it. If inputs are left out, the weights of the others are scaled up, so
    that their sum keeps its size.
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
