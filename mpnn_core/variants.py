"""The network's variants, as data: the published model, and smaller and sparser ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal


@dataclass(frozen=True)
class Variant:
    """One shape of the network, and how it is meant to be run.

    Attributes
    ----------
    hidden, encoder_layers, decoder_layers, neighbours
        Width, depths, and k of the k-NN graph.
    batch : structures or copies per call in the study's benchmark
    accuracy
        "exact": the original's log-probabilities within 1e-4. "lossy": runs on the pretrained
        weights and loses accuracy, measured by the gates. "unknown": nobody has trained weights
        of this shape, so it runs on random ones, for its speed only.
    loss : what a lossy variant loses, as measured
    """

    name: str
    hidden: int = 128
    encoder_layers: int = 3
    decoder_layers: int = 3
    neighbours: int = 48
    batch: int = 1
    accuracy: Literal["exact", "lossy", "unknown"] = "unknown"
    loss: str = ""


_small = partial(Variant, hidden=64, encoder_layers=2, decoder_layers=2)

VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("baseline", accuracy="exact"),
        Variant(
            "fast",
            neighbours=16,
            accuracy="lossy",
            loss="9.0 [7.6, 10.4] points of teacher-forced recovery on TS50",
        ),
        _small("minimal"),
        _small("minimal-fast", neighbours=16),
        _small("extreme-v2", neighbours=12, batch=8),
        _small("minimal-batched", batch=8),
    )
}


def find_variant(name: str) -> Variant:
    """The variant called `name`; ValueError lists those there are."""
    try:
        return VARIANTS[name]
    except KeyError:
        raise ValueError(
            f"no variant is called {name!r}; there are {', '.join(VARIANTS)}"
        ) from None
