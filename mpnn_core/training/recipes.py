"""How students are trained, as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar


class DistillError(ValueError):
    """A run that cannot start or go on: what was expected, and what to do."""


@dataclass(frozen=True)
class Lessons:
    """What the teacher shows, the same for all students of a run.

    Attributes
    ----------
    teacher : published checkpoint, or path
    steps : length of the run; learning rates fall to 0 at its end
    nodes : residues per step, whole structures
    noise : backbone noise, Å; a structure's standard deviation is uniform between 0 and this
    native : share of structures whose context is the native sequence
    divide : share of structures that are divided into two or three chains at random residues
    crop : share of structures of which only what lies on one side of a random plane is kept
    deform : strain of the smooth waves that bend a structure, a ratio; its standard deviation is
        uniform between 0 and this
    seed : of noise, orders, contexts and the order of structures
    """

    teacher: str = "v_48_020"
    steps: int = 60_000
    nodes: int = 4096
    noise: float = 0.2
    native: float = 0.5
    divide: float = 0.4
    crop: float = 0.4
    deform: float = 0.06
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """How one student learns.

    Attributes
    ----------
    start : "teacher" takes the teacher's first and last layers, cut to the student's width;
        "random" is what the original starts from; or a checkpoint of the student's shape, by path
    learning_rate, warmup, fall : reached after `warmup` steps, held, then linear to 0 over the
        last share `fall` of the steps
    orthogonal : matrices between hidden states learn by orthogonalised momentum (Muon), by AdamW
        like everything else if not
    weight_decay : of AdamW and of Muon
    native_weight : weight of the cross-entropy to the native residue
    match : weight of the distance of the nodes' states to the teacher's after every layer, for
        students of its depths and width
    average : decay of the moving average of weights, which is what ships
    """

    start: str = "teacher"
    learning_rate: float = 1e-2
    warmup: int = 500
    fall: float = 0.5
    orthogonal: bool = True
    weight_decay: float = 0.01
    native_weight: float = 0.2
    match: float = 0.0
    average: float = 0.999


Settings = TypeVar("Settings", Lessons, Recipe)
RECIPES: dict[str, Recipe] = {
    "fast": Recipe(learning_rate=5e-4, match=0.3),
    "lean": Recipe(learning_rate=2e-3),
    "minimal": Recipe(learning_rate=1e-2),
    "minimal-fast": Recipe(learning_rate=1e-2),
    "extreme-v2": Recipe(learning_rate=1e-2),
}


def recipe_for(student: str) -> Recipe:
    """The recipe of a student by its variant's name; DistillError lists those there are."""
    if student not in RECIPES:
        raise DistillError(f"no student is called {student!r}; there are {', '.join(RECIPES)}")
    return RECIPES[student]


def with_values(settings: Settings, values: Mapping[str, str]) -> Settings:
    """`settings` with those of `values` that it has, read from text.

    Raises
    ------
    DistillError
        A text that is no value of its setting.
    """
    changed: dict[str, Any] = {}
    for name, default in asdict(settings).items():
        if name in values:
            kind = type(default)
            try:
                changed[name] = (
                    json.loads(values[name].lower()) if kind is bool else kind(values[name])
                )
            except ValueError:
                raise DistillError(
                    f"{name} is {values[name]!r}; expected a {kind.__name__}, such as {default}"
                ) from None
    return replace(settings, **changed)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Rate at `step` of `steps`: up, held, down to 0."""
    rising = min(1.0, (step + 1) / recipe.warmup)
    falling = min(1.0, (steps - step) / max(1.0, recipe.fall * steps))
    return recipe.learning_rate * min(rising, falling)
