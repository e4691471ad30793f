"""Structures in, batches out: what is computed together, where, and in how much memory."""

from __future__ import annotations

import torch

# Work is cut to keep the large tensors under about this size each, with the same results.
MEMORY_BUDGET_BYTES = 1 << 30


def _memory_budget(device: torch.device) -> int:
    """Bytes that the large tensors may take: of a GPU, which is good at large ones, an eighth."""
    if device.type != "cuda":
        return MEMORY_BUDGET_BYTES
    total: int = torch.cuda.get_device_properties(device).total_memory
    return max(MEMORY_BUDGET_BYTES, total // 8)


def _is_half_free(device: torch.device) -> bool:
    total: int = torch.cuda.get_device_properties(device).total_memory
    return torch.cuda.memory_allocated(device) < total // 2
