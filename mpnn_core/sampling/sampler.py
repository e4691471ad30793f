"""Sequences from a network, an encoding and a list of steps.

Randomness is keyed by (seed, sequence, position), never by step, batch or device, so a sequence is
the same whatever is designed beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from mpnn_core.constants import LETTERS
from mpnn_core.sampling.schedule import Step

# The fields of a Distribution that every backend computes.
ALWAYS = frozenset({"temperature", "bias", "omit"})


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

    def of(self, rows: Tensor) -> Profile:
        """That of some rows (n,)."""
        return Profile(self.bias[rows], self.weight[rows], self.factor[rows])


@dataclass(frozen=True, eq=False)
class Distribution:
    """How logits become the probabilities that residues are drawn from.

    Every backend computes the first three fields. Of the others it computes those that its `knows`
    names; where another one is in use, plain torch serves (`backends.plain.serving`). So a subclass
    may add fields of its own, None or a tensor (M, ...) each, and change `probabilities`.

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

    def probabilities(self, logits: Tensor) -> Tensor:
        """(M, 21) -> (M, 21), for every row by itself."""
        temperature = self.temperature[:, None]
        scaled = logits / temperature + self.bias / temperature
        p = scaled.masked_fill(self.omit, -torch.inf).softmax(-1)
        if self.profile is None:
            return p
        p = self.profile.apply(p).masked_fill(self.omit, 0)
        return p / p.sum(-1, keepdim=True)

    @property
    def in_use(self) -> frozenset[str]:
        """Names of the fields beyond temperature, bias and omit that are not None."""
        return frozenset(
            field.name
            for field in fields(self)
            if field.name not in ALWAYS and getattr(self, field.name) is not None
        )

    def of(self, rows: Tensor) -> Distribution:
        """That of some rows (n,), each by itself."""
        of_rows: dict[str, Any] = dict.fromkeys(("group", "weight"))
        for name in ALWAYS | self.in_use.difference(of_rows):
            values = getattr(self, name)
            of_rows[name] = values.of(rows) if isinstance(values, Profile) else values[rows]
        return replace(self, **of_rows)

    def merged(self, rows: Tensor, rank: Tensor) -> tuple[Distribution, Tensor, Tensor, Tensor]:
        """That of groups and single rows, for rows (n,) that hold every group whole.

        Means over the members; a residue that one of them omits is omitted. The temperature, and a
        subclass's field that is no float, are those of the member visited last.

        Returns
        -------
        The distribution of the u residues to draw; of each row the residue it gets (n,); the weight
        of its logits in the mean (n,); and the row visited last for each residue (u,).
        """
        assert self.group is not None and self.weight is not None
        single = self.group.max() + 1 + rows
        keys = torch.where(self.group[rows] >= 0, self.group[rows], single)
        residue, counts = keys.unique(return_inverse=True, return_counts=True)[1:]
        share = counts[residue].to(self.bias.dtype).reciprocal()

        def mean(values: Tensor) -> Tensor:
            scaled = values * share.view(-1, *[1] * (values.ndim - 1))
            return values.new_zeros(len(counts), *values.shape[1:]).index_add_(0, residue, scaled)

        latest = rank.new_zeros(len(counts)).scatter_reduce_(
            0, residue, rank[rows], "amax", include_self=False
        )
        is_last = rank[rows] == latest[residue]
        last = rows[is_last][residue[is_last].argsort()]  # (u,)
        merged: dict[str, Any] = {
            "temperature": self.temperature[last],
            "bias": mean(self.bias[rows]),
            "omit": mean(self.omit[rows].float()) > 0,
            "group": None,
            "weight": None,
        }
        for name in self.in_use.difference(merged):
            values = getattr(self, name)
            if isinstance(values, Profile):
                of_rows = values.of(rows)
                merged[name] = Profile(
                    mean(of_rows.bias), mean(of_rows.weight), mean(of_rows.factor)
                )
            else:
                merged[name] = mean(values[rows]) if values.is_floating_point() else values[last]
        distribution = replace(self, **merged)
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
    """Decodes the rows of one step after the other, and remembers their states for later steps."""

    def decode(self, rows: Tensor) -> Tensor:
        """Logits (n, 21) of rows (n,), from the rows decoded and drawn before them."""

    def place(self, rows: Tensor, tokens: Tensor) -> None:
        """From now on neighbours read the rows (d,), decoded before, with their residues (d,)."""


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
        rows = step.drawn[designed[step.drawn]]  # (d,)
        if distribution.group is None:
            p = distribution.of(rows).probabilities(logits[rows])
            tokens[rows], probabilities[rows] = draw(p, uniform[rows]), p
        elif len(rows):
            merged, residue, weight, last = distribution.merged(rows, rank)
            mean = logits.new_zeros(len(last), LETTERS)
            mean.index_add_(0, residue, logits[rows] * weight[:, None])
            p = merged.probabilities(mean)
            tokens[rows] = draw(p, uniform[last])[residue]
            probabilities[rows] = p[residue]
        levels.place(step.drawn, tokens[step.drawn])
    return Samples(tokens, logits, probabilities)
