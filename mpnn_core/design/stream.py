"""A stream of structures over several devices of one machine: a process for each device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from mpnn_core.design.arguments import (
    Temperature,
    check_count,
    checked_seed,
    checked_temperature,
)
from mpnn_core.design.isolation import isolated, reason
from mpnn_core.design.model import Model, load_model
from mpnn_core.design.results import Designs
from mpnn_core.network.families import PACKAGED
from mpnn_core.runs.workers import Workers, leave_if_worker
from mpnn_core.sampling.constraints import Constraints
from mpnn_core.structures.structure import Structure


@dataclass(frozen=True, eq=False)
class Lost:
    """Takes the place of the designs of a structure that has none, and says why.

    Its worker process died, as when the system kills it for memory; or it cannot be computed, as
    when it does not fit the constraints.
    """

    structure: Structure
    device: str
    reason: str


class _Design(NamedTuple):
    """What every structure is designed with, as in `Model.design`."""

    num_sequences: int
    temperature: Temperature
    seed: int
    constraints: Constraints | None
    common_random_numbers: bool
    details: bool


def design_stream(
    structures: Iterable[Structure],
    devices: Sequence[str],
    num_sequences: int = 1,
    temperature: Temperature = 0.1,
    seed: int | None = 0,
    constraints: Constraints | None = None,
    *,
    weights: str | Path = PACKAGED,
    variant: str = "baseline",
    backend: str = "auto",
    batch_size: int = 64,
    details: bool = False,
    common_random_numbers: bool = False,
    side_chain_context: bool = False,
) -> Iterator[Designs | Lost]:
    """Designs of structures in the order they come, computed on several devices.

    Every structure gets the designs that `Model.design` gives it with the same seed, whatever the
    devices. A structure that cannot be computed comes as `Lost`, and so does one that its worker
    dies of twice, the second time alone; a new worker takes over. Workers end with the process that
    started them, however it ends.

    Each worker is a new Python process that imports the calling script. So a script calls this
    below ``if __name__ == "__main__":``.

    Parameters
    ----------
    structures : read as they are needed, a few batches ahead. If reading one raises an error, it is
        raised here, after the designs of those before
    devices : such as ["cuda:0", "cuda:1"]; a device may be named more than once
    num_sequences, temperature, seed, constraints, common_random_numbers : as in `Model.design`
    weights, variant, backend, side_chain_context : as in `load_model`
    batch_size : structures that a worker takes at a time
    details : whether log-probabilities, probabilities and orders are sent back too. Sending them
        takes longer than computing them

    Raises
    ------
    ValueError, CheckpointError
        An argument is out of range, or the model cannot be loaded.
    RuntimeError
        A worker ends while it starts, as where a script calls this without the line above.
    """
    leave_if_worker()
    if not devices:
        raise ValueError("no device is given; expected at least one, such as ['cuda:0']")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    check_count(num_sequences)
    checked_temperature(temperature)
    design = _Design(
        num_sequences, temperature, checked_seed(seed), constraints, common_random_numbers, details
    )
    model = (str(weights), variant, backend, side_chain_context)
    workers: Workers[Structure, Designs | Lost] = Workers(
        devices, partial(_designing, model, design), _lost, "design_stream"
    )
    return workers.results(iter(structures), batch_size)


def _designing(
    model: tuple[str, str, str, bool], design: _Design, device: str
) -> Callable[[list[Structure]], list[Designs | Lost]]:
    """Load the model on a device, and give what designs a batch there."""
    if not device.startswith("cuda"):
        torch.set_num_threads(1)  # one worker per core is what several on a CPU are for
    weights, variant, backend, side_chain_context = model
    loaded = load_model(weights, variant, device, backend, side_chain_context)
    return partial(_computed, loaded, design, device)


def _lost(structure: Structure, device: str, why: str) -> Lost:
    return Lost(structure, device, why)


def _computed(
    model: Model, design: _Design, device: str, structures: list[Structure]
) -> list[Designs | Lost]:
    """Designs of a batch; a structure that cannot be computed is lost alone."""

    def compute(batch: Sequence[Structure]) -> Iterator[Designs]:
        designs: list[Designs] = model.design(
            batch, design.num_sequences, design.temperature, design.seed, design.constraints,
            common_random_numbers=design.common_random_numbers,
        )  # fmt: skip
        return iter(designs if design.details else [d.without_details() for d in designs])

    return [
        Lost(structure, device, reason(result)) if isinstance(result, Exception) else result
        for structure, result in isolated(compute, structures)
    ]
