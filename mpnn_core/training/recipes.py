"""How students are trained, and how a model is evaluated: settings as data, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar


class DistillError(ValueError):
    """A run or a setting that cannot be used; the message says what was expected."""


def bounded(default: float, least: float, most: float) -> Any:
    """A field of `Settings`: a number from `least` to `most`."""
    return field(default=default, metadata={"bounds": (least, most)})


@dataclass(frozen=True)
class Settings:
    """Settings whose numbers are finite and within the bounds of their fields.

    Raises
    ------
    DistillError
        A value is of another type than its default, or out of bounds.
    """

    def __post_init__(self) -> None:
        for of in fields(self):
            value, kind = getattr(self, of.name), type(of.default)
            right = isinstance(value, int | float if kind is float else kind)
            if not right or (isinstance(value, bool) and kind is not bool):
                raise DistillError(f"{of.name} is {value!r}; expected a {kind.__name__}")
            least, most = of.metadata.get("bounds", (None, None))
            if least is not None and not least <= value <= most:  # NaN is not
                raise DistillError(f"{of.name} is {value}; expected {least:g} to {most:g}")


def bounds(settings: type[Settings], name: str) -> tuple[float, float]:
    """The least and the most that a number may be."""
    (found,) = (of.metadata["bounds"] for of in fields(settings) if of.name == name)
    return found


@dataclass(frozen=True)
class Lessons(Settings):
    """The training examples, which are the same for all students of a run.

    Attributes
    ----------
    teacher : published checkpoint, or path
    steps : length of the run; learning rates fall to 0 at its end
    nodes : residues per step, in whole structures
    noise : largest backbone noise, Å; the standard deviation in a structure is uniform between 0
        and this
    native : share of structures whose residues see the native sequence around them
    divide : share of structures that are divided into two or three chains at random residues
    crop : share of structures that are cut by a random plane, and kept on one side of it
    deform : largest strain of the smooth waves that bend a structure, a ratio; the standard
        deviation in a structure is uniform between 0 and this
    seed : of the noise, the decoding orders, the sequences and the order of structures
    """

    teacher: str = "v_48_020"
    steps: int = bounded(60_000, 1, 10**9)
    nodes: int = bounded(4096, 1, 10**6)
    noise: float = bounded(0.2, 0, 10)
    native: float = bounded(0.5, 0, 1)
    divide: float = bounded(0.4, 0, 1)
    crop: float = bounded(0.4, 0, 1)
    deform: float = bounded(0.06, 0, 1)
    seed: int = bounded(0, 0, 2**63 - 1)


@dataclass(frozen=True)
class Recipe(Settings):
    """How one student learns.

    Attributes
    ----------
    start : initial weights: "teacher", the teacher's first and last layers, reduced to the
        student's width; "random", as in the training of the original; or the path of a checkpoint
        of the student's shape
    learning_rate, warmup, fall : the rate rises for `warmup` steps, is held, and falls linearly to
        0 over the last share `fall` of the steps
    orthogonal : whether matrices between hidden states are trained by orthogonalised momentum
        (Muon); everything else is trained by AdamW
    weight_decay : of AdamW and of Muon
    native_weight : weight of the cross-entropy to the native residue in the loss
    match : weight in the loss of the distance of the nodes' states from the teacher's, after every
        layer; for students of the teacher's width and number of layers
    average : decay of the moving average of the weights; the averaged weights are what is saved
    """

    start: str = "teacher"
    learning_rate: float = bounded(1e-2, 0, 10)
    warmup: int = bounded(500, 0, 10**9)
    fall: float = bounded(0.5, 0, 1)
    orthogonal: bool = True
    weight_decay: float = bounded(0.01, 0, 10)
    native_weight: float = bounded(0.2, 0, 1000)
    match: float = bounded(0.0, 0, 1000)
    average: float = bounded(0.999, 0, 1)


@dataclass(frozen=True)
class EvaluationSettings(Settings):
    """How a model is evaluated (evaluate.py).

    Attributes
    ----------
    num_orders : random decoding orders per structure for teacher-forced metrics
    num_sequences : designs per structure
    temperature : of the designs
    seed : of orders and designs, which are the same for every model
    """

    num_orders: int = bounded(4, 1, 10_000)
    num_sequences: int = bounded(4, 1, 10_000)
    temperature: float = bounded(0.1, 0, 1e6)
    seed: int = bounded(0, 0, 2**63 - 1)


_BOOLS = {"true": True, "false": False}
TrainingSettings = TypeVar("TrainingSettings", Lessons, Recipe)

RECIPES: dict[str, Recipe] = {
    "fast": Recipe(learning_rate=5e-4, match=0.3),
    "lean": Recipe(learning_rate=2e-3),
    "minimal": Recipe(learning_rate=1e-2),
    "minimal-fast": Recipe(learning_rate=1e-2),
    "extreme-v2": Recipe(learning_rate=1e-2),
}


def recipe_for(student: str) -> Recipe:
    """The recipe of the student of a variant; DistillError if there is none, with a list."""
    if student not in RECIPES:
        raise DistillError(f"no student is called {student!r}; there are {', '.join(RECIPES)}")
    return RECIPES[student]


def with_values(settings: TrainingSettings, values: Mapping[str, str]) -> TrainingSettings:
    """`settings` with the fields that `values` names, each read from its text.

    Raises
    ------
    DistillError
        A text is not of the type of its field, or the value is out of the field's bounds.
    """
    changed: dict[str, Any] = {}
    for name, default in asdict(settings).items():
        if name in values:
            kind = type(default)
            try:
                changed[name] = _BOOLS[values[name].lower()] if kind is bool else kind(values[name])
            except (ValueError, KeyError):
                raise DistillError(
                    f"{name} is {values[name]!r}; expected a {kind.__name__}, such as {default}"
                ) from None
    return replace(settings, **changed)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate at `step` of `steps`: it rises, is held, and falls to 0."""
    rising = min(1.0, (step + 1) / max(1, recipe.warmup))
    falling = min(1.0, (steps - step) / max(1.0, recipe.fall * steps))
    return recipe.learning_rate * min(rising, falling)
