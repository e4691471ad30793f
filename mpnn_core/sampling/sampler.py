"""Sequences from a network, an encoding and a list of steps.

Randomness is keyed by (seed, sequence, position), never by step, batch or device, so a sequence is
the same whatever is designed beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mpnn_core.constants import LETTERS
from mpnn_core.sampling.schedule import Step


@dataclass(frozen=True, eq=False)
class Profile:
    """What a position-specific scoring matrix makes of probabilities p, as in the original.

    p <- (1 - weight) p + weight bias, and then p <- p factor.

    Attributes
    ----------
    bias : (M, 21) float, probabilities
    weight : (M,) float, 0 to 1
    factor : (M, 21) float, not negative
    """

    bias: Tensor
    weight: Tensor
    factor: Tensor

    def apply(self, probabilities: Tensor) -> Tensor:
        """(M, 21) -> (M, 21), not normalised."""
        weight = self.weight[:, None]
        return ((1 - weight) * probabilities + weight * self.bias) * self.factor


@dataclass(frozen=True, eq=False)
class Distribution:
    """How logits become the probabilities that residues are drawn from.

    Attributes
    ----------
    temperature : (M,) float, positive
    bias : (M, 21) float, added to the logits before the temperature divides them
    omit : (M, 21) bool, residues never drawn
    profile : changes the probabilities, before what is omitted is left out
    group : (M,) int64, rows of equal number are tied and get one residue, -1 for none; None if no
        row is tied
    weight : (M,) float, by which the logits of a tied row count in its group's mean
    """

    temperature: Tensor
    bias: Tensor
    omit: Tensor
    profile: Profile | None = None
    group: Tensor | None = None
    weight: Tensor | None = None

    @property
    def in_use(self) -> frozenset[str]:
        return frozenset(
            n
            for n, v in vars(self).items()
            if v is not None and n not in ("temperature", "bias", "omit")
        )

    def probabilities(self, logits: Tensor) -> Tensor:
        """(M, 21) -> (M, 21), for every row by itself."""
        temperature = self.temperature[:, None]
        scaled = logits / temperature + self.bias / temperature
        p = scaled.masked_fill(self.omit, -torch.inf).softmax(-1)
        if self.profile is None:
            return p
        p = self.profile.apply(p).masked_fill(self.omit, 0)
        return p / p.sum(-1, keepdim=True)

    def of(self, rows: Tensor) -> Distribution:
        """That of some rows (n,), each by itself."""
        p = self.profile
        return Distribution(
            self.temperature[rows],
            self.bias[rows],
            self.omit[rows],
            p and Profile(p.bias[rows], p.weight[rows], p.factor[rows]),
        )

    def merged(self, rows: Tensor, rank: Tensor) -> tuple[Distribution, Tensor, Tensor, Tensor]:
        """That of groups and single rows, for rows (n,) that hold every group whole.

        Means over the members; what one of them omits, none may be; the temperature is that of the
        member visited last.

        Returns
        -------
        The distribution of the u residues to draw; of each row the residue it gets (n,); the weight
        of its logits in the mean (n,); and the row visited last for each residue (u,).
        """
        assert self.group is not None and self.weight is not None
        single = self.group.max() + 1 + rows
        keys = torch.where(self.group[rows] >= 0, self.group[rows], single)
        residue, counts = keys.unique(return_inverse=True, return_counts=True)[1:]
        share = 1 / counts[residue]

        def mean(values: Tensor) -> Tensor:
            scaled = values * share.view(-1, *[1] * (values.ndim - 1))
            return values.new_zeros(len(counts), *values.shape[1:]).index_add_(0, residue, scaled)

        latest = rank.new_zeros(len(counts)).scatter_reduce_(
            0, residue, rank[rows], "amax", include_self=False
        )
        is_last = rank[rows] == latest[residue]
        last = rows[is_last][residue[is_last].argsort()]  # (u,)
        p = self.profile
        distribution = Distribution(
            self.temperature[last],
            mean(self.bias[rows]),
            mean(self.omit[rows].float()) > 0,
            p and Profile(mean(p.bias[rows]), mean(p.weight[rows]), mean(p.factor[rows])),
        )
        return distribution, residue, self.weight[rows] * share, last


@dataclass(frozen=True, eq=False)
class Samples:
    """tokens (M,) int64; logits (M, 21); probabilities (M, 21), what was drawn from."""

    tokens: Tensor
    logits: Tensor
    probabilities: Tensor


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Invert the cumulative distribution: (n, 21), (n,) in [0, 1) -> (n,) int64.

    In the precision of `uniform`: in float64 rounding moves a boundary by 1e-16. No residue of
    probability 0 is drawn in any.
    """
    cumulative = probabilities.to(uniform.dtype).cumsum(-1)  # (n, 21)
    total = cumulative[:, -1:]
    drawn = (cumulative <= uniform[:, None] * total).sum(-1)
    last_possible = (cumulative < total).sum(-1)
    return torch.minimum(drawn, last_possible)


class Levels(Protocol):
    """What decodes the rows of one step, and remembers their states for later steps."""

    def decode(self, rows: Tensor) -> Tensor:
        """Logits (n, 21) of rows (n,), from the rows decoded and drawn before them."""

    def draw(self, rows: Tensor, tokens: Tensor) -> None:
        """From now on rows (d,), decoded before, are read with their residues (d,)."""


def sample(
    levels: Levels,
    rank: Tensor,
    steps: Iterable[Step],
    distribution: Distribution,
    uniform: Tensor,
    tokens: Tensor,
    designed: Tensor,
) -> Samples:
    """Decode `steps`, one after the other.

    Parameters
    ----------
    rank : (M,) int64, when each row is decoded within its sequence
    steps : no row of a step may be a neighbour, decoded earlier, of another row of the same step
    uniform : (M,) float, the random number of each row, in the precision of the draw
    tokens : (M,) int64, the residues of rows that are not designed
    designed : (M,) bool
    """
    tokens = tokens.clone()
    logits = distribution.bias.new_empty(len(tokens), LETTERS)
    probabilities = torch.zeros_like(logits)
    for step in steps:
        logits[step.rows] = levels.decode(step.rows)
        chosen = step.drawn[designed[step.drawn]]  # (d,)
        if distribution.group is None:
            p = distribution.of(chosen).probabilities(logits[chosen])
            tokens[chosen], probabilities[chosen] = draw(p, uniform[chosen]), p
        elif len(chosen):
            merged, residue, weight, last = distribution.merged(chosen, rank)
            mean = logits.new_zeros(len(last), LETTERS)
            mean.index_add_(0, residue, logits[chosen] * weight[:, None])
            p = merged.probabilities(mean)
            tokens[chosen] = draw(p, uniform[last])[residue]
            probabilities[chosen] = p[residue]
        levels.draw(step.drawn, tokens[step.drawn])
    return Samples(tokens, logits, probabilities)
