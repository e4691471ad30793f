"""From a checkpoint to a network: which class, of which shape."""

from __future__ import annotations

import torch

from mpnn_core.network.checkpoints import Checkpoint
from mpnn_core.network.families import CheckpointError
from mpnn_core.network.mpnn import MPNN
from mpnn_core.network.variants import Variant


def build_network(checkpoint: Checkpoint, variant: Variant) -> MPNN:
    """The network of `variant` with the weights of `checkpoint`, on the CPU, in float32.

    Raises
    ------
    CheckpointError
        The weights have other shapes than the variant; the message names the first that differ.
    """
    network = MPNN(
        variant.hidden, variant.encoder_layers, variant.decoder_layers, variant.neighbours
    )
    expected = {name: tuple(p.shape) for name, p in network.state_dict().items()}
    found = {name: tuple(p.shape) for name, p in checkpoint.state.items()}
    problems = [f"{name} is missing" for name in expected.keys() - found.keys()]
    problems += [f"{name} is not part of it" for name in found.keys() - expected.keys()]
    problems += [
        f"{name} has shape {found[name]} where {expected[name]} is expected"
        for name in expected.keys() & found.keys()
        if expected[name] != found[name]
    ]
    if problems:
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r} does not fit variant {variant.name!r} (hidden "
            f"{variant.hidden}, {variant.encoder_layers}+{variant.decoder_layers} layers): "
            f"{'; '.join(sorted(problems)[:3])}"
            + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        )
    broken = [name for name, p in checkpoint.state.items() if not bool(torch.isfinite(p).all())]
    if broken:
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r} holds values that are not finite in {broken[0]}"
        )
    network.load_state_dict(checkpoint.state, strict=True)
    return network.eval().requires_grad_(False)


def random_network(variant: Variant, seed: int = 0) -> MPNN:
    """`variant` with random weights, Xavier-uniform matrices as the original initialises them.

    For measurements of speed, and for showing what random weights are worth: nothing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MPNN(
            variant.hidden, variant.encoder_layers, variant.decoder_layers, variant.neighbours
        )
        for parameter in network.parameters():
            if parameter.dim() > 1:
                torch.nn.init.xavier_uniform_(parameter)
    return network.eval().requires_grad_(False)
