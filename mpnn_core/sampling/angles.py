"""Mixtures of von Mises distributions: density, and samples from counted random numbers.

A von Mises distribution is the normal distribution's kin on a circle: its density at an angle x is
exp(k cos(x - m)) / (2 pi I0(k)), of mean m and concentration k. All is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

ROUNDS = 4
"""Proposals that are tried with one draw of random numbers: 99 of 100 angles are among them."""


def log_density(mean: Tensor, concentration: Tensor, logits: Tensor, angles: Tensor) -> Tensor:
    """Log-density of angles (..., N, 4) under mixtures (N, 4, C), per radian."""
    k = concentration.double()
    cosine = torch.cos(angles.double()[..., None] - mean.double())
    # I0 e^-k does not overflow, and neither does k (cos - 1).
    each = k * (cosine - 1) - torch.log(2 * math.pi * torch.special.i0e(k))
    return torch.logsumexp(torch.log_softmax(logits.double(), -1) + each, -1)


def draw_angles(
    mean: Tensor,
    concentration: Tensor,
    logits: Tensor,
    samples: int,
    numbers: Callable[[int, int], Tensor],
) -> Tensor:
    """Angles from mixtures: (samples, N, 4) radians, -pi to pi.

    The component is the inverse of the weights' sum at a uniform number; of it, an angle is drawn
    by the rejection of Best and Fisher (Applied Statistics 28, 152, 1979), which is exact. Each
    position has its own numbers, so it gets the same angle whatever is drawn beside it.

    Parameters
    ----------
    mean, concentration, logits : (N, 4, C)
    numbers : of a count of draws so far and a width w, (N, w) uniform numbers in [0, 1), float64
    """
    N, chis, _ = mean.shape
    width = 1 + 2 * ROUNDS  # of a draw: a component, and proposals; later draws are of the few left
    shape = (samples, N, chis)

    def uniforms(drawn: int) -> Tensor:
        found = numbers(drawn, samples * chis * width).view(N, samples, chis, width)
        return found.transpose(0, 1).flatten(0, 2)  # (S N 4, w)

    u = uniforms(0)
    sums = torch.softmax(logits.double(), -1).cumsum(-1)  # (N, 4, C)
    component = (u[:, :1].view(*shape, 1) >= sums[..., :-1]).sum(-1, keepdim=True)
    k, centre = (
        of.double().expand(*shape, -1).gather(-1, component).flatten()
        for of in (concentration, mean)
    )
    tau = 1 + torch.sqrt(1 + 4 * k * k)
    rho = (tau - torch.sqrt(2 * tau)) / (2 * k)
    r = (1 + rho * rho) / (2 * rho)
    angle = torch.empty_like(k)
    left = torch.arange(len(k), device=k.device)
    drawn = 0
    while True:
        for i in range(ROUNDS):
            turn, second = u[left, 1 + 2 * i], u[left, 2 + 2 * i]
            z, around = torch.cos(2 * math.pi * turn), r[left]
            f = (1 + around * z) / (around + z)
            c = k[left] * (around - f)
            accepted = (c * (2 - c) > second) | (torch.log(c / second) + 1 - c >= 0)
            angle[left] = torch.acos(f.clamp(-1, 1)).copysign(0.5 - turn)  # of the last proposal
            left = left[~accepted]
        if not len(left):
            turned = torch.remainder(angle + centre + math.pi, 2 * math.pi) - math.pi
            return turned.view(shape)
        drawn += 1
        u = uniforms(drawn)
