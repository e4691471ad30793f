"""S20: how many tensors with an edge axis message passing writes. Counted, not timed."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
import torch
from engine_counts import Operations

import mpnn_core as mpnn
from mpnn_core.peers import original

N, K, H = 64, 48, 128
EDGE_BYTES = N * K * H * 4


def edge_tensors(counted: Operations) -> int:
    """How many tensors of N x K x H float32 numbers or more were written."""
    return sum(size >= EDGE_BYTES for size in counted.written)


@pytest.mark.claim("S20", "unfused")
def test_original_message(judge) -> None:
    """The original's encoder layer, from [h_i, h_ij, h_j] to the sum over neighbours."""
    layer = original.build().encoder_layers[0]
    h_V, h_E = torch.randn(1, N, H), torch.randn(1, N, K, H)
    E_idx = torch.randint(0, N, (1, N, K))
    with torch.inference_mode(), Operations() as message:
        h_EV = original.published.cat_neighbors_nodes(h_V, h_E, E_idx)
        h_EV = torch.cat([h_V.unsqueeze(-2).expand(-1, -1, K, -1), h_EV], -1)
        layer.W3(layer.act(layer.W2(layer.act(layer.W1(h_EV)))))
    judge(edge_tensors(message))


@pytest.mark.claim("S20", "fused")
def test_fused_message(mlx, judge) -> None:
    """MLX's fused kernel: B h_E, made outside of it, is all that has an edge axis."""
    from mpnn_core.backends.mlx import FusedMessage, MLXBackend

    backend = MLXBackend(mpnn.load_model("random").network)
    written = []

    class Kernel:
        """Takes the place of the kernel, and counts its inputs and outputs."""

        def __call__(self, **call: Any) -> list[Any]:
            edges, *others = call["inputs"]
            assert edges.size == N * K * H and all(x.size < N * K * H for x in others)
            graph = io.StringIO()
            mlx.export_to_dot(graph, edges)
            made = re.findall(r'label ="(\w+)"', graph.getvalue())
            operations = [name for name in made if name not in ("Flatten", "Unflatten")]
            outputs = [shape for shape in call["output_shapes"] if np.prod(shape) >= N * K * H]
            written.append(len(operations) + len(outputs))
            return [mlx.zeros(shape) for shape in call["output_shapes"]]

    fused = FusedMessage.__new__(FusedMessage)
    fused.kernel = Kernel()
    layer = backend.encoder[0]
    h_E, h_V = mlx.random.normal((N, K, H)), mlx.random.normal((N, H))
    rows, valid = mlx.zeros((N, K), dtype=mlx.int32), mlx.ones((N, K), dtype=mlx.uint8)
    mlx.eval(h_E)
    fused(layer.B(h_E), layer.A(h_V), layer.C(h_V), rows, mlx.arange(N), valid, layer)
    judge(written[0], note="MLX's Metal kernel, as it is called")


def test_our_message_writes_fewer_edge_tensors_than_the_original() -> None:
    layer = mpnn.load_model("random").network.encoder_layers[0]
    h_E, gathered = torch.randn(N, K, H), torch.randn(N, K, H)
    B = torch.randn(H, H)
    with torch.inference_mode(), Operations() as message:
        layer.aggregate(torch.nn.functional.linear(h_E, B) + gathered, None)
    # B h_E, + A h_i + C h_j, GELU, W2, GELU: the sum over neighbours has no edge axis.
    assert edge_tensors(message) == 5
