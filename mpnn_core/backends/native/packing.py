"""The side-chain packer in C++: `packer.h` computes a step, and the engine's encoder the rest."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpnn_core.backends.contract import UnavailableError
from mpnn_core.backends.native import (
    _array,
    _graph,
    _torch_on,
    _undisturbed_threads,
    engine_module,
)
from mpnn_core.constants import LETTERS
from mpnn_core.network.context import Sets
from mpnn_core.network.graph import Backbones, Graph
from mpnn_core.network.packer import (
    COMPONENTS,
    Mixture,
    Packer,
    first_node_base,
    mixture_of,
)
from mpnn_core.structures.side_chains import ATOM_COUNTS, CHIS

BACKENDS = ("auto", "torch", "native")


@dataclass(frozen=True, eq=False)
class NativeEncoding:
    """What `PackerEncoding` holds, as the engine takes it."""

    graph: dict[str, NDArray[Any] | None]
    around: dict[str, NDArray[Any]]
    states: dict[str, NDArray[np.float32]]


class NativePacker:
    """The methods of `network.packer.Packer`, float32 on the CPU.

    Parameters
    ----------
    network : on the CPU; its weights are copied
    instruction_set : one of `instruction_sets()`; None takes the best

    Raises
    ------
    UnavailableError
        There is no native code that runs here, or the network has a width the kernels do not.
    """

    def __init__(self, network: Packer, instruction_set: str | None = None) -> None:
        self.network = network
        self.hidden = network.W_torsions.in_features
        self.instruction_set, module = engine_module(self.hidden, instruction_set)
        self._engine: Any = module.Engine(_weights(network))

    def computing(self) -> AbstractContextManager[None]:
        """Torch has the calling thread alone, as in `NativeBackend.computing`."""
        return _torch_on(1)

    def encode(
        self,
        backbones: Backbones,
        graph: Graph,
        sets: Sets,
        slots: Tensor,
        tokens: Tensor,
        atoms: Tensor,
    ) -> NativeEncoding:
        """As `Packer.encode`."""
        network = self.network
        (N, K), H = graph.neighbours.shape, self.hidden
        layers = len(network.decoders)
        h_V = np.empty((N, H), np.float32)
        edges = np.empty((layers, N, K, H), np.float32)
        w = network.packer_weights()
        self._engine.encode(
            coords=_array(backbones.coords, np.float32),
            residue_index=_array(backbones.residue_index, np.int64),
            chain=_array(backbones.chain, np.int64),
            frames=None,
            **_graph(graph),
            initial=_array(w.states[tokens], np.float32),
            h_V=h_V,
            edges=edges,
            undecoded=np.empty((layers, N, H), np.float32),
            threads=_undisturbed_threads(),
        )
        self._engine.see(
            coords=_array(backbones.coords, np.float32),
            xyz=_array(sets.xyz, np.float32),
            element=_array(sets.element, np.int64),
            atoms=_array(sets.atoms, np.int64),
            set_of_node=_array(sets.set_of_node, np.int64),
            h_V=h_V,
            threads=_undisturbed_threads(),
        )
        places, filled = np.zeros((*slots.shape, 3), np.float32), slots.numpy() >= 0
        places[filled] = sets.xyz.numpy()[slots.numpy()[filled]]
        around = {
            "counts": np.array(ATOM_COUNTS, np.int64)[tokens.numpy()],
            "around": places,
            "filled": filled.astype(np.uint8),
        }
        own, other = w.own_letter.numpy(), w.other_letter.numpy()
        letters = tokens.numpy()
        edge_base = own[letters][:, None] + other[letters[graph.neighbours.numpy()]]
        node_base = _array(first_node_base(w, sets, slots), np.float32).copy()
        encoding = NativeEncoding(
            _graph(graph),
            around,
            {"h_V": h_V, "edges": edges, "edge_base": edge_base, "node_base": node_base},
        )
        self._engine.place(
            **encoding.graph,
            **around,
            atoms=_array(atoms, np.float32),
            edge_base=edge_base,
            node_base=node_base,
            threads=_undisturbed_threads(),
        )
        return encoding

    def decode(self, encoding: NativeEncoding, atoms: Tensor) -> Mixture:
        """As `Packer.decode`."""
        torsions = np.empty((len(atoms), CHIS * COMPONENTS * 3), np.float32)
        self._engine.step(
            **encoding.graph,
            **encoding.around,
            **encoding.states,
            atoms=_array(atoms, np.float32),
            torsions=torsions,
            threads=_undisturbed_threads(),
        )
        return mixture_of(torch.from_numpy(torsions))


def _weights(network: Packer) -> dict[str, NDArray[np.float32]]:
    """The engine's weights: its names of the encoder's, and constants in biases."""
    w = network.packer_weights()
    weights = dict(network.state_dict())
    f = network.features
    offset = f.enc_edge_embedding.weight[:, : f.positional_embeddings.linear.out_features]
    weights |= {
        "features.embeddings.linear.weight": f.positional_embeddings.linear.weight,
        "features.embeddings.linear.bias": f.positional_embeddings.linear.bias,
        "features.edge_embedding.weight": torch.cat([offset, w.encoder_pairs], 1),
        "features.norm_edges.weight": f.enc_norm_edges.weight,
        "features.norm_edges.bias": f.enc_norm_edges.bias,
        "first_centre": torch.tensor([network.first_centre]),
        # What it has for sequences.
        "W_s.weight": torch.zeros(LETTERS, network.W_c.out_features),
        "W_out.weight": torch.zeros(LETTERS, network.W_c.out_features),
        "W_out.bias": torch.zeros(LETTERS),
        "packer.edge_pairs": w.edge_pairs,
        "packer.node_pairs": w.node_pairs,
        "packer.features": w.features,
    }
    for l, bias in enumerate(w.features_bias):
        name = f"decoder_layers.{l}.W1.bias"
        weights[name] = weights[name] + bias
    folded = network.folded()
    for field in fields(folded):
        weights[f"context.{field.name}"] = getattr(folded, field.name)
    return {name: _array(value, np.float32) for name, value in weights.items()}


def native_packer(network: Packer, backend: str, device: torch.device) -> NativePacker | None:
    """What computes the network in C++; None where plain torch does.

    Raises
    ------
    ValueError
        There is no such backend, or none on the device.
    UnavailableError
        The native code was asked for, and does not run here.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; the packer has {', '.join(BACKENDS)}")
    if backend == "native" and device.type != "cpu":
        raise ValueError(f"backend 'native' computes on the CPU, and the device is {device}")
    if backend == "torch" or device.type != "cpu":
        return None
    try:
        return NativePacker(network)
    except UnavailableError:
        if backend == "native":
            raise
        return None
