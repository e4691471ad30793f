"""The layers that networks are made of: float32 on the CPU, whatever torch's defaults are."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

Linear = partial(nn.Linear, dtype=torch.float32, device="cpu")
LayerNorm = partial(nn.LayerNorm, dtype=torch.float32, device="cpu")
Embedding = partial(nn.Embedding, dtype=torch.float32, device="cpu")
