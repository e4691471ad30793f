"""Devices by name."""

from __future__ import annotations

import torch


def find_device(device: str | torch.device) -> torch.device:
    """The device of that name; ValueError where nothing can be computed on it here."""
    try:
        place = torch.device(device)
        torch.zeros(1, device=place).item()  # "meta" has tensors, and no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {str(device)!r} cannot be used here: {reason}") from error
    return place
