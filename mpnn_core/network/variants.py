"""The network's variants, as data: the published model, and smaller and sparser ones.

A variant has trained weights where `weights/<name>.safetensors` is in the package, with
`weights/<name>.json` beside it, the measurements of `mpnn-core eval`. Weights whose loss has not
been measured so are not loaded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

WEIGHTS = Path(__file__).parents[1] / "weights"
# The set whose loss a variant quotes: it chose no recipe, nor the moment when a training stopped.
QUOTED = "TS50"


@dataclass(frozen=True)
class Variant:
    """One shape of the network, and how it is meant to be run.

    Attributes
    ----------
    hidden, encoder_layers, decoder_layers, neighbours
        Width, depths, and k of the k-NN graph.
    batch : structures or copies per call in the study's benchmark
    student : name of the trained weights, where they may be in the package; "" for the published
        model, which needs none
    untrained : what the published weights are in this shape. "exact": the original's
        log-probabilities within 1e-4. "lossy": they fit, and lose accuracy. "unknown": they do not
        fit, so that without weights of its own it runs on random ones, for its speed only.
    untrained_loss : what the published weights lose where they are lossy, as measured
    """

    name: str
    hidden: int = 128
    encoder_layers: int = 3
    decoder_layers: int = 3
    neighbours: int = 48
    batch: int = 1
    student: str = ""
    untrained: Literal["exact", "lossy", "unknown"] = "unknown"
    untrained_loss: str = ""

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """What was measured of its trained weights (`mpnn-core eval`); None if it has none."""
        path = WEIGHTS / f"{self.student}.json"
        if not self.student or not path.is_file():
            return None
        evaluation: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return evaluation

    @property
    def accuracy(self) -> Literal["exact", "lossy", "unknown"]:
        """What `load_model` gives for the published weights v_48_020."""
        return self.untrained if self.evaluation is None else "lossy"

    @property
    def loss(self) -> str:
        """What it loses, as measured, with an interval; "" where nothing is or nobody knows."""
        evaluation = self.evaluation
        if evaluation is None:
            return self.untrained_loss
        of_set = evaluation["sets"][QUOTED]
        loss = of_set["metrics"]["recovery"]["loss_of_another_sample"]
        return (
            f"{loss['value']:.1f} [{loss['low']:.1f}, {loss['high']:.1f}] points of teacher-forced "
            f"recovery on {QUOTED}, {of_set['chains']} chains"
        )


_small = partial(Variant, hidden=64, encoder_layers=2, decoder_layers=2)

VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("baseline", untrained="exact"),
        Variant(
            "fast",
            neighbours=16,
            student="fast",
            untrained="lossy",
            untrained_loss="9.0 [7.6, 10.4] points of teacher-forced recovery on TS50",
        ),
        Variant("lean", encoder_layers=2, decoder_layers=2, neighbours=32, student="lean"),
        _small("minimal", student="minimal"),
        _small("minimal-fast", neighbours=16, student="minimal-fast"),
        _small("extreme-v2", neighbours=12, batch=8, student="extreme-v2"),
        _small("minimal-batched", batch=8, student="minimal"),
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
